#![doc = include_str!("../README.md")]

extern crate alloc;

mod clock;
mod judge;
mod openai;
mod report;
mod server;

pub use openai::{Fault, FaultKind, OpenAi, OpenAiConfig, StartError};
pub use report::{KeyReport, Report};
