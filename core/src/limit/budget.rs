//! Budgets: amounts of anything that may be spent in each aligned window, such as money in a day.
//!
//! Invariant: `spent` is the sum of what was reserved and settled in the window that begins at `start`, and no
//! reservation is granted that would take it above the budget.

use super::admission::{LimitConfigError, Wait, window_nanos};
use crate::time::Tick;
use core::num::NonZeroU64;
use core::time::Duration;

/// An amount that may be spent in each window aligned to the clock's epoch.
///
/// Unlike a [`FixedWindow`](super::FixedWindow) it counts in 64 bits and is refused, not waited for. Each command costs
/// O(1).
///
/// Worst case: a window's reservations are never above the budget. What is spent is above it only by what calls use
/// beyond their own reservations.
///
/// ```
/// use core::num::NonZeroU64;
/// use core::time::Duration;
/// use leasehold_core::limit::{Budget, Wait};
/// use leasehold_core::time::Tick;
///
/// let at = |secs: u64| Tick::from_nanos(secs * 1_000_000_000);
/// let mut budget = Budget::new(NonZeroU64::new(100).unwrap(), Duration::from_secs(60))?;
/// let call = budget.reserve(at(5), 70).unwrap();
/// assert_eq!(budget.reserve(at(6), 40), Err(Wait::Until(at(60))));
/// budget.settle(at(7), call, 20);
/// assert!(budget.reserve(at(8), 40).is_ok());
/// assert_eq!(budget.spent(at(8)), 60);
/// assert_eq!(budget.spent(at(60)), 0);
/// # Ok::<(), leasehold_core::limit::LimitConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    amount: NonZeroU64,
    width: NonZeroU64,
    start: Tick,
    spent: u64,
}

/// An amount that was set aside for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// The begin of the window that it is taken from.
    start: Tick,
    amount: u64,
}

impl Budget {
    /// Makes a budget of which nothing is spent.
    ///
    /// # Errors
    /// [`LimitConfigError`] if the window is zero or longer than 584 years.
    pub fn new(amount: NonZeroU64, window: Duration) -> Result<Self, LimitConfigError> {
        Ok(Self {
            amount,
            width: NonZeroU64::new(window_nanos(window)?).ok_or(LimitConfigError::EmptyWindow)?,
            start: Tick::ZERO,
            spent: 0,
        })
    }

    /// Sets an amount aside, or changes nothing.
    ///
    /// # Errors
    /// [`Wait::Until`] the next window, where the rest of this one is too small; [`Wait::Never`] for an amount above
    /// the whole budget.
    pub fn reserve(&mut self, now: Tick, amount: u64) -> Result<Reserved, Wait> {
        if amount > self.amount.get() {
            return Err(Wait::Never);
        }
        self.advance(now);
        match self.spent.checked_add(amount) {
            Some(spent) if spent <= self.amount.get() => self.spent = spent,
            Some(_) | None => return Err(self.end().map_or(Wait::Never, Wait::Until)),
        }
        Ok(Reserved {
            start: self.start,
            amount,
        })
    }

    /// Replaces an amount that was set aside by the one that was really spent, which may be larger. One that was taken
    /// from an earlier window changes nothing.
    pub fn settle(&mut self, now: Tick, reserved: Reserved, spent: u64) {
        self.advance(now);
        if reserved.start == self.start {
            let others = self.spent.saturating_sub(reserved.amount);
            self.spent = others.saturating_add(spent);
        }
    }

    /// Enters what was spent in the window of `at` before this budget was made; of a window that has ended, nothing.
    pub fn restore(&mut self, now: Tick, at: Tick, spent: u64) {
        self.advance(now);
        if at >= self.start {
            self.spent = self.spent.saturating_add(spent);
        }
    }

    /// What the present window has spent, reservations included.
    #[must_use]
    pub fn spent(&self, now: Tick) -> u64 {
        match self.end() {
            Some(end) if now >= end => 0,
            Some(_) | None => self.spent,
        }
    }

    /// What each window may spend.
    #[must_use]
    pub const fn amount(&self) -> u64 {
        self.amount.get()
    }

    /// The tick at which the window of `now` ends; `None` past the last tick.
    #[must_use]
    pub fn next_window(&self, now: Tick) -> Option<Tick> {
        let mut at_now = self.clone();
        at_now.advance(now);
        at_now.end()
    }

    fn end(&self) -> Option<Tick> {
        self.start.checked_add_nanos(self.width.get())
    }

    /// Goes on to the window of `now`; time that runs backwards stays in the present one.
    fn advance(&mut self, now: Tick) {
        let into = now.nanos_since(self.start);
        if into >= self.width.get() {
            let start = now.as_nanos().saturating_sub(into % self.width);
            (self.start, self.spent) = (Tick::from_nanos(start), 0);
        }
    }
}
