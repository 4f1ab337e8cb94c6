//! The real clock, read in this file only. Under loom it shows what a test sets it to.

#[cfg(not(all(test, loom)))]
use core::time::Duration;
use leasehold_core::time::Tick;

/// What a pool or limiter takes for the present: the time since the clock was started, or what it is told.
/// It must not run backwards.
#[cfg(not(all(test, loom)))]
pub struct Clock(Source);

#[cfg(not(all(test, loom)))]
enum Source {
    Since(std::time::Instant),
    Told(Box<dyn Fn() -> Tick + Send + Sync>),
    #[cfg(feature = "quanta")]
    Counter(quanta::Clock, u64),
    /// What a test sets it to.
    #[cfg(test)]
    Set(core::sync::atomic::AtomicU64),
}

#[cfg(not(all(test, loom)))]
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
impl Clock {
    /// A clock that stands at [`Tick::ZERO`] now.
    #[must_use]
    pub fn start() -> Self {
        Self(Source::Since(std::time::Instant::now()))
    }

    /// The same by the processor's time stamp counter, which takes a third of the time to read. It is calibrated
    /// once in a process, in up to 0.2 s, and may be some microseconds off in each second: lengthen a window
    /// that an upstream counts as well by as much.
    #[cfg(feature = "quanta")]
    #[must_use]
    pub fn start_counter() -> Self {
        let clock = quanta::Clock::new();
        let epoch = clock.raw();
        Self(Source::Counter(clock, epoch))
    }

    /// A clock that shows what `now` answers, such as a runtime's own.
    #[must_use]
    pub fn told_by(now: impl Fn() -> Tick + Send + Sync + 'static) -> Self {
        Self(Source::Told(Box::new(now)))
    }

    /// The present.
    #[inline]
    #[must_use]
    pub fn now(&self) -> Tick {
        match &self.0 {
            Source::Since(epoch) => Tick::ZERO.saturating_add(epoch.elapsed()),
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

    /// A clock that stands at [`Tick::ZERO`] until it is [set](Self::set).
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

    /// How long until `tick`; zero where it has come.
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

/// What a test sets it to.
#[cfg(all(test, loom))]
#[derive(Debug)]
pub struct Clock {
    shows: loom::sync::atomic::AtomicU64,
}

#[cfg(all(test, loom))]
impl Clock {
    pub(crate) fn start() -> Self {
        Self::stopped()
    }

    pub(crate) fn stopped() -> Self {
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
