//! The figures of a batch that has ended.

use core::time::Duration;
use leasehold_core::pool::stats::Stats;
use leasehold_http::ClientStats;

/// Counts and figures of a batch that has ended.
///
/// `tasks` is the sum of `earlier`, `ok`, `failed` and `unfinished`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Summary {
    /// Number of tasks: items times models.
    pub tasks: usize,
    /// Tasks answered by an earlier run.
    pub earlier: usize,
    /// Tasks answered by this run.
    pub ok: usize,
    /// Tasks that failed for good.
    pub failed: usize,
    /// Tasks not done because the batch was stopped.
    pub unfinished: usize,
    /// Duration of the calls, without reading and writing files.
    pub elapsed: Duration,
    /// Reasons why the batch, or all tasks of a model, stopped early.
    pub stopped: Vec<String>,
    /// The first task that failed.
    pub first_failure: Option<FailedTask>,
    /// Figures of each key, in the order of the endpoints.
    pub keys: Vec<KeySummary>,
    /// Figures of the pool.
    pub pool: Stats,
    /// Figures of the HTTP client.
    pub client: ClientStats,
}

/// A task that failed for good.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FailedTask {
    /// The item's id, as JSON.
    pub item: String,
    /// The model.
    pub model: String,
    /// The error of the last attempt.
    pub reason: String,
}

/// Figures of one key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeySummary {
    /// The key, masked.
    pub key: String,
    /// Number of calls made with it.
    pub calls: u64,
    /// Whether the service rejected the key.
    pub rejected: bool,
}
