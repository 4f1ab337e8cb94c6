//! What is behind the lock: the core's pool, those who are parked, and which of them keeps time.
//!
//! Invariant: whenever the lock is free and the core has a deadline, one of those who are parked, if there
//! are any, is the timekeeper, and it sleeps no longer than until that deadline. Whoever is concerned by
//! a command has it in their mail before the lock is free, so that nobody can leave between a decision and
//! the news of it.

use crate::events::{Inbox, PoolEvent};
use crate::parker::{Decision, Parker};
use crate::sync::Arc;
use leasehold_core::pool::{Event, Outcome, Pool, WaiterId};
use leasehold_core::time::Tick;
use std::collections::BTreeMap;

/// Who is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ParkKey {
    Listener(u64),
    Waiter(WaiterId),
}

/// The one that keeps time for all.
#[derive(Clone, Copy, Debug)]
struct Timekeeper {
    park_key: ParkKey,
    /// When it will wake by itself.
    alarm: Option<Tick>,
}

/// What is left to be done once the lock is free.
pub(crate) struct Deferred<T> {
    /// Those to be called: who wakes doesn't run into the lock.
    pub(crate) calls: Vec<Arc<Parker<T>>>,
    /// What nobody will take any more: the payload in it may be the last of its kind, and using the pool is
    /// nothing that its end may not do.
    gone: Vec<PoolEvent<T>>,
}

pub(crate) struct State<T> {
    pub(crate) pool: Pool<Arc<T>>,
    pub(crate) closed: bool,
    parked: BTreeMap<ParkKey, Arc<Parker<T>>>,
    keeper: Option<Timekeeper>,
    afterwards: Deferred<T>,
    inboxes: BTreeMap<u64, Inbox<T>>,
    /// How many listeners there ever were.
    listeners: u64,
}

impl<T> Deferred<T> {
    fn new() -> Self {
        Self {
            calls: Vec::new(),
            gone: Vec::new(),
        }
    }
}

impl<T> State<T> {
    pub(crate) fn new(pool: Pool<Arc<T>>) -> Self {
        Self {
            pool,
            closed: false,
            parked: BTreeMap::new(),
            keeper: None,
            afterwards: Deferred::new(),
            inboxes: BTreeMap::new(),
            listeners: 0,
        }
    }

    pub(crate) fn nobody_waits(&self) -> bool {
        let last = self.parked.last_key_value();
        !last.is_some_and(|(park_key, _)| matches!(park_key, ParkKey::Waiter(_)))
    }

    /// Parks somebody, who keeps time if nobody does, and answers when it has to wake by itself.
    pub(crate) fn park(&mut self, park_key: ParkKey, parker: &Arc<Parker<T>>) -> Option<Tick> {
        self.parked.insert(park_key, Arc::clone(parker));
        let alarm = self.pool.poll_timeout();
        self.keeper.get_or_insert(Timekeeper { park_key, alarm });
        self.alarm_of(park_key)
    }

    /// Lets somebody leave.
    pub(crate) fn unpark(&mut self, park_key: ParkKey) -> Option<Arc<Parker<T>>> {
        if self.keeps_time(park_key) {
            self.keeper = None;
        }
        self.parked.remove(&park_key)
    }

    /// Lets the core do what is due if it is the timekeeper who woke, and answers when that has to wake
    /// next.
    pub(crate) fn keep_time(&mut self, park_key: ParkKey, now: Tick) -> Option<Tick> {
        if self.keeps_time(park_key) {
            self.pool.handle_timeout(now);
            let alarm = self.pool.poll_timeout();
            self.keeper = Some(Timekeeper { park_key, alarm });
        }
        self.alarm_of(park_key)
    }

    #[cfg(all(test, loom))]
    pub(crate) fn parked(&self) -> impl Iterator<Item = &Arc<Parker<T>>> {
        self.parked.values()
    }

    fn keeps_time(&self, park_key: ParkKey) -> bool {
        self.keeper
            .is_some_and(|keeper| keeper.park_key == park_key)
    }

    fn alarm_of(&self, park_key: ParkKey) -> Option<Tick> {
        let keeper = self.keeper.filter(|keeper| keeper.park_key == park_key)?;
        keeper.alarm
    }

    /// Opens an inbox for as many events, and answers its number.
    pub(crate) fn add_subscriber(&mut self, capacity: usize) -> u64 {
        let listener = self.listeners;
        self.listeners = listener.saturating_add(1);
        self.inboxes.insert(listener, Inbox::new(capacity));
        listener
    }

    pub(crate) fn remove_subscriber(&mut self, listener: u64) -> Option<Inbox<T>> {
        self.unpark(ParkKey::Listener(listener));
        self.inboxes.remove(&listener)
    }

    pub(crate) fn next_event(&mut self, listener: u64) -> Option<PoolEvent<T>> {
        self.inboxes.get_mut(&listener)?.take()
    }

    /// Puts into everybody's mail what the last commands mean for them, and sees to it that one of those
    /// who are parked keeps time. To be called before the lock is freed.
    #[must_use]
    pub(crate) fn deliver(&mut self) -> Deferred<T> {
        while let Some(event) = self.pool.poll_event() {
            match event {
                Event::Granted { waiter, grant } => {
                    let payload = self.pool.payload(grant.member).map(Arc::clone);
                    let parker = self.unpark(ParkKey::Waiter(waiter));
                    if let (Some(payload), Some(parker)) = (payload, parker) {
                        parker.decide(Decision::Granted(grant, payload));
                        self.afterwards.calls.push(parker);
                    } else {
                        // Whoever asked for it isn't here: the pool was taken over from elsewhere.
                        let unused = self.pool.release(Tick::ZERO, grant.lease, Outcome::NotSent);
                        debug_assert!(unused.is_ok(), "it was granted just now");
                    }
                }
                Event::TimedOut { waiter } => self.decide(waiter, Decision::TimedOut),
                Event::Closed { waiter } => self.decide(waiter, Decision::Closed),
                Event::PinnedMemberRemoved { waiter } => {
                    self.decide(waiter, Decision::PinnedMemberRemoved)
                }
                Event::Expired { member, .. } => {
                    self.notify(&PoolEvent::Expired { member });
                }
                Event::Drained { member } => self.notify(&PoolEvent::Drained { member }),
                Event::Removed { member, payload } => {
                    let event = PoolEvent::Removed { member, payload };
                    self.notify(&event);
                    self.afterwards.gone.push(event);
                }
                Event::Probe { member, probe } => {
                    if let Some(payload) = self.pool.payload(member).map(Arc::clone) {
                        let event = PoolEvent::Probe {
                            member,
                            probe,
                            payload,
                        };
                        self.notify(&event);
                    }
                }
                Event::Changed { member, change } => {
                    self.notify(&PoolEvent::Changed {
                        member,
                        condition: change,
                    });
                }
            }
        }
        if self.closed {
            let listeners = self.parked.iter();
            let listeners =
                listeners.filter(|(park_key, _)| matches!(park_key, ParkKey::Listener(_)));
            self.afterwards.calls.extend(listeners.map(|(_, parker)| {
                parker.nudge();
                Arc::clone(parker)
            }));
        }
        let keeper = self.appoint();
        self.afterwards.calls.extend(keeper);
        core::mem::replace(&mut self.afterwards, Deferred::new())
    }

    /// Tells the one whose request was decided.
    pub(crate) fn decide(&mut self, waiter: WaiterId, decision: Decision<T>) {
        if let Some(parker) = self.unpark(ParkKey::Waiter(waiter)) {
            parker.decide(decision);
            self.afterwards.calls.push(parker);
        }
    }

    fn notify(&mut self, event: &PoolEvent<T>) {
        for (listener, inbox) in &mut self.inboxes {
            let dropped = inbox.put(event.clone());
            self.afterwards.gone.extend(dropped);
            if let Some(parker) = self.parked.get(&ParkKey::Listener(*listener)) {
                parker.nudge();
                self.afterwards.calls.push(Arc::clone(parker));
            }
        }
    }

    /// Finds a timekeeper if there is none, and wakes the one there is if it would sleep for too long.
    fn appoint(&mut self) -> Option<Arc<Parker<T>>> {
        let due = self.pool.poll_timeout()?;
        // A listener, if there is one: it stays, and those who wait are served.
        let heir = || self.parked.first_key_value().map(|(park_key, _)| *park_key);
        let park_key = self.keeper.map(|keeper| keeper.park_key).or_else(heir)?;
        if self.alarm_of(park_key).is_some_and(|alarm| alarm <= due) {
            return None;
        }
        let parker = self.parked.get(&park_key)?;
        parker.nudge();
        let alarm = Some(due);
        self.keeper = Some(Timekeeper { park_key, alarm });
        Some(Arc::clone(parker))
    }
}
