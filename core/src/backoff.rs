//! Whether to try again, and how long to wait before.

use crate::time::saturating_nanos;
use core::num::NonZeroU32;
use core::time::Duration;

/// Exponential backoff with full jitter: the n-th delay is uniform in `0 ..= min(cap, base * 2^n)`.
///
/// Jitter over the whole range spreads callers that failed together better than a jitter around the
/// exponential does. Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
///
/// ```
/// use core::time::Duration;
/// use leasehold_core::backoff::Backoff;
///
/// let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(8), 7);
/// assert!(backoff.next_delay() <= Duration::from_millis(500));
/// assert!(backoff.next_delay() <= Duration::from_secs(1));
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    base: u64,
    cap: u64,
    attempt: u32,
    random: SplitMix64,
}

impl Backoff {
    /// A backoff that begins at `base` and never waits longer than `cap`.
    #[must_use]
    pub fn new(base: Duration, cap: Duration, seed: u64) -> Self {
        Self {
            base: saturating_nanos(base),
            cap: saturating_nanos(cap),
            attempt: 0,
            random: SplitMix64(seed),
        }
    }

    /// The delay before the next try.
    pub fn next_delay(&mut self) -> Duration {
        let factor = 1u64.checked_shl(self.attempt).unwrap_or(u64::MAX);
        let ceiling = self.base.saturating_mul(factor).min(self.cap);
        self.attempt = self.attempt.saturating_add(1);
        Duration::from_nanos(self.random.up_to(ceiling))
    }
}

/// Why a try brought no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setback {
    /// It failed, and another may not.
    Failed,
    /// The upstream turned it away unseen, as it does with those that come too soon.
    Throttled,
    /// Whoever it was leased from can't serve at all; somebody else may.
    Misdirected,
    /// No other try can do better.
    Hopeless,
}

/// What is left to be tried for one task.
///
/// Failures use tries up. A task that was turned away has not been tried, and its upstream rests by
/// itself; it is let back in line at once, but not for ever. One that was misdirected is let back
/// always, which ends because who can't serve is not leased again.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_core::backoff::{Backoff, Setback, Tries};
///
/// let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(8), 7);
/// let mut tries = Tries::new(NonZeroU32::new(2).unwrap(), 10, backoff);
/// assert_eq!(tries.after(Setback::Throttled), Some(Duration::ZERO));
/// assert!(tries.after(Setback::Failed).is_some());
/// assert_eq!(tries.after(Setback::Failed), None);
/// ```
#[derive(Clone, Debug)]
pub struct Tries {
    failures_left: u32,
    throttles_left: u32,
    backoff: Backoff,
}

impl Tries {
    /// Up to `tries` tries that may fail, and `throttles` more that may be turned away.
    #[must_use]
    pub const fn new(tries: NonZeroU32, throttles: u32, backoff: Backoff) -> Self {
        Self {
            failures_left: tries.get(),
            throttles_left: throttles,
            backoff,
        }
    }

    /// How long to wait before the next try; `None` to give up.
    pub fn after(&mut self, setback: Setback) -> Option<Duration> {
        match setback {
            Setback::Failed => {
                self.failures_left = self.failures_left.saturating_sub(1);
                (self.failures_left > 0).then(|| self.backoff.next_delay())
            }
            Setback::Throttled => {
                self.throttles_left = self.throttles_left.checked_sub(1)?;
                Some(Duration::ZERO)
            }
            Setback::Misdirected => Some(Duration::ZERO),
            Setback::Hopeless => None,
        }
    }
}

/// Source: G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix64(pub(crate) u64);

impl SplitMix64 {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in `0 ..= last`, to within 2^-64.
    fn up_to(&mut self, last: u64) -> u64 {
        let values = u128::from(last).saturating_add(1);
        (u128::from(self.next()).saturating_mul(values) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_fill_the_range_that_doubles_up_to_the_cap() {
        let (base, cap) = (Duration::from_millis(100), Duration::from_millis(350));
        for (attempt, ceiling) in [100, 200, 350, 350].into_iter().enumerate() {
            let ceiling = Duration::from_millis(ceiling);
            let delays = (0..1_000).map(|seed| {
                let mut backoff = Backoff::new(base, cap, seed);
                let mut delays = core::iter::repeat_with(|| backoff.next_delay());
                delays.nth(attempt).unwrap()
            });
            let (mut least, mut greatest) = (Duration::MAX, Duration::ZERO);
            for delay in delays {
                least = least.min(delay);
                greatest = greatest.max(delay);
            }
            assert!(
                greatest <= ceiling && greatest > ceiling.mul_f64(0.95),
                "{greatest:?}"
            );
            assert!(least < ceiling.mul_f64(0.05), "{least:?}");
        }
    }

    #[test]
    fn throttles_use_up_no_try_but_end_as_well() {
        let backoff = Backoff::new(Duration::ZERO, Duration::ZERO, 1);
        let mut tries = Tries::new(NonZeroU32::new(3).unwrap(), 2, backoff);
        let mut after = |setback| tries.after(setback).is_some();
        assert!(after(Setback::Throttled) && after(Setback::Failed) && after(Setback::Throttled));
        assert!(!after(Setback::Throttled));
        assert!(after(Setback::Failed) && after(Setback::Misdirected));
        assert!(!after(Setback::Failed));
    }

    #[test]
    fn a_backoff_without_end_stays_at_its_cap() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX, 1);
        for _ in 0..200 {
            assert!(backoff.next_delay() <= Duration::from_nanos(u64::MAX));
        }
    }
}
