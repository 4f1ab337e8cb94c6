//! Where one thread sleeps until its request is decided.
//!
//! Invariant: a fate is delivered at most once and is never lost, whether the thread sleeps already or
//! not.

use crate::sync::{Arc, Condvar, Mutex, lock};
use core::time::Duration;
use leasehold_core::pool::Grant;
use std::sync::PoisonError;

/// What became of a request that waited.
#[derive(Debug)]
pub(crate) enum Fate<T> {
    Granted(Grant, Arc<T>),
    TimedOut,
    Closed,
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
            }),
            arrived: Condvar::new(),
        }
    }

    /// Sleeps until mail comes, or for `at_most`.
    pub(crate) fn park(&self, at_most: Option<Duration>) -> Woken<T> {
        let mut mail = lock(&self.mail);
        loop {
            if let Some(fate) = mail.fate.take() {
                return Woken::Decided(fate);
            }
            if core::mem::take(&mut mail.nudged) {
                return Woken::Nudged;
            }
            match at_most {
                None => {
                    let woken = self.arrived.wait(mail);
                    mail = woken.unwrap_or_else(PoisonError::into_inner);
                }
                Some(at_most) => {
                    let woken = self.arrived.wait_timeout(mail, at_most);
                    mail = woken.unwrap_or_else(PoisonError::into_inner).0;
                    // However it woke, the caller looks at the clock and at its mail again.
                    mail.nudged = true;
                }
            }
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
