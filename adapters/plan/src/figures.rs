//! The figures of a schedule.
//!
//! Invariant: every call is counted once, as served, refused or never served.

use crate::capacity::Capacity;
use crate::cost::{Prices, Tokens};
use crate::simulation::{Fate, Schedule};
use crate::workload::Workload;
use core::time::Duration;
use leasehold_core::pool::stats::balance_score;
use leasehold_core::time::Tick;

/// Counts and times of a workload on a capacity.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Figures {
    /// Calls of the workload.
    pub calls: u64,
    /// Calls that were served.
    pub served: u64,
    /// Calls that were refused, because they would have waited too long or behind too many.
    pub refused: u64,
    /// Calls that cost more than any limit ever admits.
    pub never_fit: u64,
    /// Calls that wait for ever, or were not come to.
    pub never_served: u64,
    /// From the start to the end of the last call.
    pub finish: Duration,
    /// The tokens of served calls.
    pub tokens: Tokens,
    /// The cost of these, if there are prices.
    pub cost: Option<f64>,
    /// Times from a call's request to its start.
    pub waits: Quantiles,
    /// Times from a call's start to its end.
    pub times: Quantiles,
    /// Times from a call's request to its end.
    pub totals: Quantiles,
    /// Calls of each member, by its index.
    pub per_member: Vec<u64>,
}

/// Quantiles of durations by nearest rank; zero where there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quantiles {
    /// The mean.
    pub mean: Duration,
    /// The median.
    pub p50: Duration,
    /// The 90th percentile.
    pub p90: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Quantiles {
    /// Sorts durations for their quantiles. O(n log n).
    #[must_use]
    pub fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        let count = all.len();
        let at = |permille: usize| {
            let rank = count.saturating_mul(permille).div_ceil(1_000);
            all.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        };
        let sum = all
            .iter()
            .map(Duration::as_nanos)
            .fold(0, u128::saturating_add);
        let mean = sum.checked_div(count as u128).unwrap_or(0);
        Self {
            mean: Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX)),
            p50: at(500),
            p90: at(900),
            p99: at(990),
            max: all.last().copied().unwrap_or_default(),
        }
    }
}

impl Figures {
    /// Sums up a schedule of a workload.
    #[must_use]
    pub fn of(
        schedule: &Schedule,
        workload: &Workload,
        capacity: &Capacity,
        prices: Option<Prices>,
    ) -> Self {
        let mut figures = Self {
            calls: schedule.calls.len() as u64,
            served: 0,
            refused: 0,
            never_fit: 0,
            never_served: 0,
            finish: Duration::ZERO,
            tokens: Tokens::default(),
            cost: None,
            waits: Quantiles::default(),
            times: Quantiles::default(),
            totals: Quantiles::default(),
            per_member: vec![0; capacity.members.len()],
        };
        let (mut waits, mut times, mut totals) = (Vec::new(), Vec::new(), Vec::new());
        let mut tokens = Vec::new();
        for (scheduled, call) in schedule.calls.iter().zip(workload.calls()) {
            let count = match scheduled.fate {
                Fate::Served {
                    member,
                    granted,
                    ended,
                } => {
                    let asked = scheduled.asked.unwrap_or(granted);
                    waits.push(granted.since(asked));
                    times.push(ended.since(granted));
                    totals.push(ended.since(asked));
                    tokens.push(call.tokens);
                    figures.finish = figures.finish.max(ended.since(Tick::ZERO));
                    if let Some(count) = figures.per_member.get_mut(member as usize) {
                        *count = count.saturating_add(1);
                    }
                    &mut figures.served
                }
                Fate::Refused => &mut figures.refused,
                Fate::NeverFits => &mut figures.never_fit,
                Fate::NeverServed => &mut figures.never_served,
            };
            *count = count.saturating_add(1);
        }
        figures.tokens = tokens.into_iter().sum();
        figures.cost = prices.map(|prices| prices.of(figures.tokens));
        figures.waits = Quantiles::of(waits);
        figures.times = Quantiles::of(times);
        figures.totals = Quantiles::of(totals);
        figures
    }

    /// Served calls a minute; zero where nothing took any time.
    #[must_use]
    pub fn calls_per_minute(&self) -> f64 {
        self.per_minute(self.served)
    }

    /// Tokens of served calls a minute.
    #[must_use]
    pub fn tokens_per_minute(&self) -> f64 {
        self.per_minute(self.tokens.total())
    }

    /// The fewest calls of a member over the most, from 0 to 1; 1 where there were none.
    #[must_use]
    pub fn balance_score(&self) -> f64 {
        balance_score(self.per_member.iter().copied())
    }

    /// Whether every call was served.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.served == self.calls
    }

    fn per_minute(&self, count: u64) -> f64 {
        let rate = count as f64 / self.finish.as_secs_f64() * 60.0;
        if rate.is_finite() { rate } else { 0.0 }
    }
}
