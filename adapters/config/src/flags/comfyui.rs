//! ComfyUI servers from flags: `--comfyui URL,URL,...`.
//!
//! Invariant: a server's URL has a scheme and a host, and no server is there twice.

use super::FlagsError;
use crate::file::{BreakerTable, HealthTable, Text, Timeout, Url, Value};
use crate::resolve::{default_policy, set_shares};
use crate::settings::{
    ComfyuiSettings, Kind, MemberSettings, PoolSettings, RetrySettings, UpstreamBounds,
};
use core::num::NonZeroU32;
use core::str::FromStr;
use core::time::Duration;
use http::Uri;
use leasehold_core::health::PanicThreshold;

/// ComfyUI servers and how they are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComfyuiServers {
    /// `--comfyui`: the primary server, then its backups.
    pub servers: Vec<ServerUrl>,
    /// `--health-timeout`: the time for an answer to a health check; `None` is 10 s, or the interval if shorter.
    pub health_timeout: Option<Duration>,
    /// `--health-tries`: failed checks in a row that take a server down.
    pub health_tries: NonZeroU32,
    /// Whether servers are chosen by their queues; `--no-queue-weight` takes the first that is up.
    pub queue_weight: bool,
    /// Whether the backups are used; `--no-failover` leaves the primary alone.
    pub failover: bool,
    /// `--verbose`: whether the log has a full report after each round of checks.
    pub verbose: bool,
}

impl ComfyuiServers {
    /// Takes servers, which are checked three times before one is down, and chosen by their queues.
    #[must_use]
    pub fn new(servers: Vec<ServerUrl>) -> Self {
        let ComfyuiSettings {
            queue_weight,
            failover,
            verbose,
            ..
        } = ComfyuiSettings::default();
        Self {
            servers,
            health_timeout: None,
            health_tries: HealthTable::default().unhealthy_after,
            queue_weight,
            failover,
            verbose,
        }
    }
}

/// The URL of a ComfyUI server, with a base path or without.
///
/// ```
/// use leasehold_config::{ParseServerUrlError, ServerUrl};
///
/// assert!("https://gpu.example.com/comfy".parse::<ServerUrl>().is_ok());
/// assert_eq!("gpu1:8188".parse::<ServerUrl>(), Err(ParseServerUrlError::Scheme));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl(Uri);

/// The reason that a text is no [`ServerUrl`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseServerUrlError {
    /// Neither `http://` nor `https://` is before the host.
    #[error("write http:// or https:// before the host, such as http://127.0.0.1:8188")]
    Scheme,
    /// There is no host.
    #[error("the host is missing; write the URL as http://127.0.0.1:8188")]
    Host,
    /// There is a query.
    #[error("the URL of a ComfyUI server has no ?; write it as http://127.0.0.1:8188")]
    Query,
    /// Something else is wrong, which the text says.
    #[error("{0}; write the URL as http://127.0.0.1:8188")]
    Malformed(String),
}

impl FromStr for ServerUrl {
    type Err = ParseServerUrlError;

    fn from_str(text: &str) -> Result<Self, ParseServerUrlError> {
        let text = text.trim();
        let schemes = ["http://", "https://"].into_iter();
        let mut rests = schemes.filter_map(|scheme| text.strip_prefix(scheme));
        let rest = rests.next().ok_or(ParseServerUrlError::Scheme)?;
        if rest.is_empty() || rest.starts_with(['/', ':', '?', '#']) {
            return Err(ParseServerUrlError::Host);
        }
        if text.contains('?') {
            return Err(ParseServerUrlError::Query);
        }
        match Url::read(text) {
            Ok(Url(url)) => Ok(Self(url)),
            Err(misread) => Err(ParseServerUrlError::Malformed(misread.problem)),
        }
    }
}

/// Makes the pool of ComfyUI servers.
pub(super) fn pool(
    comfyui: ComfyuiServers,
    health_interval: Duration,
    request_timeout: Duration,
) -> Result<PoolSettings, FlagsError> {
    let kind = Kind::Comfyui;
    let settings = ComfyuiSettings {
        queue_weight: comfyui.queue_weight,
        failover: comfyui.failover,
        verbose: comfyui.verbose,
        ..ComfyuiSettings::default()
    };
    if health_interval.is_zero() {
        return Err(FlagsError::ZeroInterval);
    }
    let health = HealthTable {
        interval: Text(Timeout(health_interval)),
        timeout: comfyui.health_timeout.map(|time| Text(Timeout(time))),
        unhealthy_after: comfyui.health_tries,
        ..HealthTable::default()
    };
    let health = health.build(kind).map_err(|_| FlagsError::HealthTimeout)?;
    Ok(PoolSettings {
        name: "default".to_owned(),
        kind,
        policy: default_policy(kind),
        max_wait: PoolSettings::MAX_WAIT_FOR_JOBS,
        max_waiters: PoolSettings::MAX_WAITERS,
        limits: None,
        breaker: BreakerTable::default().build().ok(),
        health: Some(health),
        outlier: None,
        panic_threshold: PanicThreshold::NEVER,
        slow_start: None,
        affinity: None,
        retry: RetrySettings::default(),
        upstream: UpstreamBounds {
            response_header: request_timeout,
            ..UpstreamBounds::of(kind)
        },
        members: members(comfyui.servers, settings)?,
        comfyui: settings,
    })
}

/// Names the servers `server1`, `server2` and so on.
fn members(
    servers: Vec<ServerUrl>,
    settings: ComfyuiSettings,
) -> Result<Vec<MemberSettings>, FlagsError> {
    let mut members: Vec<MemberSettings> = Vec::new();
    for (number, ServerUrl(url)) in (1_usize..).zip(servers) {
        if members.iter().any(|member| member.url == url) {
            return Err(FlagsError::SameServer);
        }
        members.push(MemberSettings::new(format!("server{number}"), url));
    }
    if members.is_empty() {
        return Err(FlagsError::NoServer);
    }
    set_shares(settings, members.iter_mut());
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Flags, Service};
    use crate::settings::{Address, Serve, Settings};

    fn servers(urls: &[&str]) -> ComfyuiServers {
        ComfyuiServers::new(urls.iter().map(|url| url.parse().unwrap()).collect())
    }

    fn settings(comfyui: ComfyuiServers) -> Result<Settings, FlagsError> {
        Settings::from_flags(Flags {
            comfyui: Some(comfyui),
            ..Flags::default()
        })
    }

    fn shares(settings: &Settings) -> Vec<(&str, u8, u16)> {
        let members = settings.pools[0].members.iter();
        members
            .map(|it| (it.name.as_str(), it.tier, it.weight))
            .collect()
    }

    #[test]
    fn a_server_is_a_url_with_scheme_and_host() {
        let url = |text: &str| text.parse::<ServerUrl>().map(|it| it.0.to_string());
        assert_eq!(
            url(" http://gpu1:8188 "),
            Ok("http://gpu1:8188/".to_owned())
        );
        assert_eq!(url("https://h/comfy"), Ok("https://h/comfy".to_owned()));
        assert_eq!(
            url("http://[::1]:8188"),
            Ok("http://[::1]:8188/".to_owned())
        );
        for (text, error) in [
            ("", ParseServerUrlError::Scheme),
            ("gpu1", ParseServerUrlError::Scheme),
            ("gpu1:8188", ParseServerUrlError::Scheme),
            ("ws://gpu1:8188", ParseServerUrlError::Scheme),
            ("http://", ParseServerUrlError::Host),
            ("http:///comfy", ParseServerUrlError::Host),
            ("http://:8188", ParseServerUrlError::Host),
            ("http://h/?api-version=1", ParseServerUrlError::Query),
        ] {
            assert_eq!(url(text), Err(error), "{text}");
        }
        for text in [
            "http://u:p@h",
            "http://h:0",
            "http://h:x",
            "http://h/#a",
            "http://a b",
        ] {
            let error = url(text).unwrap_err();
            assert!(
                matches!(error, ParseServerUrlError::Malformed(_))
                    && !error.to_string().contains("u:p"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn the_first_server_is_the_primary_and_the_rest_are_its_backups() {
        let settings = settings(servers(&["http://a", "https://b/x"])).unwrap();
        assert_eq!(shares(&settings), [("server1", 0, 1), ("server2", 0, 1)]);
        let pool = &settings.pools[0];
        assert_eq!((pool.name.as_str(), pool.kind), ("default", Kind::Comfyui));
        assert_eq!(pool.max_wait, PoolSettings::MAX_WAIT_FOR_JOBS);
        assert_eq!(pool.comfyui, ComfyuiSettings::default());
        let health = pool.health.as_ref().unwrap();
        let probes = &health.probes;
        assert_eq!(health.path.as_str(), "/prompt");
        assert_eq!(
            (probes.interval().as_secs(), probes.timeout().as_secs()),
            (30, 10)
        );
        assert_eq!((probes.rise().get(), probes.fall().get()), (1, 3));
        assert!(pool.breaker.is_some());
        let listener = &settings.listeners[0];
        assert_eq!(listener.serve, Serve::Comfyui);
        assert_eq!(
            listener.address,
            Address::Tcp("127.0.0.1:8080".parse().unwrap())
        );
    }

    #[test]
    fn switches_set_tiers_weights_and_reports() {
        let urls = ["http://a", "http://b", "http://c"];
        let switched = settings(ComfyuiServers {
            queue_weight: false,
            verbose: true,
            ..servers(&urls)
        });
        let switched = switched.unwrap();
        assert_eq!(
            shares(&switched),
            [("server1", 0, 1), ("server2", 1, 1), ("server3", 2, 1)]
        );
        assert!(switched.pools[0].comfyui.verbose);
        let alone = settings(ComfyuiServers {
            failover: false,
            ..servers(&urls)
        });
        assert_eq!(
            shares(&alone.unwrap()),
            [("server1", 0, 1), ("server2", 0, 0), ("server3", 0, 0)]
        );
    }

    #[test]
    fn times_of_checks_and_requests_are_taken_as_for_backends() {
        let settings = Settings::from_flags(Flags {
            comfyui: Some(servers(&["http://a"])),
            health_interval: Duration::from_secs(5),
            request_timeout: Duration::from_secs(7),
            ..Flags::default()
        });
        let pool = settings.unwrap().pools.remove(0);
        // Without a timeout of its own, a check has the interval if that is shorter.
        assert_eq!(pool.health.unwrap().probes.timeout().as_secs(), 5);
        assert_eq!(pool.upstream.response_header.as_secs(), 7);
    }

    #[test]
    fn servers_that_can_not_be_are_refused() {
        let timeout = |seconds| ComfyuiServers {
            health_timeout: Some(Duration::from_secs(seconds)),
            ..servers(&["http://a"])
        };
        assert!(settings(timeout(30)).is_ok());
        assert_eq!(settings(timeout(31)), Err(FlagsError::HealthTimeout));
        assert_eq!(settings(timeout(0)), Err(FlagsError::HealthTimeout));
        assert_eq!(settings(servers(&[])), Err(FlagsError::NoServer));
        assert_eq!(
            settings(servers(&["http://a", "http://A/"])),
            Err(FlagsError::SameServer)
        );
        let flags = Flags {
            comfyui: Some(servers(&["http://a"])),
            ..Flags::default()
        };
        let zero = Flags {
            health_interval: Duration::ZERO,
            ..flags.clone()
        };
        assert_eq!(Settings::from_flags(zero), Err(FlagsError::ZeroInterval));
        let mixed = Flags {
            service: Some(Service {
                url: Uri::from_static("http://h/v1"),
                keys: Vec::new(),
                limits: None,
            }),
            ..flags
        };
        assert_eq!(Settings::from_flags(mixed), Err(FlagsError::TwoKinds));
    }
}
