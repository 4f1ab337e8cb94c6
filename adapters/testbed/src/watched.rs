//! State that tests wait on.
//!
//! Invariant: every change bumps a version and wakes the waiting tests, so that no change is missed.

use crate::clock::Clock;
use core::time::Duration;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A value behind a lock, whose changes can be waited for.
#[derive(Debug)]
pub(crate) struct Watched<T> {
    inner: Mutex<Inner<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner<T> {
    value: T,
    version: u64,
    /// Number of waiting threads; without one, a change makes no system call.
    waiting: usize,
}

impl<T> Watched<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self {
            inner: Mutex::new(Inner {
                value,
                version: 0,
                waiting: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// Reads the value.
    pub(crate) fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.lock().value)
    }

    /// Changes the value, and wakes the waiting tests.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut inner = self.lock();
        let result = change(&mut inner.value);
        inner.version += 1;
        let is_awaited = inner.waiting > 0;
        drop(inner);
        if is_awaited {
            self.changed.notify_all();
        }
        result
    }

    /// Waits until a condition holds, for at most `limit`, and returns whether it does.
    ///
    /// It is checked again after each change.
    pub(crate) fn wait(&self, limit: Duration, condition: impl Fn() -> bool) -> bool {
        let clock = Clock::start();
        loop {
            let seen = self.lock().version;
            if condition() {
                return true;
            }
            let spent = Duration::from_nanos(clock.nanos());
            let Some(left) = limit.checked_sub(spent).filter(|left| !left.is_zero()) else {
                return false;
            };
            let mut inner = self.lock();
            inner.waiting += 1;
            let unchanged = |inner: &mut Inner<T>| inner.version == seen;
            let waited = self.changed.wait_timeout_while(inner, left, unchanged);
            waited.unwrap_or_else(PoisonError::into_inner).0.waiting -= 1;
        }
    }

    /// Locks the value, and ignores poison: counts that are off by one call are better than none.
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
