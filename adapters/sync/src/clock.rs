//! The real clock, read in this file only. Under loom it shows what a test sets it to.

#[cfg(not(all(test, loom)))]
use core::time::Duration;
use leasehold_core::time::Tick;

/// Ticks since the clock was started; it never runs backwards.
#[derive(Debug)]
pub struct Clock {
    #[cfg(not(all(test, loom)))]
    epoch: std::time::Instant,
    #[cfg(all(test, loom))]
    shows: loom::sync::atomic::AtomicU64,
}

#[cfg(not(all(test, loom)))]
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
impl Clock {
    /// A clock that stands at [`Tick::ZERO`] now.
    #[must_use]
    pub fn start() -> Self {
        Self {
            epoch: std::time::Instant::now(),
        }
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Tick {
        Tick::ZERO.saturating_add(self.epoch.elapsed())
    }

    /// How long until `tick`; zero where it has come.
    pub(crate) fn until(&self, tick: Tick) -> Duration {
        tick.since(self.now())
    }
}

#[cfg(all(test, loom))]
impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            shows: loom::sync::atomic::AtomicU64::new(0),
        }
    }

    pub(crate) fn now(&self) -> Tick {
        Tick::from_nanos(self.shows.load(loom::sync::atomic::Ordering::SeqCst))
    }

    pub(crate) fn set(&self, now: Tick) {
        let nanos = now.as_nanos();
        self.shows
            .store(nanos, loom::sync::atomic::Ordering::SeqCst);
    }
}
