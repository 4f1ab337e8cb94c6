//! Where the leases of a run come from: the pool of this process, or one of a gateway.
//!
//! Invariant: workers treat both alike. Whatever differs is behind [`Source`].

use crate::error::BatchError;
use crate::queue::Task;
use crate::report::KeySummary;
use core::time::Duration;
use leasehold_core::limit::Cost;
use leasehold_core::pool::stats::Stats;
use leasehold_core::time::Tick;
use leasehold_protocol::Endpoint;
use leasehold_protocol::verdict::{Next, Outcome as Judged, Verdict};
use leasehold_sync::{Lease, Outcome, Release};

/// Longest wait of a task for a member that has not failed it; after that, any will do.
pub(crate) const OTHER_MEMBER_WAIT: Duration = Duration::from_secs(60);

/// A source of leases, with what its members are known to serve.
pub(crate) trait Source: Sync {
    /// What a leased member stands for.
    type Member;

    /// The tick of now, on the clock of the run.
    fn now(&self) -> Tick;

    /// Waits for a member that can serve a task; for a task that members have failed, first for another.
    fn lease(&self, task: &Task, cost: Cost) -> Result<Granted<Self::Member>, NoLease>;

    /// Learns from a call, and ends its lease.
    fn conclude(&self, lease: Lease<Self::Member>, called: Called<'_>) -> Step;

    /// Whether a member may be left that has not failed a task, which its latest member just has.
    fn has_untried(&self, task: &Task) -> bool;

    /// The most tokens that a call of a model may reserve; `None` where no limit counts tokens.
    fn token_cap(&self, model: usize) -> Option<u32>;

    /// Writes the charges of leases that were granted or ended since, if they are kept here.
    fn write_charges(&self) -> Result<(), BatchError>;

    /// Whether no member can serve the model any more.
    fn is_unserved(&self, model: usize) -> bool;

    /// Whether no further call can succeed.
    fn is_over(&self) -> bool;

    /// The error that rejected the last remaining key.
    fn last_key_error(&self) -> Option<String>;

    /// Returns why no call can be made now, and the tick of the next try; `None` if one may be.
    fn pause(&self, now: Tick) -> Option<(String, Tick)>;

    /// Ends the run if nothing has answered for too long.
    fn give_up(&self, now: Tick);

    /// The time until the last of the tasks of each model ends, if calls are as planned; `None` if it is not known.
    fn outlook(&self, left: &[usize], plan: CallPlan) -> Option<Duration>;

    /// The keys as they are now.
    fn keys_now(&self) -> Vec<KeyState>;

    /// Returns what ends all waits for leases, from any thread.
    fn closer(&self) -> Box<dyn Fn() + Send + 'static>;

    /// Sums up the run.
    fn report(&self) -> SourceReport;
}

/// A lease with the endpoint to call.
pub(crate) struct Granted<M> {
    pub(crate) lease: Lease<M>,
    /// The endpoint's number in the source.
    pub(crate) upstream: usize,
    pub(crate) endpoint: Endpoint,
}

/// What the calls that are left are expected to be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallPlan {
    /// Calls at once.
    pub(crate) workers: usize,
    /// Calls that have begun, of the tasks that are left.
    pub(crate) in_flight: usize,
    pub(crate) time: Duration,
    /// Tokens of a call.
    pub(crate) tokens: u32,
}

/// A key while the run goes on.
#[derive(Clone, Debug)]
pub(crate) struct KeyState {
    /// The key, masked.
    pub(crate) key: String,
    pub(crate) calls: u64,
    pub(crate) in_flight: u32,
    pub(crate) is_free: bool,
    /// Why it can or can't serve.
    pub(crate) state: String,
    /// The tick from which it can.
    pub(crate) opens: Option<Tick>,
    /// The end of a rest that the service has asked for.
    pub(crate) rests_until: Option<Tick>,
}

/// Why a task has no lease.
#[derive(Debug)]
pub(crate) enum NoLease {
    /// The request costs more than a limit ever admits; says so.
    NeverFits(String),
    /// Something changed while the task waited: it is to be taken again.
    Again,
    /// No lease is granted any more.
    Closed,
    /// The charge of the lease can't be written.
    Unwritten(BatchError),
}

/// What a call tells, with the tick at which it began.
pub(crate) struct Called<'v> {
    pub(crate) began: Tick,
    pub(crate) model: usize,
    pub(crate) upstream: usize,
    pub(crate) verdict: &'v Verdict,
    pub(crate) text: &'v str,
    pub(crate) release: Release,
}

/// What the task is to do after a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) next: Next,
    /// Whether the service answered another call since this one began.
    pub(crate) is_up: bool,
    /// Whether the member rests, so that the task need not wait.
    pub(crate) rests: bool,
}

/// The figures of a source at the end of a run.
pub(crate) struct SourceReport {
    /// Reasons why the run, or a model, stopped early.
    pub(crate) stopped: Vec<String>,
    pub(crate) keys: Vec<KeySummary>,
    pub(crate) pool: Stats,
}

/// Returns the outcome to release a lease with, where its member does not rest.
pub(crate) fn outcome_of(verdict: &Verdict) -> Outcome {
    match verdict.outcome {
        Judged::Ok => Outcome::Ok,
        // A rest is told by other means; without one this is a failure like others.
        Judged::Failed | Judged::Throttled => Outcome::Failed,
        Judged::Unknown => Outcome::Unknown,
        Judged::NotSent => Outcome::NotSent,
    }
}
