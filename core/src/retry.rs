//! Retries: whether a failed attempt is retried, and after which delay.
//!
//! Invariant: the level of a [`RetryBudget`] is never above its reserve.

use crate::random::SplitMix64;
use crate::time::{ClockOffset, Tick, saturating_nanos};
use core::num::NonZeroU32;
use core::time::Duration;

/// Exponential backoff with jitter.
///
/// - **Full jitter**: the n-th delay is uniform in `0 ..= min(cap, base * 2^n)`, n from 0. It spreads
///   callers that failed together better than jitter around the exponential.
/// - **Decorrelated jitter**: each delay is uniform in `base ..= 3 * last` and then capped; `last` is
///   `base` at first. No delay is below `base`, unless `cap` is.
///
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
    /// Creates a backoff with full jitter from `base` up to `cap`.
    #[must_use]
    pub const fn new(base: Duration, cap: Duration, seed: u64) -> Self {
        Self {
            base: saturating_nanos(base),
            cap: saturating_nanos(cap),
            jitter: Jitter::Full { attempt: 0 },
            random: SplitMix64(seed),
        }
    }

    /// Creates a backoff with decorrelated jitter from `base` up to `cap`.
    #[must_use]
    pub const fn decorrelated(base: Duration, cap: Duration, seed: u64) -> Self {
        let last = saturating_nanos(base);
        Self {
            jitter: Jitter::Decorrelated { last },
            ..Self::new(base, cap, seed)
        }
    }

    /// Draws the delay before the next attempt.
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

/// Units of a level in one retry, so that a permille of a retry and a nanosecond's accrual are whole numbers.
const RETRY: u128 = 1_000 * 1_000_000_000;

/// Retry budget: bounds retries by a share of first attempts (as in Finagle).
///
/// One budget covers retries and hedges. A retry is withdrawn when it is decided, so that retries waiting
/// for their delay count, and refunded if it is not made.
///
/// Worst case: in any span, retries withdrawn minus refunds are at most
/// `reserve + deposit * first attempts in the span + per_second * seconds of the span`. From the start,
/// `initial` replaces `reserve`. Every operation costs O(1).
///
/// ```
/// use leasehold_core::retry::{BudgetExhausted, RetryBudget};
/// use leasehold_core::time::Tick;
///
/// // One retry for each five first attempts, and at most two saved up.
/// let now = Tick::ZERO;
/// let mut budget = RetryBudget::new(200, 2).initial(0);
/// for _ in 0..5 {
///     assert_eq!(budget.try_retry(now), Err(BudgetExhausted));
///     budget.deposit(now);
/// }
/// assert_eq!(budget.try_retry(now), Ok(()));
/// budget.refund(now);
/// assert_eq!(budget.try_retry(now), Ok(()));
/// assert_eq!(budget.try_retry(now), Err(BudgetExhausted));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RetryBudget {
    deposit: u16,
    reserve: u32,
    per_second: u32,
    latest: Tick,
    /// Retries left, in units of which a retry has [`RETRY`]; at most the reserve.
    level: u128,
    withdrawn: u64,
    refunded: u64,
}

/// Error of a retry that the budget does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the retry budget is exhausted")]
pub struct BudgetExhausted;

impl RetryBudget {
    /// Creates a budget to which each first attempt adds `deposit` thousandths of a retry.
    ///
    /// It holds at most `reserve` retries, and begins full.
    #[must_use]
    pub const fn new(deposit: u16, reserve: u32) -> Self {
        Self {
            deposit,
            reserve,
            per_second: 0,
            latest: Tick::ZERO,
            level: units_of(reserve),
            withdrawn: 0,
            refunded: 0,
        }
    }

    /// Sets the level to begin with, at most the reserve.
    #[must_use]
    pub const fn initial(mut self, retries: u32) -> Self {
        self.level = units_of(if retries < self.reserve {
            retries
        } else {
            self.reserve
        });
        self
    }

    /// Adds `retries` each second regardless of attempts, so that low traffic may retry too.
    ///
    /// Time counts from [`Tick::ZERO`].
    #[must_use]
    pub const fn per_second(mut self, retries: u32) -> Self {
        self.per_second = retries;
        self
    }

    /// Counts a first attempt, which adds the deposit.
    pub fn deposit(&mut self, now: Tick) {
        self.advance(now);
        self.add(u128::from(self.deposit).saturating_mul(RETRY / 1_000));
    }

    /// Withdraws one retry or hedge, at the time it is decided.
    ///
    /// # Errors
    /// If less than one retry is left.
    pub fn try_retry(&mut self, now: Tick) -> Result<(), BudgetExhausted> {
        self.advance(now);
        self.level = self.level.checked_sub(RETRY).ok_or(BudgetExhausted)?;
        self.withdrawn = self.withdrawn.saturating_add(1);
        Ok(())
    }

    /// Refunds a retry that was withdrawn and not made.
    ///
    /// Ignored once there have been as many refunds as withdrawals.
    pub fn refund(&mut self, now: Tick) {
        self.advance(now);
        if self.refunded < self.withdrawn {
            self.refunded = self.refunded.saturating_add(1);
            self.add(RETRY);
        }
    }

    /// Returns how many retries could be withdrawn at `now`.
    #[must_use]
    pub fn available(&self, now: Tick) -> u32 {
        let level = self.level.saturating_add(self.accrued(now));
        u32::try_from(level / RETRY).map_or(self.reserve, |retries| retries.min(self.reserve))
    }

    /// Returns the retries withdrawn so far, minus refunds.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.withdrawn.saturating_sub(self.refunded)
    }

    /// Moves all ticks to another clock, which shows `to` when this one shows `from`.
    pub fn rebase(&mut self, from: Tick, to: Tick) {
        self.latest = ClockOffset { from, to }.tick(self.latest);
    }

    fn advance(&mut self, now: Tick) {
        let accrued = self.accrued(now);
        self.latest = self.latest.max(now);
        self.add(accrued);
    }

    /// Returns the units added by time since the latest command.
    fn accrued(&self, now: Tick) -> u128 {
        let passed = u128::from(saturating_nanos(now.since(self.latest)));
        passed.saturating_mul(u128::from(self.per_second).saturating_mul(1_000))
    }

    fn add(&mut self, units: u128) {
        self.level = self.level.saturating_add(units).min(units_of(self.reserve));
    }
}

/// Returns the units of a number of retries.
const fn units_of(retries: u32) -> u128 {
    RETRY.saturating_mul(retries as u128)
}

/// Reason why an attempt at a task brought no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptFailure {
    /// The attempt failed; another one may succeed.
    Failed,
    /// The upstream refused the attempt unprocessed because of a rate limit.
    Throttled,
    /// The leased member cannot serve at all; another member may.
    MemberUnusable,
    /// No further attempt can succeed.
    Permanent,
}

/// Attempts left for one task.
///
/// Failures count as attempts. Throttled attempts are not counted; up to a bound, they are retried without
/// delay, because the member cools down by itself. Attempts at an unusable member are retried without a
/// bound of their own, because such a member is not leased again.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_core::retry::{AttemptFailure, Backoff, RetryState};
///
/// let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(8), 7);
/// let mut retry = RetryState::new(NonZeroU32::new(2).unwrap(), 10, backoff);
/// assert_eq!(retry.delay_after(AttemptFailure::Throttled), Some(Duration::ZERO));
/// assert!(retry.delay_after(AttemptFailure::Failed).is_some());
/// assert_eq!(retry.delay_after(AttemptFailure::Failed), None);
/// ```
#[derive(Clone, Debug)]
pub struct RetryState {
    attempts_left: u32,
    throttles_left: u32,
    backoff: Backoff,
}

impl RetryState {
    /// Allows `attempts` attempts that fail, and `throttles` more that are throttled.
    #[must_use]
    pub const fn new(attempts: NonZeroU32, throttles: u32, backoff: Backoff) -> Self {
        Self {
            attempts_left: attempts.get(),
            throttles_left: throttles,
            backoff,
        }
    }

    /// Counts a failed attempt and returns the delay before the next one; `None` means give up.
    pub fn delay_after(&mut self, failure: AttemptFailure) -> Option<Duration> {
        match failure {
            AttemptFailure::Failed => {
                self.attempts_left = self.attempts_left.saturating_sub(1);
                (self.attempts_left > 0).then(|| self.backoff.next_delay())
            }
            AttemptFailure::Throttled => {
                self.throttles_left = self.throttles_left.checked_sub(1)?;
                Some(Duration::ZERO)
            }
            AttemptFailure::MemberUnusable => Some(Duration::ZERO),
            AttemptFailure::Permanent => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_jitter_fills_a_range_that_doubles_up_to_the_cap() {
        let (base, cap) = (Duration::from_millis(100), Duration::from_millis(350));
        for (attempt, most) in [100, 200, 350, 350].into_iter().enumerate() {
            let most = Duration::from_millis(most);
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
                greatest <= most && greatest > most.mul_f64(0.95),
                "{greatest:?}"
            );
            assert!(least < most.mul_f64(0.05), "{least:?}");
        }
    }

    #[test]
    fn throttled_attempts_are_bounded_and_not_counted_as_attempts() {
        let backoff = Backoff::new(Duration::ZERO, Duration::ZERO, 1);
        let mut retry = RetryState::new(NonZeroU32::new(3).unwrap(), 2, backoff);
        let mut retries = |failure| retry.delay_after(failure).is_some();
        assert!(
            retries(AttemptFailure::Throttled)
                && retries(AttemptFailure::Failed)
                && retries(AttemptFailure::Throttled)
        );
        assert!(!retries(AttemptFailure::Throttled));
        assert!(retries(AttemptFailure::Failed) && retries(AttemptFailure::MemberUnusable));
        assert!(!retries(AttemptFailure::Failed));
    }

    #[test]
    fn full_jitter_never_exceeds_the_cap() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX, 1);
        for _ in 0..200 {
            assert!(backoff.next_delay() <= Duration::from_nanos(u64::MAX));
        }
    }

    #[test]
    fn decorrelated_jitter_fills_the_range_up_to_three_times_the_last_delay() {
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
    fn decorrelated_jitter_stays_at_a_cap_below_its_base() {
        let (base, cap) = (Duration::MAX, Duration::from_secs(1));
        let mut backoff = Backoff::decorrelated(base, cap, 1);
        for _ in 0..9 {
            assert_eq!(backoff.next_delay(), cap);
        }
    }

    #[test]
    fn a_deposit_of_a_tenth_allows_one_retry_for_ten_first_attempts() {
        let mut budget = RetryBudget::new(100, 3).initial(0);
        let mut retries = 0;
        for first in 1..=1_000 {
            budget.deposit(Tick::ZERO);
            retries += u32::from(budget.try_retry(Tick::ZERO).is_ok());
            assert_eq!(retries, first / 10);
        }
    }

    #[test]
    fn retries_per_second_fill_a_budget_up_to_its_reserve() {
        let at = |nanos| Tick::from_nanos(nanos);
        let mut budget = RetryBudget::new(0, 5).initial(0).per_second(3);
        assert_eq!(budget.available(at(333_333_333)), 0);
        assert_eq!(budget.available(at(333_333_334)), 1);
        budget.deposit(at(333_333_333));
        assert_eq!(budget.try_retry(at(333_333_333)), Err(BudgetExhausted));
        assert_eq!(budget.try_retry(at(333_333_334)), Ok(()));
        assert_eq!(budget.available(Tick::MAX), 5);
        let mut without = RetryBudget::new(0, 5).initial(0);
        assert_eq!(without.try_retry(Tick::MAX), Err(BudgetExhausted));
    }

    #[test]
    fn refunds_never_exceed_withdrawals() {
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
