//! Counts outcomes over a sliding window and decides whether the failure rate is exceeded.
//!
//! Invariant: `counts[slot]` is the part of the window that begins at `start`; the others precede it in
//! ring order.

use crate::time::{ClockOffset, Tick, saturating_nanos};
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

/// Number of parts in which a window is counted.
pub(super) const PARTS: usize = 8;

/// Share of failures that trips a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FailureRate {
    pub(super) permille: u16,
    /// Length of one part of the window, in nanoseconds.
    pub(super) part: NonZeroU64,
    /// Minimum number of outcomes in the window.
    pub(super) minimum: NonZeroU32,
}

/// Ring of outcome counts, one entry for each part of the window.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct FailureWindow {
    start: Tick,
    slot: u8,
    counts: [Count; PARTS],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Count {
    total: u32,
    failed: u32,
}

impl FailureWindow {
    pub(super) const fn starting_at(start: Tick) -> Self {
        const NONE: Count = Count {
            total: 0,
            failed: 0,
        };
        Self {
            start,
            slot: 0,
            counts: [NONE; PARTS],
        }
    }

    /// Counts an outcome, and returns whether the failure rate is exceeded with it.
    pub(super) fn record(&mut self, rate: FailureRate, now: Tick, failed: bool) -> bool {
        self.advance(rate, now);
        if let Some(count) = self.counts.get_mut(usize::from(self.slot)) {
            count.total = count.total.saturating_add(1);
            count.failed = count.failed.saturating_add(failed.into());
        }
        let sum = |of: fn(&Count) -> u32| {
            let counts = self.counts.iter().map(|count| u64::from(of(count)));
            counts.fold(0, u64::saturating_add)
        };
        let (total, failed) = (sum(|count| count.total), sum(|count| count.failed));
        total >= rate.minimum.get().into()
            && failed.saturating_mul(1_000) >= total.saturating_mul(rate.permille.into())
    }

    /// Moves the window to the clock that shows `offset.to` when this one shows `offset.from`.
    pub(super) fn rebase(&mut self, offset: ClockOffset) {
        self.start = offset.tick(self.start);
    }

    /// Clears the parts that have left the window by `now`.
    fn advance(&mut self, rate: FailureRate, now: Tick) {
        let steps = saturating_nanos(now.since(self.start)) / rate.part;
        for _ in 0..steps.min(PARTS as u64) {
            self.slot = match self.slot.checked_add(1) {
                Some(next) if usize::from(next) < PARTS => next,
                Some(_) | None => 0,
            };
            if let Some(count) = self.counts.get_mut(usize::from(self.slot)) {
                *count = Count::default();
            }
        }
        let passed = steps.saturating_mul(rate.part.get());
        self.start = self.start.saturating_add(Duration::from_nanos(passed));
    }
}
