//! Tells the service manager (systemd) of a gateway, by the protocol of `sd_notify(3)`.
//!
//! Invariant: without `NOTIFY_SOCKET` in the environment nothing is sent, and a watchdog is fed only while the threads of
//! the gateway that serve make progress.

use crate::CliError;
use core::time::Duration;
use leasehold_gateway::Heartbeats;
use sd_notify::NotifyState;
use std::thread;

/// The state of a gateway with which nothing is wrong.
const SERVING: &str = "serving";
/// The target of what is logged: the watchdog's thread waits for no reader of standard error.
const LOG: &str = "leasehold::gateway";

/// Tells that all listeners accept connections.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status(SERVING)]);
}

/// Tells that the settings are read again; [`reloaded`] follows.
pub(crate) fn reloading() {
    // Without the time, systemd takes the end of an earlier reload for the end of this one.
    let time = NotifyState::monotonic_usec_now();
    let time = time.unwrap_or(NotifyState::Status("reloading"));
    tell(&[NotifyState::Reloading, time]);
}

/// Tells what became of a reload; a gateway whose settings are wrong serves under those before.
pub(crate) fn reloaded(result: Result<(), String>) {
    let status = match result {
        Ok(()) => SERVING.to_owned(),
        // A status is one line.
        Err(error) => format!("serving; not reloaded: {}", error.replace('\n', "; ")),
    };
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// Tells that requests in flight are being ended.
pub(crate) fn stopping() {
    let status = NotifyState::Status("draining: requests in flight end");
    tell(&[NotifyState::Stopping, status]);
}

/// Feeds the watchdog, if there is one, until the process ends.
pub(crate) fn feed_watchdog(heartbeats: Heartbeats) -> Result<(), CliError> {
    let Some(longest) = sd_notify::watchdog_enabled().filter(|time| !time.is_zero()) else {
        return Ok(());
    };
    let thread = thread::Builder::new().name("watchdog".to_owned());
    let thread = thread.spawn(move || watch(&heartbeats, longest / 2));
    thread.map(drop).map_err(CliError::system)
}

fn watch(heartbeats: &Heartbeats, pause: Duration) {
    let mut was_late = false;
    loop {
        let late = heartbeats.late(pause);
        match &late {
            None if was_late => tell(&[NotifyState::Watchdog, NotifyState::Status(SERVING)]),
            None => tell(&[NotifyState::Watchdog]),
            Some(thread) if !was_late => {
                let problem = format!("thread {thread} makes no progress");
                tracing::error!(
                    target: LOG,
                    "{problem}; the watchdog gets no sign, and the service manager may restart the gateway"
                );
                tell(&[NotifyState::Status(&problem)]);
            }
            Some(_) => {}
        }
        was_late = late.is_some();
        thread::sleep(pause);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::error!(target: LOG, "cannot tell the service manager: {error}");
    }
}
