//! A ComfyUI server for tests: start, kill, restart, trouble, report, stop.
//!
//! Invariant: a kill loses what the real process keeps in memory, and keeps the port, the disk and the report.

mod config;
mod control;
mod disk;
mod fault;
mod files;
mod guard;
mod info;
mod jobs;
mod nodes;
mod png;
mod prompt;
mod queue;
mod report;
mod route;
mod service;
mod sockets;
mod state;
#[cfg(test)]
mod tests;
mod validate;
mod websocket;
mod worker;

pub use config::{ComfyAge, ComfyAgeError, ComfyConfig, ComfyGuard, ComfyJobTime};
pub use fault::{ComfyFault, ComfyFaultError};
pub use report::{ComfyPromptReport, ComfyReport, ComfyStart};

use crate::server::{Server, serve, take_address};
use alloc::sync::Arc;
use core::iter::repeat_n;
use core::net::SocketAddr;
use core::time::Duration;
use state::{MAX_FAULTS, Studio};
use std::io;
use tokio::net::TcpSocket;

/// The reason that a [`Comfy`] did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ComfyError {
    /// The speed is no number above 0.
    #[error("the speed {0} is not a number above 0")]
    Speed(f64),
    /// The address can't be listened on, or the thread can't be started.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Error of the system.
        source: io::Error,
    },
}

/// A running double of a ComfyUI server.
///
/// It has the routes, events and errors of the real one, and its flaws; nothing is computed. Paths of its own:
///
/// | path | answer |
/// |---|---|
/// | `/` | a page that queues a prompt and shows its progress, for tests with a browser |
/// | `/testbed/report` | the [`ComfyReport`] |
/// | `POST /testbed/set?silent=true&stalled=true&worker=dead&object_info_delay=50ms&fault=NAME&count=1` | changes these settings; `fault=none` ends all faults |
///
/// The server runs on its own thread. Dropping it kills it.
#[derive(Debug)]
pub struct Comfy {
    studio: Arc<Studio>,
    /// `None` while it is down.
    server: Option<Server>,
    /// Holds the port while it is down.
    port: Option<TcpSocket>,
}

impl Comfy {
    /// Starts the server; the port is open when this returns.
    ///
    /// # Errors
    /// [`ComfyError`], if a setting makes no sense or the address can't be listened on.
    pub fn start(config: ComfyConfig) -> Result<Self, ComfyError> {
        if !(config.speed.is_finite() && config.speed > 0.0) {
            return Err(ComfyError::Speed(config.speed));
        }
        let addr = config.listen;
        let listen = |source| ComfyError::Listen { addr, source };
        let socket = take_address(addr).map_err(listen)?;
        let address = socket.local_addr().map_err(listen)?;
        let mut comfy = Self {
            studio: Arc::new(Studio::new(config, address)),
            server: None,
            port: Some(socket),
        };
        comfy.run().map_err(listen)?;
        Ok(comfy)
    }

    /// The address that it listens on, or held while it is down.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.studio.address
    }

    /// The base URL, such as `http://127.0.0.1:8188`, without a trailing slash.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The name in its pictures.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.studio.id
    }

    /// Returns the counts so far.
    #[must_use]
    pub fn report(&self) -> ComfyReport {
        self.studio.read(|state| state.report.clone())
    }

    /// Waits until the report fulfils a condition, for at most `limit`, and returns whether it does.
    ///
    /// It is checked at each change of the server. The condition must not ask the server anything.
    pub fn wait(&self, limit: Duration, condition: impl Fn(&ComfyReport) -> bool) -> bool {
        self.studio.wait(limit, condition)
    }

    /// Holds the whole server, or lets it go on: connections stay open, nothing is answered, the job stands still.
    pub fn set_stalled(&self, is_stalled: bool) {
        let mode = &self.studio.mode;
        mode.send_modify(|mode| mode.is_stalled = is_stalled);
    }

    /// Ends the worker: prompts are still accepted, and none ever runs, until a restart.
    pub fn kill_worker(&self) {
        let mode = &self.studio.mode;
        mode.send_modify(|mode| mode.is_worker_dead = true);
    }

    /// Sets whether the frames of all websockets are dropped. A restart keeps the setting.
    pub fn set_silent(&self, is_silent: bool) {
        self.studio.change(|state| state.is_silent = is_silent);
    }

    /// Sets the pause before each answer of `/object_info`.
    pub fn set_object_info_delay(&self, delay: Duration) {
        self.studio.change(|state| state.object_info_delay = delay);
    }

    /// Gives the next `count` calls of `POST /prompt` a fault, after those that already wait; at most 100,000.
    pub fn fail_prompts(&self, count: usize, fault: ComfyFault) {
        self.studio.change(|state| {
            let room = MAX_FAULTS - state.faults.len();
            state.faults.extend(repeat_n(fault, count.min(room)));
        });
    }

    /// Forgets the faults that wait.
    pub fn clear_faults(&self) {
        self.studio.change(|state| state.faults.clear());
    }

    /// Closes the listener and resets every connection; new ones are refused until a restart.
    ///
    /// The queue, the running job, the history, the counter and the client ids are lost. Files stay, temporary ones
    /// do not; faults that wait and the report stay too.
    ///
    /// # Errors
    /// The error of the system, if another process took the port in the meantime.
    pub fn kill(&mut self) -> io::Result<()> {
        let Some(server) = self.server.take() else {
            return Ok(());
        };
        self.studio
            .read(|state| state.connections.values().for_each(|orders| orders.reset()));
        server.kill();
        self.studio.lose_life();
        self.port = Some(take_address(self.address())?);
        Ok(())
    }

    /// Starts again on the same port, with nothing in memory; one that is up is killed first.
    ///
    /// # Errors
    /// The error of the system, if the port can't be listened on.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill()?;
        self.run()?;
        self.studio.change(|state| state.report.restarts += 1);
        Ok(())
    }

    fn run(&mut self) -> io::Result<()> {
        let socket = match self.port.take() {
            Some(socket) => socket,
            None => take_address(self.address())?,
        };
        let studio = Arc::clone(&self.studio);
        let server = Server::run(socket, |listener, stop| async move {
            tokio::spawn(worker::work(Arc::clone(&studio)));
            serve(listener, stop, studio).await;
        })?;
        self.server = Some(server);
        Ok(())
    }

    /// Kills the server, and returns the counts from before: jobs in the queue are not lost in them.
    #[must_use]
    pub fn stop(mut self) -> ComfyReport {
        let report = self.report();
        if let Some(server) = self.server.take() {
            server.kill();
        }
        report
    }
}

impl Drop for Comfy {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.kill();
        }
    }
}
