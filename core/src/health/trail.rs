//! Past values of a count, from which the part of it within a span of time is found.
//!
//! Invariant: at most [`Trail::MAX_KEPT`] values are kept, the oldest first.

use crate::time::{Tick, saturating_nanos};
use alloc::collections::VecDeque;
use core::time::Duration;

/// Values of a count that only grows, at some times of the past.
///
/// A difference to [`note`](Self::note) tells what was added within the span, or within up to a sixtieth more of it:
/// that much of the past is kept as one. While less than the span has passed, it is what was added since the first
/// value. A note costs O(1) amortised.
///
/// ```
/// use core::time::Duration;
/// use leasehold_core::health::Trail;
/// use leasehold_core::time::Tick;
///
/// let at = |secs: u64| Tick::from_nanos(secs * 1_000_000_000);
/// let mut trail = Trail::new(Duration::from_secs(60));
/// let mut added = |secs: u64, count: u64| count - trail.note(at(secs), &count);
/// assert_eq!(added(0, 100), 0);
/// assert_eq!(added(30, 110), 10);
/// assert_eq!(added(60, 115), 15);
/// assert_eq!(added(90, 116), 6);
/// ```
#[derive(Clone, Debug)]
pub struct Trail<T> {
    span: Duration,
    kept: VecDeque<(Tick, T)>,
}

/// Parts of a span that are told apart.
const STEPS: u64 = 60;

impl<T: Clone> Trail<T> {
    /// The most values that are kept.
    pub const MAX_KEPT: usize = STEPS as usize + 2;

    /// Makes an empty trail for what is added within a span.
    #[must_use]
    pub const fn new(span: Duration) -> Self {
        Self {
            span,
            kept: VecDeque::new(),
        }
    }

    /// Notes a value, and returns the one of a span ago, or else the first.
    ///
    /// Time that runs backwards counts as the latest time.
    pub fn note<'a>(&'a mut self, now: Tick, value: &'a T) -> &'a T {
        let now = self.kept.back().map_or(now, |(latest, _)| now.max(*latest));
        let step = saturating_nanos(self.span).div_ceil(STEPS).max(1);
        let is_due = |latest: Tick| saturating_nanos(now.since(latest)) >= step;
        if self.kept.back().is_none_or(|(latest, _)| is_due(*latest)) {
            self.kept.push_back((now, value.clone()));
        }
        while self
            .kept
            .get(1)
            .is_some_and(|(next, _)| now.since(*next) >= self.span)
        {
            self.kept.pop_front();
        }
        // It was filled just now.
        self.kept.front().map_or(value, |(_, first)| first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_however_often_it_is_noted() {
        for span in [0, 1, 61, 119, 6_001] {
            let mut trail = Trail::new(Duration::from_nanos(span));
            for now in 0..10_000 {
                trail.note(Tick::from_nanos(now), &());
                assert!(trail.kept.len() <= Trail::<()>::MAX_KEPT, "{span}");
            }
        }
    }
}
