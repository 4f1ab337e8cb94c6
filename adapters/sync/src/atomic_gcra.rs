//! GCRA, the generic cell rate algorithm, on one atomic word.
//!
//! Invariant: each new word is [`GcraWord::admit`]'s answer for the word that it replaces.
//!
//! # Ordering
//! All accesses are relaxed: the word publishes nothing but itself, and all threads see its changes in one
//! order, so that no two take the same unit. Threads whose clocks disagree admit no more together than one
//! would: `GcraWord` holds for ticks in any order.
//!
//! # Mutations that loom catches
//! A store instead of the exchange, and a failed exchange taken for a success, each fail
//! `racing_threads_never_take_a_unit_twice`.

use crate::clock::Clock;
use crate::sync::{AtomicU64, CachePadded};
use core::num::NonZeroU32;
use core::sync::atomic::Ordering;
use core::time::Duration;
use leasehold_core::limit::{GcraWord, LimitConfigError, Wait};
use leasehold_core::time::Tick;

/// A lock-free GCRA limiter: one unit per `window / limit`, and up to `burst` at once.
///
/// It has no refunds and no exact window; [`SyncLimiter`](crate::SyncLimiter) has both.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_sync::AtomicGcra;
///
/// let hundred = NonZeroU32::new(100).unwrap();
/// let limiter = AtomicGcra::new(hundred, Duration::from_secs(60), hundred)?;
/// assert!(limiter.try_acquire(100).is_ok());
/// assert!(limiter.try_acquire(1).is_err());
/// # Ok::<(), leasehold_sync::limit::LimitConfigError>(())
/// ```
#[derive(Debug)]
pub struct AtomicGcra {
    rate: GcraWord,
    word: CachePadded<AtomicU64>,
    clock: Clock,
}

impl AtomicGcra {
    /// Makes a limiter with a full burst available; its clock starts now.
    ///
    /// # Errors
    /// The errors of [`GcraWord::new`].
    pub fn new(
        limit: NonZeroU32,
        window: Duration,
        burst: NonZeroU32,
    ) -> Result<Self, LimitConfigError> {
        let rate = GcraWord::new(limit, window, burst)?;
        Ok(Self::with_clock(rate, Clock::start()))
    }

    /// Makes a limiter on this clock.
    #[must_use]
    pub fn with_clock(rate: GcraWord, clock: Clock) -> Self {
        Self {
            rate,
            word: CachePadded(AtomicU64::new(0)),
            clock,
        }
    }

    /// The current tick of the limiter's clock.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.clock.now()
    }

    /// Takes `cost` units, or changes nothing and returns when to ask again.
    ///
    /// # Errors
    /// [`Wait::Until`] if too few are available, [`Wait::Never`] if `cost` is above the burst.
    #[inline]
    pub fn try_acquire(&self, cost: u32) -> Result<(), Wait> {
        self.try_acquire_at(self.clock.now(), cost)
    }

    /// [`try_acquire`](Self::try_acquire) at a tick of the limiter's clock, or of another that all callers use.
    ///
    /// # Errors
    /// The errors of [`try_acquire`](Self::try_acquire).
    #[inline]
    pub fn try_acquire_at(&self, now: Tick, cost: u32) -> Result<(), Wait> {
        let mut word = self.word.0.load(Ordering::Relaxed);
        loop {
            let next = self.rate.admit(word, now, cost)?;
            let changed =
                self.word
                    .0
                    .compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed);
            match changed {
                Ok(_) => return Ok(()),
                Err(other) => word = other,
            }
        }
    }

    /// The first tick at which `cost` units could be taken; `now` if at once.
    #[must_use]
    pub fn earliest(&self, now: Tick, cost: u32) -> Wait {
        self.rate
            .earliest(self.word.0.load(Ordering::Relaxed), now, cost)
    }
}
