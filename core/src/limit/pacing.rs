//! Uniform pacing: admissions evenly spaced, with nothing saved up.
//!
//! Invariant: nothing is admitted before `due`, in parts of a nanosecond.

use super::admission::{Limit, LimitConfigError, Wait};
use super::rate_ratio::{Parts, RateRatio};
use super::refund_cutoff::RefundCutoff;
use crate::time::{ClockOffset, Tick, saturating_nanos};
use core::num::NonZeroU32;
use core::time::Duration;

/// Uniform pacing: after an admission of `cost` units, nothing is admitted for `cost * window / limit`.
///
/// A cost may be up to the limit. A caller that asks at each tick it is told gets the exact rate, fractions of a
/// nanosecond included; idle time saves nothing up. Every operation costs O(1); memory is constant.
///
/// Worst case over a span: units at their distances, and a last request that costs the whole limit. A settlement
/// below the reservation is credited only if nothing was admitted or settled at a later tick than the booking.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_core::limit::{Limit, Pacing, Wait};
/// use leasehold_core::time::Tick;
///
/// let mut pacing = Pacing::new(NonZeroU32::new(3).unwrap(), Duration::from_secs(60))?;
/// let at = |secs: u64| Tick::from_nanos(secs * 1_000_000_000);
/// assert_eq!(pacing.try_acquire(at(5), 1), Ok(at(5)));
/// assert_eq!(pacing.try_acquire(at(6), 1), Err(Wait::Until(at(25))));
/// # Ok::<(), leasehold_core::limit::LimitConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Pacing {
    limit: NonZeroU32,
    ratio: RateRatio,
    due: Parts,
    latest: Tick,
    refund_cutoff: RefundCutoff,
}

impl Pacing {
    /// Creates a limiter that admits the first request at once.
    ///
    /// # Errors
    /// [`LimitConfigError`] if the window is zero, longer than 584 years, or has less than a nanosecond for each
    /// unit.
    pub fn new(limit: NonZeroU32, window: Duration) -> Result<Self, LimitConfigError> {
        Ok(Self {
            limit,
            ratio: RateRatio::new(limit, window)?,
            due: Parts(0),
            latest: Tick::ZERO,
            refund_cutoff: RefundCutoff::default(),
        })
    }

    /// Changes the distance of units from the next admission on; admitted units keep theirs.
    ///
    /// If the limit grows while the rate falls, the next admission is later by the added units at the old rate.
    /// While at most two configurations alternate, no span holds more than the worst case of one of them. With more,
    /// no span holds more than the largest rate and the largest limit.
    ///
    /// # Errors
    /// As for [`new`](Self::new); then nothing is changed.
    pub fn set_limit(
        &mut self,
        limit: NonZeroU32,
        window: Duration,
    ) -> Result<(), LimitConfigError> {
        let mut changed = Self::new(limit, window)?;
        if (changed.ratio, changed.limit) == (self.ratio, self.limit) {
            return Ok(());
        }
        if changed.ratio.is_slower_than(self.ratio) {
            let larger = limit.get().saturating_sub(self.limit.get());
            self.due.0 = self.due.0.saturating_add(self.ratio.cost(larger));
        }
        let whole = self.due.0.div_ceil(self.ratio.per_nano.get().into());
        changed.due.0 = whole.saturating_mul(changed.ratio.per_nano.get().into());
        changed.latest = self.latest;
        changed.refund_cutoff = self.refund_cutoff.raised_to(self.latest);
        *self = changed;
        Ok(())
    }

    /// Whether `due` is a nanosecond ago or more.
    #[inline]
    fn is_late(&self, now: Tick) -> bool {
        let since = self.ratio.worth(now.as_nanos()).saturating_sub(self.due.0);
        since >= self.ratio.per_nano.get().into()
    }

    /// The `due` after admitting `cost` units at `now`. Counts from the old one if that lies within this nanosecond,
    /// so that no fraction is lost.
    #[inline]
    fn due_after(&self, now: Tick, cost: u32) -> u128 {
        let from = if self.is_late(now) {
            self.ratio.worth(now.as_nanos())
        } else {
            self.due.0
        };
        from.saturating_add(self.ratio.cost(cost))
    }
}

impl Limit for Pacing {
    #[inline]
    fn try_acquire(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait> {
        let now = now.max(self.latest);
        if cost == 0 {
            return Ok(self.charge(now, 0));
        }
        if self.due.0 > self.ratio.worth(now.as_nanos()) || cost > self.limit.get() {
            return Err(self.earliest(now, cost));
        }
        self.due.0 = self.due_after(now, cost);
        self.latest = now;
        Ok(now)
    }

    fn earliest(&self, now: Tick, cost: u32) -> Wait {
        let now = now.max(self.latest);
        if cost > self.limit.get() {
            return Wait::Never;
        }
        match self.ratio.nanos(self.due.0) {
            _ if cost == 0 => Wait::Until(now),
            Some(nanos) => Wait::Until(now.max(Tick::from_nanos(nanos))),
            None => Wait::Never,
        }
    }

    fn charge(&mut self, now: Tick, cost: u32) -> Tick {
        self.latest = self.latest.max(now);
        self.due.0 = self.due_after(self.latest, cost);
        self.latest
    }

    fn settle(&mut self, now: Tick, booked: Tick, reserved: u32, actual: u32) {
        let refunds = booked == self.latest && self.refund_cutoff.allows(booked);
        self.latest = self.latest.max(now);
        match actual.checked_sub(reserved) {
            Some(0) => {}
            Some(more) => self.due.0 = self.due_after(self.latest, more),
            None if refunds => {
                let less = self.ratio.cost(reserved.saturating_sub(actual));
                self.due.0 = self.due.0.saturating_sub(less);
            }
            None => {}
        }
    }

    fn capacity(&self) -> u32 {
        self.limit.get()
    }

    fn available(&self, now: Tick) -> u32 {
        match self.earliest(now, 1) {
            Wait::Until(tick) if tick <= now.max(self.latest) => self.limit.get(),
            Wait::Until(_) | Wait::ForSettlement | Wait::Never => 0,
        }
    }

    fn is_idle(&self, now: Tick) -> bool {
        self.due.0 == 0 || self.is_late(now.max(self.latest))
    }

    fn rebase(&mut self, from: Tick, to: Tick) {
        self.latest = self.latest.max(from);
        let offset = ClockOffset { from, to };
        self.latest = offset.tick(self.latest);
        self.due.0 = self.ratio.rebase(self.due.0, from, to);
        self.refund_cutoff.rebase(offset);
    }

    fn worst_case(&self, span: Duration) -> u64 {
        // Units at their distances fill the span; the last admission takes the limit instead of one unit.
        let parts = self.ratio.worth(saturating_nanos(span));
        let units = parts.div_ceil(self.ratio.per_unit.get().into());
        let last = u128::from(self.limit.get()).saturating_sub(1);
        match units {
            0 => 0,
            units => u64::try_from(units.saturating_add(last)).unwrap_or(u64::MAX),
        }
    }
}
