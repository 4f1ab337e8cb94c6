//! Configuration of outlier detection: what makes an outlier, and how long and how many are ejected.
//!
//! Invariant: `0 < base <= cap`, and every share is in its range.

use crate::time::saturating_nanos;
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

/// When a member is an outlier, and for how long it is ejected.
///
/// Built by [`OutlierConfig::builder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierConfig {
    pub(super) interval: NonZeroU64,
    pub(super) volume: NonZeroU32,
    pub(super) members: NonZeroU32,
    pub(super) deviation: Option<Deviation>,
    /// Failure rate that makes an outlier, in permille.
    pub(super) failure_rate: Option<u16>,
    pub(super) base: u64,
    pub(super) cap: u64,
    max_ejected: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deviation {
    /// Standard deviations above the mean, in thousandths.
    pub(super) factor: u16,
    /// Least distance from the mean, in permille.
    pub(super) margin: u16,
}

impl OutlierConfig {
    /// Begins a configuration that sweeps each `interval` and ejects for `base` the first time.
    ///
    /// The n-th ejection lasts `min(cap, n * base)`. Defaults: members with at least 100 outcomes in the
    /// interval are judged, if there are at least five; at most 100 permille are ejected at once. There is
    /// no rule to judge by yet, and without one no member is ejected.
    pub const fn builder(
        interval: Duration,
        base: Duration,
        cap: Duration,
    ) -> OutlierConfigBuilder {
        OutlierConfigBuilder {
            interval,
            base,
            cap,
            volume: NonZeroU32::MIN.saturating_add(99),
            members: NonZeroU32::MIN.saturating_add(4),
            deviation: None,
            failure_rate: None,
            max_ejected: 100,
        }
    }

    /// Returns the time between two sweeps.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        Duration::from_nanos(self.interval.get())
    }

    /// Returns how long the first ejection lasts, and the longest.
    #[must_use]
    pub const fn ejection(&self) -> (Duration, Duration) {
        let (base, cap) = (self.base, self.cap);
        (Duration::from_nanos(base), Duration::from_nanos(cap))
    }

    /// Returns the standard deviations that make an outlier in thousandths, and the least margin in permille.
    #[must_use]
    pub fn deviation(&self) -> Option<(u16, u16)> {
        let deviation = self.deviation?;
        Some((deviation.factor, deviation.margin))
    }

    /// Returns the failure rate that makes an outlier, in permille.
    #[must_use]
    pub const fn failure_rate(&self) -> Option<u16> {
        self.failure_rate
    }

    /// Returns the least number of outcomes of a judged member, and of judged members.
    #[must_use]
    pub const fn volume(&self) -> (NonZeroU32, NonZeroU32) {
        (self.volume, self.members)
    }

    /// Returns the share of members that may be ejected at once, in permille.
    #[must_use]
    pub const fn max_ejected(&self) -> u16 {
        self.max_ejected
    }

    /// Returns how many of `total` members may be ejected at once.
    #[must_use]
    pub fn allowance(&self, total: u32) -> u32 {
        if self.max_ejected == 0 {
            return 0;
        }
        let share = u64::from(total).saturating_mul(self.max_ejected.into()) / 1_000;
        (share as u32).max(1).min(total.saturating_sub(1))
    }
}

/// Builder of an [`OutlierConfig`]; all checks are made by [`build`](Self::build).
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct OutlierConfigBuilder {
    interval: Duration,
    base: Duration,
    cap: Duration,
    volume: NonZeroU32,
    members: NonZeroU32,
    deviation: Option<Deviation>,
    failure_rate: Option<u16>,
    max_ejected: u16,
}

impl OutlierConfigBuilder {
    /// Ejects members whose success rate is too many standard deviations below the mean of the judged members.
    ///
    /// `factor` is that number in thousandths; Envoy's default is 1,900. `margin` is the least distance
    /// from the mean, in permille: at a margin of zero, the first failure of a fleet that never fails
    /// ejects a member.
    pub const fn deviation(mut self, factor: u16, margin: u16) -> Self {
        self.deviation = Some(Deviation { factor, margin });
        self
    }

    /// Ejects members whose failure rate is at least `permille`, whatever the rates of the others.
    pub const fn failure_rate(mut self, permille: u16) -> Self {
        self.failure_rate = Some(permille);
        self
    }

    /// Judges members with at least `outcomes` in the interval, if there are at least `members` of them.
    pub const fn volume(mut self, outcomes: NonZeroU32, members: NonZeroU32) -> Self {
        self.volume = outcomes;
        self.members = members;
        self
    }

    /// Ejects at most `permille` of the members at once, rounded down.
    ///
    /// One member may always be ejected, unless `permille` is zero; all members never.
    pub const fn max_ejected(mut self, permille: u16) -> Self {
        self.max_ejected = permille;
        self
    }

    /// Checks the settings and returns the configuration.
    ///
    /// # Errors
    /// One [`OutlierConfigError`] variant for each setting out of range; the first found is returned.
    pub fn build(self) -> Result<OutlierConfig, OutlierConfigError> {
        let interval = NonZeroU64::new(saturating_nanos(self.interval));
        let (base, cap) = (saturating_nanos(self.base), saturating_nanos(self.cap));
        if base == 0 {
            return Err(OutlierConfigError::EmptyEjection);
        }
        if cap < base {
            return Err(OutlierConfigError::CapBelowBase);
        }
        let margin = self.deviation.map_or(0, |deviation| deviation.margin);
        let failure_rate = self.failure_rate.unwrap_or(1);
        if margin > 1_000 || self.max_ejected > 1_000 || !(1..=1_000).contains(&failure_rate) {
            return Err(OutlierConfigError::ShareOutOfRange);
        }
        Ok(OutlierConfig {
            interval: interval.ok_or(OutlierConfigError::EmptyInterval)?,
            volume: self.volume,
            members: self.members,
            deviation: self.deviation,
            failure_rate: self.failure_rate,
            base,
            cap,
            max_ejected: self.max_ejected,
        })
    }
}

/// Reason why an [`OutlierConfig`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutlierConfigError {
    /// The interval between sweeps is zero.
    #[error("the interval of outlier sweeps must be above zero")]
    EmptyInterval,
    /// The base ejection time is zero.
    #[error("an outlier's ejection time must be above zero")]
    EmptyEjection,
    /// The longest ejection is shorter than the first.
    #[error("the cap of an outlier's ejection time must not be below its base")]
    CapBelowBase,
    /// A share is not in its range.
    #[error(
        "an outlier's failure rate must be from 1 to 1000 permille, its margin and share at most 1000"
    )]
    ShareOutOfRange,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> OutlierConfigBuilder {
        let second = Duration::from_secs(1);
        OutlierConfig::builder(second, second, second)
    }

    #[test]
    fn one_member_may_always_be_ejected_but_never_all() {
        for (permille, allowances) in [
            (0, [0, 0, 0, 0]),
            (100, [0, 1, 1, 10]),
            (1_000, [0, 1, 2, 99]),
        ] {
            let config = builder().max_ejected(permille).build().unwrap();
            assert_eq!([1, 2, 3, 100].map(|n| config.allowance(n)), allowances);
        }
        assert_eq!(builder().build().unwrap().allowance(0), 0);
    }

    #[test]
    fn a_configuration_out_of_range_is_refused() {
        let (zero, second) = (Duration::ZERO, Duration::from_secs(1));
        let error = |interval, base, cap| {
            let config = OutlierConfig::builder(interval, base, cap).build();
            config.unwrap_err()
        };
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
        for out_of_range in [
            builder().failure_rate(0),
            builder().failure_rate(1_001),
            builder().deviation(0, 1_001),
            builder().max_ejected(1_001),
        ] {
            let error = out_of_range.build().unwrap_err();
            assert_eq!(error, OutlierConfigError::ShareOutOfRange);
        }
    }
}
