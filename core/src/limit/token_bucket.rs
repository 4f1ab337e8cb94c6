//! A bucket that fills with tokens at a steady rate and holds a burst of them.
//!
//! Invariant: `used` is what was missing from the full bucket at `latest`, in parts of a token; above
//! the capacity only where more was charged or settled than was free.

use super::rate_ratio::{RateRatio, carry_over};
use super::refund_cutoff::RefundCutoff;
use super::{Limit, LimitConfigError, Wait};
use crate::time::{ClockOffset, Tick};
use core::num::NonZeroU32;
use core::time::Duration;

/// `limit` tokens flow in per `window`, and up to `burst` can be kept. A token's fractions are counted
/// exactly, so that no pattern of requests makes it drift.
///
/// Every operation costs O(1). Memory is constant.
///
/// Worst case over a span: the burst, and what flows in between its first and its last nanosecond.
///
/// A settlement below the reservation is credited in full only if nothing has been admitted or settled
/// in between; otherwise not at all, because the bucket may have been full since.
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
#[cfg_attr(feature = "serde", serde(try_from = "Snapshot"))]
pub struct TokenBucket {
    ratio: RateRatio,
    burst: NonZeroU32,
    /// `burst` in parts.
    #[cfg_attr(feature = "serde", serde(skip))]
    capacity: u64,
    used: u64,
    /// When something was last admitted or settled.
    latest: Tick,
    refund_cutoff: RefundCutoff,
}

impl TokenBucket {
    /// A full bucket.
    ///
    /// # Errors
    /// Where the window is zero or has less than a nanosecond for each unit, or a full bucket would take longer than 584 years, or so many parts of
    /// a token, that it can't be counted.
    pub fn new(
        limit: NonZeroU32,
        window: Duration,
        burst: NonZeroU32,
    ) -> Result<Self, LimitConfigError> {
        Self::with_pace(RateRatio::new(limit, window)?, burst)
    }

    fn with_pace(ratio: RateRatio, burst: NonZeroU32) -> Result<Self, LimitConfigError> {
        let capacity = u64::try_from(ratio.cost(burst.get()));
        Ok(Self {
            ratio,
            burst,
            capacity: capacity.map_err(|_| LimitConfigError::TooFine)?,
            used: 0,
            latest: Tick::ZERO,
            refund_cutoff: RefundCutoff::default(),
        })
    }

    /// Changes rate and burst from `now` on; what is free doesn't grow by it. While no more than two
    /// configurations take turns, no span ever holds more than one of the two would admit in it, burst and
    /// flow; otherwise no more than the largest burst with the largest rate. For that, a larger rate with a
    /// smaller burst begins by owing the difference of the bursts.
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
        if (changed.ratio, changed.burst) == (self.ratio, self.burst) {
            return Ok(());
        }
        let now = now.max(self.latest);
        let (before, after) = ((self.ratio, self.burst), (changed.ratio, burst));
        let missing = carry_over(self.used_at(now).into(), before, after);
        changed.used = u64::try_from(missing).unwrap_or(u64::MAX);
        changed.latest = now;
        changed.refund_cutoff = self.refund_cutoff.above(now);
        *self = changed;
        Ok(())
    }

    #[inline]
    fn used_at(&self, now: Tick) -> u64 {
        let elapsed = now.as_nanos().saturating_sub(self.latest.as_nanos());
        self.used
            .saturating_sub(elapsed.saturating_mul(self.ratio.per_nano.get().into()))
    }

    #[inline]
    fn cost(&self, units: u32) -> u64 {
        // A cost up to the burst fits, as the capacity does.
        self.ratio.per_unit.get().saturating_mul(units.into())
    }
}

impl Limit for TokenBucket {
    #[inline]
    fn try_acquire(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait> {
        let now = now.max(self.latest);
        let used = self.used_at(now).saturating_add(self.cost(cost));
        if cost == 0 {
            return Ok(self.charge(now, 0));
        }
        if used > self.capacity || cost > self.burst.get() {
            return Err(self.earliest(now, cost));
        }
        self.used = used;
        self.latest = now;
        Ok(now)
    }

    #[inline]
    fn earliest(&self, now: Tick, cost: u32) -> Wait {
        let now = now.max(self.latest);
        if cost > self.burst.get() {
            return Wait::Never;
        }
        let used = u128::from(self.used_at(now)).saturating_add(self.ratio.cost(cost));
        let excess = used.saturating_sub(self.capacity.into());
        if cost == 0 || excess == 0 {
            return Wait::Until(now);
        }
        let nanos = self.ratio.nanos(excess);
        let then = nanos.and_then(|nanos| now.checked_add_nanos(nanos));
        then.map_or(Wait::Never, Wait::Until)
    }

    fn charge(&mut self, now: Tick, cost: u32) -> Tick {
        let now = now.max(self.latest);
        self.used = self.used_at(now).saturating_add(self.cost(cost));
        self.latest = now;
        now
    }

    fn settle(&mut self, now: Tick, booked: Tick, reserved: u32, actual: u32) {
        let alone = booked == self.latest && self.refund_cutoff.is_known(booked);
        let now = now.max(self.latest);
        let used = self.used_at(now);
        self.used = match actual.checked_sub(reserved) {
            Some(more) => used.saturating_add(self.cost(more)),
            None if alone => used.saturating_sub(self.cost(reserved.saturating_sub(actual))),
            None => used,
        };
        self.latest = now;
    }

    fn available(&self, now: Tick) -> u32 {
        let free = self
            .capacity
            .saturating_sub(self.used_at(now.max(self.latest)));
        u32::try_from(self.ratio.units(free.into())).unwrap_or(u32::MAX)
    }

    fn is_idle(&self, now: Tick) -> bool {
        self.used_at(now.max(self.latest)) == 0
    }

    fn rebase(&mut self, from: Tick, to: Tick) {
        self.charge(from, 0);
        let shift = ClockOffset { from, to };
        self.latest = shift.tick(self.latest);
        self.refund_cutoff.rebase(shift);
    }

    fn worst_case(&self, span: Duration) -> u64 {
        self.ratio.worst_case(self.burst, span)
    }
}

/// What a snapshot says, before it is believed.
#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
struct Snapshot {
    ratio: RateRatio,
    burst: NonZeroU32,
    used: u64,
    latest: Tick,
    refund_cutoff: RefundCutoff,
}

#[cfg(feature = "serde")]
impl TryFrom<Snapshot> for TokenBucket {
    type Error = super::SnapshotError;

    fn try_from(read: Snapshot) -> Result<Self, Self::Error> {
        let mut bucket = Self::with_pace(read.ratio, read.burst)?;
        bucket.used = read.used;
        bucket.latest = read.latest;
        bucket.refund_cutoff = read.refund_cutoff;
        Ok(bucket)
    }
}
