//! The figures of a batch that has ended.

use core::time::Duration;
use leasehold_core::pool::stats::{Histogram, Stats, balance_score, variance};
use leasehold_http::ClientStats;
use leasehold_plan::Tokens;
use leasehold_protocol::verdict::{Outcome, Verdict};

/// Counts and figures of a batch that has ended.
///
/// `tasks` is the sum of `earlier`, `ok`, `failed` and `unfinished`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Summary {
    /// Answers and reviews that were asked for, in this run or before.
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
    /// Tokens of all answers that told them.
    pub tokens: Tokens,
    /// What they cost, if the batch has [prices](crate::Batch::prices).
    pub cost: Option<f64>,
    /// Tasks that were tried again, once for each.
    pub retries: u64,
    /// Waits for leases.
    pub waits: Waits,
    /// Reviews that were left out, because the answers to review are not there.
    pub left_out: usize,
    /// Failed tasks by their cause, the most frequent first.
    pub causes: Vec<(String, u64)>,
    /// Figures of the pool, in which calls of earlier runs count too where their state is kept.
    pub pool: Stats,
    /// Figures of the HTTP client.
    pub client: ClientStats,
}

impl Summary {
    /// The population variance of the calls of the keys; 0 when each had the same number.
    #[must_use]
    pub fn variance(&self) -> f64 {
        variance(self.keys.iter().map(|key| key.calls))
    }

    /// The fewest calls of a key over the most, from 0 to 1; 1 where there were none.
    #[must_use]
    pub fn balance_score(&self) -> f64 {
        balance_score(self.keys.iter().map(|key| key.calls))
    }
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
    /// Calls that were answered.
    pub ok: u64,
    /// Calls that the service refused for a limit.
    pub throttled: u64,
    /// The times of the calls that were answered.
    pub latency: Histogram,
    /// Whether the service rejected the key.
    pub rejected: bool,
}

impl KeySummary {
    pub(crate) fn new(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            calls: 0,
            ok: 0,
            throttled: 0,
            latency: Histogram::new(),
            rejected: false,
        }
    }

    /// Calls that failed for another reason than a limit.
    #[must_use]
    pub const fn failed(&self) -> u64 {
        let answered = self.ok.saturating_add(self.throttled);
        self.calls.saturating_sub(answered)
    }

    /// Counts a call.
    pub(crate) fn count(&mut self, verdict: &Verdict, took: Duration) {
        self.calls = self.calls.saturating_add(1);
        match verdict.outcome {
            Outcome::Ok => {
                self.ok = self.ok.saturating_add(1);
                self.latency.record(took);
            }
            Outcome::Throttled => self.throttled = self.throttled.saturating_add(1),
            Outcome::Failed | Outcome::Unknown | Outcome::NotSent => {}
        }
    }
}

/// The leases of a run, by what became of the requests for them.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Waits {
    /// Leases that were granted at once.
    pub at_once: u64,
    /// Leases that were granted later.
    pub after_waiting: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// The times from request to lease.
    pub times: Histogram,
}
