//! State behind the lock: the core's pool, the parked threads and tasks, their timekeeper and the inboxes.
//!
//! Invariant: whenever the lock is free, the core has a deadline and anything is parked, one parked thread or
//! task is the timekeeper, and its wake-up time is at most that deadline. Decisions are in their owners'
//! slots before the lock is free, so that no owner can leave between a decision and its delivery.

use crate::event::{Inbox, PoolEvent};
use crate::parker::{Decision, Parker};
use crate::sync::Arc;
use leasehold_core::pool::{Event, Outcome, Pool, WaiterId};
use leasehold_core::time::Tick;
use std::collections::BTreeMap;

/// The key of a parked thread or task. Subscribers sort before waiters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ParkKey {
    Subscriber(u64),
    Waiter(WaiterId),
}

pub(crate) struct State<T> {
    pub(crate) pool: Pool<Arc<T>>,
    pub(crate) closed: bool,
    parked: BTreeMap<ParkKey, Arc<Parker<T>>>,
    timekeeper: Option<Timekeeper>,
    deferred: Deferred<T>,
    /// Inboxes by subscriber.
    inboxes: BTreeMap<u64, Inbox<T>>,
    /// Subscribers ever added, which numbers the next one.
    subscribers: u64,
}

/// The parked thread or task that runs the pool's timers for all.
#[derive(Clone, Copy, Debug)]
struct Timekeeper {
    park_key: ParkKey,
    wake_at: Option<Tick>,
}

/// Work to be done after unlocking.
pub(crate) struct Deferred<T> {
    /// Parkers to notify: a thread that wakes must not run into the lock.
    pub(crate) notify: Vec<Arc<Parker<T>>>,
    /// Events to drop: a payload's `Drop` may use the pool.
    dropped: Vec<PoolEvent<T>>,
}

impl<T> Deferred<T> {
    fn new() -> Self {
        Self {
            notify: Vec::new(),
            dropped: Vec::new(),
        }
    }
}

impl<T> State<T> {
    pub(crate) fn new(pool: Pool<Arc<T>>) -> Self {
        Self {
            pool,
            closed: false,
            parked: BTreeMap::new(),
            timekeeper: None,
            deferred: Deferred::new(),
            inboxes: BTreeMap::new(),
            subscribers: 0,
        }
    }

    pub(crate) fn has_waiters(&self) -> bool {
        let last = self.parked.last_key_value();
        last.is_some_and(|(park_key, _)| matches!(park_key, ParkKey::Waiter(_)))
    }

    /// Registers a parked thread or task, as timekeeper if there is none; returns its wake-up time.
    pub(crate) fn park(&mut self, park_key: ParkKey, parker: &Arc<Parker<T>>) -> Option<Tick> {
        self.parked.insert(park_key, Arc::clone(parker));
        let wake_at = self.pool.poll_timeout();
        self.timekeeper
            .get_or_insert(Timekeeper { park_key, wake_at });
        self.wake_at(park_key)
    }

    /// Removes a parked thread or task, and its role if it is the timekeeper.
    pub(crate) fn unpark(&mut self, park_key: ParkKey) -> Option<Arc<Parker<T>>> {
        if self.is_timekeeper(park_key) {
            self.timekeeper = None;
        }
        self.parked.remove(&park_key)
    }

    /// Runs due timers if the timekeeper asks; returns the wake-up time of the one that asks.
    pub(crate) fn run_timers(&mut self, park_key: ParkKey, now: Tick) -> Option<Tick> {
        if self.is_timekeeper(park_key) {
            self.pool.handle_timeout(now);
            let wake_at = self.pool.poll_timeout();
            self.timekeeper = Some(Timekeeper { park_key, wake_at });
        }
        self.wake_at(park_key)
    }

    /// Adds a subscriber with an inbox of `capacity` events; returns its number.
    pub(crate) fn add_subscriber(&mut self, capacity: usize) -> u64 {
        let subscriber = self.subscribers;
        self.subscribers = subscriber.saturating_add(1);
        self.inboxes.insert(subscriber, Inbox::new(capacity));
        subscriber
    }

    pub(crate) fn remove_subscriber(&mut self, subscriber: u64) -> Option<Inbox<T>> {
        self.unpark(ParkKey::Subscriber(subscriber));
        self.inboxes.remove(&subscriber)
    }

    pub(crate) fn next_event(&mut self, subscriber: u64) -> Option<PoolEvent<T>> {
        self.inboxes.get_mut(&subscriber)?.pop()
    }

    /// Delivers the last commands' events to their owners and ensures that there is a timekeeper. Every
    /// command must call it before unlocking.
    #[must_use]
    pub(crate) fn deliver(&mut self) -> Deferred<T> {
        while let Some(event) = self.pool.poll_event() {
            self.dispatch(event);
        }
        if self.closed {
            self.nudge_subscribers();
        }
        let timekeeper = self.elect_timekeeper();
        self.deferred.notify.extend(timekeeper);
        core::mem::replace(&mut self.deferred, Deferred::new())
    }

    /// Delivers the decision on a queued request.
    pub(crate) fn decide(&mut self, waiter: WaiterId, decision: Decision<T>) {
        if let Some(parker) = self.unpark(ParkKey::Waiter(waiter)) {
            parker.decide(decision);
            self.deferred.notify.push(parker);
        }
    }

    #[cfg(all(test, loom))]
    pub(crate) fn parked(&self) -> impl Iterator<Item = &Arc<Parker<T>>> {
        self.parked.values()
    }

    fn dispatch(&mut self, event: Event<Arc<T>>) {
        match event {
            Event::Granted { waiter, grant } => {
                let payload = self.pool.payload(grant.member).map(Arc::clone);
                let parker = self.unpark(ParkKey::Waiter(waiter));
                if let (Some(payload), Some(parker)) = (payload, parker) {
                    parker.decide(Decision::Granted(grant, payload));
                    self.deferred.notify.push(parker);
                } else {
                    // The waiter was queued before `SyncPool::from_core` took the pool over.
                    let unused = self.pool.release(Tick::ZERO, grant.lease, Outcome::NotSent);
                    debug_assert!(unused.is_ok(), "the lease was granted just now");
                }
            }
            Event::TimedOut { waiter, cause } => self.decide(waiter, Decision::TimedOut(cause)),
            Event::Closed { waiter } => self.decide(waiter, Decision::Closed),
            Event::PinnedMemberRemoved { waiter } => {
                self.decide(waiter, Decision::PinnedMemberRemoved);
            }
            Event::Expired { member, .. } => self.publish(&PoolEvent::Expired { member }),
            Event::Drained { member } => self.publish(&PoolEvent::Drained { member }),
            Event::Removed { member, payload } => {
                let event = PoolEvent::Removed { member, payload };
                self.publish(&event);
                self.deferred.dropped.push(event);
            }
            Event::Probe { member, probe } => {
                if let Some(payload) = self.pool.payload(member).map(Arc::clone) {
                    self.publish(&PoolEvent::Probe {
                        member,
                        probe,
                        payload,
                    });
                }
            }
            Event::Changed { member, change } => {
                self.publish(&PoolEvent::Changed { member, change });
            }
        }
    }

    fn publish(&mut self, event: &PoolEvent<T>) {
        for (subscriber, inbox) in &mut self.inboxes {
            let dropped = inbox.push(event.clone());
            self.deferred.dropped.extend(dropped);
            if let Some(parker) = self.parked.get(&ParkKey::Subscriber(*subscriber)) {
                parker.nudge();
                self.deferred.notify.push(Arc::clone(parker));
            }
        }
    }

    fn nudge_subscribers(&mut self) {
        let subscribers = self.parked.iter();
        let subscribers =
            subscribers.filter(|(park_key, _)| matches!(park_key, ParkKey::Subscriber(_)));
        self.deferred.notify.extend(subscribers.map(|(_, parker)| {
            parker.nudge();
            Arc::clone(parker)
        }));
    }

    /// Elects a timekeeper if there is none, and nudges one that would sleep past the next deadline.
    fn elect_timekeeper(&mut self) -> Option<Arc<Parker<T>>> {
        let due = self.pool.poll_timeout()?;
        // Subscribers sort first, and stay parked for longer: waiters leave once they are served.
        let first = || self.parked.first_key_value().map(|(park_key, _)| *park_key);
        let current = self.timekeeper.map(|timekeeper| timekeeper.park_key);
        let park_key = current.or_else(first)?;
        if self.wake_at(park_key).is_some_and(|wake_at| wake_at <= due) {
            return None;
        }
        let parker = self.parked.get(&park_key)?;
        parker.nudge();
        let wake_at = Some(due);
        self.timekeeper = Some(Timekeeper { park_key, wake_at });
        Some(Arc::clone(parker))
    }

    fn is_timekeeper(&self, park_key: ParkKey) -> bool {
        self.timekeeper
            .is_some_and(|timekeeper| timekeeper.park_key == park_key)
    }

    /// Wake-up time of a parked thread or task; `None` unless it is the timekeeper.
    fn wake_at(&self, park_key: ParkKey) -> Option<Tick> {
        let timekeeper = self.timekeeper;
        timekeeper
            .filter(|timekeeper| timekeeper.park_key == park_key)?
            .wake_at
    }
}
