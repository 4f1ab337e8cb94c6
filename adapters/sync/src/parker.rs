//! The place where one thread or task sleeps until it is notified.
//!
//! Invariant: a decision is stored before its owner is notified, so that it is taken exactly once and never
//! lost, whether its owner sleeps by then or not.

use crate::clock::Clock;
use crate::spin::Spin;
use crate::sync::{Arc, Condvar, Mutex, lock};
use core::task::{Context, Waker};
use leasehold_core::pool::{Cause, Grant};
use leasehold_core::time::Tick;
use std::sync::PoisonError;

/// How a queued request was decided.
#[derive(Debug)]
pub(crate) enum Decision<T> {
    Granted(Grant, Arc<T>),
    TimedOut(Cause),
    Closed,
    PinnedMemberRemoved,
    Cancelled,
}

/// Why the owner woke.
#[derive(Debug)]
pub(crate) enum WakeReason<T> {
    /// Its request was decided.
    Decided(Decision<T>),
    /// It was asked to check the state, or its wake-up time has come.
    Nudged,
}

#[derive(Debug)]
pub(crate) struct Parker<T> {
    slot: Mutex<Slot<T>>,
    /// Brief wait for a decision before the thread sleeps.
    spin: Spin,
    condvar: Condvar,
}

#[derive(Debug)]
struct Slot<T> {
    decision: Option<Decision<T>>,
    nudged: bool,
    /// The waker of the task that sleeps here; `None` for a thread.
    waker: Option<Waker>,
    /// The sleeping thread's wake-up time.
    #[cfg(all(test, loom))]
    wake_at: Option<Tick>,
}

impl<T> Parker<T> {
    /// Makes a parker, which spins before it sleeps if its owner is next in the queue.
    pub(crate) fn new(is_next: bool) -> Self {
        Self {
            slot: Mutex::new(Slot {
                decision: None,
                nudged: false,
                waker: None,
                #[cfg(all(test, loom))]
                wake_at: None,
            }),
            spin: Spin::new(is_next),
            condvar: Condvar::new(),
        }
    }

    /// Stores the decision; [`notify`](Self::notify) must follow.
    pub(crate) fn decide(&self, decision: Decision<T>) {
        lock(&self.slot).decision = Some(decision);
        self.spin.notify();
    }

    /// Asks the owner to check the state; [`notify`](Self::notify) must follow.
    pub(crate) fn nudge(&self) {
        lock(&self.slot).nudged = true;
    }

    /// Wakes the thread or task that sleeps here.
    pub(crate) fn notify(&self) {
        let waker = lock(&self.slot).waker.take();
        match waker {
            Some(waker) => waker.wake(),
            None => self.condvar.notify_one(),
        }
    }

    /// Takes the decision of an owner that will not sleep here again.
    pub(crate) fn take_decision(&self) -> Option<Decision<T>> {
        lock(&self.slot).decision.take()
    }

    /// Takes what was stored, or stores the task's waker.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Option<WakeReason<T>> {
        let mut slot = lock(&self.slot);
        let reason = slot.take();
        if reason.is_none() {
            match &mut slot.waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
        }
        reason
    }

    /// Sleeps until notified, or until `wake_at`.
    #[cfg(not(all(test, loom)))]
    pub(crate) fn park(&self, wake_at: Option<Tick>, clock: &Clock) -> WakeReason<T> {
        self.spin.wait();
        let mut slot = lock(&self.slot);
        // A task that polled earlier no longer owns this parker.
        slot.waker = None;
        loop {
            if let Some(reason) = slot.take() {
                return reason;
            }
            match wake_at {
                None => {
                    let woken = self.condvar.wait(slot);
                    slot = woken.unwrap_or_else(PoisonError::into_inner);
                }
                Some(wake_at) => {
                    let woken = self.condvar.wait_timeout(slot, clock.until(wake_at));
                    slot = woken.unwrap_or_else(PoisonError::into_inner).0;
                    // Timeout, notification or spurious wake-up: the caller checks the clock and the slot again.
                    slot.nudged = true;
                }
            }
        }
    }

    /// Sleeps until notified; loom has no timeouts, so that the test wakes what is [due](Self::wake_if_due).
    #[cfg(all(test, loom))]
    pub(crate) fn park(&self, wake_at: Option<Tick>, clock: &Clock) -> WakeReason<T> {
        self.spin.wait();
        let mut slot = lock(&self.slot);
        loop {
            if let Some(reason) = slot.take() {
                return reason;
            }
            if wake_at.is_some_and(|wake_at| wake_at <= clock.now()) {
                return WakeReason::Nudged;
            }
            slot.wake_at = wake_at;
            let woken = self.condvar.wait(slot);
            slot = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes the thread if its wake-up time is `<= now`.
    #[cfg(all(test, loom))]
    pub(crate) fn wake_if_due(&self, now: Tick) {
        let slot = lock(&self.slot);
        if slot.wake_at.is_some_and(|wake_at| wake_at <= now) {
            self.condvar.notify_one();
        }
    }
}

impl<T> Slot<T> {
    /// Takes the decision, or else the nudge; a nudge beside a decision is cleared.
    fn take(&mut self) -> Option<WakeReason<T>> {
        let nudged = core::mem::take(&mut self.nudged);
        let decided = self.decision.take().map(WakeReason::Decided);
        decided.or_else(|| nudged.then_some(WakeReason::Nudged))
    }
}
