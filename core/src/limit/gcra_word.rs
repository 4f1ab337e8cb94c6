//! The generic cell rate algorithm as a function of one word, for whoever keeps that word in an atomic or a
//! table.
//!
//! Invariant: the word is the theoretical arrival time of the next unit, in parts of a nanosecond; it is
//! never set back.

use super::rate_ratio::RateRatio;
use super::{LimitConfigError, Wait};
use crate::time::Tick;
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

/// Parts that a nanosecond is cut into at most, so that a word lasts for 36 years.
const MAX_PARTS: u32 = 16;

/// One unit is due each `window / limit`, and up to `burst` may come early; all that there is to remember
/// is one word, zero at the beginning. Decides as a [`Gcra`](super::Gcra) does, whose source it has.
///
/// A unit takes a whole number of sixteenths of a nanosecond, rounded up, where it takes no whole number of
/// larger parts. Calls on one word may come with ticks in any order, as from threads that each read a
/// clock: then too, no more is admitted in any span, by the ticks of the calls, than
/// [`worst_case`](Self::worst_case) says. What was admitted is not given back. Every operation costs O(1).
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_core::limit::{GcraWord, Wait};
/// use leasehold_core::time::Tick;
///
/// let three = NonZeroU32::new(3).unwrap();
/// let rate = GcraWord::new(three, Duration::from_secs(60), NonZeroU32::MIN)?;
/// let at = |secs: u64| Tick::from_nanos(secs * 1_000_000_000);
/// let word = rate.admit(0, at(5), 1).unwrap();
/// assert_eq!(rate.admit(word, at(6), 1), Err(Wait::Until(at(25))));
/// assert_eq!(rate.idle_at(word), at(25));
/// # Ok::<(), leasehold_core::limit::LimitConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcraWord {
    ratio: RateRatio,
    burst: NonZeroU32,
    /// `burst` in parts.
    tolerance: u64,
}

impl GcraWord {
    /// A rate that a whole burst can be taken from at once.
    ///
    /// # Errors
    /// Where the window is zero, longer than 584 years, or has less than a nanosecond for each unit, or the
    /// burst takes longer than 36 years to come.
    pub fn new(
        limit: NonZeroU32,
        window: Duration,
        burst: NonZeroU32,
    ) -> Result<Self, LimitConfigError> {
        let mut ratio = RateRatio::new(limit, window)?;
        if ratio.per_nano.get() > MAX_PARTS {
            let parts = u128::from(ratio.per_unit.get()).saturating_mul(MAX_PARTS.into());
            let per_unit = parts.div_ceil(ratio.per_nano.get().into());
            let per_unit = u64::try_from(per_unit).map_err(|_| LimitConfigError::TooFine)?;
            ratio = RateRatio {
                per_nano: NonZeroU32::new(MAX_PARTS).ok_or(LimitConfigError::TooFine)?,
                per_unit: NonZeroU64::new(per_unit).ok_or(LimitConfigError::TooFine)?,
            };
        }
        Ok(Self {
            ratio,
            burst,
            tolerance: u64::try_from(ratio.cost(burst.get()))
                .map_err(|_| LimitConfigError::TooFine)?,
        })
    }

    /// The word after `cost` units, or when to ask again. A cost of zero is admitted always.
    ///
    /// # Errors
    /// The [`Wait`] that [`earliest`](Self::earliest) would answer.
    #[inline]
    pub fn admit(&self, word: u64, now: Tick, cost: u32) -> Result<u64, Wait> {
        if cost == 0 {
            return Ok(word);
        }
        let parts = self.parts(now);
        match self.due_after(word, parts, cost) {
            Some(due) if due.saturating_sub(parts) <= self.tolerance => Ok(due),
            Some(due) if cost <= self.burst.get() => Err(Wait::Until(self.opens(due))),
            Some(_) | None => Err(Wait::Never),
        }
    }

    /// When `cost` units could be admitted: `Until(now)` if at once.
    #[must_use]
    pub fn earliest(&self, word: u64, now: Tick, cost: u32) -> Wait {
        if cost > self.burst.get() {
            return Wait::Never;
        }
        match self.due_after(word, self.parts(now), cost) {
            _ if cost == 0 => Wait::Until(now),
            Some(due) => Wait::Until(now.max(self.opens(due))),
            None => Wait::Never,
        }
    }

    /// From when on a word decides as zero does.
    #[must_use]
    pub fn idle_at(&self, word: u64) -> Tick {
        self.tick(word)
    }

    /// The most units that are ever admitted in a half-open span of this length.
    #[must_use]
    pub fn worst_case(&self, span: Duration) -> u64 {
        self.ratio.worst_case(self.burst, span)
    }

    #[inline]
    fn parts(&self, tick: Tick) -> u64 {
        tick.as_nanos()
            .saturating_mul(self.ratio.per_nano.get().into())
    }

    /// When a unit can come that is due then.
    #[inline]
    fn opens(&self, due: u64) -> Tick {
        self.tick(due.saturating_sub(self.tolerance))
    }

    /// The first tick that is not before as many parts.
    #[inline]
    fn tick(&self, parts: u64) -> Tick {
        Tick::from_nanos(match self.ratio.per_nano {
            NonZeroU32::MIN => parts,
            per_nano => parts.div_ceil(per_nano.get().into()),
        })
    }

    #[inline]
    fn due_after(&self, word: u64, parts: u64, cost: u32) -> Option<u64> {
        let cost = self.ratio.per_unit.get().checked_mul(cost.into())?;
        word.max(parts).checked_add(cost)
    }
}
