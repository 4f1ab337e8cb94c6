//! What a gateway runs with, as types that can't be wrong.
//!
//! Invariant: every name of a pool that a listener uses is there, and no two pools have one name.

use crate::alert::AlertSettings;
pub use crate::log::{LogLevel, LogSettings, LogStyle, ParseLogLevelError};
pub use crate::otlp::{OtlpHeaders, OtlpSettings};

use crate::callers::{CallerSettings, ModelPattern, ModelPrice};
use crate::network::Network;
use crate::token::Token;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::num::NonZeroU32;
use core::ops::RangeInclusive;
use core::time::Duration;
use http::Uri;
use http::uri::PathAndQuery;
use leasehold_core::balance::Policy;
use leasehold_core::health::{
    BreakerConfig, OutlierConfig, PanicThreshold, ProbeConfig, SlowStartConfig,
};
use leasehold_core::limit::LimitSpecs;
use leasehold_protocol::ApiKey;
use std::path::PathBuf;

/// Settings of a whole gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where limits and changes are kept over a restart; `None` keeps nothing.
    pub state: Option<StateSettings>,
    /// The admin's own listener and token.
    pub admin: AdminSettings,
    /// The log of requests.
    pub access_log: AccessLog,
    /// The log for the operator.
    pub log: LogSettings,
    /// The export of traces and metrics; `None` exports nothing.
    pub otlp: Option<OtlpSettings>,
    /// The conditions that are told of, in the order of the file.
    pub alerts: Vec<AlertSettings>,
    /// How long requests in flight may take to end after SIGTERM.
    pub drain: Duration,
    /// The pools, in the order of the file.
    pub pools: Vec<PoolSettings>,
    /// The listeners, in the order of the file.
    pub listeners: Vec<ListenerSettings>,
    /// The callers of listeners of services, in the order of the file.
    pub callers: Vec<CallerSettings>,
    /// Prices of models, the most special one first.
    pub prices: Vec<ModelPrice>,
}

/// A file that keeps what a restart must not forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSettings {
    /// The file.
    pub path: PathBuf,
    /// What a file that was torn, or a reboot, means for the limits.
    pub after_crash: AfterCrash,
}

/// What limits are after a crash of the machine, when the state file may miss charges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterCrash {
    /// `closed`: all limits are taken as used up.
    #[default]
    Closed,
    /// `trust`: the file is taken as it is.
    Trust,
}

/// How the admin interface is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminSettings {
    /// A listener of its own; without it, `/lb/*` is on each listener for callers from this machine.
    pub listen: Option<Address>,
    /// The token that changes need.
    pub token: Option<Token>,
    /// Whether callers from this machine may change things without a token: a gateway started from flags alone.
    pub open_on_loopback: bool,
}

/// An address to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `127.0.0.1:8080`.
    Tcp(SocketAddr),
    /// `unix:/run/leasehold.sock`.
    Unix(PathBuf),
}

/// As a configuration file has it.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The log of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// The form of a line; `None` writes no log.
    pub format: Option<LogFormat>,
    /// The file; `None` is standard output.
    pub path: Option<PathBuf>,
}

/// The form of a line of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// The Common Log Format of the NCSA server.
    Common,
    /// Common, with the referrer and the client's name of itself.
    Combined,
    /// An object a line, with times of each phase and the backend.
    Json,
}

/// One pool of members.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSettings {
    /// The name by which listeners use it.
    pub name: String,
    /// What its members are.
    pub kind: Kind,
    /// How a member is chosen.
    pub policy: Policy,
    /// How long a request may wait for a member.
    pub max_wait: Duration,
    /// How many requests may wait at once.
    pub max_waiters: u32,
    /// Limits of the pool as a whole.
    pub limits: Option<LimitSpecs>,
    /// When a member that fails is left alone.
    pub breaker: Option<BreakerConfig>,
    /// Health checks.
    pub health: Option<HealthCheck>,
    /// When a member that fails more often than others is left out.
    pub outlier: Option<OutlierConfig>,
    /// The share of healthy members below which health is not looked at.
    pub panic_threshold: PanicThreshold,
    /// How a member that comes back is eased in.
    pub slow_start: Option<SlowStartConfig>,
    /// Whether a client stays with its member.
    pub affinity: Option<Affinity>,
    /// Repeats of failed requests.
    pub retry: RetrySettings,
    /// Bounds on the way to the members.
    pub upstream: UpstreamBounds,
    /// The members, in the order of the file.
    pub members: Vec<MemberSettings>,
    /// What holds for ComfyUI servers alone.
    pub comfyui: ComfyuiSettings,
}

/// What holds for a pool of ComfyUI servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComfyuiSettings {
    /// Jobs that wait at a server behind the one that runs.
    pub prefetch: u32,
    /// The pause between two looks at a server that has jobs, from which no event came.
    pub poll: Duration,
    /// How long a server may give no sign before its jobs are done elsewhere.
    pub lost_after: Duration,
    /// How long a job may run without progress before it is taken from its server.
    pub stalled_after: Duration,
    /// How long a server with waiting jobs may run none before its worker is taken for dead.
    pub idle_after: Duration,
    /// Waiting jobs above which an event tells of it.
    pub alert_waiting: Option<u32>,
    /// The wait of a job above which an event tells of it.
    pub alert_wait: Option<Duration>,
    /// Whether servers are chosen by their queues; the first healthy one in the file's order otherwise.
    pub queue_weight: bool,
    /// Whether other servers than the first are used.
    pub failover: bool,
    /// Whether the log has a full report after each round of checks.
    pub verbose: bool,
    /// Ended jobs that are remembered.
    pub max_history: u32,
    /// Bytes of uploaded files that are kept.
    pub max_uploads: u64,
}

impl Default for ComfyuiSettings {
    fn default() -> Self {
        Self {
            prefetch: 1,
            poll: Duration::from_secs(2),
            lost_after: Duration::from_secs(30),
            stalled_after: Duration::from_secs(900),
            idle_after: Duration::from_secs(20),
            alert_waiting: None,
            alert_wait: None,
            queue_weight: true,
            failover: true,
            verbose: false,
            max_history: 1_000,
            max_uploads: 1 << 30,
        }
    }
}

/// What the members of a pool are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// HTTP servers that all answer alike.
    Http,
    /// Keys of OpenAI-compatible services.
    Openai,
    /// ComfyUI servers.
    Comfyui,
}

impl Kind {
    /// The name, as in a configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Openai => "openai",
            Self::Comfyui => "comfyui",
        }
    }
}

/// A check that a member answers.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// When it is made, and how many answers change a member's state.
    pub probes: ProbeConfig,
    /// The path that is asked for.
    pub path: PathAndQuery,
    /// The statuses of a healthy member.
    pub status: RangeInclusive<u16>,
    /// Text that the body of a healthy member has, within its first 64 KiB.
    pub body: Option<String>,
}

/// How a client stays with its member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// What tells one client from another.
    pub by: AffinityKey,
    /// How long a client that is away is remembered.
    pub ttl: Duration,
    /// How many clients are remembered.
    pub capacity: NonZeroU32,
}

/// What tells one client from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AffinityKey {
    /// A cookie of this name, which the gateway sets.
    Cookie(String),
    /// The client's address.
    Address,
}

/// Repeats of requests that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrySettings {
    /// Attempts of a request in all.
    pub attempts: NonZeroU32,
    /// Repeats that each request allows, in permille.
    pub budget_permille: u16,
    /// Repeats that are allowed without any.
    pub reserve: u32,
}

/// Bounds on the way to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamBounds {
    /// Until a connection is made, TLS included.
    pub connect: Duration,
    /// From the request's end to the answer's headers.
    pub response_header: Duration,
    /// Between two pieces of the answer's body.
    pub body_idle: Duration,
    /// How long an unused connection is kept.
    pub keep_alive: Duration,
    /// Unused connections kept a member, by each core.
    pub max_idle: u32,
}

/// One member of a pool; a pool of keys has a member for each key.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberSettings {
    /// Its name; host and port by default.
    pub name: String,
    /// Where it is.
    pub url: Uri,
    /// The key it is called with.
    pub key: Option<ApiKey>,
    /// Its share of requests under policies that weigh.
    pub weight: u16,
    /// Its tier: members of tier 0 come first.
    pub tier: u8,
    /// What it can do.
    pub labels: Vec<String>,
    /// Its limits.
    pub limits: Option<LimitSpecs>,
    /// Members of one group share their limits.
    pub group: Option<String>,
    /// Requests at once.
    pub max_connections: Option<NonZeroU32>,
    /// How the addresses of a name in its URL are used.
    pub addresses: MemberAddresses,
    /// Where it is (ComfyUI): callers of the same zone come to it first.
    pub zone: Option<String>,
}

impl MemberSettings {
    /// Makes a member that differs from others by its name and URL alone.
    #[must_use]
    pub fn new(name: String, url: Uri) -> Self {
        Self {
            name,
            url,
            key: None,
            weight: 1,
            tier: 0,
            labels: Vec::new(),
            limits: None,
            group: None,
            max_connections: None,
            addresses: MemberAddresses::Any,
            zone: None,
        }
    }
}

/// How the addresses of a name in a member's URL are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberAddresses {
    /// The member is one, whatever its addresses.
    #[default]
    Any,
    /// Each address is a member of its own, which the gateway makes as DNS tells of it.
    Each,
    /// Only this address; a member that was made so.
    One(IpAddr),
}

/// One address that callers reach.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerSettings {
    /// Where it listens.
    pub address: Address,
    /// What it speaks.
    pub serve: Serve,
    /// Which pool a request goes to; the first route that fits.
    pub routes: Vec<Route>,
    /// A token that callers need.
    pub token: Option<Token>,
    /// Bounds on what callers may do.
    pub bounds: ListenerBounds,
    /// Whose word is taken for the client's address.
    pub forwarded: TrustedProxies,
    /// A limit on all requests.
    pub limit: Option<LimitSpecs>,
    /// A limit on the requests of each client address.
    pub client_limit: Option<LimitSpecs>,
    /// Whether a stream whose caller waits long for a key begins, and is kept open by comments.
    pub keep_alive: bool,
    /// What becomes of a call whose caller has left.
    pub on_disconnect: OnDisconnect,
    /// How long a lease lives from its grant or last renewal.
    pub lease_ttl: Duration,
    /// The zones of callers by their networks (ComfyUI), the smallest network first.
    pub zones: Vec<(Network, String)>,
}

/// What becomes of a call whose caller has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDisconnect {
    /// It ends at once.
    #[default]
    Cancel,
    /// Its answer is heard out, so that its usage is known.
    Drain,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serve {
    /// A reverse proxy.
    Http,
    /// An OpenAI-compatible service.
    Openai,
    /// A ComfyUI server.
    Comfyui,
    /// Leases for workers.
    Leases,
}

/// Requests that go to one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The host they name, without a port; `None` is any.
    pub host: Option<String>,
    /// What their path begins with, by whole segments; `/` is any.
    pub path: String,
    /// The models they ask for; `None` is any.
    pub model: Option<ModelPattern>,
    /// Where they go: at first, and then where that can't serve them.
    pub targets: Vec<RouteTarget>,
}

/// A pool that a route leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTarget {
    /// Its index in [`Settings::pools`].
    pub pool: usize,
    /// The name that the model has there; `None` keeps the one that was asked for.
    pub rename: Option<String>,
}

impl Route {
    /// Makes a route of all requests of a host and path to a pool.
    #[must_use]
    pub fn new(host: Option<String>, path: &str, pool: usize) -> Self {
        Self {
            host,
            path: path.to_owned(),
            model: None,
            targets: vec![RouteTarget { pool, rename: None }],
        }
    }

    /// The pool that its requests go to at first.
    #[must_use]
    pub fn pool(&self) -> Option<usize> {
        self.targets.first().map(|target| target.pool)
    }
}

/// Bounds on what callers may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerBounds {
    /// Until a request's headers are there.
    pub header_read: Duration,
    /// Between two pieces of a request's body.
    pub body_idle: Duration,
    /// Between two requests of a connection.
    pub keep_alive: Duration,
    /// Bytes of a request's head.
    pub max_header_bytes: u32,
    /// Fields of a request's head.
    pub max_headers: u16,
    /// Bytes of a request's body; `None` is any.
    pub max_body: Option<u64>,
    /// Connections in all.
    pub max_connections: NonZeroU32,
    /// Connections of one client address.
    pub max_client_connections: NonZeroU32,
    /// Requests of one connection; `None` is any.
    pub max_requests: Option<NonZeroU32>,
}

/// Whose `X-Forwarded-For` is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TrustedProxies {
    /// That of no peer.
    #[default]
    None,
    /// That of peers in these networks.
    Networks(Vec<Network>),
    /// That of any peer: clients can then name any address as theirs.
    All,
}

impl Default for AccessLog {
    /// The combined log format, on standard output.
    fn default() -> Self {
        Self {
            format: Some(LogFormat::Combined),
            path: None,
        }
    }
}

impl Default for RetrySettings {
    /// Three attempts; repeats of a fifth of all requests, and 10 more.
    fn default() -> Self {
        Self {
            attempts: const { NonZeroU32::new(3).unwrap() },
            budget_permille: 200,
            reserve: 100,
        }
    }
}

impl Default for UpstreamBounds {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            response_header: Duration::from_secs(30),
            body_idle: Duration::from_secs(60),
            keep_alive: Duration::from_secs(60),
            max_idle: 1_024,
        }
    }
}

impl UpstreamBounds {
    /// Returns the bounds of a kind of pool, unless the file says otherwise: models may think for minutes.
    #[must_use]
    pub fn of(kind: Kind) -> Self {
        let default = Self::default();
        match kind {
            Kind::Http | Kind::Comfyui => default,
            Kind::Openai => Self {
                response_header: Duration::from_secs(600),
                body_idle: Duration::from_secs(600),
                ..default
            },
        }
    }
}

impl Default for ListenerBounds {
    fn default() -> Self {
        Self {
            header_read: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            keep_alive: Duration::from_secs(75),
            max_header_bytes: 64 * 1_024,
            max_headers: 100,
            max_body: None,
            max_connections: const { NonZeroU32::new(20_000).unwrap() },
            max_client_connections: const { NonZeroU32::new(2_000).unwrap() },
            max_requests: None,
        }
    }
}

impl PoolSettings {
    /// How long a request may wait, unless the file says otherwise.
    pub const MAX_WAIT: Duration = Duration::from_secs(30);

    /// How long a call may wait for a key, where no file says so: SDKs wait for 10 min.
    pub const MAX_WAIT_FOR_KEYS: Duration = Duration::from_secs(600);

    /// How long a job may wait for a ComfyUI server, unless the file says otherwise: queues of hours are common.
    pub const MAX_WAIT_FOR_JOBS: Duration = Duration::from_secs(24 * 3_600);

    /// Returns how long a request may wait for a member of a kind of pool, unless the file says otherwise.
    pub(crate) const fn default_max_wait(kind: Kind) -> Duration {
        match kind {
            Kind::Http | Kind::Openai => Self::MAX_WAIT,
            Kind::Comfyui => Self::MAX_WAIT_FOR_JOBS,
        }
    }

    /// How many requests may wait at once, unless the file says otherwise.
    pub const MAX_WAITERS: u32 = 10_000;
}

impl ListenerSettings {
    /// Makes a listener without routes, limits and a token.
    #[must_use]
    pub fn new(address: Address, serve: Serve) -> Self {
        Self {
            address,
            serve,
            routes: Vec::new(),
            token: None,
            bounds: ListenerBounds::default(),
            forwarded: TrustedProxies::None,
            limit: None,
            client_limit: None,
            keep_alive: true,
            on_disconnect: OnDisconnect::default(),
            lease_ttl: Self::LEASE_TTL,
            zones: Vec::new(),
        }
    }

    /// Returns the zone of a caller's address: that of the smallest network that has it.
    #[must_use]
    pub fn zone_of(&self, caller: IpAddr) -> Option<&str> {
        let mut zones = self.zones.iter();
        let found = zones.find(|(network, _)| network.contains(caller));
        found.map(|(_, zone)| zone.as_str())
    }

    /// How long a lease lives, unless the file says otherwise.
    pub const LEASE_TTL: Duration = Duration::from_secs(60);
}

impl Affinity {
    /// How many clients are remembered, unless the file says otherwise.
    pub const CAPACITY: NonZeroU32 = const { NonZeroU32::new(100_000).unwrap() };
}

impl Settings {
    /// How long requests in flight may take to end, unless the file says otherwise.
    pub const DRAIN: Duration = Duration::from_secs(30);

    /// Returns the pool of a name.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&PoolSettings> {
        self.pools.iter().find(|pool| pool.name == name)
    }
}
