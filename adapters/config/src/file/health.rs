//! Tables about members that fail: health checks, breaker, outliers, slow start.
//!
//! Invariant: each table that is built and shown again gives the same settings.

use super::{Line, Share, Text, Timeout};
use crate::settings::{HealthCheck, Kind};
use core::num::NonZeroU32;
use core::ops::RangeInclusive;
use core::time::Duration;
use http::uri::PathAndQuery;
use leasehold_core::health::{
    BreakerConfig, BreakerConfigError, OutlierConfig, OutlierConfigError, ProbeConfig,
    ProbeConfigError, SlowStartConfig, SlowStartConfigError,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(number - 1)
}

const fn seconds(seconds: u64) -> Text<Timeout> {
    Text(Timeout(Duration::from_secs(seconds)))
}

/// Requests that check whether a member is up.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HealthTable {
    /// The path that is asked for; by default `/health`, and `/prompt` for comfyui.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<Text<PathAndQuery>>,
    /// The time between two checks of a member.
    pub(crate) interval: Text<Timeout>,
    /// How long an answer may take, at most the interval; by default 5 s (comfyui: 10 s), or the interval if that is shorter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<Text<Timeout>>,
    /// The statuses of a member that is up.
    pub(crate) status: Text<RangeInclusive<u16>>,
    /// A text that the answer's first 64 KiB must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body: Option<Text<Line>>,
    /// Consecutive successes that bring a member up; by default 2, and 1 for comfyui.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) healthy_after: Option<NonZeroU32>,
    /// Consecutive failures that take a member down.
    pub(crate) unhealthy_after: NonZeroU32,
}

impl Default for HealthTable {
    fn default() -> Self {
        Self {
            path: None,
            interval: seconds(30),
            timeout: None,
            status: Text(200..=399),
            body: None,
            healthy_after: None,
            unhealthy_after: number(3),
        }
    }
}

impl HealthTable {
    pub(crate) fn build(self, kind: Kind) -> Result<HealthCheck, ProbeConfigError> {
        let (default_path, timeout, healthy_after) = match kind {
            Kind::Http | Kind::Openai => ("/health", seconds(5), number(2)),
            // A server that has loaded its nodes answers; one that works hard is slow to.
            Kind::Comfyui => ("/prompt", seconds(10), number(1)),
        };
        let interval = self.interval.0.0;
        let timeout = match self.timeout {
            Some(timeout) => timeout.0.0,
            None => timeout.0.0.min(interval),
        };
        let probes = ProbeConfig::builder(interval, timeout)
            .rise(self.healthy_after.unwrap_or(healthy_after))
            .fall(self.unhealthy_after);
        let path = self.path.map(|path| path.0);
        Ok(HealthCheck {
            probes: probes.build()?,
            path: path.unwrap_or_else(|| PathAndQuery::from_static(default_path)),
            status: self.status.0,
            body: self.body.map(|body| body.0.0),
        })
    }

    pub(crate) fn of(check: &HealthCheck) -> Self {
        let probes = &check.probes;
        Self {
            path: Some(Text(check.path.clone())),
            interval: Text(Timeout(probes.interval())),
            timeout: Some(Text(Timeout(probes.timeout()))),
            status: Text(check.status.clone()),
            body: check.body.clone().map(|body| Text(Line(body))),
            healthy_after: Some(probes.rise()),
            unhealthy_after: probes.fall(),
        }
    }
}

/// When a member that fails is left alone (circuit breaker).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BreakerTable {
    /// Consecutive failures that open the breaker.
    pub(crate) failures: NonZeroU32,
    /// How long it stays open the first time; each further time is twice as long.
    pub(crate) open: Text<Timeout>,
    /// The longest time that it stays open; by default `open`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_open: Option<Text<Timeout>>,
    /// How long it must stay closed for the next time to be the first again; by default `max_open`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reset_after: Option<Text<Duration>>,
    /// A share of failures that opens it too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure_rate: Option<Text<Share>>,
    /// The time over which the share is counted.
    pub(crate) window: Text<Timeout>,
    /// The least number of outcomes in that time for the share to count.
    pub(crate) min_requests: NonZeroU32,
    /// Requests let through at once to see whether the member is back.
    pub(crate) probes: NonZeroU32,
    /// Consecutive successes of these that close the breaker.
    pub(crate) successes: NonZeroU32,
    /// The time after which one of these without an answer has failed.
    pub(crate) probe_timeout: Text<Timeout>,
}

impl Default for BreakerTable {
    fn default() -> Self {
        Self {
            failures: number(5),
            open: seconds(30),
            max_open: None,
            reset_after: None,
            failure_rate: None,
            window: seconds(10),
            min_requests: number(20),
            probes: number(1),
            successes: number(1),
            probe_timeout: seconds(30),
        }
    }
}

impl BreakerTable {
    pub(crate) fn build(&self) -> Result<BreakerConfig, BreakerConfigError> {
        let open = self.open.0.0;
        let max_open = self.max_open.map_or(open, |max| max.0.0);
        let mut breaker = BreakerConfig::builder(open, max_open)
            .consecutive_failures(self.failures)
            .reset_after(self.reset_after.map_or(max_open, |after| after.0))
            .probes(self.probes)
            .successes(self.successes)
            .probe_timeout(self.probe_timeout.0.0);
        if let Some(Text(Share(permille))) = self.failure_rate {
            breaker = breaker.failure_rate(permille, self.window.0.0, self.min_requests);
        }
        breaker.build()
    }

    pub(crate) fn of(breaker: &BreakerConfig) -> Self {
        let defaults = Self::default();
        let (open, max_open) = breaker.open();
        let (probes, successes) = breaker.half_open();
        let rate = breaker.failure_rate();
        Self {
            failures: breaker.consecutive_failures().unwrap_or(defaults.failures),
            open: Text(Timeout(open)),
            max_open: Some(Text(Timeout(max_open))),
            reset_after: Some(Text(breaker.reset_after())),
            failure_rate: rate.map(|(permille, _, _)| Text(Share(permille))),
            window: rate.map_or(defaults.window, |(_, window, _)| Text(Timeout(window))),
            min_requests: rate.map_or(defaults.min_requests, |(_, _, minimum)| minimum),
            probes,
            successes,
            probe_timeout: Text(Timeout(breaker.probe_timeout())),
        }
    }
}

/// When a member that fails more often than others is left out.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OutlierTable {
    /// The time between two looks at all members, and over which outcomes are counted.
    pub(crate) interval: Text<Timeout>,
    /// How long a member is left out the first time; the n-th time is n times as long.
    pub(crate) eject: Text<Timeout>,
    /// The longest time that a member is left out.
    pub(crate) max_eject: Text<Timeout>,
    /// Standard deviations below the mean success rate that make an outlier; 1.9 if there is no `failure_rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65))]
    pub(crate) deviation: Option<f64>,
    /// The least distance from the mean that makes an outlier.
    pub(crate) margin: Text<Share>,
    /// A share of failures that makes an outlier, whatever the others do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure_rate: Option<Text<Share>>,
    /// The least number of outcomes for a member to be judged.
    pub(crate) min_requests: NonZeroU32,
    /// The least number of judged members.
    pub(crate) min_members: NonZeroU32,
    /// The share of members that may be left out at once; one always may.
    pub(crate) max_ejected: Text<Share>,
}

impl Default for OutlierTable {
    fn default() -> Self {
        Self {
            interval: seconds(10),
            eject: seconds(30),
            max_eject: seconds(300),
            deviation: None,
            margin: Text(Share(50)),
            failure_rate: None,
            min_requests: number(100),
            min_members: number(5),
            max_ejected: Text(Share(100)),
        }
    }
}

impl OutlierTable {
    pub(crate) fn build(&self) -> Result<OutlierConfig, OutlierConfigError> {
        let mut outlier =
            OutlierConfig::builder(self.interval.0.0, self.eject.0.0, self.max_eject.0.0)
                .volume(self.min_requests, self.min_members)
                .max_ejected(self.max_ejected.0.0);
        let default = if self.failure_rate.is_none() {
            Some(1.9)
        } else {
            None
        };
        if let Some(deviation) = self.deviation.or(default) {
            // The schema keeps it from 0 to 65, and the cast saturates.
            let thousandths = (deviation * 1_000.0).round() as u16;
            outlier = outlier.deviation(thousandths, self.margin.0.0);
        }
        if let Some(Text(Share(permille))) = self.failure_rate {
            outlier = outlier.failure_rate(permille);
        }
        outlier.build()
    }

    pub(crate) fn of(outlier: &OutlierConfig) -> Self {
        let (eject, max_eject) = outlier.ejection();
        let (min_requests, min_members) = outlier.volume();
        let deviation = outlier.deviation();
        Self {
            interval: Text(Timeout(outlier.interval())),
            eject: Text(Timeout(eject)),
            max_eject: Text(Timeout(max_eject)),
            deviation: deviation.map(|(thousandths, _)| f64::from(thousandths) / 1_000.0),
            margin: deviation.map_or(Self::default().margin, |(_, margin)| Text(Share(margin))),
            failure_rate: outlier.failure_rate().map(|permille| Text(Share(permille))),
            min_requests,
            min_members,
            max_ejected: Text(Share(outlier.max_ejected())),
        }
    }
}

/// How a member that is new or back is eased in.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SlowStartTable {
    /// The time in which its weight grows to the full one.
    pub(crate) duration: Text<Timeout>,
    /// The number of steps in which it grows.
    pub(crate) steps: NonZeroU32,
}

impl Default for SlowStartTable {
    fn default() -> Self {
        Self {
            duration: seconds(30),
            steps: number(10),
        }
    }
}

impl SlowStartTable {
    pub(crate) fn build(&self) -> Result<SlowStartConfig, SlowStartConfigError> {
        SlowStartConfig::new(self.duration.0.0, self.steps)
    }

    pub(crate) fn of(slow_start: &SlowStartConfig) -> Self {
        Self {
            duration: Text(Timeout(slow_start.duration())),
            steps: slow_start.steps(),
        }
    }
}
