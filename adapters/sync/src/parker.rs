//! Where one thread sleeps until its request is decided.
//!
//! Invariant: a fate is delivered at most once and is never lost, whether the thread sleeps already or
//! not.

use crate::clock::Clock;
use crate::sync::{Arc, Condvar, Mutex, lock};
use leasehold_core::pool::Grant;
use leasehold_core::time::Tick;
use std::sync::PoisonError;

/// What became of a request that waited.
#[derive(Debug)]
pub(crate) enum Fate<T> {
    Granted(Grant, Arc<T>),
    TimedOut,
    Closed,
    PinRemoved,
}

/// Why a thread woke.
#[derive(Debug)]
pub(crate) enum Woken<T> {
    /// Its request was decided.
    Decided(Fate<T>),
    /// It was asked to look at the clock, or slept for as long as it wanted to.
    Nudged,
}

#[derive(Debug)]
struct Mail<T> {
    fate: Option<Fate<T>>,
    nudged: bool,
    /// Until when the thread sleeps, if it sets itself a time.
    #[cfg(all(test, loom))]
    alarm: Option<Tick>,
}

impl<T> Mail<T> {
    fn open(&mut self) -> Option<Woken<T>> {
        let nudged = core::mem::take(&mut self.nudged);
        let decided = self.fate.take().map(Woken::Decided);
        decided.or_else(|| nudged.then_some(Woken::Nudged))
    }
}

#[derive(Debug)]
pub(crate) struct Parker<T> {
    mail: Mutex<Mail<T>>,
    arrived: Condvar,
}

impl<T> Parker<T> {
    pub(crate) fn new() -> Self {
        Self {
            mail: Mutex::new(Mail {
                fate: None,
                nudged: false,
                #[cfg(all(test, loom))]
                alarm: None,
            }),
            arrived: Condvar::new(),
        }
    }

    /// Sleeps until mail comes, or until `alarm`.
    #[cfg(not(all(test, loom)))]
    pub(crate) fn park(&self, alarm: Option<Tick>, clock: &Clock) -> Woken<T> {
        let mut mail = lock(&self.mail);
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
    pub(crate) fn park(&self, alarm: Option<Tick>, clock: &Clock) -> Woken<T> {
        let mut mail = lock(&self.mail);
        loop {
            if let Some(woken) = mail.open() {
                return woken;
            }
            if alarm.is_some_and(|alarm| alarm <= clock.now()) {
                return Woken::Nudged;
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

    pub(crate) fn decide(&self, fate: Fate<T>) {
        lock(&self.mail).fate = Some(fate);
        self.arrived.notify_one();
    }

    pub(crate) fn nudge(&self) {
        lock(&self.mail).nudged = true;
        self.arrived.notify_one();
    }
}
