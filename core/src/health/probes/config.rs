//! Configuration of probes: how often, and how many consecutive results change the health.
//!
//! Invariant: `0 < timeout <= interval`, and the jitter is at most the interval.

use crate::time::saturating_nanos;
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

/// How members are probed (active health checking).
///
/// Built by [`ProbeConfig::builder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeConfig {
    pub(super) interval: NonZeroU64,
    /// Largest delay of a probe, in permille of the interval.
    pub(super) jitter: u16,
    pub(super) timeout: Duration,
    pub(super) rise: NonZeroU32,
    pub(super) fall: NonZeroU32,
    pub(super) initially_up: bool,
}

impl ProbeConfig {
    /// Begins a configuration with a probe each `interval`, which fails without a result within `timeout`.
    ///
    /// Defaults: each probe is late by up to 100 permille of the interval at random; members are up before
    /// their first probe, go down after three consecutive failures and up after two consecutive
    /// successes.
    pub const fn builder(interval: Duration, timeout: Duration) -> ProbeConfigBuilder {
        ProbeConfigBuilder {
            interval,
            timeout,
            jitter: 100,
            rise: NonZeroU32::MIN.saturating_add(1),
            fall: NonZeroU32::MIN.saturating_add(2),
            initially_up: true,
        }
    }

    /// Returns the time between two probes of a member.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        Duration::from_nanos(self.interval.get())
    }

    /// Returns the time after which a probe without a result has failed.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns how many consecutive successes bring a member up.
    #[must_use]
    pub const fn rise(&self) -> NonZeroU32 {
        self.rise
    }

    /// Returns how many consecutive failures take a member down.
    #[must_use]
    pub const fn fall(&self) -> NonZeroU32 {
        self.fall
    }
}

/// Builder of a [`ProbeConfig`]; all checks are made by [`build`](Self::build).
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct ProbeConfigBuilder {
    interval: Duration,
    timeout: Duration,
    jitter: u16,
    rise: NonZeroU32,
    fall: NonZeroU32,
    initially_up: bool,
}

impl ProbeConfigBuilder {
    /// Delays each probe by a random share of the interval, at most `permille`.
    pub const fn jitter(mut self, permille: u16) -> Self {
        self.jitter = permille;
        self
    }

    /// Sets how many consecutive successes bring a member up.
    pub const fn rise(mut self, successes: NonZeroU32) -> Self {
        self.rise = successes;
        self
    }

    /// Sets how many consecutive failures take a member down.
    pub const fn fall(mut self, failures: NonZeroU32) -> Self {
        self.fall = failures;
        self
    }

    /// Sets whether a member is up before its first probe.
    pub const fn initially_up(mut self, up: bool) -> Self {
        self.initially_up = up;
        self
    }

    /// Checks the settings and returns the configuration.
    ///
    /// # Errors
    /// One [`ProbeConfigError`] variant for each setting out of range; the first found is returned.
    pub fn build(self) -> Result<ProbeConfig, ProbeConfigError> {
        let interval = NonZeroU64::new(saturating_nanos(self.interval));
        let interval = interval.ok_or(ProbeConfigError::EmptyInterval)?;
        if self.timeout.is_zero() {
            return Err(ProbeConfigError::EmptyTimeout);
        }
        if saturating_nanos(self.timeout) > interval.get() {
            return Err(ProbeConfigError::TimeoutAboveInterval);
        }
        if self.jitter > 1_000 {
            return Err(ProbeConfigError::JitterOutOfRange);
        }
        Ok(ProbeConfig {
            interval,
            jitter: self.jitter,
            timeout: self.timeout,
            rise: self.rise,
            fall: self.fall,
            initially_up: self.initially_up,
        })
    }
}

/// Reason why a [`ProbeConfig`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeConfigError {
    /// The interval between probes is zero.
    #[error("the interval of probes must be above zero")]
    EmptyInterval,
    /// The timeout is zero.
    #[error("a probe's timeout must be above zero")]
    EmptyTimeout,
    /// The timeout is longer than the interval.
    #[error("a probe's timeout must be at most the interval")]
    TimeoutAboveInterval,
    /// The jitter is above 1,000 permille.
    #[error("a probe's jitter must be at most 1000 permille")]
    JitterOutOfRange,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_out_of_range_is_refused() {
        let second = Duration::from_secs(1);
        let error = |interval, timeout| {
            let config = ProbeConfig::builder(interval, timeout).build();
            config.unwrap_err()
        };
        assert_eq!(
            error(Duration::ZERO, second),
            ProbeConfigError::EmptyInterval
        );
        assert_eq!(
            error(second, Duration::ZERO),
            ProbeConfigError::EmptyTimeout
        );
        assert_eq!(
            error(second, second * 2),
            ProbeConfigError::TimeoutAboveInterval
        );
        let jitter = ProbeConfig::builder(second, second).jitter(1_001);
        assert_eq!(jitter.build(), Err(ProbeConfigError::JitterOutOfRange));
    }
}
