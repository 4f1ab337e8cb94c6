//! The real clock, read in this file only. Under loom time stands still.

#[cfg(not(all(test, loom)))]
use core::time::Duration;
use leasehold_core::time::Tick;

/// Ticks since the clock was started; it never runs backwards.
#[derive(Debug)]
pub struct Clock {
    #[cfg(not(all(test, loom)))]
    epoch: std::time::Instant,
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
        Self {}
    }

    pub(crate) fn now(&self) -> Tick {
        Tick::ZERO
    }

    pub(crate) fn until(&self, _: Tick) -> core::time::Duration {
        core::time::Duration::MAX
    }
}
