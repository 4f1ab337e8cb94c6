//! Generic cell rate algorithm (GCRA): a token bucket stored as one point in time.
//!
//! Invariant: `due` is the theoretical arrival time of the next unit, in parts of a nanosecond; what lies
//! after `now` is the missing part of the burst.

use super::admission::{Limit, LimitConfigError, Wait};
use super::rate_ratio::Parts;
use super::refill::Refill;
use super::refund_cutoff::RefundCutoff;
use crate::time::{ClockOffset, Tick};
use core::num::NonZeroU32;
use core::time::Duration;

/// A generic cell rate algorithm: one unit is due each `window / limit`, and up to `burst` may come early.
///
/// Decides as a [`TokenBucket`](super::TokenBucket) does. Source: ITU-T I.371, annex A. Fractions of a nanosecond
/// are counted exactly. Every operation costs O(1); memory is constant. Worst case and settlement are those of the
/// token bucket.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_core::limit::{Gcra, Limit, Wait};
/// use leasehold_core::time::Tick;
///
/// let (limit, burst) = (NonZeroU32::new(3).unwrap(), NonZeroU32::MIN);
/// let mut gcra = Gcra::new(limit, Duration::from_secs(60), burst)?;
/// let at = |secs: u64| Tick::from_nanos(secs * 1_000_000_000);
/// assert_eq!(gcra.try_acquire(at(5), 1), Ok(at(5)));
/// assert_eq!(gcra.try_acquire(at(6), 1), Err(Wait::Until(at(25))));
/// # Ok::<(), leasehold_core::limit::LimitConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(from = "Wire"))]
pub struct Gcra {
    refill: Refill,
    /// The burst in parts.
    #[cfg_attr(feature = "serde", serde(skip))]
    tolerance: Parts,
    due: Parts,
    latest: Tick,
    refund_cutoff: RefundCutoff,
}

impl Gcra {
    /// Creates a limiter that admits a whole burst at once.
    ///
    /// # Errors
    /// [`LimitConfigError`] if the window is zero, longer than 584 years, or has less than a nanosecond for each
    /// unit.
    pub fn new(
        limit: NonZeroU32,
        window: Duration,
        burst: NonZeroU32,
    ) -> Result<Self, LimitConfigError> {
        Ok(Self::full(Refill::new(limit, window, burst)?))
    }

    fn full(refill: Refill) -> Self {
        Self {
            refill,
            tolerance: Parts(refill.capacity()),
            due: Parts(0),
            latest: Tick::ZERO,
            refund_cutoff: RefundCutoff::default(),
        }
    }

    /// Changes rate and burst from `now` on, with the guarantees of
    /// [`TokenBucket::set_limit`](super::TokenBucket::set_limit).
    ///
    /// # Errors
    /// As for [`new`](Self::new); then nothing is changed.
    pub fn set_limit(
        &mut self,
        now: Tick,
        limit: NonZeroU32,
        window: Duration,
        burst: NonZeroU32,
    ) -> Result<(), LimitConfigError> {
        let mut changed = Self::new(limit, window, burst)?;
        if changed.refill == self.refill {
            return Ok(());
        }
        let now = now.max(self.latest);
        let missing = self
            .refill
            .carry_over(self.missing_at(now), &changed.refill);
        changed.set_missing(now, missing);
        changed.refund_cutoff = self.refund_cutoff.raised_to(now);
        *self = changed;
        Ok(())
    }

    #[inline]
    fn missing_at(&self, now: Tick) -> u128 {
        let now = self.refill.ratio.worth(now.as_nanos());
        self.due.0.saturating_sub(now)
    }

    #[inline]
    fn set_missing(&mut self, now: Tick, missing: u128) {
        let parts = self.refill.ratio.worth(now.as_nanos());
        self.due.0 = parts.saturating_add(missing);
        self.latest = now;
    }
}

impl Limit for Gcra {
    #[inline]
    fn try_acquire(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait> {
        let now = now.max(self.latest);
        if cost == 0 {
            return Ok(self.charge(now, 0));
        }
        let cost_in_parts = self.refill.ratio.cost(cost);
        let missing = self.missing_at(now).saturating_add(cost_in_parts);
        if missing > self.tolerance.0 {
            return Err(self.earliest(now, cost));
        }
        self.set_missing(now, missing);
        Ok(now)
    }

    #[inline]
    fn earliest(&self, now: Tick, cost: u32) -> Wait {
        let now = now.max(self.latest);
        self.refill
            .earliest(now, self.tolerance.0, self.missing_at(now), cost)
    }

    fn charge(&mut self, now: Tick, cost: u32) -> Tick {
        let now = now.max(self.latest);
        let cost = self.refill.ratio.cost(cost);
        self.set_missing(now, self.missing_at(now).saturating_add(cost));
        now
    }

    fn settle(&mut self, now: Tick, booked: Tick, reserved: u32, actual: u32) {
        let refunds = booked == self.latest && self.refund_cutoff.allows(booked);
        let now = now.max(self.latest);
        let missing = self.missing_at(now);
        self.set_missing(now, self.refill.settle(missing, refunds, reserved, actual));
    }

    fn capacity(&self) -> u32 {
        self.refill.burst.get()
    }

    fn available(&self, now: Tick) -> u32 {
        let missing = self.missing_at(now.max(self.latest));
        self.refill.available(self.tolerance.0, missing)
    }

    fn is_idle(&self, now: Tick) -> bool {
        self.missing_at(now.max(self.latest)) == 0
    }

    fn rebase(&mut self, from: Tick, to: Tick) {
        let offset = ClockOffset { from, to };
        self.latest = offset.tick(self.latest.max(from));
        self.due.0 = self.refill.ratio.rebase(self.due.0, from, to);
        self.refund_cutoff.rebase(offset);
    }

    fn worst_case(&self, span: Duration) -> u64 {
        self.refill.worst_case(span)
    }
}

#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
struct Wire {
    refill: Refill,
    due: Parts,
    latest: Tick,
    refund_cutoff: RefundCutoff,
}

#[cfg(feature = "serde")]
impl From<Wire> for Gcra {
    fn from(wire: Wire) -> Self {
        Self {
            due: wire.due,
            latest: wire.latest,
            refund_cutoff: wire.refund_cutoff,
            ..Self::full(wire.refill)
        }
    }
}
