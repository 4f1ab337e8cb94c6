//! The settings of an OpenAI-compatible server.

use crate::report::masked;
use core::fmt;
use core::net::{Ipv4Addr, SocketAddr};
use core::num::NonZeroU32;
use core::ops::RangeInclusive;
use core::time::Duration;

/// Settings of an [`OpenAi`](super::OpenAi) server.
///
/// By default it accepts any key, has no limit, answers at once, and listens on a free port of 127.0.0.1.
#[derive(Clone)]
#[non_exhaustive]
pub struct OpenAiConfig {
    /// Accepted keys; if empty, any key.
    pub keys: Vec<String>,
    /// Maximum number of calls of each key in any window.
    ///
    /// Every call with a known key counts, malformed ones too, except those rejected by this limit.
    pub limit: Option<NonZeroU32>,
    /// Window of the limit: 60 s by default. A call at `t` does not count any more at `t + window`.
    ///
    /// The report counts arrivals over it even without a limit.
    pub window: Duration,
    /// Range from which the duration of a valid call is drawn, uniformly.
    pub latency: RangeInclusive<Duration>,
    /// Maximum number of calls in flight of each key; more are rejected with 503.
    pub max_concurrent: Option<u32>,
    /// Calls that fail on purpose; none by default.
    pub fault: Option<Fault>,
    /// Seed of the drawn latencies.
    pub seed: u64,
    /// Address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Known models; if empty, any model.
    pub models: Vec<String>,
}

impl Default for OpenAiConfig {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            limit: None,
            window: Duration::from_secs(60),
            latency: Duration::ZERO..=Duration::ZERO,
            max_concurrent: None,
            fault: None,
            seed: 0,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            models: Vec::new(),
        }
    }
}

impl fmt::Debug for OpenAiConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            keys,
            limit,
            window,
            latency,
            max_concurrent,
            fault,
            seed,
            listen,
            models,
        } = self;
        let keys: Vec<_> = keys.iter().map(|key| masked(key)).collect();
        f.debug_struct("OpenAiConfig")
            .field("keys", &keys)
            .field("limit", limit)
            .field("window", window)
            .field("latency", latency)
            .field("max_concurrent", max_concurrent)
            .field("fault", fault)
            .field("seed", seed)
            .field("listen", listen)
            .field("models", models)
            .finish()
    }
}

/// Calls that fail on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// One in this many valid calls fails, counted over all keys.
    pub every: NonZeroU32,
    /// The kind of failure.
    pub kind: FaultKind,
}

/// The kind of a failure on purpose. It happens after the drawn latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// This status, 400 to 599, with an error body like the real service's.
    Status(u16),
    /// The connection is closed without a response.
    Close,
    /// Status 200 with a body that isn't JSON.
    Garbage,
}
