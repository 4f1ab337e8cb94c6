//! A narrow start: few calls until the first answer, so that a wrong URL or model costs few.
//!
//! Invariant: before the first answer at most [`NARROW`] workers are admitted at once, unless nothing has failed for
//! [`PATIENCE`].

use crate::lock;
use core::time::Duration;
use leasehold_plan::NarrowStart;
use leasehold_sync::Clock;
use std::sync::{Condvar, Mutex, PoisonError};

/// Workers admitted before the first answer.
const NARROW: usize = NarrowStart::BATCH.calls.get() as usize;
/// Time after which slow first answers hold up the others no longer.
const PATIENCE: Duration = NarrowStart::BATCH.patience;

#[derive(Debug)]
pub(crate) struct Warmup {
    clock: Clock,
    state: Mutex<WarmupState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct WarmupState {
    admitted: usize,
    is_open: bool,
    has_failed: bool,
}

/// A place among the admitted workers, until it is dropped.
pub(crate) struct Permit<'a>(&'a Warmup);

impl Warmup {
    pub(crate) fn new() -> Self {
        Self {
            clock: Clock::start(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Waits to be admitted.
    pub(crate) fn enter(&self) -> Permit<'_> {
        let mut state = lock(&self.state);
        loop {
            let elapsed = self.clock.now().since(leasehold_core::time::Tick::ZERO);
            let is_patient = elapsed < PATIENCE || state.has_failed;
            if state.is_open || state.admitted < NARROW || !is_patient {
                state.admitted = state.admitted.saturating_add(1);
                return Permit(self);
            }
            let left = PATIENCE.saturating_sub(elapsed);
            let timeout = if state.has_failed {
                Duration::MAX
            } else {
                left
            };
            let woken = self.changed.wait_timeout(state, timeout);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Admits everyone from now on.
    pub(crate) fn open(&self) {
        let mut state = lock(&self.state);
        if !core::mem::replace(&mut state.is_open, true) {
            self.changed.notify_all();
        }
    }

    /// Counts a failure: only an answer opens the way now.
    pub(crate) fn fail(&self) {
        lock(&self.state).has_failed = true;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.admitted = state.admitted.saturating_sub(1);
        if !state.is_open {
            self.0.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn few_are_admitted_before_the_first_answer_and_all_after_it() {
        let warmup = Warmup::new();
        warmup.fail();
        let mut permits: Vec<_> = (0..NARROW).map(|_| warmup.enter()).collect();
        let (entered, entries) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..3 {
                let entered = entered.clone();
                let warmup = &warmup;
                scope.spawn(move || {
                    let permit = warmup.enter();
                    entered.send(()).unwrap();
                    core::mem::forget(permit);
                });
            }
            permits.pop();
            entries.recv().unwrap();
            assert!(entries.try_recv().is_err(), "one left, one came");
            warmup.open();
            entries.recv().unwrap();
            entries.recv().unwrap();
        });
    }
}
