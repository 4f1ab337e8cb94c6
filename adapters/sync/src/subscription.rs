//! A subscription to a pool's events.
//!
//! Invariant: it is parked, and may be timekeeper, from a wait or poll that finds no event until an event is taken,
//! it is paused or it is dropped.

use crate::event::PoolEvent;
use crate::parker::{Parker, WakeReason};
use crate::shared::Shared;
use crate::state::ParkKey;
use crate::sync::{Arc, lock};
use core::fmt;
use core::num::NonZeroUsize;
use core::task::{Context, Poll};
use core::time::Duration;
use leasehold_core::time::{Tick, earliest};

/// Events of a pool since the subscription was [made](crate::SyncPool::events).
///
/// While it waits it also runs the pool's timers, so that leases expire and probes begin on time even when no
/// request is queued.
pub struct Subscription<T> {
    shared: Arc<Shared<T>>,
    subscriber: u64,
    parker: Arc<Parker<T>>,
}

impl<T> Subscription<T> {
    pub(crate) fn new(shared: &Arc<Shared<T>>, capacity: NonZeroUsize) -> Self {
        Self {
            shared: Arc::clone(shared),
            subscriber: lock(&shared.state).add_subscriber(capacity.get()),
            parker: Arc::new(Parker::new(false)),
        }
    }

    /// Waits for the next event; `None` once the pool is closed and all events were taken.
    pub fn wait(&mut self) -> Option<PoolEvent<T>> {
        self.wait_until(None)
    }

    /// Waits for the next event for at most `timeout`.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<PoolEvent<T>> {
        let end = self.shared.clock.now().saturating_add(timeout);
        self.wait_until(Some(end))
    }

    /// Takes the next event without waiting.
    pub fn take(&mut self) -> Option<PoolEvent<T>> {
        let shared = &self.shared;
        shared.under_lock(|state, now| state.pool.handle_timeout(now));
        shared.under_lock(|state, _| state.next_event(self.subscriber))
    }

    /// Takes the next event, or registers the task to be woken for it.
    ///
    /// Until then the task must poll again at the tick that comes with `Pending`, if there is one, because it
    /// is the pool's timekeeper; or hand that role over by [`pause`](Self::pause).
    pub fn poll(&mut self, context: &Context<'_>) -> (Poll<Option<PoolEvent<T>>>, Option<Tick>) {
        loop {
            match self.take_or_park() {
                Ok(taken) => return (Poll::Ready(taken), None),
                Err(wake_at) => {
                    if self.parker.poll(context).is_none() {
                        return (Poll::Pending, wake_at);
                    }
                }
            }
        }
    }

    /// Hands the role of timekeeper over, for a task that won't poll again for a while.
    pub fn pause(&mut self) {
        let park_key = ParkKey::Subscriber(self.subscriber);
        self.shared
            .under_lock(|state, _| drop(state.unpark(park_key)));
    }

    pub(crate) fn wait_until(&mut self, end: Option<Tick>) -> Option<PoolEvent<T>> {
        loop {
            match self.take_or_park() {
                Ok(taken) => return taken,
                Err(_) if end.is_some_and(|end| end <= self.shared.clock.now()) => {
                    self.pause();
                    return self.take();
                }
                Err(wake_at) => {
                    let wake_at = earliest(wake_at, end);
                    let reason = self.parker.park(wake_at, &self.shared.clock);
                    debug_assert!(
                        matches!(reason, WakeReason::Nudged),
                        "a subscription makes no request"
                    );
                }
            }
        }
    }

    /// Takes an event, or `None` once there will be no more; else parks and returns the wake-up time.
    fn take_or_park(&mut self) -> Result<Option<PoolEvent<T>>, Option<Tick>> {
        let park_key = ParkKey::Subscriber(self.subscriber);
        self.shared.under_lock(|state, now| {
            state.run_timers(park_key, now);
            match state.next_event(self.subscriber) {
                None if !state.closed => Err(state.park(park_key, &self.parker)),
                taken => {
                    state.unpark(park_key);
                    Ok(taken)
                }
            }
        })
    }
}

impl<T> Drop for Subscription<T> {
    fn drop(&mut self) {
        drop(
            self.shared
                .under_lock(|state, _| state.remove_subscriber(self.subscriber)),
        );
    }
}

impl<T> fmt::Debug for Subscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}
