//! Concurrency limit: a count of the units in flight.
//!
//! Invariant: `in_flight` is the sum of the admitted costs that were not settled.

use super::admission::{Limit, Wait};
use crate::time::Tick;
use core::num::NonZeroU32;
use core::time::Duration;

/// A concurrency limit: at most `limit` units in flight, from admission to settlement.
///
/// Every operation costs O(1). Time plays no part, so the worst case over a span is unbounded.
///
/// ```
/// use core::num::NonZeroU32;
/// use leasehold_core::limit::{Concurrency, Limit, Wait};
/// use leasehold_core::time::Tick;
///
/// let now = Tick::ZERO;
/// let mut slots = Concurrency::new(NonZeroU32::MIN);
/// let booked = slots.try_acquire(now, 1).unwrap();
/// assert_eq!(slots.try_acquire(now, 1), Err(Wait::ForSettlement));
/// slots.settle(now, booked, 1, 1);
/// assert!(slots.try_acquire(now, 1).is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Concurrency {
    limit: NonZeroU32,
    in_flight: u64,
}

impl Concurrency {
    /// Creates a limiter with nothing in flight.
    #[must_use]
    pub const fn new(limit: NonZeroU32) -> Self {
        Self {
            limit,
            in_flight: 0,
        }
    }

    /// Changes the units that may be in flight, from now on.
    pub fn set_limit(&mut self, limit: NonZeroU32) {
        self.limit = limit;
    }
}

impl Limit for Concurrency {
    #[inline]
    fn try_acquire(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait> {
        if cost > self.available(now) {
            return Err(self.earliest(now, cost));
        }
        Ok(self.charge(now, cost))
    }

    fn earliest(&self, now: Tick, cost: u32) -> Wait {
        if cost > self.limit.get() {
            Wait::Never
        } else if cost <= self.available(now) {
            Wait::Until(now)
        } else {
            Wait::ForSettlement
        }
    }

    fn charge(&mut self, now: Tick, cost: u32) -> Tick {
        self.in_flight = self.in_flight.saturating_add(cost.into());
        now
    }

    fn settle(&mut self, _: Tick, _: Tick, reserved: u32, _: u32) {
        self.in_flight = self.in_flight.saturating_sub(reserved.into());
    }

    fn capacity(&self) -> u32 {
        self.limit.get()
    }

    fn available(&self, _: Tick) -> u32 {
        u64::from(self.limit.get()).saturating_sub(self.in_flight) as u32
    }

    fn is_idle(&self, _: Tick) -> bool {
        self.in_flight == 0
    }

    fn rebase(&mut self, _: Tick, _: Tick) {}

    fn worst_case(&self, span: Duration) -> u64 {
        if span.is_zero() { 0 } else { u64::MAX }
    }
}
