//! Token bucket: a bucket that fills with tokens at a steady rate and holds a burst of them.
//!
//! Invariant: `missing` is what the full bucket lacked at `latest`, in parts of a token.

use super::admission::{Limit, LimitConfigError, Wait};
use super::refill::Refill;
use super::refund_cutoff::RefundCutoff;
use crate::time::{ClockOffset, Tick};
use core::num::NonZeroU32;
use core::time::Duration;

/// A token bucket: `limit` tokens flow in per `window`, and up to `burst` are kept.
///
/// Fractions of a token are counted exactly, so that no pattern of requests makes it drift. Every operation
/// costs O(1); memory is constant.
///
/// Worst case over a span: the burst, and what flows in between its first and its last nanosecond.
///
/// A settlement below the reservation is credited in full if nothing was admitted or settled at a later tick than
/// the booking, otherwise not at all, because the bucket may have been full in between.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_core::limit::{Limit, TokenBucket, Wait};
/// use leasehold_core::time::Tick;
///
/// let three = NonZeroU32::new(3).unwrap();
/// let mut bucket = TokenBucket::new(three, Duration::from_secs(60), three)?;
/// let at = |secs: u64| Tick::from_nanos(secs * 1_000_000_000);
/// assert_eq!(bucket.try_acquire(at(0), 3), Ok(at(0)));
/// assert_eq!(bucket.try_acquire(at(1), 1), Err(Wait::Until(at(20))));
/// # Ok::<(), leasehold_core::limit::LimitConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "Wire"))]
pub struct TokenBucket {
    refill: Refill,
    /// The burst in parts.
    #[cfg_attr(feature = "serde", serde(skip))]
    capacity: u64,
    missing: u64,
    latest: Tick,
    refund_cutoff: RefundCutoff,
}

impl TokenBucket {
    /// Creates a full bucket.
    ///
    /// # Errors
    /// [`LimitConfigError`] if the window is zero, longer than 584 years or has less than a nanosecond for each
    /// unit, or a full bucket has 2^64 parts or more.
    pub fn new(
        limit: NonZeroU32,
        window: Duration,
        burst: NonZeroU32,
    ) -> Result<Self, LimitConfigError> {
        Self::full(Refill::new(limit, window, burst)?)
    }

    fn full(refill: Refill) -> Result<Self, LimitConfigError> {
        Ok(Self {
            refill,
            capacity: u64::try_from(refill.capacity()).map_err(|_| LimitConfigError::TooFine)?,
            missing: 0,
            latest: Tick::ZERO,
            refund_cutoff: RefundCutoff::default(),
        })
    }

    /// Changes rate and burst from `now` on; the free tokens don't grow by the change.
    ///
    /// While at most two configurations alternate, no span holds more than the burst and flow of one of them.
    /// With more, no span holds more than the largest burst and the largest rate. A larger rate with a smaller
    /// burst therefore starts out owing the difference of the bursts.
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
            .carry_over(self.missing_at(now).into(), &changed.refill);
        changed.missing = u64::try_from(missing).unwrap_or(u64::MAX);
        changed.latest = now;
        changed.refund_cutoff = self.refund_cutoff.raised_to(now);
        *self = changed;
        Ok(())
    }

    #[inline]
    fn missing_at(&self, now: Tick) -> u64 {
        let elapsed = now.as_nanos().saturating_sub(self.latest.as_nanos());
        let flowed = elapsed.saturating_mul(self.refill.ratio.per_nano.get().into());
        self.missing.saturating_sub(flowed)
    }

    /// The parts that `units` cost: exact up to the burst, as the capacity fits into 64 bits.
    #[inline]
    fn cost(&self, units: u32) -> u64 {
        let per_unit = self.refill.ratio.per_unit.get();
        per_unit.saturating_mul(units.into())
    }
}

impl Limit for TokenBucket {
    #[inline]
    fn try_acquire(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait> {
        let now = now.max(self.latest);
        let missing = self.missing_at(now).saturating_add(self.cost(cost));
        if cost == 0 {
            return Ok(self.charge(now, 0));
        }
        if missing > self.capacity || cost > self.refill.burst.get() {
            return Err(self.earliest(now, cost));
        }
        self.missing = missing;
        self.latest = now;
        Ok(now)
    }

    #[inline]
    fn earliest(&self, now: Tick, cost: u32) -> Wait {
        let now = now.max(self.latest);
        let missing = self.missing_at(now).into();
        self.refill
            .earliest(now, self.capacity.into(), missing, cost)
    }

    fn charge(&mut self, now: Tick, cost: u32) -> Tick {
        let now = now.max(self.latest);
        self.missing = self.missing_at(now).saturating_add(self.cost(cost));
        self.latest = now;
        now
    }

    fn settle(&mut self, now: Tick, booked: Tick, reserved: u32, actual: u32) {
        let refunds = booked == self.latest && self.refund_cutoff.allows(booked);
        let now = now.max(self.latest);
        let missing = self.missing_at(now).into();
        let missing = self.refill.settle(missing, refunds, reserved, actual);
        self.missing = u64::try_from(missing).unwrap_or(u64::MAX);
        self.latest = now;
    }

    fn capacity(&self) -> u32 {
        self.refill.burst.get()
    }

    fn available(&self, now: Tick) -> u32 {
        let missing = self.missing_at(now.max(self.latest));
        self.refill.available(self.capacity.into(), missing.into())
    }

    fn is_idle(&self, now: Tick) -> bool {
        self.missing_at(now.max(self.latest)) == 0
    }

    fn rebase(&mut self, from: Tick, to: Tick) {
        self.charge(from, 0);
        let offset = ClockOffset { from, to };
        self.latest = offset.tick(self.latest);
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
    missing: u64,
    latest: Tick,
    refund_cutoff: RefundCutoff,
}

#[cfg(feature = "serde")]
impl TryFrom<Wire> for TokenBucket {
    type Error = super::admission::SnapshotError;

    fn try_from(wire: Wire) -> Result<Self, Self::Error> {
        Ok(Self {
            missing: wire.missing,
            latest: wire.latest,
            refund_cutoff: wire.refund_cutoff,
            ..Self::full(wire.refill)?
        })
    }
}
