//! The generic cell rate algorithm: a token bucket that remembers one point in time.
//!
//! Invariant: `due` is the theoretical arrival time of the next unit, in parts of a nanosecond.

use super::rate_ratio::{Parts, RateRatio, carry_over};
use super::refund_cutoff::RefundCutoff;
use super::{Limit, LimitConfigError, Wait};
use crate::time::{ClockOffset, Tick};
use core::num::NonZeroU32;
use core::time::Duration;

/// One unit is due each `window / limit`, and up to `burst` may come early. Decides as a
/// [`TokenBucket`](super::TokenBucket) does. Source: ITU-T I.371, annex A.
///
/// Fractions of a nanosecond are counted exactly. Every operation costs O(1). Memory is constant.
///
/// Worst case and settlement are those of the token bucket.
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
#[cfg_attr(feature = "serde", serde(from = "Snapshot"))]
pub struct Gcra {
    ratio: RateRatio,
    burst: NonZeroU32,
    /// `burst` in parts.
    #[cfg_attr(feature = "serde", serde(skip))]
    tolerance: Parts,
    due: Parts,
    /// When something was last admitted or settled.
    latest: Tick,
    refund_cutoff: RefundCutoff,
}

impl Gcra {
    /// A limiter that a whole burst can be taken from at once.
    ///
    /// # Errors
    /// Where the window is zero, longer than 584 years, or has less than a nanosecond for each unit.
    pub fn new(
        limit: NonZeroU32,
        window: Duration,
        burst: NonZeroU32,
    ) -> Result<Self, LimitConfigError> {
        Ok(Self::with_pace(RateRatio::new(limit, window)?, burst))
    }

    fn with_pace(ratio: RateRatio, burst: NonZeroU32) -> Self {
        Self {
            ratio,
            burst,
            tolerance: Parts(ratio.cost(burst.get())),
            due: Parts(0),
            latest: Tick::ZERO,
            refund_cutoff: RefundCutoff::default(),
        }
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
        let early = self.due.0.saturating_sub(self.parts(now));
        let early = carry_over(early, (self.ratio, self.burst), (changed.ratio, burst));
        changed.due.0 = changed.parts(now).saturating_add(early);
        changed.latest = now;
        changed.refund_cutoff = self.refund_cutoff.above(now);
        *self = changed;
        Ok(())
    }

    #[inline]
    fn parts(&self, tick: Tick) -> u128 {
        self.ratio.worth(tick.as_nanos())
    }

    /// When the next unit would be due if `cost` were taken at `now`.
    #[inline]
    fn due_after(&self, now: u128, cost: u32) -> u128 {
        self.due.0.max(now).saturating_add(self.ratio.cost(cost))
    }
}

impl Limit for Gcra {
    #[inline]
    fn try_acquire(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait> {
        let now = now.max(self.latest);
        let parts = self.parts(now);
        let due = self.due_after(parts, cost);
        if cost == 0 {
            return Ok(self.charge(now, 0));
        }
        if due.saturating_sub(parts) > self.tolerance.0 {
            return Err(self.earliest(now, cost));
        }
        self.due.0 = due;
        self.latest = now;
        Ok(now)
    }

    #[inline]
    fn earliest(&self, now: Tick, cost: u32) -> Wait {
        let now = now.max(self.latest);
        if cost > self.burst.get() {
            return Wait::Never;
        }
        let due = self.due_after(self.parts(now), cost);
        match self.ratio.nanos(due.saturating_sub(self.tolerance.0)) {
            _ if cost == 0 => Wait::Until(now),
            Some(nanos) => Wait::Until(now.max(Tick::from_nanos(nanos))),
            None => Wait::Never,
        }
    }

    fn charge(&mut self, now: Tick, cost: u32) -> Tick {
        self.latest = self.latest.max(now);
        self.due.0 = self.due_after(self.parts(self.latest), cost);
        self.latest
    }

    fn settle(&mut self, now: Tick, booked: Tick, reserved: u32, actual: u32) {
        let alone = booked == self.latest && self.refund_cutoff.is_known(booked);
        self.latest = self.latest.max(now);
        match actual.checked_sub(reserved) {
            Some(more) => self.due.0 = self.due_after(self.parts(self.latest), more),
            None if alone => {
                let less = self.ratio.cost(reserved.saturating_sub(actual));
                self.due.0 = self.due.0.saturating_sub(less);
            }
            None => {}
        }
    }

    fn available(&self, now: Tick) -> u32 {
        let now = self.parts(now.max(self.latest));
        let free = self
            .tolerance
            .0
            .saturating_sub(self.due.0.saturating_sub(now));
        u32::try_from(self.ratio.units(free)).unwrap_or(u32::MAX)
    }

    fn is_idle(&self, now: Tick) -> bool {
        self.due.0 <= self.parts(now.max(self.latest))
    }

    fn rebase(&mut self, from: Tick, to: Tick) {
        self.latest = self.latest.max(from);
        let shift = ClockOffset { from, to };
        self.latest = shift.tick(self.latest);
        self.due.0 = self.ratio.rebase(self.due.0, from, to);
        self.refund_cutoff.rebase(shift);
    }

    fn worst_case(&self, span: Duration) -> u64 {
        self.ratio.worst_case(self.burst, span)
    }
}

/// What a snapshot says.
#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
struct Snapshot {
    ratio: RateRatio,
    burst: NonZeroU32,
    due: Parts,
    latest: Tick,
    refund_cutoff: RefundCutoff,
}

#[cfg(feature = "serde")]
impl From<Snapshot> for Gcra {
    fn from(read: Snapshot) -> Self {
        let mut gcra = Self::with_pace(read.ratio, read.burst);
        gcra.due = read.due;
        gcra.latest = read.latest;
        gcra.refund_cutoff = read.refund_cutoff;
        gcra
    }
}
