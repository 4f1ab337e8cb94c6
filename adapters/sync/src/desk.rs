//! What is behind the lock: the core's pool, those who are parked, and which of them keeps time.
//!
//! Invariant: whenever the lock is free and the core has a deadline, one of those who are parked, if there
//! are any, is the timekeeper, and it sleeps no longer than until that deadline. Whoever is concerned by
//! a command has it in their mail before the lock is free, so that nobody can leave between a decision and
//! the news of it.

use crate::notices::{Inbox, Notice};
use crate::parker::{Fate, Parker};
use crate::sync::Arc;
use leasehold_core::pool::{Event, Outcome, Pool, WaiterId};
use leasehold_core::time::Tick;
use std::collections::BTreeMap;

/// Who is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Seat {
    Listener(u64),
    Waiter(WaiterId),
}

/// The one that keeps time for all.
#[derive(Clone, Copy, Debug)]
struct Keeper {
    seat: Seat,
    /// When it will wake by itself.
    alarm: Option<Tick>,
}

/// What is left to be done once the lock is free.
pub(crate) struct Afterwards<T> {
    /// Those to be called: who wakes doesn't run into the lock.
    pub(crate) calls: Vec<Arc<Parker<T>>>,
    /// What nobody will take any more: the payload in it may be the last of its kind, and using the pool is
    /// nothing that its end may not do.
    gone: Vec<Notice<T>>,
}

pub(crate) struct Desk<T> {
    pub(crate) pool: Pool<Arc<T>>,
    pub(crate) closed: bool,
    parked: BTreeMap<Seat, Arc<Parker<T>>>,
    keeper: Option<Keeper>,
    afterwards: Afterwards<T>,
    inboxes: BTreeMap<u64, Inbox<T>>,
    /// How many listeners there ever were.
    listeners: u64,
}

impl<T> Afterwards<T> {
    fn new() -> Self {
        Self {
            calls: Vec::new(),
            gone: Vec::new(),
        }
    }
}

impl<T> Desk<T> {
    pub(crate) fn new(pool: Pool<Arc<T>>) -> Self {
        Self {
            pool,
            closed: false,
            parked: BTreeMap::new(),
            keeper: None,
            afterwards: Afterwards::new(),
            inboxes: BTreeMap::new(),
            listeners: 0,
        }
    }

    pub(crate) fn nobody_waits(&self) -> bool {
        let last = self.parked.last_key_value();
        !last.is_some_and(|(seat, _)| matches!(seat, Seat::Waiter(_)))
    }

    /// Parks somebody, who keeps time if nobody does, and answers when it has to wake by itself.
    pub(crate) fn park(&mut self, seat: Seat, parker: &Arc<Parker<T>>) -> Option<Tick> {
        self.parked.insert(seat, Arc::clone(parker));
        let alarm = self.pool.poll_timeout();
        self.keeper.get_or_insert(Keeper { seat, alarm });
        self.alarm_of(seat)
    }

    /// Lets somebody leave.
    pub(crate) fn unpark(&mut self, seat: Seat) -> Option<Arc<Parker<T>>> {
        if self.keeps_time(seat) {
            self.keeper = None;
        }
        self.parked.remove(&seat)
    }

    /// Lets the core do what is due if it is the timekeeper who woke, and answers when that has to wake
    /// next.
    pub(crate) fn keep_time(&mut self, seat: Seat, now: Tick) -> Option<Tick> {
        if self.keeps_time(seat) {
            self.pool.handle_timeout(now);
            let alarm = self.pool.poll_timeout();
            self.keeper = Some(Keeper { seat, alarm });
        }
        self.alarm_of(seat)
    }

    #[cfg(all(test, loom))]
    pub(crate) fn parked(&self) -> impl Iterator<Item = &Arc<Parker<T>>> {
        self.parked.values()
    }

    fn keeps_time(&self, seat: Seat) -> bool {
        self.keeper.is_some_and(|keeper| keeper.seat == seat)
    }

    fn alarm_of(&self, seat: Seat) -> Option<Tick> {
        let keeper = self.keeper.filter(|keeper| keeper.seat == seat)?;
        keeper.alarm
    }

    /// Opens an inbox for as many notices, and answers its number.
    pub(crate) fn subscribe(&mut self, capacity: usize) -> u64 {
        let listener = self.listeners;
        self.listeners = listener.saturating_add(1);
        self.inboxes.insert(listener, Inbox::new(capacity));
        listener
    }

    pub(crate) fn unsubscribe(&mut self, listener: u64) -> Option<Inbox<T>> {
        self.unpark(Seat::Listener(listener));
        self.inboxes.remove(&listener)
    }

    pub(crate) fn next_notice(&mut self, listener: u64) -> Option<Notice<T>> {
        self.inboxes.get_mut(&listener)?.take()
    }

    /// Puts into everybody's mail what the last commands mean for them, and sees to it that one of those
    /// who are parked keeps time. To be called before the lock is freed.
    #[must_use]
    pub(crate) fn deliver(&mut self) -> Afterwards<T> {
        while let Some(event) = self.pool.poll_event() {
            match event {
                Event::Granted { waiter, grant } => {
                    let payload = self.pool.payload(grant.member).map(Arc::clone);
                    let parker = self.unpark(Seat::Waiter(waiter));
                    if let (Some(payload), Some(parker)) = (payload, parker) {
                        parker.decide(Fate::Granted(grant, payload));
                        self.afterwards.calls.push(parker);
                    } else {
                        // Whoever asked for it isn't here: the pool was taken over from elsewhere.
                        let unused = self.pool.release(Tick::ZERO, grant.lease, Outcome::NotSent);
                        debug_assert!(unused.is_ok(), "it was granted just now");
                    }
                }
                Event::TimedOut { waiter } => self.decide(waiter, Fate::TimedOut),
                Event::Closed { waiter } => self.decide(waiter, Fate::Closed),
                Event::PinRemoved { waiter } => self.decide(waiter, Fate::PinRemoved),
                Event::Expired { member, .. } => {
                    self.notify(&Notice::Expired { member });
                }
                Event::Drained { member } => self.notify(&Notice::Drained { member }),
                Event::Removed { member, payload } => {
                    let notice = Notice::Removed { member, payload };
                    self.notify(&notice);
                    self.afterwards.gone.push(notice);
                }
                Event::Probe { member, probe } => {
                    if let Some(payload) = self.pool.payload(member).map(Arc::clone) {
                        let notice = Notice::Probe {
                            member,
                            probe,
                            payload,
                        };
                        self.notify(&notice);
                    }
                }
                Event::Changed { member, condition } => {
                    self.notify(&Notice::Changed { member, condition });
                }
            }
        }
        if self.closed {
            let listeners = self.parked.iter();
            let listeners = listeners.filter(|(seat, _)| matches!(seat, Seat::Listener(_)));
            self.afterwards.calls.extend(listeners.map(|(_, parker)| {
                parker.nudge();
                Arc::clone(parker)
            }));
        }
        let keeper = self.appoint();
        self.afterwards.calls.extend(keeper);
        core::mem::replace(&mut self.afterwards, Afterwards::new())
    }

    /// Tells the one whose request was decided.
    pub(crate) fn decide(&mut self, waiter: WaiterId, fate: Fate<T>) {
        if let Some(parker) = self.unpark(Seat::Waiter(waiter)) {
            parker.decide(fate);
            self.afterwards.calls.push(parker);
        }
    }

    fn notify(&mut self, notice: &Notice<T>) {
        for (listener, inbox) in &mut self.inboxes {
            let dropped = inbox.put(notice.clone());
            self.afterwards.gone.extend(dropped);
            if let Some(parker) = self.parked.get(&Seat::Listener(*listener)) {
                parker.nudge();
                self.afterwards.calls.push(Arc::clone(parker));
            }
        }
    }

    /// Finds a timekeeper if there is none, and wakes the one there is if it would sleep for too long.
    fn appoint(&mut self) -> Option<Arc<Parker<T>>> {
        let due = self.pool.poll_timeout()?;
        // A listener, if there is one: it stays, and those who wait are served.
        let heir = || self.parked.first_key_value().map(|(seat, _)| *seat);
        let seat = self.keeper.map(|keeper| keeper.seat).or_else(heir)?;
        if self.alarm_of(seat).is_some_and(|alarm| alarm <= due) {
            return None;
        }
        let parker = self.parked.get(&seat)?;
        parker.nudge();
        let alarm = Some(due);
        self.keeper = Some(Keeper { seat, alarm });
        Some(Arc::clone(parker))
    }
}
