//! What a limit allows, for callers to be told.
//!
//! Invariant: a quota is read under the limit's lock at one tick. What it says holds if nothing is admitted or
//! settled until its reset.

use super::queue::{COST, Shared};
use core::fmt;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::limit::{Limit, LimitSpec, Limiter, Wait};
use leasehold_core::time::Tick;

/// A tick at which no admission counts any more that was completed when a layer was made.
const FAR_OFF: Tick = Tick::from_nanos(u64::MAX / 2);

/// What a limit allows, in all and at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Requests that the limit admits in a window; or at once, where it has none that is known.
    pub limit: u32,
    /// The window, if it is known.
    pub window: Option<Duration>,
    /// Requests that the limit admits now.
    pub remaining: u32,
    /// Time until it admits one more than remain; `None` if that depends on calls in flight, or all remain.
    pub reset: Option<Duration>,
}

/// The part of a quota that never changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    limit: u32,
    window: Option<Duration>,
}

impl Allowance {
    pub(super) fn of_limiter(limiter: &Limiter) -> Self {
        Self {
            limit: limiter.available(FAR_OFF),
            window: None,
        }
    }

    pub(super) fn of_spec(spec: &LimitSpec) -> Self {
        let (limit, window): (NonZeroU32, _) = match spec {
            LimitSpec::Rate { rate, .. } => (rate.limit, Some(rate.window)),
            LimitSpec::Concurrent(limit) => (*limit, None),
        };
        Self {
            limit: limit.get(),
            window,
        }
    }

    /// The quota now.
    pub(super) fn read(self, shared: &Shared) -> Quota {
        let (remaining, reset) = shared.read(|limiter, now| {
            let reset = limiter.next_change(now).map(|tick| tick.since(now));
            (limiter.available(now), reset)
        });
        self.quota(remaining, reset)
    }

    /// The quota of a refused request; `None` if the limit never admits another.
    pub(super) fn used_up(self, shared: &Shared, wait: Wait) -> Option<Quota> {
        match wait {
            Wait::Until(tick) => {
                let wait = tick.since(shared.now());
                Some(self.quota(0, Some(wait)))
            }
            Wait::ForSettlement => Some(self.quota(0, None)),
            Wait::Never => None,
        }
    }

    fn quota(self, remaining: u32, reset: Option<Duration>) -> Quota {
        Quota {
            limit: self.limit,
            window: self.window,
            remaining,
            reset,
        }
    }
}

pub(super) fn retry_after(shared: &Shared) -> Option<Duration> {
    shared.read(|limiter, now| match limiter.earliest(now, COST) {
        Wait::Until(tick) => Some(tick.since(now)),
        Wait::ForSettlement | Wait::Never => None,
    })
}

/// Shows when to try again.
pub(super) struct Until(pub(super) Option<Duration>);

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(wait) => write!(f, "in {wait:?}"),
            None => f.write_str("when a call in flight has completed"),
        }
    }
}
