//! An OpenAI-compatible server: how it is set up, started, asked what it saw, and stopped.

mod service;
#[cfg(test)]
mod tests;
mod wire;

use crate::report::{Report, masked};
use crate::server::Server;
use alloc::sync::Arc;
use core::fmt;
use core::net::{Ipv4Addr, SocketAddr};
use core::num::NonZeroU32;
use core::ops::RangeInclusive;
use core::sync::atomic::AtomicU64;
use core::time::Duration;
use service::Upstream;
use std::io;

/// How an [`OpenAi`] behaves.
///
/// By default it accepts any key, has no limit, answers at once, and listens on a free local port.
#[derive(Clone)]
pub struct OpenAiConfig {
    /// The keys it accepts; any key where this is empty.
    pub keys: Vec<String>,
    /// Calls each key may make in any one window. Every call with a known key counts, a malformed one
    /// too, but not one that is refused for this limit.
    pub limit: Option<NonZeroU32>,
    /// The window of the limit, half-open: a call counts at `t` and no more at `t + window`. Arrivals
    /// are counted over it even where there is no limit.
    pub window: Duration,
    /// How long a valid call takes, drawn evenly from this.
    pub latency: RangeInclusive<Duration>,
    /// Calls of each key that may be in flight at once; one above it is answered 503.
    pub max_concurrent: Option<u32>,
    /// The calls that fail on purpose.
    pub fault: Option<Fault>,
    /// What latencies are drawn from.
    pub seed: u64,
    /// Where to listen; a port of 0 means any free one.
    pub listen: SocketAddr,
    /// The models it has; any model where this is empty.
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

/// Which calls fail on purpose, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Every how many of the valid calls, over all keys, one fails.
    pub every: NonZeroU32,
    /// How it fails.
    pub kind: FaultKind,
}

/// How a call fails on purpose, after the time it would have taken to serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Answers this status, 400 to 599, with an error body like the real one.
    Status(u16),
    /// Closes the connection without an answer.
    Close,
    /// Answers 200 with a body that isn't JSON.
    Garbage,
}

/// Why an [`OpenAi`] could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nothing could ever be counted in the window.
    #[error("the window must be above zero")]
    EmptyWindow,
    /// No latency can be drawn from the range.
    #[error("the shortest latency must not be above the longest")]
    EmptyLatency,
    /// The status of the fault isn't that of an error.
    #[error("a fault's status must be from 400 to 599, not {0}")]
    NotAnError(u16),
    /// The address could not be listened on, or the thread not be started.
    #[error("cannot serve on {addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// A running OpenAI-compatible server: `POST /v1/chat/completions`, `GET /v1/models`, and
/// `GET /testbed/report`, which answers the [`Report`] to anyone.
///
/// A call arrives when its head has been read, and is judged then: 401 for an unknown key, 429 over the
/// limit, 503 with too many at once. Then its body is read (413 above 8 MiB, 408 after 30 s), checked
/// (400, 404), and answered with an echo of the last user message.
///
/// It runs on its own thread and stops when dropped: calls in flight are given up to 5 s to end.
#[derive(Debug)]
pub struct OpenAi {
    server: Server,
    upstream: Arc<Upstream>,
}

impl OpenAi {
    /// Starts to serve; the port is open when this returns.
    ///
    /// # Errors
    /// [`StartError`] where the configuration makes no sense or the system refuses.
    pub fn start(config: OpenAiConfig) -> Result<Self, StartError> {
        if config.window.is_zero() {
            return Err(StartError::EmptyWindow);
        }
        if config.latency.is_empty() {
            return Err(StartError::EmptyLatency);
        }
        if let Some(Fault {
            kind: FaultKind::Status(status),
            ..
        }) = config.fault
            && !(400..600).contains(&status)
        {
            return Err(StartError::NotAnError(status));
        }
        let addr = config.listen;
        let connections = Arc::new(AtomicU64::new(0));
        let upstream = Arc::new(Upstream::new(config, Arc::clone(&connections)));
        let shared = Arc::clone(&upstream);
        let server = Server::start(addr, connections, move |request| {
            service::answer(Arc::clone(&shared), request)
        })
        .map_err(|source| StartError::Listen { addr, source })?;
        Ok(Self { server, upstream })
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// Its base URL, such as `http://127.0.0.1:8080`, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// What it saw so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.upstream.report()
    }

    /// Stops it as a drop does, and answers what it saw in all.
    pub fn stop(self) -> Report {
        let Self { server, upstream } = self;
        drop(server);
        upstream.report()
    }
}
