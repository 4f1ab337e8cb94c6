//! GCRA as a function of one 64-bit word, which its caller keeps in an atomic or a table.
//!
//! Invariant: the word is the theoretical arrival time of the next unit, in parts of a nanosecond, and never
//! decreases.

use super::admission::{LimitConfigError, Wait};
use super::rate_ratio::RateRatio;
use super::refill::Refill;
use crate::time::Tick;
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

/// The most parts of a nanosecond; with 16, a word lasts for 36 years.
const MAX_PARTS: u32 = 16;

/// A [`Gcra`](super::Gcra) without state of its own: one unit each `window / limit`, up to `burst` early.
///
/// The state is one word, zero at the start. A unit's interval is exact where it is a multiple of `1/n` ns for some
/// `n <= 16`; otherwise it is rounded up to the next sixteenth of a nanosecond.
///
/// Calls on one word may come with ticks in any order, for example from threads that each read a clock: no span, by
/// the ticks of the calls, ever holds more than [`worst_case`](Self::worst_case). Admitted units can't be refunded.
/// Every operation costs O(1).
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
    refill: Refill,
    /// The burst in parts.
    tolerance: u64,
}

impl GcraWord {
    /// Creates a rate of which a whole burst can be admitted at once.
    ///
    /// # Errors
    /// [`LimitConfigError`] if the window is zero, longer than 584 years or has less than a nanosecond for each
    /// unit, or a burst has 2^64 parts or more: 584 years of flow at one part a nanosecond, 36 at 16.
    pub fn new(
        limit: NonZeroU32,
        window: Duration,
        burst: NonZeroU32,
    ) -> Result<Self, LimitConfigError> {
        let mut refill = Refill::new(limit, window, burst)?;
        refill.ratio = coarsened(refill.ratio).ok_or(LimitConfigError::TooFine)?;
        Ok(Self {
            refill,
            tolerance: u64::try_from(refill.capacity()).map_err(|_| LimitConfigError::TooFine)?,
        })
    }

    /// The word after admitting `cost` units. A cost of zero is always admitted.
    ///
    /// # Errors
    /// The [`Wait`] that [`earliest`](Self::earliest) answers.
    #[inline]
    pub fn admit(&self, word: u64, now: Tick, cost: u32) -> Result<u64, Wait> {
        if cost == 0 {
            return Ok(word);
        }
        let parts = self.parts(now);
        match self.due_after(word, parts, cost) {
            Some(due) if due.saturating_sub(parts) <= self.tolerance => Ok(due),
            Some(due) if cost <= self.refill.burst.get() => Err(Wait::Until(self.opens(due))),
            Some(_) | None => Err(Wait::Never),
        }
    }

    /// When `cost` units can be admitted: `Until(now)` if at once.
    #[must_use]
    pub fn earliest(&self, word: u64, now: Tick, cost: u32) -> Wait {
        if cost == 0 {
            return Wait::Until(now);
        }
        match self.due_after(word, self.parts(now), cost) {
            Some(due) if cost <= self.refill.burst.get() => Wait::Until(now.max(self.opens(due))),
            Some(_) | None => Wait::Never,
        }
    }

    /// The tick from which on a word decides as zero does.
    #[must_use]
    pub fn idle_at(&self, word: u64) -> Tick {
        self.tick(word)
    }

    /// The most units that are ever admitted in a half-open span of this length.
    #[must_use]
    pub fn worst_case(&self, span: Duration) -> u64 {
        self.refill.worst_case(span)
    }

    #[inline]
    fn parts(&self, tick: Tick) -> u64 {
        let per_nano = self.refill.ratio.per_nano.get();
        tick.as_nanos().saturating_mul(per_nano.into())
    }

    /// When a cost fits that moves the word to `due`.
    #[inline]
    fn opens(&self, due: u64) -> Tick {
        self.tick(due.saturating_sub(self.tolerance))
    }

    /// The first tick that is not before `parts`.
    #[inline]
    fn tick(&self, parts: u64) -> Tick {
        // In 64 bits, which a refusal can be answered in without a wider division.
        Tick::from_nanos(match self.refill.ratio.per_nano {
            NonZeroU32::MIN => parts,
            per_nano => parts.div_ceil(per_nano.get().into()),
        })
    }

    /// The word after `cost` units; `None` if it would not fit into 64 bits.
    #[inline]
    fn due_after(&self, word: u64, parts: u64, cost: u32) -> Option<u64> {
        let per_unit = self.refill.ratio.per_unit.get();
        let cost = per_unit.checked_mul(cost.into())?;
        word.max(parts).checked_add(cost)
    }
}

/// The same rate, or the next lower one in sixteenths of a nanosecond if it needs smaller parts.
fn coarsened(ratio: RateRatio) -> Option<RateRatio> {
    if ratio.per_nano.get() <= MAX_PARTS {
        return Some(ratio);
    }
    let parts = u128::from(ratio.per_unit.get()).saturating_mul(MAX_PARTS.into());
    let per_unit = parts.div_ceil(ratio.per_nano.get().into());
    Some(RateRatio {
        per_nano: NonZeroU32::new(MAX_PARTS)?,
        per_unit: NonZeroU64::new(u64::try_from(per_unit).ok()?)?,
    })
}
