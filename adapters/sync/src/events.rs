//! News of a pool for those who look after its members.
//!
//! Invariant: an inbox never holds more than it may; what was dropped for want of room is counted, and told
//! before what came after it.

use crate::parker::{Parker, WakeReason};
use crate::pool::Shared;
use crate::state::ParkKey;
use crate::sync::{Arc, lock};
use core::fmt;
use core::num::NonZeroUsize;
use core::task::{Context, Poll};
use core::time::Duration;
use leasehold_core::pool::{HealthChange, MemberId, ProbeId};
use leasehold_core::time::{Tick, earliest};
use std::collections::VecDeque;

/// What happened in a pool that no command asked for.
#[derive(Debug)]
pub enum PoolEvent<T> {
    /// A lease was taken back at its deadline.
    Expired {
        /// The member it was on.
        member: MemberId,
    },
    /// A member that drains has given its last lease back.
    Drained {
        /// Which one.
        member: MemberId,
    },
    /// A member that was removed has given its last lease back.
    Removed {
        /// Which one.
        member: MemberId,
        /// What it carried.
        payload: Arc<T>,
    },
    /// A member is to be probed, and [`SyncPool::answer_probe`](crate::SyncPool::answer_probe) told. A
    /// probe that nobody answers counts as failed.
    Probe {
        /// Which one.
        member: MemberId,
        /// Names the probe.
        probe: ProbeId,
        /// What the member carries.
        payload: Arc<T>,
    },
    /// A member's condition has changed.
    Changed {
        /// Which one.
        member: MemberId,
        /// To what.
        condition: HealthChange,
    },
    /// The inbox was full, and the oldest were dropped that were in it.
    Missed {
        /// How many.
        count: u64,
    },
}

impl<T> Clone for PoolEvent<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Expired { member } => Self::Expired { member: *member },
            Self::Drained { member } => Self::Drained { member: *member },
            Self::Removed { member, payload } => Self::Removed {
                member: *member,
                payload: Arc::clone(payload),
            },
            Self::Probe {
                member,
                probe,
                payload,
            } => Self::Probe {
                member: *member,
                probe: *probe,
                payload: Arc::clone(payload),
            },
            Self::Changed { member, condition } => Self::Changed {
                member: *member,
                condition: *condition,
            },
            Self::Missed { count } => Self::Missed { count: *count },
        }
    }
}

/// Subscription that were not taken yet.
pub(crate) struct Inbox<T> {
    events: VecDeque<PoolEvent<T>>,
    capacity: usize,
    missed: u64,
}

impl<T> Inbox<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            events: VecDeque::new(),
            capacity,
            missed: 0,
        }
    }

    /// Takes a event in, and the oldest out if there is no room.
    pub(crate) fn put(&mut self, event: PoolEvent<T>) -> Option<PoolEvent<T>> {
        let oldest = match self.events.len() >= self.capacity {
            true => self.events.pop_front(),
            false => None,
        };
        self.missed = self.missed.saturating_add(oldest.is_some().into());
        self.events.push_back(event);
        oldest
    }

    pub(crate) fn take(&mut self) -> Option<PoolEvent<T>> {
        match core::mem::take(&mut self.missed) {
            0 => self.events.pop_front(),
            count => Some(PoolEvent::Missed { count }),
        }
    }
}

/// The events of a pool from when this was [made](crate::SyncPool::events) on.
///
/// While it waits it also keeps the pool's time, so that leases expire and probes begin when they are due
/// even if nobody waits for a lease.
pub struct Subscription<T> {
    shared: Arc<Shared<T>>,
    listener: u64,
    parker: Arc<Parker<T>>,
}

impl<T> Subscription<T> {
    pub(crate) fn new(shared: &Arc<Shared<T>>, capacity: NonZeroUsize) -> Self {
        Self {
            shared: Arc::clone(shared),
            listener: lock(&shared.state).add_subscriber(capacity.get()),
            parker: Arc::new(Parker::new(false)),
        }
    }

    /// Waits for the next event; `None` once the pool is closed and all were taken.
    pub fn wait(&mut self) -> Option<PoolEvent<T>> {
        self.wait_until(None)
    }

    /// Waits for the next event for no longer than `timeout`.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<PoolEvent<T>> {
        let end = self.shared.clock.now().saturating_add(timeout);
        self.wait_until(Some(end))
    }

    /// The next event if there is one.
    pub fn take(&mut self) -> Option<PoolEvent<T>> {
        let shared = &self.shared;
        shared.under_lock(|state, now| state.pool.handle_timeout(now));
        shared.under_lock(|state, _| state.next_event(self.listener))
    }

    /// Takes the next event, or has the task woken when there is one. Until then the task has to poll again
    /// at the tick that comes with `Pending`, if one does; or else to [`rest`](Self::rest).
    pub fn poll(&mut self, context: &Context<'_>) -> (Poll<Option<PoolEvent<T>>>, Option<Tick>) {
        loop {
            match self.take_or_park() {
                Ok(taken) => return (Poll::Ready(taken), None),
                Err(alarm) => {
                    if self.parker.poll(context).is_none() {
                        return (Poll::Pending, alarm);
                    }
                }
            }
        }
    }

    /// Keeps no time any more, as a task that won't poll again for a while.
    pub fn rest(&mut self) {
        let park_key = ParkKey::Listener(self.listener);
        self.shared
            .under_lock(|state, _| drop(state.unpark(park_key)));
    }

    pub(crate) fn wait_until(&mut self, end: Option<Tick>) -> Option<PoolEvent<T>> {
        loop {
            match self.take_or_park() {
                Ok(taken) => return taken,
                Err(_) if end.is_some_and(|end| end <= self.shared.clock.now()) => {
                    self.rest();
                    return self.take();
                }
                Err(alarm) => {
                    let woken = self.parker.park(earliest(alarm, end), &self.shared.clock);
                    debug_assert!(matches!(woken, WakeReason::Nudged), "it made no request");
                }
            }
        }
    }

    /// Takes a event, or `None` once there will be no more; else parks and answers when to wake.
    fn take_or_park(&mut self) -> Result<Option<PoolEvent<T>>, Option<Tick>> {
        let park_key = ParkKey::Listener(self.listener);
        self.shared.under_lock(|state, now| {
            state.keep_time(park_key, now);
            match state.next_event(self.listener) {
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
                .under_lock(|state, _| state.remove_subscriber(self.listener)),
        );
    }
}

impl<T> fmt::Debug for Subscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}
