//! The signals that a running command obeys.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals, from the time that this was made.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    user: Signal,
}

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// SIGINT or SIGTERM.
    End,
    /// SIGHUP.
    HangUp,
    /// SIGUSR1.
    User,
}

impl Signals {
    /// Listens, within a tokio runtime.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) -> Given {
        tokio::select! {
            _ = self.interrupt.recv() => Given::End,
            _ = self.terminate.recv() => Given::End,
            _ = self.hang_up.recv() => Given::HangUp,
            _ = self.user.recv() => Given::User,
        }
    }
}
