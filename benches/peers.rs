//! Clocks that run the peers in virtual time, and the plain log that people write themselves.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use governor::nanos::Nanos;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// A clock that shows the time it was set to: one atomic load.
#[derive(Clone, Default)]
pub(crate) struct Counter(Arc<AtomicU64>);

impl Counter {
    pub(crate) fn set(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }
}

impl governor::clock::Clock for Counter {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.load(Ordering::Relaxed).into()
    }
}

impl ratelimit::Clock for Counter {
    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// A mutex-protected log of admissions.
pub(crate) struct MutexLog {
    limit: usize,
    window: u64,
    log: Mutex<VecDeque<u64>>,
}

impl MutexLog {
    pub(crate) fn new(limit: u32, window: Duration) -> Self {
        Self {
            limit: limit as usize,
            window: window.as_nanos() as u64,
            log: Mutex::default(),
        }
    }

    #[inline]
    pub(crate) fn try_acquire(&self, now: u64) -> bool {
        let mut log = self.log.lock().expect("no panic while locked");
        while log
            .front()
            .is_some_and(|oldest| now - oldest >= self.window)
        {
            log.pop_front();
        }
        let fits = log.len() < self.limit;
        if fits {
            log.push_back(now);
        }
        fits
    }
}
