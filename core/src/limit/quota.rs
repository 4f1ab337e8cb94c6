//! What a limit allows, for callers to be told.
//!
//! Invariant: what a quota says at a tick holds if nothing is admitted or settled until its reset.

use super::admission::{Limit, Wait};
use super::limiter::Limiter;
use super::spec::LimitSpec;
use crate::time::Tick;
use core::time::Duration;

/// A tick at which nothing counts any more that was completed when a limiter was made.
const FAR_OFF: Tick = Tick::from_nanos(u64::MAX / 2);

/// What a limit allows, in all and at present.
///
/// ```
/// use core::time::Duration;
/// use leasehold_core::limit::{Allowance, Limit, LimitSpec};
/// use leasehold_core::time::Tick;
///
/// let spec: LimitSpec = "2/60s from grant".parse()?;
/// let (allowance, mut limiter) = (Allowance::of_spec(&spec), spec.limiter()?);
/// assert_eq!(allowance.quota(&limiter, Tick::ZERO).reset, None);
/// limiter.try_acquire(Tick::ZERO, 1).unwrap();
/// let quota = allowance.quota(&limiter, Tick::ZERO);
/// assert_eq!((quota.limit, quota.remaining), (2, 1));
/// assert_eq!(quota.reset, Some(Duration::from_secs(60)));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
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

/// The part of a [`Quota`] that never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Requests that the limit admits in a window; or at once, where it has none that is known.
    pub limit: u32,
    /// The window, if it is known.
    pub window: Option<Duration>,
    /// Whether the limit is one of calls in flight.
    pub is_concurrency: bool,
}

impl Allowance {
    /// Reads the allowance of a new limiter, which does not tell its window.
    #[must_use]
    pub fn of_limiter(limiter: &Limiter) -> Self {
        Self {
            limit: limiter.available(FAR_OFF),
            window: None,
            is_concurrency: matches!(limiter, Limiter::Concurrency(_)),
        }
    }

    /// Reads the allowance of a limit as it was written.
    #[must_use]
    pub fn of_spec(spec: &LimitSpec) -> Self {
        match spec {
            LimitSpec::Rate { rate, .. } => Self {
                limit: rate.limit.get(),
                window: Some(rate.window),
                is_concurrency: false,
            },
            LimitSpec::Concurrent(limit) => Self {
                limit: limit.get(),
                window: None,
                is_concurrency: true,
            },
        }
    }

    /// Returns the quota that a limiter of this allowance has now.
    #[must_use]
    pub fn quota(self, limiter: &Limiter, now: Tick) -> Quota {
        let reset = limiter.next_change(now).map(|tick| tick.since(now));
        self.quota_of(limiter.available(now), reset)
    }

    /// Returns the quota of a refused request; `None` if the limit never admits another.
    #[must_use]
    pub fn used_up(self, now: Tick, wait: Wait) -> Option<Quota> {
        match wait {
            Wait::Until(tick) => Some(self.quota_of(0, Some(tick.since(now)))),
            Wait::ForSettlement => Some(self.quota_of(0, None)),
            Wait::Never => None,
        }
    }

    fn quota_of(self, remaining: u32, reset: Option<Duration>) -> Quota {
        Quota {
            limit: self.limit,
            window: self.window,
            remaining,
            reset,
        }
    }
}
