//! Settings from the flags of a first start, without a file.
//!
//! Invariant: a backend has a host, a port and a weight; the one pool is named `default`.

mod comfyui;

pub use comfyui::{ComfyuiServers, ParseServerUrlError, ServerUrl};

use crate::file::{BreakerTable, CookieName, HealthTable, Text, Timeout, Url, Value};
use crate::keys::Key;
use crate::resolve::default_policy;
use crate::settings::{
    AccessLog, Address, AdminSettings, Affinity, AffinityKey, ComfyuiSettings, Kind,
    ListenerSettings, LogSettings, MemberSettings, PoolSettings, RetrySettings, Route, Serve,
    Settings, UpstreamBounds,
};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::str::FromStr;
use core::time::Duration;
use http::Uri;
use http::uri::{Authority, PathAndQuery};
use leasehold_core::affinity::DEFAULT_TTL;
use leasehold_core::balance::Policy;
use leasehold_core::health::PanicThreshold;
use leasehold_core::limit::LimitSpecs;

/// What flags say of a gateway: one listener, and one pool of HTTP servers, keys or ComfyUI servers.
#[derive(Clone, Debug, PartialEq)]
pub struct Flags {
    /// `--host`: the address to listen at.
    pub host: IpAddr,
    /// `--port`: the port to listen at; 0 is any.
    pub port: u16,
    /// `--algorithm`: how a backend is chosen.
    pub algorithm: Policy,
    /// `--backend`: the backends; none are those of the demo.
    pub backends: Vec<Backend>,
    /// `--openai`: a service and its keys, in place of backends.
    pub service: Option<Service>,
    /// `--comfyui`: ComfyUI servers, in place of backends.
    pub comfyui: Option<ComfyuiServers>,
    /// `--health-path`: the path of a backend's health check, to be answered with 2xx or 3xx; without it, any answer below 500
    /// at `/health` will do, as not every server has that path.
    pub health_path: Option<PathAndQuery>,
    /// The time between two health checks of a backend.
    pub health_interval: Duration,
    /// How long a backend may take to begin its answer.
    pub request_timeout: Duration,
    /// Whether requests are logged.
    pub access_log: bool,
    /// What keeps a client with its backend, if anything does.
    pub affinity: Option<AffinityKey>,
    /// How long a client that is away is remembered.
    pub session_timeout: Duration,
}

impl Default for Flags {
    /// Round robin on 127.0.0.1:8080 over `localhost:8001` to `8003` with weights 1, 2 and 1.
    fn default() -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.into(),
            port: 8_080,
            algorithm: Policy::RoundRobin,
            backends: Vec::new(),
            service: None,
            comfyui: None,
            health_path: None,
            health_interval: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            access_log: true,
            affinity: None,
            session_timeout: DEFAULT_TTL,
        }
    }
}

/// A service and the keys for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its URL, as SDKs take it.
    pub url: Uri,
    /// `--keys`: its keys; a key may have a URL and limits of its own.
    pub keys: Vec<Key>,
    /// `--limit`: the limits of each key.
    pub limits: Option<LimitSpecs>,
}

/// The reason that flags make no settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlagsError {
    /// The time between two health checks is zero.
    #[error("the interval of health checks must be above zero")]
    ZeroInterval,
    /// The timeout of requests is zero.
    #[error("the timeout of requests must be above zero")]
    ZeroTimeout,
    /// The timeout of sessions is zero.
    #[error("the timeout of sessions must be above zero")]
    ZeroSession,
    /// No cookie can have the name.
    #[error("the name of a cookie must be letters, digits and dashes, such as backend")]
    CookieName,
    /// The URL of a service is none.
    #[error("--openai must be a URL such as https://api.example.com/v1")]
    ServiceUrl,
    /// No backend has a weight above zero.
    #[error("all backends have weight 0, so that none can serve")]
    NoWeight,
    /// A key has a URL that is none.
    #[error("a key's own url= is no URL; write it as https://api.example.com/v1")]
    KeyUrl,
    /// The listener would be open to the network.
    #[error(
        "keys on an address that others reach need a token; use --config, or listen at 127.0.0.1"
    )]
    OpenKeys,
    /// There are keys of a service and ComfyUI servers.
    #[error("one gateway from flags serves one kind; give --openai or --comfyui, or use --config")]
    TwoKinds,
    /// There is no ComfyUI server.
    #[error("there is no ComfyUI server; give one such as --comfyui http://127.0.0.1:8188")]
    NoServer,
    /// A ComfyUI server is there twice.
    #[error("two ComfyUI servers have the same URL; give each server once")]
    SameServer,
    /// The timeout of health checks is zero or longer than their interval.
    #[error("the timeout of health checks must be above zero and at most their interval")]
    HealthTimeout,
}

/// A backend, written `HOST:PORT` or `HOST:PORT=WEIGHT`.
///
/// ```
/// use leasehold_config::{Backend, ParseBackendError};
///
/// let backend: Backend = "localhost:8001=2".parse()?;
/// assert_eq!((backend.authority(), backend.weight()), ("localhost:8001", 2));
/// assert_eq!("localhost".parse::<Backend>(), Err(ParseBackendError::Port));
/// # Ok::<(), ParseBackendError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    authority: Authority,
    weight: u16,
}

/// The reason that a text is no [`Backend`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseBackendError {
    /// The host is missing or malformed, or there is more than host and port.
    #[error("write a backend as HOST:PORT or HOST:PORT=WEIGHT, such as localhost:8001=2")]
    Malformed,
    /// The port is missing or not from 1 to 65535.
    #[error("the port of a backend must be from 1 to 65535, such as localhost:8001")]
    Port,
    /// The weight is not from 0 to 65535.
    #[error("the weight of a backend must be from 0 to 65535, such as localhost:8001=2")]
    Weight,
}

impl FromStr for Backend {
    type Err = ParseBackendError;

    fn from_str(text: &str) -> Result<Self, ParseBackendError> {
        let (address, weight) = match text.split_once('=') {
            Some((address, weight)) => (address, number(weight).ok_or(ParseBackendError::Weight)?),
            None => (text, 1),
        };
        let authority: Authority = address.parse().map_err(|_| ParseBackendError::Malformed)?;
        let host = authority.host();
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(ParseBackendError::Malformed);
        }
        let port = authority
            .as_str()
            .strip_prefix(host)
            .and_then(|port| port.strip_prefix(':'));
        if port.and_then(number).is_none_or(|port| port == 0) {
            return Err(ParseBackendError::Port);
        }
        Ok(Self { authority, weight })
    }
}

fn number(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

impl Backend {
    /// Returns host and port.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.authority.as_str()
    }

    /// Returns the weight; 0 gets no requests.
    #[must_use]
    pub const fn weight(&self) -> u16 {
        self.weight
    }
}

impl Settings {
    /// Makes settings of flags alone.
    ///
    /// The backends are named `backend1`, `backend2` and so on, checked at `/health`, and left alone for 30 s after
    /// five failures in a row. ComfyUI servers are named `server1`, `server2` and so on. On a loopback address, callers of
    /// this machine may change things without a token.
    ///
    /// # Errors
    /// [`FlagsError`] if a timeout is zero, no backend has a weight, a server is there twice, or a name of a cookie or a URL
    /// is none.
    pub fn from_flags(flags: Flags) -> Result<Self, FlagsError> {
        if flags.request_timeout.is_zero() {
            return Err(FlagsError::ZeroTimeout);
        }
        if flags.session_timeout.is_zero() {
            return Err(FlagsError::ZeroSession);
        }
        if let Some(AffinityKey::Cookie(name)) = &flags.affinity {
            CookieName::read(name).map_err(|_| FlagsError::CookieName)?;
        }
        let default = AccessLog::default();
        let format = default.format.filter(|_| flags.access_log);
        let address = SocketAddr::new(flags.host, flags.port);
        let is_local = flags.host.to_canonical().is_loopback();
        let serve = match (&flags.service, &flags.comfyui) {
            (Some(_), Some(_)) => return Err(FlagsError::TwoKinds),
            (Some(_), None) if !is_local => return Err(FlagsError::OpenKeys),
            (Some(_), None) => Serve::Openai,
            (None, Some(_)) => Serve::Comfyui,
            (None, None) => Serve::Http,
        };
        Ok(Self {
            state: None,
            admin: AdminSettings {
                open_on_loopback: is_local,
                ..AdminSettings::default()
            },
            access_log: AccessLog { format, ..default },
            log: LogSettings::default(),
            otlp: None,
            alerts: Vec::new(),
            drain: Self::DRAIN,
            pools: vec![pool(flags)?],
            listeners: vec![ListenerSettings {
                routes: vec![Route::new(None, "/", 0)],
                ..ListenerSettings::new(Address::Tcp(address), serve)
            }],
            callers: Vec::new(),
            prices: Vec::new(),
        })
    }
}

fn pool(flags: Flags) -> Result<PoolSettings, FlagsError> {
    if let Some(service) = flags.service {
        return keys(service);
    }
    if let Some(servers) = flags.comfyui {
        return comfyui::pool(servers, flags.health_interval, flags.request_timeout);
    }
    let default = HealthTable::default();
    let health = HealthTable {
        status: match flags.health_path {
            Some(_) => default.status,
            None => Text(200..=499),
        },
        path: flags.health_path.map(Text),
        interval: Text(Timeout(flags.health_interval)),
        ..default
    };
    let backends = if flags.backends.is_empty() {
        demo_backends()
    } else {
        flags.backends
    };
    if backends.iter().all(|backend| backend.weight == 0) {
        return Err(FlagsError::NoWeight);
    }
    Ok(PoolSettings {
        name: "default".to_owned(),
        kind: Kind::Http,
        policy: flags.algorithm,
        max_wait: PoolSettings::MAX_WAIT,
        max_waiters: PoolSettings::MAX_WAITERS,
        limits: None,
        breaker: BreakerTable::default().build().ok(),
        health: Some(
            health
                .build(Kind::Http)
                .map_err(|_| FlagsError::ZeroInterval)?,
        ),
        outlier: None,
        panic_threshold: PanicThreshold::NEVER,
        slow_start: None,
        affinity: flags.affinity.map(|by| Affinity {
            by,
            ttl: flags.session_timeout,
            capacity: Affinity::CAPACITY,
        }),
        retry: RetrySettings::default(),
        upstream: UpstreamBounds {
            response_header: flags.request_timeout,
            ..UpstreamBounds::default()
        },
        members: (1..).zip(backends).map(member).collect(),
        comfyui: ComfyuiSettings::default(),
    })
}

/// Makes the pool of a service's keys.
fn keys(service: Service) -> Result<PoolSettings, FlagsError> {
    let kind = Kind::Openai;
    Url::read(&service.url.to_string()).map_err(|_| FlagsError::ServiceUrl)?;
    let mut members = Vec::new();
    for (number, key) in (1_usize..).zip(service.keys) {
        let url = key
            .url
            .as_deref()
            .map_or(Ok(service.url.clone()), str::parse);
        let url = url.map_err(|_| FlagsError::KeyUrl)?;
        members.push(MemberSettings {
            key: Some(key.key),
            limits: key.limits.or_else(|| service.limits.clone()),
            group: key.group,
            ..MemberSettings::new(format!("key{number}"), url)
        });
    }
    Ok(PoolSettings {
        name: "default".to_owned(),
        kind,
        policy: default_policy(kind),
        max_wait: PoolSettings::MAX_WAIT_FOR_KEYS,
        max_waiters: PoolSettings::MAX_WAITERS,
        limits: None,
        breaker: None,
        health: None,
        outlier: None,
        panic_threshold: PanicThreshold::NEVER,
        slow_start: None,
        affinity: None,
        retry: RetrySettings::default(),
        upstream: UpstreamBounds::of(kind),
        members,
        comfyui: ComfyuiSettings::default(),
    })
}

fn demo_backends() -> Vec<Backend> {
    let backend = |(address, weight)| Backend {
        authority: Authority::from_static(address),
        weight,
    };
    let backends = [
        ("localhost:8001", 1),
        ("localhost:8002", 2),
        ("localhost:8003", 1),
    ];
    backends.into_iter().map(backend).collect()
}

fn member((number, backend): (usize, Backend)) -> MemberSettings {
    let mut url = http::uri::Parts::default();
    url.scheme = Some(http::uri::Scheme::HTTP);
    url.authority = Some(backend.authority);
    url.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    // A URL of these three parts is always one.
    let url = Uri::from_parts(url).unwrap_or_default();
    MemberSettings {
        weight: backend.weight,
        ..MemberSettings::new(format!("backend{number}"), url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(flags: Flags) -> Settings {
        Settings::from_flags(flags).unwrap()
    }

    #[test]
    fn without_flags_there_are_the_backends_of_the_demo() {
        let settings = settings(Flags::default());
        let [pool] = &settings.pools[..] else {
            panic!("one pool");
        };
        let members: Vec<_> = pool
            .members
            .iter()
            .map(|it| (it.name.as_str(), it.url.to_string(), it.weight))
            .collect();
        assert_eq!(
            members,
            [
                ("backend1", "http://localhost:8001/".to_owned(), 1),
                ("backend2", "http://localhost:8002/".to_owned(), 2),
                ("backend3", "http://localhost:8003/".to_owned(), 1),
            ]
        );
        assert_eq!(pool.policy, Policy::RoundRobin);
        let health = pool.health.as_ref().unwrap();
        assert_eq!(health.probes.interval(), Duration::from_secs(30));
        assert_eq!(pool.upstream.response_header, Duration::from_secs(30));
        let listener = &settings.listeners[0];
        assert_eq!(
            listener.address,
            Address::Tcp("127.0.0.1:8080".parse().unwrap())
        );
        assert!(settings.access_log.format.is_some() && settings.admin.open_on_loopback);
    }

    #[test]
    fn changes_are_open_on_loopback_only() {
        for (host, open) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("0.0.0.0", false),
            ("::", false),
            ("10.0.0.1", false),
        ] {
            let host = host.parse().unwrap();
            let settings = settings(Flags {
                host,
                ..Flags::default()
            });
            assert_eq!(settings.admin.open_on_loopback, open, "{host}");
        }
    }

    #[test]
    fn a_backend_is_host_port_and_weight() {
        let backend = |text: &str| {
            text.parse::<Backend>()
                .map(|it| (it.authority.to_string(), it.weight))
        };
        assert_eq!(backend("h:1"), Ok(("h:1".to_owned(), 1)));
        assert_eq!(backend("[::1]:65535=0"), Ok(("[::1]:65535".to_owned(), 0)));
        for (text, error) in [
            ("", ParseBackendError::Malformed),
            (":80", ParseBackendError::Malformed),
            ("http://h:80", ParseBackendError::Malformed),
            ("u@h:80", ParseBackendError::Malformed),
            ("a b:80", ParseBackendError::Malformed),
            ("h:80/x", ParseBackendError::Malformed),
            ("h", ParseBackendError::Port),
            ("h:", ParseBackendError::Port),
            ("h:0", ParseBackendError::Port),
            ("h:65536", ParseBackendError::Port),
            ("h:80=", ParseBackendError::Weight),
            ("h:80=-1", ParseBackendError::Weight),
            ("h:80=65536", ParseBackendError::Weight),
            ("h:80=1=2", ParseBackendError::Weight),
        ] {
            assert_eq!(backend(text), Err(error), "{text}");
        }
    }

    #[test]
    fn flags_that_can_not_be_are_refused() {
        let refused = |change: fn(&mut Flags)| {
            let mut flags = Flags::default();
            change(&mut flags);
            Settings::from_flags(flags).unwrap_err()
        };
        assert_eq!(
            refused(|it| it.health_interval = Duration::ZERO),
            FlagsError::ZeroInterval
        );
        assert_eq!(
            refused(|it| it.request_timeout = Duration::ZERO),
            FlagsError::ZeroTimeout
        );
        assert_eq!(
            refused(|it| it.session_timeout = Duration::ZERO),
            FlagsError::ZeroSession
        );
        let cookie = |it: &mut Flags| it.affinity = Some(AffinityKey::Cookie("a b".to_owned()));
        assert_eq!(refused(cookie), FlagsError::CookieName);
        let service = |it: &mut Flags| {
            it.service = Some(Service {
                url: Uri::from_static("127.0.0.1:9"),
                keys: Vec::new(),
                limits: None,
            });
        };
        assert_eq!(refused(service), FlagsError::ServiceUrl);
        let no_weight = |it: &mut Flags| it.backends = vec!["h:1=0".parse().unwrap()];
        assert_eq!(refused(no_weight), FlagsError::NoWeight);
        let settings = settings(Flags {
            health_interval: Duration::from_secs(1),
            affinity: Some(AffinityKey::Address),
            ..Flags::default()
        });
        let pool = &settings.pools[0];
        assert!(
            pool.affinity
                .as_ref()
                .is_some_and(|it| it.ttl == Duration::from_secs(3_600))
        );
        assert!(
            pool.health
                .as_ref()
                .is_some_and(|it| it.probes.timeout() == Duration::from_secs(1))
        );
        let statuses = |path: Option<&'static str>| {
            let settings = self::settings(Flags {
                health_path: path.map(PathAndQuery::from_static),
                ..Flags::default()
            });
            settings.pools[0].health.clone().unwrap().status
        };
        assert_eq!(
            [statuses(None), statuses(Some("/up"))],
            [200..=499, 200..=399]
        );
    }
}
