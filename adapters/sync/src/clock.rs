//! The real clock, read in this file only; under loom, a clock that tests set.

#[cfg(not(all(test, loom)))]
use core::time::Duration;
use leasehold_core::time::Tick;

/// The clock of a pool or limiter: time since its start, or the answers of a function. It must not run backwards.
#[cfg(not(all(test, loom)))]
pub struct Clock(Source);

#[cfg(not(all(test, loom)))]
enum Source {
    Since(std::time::Instant, Tick),
    Told(Box<dyn Fn() -> Tick + Send + Sync>),
    #[cfg(feature = "quanta")]
    Counter(quanta::Clock, u64),
    #[cfg(test)]
    Set(core::sync::atomic::AtomicU64),
}

#[cfg(not(all(test, loom)))]
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
impl Clock {
    /// Starts a clock at [`Tick::ZERO`].
    #[must_use]
    pub fn start() -> Self {
        Self::starting_at(Tick::ZERO)
    }

    /// Starts a clock at `tick`, such as the nanoseconds since 1970, for ticks that outlive the process.
    ///
    /// ```
    /// use core::time::Duration;
    /// use leasehold_sync::{Clock, Tick};
    ///
    /// let noon = Tick::from_nanos(43_200_000_000_000);
    /// let clock = Clock::starting_at(noon);
    /// assert!(clock.now() >= noon && clock.now().since(noon) < Duration::from_secs(60));
    /// ```
    #[must_use]
    pub fn starting_at(tick: Tick) -> Self {
        Self(Source::Since(std::time::Instant::now(), tick))
    }

    /// Starts a clock on the processor's time stamp counter, which takes a third of the time to read.
    ///
    /// It is calibrated once per process, in up to 0.2 s, and may drift by some microseconds per second: lengthen
    /// a window that an upstream counts too by as much.
    #[cfg(feature = "quanta")]
    #[must_use]
    pub fn start_counter() -> Self {
        let clock = quanta::Clock::new();
        let epoch = clock.raw();
        Self(Source::Counter(clock, epoch))
    }

    /// A clock that answers what `now` does, such as a runtime's clock or a simulation's.
    #[must_use]
    pub fn told_by(now: impl Fn() -> Tick + Send + Sync + 'static) -> Self {
        Self(Source::Told(Box::new(now)))
    }

    /// The current tick.
    #[inline]
    #[must_use]
    pub fn now(&self) -> Tick {
        match &self.0 {
            Source::Since(epoch, first) => first.saturating_add(epoch.elapsed()),
            Source::Told(now) => now(),
            #[cfg(feature = "quanta")]
            Source::Counter(clock, epoch) => {
                Tick::from_nanos(clock.delta_as_nanos(*epoch, clock.raw()))
            }
            #[cfg(test)]
            Source::Set(nanos) => {
                Tick::from_nanos(nanos.load(core::sync::atomic::Ordering::SeqCst))
            }
        }
    }

    /// A clock at [`Tick::ZERO`] until a test [sets](Self::set) it.
    #[cfg(test)]
    pub(crate) fn stopped() -> Self {
        Self(Source::Set(core::sync::atomic::AtomicU64::new(0)))
    }

    #[cfg(test)]
    pub(crate) fn set(&self, now: Tick) {
        if let Source::Set(nanos) = &self.0 {
            nanos.store(now.as_nanos(), core::sync::atomic::Ordering::SeqCst);
        }
    }

    /// Time until `tick`; zero if it has passed.
    pub(crate) fn until(&self, tick: Tick) -> Duration {
        tick.since(self.now())
    }
}

#[cfg(not(all(test, loom)))]
impl core::fmt::Debug for Clock {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

/// A clock that tests set.
#[cfg(all(test, loom))]
#[derive(Debug)]
pub struct Clock {
    nanos: loom::sync::atomic::AtomicU64,
}

#[cfg(all(test, loom))]
impl Clock {
    pub(crate) fn start() -> Self {
        Self::stopped()
    }

    pub(crate) fn stopped() -> Self {
        Self {
            nanos: loom::sync::atomic::AtomicU64::new(0),
        }
    }

    pub(crate) fn now(&self) -> Tick {
        Tick::from_nanos(self.nanos.load(loom::sync::atomic::Ordering::SeqCst))
    }

    pub(crate) fn set(&self, now: Tick) {
        self.nanos
            .store(now.as_nanos(), loom::sync::atomic::Ordering::SeqCst);
    }
}
