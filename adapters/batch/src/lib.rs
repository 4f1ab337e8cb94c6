#![doc = include_str!("../README.md")]

mod account;
mod answer;
mod batch;
mod bits;
mod charges;
mod clock;
mod columns;
mod compaction;
mod earlier;
mod error;
mod figures;
mod halt;
mod in_use;
mod input;
mod item_results;
mod items;
mod job_log;
mod journal;
mod lines;
mod load;
mod local;
mod members;
mod objects;
mod origin;
mod outline;
mod page;
mod progress;
mod queue;
mod recorder;
mod remote;
mod remote_members;
mod report;
mod request;
mod rests;
mod result_head;
mod results;
mod run;
mod run_report;
mod shard;
mod source;
mod state_folder;
mod status;
mod stop;
mod tail;
mod tasks;
mod timeline;
mod warmup;
mod watch;
mod worker;
mod worker_count;

pub use batch::{Batch, OnChange, Reviews, Upstream, default_workers};
pub use error::BatchError;
pub use halt::{Halt, ParseHaltError};
pub use input::{Input, Template, is_standard};
pub use items::Items;
pub use leasehold_plan::{ParsePricesError, Prices, Tokens};
pub use outline::DryRun;
pub use progress::Progress;
pub use report::{FailedTask, KeySummary, Summary, Waits};
pub use request::{BodyTemplate, RequestSettings};
pub use shard::{ParseShardError, Shard};
pub use status::StatusRequest;
pub use stop::Stop;
pub use worker_count::WorkerCount;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, and ignores poison: no code here leaves data half changed between two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
