//! Outlier detection: which members fail so much more than the others that they are ejected for a time.
//!
//! Invariant: a sweep ejects no member that would raise the number ejected above
//! [`OutlierConfig::allowance`].

mod config;

pub use config::{OutlierConfig, OutlierConfigBuilder, OutlierConfigError};

use crate::time::{ClockOffset, Tick, saturating_nanos};
use alloc::vec::Vec;
use config::Deviation;
use core::cmp::Reverse;
use core::time::Duration;

/// A failure rate of 100 %; rates are in millionths.
const WHOLE: u64 = 1_000_000;

/// Outcomes of one member since the last sweep, and its ejection; 32 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct OutcomeWindow {
    ok: u32,
    failed: u32,
    /// Ejections so far, less one for each sweep in which the member was no outlier.
    ejections: u32,
    ejected_until: Option<Tick>,
}

impl OutcomeWindow {
    /// Counts an outcome.
    pub fn record(&mut self, ok: bool) {
        let counter = if ok { &mut self.ok } else { &mut self.failed };
        *counter = counter.saturating_add(1);
    }

    /// Returns the end of the ejection, if the member is ejected at `now`.
    #[must_use]
    pub fn ejected_until(&self, now: Tick) -> Option<Tick> {
        self.ejected_until.filter(|until| *until > now)
    }

    /// Ends an ejection whose time has passed; returns whether there was one.
    pub fn uneject_if_due(&mut self, now: Tick) -> bool {
        let due = self.ejected_until.is_some_and(|until| until <= now);
        if due {
            self.ejected_until = None;
        }
        due
    }

    /// Ends an ejection at once.
    pub fn uneject(&mut self) {
        self.ejected_until = None;
    }

    /// Moves an ejection to another clock, which shows `to` when this one shows `from`.
    pub fn rebase(&mut self, from: Tick, to: Tick) {
        let offset = ClockOffset { from, to };
        self.ejected_until = self.ejected_until.map(|until| offset.tick(until));
    }

    /// Takes the outcomes since the last sweep, as successes and failures.
    fn take_outcomes(&mut self) -> (u32, u32) {
        (
            core::mem::take(&mut self.ok),
            core::mem::take(&mut self.failed),
        )
    }

    /// Notes a sweep in which the member was no outlier, which shortens its next ejection.
    fn decay_ejections(&mut self) {
        self.ejections = self.ejections.saturating_sub(1);
    }

    fn eject(&mut self, config: &OutlierConfig, now: Tick) -> Tick {
        self.ejections = self.ejections.saturating_add(1);
        let length = config
            .base
            .saturating_mul(self.ejections.into())
            .min(config.cap);
        let until = now.saturating_add(Duration::from_nanos(length));
        self.ejected_until = Some(until);
        until
    }
}

/// Ejection of one member by a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection<I> {
    /// Member that was ejected.
    pub member: I,
    /// Tick at which the ejection ends.
    pub until: Tick,
}

/// Ejects members that fail more than the others (Envoy's outlier detection).
///
/// The rules are those of Envoy, by success rate and by failure percentage. Envoy ejects outliers in the
/// order in which it meets them; here the worst are ejected first.
///
/// A sweep of `n` members costs O(n), and O(e log e) for `e` outliers, with about 24 bytes of memory for
/// each member while it lasts. Recording an outcome costs O(1).
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_core::health::{OutcomeWindow, OutlierConfig, OutlierDetector};
/// use leasehold_core::time::Tick;
///
/// let (ten, third) = (Duration::from_secs(10), Duration::from_secs(30));
/// let few = NonZeroU32::new(3).unwrap();
/// let config = OutlierConfig::builder(ten, third, third * 10)
///     .volume(few, few)
///     .failure_rate(800)
///     .build()?;
/// let mut detector = OutlierDetector::new(&config, Tick::ZERO);
/// let mut members = [OutcomeWindow::default(); 4];
/// for _ in 0..3 {
///     for (index, member) in members.iter_mut().enumerate() {
///         member.record(index != 2);
///     }
/// }
/// let due = detector.poll_timeout().unwrap();
/// let ejected = detector.sweep(&config, due, members.iter_mut().enumerate());
/// assert_eq!(ejected.len(), 1);
/// assert_eq!(ejected[0].member, 2);
/// assert_eq!(ejected[0].until, due.saturating_add(third));
/// # Ok::<(), leasehold_core::health::OutlierConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct OutlierDetector {
    latest: Tick,
    next: Option<Tick>,
}

impl OutlierDetector {
    /// Creates a detector whose first sweep is due one interval after `now`.
    #[must_use]
    pub fn new(config: &OutlierConfig, now: Tick) -> Self {
        Self {
            latest: now,
            next: now.checked_add_nanos(config.interval.get()),
        }
    }

    /// Returns when [`sweep`](Self::sweep) is due next; `None` means never.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.next
    }

    /// Judges all members by their outcomes since the last sweep, if a sweep is due, and ejects outliers.
    ///
    /// Returns the ejections by descending failure rate, and in the order of `members` among equals. A
    /// late sweep stands for all missed ones. The outcomes are reset. Ejected members are not judged; the
    /// ejection count of every other member that is no outlier decreases by one.
    #[must_use]
    pub fn sweep<'a, I>(
        &mut self,
        config: &OutlierConfig,
        now: Tick,
        members: impl Iterator<Item = (I, &'a mut OutcomeWindow)>,
    ) -> Vec<Ejection<I>> {
        self.latest = self.latest.max(now);
        let now = self.latest;
        let Some(due) = self.next.filter(|due| *due <= now) else {
            return Vec::new();
        };
        let intervals = (saturating_nanos(now.since(due)) / config.interval).saturating_add(1);
        let passed = intervals.checked_mul(config.interval.get());
        self.next = passed.and_then(|passed| due.checked_add_nanos(passed));

        let (mut total, mut ejected) = (0u32, 0u32);
        let mut rates = FailureRates::default();
        let mut judged = Vec::new();
        for (member, outcomes) in members {
            total = total.saturating_add(1);
            let (ok, failed) = outcomes.take_outcomes();
            if outcomes.ejected_until(now).is_some() {
                ejected = ejected.saturating_add(1);
                continue;
            }
            let volume = u64::from(ok).saturating_add(failed.into());
            if volume < config.volume.get().into() {
                outcomes.decay_ejections();
                continue;
            }
            let rate = u64::from(failed).saturating_mul(WHOLE).checked_div(volume);
            let rate = rate.unwrap_or(0);
            rates.add(rate);
            judged.push((rate, member, outcomes));
        }
        let enough = rates.members >= config.members.get().into();
        judged.retain_mut(|(rate, _, outcomes)| {
            let outlier = enough && rates.is_outlier(config, *rate);
            if !outlier {
                outcomes.decay_ejections();
            }
            outlier
        });
        judged.sort_by_key(|(rate, ..)| Reverse(*rate));
        judged.truncate(config.allowance(total).saturating_sub(ejected) as usize);
        let eject = |(_, member, outcomes): (u64, I, &mut OutcomeWindow)| Ejection {
            member,
            until: outcomes.eject(config, now),
        };
        judged.into_iter().map(eject).collect()
    }

    /// Moves all ticks to another clock, which shows `to` when this one shows `from`.
    pub fn rebase(&mut self, from: Tick, to: Tick) {
        let offset = ClockOffset { from, to };
        self.latest = offset.tick(self.latest);
        self.next = self.next.map(|next| offset.tick(next));
    }
}

/// Sums over the failure rates of all judged members, in millionths.
#[derive(Clone, Copy, Debug, Default)]
struct FailureRates {
    members: u64,
    sum: u64,
    squares: u128,
}

impl FailureRates {
    fn add(&mut self, rate: u64) {
        self.members = self.members.saturating_add(1);
        self.sum = self.sum.saturating_add(rate);
        let square = u128::from(rate).saturating_mul(rate.into());
        self.squares = self.squares.saturating_add(square);
    }

    fn is_outlier(&self, config: &OutlierConfig, rate: u64) -> bool {
        let fails = config
            .failure_rate
            .is_some_and(|permille| rate >= u64::from(permille).saturating_mul(WHOLE / 1_000));
        fails
            || config
                .deviation
                .is_some_and(|rule| self.deviates(rule, rate))
    }

    /// Returns whether a rate is more than `rule.factor` standard deviations above the mean.
    ///
    /// With n members, both sides are multiplied by n and squared, so that nothing is rounded. Above 2^28
    /// members the right side may saturate, and then no rate deviates.
    fn deviates(&self, rule: Deviation, rate: u64) -> bool {
        let members = u128::from(self.members);
        let above = u128::from(rate)
            .saturating_mul(members)
            .saturating_sub(self.sum.into());
        let margin = u128::from(rule.margin)
            .saturating_mul((WHOLE / 1_000).into())
            .saturating_mul(members);
        let sum = u128::from(self.sum);
        let variance = members
            .saturating_mul(self.squares)
            .saturating_sub(sum.saturating_mul(sum));
        let factor = u128::from(rule.factor);
        let square = |value: u128| value.saturating_mul(value);
        above > 0
            && above >= margin
            && square(above.saturating_mul(1_000)) > square(factor).saturating_mul(variance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::num::NonZeroU32;

    fn tick(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    fn number(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    /// Sweeps each 10 ns, ejects for 100, 200 and then 250 ns.
    fn builder() -> OutlierConfigBuilder {
        let nanos = Duration::from_nanos;
        OutlierConfig::builder(nanos(10), nanos(100), nanos(250)).volume(number(10), number(2))
    }

    /// Windows of members with ten outcomes each, by number of failures.
    fn fleet(failures: &[u32]) -> Vec<OutcomeWindow> {
        let outcomes = |failed: &u32| OutcomeWindow {
            ok: 10_u32.saturating_sub(*failed),
            failed: *failed,
            ..OutcomeWindow::default()
        };
        failures.iter().map(outcomes).collect()
    }

    fn sweep(config: &OutlierConfig, fleet: &mut [OutcomeWindow]) -> Vec<usize> {
        let mut detector = OutlierDetector::new(config, tick(0));
        let ejected = detector.sweep(config, tick(10), fleet.iter_mut().enumerate());
        ejected
            .into_iter()
            .map(|ejection| ejection.member)
            .collect()
    }

    #[test]
    fn the_worst_are_ejected_first_and_no_more_than_the_share() {
        let config = builder().failure_rate(500).max_ejected(300);
        let config = config.build().unwrap();
        let mut members = fleet(&[0, 5, 10, 9, 10, 4, 0, 0, 0, 0]);
        assert_eq!(sweep(&config, &mut members), [2, 4, 3]);
        assert_eq!(members[1].ejected_until(tick(10)), None);
    }

    #[test]
    fn the_share_counts_members_that_are_already_ejected() {
        let config = builder().failure_rate(500).max_ejected(500);
        let config = config.build().unwrap();
        let mut members = fleet(&[10, 10, 10, 10]);
        members[3].ejected_until = Some(tick(11));
        assert_eq!(sweep(&config, &mut members), [0]);
    }

    #[test]
    fn a_rate_deviates_above_the_bound_and_not_at_it() {
        // The only failing member of four is sqrt(3) standard deviations above the mean.
        for (factor, ejected) in [(1_732, true), (1_733, false)] {
            let config = builder().deviation(factor, 0).build().unwrap();
            let mut members = fleet(&[0, 0, 7, 0]);
            assert_eq!(sweep(&config, &mut members) == [2], ejected, "{factor}");
        }
        // The only failing member of two is one standard deviation above the mean.
        for (factor, ejected) in [(999, true), (1_000, false)] {
            let config = builder().deviation(factor, 0).build().unwrap();
            assert_eq!(sweep(&config, &mut fleet(&[3, 0])) == [0], ejected);
        }
    }

    #[test]
    fn a_rate_within_the_margin_does_not_deviate() {
        let mut failures = [0; 10];
        failures[4] = 1;
        for (margin, ejected) in [(90, true), (91, false)] {
            let config = builder().deviation(1_900, margin).build().unwrap();
            let ejects = sweep(&config, &mut fleet(&failures)) == [4];
            assert_eq!(ejects, ejected, "{margin}");
        }
    }

    #[test]
    fn equal_rates_too_few_members_and_too_few_outcomes_make_no_outlier() {
        let judging = builder().deviation(0, 0).failure_rate(1_000);
        let ejected = |builder: OutlierConfigBuilder, failures: &[u32]| {
            sweep(&builder.build().unwrap(), &mut fleet(failures))
        };
        assert!(ejected(judging, &[4, 4, 4]).is_empty());
        let four_members = judging.volume(number(10), number(4));
        assert!(ejected(four_members, &[0, 10, 0]).is_empty());
        let eleven_outcomes = judging.volume(number(11), number(1));
        assert!(ejected(eleven_outcomes, &[0, 10, 0]).is_empty());
    }

    #[test]
    fn each_ejection_is_longer_up_to_the_cap_and_sweeps_without_one_shorten_the_next() {
        let config = builder().failure_rate(1_000).build().unwrap();
        let mut detector = OutlierDetector::new(&config, tick(0));
        let mut now = 0;
        let mut members = fleet(&[0, 0, 0]);
        let mut round = |now: &mut u64, failed: u32| {
            *now = detector.poll_timeout().unwrap().as_nanos();
            for (member, failed) in members.iter_mut().zip([0, failed, 0]) {
                member.ok = 10 - failed;
                member.failed = failed;
            }
            let ejected = detector.sweep(&config, tick(*now), members.iter_mut().enumerate());
            let length = ejected
                .first()
                .map(|ejection| ejection.until.as_nanos() - *now);
            // Skips the sweeps during the ejection.
            *now += length.unwrap_or(0);
            while length.is_some() && detector.poll_timeout().unwrap() < tick(*now) {
                let due = detector.poll_timeout().unwrap();
                let _ = detector.sweep(&config, due, members.iter_mut().enumerate());
            }
            length
        };
        for length in [100, 200, 250, 250] {
            assert_eq!(round(&mut now, 10), Some(length));
        }
        for _ in 0..3 {
            assert_eq!(round(&mut now, 0), None);
        }
        assert_eq!(round(&mut now, 10), Some(200));
    }

    #[test]
    fn a_late_sweep_stands_for_all_missed_ones_and_an_early_one_does_nothing() {
        let config = builder().failure_rate(1_000).build().unwrap();
        let mut members = fleet(&[0, 10, 0]);
        let mut detector = OutlierDetector::new(&config, tick(3));
        let early = detector.sweep(&config, tick(12), members.iter_mut().enumerate());
        assert!(early.is_empty() && members[1].failed == 10);
        let late = detector.sweep(&config, tick(43), members.iter_mut().enumerate());
        assert_eq!(late.len(), 1);
        assert_eq!(detector.poll_timeout(), Some(tick(53)));
    }
}
