//! Whether to try again, and how long to wait before.
//!
//! Invariant: the level of a [`RetryBudget`] is never above its reserve.

use crate::random::SplitMix64;
use crate::time::{ClockOffset, Tick, saturating_nanos};
use core::num::NonZeroU32;
use core::time::Duration;

/// Exponential backoff whose delays are drawn at random.
///
/// With **full jitter** the n-th delay is uniform in `0 ..= min(cap, base * 2^n)`. Jitter over the whole
/// range spreads callers that failed together better than a jitter around the exponential does.
/// With **decorrelated jitter** each delay is uniform in `base ..= 3 * last`, where the last one before
/// the first is `base`, and at most `cap`: no delay is below the base.
/// Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
///
/// ```
/// use core::time::Duration;
/// use leasehold_core::retry::Backoff;
///
/// let (base, cap) = (Duration::from_millis(500), Duration::from_secs(8));
/// let mut backoff = Backoff::new(base, cap, 7);
/// assert!(backoff.next_delay() <= base);
/// assert!(backoff.next_delay() <= 2 * base);
///
/// let mut backoff = Backoff::decorrelated(base, cap, 7);
/// let first = backoff.next_delay();
/// assert!(base <= first && first <= 3 * base);
/// assert!(backoff.next_delay() <= 3 * first);
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    base: u64,
    cap: u64,
    jitter: Jitter,
    random: SplitMix64,
}

#[derive(Clone, Copy, Debug)]
enum Jitter {
    Full { attempt: u32 },
    Decorrelated { last: u64 },
}

impl Backoff {
    /// A backoff with full jitter that begins at `base` and never waits longer than `cap`.
    #[must_use]
    pub const fn new(base: Duration, cap: Duration, seed: u64) -> Self {
        Self {
            base: saturating_nanos(base),
            cap: saturating_nanos(cap),
            jitter: Jitter::Full { attempt: 0 },
            random: SplitMix64(seed),
        }
    }

    /// A backoff with decorrelated jitter that begins at `base` and never waits longer than `cap`.
    #[must_use]
    pub const fn decorrelated(base: Duration, cap: Duration, seed: u64) -> Self {
        let last = saturating_nanos(base);
        Self {
            jitter: Jitter::Decorrelated { last },
            ..Self::new(base, cap, seed)
        }
    }

    /// The delay before the next try.
    pub fn next_delay(&mut self) -> Duration {
        let delay = match &mut self.jitter {
            Jitter::Full { attempt } => {
                let factor = 1u64.checked_shl(*attempt).unwrap_or(u64::MAX);
                *attempt = attempt.saturating_add(1);
                self.random
                    .up_to(self.base.saturating_mul(factor).min(self.cap))
            }
            Jitter::Decorrelated { last } => {
                let range = last.saturating_mul(3).saturating_sub(self.base);
                let drawn = self.base.saturating_add(self.random.up_to(range));
                *last = drawn.min(self.cap);
                *last
            }
        };
        Duration::from_nanos(delay)
    }
}

/// What one retry takes out of a budget: a permille times a nanosecond, so that deposits are exact.
const RETRY: u128 = 1_000 * 1_000_000_000;

/// How many retries there may be for so many first attempts.
///
/// One budget stands for retries and hedges alike. A retry takes its place when it is decided, so that
/// those that wait for their delay count, and gives it back if it isn't made after all.
///
/// Worst case: over any span, the retries decided less those given back are at most
/// `reserve + deposit * first attempts in the span + per_second * seconds of the span`; from the
/// beginning, `initial` stands for `reserve`. Every operation costs O(1).
///
/// ```
/// use leasehold_core::retry::{Exhausted, RetryBudget};
/// use leasehold_core::time::Tick;
///
/// // One retry for each five first attempts, and two at once.
/// let now = Tick::ZERO;
/// let mut budget = RetryBudget::new(200, 2).initial(0);
/// for _ in 0..5 {
///     assert_eq!(budget.try_retry(now), Err(Exhausted));
///     budget.deposit(now);
/// }
/// assert_eq!(budget.try_retry(now), Ok(()));
/// budget.refund(now);
/// assert_eq!(budget.try_retry(now), Ok(()));
/// assert_eq!(budget.try_retry(now), Err(Exhausted));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RetryBudget {
    deposit: u16,
    reserve: u32,
    per_second: u32,
    latest: Tick,
    /// In parts of which a retry takes [`RETRY`]; at most the reserve.
    level: u128,
    decided: u64,
    refunded: u64,
}

/// There have been as many retries as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the retry budget is exhausted")]
pub struct Exhausted;

impl RetryBudget {
    /// A budget to which each first attempt adds `deposit` thousandths of a retry, and which holds at most
    /// `reserve` retries and begins with as many.
    #[must_use]
    pub const fn new(deposit: u16, reserve: u32) -> Self {
        Self {
            deposit,
            reserve,
            per_second: 0,
            latest: Tick::ZERO,
            level: whole(reserve),
            decided: 0,
            refunded: 0,
        }
    }

    /// Begins with so many retries, or with the reserve if that is less.
    #[must_use]
    pub const fn initial(mut self, retries: u32) -> Self {
        self.level = whole(if retries < self.reserve {
            retries
        } else {
            self.reserve
        });
        self
    }

    /// Adds so many retries each second whatever is attempted, so that low traffic may retry too. Time
    /// counts from the epoch of ticks on.
    #[must_use]
    pub const fn per_second(mut self, retries: u32) -> Self {
        self.per_second = retries;
        self
    }

    /// Adds what one first attempt is worth.
    pub fn deposit(&mut self, now: Tick) {
        self.advance(now);
        self.add(u128::from(self.deposit).saturating_mul(RETRY / 1_000));
    }

    /// Takes the place of one retry, or of one hedge, at the time it is decided.
    ///
    /// # Errors
    /// Where there is none.
    pub fn try_retry(&mut self, now: Tick) -> Result<(), Exhausted> {
        self.advance(now);
        self.level = self.level.checked_sub(RETRY).ok_or(Exhausted)?;
        self.decided = self.decided.saturating_add(1);
        Ok(())
    }

    /// Gives back the place of one retry that was decided and has not been made. Nothing happens where as
    /// many have been given back as were decided.
    pub fn refund(&mut self, now: Tick) {
        self.advance(now);
        if self.refunded < self.decided {
            self.refunded = self.refunded.saturating_add(1);
            self.add(RETRY);
        }
    }

    /// How many retries could be decided now.
    #[must_use]
    pub fn available(&self, now: Tick) -> u32 {
        let level = self.level.saturating_add(self.flow(now));
        u32::try_from(level / RETRY).map_or(self.reserve, |retries| retries.min(self.reserve))
    }

    /// Retries decided so far, less those given back.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.decided.saturating_sub(self.refunded)
    }

    /// Moves what is remembered to another clock, which shows `to` when this one shows `from`.
    pub fn rebase(&mut self, from: Tick, to: Tick) {
        self.latest = ClockOffset { from, to }.tick(self.latest);
    }

    fn advance(&mut self, now: Tick) {
        let flow = self.flow(now);
        self.latest = self.latest.max(now);
        self.add(flow);
    }

    /// What time has added since the latest command.
    fn flow(&self, now: Tick) -> u128 {
        let passed = u128::from(saturating_nanos(now.since(self.latest)));
        passed.saturating_mul(u128::from(self.per_second).saturating_mul(1_000))
    }

    fn add(&mut self, parts: u128) {
        self.level = self.level.saturating_add(parts).min(whole(self.reserve));
    }
}

/// The parts of so many retries.
const fn whole(retries: u32) -> u128 {
    RETRY.saturating_mul(retries as u128)
}

/// Why a try brought no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptFailure {
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
/// use leasehold_core::retry::{Backoff, AttemptFailure, RetryState};
///
/// let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(8), 7);
/// let mut tries = RetryState::new(NonZeroU32::new(2).unwrap(), 10, backoff);
/// assert_eq!(tries.after(AttemptFailure::Throttled), Some(Duration::ZERO));
/// assert!(tries.after(AttemptFailure::Failed).is_some());
/// assert_eq!(tries.after(AttemptFailure::Failed), None);
/// ```
#[derive(Clone, Debug)]
pub struct RetryState {
    failures_left: u32,
    throttles_left: u32,
    backoff: Backoff,
}

impl RetryState {
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
    pub fn after(&mut self, setback: AttemptFailure) -> Option<Duration> {
        match setback {
            AttemptFailure::Failed => {
                self.failures_left = self.failures_left.saturating_sub(1);
                (self.failures_left > 0).then(|| self.backoff.next_delay())
            }
            AttemptFailure::Throttled => {
                self.throttles_left = self.throttles_left.checked_sub(1)?;
                Some(Duration::ZERO)
            }
            AttemptFailure::Misdirected => Some(Duration::ZERO),
            AttemptFailure::Hopeless => None,
        }
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
        let mut tries = RetryState::new(NonZeroU32::new(3).unwrap(), 2, backoff);
        let mut after = |setback| tries.after(setback).is_some();
        assert!(
            after(AttemptFailure::Throttled)
                && after(AttemptFailure::Failed)
                && after(AttemptFailure::Throttled)
        );
        assert!(!after(AttemptFailure::Throttled));
        assert!(after(AttemptFailure::Failed) && after(AttemptFailure::Misdirected));
        assert!(!after(AttemptFailure::Failed));
    }

    #[test]
    fn a_backoff_without_end_stays_at_its_cap() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX, 1);
        for _ in 0..200 {
            assert!(backoff.next_delay() <= Duration::from_nanos(u64::MAX));
        }
    }

    #[test]
    fn decorrelated_delays_fill_the_range_up_to_three_times_the_last() {
        let (base, cap) = (Duration::from_millis(100), Duration::from_secs(2));
        let (mut least, mut greatest) = (Duration::MAX, Duration::ZERO);
        for seed in 0..2_000 {
            let mut backoff = Backoff::decorrelated(base, cap, seed);
            let mut last = base;
            for attempt in 0..10 {
                let delay = backoff.next_delay();
                assert!(base <= delay && delay <= cap.min(last * 3), "{delay:?}");
                if attempt == 0 {
                    least = least.min(delay);
                    greatest = greatest.max(delay);
                }
                last = delay;
            }
        }
        assert!(least < base.mul_f64(1.01), "{least:?}");
        assert!(greatest > base.mul_f64(2.98), "{greatest:?}");
    }

    #[test]
    fn a_decorrelated_backoff_stays_at_a_cap_below_its_base() {
        let (base, cap) = (Duration::MAX, Duration::from_secs(1));
        let mut backoff = Backoff::decorrelated(base, cap, 1);
        for _ in 0..9 {
            assert_eq!(backoff.next_delay(), cap);
        }
    }

    #[test]
    fn a_budget_of_a_tenth_allows_each_tenth_retry() {
        let mut budget = RetryBudget::new(100, 3).initial(0);
        let mut retries = 0;
        for first in 1..=1_000 {
            budget.deposit(Tick::ZERO);
            retries += u32::from(budget.try_retry(Tick::ZERO).is_ok());
            assert_eq!(retries, first / 10);
        }
    }

    #[test]
    fn time_alone_fills_a_budget_to_its_reserve_if_it_is_to() {
        let at = |nanos| Tick::from_nanos(nanos);
        let mut budget = RetryBudget::new(0, 5).initial(0).per_second(3);
        assert_eq!(budget.available(at(333_333_333)), 0);
        assert_eq!(budget.available(at(333_333_334)), 1);
        budget.deposit(at(333_333_333));
        assert_eq!(budget.try_retry(at(333_333_333)), Err(Exhausted));
        assert_eq!(budget.try_retry(at(333_333_334)), Ok(()));
        assert_eq!(budget.available(Tick::MAX), 5);
        let mut without = RetryBudget::new(0, 5).initial(0);
        assert_eq!(without.try_retry(Tick::MAX), Err(Exhausted));
    }

    #[test]
    fn more_is_never_given_back_than_was_taken() {
        let mut budget = RetryBudget::new(0, 5).initial(1);
        budget.refund(Tick::ZERO);
        assert_eq!(budget.available(Tick::ZERO), 1);
        for _ in 0..9 {
            assert_eq!(budget.try_retry(Tick::ZERO), Ok(()));
            budget.refund(Tick::ZERO);
        }
        assert_eq!((budget.available(Tick::ZERO), budget.retries()), (1, 0));
    }
}
