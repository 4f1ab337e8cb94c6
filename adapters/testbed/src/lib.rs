#![doc = include_str!("../README.md")]

extern crate alloc;

mod clock;
mod judge;
mod limit;
mod openai;
mod report;
mod server;
mod text;

pub use limit::{Limit, LimitError, LimitUnit};
pub use openai::{
    BytesFault, Call, CallStatus, Control, DisguiseFault, Fault, FaultGroup, FaultRule,
    FaultRuleError, FramingFault, KeyFault, ModelRule, Occurrence, OpenAi, OpenAiConfig, Outage,
    OutageError, OverloadFault, RateLimitFault, Recording, RequestFault, ShapeFault, StartError,
    StreamFault, TransportFault, UnknownFault,
};
pub use report::{KeyReport, LimitReport, Report};
