//! The unused connections of one thread, by backend.
//!
//! Invariant: each set has at most `max_idle` connections of a backend; none older than `keep_alive` is handed out.

use crate::clock::{now, poll_time};
use core::cell::RefCell;
use leasehold_config::UpstreamBounds;
use std::collections::BTreeMap;
use tokio::time::Instant;

/// Unused connections, the latest last.
#[derive(Debug)]
pub(crate) struct IdleConnections<C> {
    by_backend: RefCell<BTreeMap<u64, Vec<Idle<C>>>>,
}

#[derive(Debug)]
struct Idle<C> {
    connection: C,
    until: Instant,
}

impl<C> Default for IdleConnections<C> {
    fn default() -> Self {
        Self {
            by_backend: RefCell::default(),
        }
    }
}

impl<C> IdleConnections<C> {
    /// Takes the connection that was used last, if one is open.
    pub(crate) fn take(&self, backend: u64) -> Option<C> {
        let mut by_backend = self.by_backend.borrow_mut();
        let idle = by_backend.get_mut(&backend)?;
        let mut latest_first = core::iter::from_fn(|| idle.pop());
        latest_first
            .find(|one| poll_time() < one.until)
            .map(|one| one.connection)
    }

    /// Keeps a connection whose answer was read to the end.
    pub(crate) fn keep(&self, backend: u64, connection: C, bounds: &UpstreamBounds) {
        let mut by_backend = self.by_backend.borrow_mut();
        let idle = by_backend.entry(backend).or_default();
        let max = usize::try_from(bounds.max_idle).unwrap_or(usize::MAX);
        if idle.len() < max {
            let until = poll_time() + bounds.keep_alive;
            idle.push(Idle { connection, until });
        }
    }

    /// Closes those that are too old. O(connections).
    ///
    /// One that the backend has closed is noticed at its next use, at which nothing of the request was sent.
    pub(crate) fn sweep(&self) {
        self.by_backend.borrow_mut().retain(|_, idle| {
            idle.retain(|one| now() < one.until);
            !idle.is_empty()
        });
    }
}
