//! What an upstream has said that it will still serve.
//!
//! Invariant: there are at most [`MAX`](ReportedQuota::MAX) reports, in the order of their resets. Until its
//! reset each holds by itself: what was admitted after it is never more than it said, as far as that was
//! known at the time.

use crate::time::{ClockOffset, Tick};
use alloc::vec::Vec;

/// The reports on one unit of one upstream. An operation costs O(reports), of which there are at most
/// eight and as a rule one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(from = "Vec<Report>"))]
pub(super) struct ReportedQuota(Vec<Report>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Report {
    until: Tick,
    /// What may still be admitted; below zero where it turned out that more was.
    left: i64,
    /// Its number among all reports.
    number: u64,
}

impl ReportedQuota {
    pub(super) const MAX: usize = 8;
    pub(super) const NONE: Self = Self(Vec::new());

    /// Learns that `remaining` more will be served until `reset`, in the report of this number, which is
    /// above that of each before it.
    pub(super) fn observe(&mut self, now: Tick, remaining: u32, reset: Tick, number: u64) {
        self.forget(now);
        if reset <= now {
            return;
        }
        let said = Report {
            until: reset,
            left: remaining.into(),
            number,
        };
        // One that holds as long, leaves no more and gives no more back makes the earlier one idle.
        self.0
            .retain(|known| known.until > said.until || known.left < said.left);
        let place = self.0.partition_point(|known| known.until <= said.until);
        self.0.insert(place, said);
        if self.0.len() > Self::MAX {
            self.merge_nearest();
        }
    }

    /// Makes one of the two reports whose resets are nearest, which is at no time looser than either.
    fn merge_nearest(&mut self) {
        let pairs = self.0.windows(2).enumerate();
        let nearest = pairs.min_by_key(|(_, pair)| match pair {
            [first, second] => second.until.since(first.until),
            _ => core::time::Duration::MAX,
        });
        if let Some(index) = nearest.map(|(index, _)| index) {
            let first = self.0.remove(index);
            if let Some(second) = self.0.get_mut(index) {
                second.left = second.left.min(first.left);
                second.number = second.number.max(first.number);
            }
        }
    }

    /// Drops the reports that no longer hold.
    pub(super) fn forget(&mut self, now: Tick) {
        let over = self.0.partition_point(|known| known.until <= now);
        if over > 0 {
            self.0.drain(..over);
        }
    }

    #[inline]
    /// When the last of the reports resets that leave less than `cost`; `None` where none does that
    /// still holds.
    pub(super) fn opens(&self, now: Tick, cost: u32) -> Option<Tick> {
        let short = |known: &&Report| cost > 0 && i64::from(cost) > known.left;
        let last = self.0.iter().rfind(short)?;
        Some(last.until).filter(|until| *until > now)
    }

    /// The most that all reports leave.
    pub(super) fn left(&self, now: Tick) -> u32 {
        let live = self.0.iter().filter(|known| known.until > now);
        let least = live.map(|known| known.left.max(0)).min();
        least.map_or(u32::MAX, |least| u32::try_from(least).unwrap_or(u32::MAX))
    }

    /// The first reset after `now` at which more is left.
    pub(super) fn next_change(&self, now: Tick) -> Option<Tick> {
        let left = self.left(now);
        self.opens(now, left.checked_add(1)?)
    }

    /// Takes what was admitted.
    pub(super) fn take(&mut self, cost: u32) {
        for known in &mut self.0 {
            known.left = known.left.saturating_sub(cost.into());
        }
    }

    /// Corrects what was admitted when there had been so many reports. What was used above the
    /// reservation counts in each, as an upstream may not have known of it when it reported; what was
    /// not used is given back to those that were made before.
    pub(super) fn settle(&mut self, reports: u64, reserved: u32, actual: u32) {
        let (more, less) = (
            actual.saturating_sub(reserved),
            reserved.saturating_sub(actual),
        );
        self.take(more);
        for known in self.0.iter_mut().filter(|known| known.number <= reports) {
            known.left = known.left.saturating_add(less.into());
        }
    }

    pub(super) fn rebase(&mut self, shift: ClockOffset) {
        for known in &mut self.0 {
            known.until = shift.tick(known.until);
        }
    }
}

#[cfg(feature = "serde")]
impl From<Vec<Report>> for ReportedQuota {
    fn from(mut reports: Vec<Report>) -> Self {
        reports.sort_by_key(|known| known.until);
        let mut quota = Self(reports);
        while quota.0.len() > Self::MAX {
            quota.merge_nearest();
        }
        quota
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    #[test]
    fn a_report_that_holds_longer_does_not_lengthen_a_stricter_one() {
        let mut quota = ReportedQuota::default();
        quota.observe(tick(0), 1, tick(10), 1);
        quota.observe(tick(0), 5, tick(20), 2);
        assert_eq!(quota.opens(tick(0), 2), Some(tick(10)));
        assert_eq!(quota.opens(tick(0), 6), Some(tick(20)));
        assert_eq!(quota.opens(tick(10), 5), None);
        assert_eq!(quota.left(tick(0)), 1);
        assert_eq!(quota.next_change(tick(0)), Some(tick(10)));
    }

    #[test]
    fn more_reports_than_are_kept_are_never_looser_than_each() {
        let mut quota = ReportedQuota::default();
        let reports: Vec<_> = (1..=30u32).map(|i| (i, tick((i * i).into()))).collect();
        for (number, (remaining, reset)) in (1..).zip(&reports) {
            quota.observe(tick(0), *remaining, *reset, number);
            assert!(quota.0.len() <= ReportedQuota::MAX);
        }
        for now in 0..900 {
            let live = reports.iter().filter(|(_, reset)| *reset > tick(now));
            let least = live.map(|(remaining, _)| *remaining).min();
            assert!(quota.left(tick(now)) <= least.unwrap());
        }
        assert_eq!(quota.left(tick(900)), u32::MAX);
    }
}
