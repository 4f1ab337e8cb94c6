//! One limit of one key: the arrivals of its last window, and the rulings on them.
//!
//! Invariant: the sum of what was charged in any half-open window is at most the limit's amount.

use crate::limit::Limit;
use crate::report::LimitReport;
use core::time::Duration;

/// The time at which a cost fits a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Now,
    /// The cost fits after this time, if nothing else is charged.
    After(Duration),
    /// The cost is above the limit itself.
    Never,
}

/// A key's use of a limit at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LimitUsage {
    pub(crate) amount: u64,
    /// Units charged in the window that ends now.
    pub(crate) used: u64,
    /// Time until none of them counts any more.
    pub(crate) reset: Duration,
}

impl LimitUsage {
    pub(crate) const fn remaining(&self) -> u64 {
        self.amount.saturating_sub(self.used)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Ledger {
    pub(super) limit: Limit,
    window: u64,
    /// Time and cost of the charges of the last window, oldest first.
    charged: Vec<(u64, u64)>,
    /// Time and cost of every arrival of the last window, refused ones included.
    arrived: Vec<(u64, u64)>,
    max_in_window: u64,
    refused: u64,
}

impl Ledger {
    pub(super) fn new(limit: Limit) -> Self {
        Self {
            window: nanos(limit.window),
            limit,
            charged: Vec::new(),
            arrived: Vec::new(),
            max_in_window: 0,
            refused: 0,
        }
    }

    /// Notes an arrival, before it is ruled on.
    pub(super) fn arrive(&mut self, cost: u64, now: u64) {
        let in_window = |entry: &(u64, u64)| now.saturating_sub(entry.0) < self.window;
        self.charged.retain(in_window);
        self.arrived.retain(in_window);
        self.arrived.push((now, cost));
        self.max_in_window = self.max_in_window.max(sum(&self.arrived));
    }

    pub(super) fn fit(&self, cost: u64, now: u64) -> Fit {
        let amount = self.limit.amount.get();
        if cost > amount {
            return Fit::Never;
        }
        let mut used = sum(&self.charged);
        let mut wait = 0;
        for (at, of) in &self.charged {
            if used + cost <= amount {
                break;
            }
            used -= of;
            wait = self.window - now.saturating_sub(*at);
        }
        if wait == 0 {
            Fit::Now
        } else {
            Fit::After(Duration::from_nanos(wait))
        }
    }

    pub(super) fn charge(&mut self, cost: u64, now: u64) {
        self.charged.push((now, cost));
    }

    pub(super) const fn refuse(&mut self) {
        self.refused += 1;
    }

    pub(super) fn usage(&self, now: u64) -> LimitUsage {
        let in_window = |entry: &&(u64, u64)| now.saturating_sub(entry.0) < self.window;
        let charged = self.charged.iter().filter(in_window);
        let newest = charged.clone().map(|(at, _)| *at).max();
        LimitUsage {
            amount: self.limit.amount.get(),
            used: charged.map(|(_, cost)| cost).sum(),
            reset: newest.map_or(Duration::ZERO, |newest| {
                Duration::from_nanos(self.window - now.saturating_sub(newest))
            }),
        }
    }

    pub(super) fn report(&self) -> LimitReport {
        LimitReport {
            limit: self.limit.to_string(),
            amount: self.limit.amount.get(),
            max_in_window: self.max_in_window,
            refused: self.refused,
        }
    }
}

/// Nanoseconds of a duration; saturates after 584 years.
pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

fn sum(entries: &[(u64, u64)]) -> u64 {
    entries.iter().map(|(_, cost)| cost).sum()
}
