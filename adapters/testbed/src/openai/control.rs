//! The handle that a test steers a running server with.

use super::call::{Call, Recording};
use super::fault::{Fault, FaultRule};
use super::state::Upstream;
use crate::report::Report;
use alloc::sync::Arc;
use core::time::Duration;

/// A handle to a running server; clones steer the same one.
///
/// A change applies to calls that arrive later. After a stop the counts remain.
#[derive(Clone, Debug)]
pub struct Control {
    pub(super) upstream: Arc<Upstream>,
}

impl Control {
    /// Returns the counts so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.upstream.report()
    }

    /// Lets every call fail from now on, until [`end_outage`](Self::end_outage).
    ///
    /// A call that `fault` makes no sense for gets status 503. Calls still count against their limits. One over a limit is counted as rejected, but gets `fault` too.
    pub fn begin_outage(&self, fault: Fault) {
        self.upstream.change(|state| state.outage = Some(fault));
    }

    /// Ends an outage that was begun by hand; planned ones go on.
    pub fn end_outage(&self) {
        self.upstream.change(|state| state.outage = None);
    }

    /// Replaces the rules of the faults; their counts begin anew, the draws go on.
    pub fn set_faults(&self, rules: Vec<FaultRule>) {
        self.upstream.change(|state| state.dice.set_rules(rules));
    }

    /// Gives these faults to the next valid calls, one each, before all rules.
    ///
    /// A fault that makes no sense for its call, such as a cut stream for a call without one, is used up without effect.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        let faults: Vec<_> = faults.into_iter().collect();
        self.upstream.change(|state| state.script.extend(faults));
    }

    /// Sets which parts of later calls are kept.
    pub fn record(&self, recording: Recording) {
        self.upstream
            .change(|state| state.log.set_recording(recording));
    }

    /// Returns the recorded calls in the order of their arrival: the first 100,000.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.upstream.read(|state| state.log.calls())
    }

    /// Forgets the recorded calls.
    pub fn clear_calls(&self) {
        self.upstream.change(|state| state.log.clear());
    }

    /// Number of connections that are open.
    #[must_use]
    pub fn open_connections(&self) -> u64 {
        self.upstream.read(|state| state.connections_open)
    }

    /// Number of calls in flight, over all keys.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.upstream.read(|state| state.judge.counts().in_flight)
    }

    /// Waits until `condition` holds, for at most `limit`, and returns whether it does.
    ///
    /// It is checked whenever something changes: an arrival, an end, a connection, a setting.
    pub fn wait(&self, limit: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        self.upstream.wait(limit, || condition(self))
    }
}
