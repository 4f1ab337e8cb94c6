//! State that the clones of a pool and its leases share: the clock, the names and the locked state.
//!
//! Invariant: the state's lock is not held while a thread is woken, sleeps, does I/O or drops a payload. The lock of the
//! names may be taken under it, and never the other way round.

use crate::clock::Clock;
use crate::names::Names;
use crate::state::State;
use crate::sync::{Mutex, lock};
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
}
