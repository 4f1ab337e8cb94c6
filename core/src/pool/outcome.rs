//! How leases and probes end.

use crate::limit::Cost;
use crate::time::Tick;
use core::time::Duration;

/// How the use of a lease ended.
///
/// | outcome | cost | breaker and outlier ejection | a half-open breaker's place |
/// |---|---|---|---|
/// | `Ok` | as released | a success | closes it, after enough of them |
/// | `Failed` | as released | a failure | opens it again |
/// | `Throttled` | as released | opens the breaker until the tick | opens it again |
/// | `Unknown` | as released | nothing | freed |
/// | `NotSent` | none | nothing | freed |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream served the call.
    Ok,
    /// The call failed, and the upstream may have seen it.
    Failed,
    /// The upstream turned the call away. Its member cools down until the tick: its breaker opens and its
    /// limits admit no request before.
    Throttled {
        /// The tick at which the upstream said that it would serve again.
        until: Tick,
    },
    /// The call was sent, and its caller gave up before there was an answer. The cost stays booked, since
    /// the upstream may count it; nothing is learnt about the member. A caller that takes a timeout
    /// for a fault of the member says [`Failed`](Self::Failed) instead.
    Unknown,
    /// The caller gave up before it sent anything. The cost is refunded in full, and nothing is learnt
    /// about the member. A member that could not be reached is a [failure](Self::Failed) at
    /// [no cost](Release::cost).
    NotSent,
}

/// The end of a lease, in full. A bare [`Outcome`] means: at the cost of the request, with the time that
/// the lease was held as its latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    pub(super) outcome: Outcome,
    pub(super) cost: Option<Cost>,
    pub(super) latency: Option<Duration>,
}

impl From<Outcome> for Release {
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome,
            cost: None,
            latency: None,
        }
    }
}

impl Release {
    /// The real cost of the call. A call that was [not sent](Outcome::NotSent) costs nothing.
    #[must_use]
    pub const fn cost(mut self, cost: Cost) -> Self {
        self.cost = Some(cost);
        self
    }

    /// The time that the upstream took, where the lease was held for longer than that.
    #[must_use]
    pub const fn latency(mut self, latency: Duration) -> Self {
        self.latency = Some(latency);
        self
    }

    /// How the lease ends.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// The real cost, if it was given.
    #[must_use]
    pub const fn given_cost(&self) -> Option<Cost> {
        self.cost
    }

    /// The time that the upstream took, if it was given.
    #[must_use]
    pub const fn given_latency(&self) -> Option<Duration> {
        self.latency
    }
}

/// The end of a lease as the pool sees it.
#[derive(Clone, Copy, Debug)]
pub(super) enum LeaseEnd {
    Released(Release),
    Expired,
}

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// The member is well.
    Up {
        /// Jobs queued or running on the member, where it tells.
        depth: Option<u32>,
        /// The time that the probe took; it counts like the latency of a call.
        latency: Option<Duration>,
    },
    /// The member is unwell, or did not answer.
    Down,
}
