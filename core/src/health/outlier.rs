//! Which members fail so much more than the others that they are left out for a while.
//!
//! Invariant: a sweep never ejects a member while more than the allowed share of those it was shown would
//! be ejected with it.

use crate::time::{ClockOffset, Tick, saturating_nanos};
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

/// Rates are counted in millionths.
const WHOLE: u64 = 1_000_000;

/// When a member is an outlier, and for how long it is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierConfig {
    interval: NonZeroU64,
    volume: NonZeroU32,
    members: NonZeroU32,
    deviation: Option<Deviation>,
    failing: Option<u16>,
    base: u64,
    cap: u64,
    max_ejected: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Deviation {
    factor: u16,
    margin: u16,
}

impl OutlierConfig {
    /// A sweep each `interval`, which ejects for `base` the first time, `2 * base` the second, and so on
    /// up to `cap`. It judges members with 100 outcomes in the interval, if there are five such, and lets
    /// a tenth of all be ejected. It has no rule to judge by yet, and ejects nobody without one.
    ///
    /// # Errors
    /// Where the interval or `base` is zero, or `cap` is shorter than `base`.
    pub fn new(
        interval: Duration,
        base: Duration,
        cap: Duration,
    ) -> Result<Self, OutlierConfigError> {
        let interval = NonZeroU64::new(saturating_nanos(interval));
        let (base, cap) = (saturating_nanos(base), saturating_nanos(cap));
        if base == 0 {
            return Err(OutlierConfigError::EmptyEjection);
        }
        if cap < base {
            return Err(OutlierConfigError::CapBelowBase);
        }
        Ok(Self {
            interval: interval.ok_or(OutlierConfigError::EmptyInterval)?,
            volume: NonZeroU32::MIN.saturating_add(99),
            members: NonZeroU32::MIN.saturating_add(4),
            deviation: None,
            failing: None,
            base,
            cap,
            max_ejected: 100,
        })
    }

    /// Ejects whose success rate is below the mean of those judged by more than `factor` thousandths of
    /// their standard deviation, and by at least `margin` permille. Without a margin, a fleet that never
    /// fails would eject a member for its first failure. Envoy's factor is 1,900.
    ///
    /// # Errors
    /// Where the margin is above 1,000.
    pub const fn deviation(mut self, factor: u16, margin: u16) -> Result<Self, OutlierConfigError> {
        if margin > 1_000 {
            return Err(OutlierConfigError::ShareOutOfRange);
        }
        self.deviation = Some(Deviation { factor, margin });
        Ok(self)
    }

    /// Ejects also who fails at least so many times in a thousand, whatever the others do.
    ///
    /// # Errors
    /// Where `permille` is zero or above 1,000.
    pub const fn failing(mut self, permille: u16) -> Result<Self, OutlierConfigError> {
        if permille == 0 || permille > 1_000 {
            return Err(OutlierConfigError::ShareOutOfRange);
        }
        self.failing = Some(permille);
        Ok(self)
    }

    /// Judges members with at least `outcomes` in the interval, if there are at least `members` such.
    #[must_use]
    pub const fn volume(mut self, outcomes: NonZeroU32, members: NonZeroU32) -> Self {
        self.volume = outcomes;
        self.members = members;
        self
    }

    /// Never ejects more than so many in a thousand at once, rounded down; but one may always be, unless
    /// `permille` is zero, and all never.
    ///
    /// # Errors
    /// Where `permille` is above 1,000.
    pub const fn max_ejected(mut self, permille: u16) -> Result<Self, OutlierConfigError> {
        if permille > 1_000 {
            return Err(OutlierConfigError::ShareOutOfRange);
        }
        self.max_ejected = permille;
        Ok(self)
    }

    /// How many of `total` members may be ejected at once.
    #[must_use]
    pub fn allowance(&self, total: u32) -> u32 {
        if self.max_ejected == 0 {
            return 0;
        }
        let share = u64::from(total).saturating_mul(self.max_ejected.into()) / 1_000;
        (share as u32).max(1).min(total.saturating_sub(1))
    }
}

/// Why an [`OutlierConfig`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutlierConfigError {
    /// Sweeps would never end.
    #[error("sweeps need an interval above zero")]
    EmptyInterval,
    /// An ejection would end as it begins.
    #[error("an ejection needs a length above zero")]
    EmptyEjection,
    /// The longest ejection is shorter than the first.
    #[error("the cap of ejections must not be below their base")]
    CapBelowBase,
    /// A share isn't in its range of permille.
    #[error("a share must be at most 1000 permille, and one of failures above zero")]
    ShareOutOfRange,
}

/// What is remembered of one member; 32 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct OutcomeWindow {
    ok: u32,
    failed: u32,
    /// Ejections, less one for each sweep at which it was no outlier.
    times: u32,
    until: Option<Tick>,
}

impl OutcomeWindow {
    /// Counts an outcome.
    pub fn record(&mut self, ok: bool) {
        let counter = if ok { &mut self.ok } else { &mut self.failed };
        *counter = counter.saturating_add(1);
    }

    /// Until when the member is ejected, if it is at `now`.
    #[must_use]
    pub fn ejected(&self, now: Tick) -> Option<Tick> {
        self.until.filter(|until| *until > now)
    }

    /// Whether an ejection has come to its end, which is told once.
    pub fn take_end(&mut self, now: Tick) -> bool {
        let ended = self.until.is_some_and(|until| until <= now);
        if ended {
            self.until = None;
        }
        ended
    }

    /// Ends an ejection.
    pub fn readmit(&mut self) {
        self.until = None;
    }

    /// Moves an ejection to another clock, which shows `to` when this one shows `from`.
    pub fn rebase(&mut self, from: Tick, to: Tick) {
        self.until = self.until.map(|until| ClockOffset { from, to }.tick(until));
    }

    fn behave(&mut self) {
        self.times = self.times.saturating_sub(1);
    }

    fn eject(&mut self, config: &OutlierConfig, now: Tick) -> Tick {
        self.times = self.times.saturating_add(1);
        let length = config
            .base
            .saturating_mul(self.times.into())
            .min(config.cap);
        let until = now.saturating_add(Duration::from_nanos(length));
        self.until = Some(until);
        until
    }
}

/// A member that was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection<I> {
    /// Which one.
    pub member: I,
    /// When it is back.
    pub until: Tick,
}

/// Ejects the members that fail more than the others do.
///
/// A sweep costs O(n) each interval, and O(e log e) for `e` outliers, with 24 bytes or so for each member
/// while it lasts; an outcome costs O(1).
///
/// Source: Envoy's outlier detection by success rate and by failure percentage. There, however,
/// outliers are ejected as they are met, and not the worst first.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_core::health::{OutcomeWindow, Outlier, OutlierConfig};
/// use leasehold_core::time::Tick;
///
/// let (ten, third) = (Duration::from_secs(10), Duration::from_secs(30));
/// let few = NonZeroU32::new(3).unwrap();
/// let config = OutlierConfig::new(ten, third, third * 10)?.volume(few, few).failing(800)?;
/// let mut outlier = Outlier::new(&config, Tick::ZERO);
/// let mut members = [OutcomeWindow::default(); 4];
/// for _ in 0..3 {
///     for (index, member) in members.iter_mut().enumerate() {
///         member.record(index != 2);
///     }
/// }
/// let due = outlier.poll_timeout().unwrap();
/// let ejected = outlier.sweep(&config, due, members.iter_mut().enumerate());
/// assert_eq!(ejected.len(), 1);
/// assert_eq!(ejected[0].member, 2);
/// assert_eq!(ejected[0].until, due.saturating_add(third));
/// # Ok::<(), leasehold_core::health::OutlierConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Outlier {
    latest: Tick,
    next: Option<Tick>,
}

impl Outlier {
    /// Sweeps one interval from now first.
    #[must_use]
    pub fn new(config: &OutlierConfig, now: Tick) -> Self {
        Self {
            latest: now,
            next: now.checked_add_nanos(config.interval.get()),
        }
    }

    /// When [`sweep`](Self::sweep) is wanted next; `None` means never.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.next
    }

    /// If a sweep is due: judges all members by their outcomes since the last one, forgets these, and
    /// answers who is ejected, the worst first; of equals, the first shown. One that comes late stands
    /// for all that were missed.
    ///
    /// Those who are ejected are not judged. Each other who is no outlier has one ejection less to its
    /// name from now on.
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
        let mut fleet = Fleet::default();
        let mut judged = Vec::new();
        for (member, outcomes) in members {
            total = total.saturating_add(1);
            let (ok, failed) = (
                core::mem::take(&mut outcomes.ok),
                core::mem::take(&mut outcomes.failed),
            );
            if outcomes.ejected(now).is_some() {
                ejected = ejected.saturating_add(1);
                continue;
            }
            let volume = u64::from(ok).saturating_add(failed.into());
            if volume < config.volume.get().into() {
                outcomes.behave();
                continue;
            }
            let failures = u64::from(failed).saturating_mul(WHOLE).checked_div(volume);
            let failures = failures.unwrap_or(0);
            fleet.add(failures);
            judged.push((failures, member, outcomes));
        }
        let enough = fleet.members >= config.members.get().into();
        judged.retain_mut(|(failures, _, outcomes)| {
            let outlier = enough && fleet.is_outlier(config, *failures);
            if !outlier {
                outcomes.behave();
            }
            outlier
        });
        judged.sort_by_key(|(failures, ..)| Reverse(*failures));
        judged.truncate(config.allowance(total).saturating_sub(ejected) as usize);
        let eject = |(_, member, outcomes): (u64, I, &mut OutcomeWindow)| Ejection {
            member,
            until: outcomes.eject(config, now),
        };
        judged.into_iter().map(eject).collect()
    }

    /// Moves what is remembered to another clock, which shows `to` when this one shows `from`.
    pub fn rebase(&mut self, from: Tick, to: Tick) {
        let shift = ClockOffset { from, to };
        self.latest = shift.tick(self.latest);
        self.next = self.next.map(|next| shift.tick(next));
    }
}

/// The rates of failure of all who are judged.
#[derive(Clone, Copy, Debug, Default)]
struct Fleet {
    members: u64,
    sum: u64,
    squares: u128,
}

impl Fleet {
    fn add(&mut self, failures: u64) {
        self.members = self.members.saturating_add(1);
        self.sum = self.sum.saturating_add(failures);
        let square = u128::from(failures).saturating_mul(failures.into());
        self.squares = self.squares.saturating_add(square);
    }

    fn is_outlier(&self, config: &OutlierConfig, failures: u64) -> bool {
        let failing = config
            .failing
            .is_some_and(|permille| failures >= u64::from(permille).saturating_mul(WHOLE / 1_000));
        failing
            || config
                .deviation
                .is_some_and(|rule| self.deviates(rule, failures))
    }

    /// Whether a rate is above the mean by so many standard deviations. With n members, both sides are
    /// taken times n and squared, so that nothing is rounded. Up to 2^28 members nothing saturates;
    /// beyond, the right side may, and then nobody deviates.
    fn deviates(&self, rule: Deviation, failures: u64) -> bool {
        let members = u128::from(self.members);
        let above = u128::from(failures)
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

    fn tick(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    fn number(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    /// Sweeps each 10, ejects for 100, 200 and then 250.
    fn config() -> OutlierConfig {
        let nanos = Duration::from_nanos;
        OutlierConfig::new(nanos(10), nanos(100), nanos(250))
            .unwrap()
            .volume(number(10), number(2))
    }

    /// Members by failures of ten.
    fn fleet(failures: &[u32]) -> Vec<OutcomeWindow> {
        let outcomes = |failed: &u32| OutcomeWindow {
            ok: 10_u32.saturating_sub(*failed),
            failed: *failed,
            ..OutcomeWindow::default()
        };
        failures.iter().map(outcomes).collect()
    }

    fn sweep(config: &OutlierConfig, fleet: &mut [OutcomeWindow]) -> Vec<usize> {
        let mut outlier = Outlier::new(config, tick(0));
        let ejected = outlier.sweep(config, tick(10), fleet.iter_mut().enumerate());
        ejected.into_iter().map(|one| one.member).collect()
    }

    #[test]
    fn the_worst_are_ejected_first_and_no_more_than_the_share() {
        let config = config()
            .failing(500)
            .and_then(|config| config.max_ejected(300))
            .unwrap();
        let mut members = fleet(&[0, 5, 10, 9, 10, 4, 0, 0, 0, 0]);
        assert_eq!(sweep(&config, &mut members), [2, 4, 3]);
        assert_eq!(members[1].ejected(tick(10)), None);
    }

    #[test]
    fn the_share_counts_those_who_are_ejected_already() {
        let config = config()
            .failing(500)
            .and_then(|config| config.max_ejected(500))
            .unwrap();
        let mut members = fleet(&[10, 10, 10, 10]);
        members[3].until = Some(tick(11));
        assert_eq!(sweep(&config, &mut members), [0]);
    }

    #[test]
    fn one_may_always_be_ejected_but_never_all() {
        for (permille, allowances) in [
            (0, [0, 0, 0, 0]),
            (100, [0, 1, 1, 10]),
            (1_000, [0, 1, 2, 99]),
        ] {
            let config = config().max_ejected(permille).unwrap();
            assert_eq!([1, 2, 3, 100].map(|n| config.allowance(n)), allowances);
        }
        assert_eq!(config().allowance(0), 0);
    }

    #[test]
    fn a_rate_deviates_above_the_bound_and_not_at_it() {
        // Of four, one fails at rate r: it is sqrt(3) deviations above the mean.
        for (factor, ejected) in [(1_732, true), (1_733, false)] {
            let config = config().deviation(factor, 0).unwrap();
            let mut members = fleet(&[0, 0, 7, 0]);
            assert_eq!(sweep(&config, &mut members) == [2], ejected, "{factor}");
        }
        // Of two, one is one deviation above.
        for (factor, ejected) in [(999, true), (1_000, false)] {
            let config = config().deviation(factor, 0).unwrap();
            assert_eq!(sweep(&config, &mut fleet(&[3, 0])) == [0], ejected);
        }
    }

    #[test]
    fn the_first_failure_of_a_fleet_is_within_the_margin() {
        let mut failures = [0; 10];
        failures[4] = 1;
        for (margin, ejected) in [(90, true), (91, false)] {
            let config = config().deviation(1_900, margin).unwrap();
            let ejects = sweep(&config, &mut fleet(&failures)) == [4];
            assert_eq!(ejects, ejected, "{margin}");
        }
    }

    #[test]
    fn equals_and_the_few_and_the_seldom_asked_are_not_judged() {
        let judging = config().deviation(0, 0).unwrap().failing(1_000).unwrap();
        assert!(sweep(&judging, &mut fleet(&[4, 4, 4])).is_empty());
        let few = judging.volume(number(10), number(4));
        assert!(sweep(&few, &mut fleet(&[0, 10, 0])).is_empty());
        let seldom = judging.volume(number(11), number(1));
        assert!(sweep(&seldom, &mut fleet(&[0, 10, 0])).is_empty());
    }

    #[test]
    fn each_ejection_is_longer_up_to_the_cap_and_calm_makes_it_shorter() {
        let config = config().failing(1_000).unwrap();
        let mut outlier = Outlier::new(&config, tick(0));
        let mut now = 0;
        let mut members = fleet(&[0, 0, 0]);
        let mut round = |now: &mut u64, failed: u32| {
            *now = outlier.poll_timeout().unwrap().as_nanos();
            for (member, failed) in members.iter_mut().zip([0, failed, 0]) {
                member.ok = 10 - failed;
                member.failed = failed;
            }
            let ejected = outlier.sweep(&config, tick(*now), members.iter_mut().enumerate());
            let length = ejected.first().map(|one| one.until.as_nanos() - *now);
            // The next sweep is the one after its return.
            *now += length.unwrap_or(0);
            while length.is_some() && outlier.poll_timeout().unwrap() < tick(*now) {
                let due = outlier.poll_timeout().unwrap();
                let _ = outlier.sweep(&config, due, members.iter_mut().enumerate());
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
    fn a_late_sweep_stands_for_all_and_an_early_one_for_none() {
        let config = config().failing(1_000).unwrap();
        let mut members = fleet(&[0, 10, 0]);
        let mut outlier = Outlier::new(&config, tick(3));
        let early = outlier.sweep(&config, tick(12), members.iter_mut().enumerate());
        assert!(early.is_empty() && members[1].failed == 10);
        let late = outlier.sweep(&config, tick(43), members.iter_mut().enumerate());
        assert_eq!(late.len(), 1);
        assert_eq!(outlier.poll_timeout(), Some(tick(53)));
    }

    #[test]
    fn a_configuration_without_meaning_is_refused() {
        let (zero, second) = (Duration::ZERO, Duration::from_secs(1));
        let error = |interval, base, cap| OutlierConfig::new(interval, base, cap).unwrap_err();
        assert_eq!(
            error(zero, second, second),
            OutlierConfigError::EmptyInterval
        );
        assert_eq!(
            error(second, zero, second),
            OutlierConfigError::EmptyEjection
        );
        assert_eq!(
            error(second, second, zero),
            OutlierConfigError::CapBelowBase
        );
        assert_eq!(
            config().failing(0),
            Err(OutlierConfigError::ShareOutOfRange)
        );
        assert_eq!(
            config().failing(1_001),
            Err(OutlierConfigError::ShareOutOfRange)
        );
        assert_eq!(
            config().deviation(0, 1_001),
            Err(OutlierConfigError::ShareOutOfRange)
        );
        assert_eq!(
            config().max_ejected(1_001),
            Err(OutlierConfigError::ShareOutOfRange)
        );
    }
}
