//! An OpenAI-compatible server: settings, start, report, stop.
//!
//! Invariant: a server that started has settings that make sense, so that no call fails because of them.

mod config;
mod service;
#[cfg(test)]
mod tests;
mod wire;

pub use config::{Fault, FaultKind, OpenAiConfig};

use crate::report::Report;
use crate::server::Server;
use alloc::sync::Arc;
use core::net::SocketAddr;
use core::sync::atomic::AtomicU64;
use service::Upstream;
use std::io;

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
