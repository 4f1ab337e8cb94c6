//! An HTTP backend for tests of proxies: start, kill, restart, report, stop.
//!
//! Invariant: a backend keeps its port while it is down, so that a restart finds it free and no other socket answers.

mod answer;
mod body;
mod config;
mod connection;
mod fault;
mod record;
mod report;
mod route;
mod service;
mod state;
#[cfg(test)]
mod tests;
mod websocket;

pub use config::BackendConfig;
pub use fault::{BackendFault, BackendFaultError, BackendFaultRule};
pub use record::SeenRequest;
pub use report::{BackendReport, ConnectionReport};

use crate::limit::Limit;
use crate::server::{Server, serve, take_address};
use alloc::sync::Arc;
use core::net::SocketAddr;
use core::time::Duration;
use state::Origin;
use std::io;
use tokio::net::TcpSocket;

/// The reason that a [`Backend`] did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// A limit counts tokens or the requests for a model, which a backend does not know.
    #[error("a backend can't limit {0}; limit requests, such as 100/s")]
    Limit(Limit),
    /// The id can't be sent in a header.
    #[error("the id {0:?} can't be sent in a header; write it in visible ASCII")]
    Id(String),
    /// The address can't be listened on, or the thread can't be started.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Error of the system.
        source: io::Error,
    },
}

/// A running HTTP backend.
///
/// Every whole answer names it: in the header `x-backend`, and in `server_info.id` of its JSON. Paths and queries:
///
/// | path | answer |
/// |---|---|
/// | `/`, any other | what arrived: method, path, headers, length of the body |
/// | `/health` | 200, or 503 after [`set_healthy(false)`](Self::set_healthy); not counted as a request |
/// | `/slow?ms=1000` | the same as `/`, after a pause |
/// | `/bytes?n=1024` | this many bytes, with their length |
/// | `/stream?chunks=10&ms=100&bytes=16&trailers` | chunks with pauses; trailers if the caller takes some |
/// | `/echo` | the body and its trailers, as they arrive |
/// | `/status/503` | this status |
/// | `/early-hints?count=1&ms=0` | 103 that often, a pause, 200 |
/// | `/continue?ms=0&refuse=417` | 100 after a pause, if expected; or this status, with the body unread |
/// | `/ws?protocol=NAME&close_after=N` | a websocket that echoes messages, and may close after some |
/// | `/close?when=before&reset&unread` | a close `before` it, in the `head`, after the `headers`, in the `body`, or `after` it |
/// | `/stall?when=before&ms=600000` | silence `before` it, after the `headers`, or in the `body`, then a close |
/// | `/redirect?to=/&status=302` | a redirect |
/// | `/cookie?name=session&value=ID` | two cookies |
/// | `/testbed/report` | the [`BackendReport`] |
/// | `POST /testbed/set?healthy=false&delay=50ms&fault=RULE` | changes these settings; `fault=none` ends all faults |
///
/// The query `fault=NAME` or the header `x-testbed-fault: NAME` gives a request to any path a [`BackendFault`].
///
/// The server runs on its own thread. Dropping it kills it.
#[derive(Debug)]
pub struct Backend {
    origin: Arc<Origin>,
    /// `None` while it is down.
    server: Option<Server>,
    /// Holds the port while it is down.
    port: Option<TcpSocket>,
}

impl Backend {
    /// Starts the backend; the port is open when this returns.
    ///
    /// # Errors
    /// [`BackendError`], if a setting makes no sense or the address can't be listened on.
    pub fn start(config: BackendConfig) -> Result<Self, BackendError> {
        let addr = config.listen;
        let listen = |source| BackendError::Listen { addr, source };
        let socket = take_address(addr).map_err(listen)?;
        let address = socket.local_addr().map_err(listen)?;
        let mut backend = Self {
            origin: Arc::new(Origin::new(config, address)?),
            server: None,
            port: Some(socket),
        };
        backend.restart().map_err(listen)?;
        Ok(backend)
    }

    /// The address that it listens on, or held while it is down.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.origin.address
    }

    /// The base URL, such as `http://127.0.0.1:8001`, without a trailing slash.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The name in its answers.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.origin.id
    }

    /// Returns the counts so far.
    #[must_use]
    pub fn report(&self) -> BackendReport {
        self.origin.report()
    }

    /// Waits until the report fulfils a condition, for at most `limit`, and returns whether it does.
    ///
    /// It is checked at each arrival, each end, each recorded body, each connection and each message of a websocket.
    pub fn wait(&self, limit: Duration, condition: impl Fn(&BackendReport) -> bool) -> bool {
        self.origin.wait(limit, || condition(&self.report()))
    }

    /// Sets whether `/health` answers 200 or 503.
    pub fn set_healthy(&self, is_healthy: bool) {
        self.origin.change(|state| state.is_healthy = is_healthy);
    }

    /// Sets the pause before each later answer, except that of `/health`.
    pub fn set_delay(&self, delay: Duration) {
        self.origin.change(|state| state.delay = delay);
    }

    /// Replaces the rules of the faults; their counts begin anew, the draws go on.
    pub fn set_faults(&self, rules: Vec<BackendFaultRule>) {
        self.origin.change(|state| state.dice.set_rules(rules));
    }

    /// Forgets the recorded requests.
    pub fn clear_recorded(&self) {
        self.origin.change(|state| state.records.clear());
    }

    /// Closes the listener and every connection at once; new connections are refused until a restart.
    ///
    /// # Errors
    /// The error of the system, if another process took the port in the meantime.
    pub fn kill(&mut self) -> io::Result<()> {
        if let Some(server) = self.server.take() {
            self.origin.change(|state| state.is_down = true);
            server.kill();
            self.port = Some(take_address(self.address())?);
        }
        Ok(())
    }

    /// Starts again on the same port after a kill; one that is up is killed first. Settings and counts go on.
    ///
    /// # Errors
    /// The error of the system, if the port can't be listened on.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill()?;
        let socket = match self.port.take() {
            Some(socket) => socket,
            None => take_address(self.address())?,
        };
        self.origin.change(|state| state.is_down = false);
        let site = Arc::clone(&self.origin);
        let server = Server::run(socket, |listener, stop| serve(listener, stop, site))?;
        self.server = Some(server);
        Ok(())
    }

    /// Stops the backend, and returns the final counts.
    ///
    /// Requests in flight have up to 5 s to end; websockets are closed. The count of open connections is that before.
    pub fn stop(mut self) -> BackendReport {
        let connections_open = self.report().connections_open;
        drop(self.server.take());
        BackendReport {
            connections_open,
            ..self.report()
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.kill();
        }
    }
}
