//! The reasons why a member can't serve, and the consequences of each.
//!
//! Invariant: every reason has one row in [`Eligibility::row`], and nothing else decides by reasons.

use crate::balance::Availability;
use crate::time::Tick;
use core::fmt;

/// Whether a member can serve a request now, and if not, why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eligibility {
    /// It can.
    Ready,
    /// It can, but so can a member of a lower tier.
    LowerTier,
    /// It can, but requests ahead in the lane are served first.
    BehindOthers,
    /// It lacks a label that the request needs.
    WrongLabels,
    /// The request is pinned to another member.
    NotPinned,
    /// It was removed, and leases on it are still held.
    Removed,
    /// An operator has disabled it.
    Disabled,
    /// It is draining, or has no weight.
    Draining,
    /// Its probes fail.
    Unhealthy,
    /// It failed more often than the other members.
    Ejected {
        /// The tick at which it may serve again.
        until: Tick,
    },
    /// Its breaker is open.
    BreakerOpen {
        /// The tick at which the breaker lets a call through.
        until: Tick,
    },
    /// Its breaker is half-open, and no probe place is free.
    BreakerHalfOpen,
    /// It holds its maximum of leases.
    Full,
    /// Its upstream has turned a call away.
    Throttled {
        /// The tick at which the upstream will serve again.
        until: Tick,
    },
    /// It is at a limit: its own, its group's or the pool's.
    AtLimit {
        /// The tick at which the request fits.
        until: Tick,
    },
    /// It is at a limit until a call in flight completes.
    AwaitingCompletion,
    /// The request's flow is at a limit of its own.
    FlowAtLimit {
        /// The tick at which the request fits; `None` where that is when a call of the flow completes.
        until: Option<Tick>,
    },
    /// The request costs more than its limits ever admit.
    NeverFits,
}

impl fmt::Display for Eligibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::LowerTier => "ready, but a member of a lower tier is as well",
            Self::BehindOthers => "ready, but requests ahead are served first",
            Self::WrongLabels => "lacks a label that the request needs",
            Self::NotPinned => "not the member that the request is restricted to",
            Self::Removed => "removed",
            Self::Disabled => "disabled",
            Self::Draining => "draining, or without weight",
            Self::Unhealthy => "its probes fail",
            Self::Ejected { .. } => "ejected for failing more often than the others",
            Self::BreakerOpen { .. } => "its breaker is open",
            Self::BreakerHalfOpen => "its breaker is half-open and probing",
            Self::Full => "holds its maximum of leases",
            Self::Throttled { .. } => "its upstream has turned a call away",
            Self::AtLimit { .. } => "at a limit",
            Self::AwaitingCompletion => "at a limit until a call completes",
            Self::FlowAtLimit { .. } => "the caller is at its own limit",
            Self::NeverFits => "the request costs more than its limits admit",
        })
    }
}

/// The dominant cause of a refusal: the reason of the member that can serve soonest.
///
/// A member that may serve at any time, when a lease ends, comes first; then the one with the earliest known
/// tick; then members that may recover; then the others. Where costs differ, or groups share limits, the
/// member with the earliest tick may be taken although a lease on another may end sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A limit, of the member, its group or the pool, is used up.
    AtLimit {
        /// The tick at which the request fits.
        until: Tick,
    },
    /// A limit is used up until a call in flight completes.
    AwaitingCompletion,
    /// A limit of the request's own flow is used up.
    FlowAtLimit {
        /// The tick at which the request fits; `None` where that is when a call of the flow completes.
        until: Option<Tick>,
    },
    /// The members hold their maximum of leases.
    Full,
    /// The upstream has turned a call away.
    Throttled {
        /// The tick at which it will serve again.
        until: Tick,
    },
    /// The member was ejected for failing more often than the others.
    Ejected {
        /// The tick at which it may serve again.
        until: Tick,
    },
    /// The breaker is open.
    BreakerOpen {
        /// The tick at which it lets a call through.
        until: Tick,
    },
    /// The breaker is half-open, and no probe place is free.
    BreakerHalfOpen,
    /// Probes of the members fail.
    Unhealthy,
    /// The members are disabled, draining or without weight.
    Disabled,
    /// The request costs more than the limits ever admit.
    NeverFits,
    /// No member has the labels that the request needs.
    NoMember,
    /// Requests ahead are served first; or a member was ready only at the deadline itself; or the pool has four billion
    /// leases.
    BehindOthers,
}

impl Cause {
    /// The tick at which the cause ends, where it is known.
    #[must_use]
    pub const fn until(self) -> Option<Tick> {
        match self {
            Self::AtLimit { until }
            | Self::Throttled { until }
            | Self::Ejected { until }
            | Self::BreakerOpen { until } => Some(until),
            Self::FlowAtLimit { until } => until,
            Self::AwaitingCompletion
            | Self::Full
            | Self::BreakerHalfOpen
            | Self::Unhealthy
            | Self::Disabled
            | Self::NeverFits
            | Self::NoMember
            | Self::BehindOthers => None,
        }
    }

    /// Whether capacity is used up, as HTTP's 429 says, rather than no member in service, as 503 says.
    #[must_use]
    pub const fn is_exhaustion(self) -> bool {
        match self {
            Self::AtLimit { .. }
            | Self::AwaitingCompletion
            | Self::FlowAtLimit { .. }
            | Self::Full
            | Self::Throttled { .. }
            | Self::NeverFits
            | Self::BehindOthers => true,
            Self::Ejected { .. }
            | Self::BreakerOpen { .. }
            | Self::BreakerHalfOpen
            | Self::Unhealthy
            | Self::Disabled
            | Self::NoMember => false,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtLimit { .. } => "every member is at a limit",
            Self::AwaitingCompletion => "every member is at a limit until a call completes",
            Self::FlowAtLimit { .. } => "the caller is at its own limit",
            Self::Full => "every member holds its maximum of leases",
            Self::Throttled { .. } => "the upstream has turned calls away",
            Self::Ejected { .. } => "the members were ejected for failing",
            Self::BreakerOpen { .. } => "the members' breakers are open",
            Self::BreakerHalfOpen => "the members' breakers are half-open and probing",
            Self::Unhealthy => "probes of the members fail",
            Self::Disabled => "the members are disabled or draining",
            Self::NeverFits => "the request costs more than any limit admits",
            Self::NoMember => "no member has the labels that the request needs",
            Self::BehindOthers => "other requests are ahead",
        })
    }
}

/// When a member can serve the wanted cost of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Now,
    /// At this tick, if nothing happens until then.
    At(Tick),
    /// As soon as a lease or probe ends.
    AnyTime,
    /// As soon as its probes succeed.
    AfterRecovery,
    /// Never for this cost, but perhaps for a lower one.
    ForLess,
    /// Not before an operator changes something.
    Unknown,
}

impl Readiness {
    /// The availability for policies. A busy member keeps its share; that of one that is out goes to the others.
    #[inline]
    pub(super) fn availability(self) -> Availability {
        match self {
            Self::Now => Availability::Ready,
            Self::At(_) | Self::AnyTime | Self::ForLess => Availability::Busy,
            Self::AfterRecovery | Self::Unknown => Availability::Out,
        }
    }
}

/// The consequences of a reason.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) readiness: Readiness,
    /// Whether a limit is what holds the member back, so that another cost may be ready.
    pub(super) is_limit: bool,
    /// Whether the member keeps a session that it can't serve this time.
    pub(super) keeps_session: bool,
    /// The cause that a refusal gives; `None` where the member can serve.
    pub(super) cause: Option<Cause>,
}

impl Eligibility {
    /// The tick at which the reason ends, where it is known.
    #[must_use]
    pub const fn until(self) -> Option<Tick> {
        match self.row().cause {
            Some(cause) => cause.until(),
            None => None,
        }
    }

    /// The table of reasons.
    #[inline]
    pub(super) const fn row(self) -> Row {
        use Readiness::{AfterRecovery, AnyTime, At, ForLess, Now, Unknown};
        const KEEPS: bool = true;
        const LOSES: bool = false;
        match self {
            Self::Ready | Self::LowerTier => row(Now, KEEPS, None),
            Self::BehindOthers => row(Now, KEEPS, Some(Cause::BehindOthers)),
            Self::WrongLabels | Self::NotPinned => row(Unknown, LOSES, Some(Cause::NoMember)),
            Self::Removed | Self::Disabled | Self::Draining => {
                row(Unknown, LOSES, Some(Cause::Disabled))
            }
            Self::Unhealthy => row(AfterRecovery, LOSES, Some(Cause::Unhealthy)),
            Self::Ejected { until } => row(At(until), LOSES, Some(Cause::Ejected { until })),
            Self::BreakerOpen { until } => {
                row(At(until), LOSES, Some(Cause::BreakerOpen { until }))
            }
            Self::BreakerHalfOpen => row(AnyTime, KEEPS, Some(Cause::BreakerHalfOpen)),
            Self::Full => row(AnyTime, KEEPS, Some(Cause::Full)),
            Self::Throttled { until } => row(At(until), KEEPS, Some(Cause::Throttled { until })),
            Self::AtLimit { until } => {
                row(At(until), KEEPS, Some(Cause::AtLimit { until })).by_limit()
            }
            Self::AwaitingCompletion => {
                row(AnyTime, KEEPS, Some(Cause::AwaitingCompletion)).by_limit()
            }
            Self::FlowAtLimit { until } => {
                let readiness = match until {
                    Some(until) => At(until),
                    None => AnyTime,
                };
                row(readiness, KEEPS, Some(Cause::FlowAtLimit { until }))
            }
            Self::NeverFits => row(ForLess, LOSES, Some(Cause::NeverFits)).by_limit(),
        }
    }
}

#[inline]
const fn row(readiness: Readiness, keeps_session: bool, cause: Option<Cause>) -> Row {
    Row {
        readiness,
        is_limit: false,
        keeps_session,
        cause,
    }
}

impl Row {
    #[inline]
    pub(super) fn is_ready(&self) -> bool {
        self.readiness == Readiness::Now
    }

    #[inline]
    const fn by_limit(self) -> Self {
        Self {
            is_limit: true,
            ..self
        }
    }
}
