//! An OpenAI-compatible server: settings, start, report, stop.
//!
//! Invariant: a server that started has settings that make sense, so that no call fails because of them.

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

/// Settings of an [`OpenAi`] server.
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

/// The reason that an [`OpenAi`] server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The window is zero.
    #[error("the window must be above zero")]
    EmptyWindow,
    /// The range of latencies is empty.
    #[error("the shortest latency must not be above the longest")]
    EmptyLatency,
    /// The status of the fault is not that of an error.
    #[error("the status of a failed call must be 400 to 599, not {0}")]
    NotAnError(u16),
    /// The address can't be listened on, or the thread can't be started.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Error of the system.
        source: io::Error,
    },
}

/// A running OpenAI-compatible server.
///
/// Routes: `POST /v1/chat/completions`, `GET /v1/models`, and `GET /testbed/report`, which returns the [`Report`]
/// to anyone.
///
/// A call arrives when its head has been read, and is judged then: 401 for an unknown key, 429 over the limit,
/// 503 over the concurrency. Then its body is read (413 above 8 MiB, 408 after 30 s) and checked (400, 404). The
/// answer is an echo of the last user message.
///
/// The server runs on its own thread. Dropping it stops it; calls in flight have up to 5 s to end.
#[derive(Debug)]
pub struct OpenAi {
    server: Server,
    upstream: Arc<Upstream>,
}

impl OpenAi {
    /// Starts the server; the port is open when this returns.
    ///
    /// # Errors
    /// [`StartError`], if the settings make no sense or the address can't be listened on.
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
            service::respond(Arc::clone(&shared), request)
        })
        .map_err(|source| StartError::Listen { addr, source })?;
        Ok(Self { server, upstream })
    }

    /// The address that the server listens on.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// The base URL, such as `http://127.0.0.1:8080`, without a trailing slash.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// Returns the counts so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.upstream.report()
    }

    /// Stops the server as a drop does, and returns the final counts.
    pub fn stop(self) -> Report {
        let Self { server, upstream } = self;
        drop(server);
        upstream.report()
    }
}
