//! Batches of model calls: every item put to every model, over one pool of rate-limited keys.
//!
//! Invariant: every task ends as answered, failed or interrupted, and an answer that has come is on
//! disk before the next is asked for. A batch that was killed goes on where it stopped.

mod error;
mod input;
mod progress;
mod queue;
mod run;
mod store;

pub use error::BatchError;
pub use input::{Item, Template, read_items};
pub use progress::Progress;
pub use run::{Batch, KeySummary, Stop, Summary, default_workers};
