//! Configuration of a breaker: when it opens, for how long, and when it closes.
//!
//! Invariant: `0 < base <= cap`, and every rate and timeout is in its range.

use super::window::{FailureRate, PARTS};
use crate::time::saturating_nanos;
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

/// When a breaker trips, and how it recovers.
///
/// Built by [`BreakerConfig::builder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    pub(super) consecutive: Option<NonZeroU32>,
    pub(super) rate: Option<FailureRate>,
    base: u64,
    cap: u64,
    pub(super) reset_after: u64,
    pub(super) probes: NonZeroU32,
    pub(super) successes: NonZeroU32,
    pub(super) probe_timeout: Duration,
}

impl BreakerConfig {
    /// Begins the configuration of a breaker that opens for `base`, then `2 * base`, and so on up to `cap`.
    ///
    /// Defaults: no rule that trips it ([`Breaker::trip`](super::Breaker::trip) still does), backoff reset
    /// after `cap` closed, one probe at once with a timeout of 30 s, closed by one success.
    pub const fn builder(base: Duration, cap: Duration) -> BreakerConfigBuilder {
        BreakerConfigBuilder {
            base,
            cap,
            consecutive: None,
            rate: None,
            reset_after: cap,
            probes: NonZeroU32::MIN,
            successes: NonZeroU32::MIN,
            probe_timeout: Duration::from_secs(30),
        }
    }

    /// Returns how long the breaker opens first, and at most.
    #[must_use]
    pub const fn open(&self) -> (Duration, Duration) {
        let (base, cap) = (self.base, self.cap);
        (Duration::from_nanos(base), Duration::from_nanos(cap))
    }

    /// Returns how many consecutive failures trip the breaker.
    #[must_use]
    pub const fn consecutive_failures(&self) -> Option<NonZeroU32> {
        self.consecutive
    }

    /// Returns the failure rate that trips the breaker in permille, its window and its least number of outcomes.
    ///
    /// The window is rounded up to a multiple of 8 ns.
    #[must_use]
    pub fn failure_rate(&self) -> Option<(u16, Duration, NonZeroU32)> {
        let rate = self.rate?;
        let window = rate.part.get().saturating_mul(PARTS as u64);
        Some((rate.permille, Duration::from_nanos(window), rate.minimum))
    }

    /// Returns how long the breaker must stay closed for its backoff to be reset.
    #[must_use]
    pub const fn reset_after(&self) -> Duration {
        Duration::from_nanos(self.reset_after)
    }

    /// Returns the bound on probes at once while half-open, and the successes that close.
    #[must_use]
    pub const fn half_open(&self) -> (NonZeroU32, NonZeroU32) {
        (self.probes, self.successes)
    }

    /// Returns the time after which a probe without a result counts as failed.
    #[must_use]
    pub const fn probe_timeout(&self) -> Duration {
        self.probe_timeout
    }

    pub(super) fn backoff(&self, trips: u32) -> Duration {
        let factor = 1u64.checked_shl(trips).unwrap_or(u64::MAX);
        Duration::from_nanos(self.base.saturating_mul(factor).min(self.cap))
    }
}

/// Builder of a [`BreakerConfig`]; all checks are made by [`build`](Self::build).
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct BreakerConfigBuilder {
    base: Duration,
    cap: Duration,
    consecutive: Option<NonZeroU32>,
    /// Permille, window, and minimum number of outcomes.
    rate: Option<(u16, Duration, NonZeroU32)>,
    reset_after: Duration,
    probes: NonZeroU32,
    successes: NonZeroU32,
    probe_timeout: Duration,
}

impl BreakerConfigBuilder {
    /// Trips after `failures` consecutive failures.
    pub const fn consecutive_failures(mut self, failures: NonZeroU32) -> Self {
        self.consecutive = Some(failures);
        self
    }

    /// Trips when at least `permille` of the outcomes in the window are failures, given `minimum` outcomes.
    ///
    /// The window is counted in eight parts, so an outcome counts for 7/8 to 8/8 of the window.
    pub const fn failure_rate(
        mut self,
        permille: u16,
        window: Duration,
        minimum: NonZeroU32,
    ) -> Self {
        self.rate = Some((permille, window, minimum));
        self
    }

    /// Resets the backoff to `base` once the breaker has stayed closed for this long.
    pub const fn reset_after(mut self, closed: Duration) -> Self {
        self.reset_after = closed;
        self
    }

    /// Allows at most this many probes at once while half-open; each takes 8 bytes while out.
    pub const fn probes(mut self, at_once: NonZeroU32) -> Self {
        self.probes = at_once;
        self
    }

    /// Closes after this many consecutive successes while half-open.
    pub const fn successes(mut self, consecutive: NonZeroU32) -> Self {
        self.successes = consecutive;
        self
    }

    /// Counts a probe without a result within `timeout` as failed.
    pub const fn probe_timeout(mut self, timeout: Duration) -> Self {
        self.probe_timeout = timeout;
        self
    }

    /// Checks the settings and returns the configuration.
    ///
    /// # Errors
    /// One [`BreakerConfigError`] variant for each setting out of range; the first found is returned.
    pub fn build(self) -> Result<BreakerConfig, BreakerConfigError> {
        let (base, cap) = (saturating_nanos(self.base), saturating_nanos(self.cap));
        if base == 0 {
            return Err(BreakerConfigError::EmptyBackoff);
        }
        if cap < base {
            return Err(BreakerConfigError::CapBelowBase);
        }
        if self.probe_timeout.is_zero() {
            return Err(BreakerConfigError::EmptyProbeTimeout);
        }
        Ok(BreakerConfig {
            consecutive: self.consecutive,
            rate: self.rate.map(failure_rate).transpose()?,
            base,
            cap,
            reset_after: saturating_nanos(self.reset_after),
            probes: self.probes,
            successes: self.successes,
            probe_timeout: self.probe_timeout,
        })
    }
}

fn failure_rate(
    (permille, window, minimum): (u16, Duration, NonZeroU32),
) -> Result<FailureRate, BreakerConfigError> {
    if permille == 0 || permille > 1_000 {
        return Err(BreakerConfigError::RateOutOfRange);
    }
    let window = u64::try_from(window.as_nanos()).map_err(|_| BreakerConfigError::WindowTooLong)?;
    let part = NonZeroU64::new(window.div_ceil(PARTS as u64));
    Ok(FailureRate {
        permille,
        part: part.ok_or(BreakerConfigError::EmptyWindow)?,
        minimum,
    })
}

/// Reason why a [`BreakerConfig`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BreakerConfigError {
    /// The base backoff is zero.
    #[error("a breaker's backoff must be above zero")]
    EmptyBackoff,
    /// The longest backoff is shorter than the first.
    #[error("the cap of a breaker's backoff must not be below its base")]
    CapBelowBase,
    /// The failure rate is not from 1 to 1,000 permille.
    #[error("a breaker's failure rate must be from 1 to 1000 permille")]
    RateOutOfRange,
    /// The window of the failure rate is zero.
    #[error("the window of a breaker's failure rate must be above zero")]
    EmptyWindow,
    /// The window of the failure rate is longer than a [`Tick`](crate::time::Tick) can count.
    #[error("the window of a breaker's failure rate must be at most 584 years")]
    WindowTooLong,
    /// The probe timeout is zero.
    #[error("a breaker's probe timeout must be above zero")]
    EmptyProbeTimeout,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backoff_is_capped_however_often_the_breaker_trips() {
        let longest = Duration::from_nanos(u64::MAX);
        let config = BreakerConfig::builder(Duration::from_nanos(5), longest).build();
        let config = config.unwrap();
        assert_eq!(config.backoff(62), longest);
        assert_eq!(config.backoff(64), longest);
        assert_eq!(config.backoff(u32::MAX), longest);
    }

    #[test]
    fn a_configuration_out_of_range_is_refused() {
        let second = Duration::from_secs(1);
        let error = |base, cap| BreakerConfig::builder(base, cap).build().unwrap_err();
        assert_eq!(
            error(Duration::ZERO, second),
            BreakerConfigError::EmptyBackoff
        );
        assert_eq!(error(second * 2, second), BreakerConfigError::CapBelowBase);
        let good = BreakerConfig::builder(second, second);
        let rate = |permille, window| {
            let rate = good.failure_rate(permille, window, NonZeroU32::MIN);
            rate.build().unwrap_err()
        };
        assert_eq!(rate(0, second), BreakerConfigError::RateOutOfRange);
        assert_eq!(rate(1_001, second), BreakerConfigError::RateOutOfRange);
        assert_eq!(rate(1, Duration::ZERO), BreakerConfigError::EmptyWindow);
        assert_eq!(rate(1, Duration::MAX), BreakerConfigError::WindowTooLong);
        assert_eq!(
            good.probe_timeout(Duration::ZERO).build(),
            Err(BreakerConfigError::EmptyProbeTimeout)
        );
    }
}
