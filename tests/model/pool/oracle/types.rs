//! The members, leases and waiters of the oracle, and what it answers.

use super::super::case::{Ask, MemberSetup, Own};
use super::super::owner::{Owner, Uses};
use leasehold_core::balance::PeakEwma;
use leasehold_core::health::{
    Breaker, BreakerState, OutcomeWindow, Permit, ProbeNumber, Prober, SlowStart,
};
use leasehold_core::limit::Cost;
use leasehold_core::pool::{AcquireError, Eligibility, HealthChange, MemberId};
use leasehold_core::time::Tick;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pool) enum State {
    Enabled,
    Disabled,
    Draining,
    Removing,
    Gone,
}

#[derive(Clone, Debug)]
pub(in crate::pool) struct OracleMember {
    /// The machine's id, which orders members by slot.
    pub(in crate::pool) id: MemberId,
    pub(in crate::pool) setup: MemberSetup,
    pub(in crate::pool) weight: u16,
    pub(in crate::pool) owner: Owner,
    pub(in crate::pool) state: State,
    pub(in crate::pool) in_flight: u32,
    pub(in crate::pool) pass: u64,
    pub(in crate::pool) stamp: u64,
    pub(in crate::pool) cooldown_until: u64,
    pub(in crate::pool) calls: u64,
    pub(in crate::pool) breaker: Breaker,
    pub(in crate::pool) health: Option<Prober>,
    pub(in crate::pool) probe: Option<ProbeNumber>,
    /// The probe begun last.
    pub(in crate::pool) latest_probe: Option<ProbeNumber>,
    pub(in crate::pool) outcomes: OutcomeWindow,
    pub(in crate::pool) slow_start: SlowStart,
    pub(in crate::pool) depth: Option<u32>,
    pub(in crate::pool) granted_since_depth: u32,
    pub(in crate::pool) granted_since_probe: u32,
    pub(in crate::pool) latency: Option<PeakEwma>,
    pub(in crate::pool) service: BTreeMap<u32, u64>,
    /// The tick at which its first live lease became the first.
    pub(in crate::pool) began: u64,
    pub(in crate::pool) told: BreakerState,
    pub(in crate::pool) own_breaker: Own,
    pub(in crate::pool) own_probes: Own,
    /// The seed of its probes.
    pub(in crate::pool) seed: u64,
    /// The end of an ejection, until that has been handled.
    pub(in crate::pool) ejected_until: Option<Tick>,
    /// Whether its limits are still the first ones.
    pub(in crate::pool) judged: bool,
}

#[derive(Clone, Debug)]
pub(in crate::pool) struct OracleLease {
    pub(in crate::pool) number: usize,
    pub(in crate::pool) member: usize,
    pub(in crate::pool) granted: u64,
    pub(in crate::pool) class: u32,
    pub(in crate::pool) cost: Cost,
    pub(in crate::pool) stride: u64,
    pub(in crate::pool) own: Uses,
    pub(in crate::pool) group: Option<(usize, Uses)>,
    pub(in crate::pool) shared: Uses,
    pub(in crate::pool) arrived: bool,
    pub(in crate::pool) flow: u64,
    pub(in crate::pool) flow_uses: Option<Uses>,
    pub(in crate::pool) permit: Option<Permit>,
    pub(in crate::pool) ttl: Option<u64>,
    pub(in crate::pool) expires: Option<(u64, u64)>,
    /// The time that it was expected to take at its grant.
    pub(in crate::pool) expected: Option<u64>,
    pub(in crate::pool) live: bool,
    /// Whether it has a holder; after a restart it has none.
    pub(in crate::pool) held: bool,
}

#[derive(Clone, Copy, Debug)]
pub(in crate::pool) struct OracleWaiter {
    pub(in crate::pool) since: u64,
    pub(in crate::pool) ask: Ask,
    pub(in crate::pool) kind: Kind,
    pub(in crate::pool) deadline: Option<u64>,
    pub(in crate::pool) waiting: bool,
    /// The tick from which it waits for no faster member.
    pub(in crate::pool) postponed_until: Option<u64>,
}

/// A class with a set of labels, or a pinned member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::pool) struct Kind {
    pub(in crate::pool) class: u32,
    pub(in crate::pool) labels: u64,
    pub(in crate::pool) pin: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pool) struct OracleGrant {
    pub(in crate::pool) lease: usize,
    pub(in crate::pool) member: usize,
    pub(in crate::pool) waited: u64,
    pub(in crate::pool) expires: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pool) enum OracleEvent {
    Granted(usize, OracleGrant),
    TimedOut(usize),
    Closed(usize),
    PinnedMemberRemoved(usize),
    Expired(usize),
    Drained(usize),
    Removed(usize),
    Probe(usize),
    Changed(usize, HealthChange),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pool) enum Answer {
    Granted(OracleGrant),
    Waiting(usize),
    Refused(Refusal),
}

/// An [`AcquireError`] without its cause, of which several may be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pool) enum Refusal {
    Closed,
    QueueFull,
    FlowQueueFull,
    ForeignLabels,
    NotReady,
    DeadlineTooSoon(Tick),
    NeverFits,
    PinnedMemberRemoved,
    TooManyLanes,
}

impl From<AcquireError> for Refusal {
    fn from(error: AcquireError) -> Self {
        match error {
            AcquireError::Closed => Self::Closed,
            AcquireError::QueueFull { .. } => Self::QueueFull,
            AcquireError::FlowQueueFull { .. } => Self::FlowQueueFull,
            AcquireError::ForeignLabels => Self::ForeignLabels,
            AcquireError::NotReady { .. } => Self::NotReady,
            AcquireError::DeadlineTooSoon { at, .. } => Self::DeadlineTooSoon(at),
            AcquireError::NeverFits => Self::NeverFits,
            AcquireError::PinnedMemberRemoved => Self::PinnedMemberRemoved,
            AcquireError::TooManyLanes => Self::TooManyLanes,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::pool) struct Tally {
    pub(in crate::pool) granted: u64,
    pub(in crate::pool) released: u64,
    pub(in crate::pool) expired: u64,
    pub(in crate::pool) refused: u64,
    pub(in crate::pool) timed_out: u64,
    pub(in crate::pool) cancelled: u64,
    pub(in crate::pool) waited: u64,
}

#[derive(Clone, Copy, Debug)]
pub(in crate::pool) struct FastFailure {
    pub(in crate::pool) member: usize,
    pub(in crate::pool) granted: u64,
    pub(in crate::pool) class: u32,
    /// The time that a success of its class took then, or took first.
    pub(in crate::pool) usual: Option<u64>,
}

impl FastFailure {
    pub(in crate::pool) fn end(&self) -> Option<u64> {
        Some(self.granted.saturating_add(self.usual?))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pool) enum Opening {
    Now,
    At(u64),
    AnyTime,
    Unknown,
}

pub(in crate::pool) fn opening_of(reason: Eligibility) -> Opening {
    match reason {
        Eligibility::Ready | Eligibility::LowerTier | Eligibility::BehindOthers => Opening::Now,
        Eligibility::Ejected { until }
        | Eligibility::BreakerOpen { until }
        | Eligibility::Throttled { until }
        | Eligibility::AtLimit { until } => Opening::At(until.as_nanos()),
        Eligibility::Full
        | Eligibility::BreakerHalfOpen
        | Eligibility::AwaitingCompletion
        | Eligibility::Unhealthy => Opening::AnyTime,
        Eligibility::WrongLabels
        | Eligibility::NotPinned
        | Eligibility::Removed
        | Eligibility::Disabled
        | Eligibility::Draining
        | Eligibility::FlowAtLimit { .. }
        | Eligibility::NeverFits => Opening::Unknown,
    }
}

pub(in crate::pool) fn observe(service: &mut BTreeMap<u32, u64>, class: u32, took: u64) {
    service
        .entry(class)
        .and_modify(|mean| *mean = *mean - *mean / 8 + took / 8)
        .or_insert(took);
}
