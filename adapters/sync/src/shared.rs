//! State that the clones of a pool and its leases share: the clock, the names and the locked state.
//!
//! Invariant: the state's lock is not held while a thread is woken, sleeps, does I/O or drops a payload. The lock of the
//! names may be taken under it, and never the other way round.

use crate::clock::Clock;
use crate::lease::LeaseExpired;
use crate::names::Names;
use crate::state::State;
use crate::sync::{Mutex, lock};
use core::time::Duration;
use leasehold_core::pool::{LeaseId, Release};
use leasehold_core::time::Tick;

pub(crate) struct Shared<T> {
    pub(crate) clock: Clock,
    pub(crate) names: Names,
    pub(crate) state: Mutex<State<T>>,
}

impl<T> Shared<T> {
    /// Runs `command` under the lock, then notifies the affected threads and tasks after unlocking.
    pub(crate) fn under_lock<R>(&self, command: impl FnOnce(&mut State<T>, Tick) -> R) -> R {
        let mut state = lock(&self.state);
        let answer = command(&mut state, self.clock.now());
        let deferred = state.deliver();
        drop(state);
        for parker in &deferred.notify {
            parker.notify();
        }
        answer
    }

    pub(crate) fn arrived(&self, lease: LeaseId) -> Result<(), LeaseExpired> {
        let arrived = self.under_lock(|state, now| state.pool.arrived(now, lease));
        arrived.map_err(|_| LeaseExpired)
    }

    /// Returns the time until the lease expires then, if it does.
    pub(crate) fn renew(&self, lease: LeaseId) -> Result<Option<Duration>, LeaseExpired> {
        self.under_lock(|state, now| {
            let expires = state.pool.renew(now, lease).map_err(|_| LeaseExpired)?;
            Ok(expires.map(|expires| expires.since(now)))
        })
    }

    pub(crate) fn release(&self, lease: LeaseId, release: Release) -> Result<(), LeaseExpired> {
        let released = self.under_lock(|state, now| state.pool.release(now, lease, release));
        released.map_err(|_| LeaseExpired)
    }
}
