//! Where one thread or task sleeps until something concerns it.
//!
//! Invariant: what is put into the mail is taken out once and is never lost, whether its owner sleeps
//! already or not: it is put in first, and its owner called after that.

use crate::clock::Clock;
use crate::spin::Spin;
use crate::sync::{Arc, Condvar, Mutex, lock};
use core::task::{Context, Waker};
use leasehold_core::pool::Grant;
use leasehold_core::time::Tick;
use std::sync::PoisonError;

/// What became of a request that waited.
#[derive(Debug)]
pub(crate) enum Decision<T> {
    Granted(Grant, Arc<T>),
    TimedOut,
    Closed,
    PinnedMemberRemoved,
    Cancelled,
}

/// Why its owner woke.
#[derive(Debug)]
pub(crate) enum WakeReason<T> {
    /// Its request was decided.
    Decided(Decision<T>),
    /// It was asked to look up, or slept for as long as it wanted to.
    Nudged,
}

#[derive(Debug)]
struct Slot<T> {
    decision: Option<Decision<T>>,
    nudged: bool,
    /// Of the task that sleeps here, if it isn't a thread.
    waker: Option<Waker>,
    /// Until when the thread sleeps, if it sets itself a time.
    #[cfg(all(test, loom))]
    alarm: Option<Tick>,
}

impl<T> Slot<T> {
    fn open(&mut self) -> Option<WakeReason<T>> {
        let nudged = core::mem::take(&mut self.nudged);
        let decided = self.decision.take().map(WakeReason::Decided);
        decided.or_else(|| nudged.then_some(WakeReason::Nudged))
    }
}

#[derive(Debug)]
pub(crate) struct Parker<T> {
    mail: Mutex<Slot<T>>,
    /// For a decision.
    spin: Spin,
    arrived: Condvar,
}

impl<T> Parker<T> {
    /// For one who is next in line, or isn't.
    pub(crate) fn new(is_next: bool) -> Self {
        Self {
            mail: Mutex::new(Slot {
                decision: None,
                nudged: false,
                waker: None,
                #[cfg(all(test, loom))]
                alarm: None,
            }),
            spin: Spin::new(is_next),
            arrived: Condvar::new(),
        }
    }

    /// Puts the decision into the mail. To be followed by [`call`](Self::call).
    pub(crate) fn decide(&self, decision: Decision<T>) {
        lock(&self.mail).decision = Some(decision);
        self.spin.call();
    }

    /// Puts into the mail that there is something to look at. To be followed by [`call`](Self::call).
    pub(crate) fn nudge(&self) {
        lock(&self.mail).nudged = true;
    }

    /// Wakes whoever sleeps here.
    pub(crate) fn call(&self) {
        let waker = lock(&self.mail).waker.take();
        match waker {
            Some(waker) => waker.wake(),
            None => self.arrived.notify_one(),
        }
    }

    /// Takes a decision out of the mail of one who won't sleep here again.
    pub(crate) fn take_fate(&self) -> Option<Decision<T>> {
        lock(&self.mail).decision.take()
    }

    /// Takes what is in the mail, or leaves word for whom to call when something comes.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Option<WakeReason<T>> {
        let mut mail = lock(&self.mail);
        let woken = mail.open();
        if woken.is_none() {
            match &mut mail.waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
        }
        woken
    }

    /// Sleeps until mail comes, or until `alarm`.
    #[cfg(not(all(test, loom)))]
    pub(crate) fn park(&self, alarm: Option<Tick>, clock: &Clock) -> WakeReason<T> {
        self.spin.look();
        let mut mail = lock(&self.mail);
        // Whoever polled before doesn't any more.
        mail.waker = None;
        loop {
            if let Some(woken) = mail.open() {
                return woken;
            }
            match alarm {
                None => {
                    let woken = self.arrived.wait(mail);
                    mail = woken.unwrap_or_else(PoisonError::into_inner);
                }
                Some(alarm) => {
                    let woken = self.arrived.wait_timeout(mail, clock.until(alarm));
                    mail = woken.unwrap_or_else(PoisonError::into_inner).0;
                    // However it woke, the caller looks at the clock and at its mail again.
                    mail.nudged = true;
                }
            }
        }
    }

    /// The same where nothing times out by itself: whoever sets the clock [rings](Self::ring).
    #[cfg(all(test, loom))]
    pub(crate) fn park(&self, alarm: Option<Tick>, clock: &Clock) -> WakeReason<T> {
        self.spin.look();
        let mut mail = lock(&self.mail);
        loop {
            if let Some(woken) = mail.open() {
                return woken;
            }
            if alarm.is_some_and(|alarm| alarm <= clock.now()) {
                return WakeReason::Nudged;
            }
            mail.alarm = alarm;
            let woken = self.arrived.wait(mail);
            mail = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes the thread if it sleeps until `now` or less.
    #[cfg(all(test, loom))]
    pub(crate) fn ring(&self, now: Tick) {
        let mail = lock(&self.mail);
        if mail.alarm.is_some_and(|alarm| alarm <= now) {
            self.arrived.notify_one();
        }
    }
}
