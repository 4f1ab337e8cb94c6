//! Remaining quota as reported by an upstream, such as in rate-limit headers.
//!
//! Invariant: at most [`MAX`](ReportedQuota::MAX) reports, ordered by reset. Each holds by itself until its reset:
//! the units admitted after it, at the costs known so far, never exceed what it said.

use crate::time::{ClockOffset, Tick};
use alloc::vec::Vec;

/// The reports on one unit of one upstream: at most eight, usually one. Operations cost O(reports).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(from = "Vec<Report>"))]
pub(super) struct ReportedQuota(Vec<Report>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Report {
    until: Tick,
    /// Units that may still be admitted; below zero if settlements exceeded it.
    left: i64,
    /// Sequence number over all reports of the set.
    number: u64,
}

impl ReportedQuota {
    pub(super) const MAX: usize = 8;
    pub(super) const NONE: Self = Self(Vec::new());

    /// Adds a report that `remaining` more units will be served until `reset`. Numbers must increase.
    pub(super) fn observe(&mut self, now: Tick, remaining: u32, reset: Tick, number: u64) {
        self.remove_expired(now);
        if reset <= now {
            return;
        }
        let report = Report {
            until: reset,
            left: remaining.into(),
            number,
        };
        // An earlier report that resets no later and leaves no less decides nothing any more, settlements included.
        self.0
            .retain(|known| known.until > report.until || known.left < report.left);
        let index = self.0.partition_point(|known| known.until <= report.until);
        self.0.insert(index, report);
        if self.0.len() > Self::MAX {
            self.merge_nearest();
        }
    }

    /// Merges the two reports with the nearest resets into one that is never looser than either.
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

    /// Removes the reports whose reset has passed.
    pub(super) fn remove_expired(&mut self, now: Tick) {
        let expired = self.0.partition_point(|known| known.until <= now);
        if expired > 0 {
            self.0.drain(..expired);
        }
    }

    /// The last reset of the reports that leave less than `cost`; `None` if `cost` fits now.
    #[inline]
    pub(super) fn earliest(&self, now: Tick, cost: u32) -> Option<Tick> {
        let short = |known: &&Report| cost > 0 && i64::from(cost) > known.left;
        let last = self.0.iter().rfind(short)?;
        Some(last.until).filter(|until| *until > now)
    }

    /// The most units that every report leaves.
    pub(super) fn left(&self, now: Tick) -> u32 {
        let live = self.0.iter().filter(|known| known.until > now);
        let least = live.map(|known| known.left.max(0)).min();
        least.map_or(u32::MAX, |least| u32::try_from(least).unwrap_or(u32::MAX))
    }

    /// The first reset after `now` at which more is left.
    pub(super) fn next_change(&self, now: Tick) -> Option<Tick> {
        let left = self.left(now);
        self.earliest(now, left.checked_add(1)?)
    }

    /// Counts admitted units in each report.
    pub(super) fn take(&mut self, cost: u32) {
        for known in &mut self.0 {
            known.left = known.left.saturating_sub(cost.into());
        }
    }

    /// Corrects a cost that was admitted after report number `reports`.
    ///
    /// Units above the reservation count in every report, because the upstream may not have known of them. Unused
    /// units are returned to the reports made before the admission.
    pub(super) fn settle(&mut self, reports: u64, reserved: u32, actual: u32) {
        let less = reserved.saturating_sub(actual);
        self.take(actual.saturating_sub(reserved));
        for known in self.0.iter_mut().filter(|known| known.number <= reports) {
            known.left = known.left.saturating_add(less.into());
        }
    }

    pub(super) fn rebase(&mut self, offset: ClockOffset) {
        for known in &mut self.0 {
            known.until = offset.tick(known.until);
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
    fn a_later_reset_does_not_lengthen_a_stricter_report() {
        let mut quota = ReportedQuota::default();
        quota.observe(tick(0), 1, tick(10), 1);
        quota.observe(tick(0), 5, tick(20), 2);
        assert_eq!(quota.earliest(tick(0), 2), Some(tick(10)));
        assert_eq!(quota.earliest(tick(0), 6), Some(tick(20)));
        assert_eq!(quota.earliest(tick(10), 5), None);
        assert_eq!(quota.left(tick(0)), 1);
        assert_eq!(quota.next_change(tick(0)), Some(tick(10)));
    }

    #[test]
    fn merged_reports_are_never_looser_than_each_of_them() {
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
