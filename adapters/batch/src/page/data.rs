//! The figures that a report page shows: plain numbers and texts.

use crate::report::{FailedTask, Waits};
use crate::timeline::Timeline;
use core::time::Duration;
use leasehold_page::DurationFigures;
use leasehold_plan::Tokens;

/// Everything that the page of a run shows.
#[derive(Clone, Debug, Default)]
pub(crate) struct PageReport {
    /// When the run ended, such as `Sun, 01 Mar 2026 14:02:00 GMT`.
    pub(crate) date: String,
    /// Version of the command, such as `0.1.0`.
    pub(crate) version: String,
    /// Name of the input.
    pub(crate) input: String,
    /// Name of the output.
    pub(crate) output: String,
    /// The models, in the order asked for.
    pub(crate) models: Vec<String>,
    /// The limits as written, such as `3/60s`; `None` where the run had none.
    pub(crate) limits: Option<String>,
    /// Reasons why the batch, or all tasks of a model, stopped early.
    pub(crate) stopped: Vec<String>,
    /// Tasks by how they ended.
    pub(crate) tasks: TaskCounts,
    /// Duration of the calls, without reading and writing files.
    pub(crate) elapsed: Duration,
    /// Calls sent, retries included.
    pub(crate) attempts: u64,
    /// Calls sent for a task that had been tried before.
    pub(crate) retries: u64,
    /// Tokens as reported by the services; `None` where they report none.
    pub(crate) tokens: Option<Tokens>,
    /// Cost of the tokens, in the currency of the prices; `None` without prices.
    pub(crate) cost: Option<f64>,
    /// The keys, in the order of the endpoints.
    pub(crate) keys: Vec<KeyFigures>,
    /// Times from a request for a lease to its grant.
    pub(crate) waits: DurationFigures,
    /// Times from a call to the end of its answer.
    pub(crate) latencies: DurationFigures,
    /// Requests for a lease by what became of them.
    pub(crate) leases: Waits,
    /// HTTP clients opened and used again.
    pub(crate) clients: ClientFigures,
    /// Calls over time.
    pub(crate) timeline: Timeline,
    /// Calls that the limits admit in a second on average; `None` where that is unknown or unlimited.
    pub(crate) admitted: Option<f64>,
    /// Failed tasks by cause, most frequent first.
    pub(crate) causes: Vec<(String, u64)>,
    /// The first tasks that failed; the page shows 20.
    pub(crate) first_failures: Vec<FailedTask>,
}

/// Tasks by how they ended; `total` is the sum of the others.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TaskCounts {
    /// Items times models.
    pub(crate) total: u64,
    /// Answered by an earlier run.
    pub(crate) earlier: u64,
    /// Answered by this run.
    pub(crate) ok: u64,
    /// Failed for good.
    pub(crate) failed: u64,
    /// Not done because the batch was stopped.
    pub(crate) unfinished: u64,
}

/// Figures of one key.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyFigures {
    /// The key, masked, such as `…0001`.
    pub(crate) name: String,
    /// Calls sent with it.
    pub(crate) calls: u64,
    /// Calls that were answered.
    pub(crate) ok: u64,
    /// Calls that failed.
    pub(crate) failed: u64,
    /// Calls that the service throttled.
    pub(crate) throttled: u64,
    /// Whether the service rejected the key.
    pub(crate) rejected: bool,
    /// Latencies of its calls; `None` without calls.
    pub(crate) latency: Option<LatencyFigures>,
}

/// Latencies of one key.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LatencyFigures {
    /// The shortest.
    pub(crate) min: Duration,
    /// The arithmetic mean.
    pub(crate) mean: Duration,
    /// The 95th percentile.
    pub(crate) p95: Duration,
    /// The longest.
    pub(crate) max: Duration,
}

/// HTTP clients of a run; each is the connection pool of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClientFigures {
    /// Clients opened.
    pub(crate) created: u64,
    /// Calls that used an open client.
    pub(crate) reused: u64,
}
