#![doc = include_str!("../README.md")]

mod batch;
mod error;
mod input;
mod journal;
mod progress;
mod queue;
mod report;
mod results;
mod run;
mod stop;
mod worker;

pub use batch::{Batch, default_workers};
pub use error::BatchError;
pub use input::{Item, Template, read_items};
pub use progress::Progress;
pub use report::{FailedTask, KeySummary, Summary};
pub use stop::Stop;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, and ignores poison: no code here leaves data half changed between two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
