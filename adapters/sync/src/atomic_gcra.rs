//! The generic cell rate algorithm on one atomic word.
//!
//! Invariant: each change of the word is one that [`GcraWord::admit`] has made of the word it replaces.
//!
//! # Ordering
//! All accesses are relaxed: nothing is published through the word but itself, and that two threads never
//! take the same unit follows from the one order in which all threads see its changes. Two threads whose
//! clocks disagree admit no more between them than one would, as `GcraWord` says of calls in any order.
//!
//! # What loom finds
//! A store in place of the exchange, and an exchange that is not tried again but taken for done, each fail
//! `threads_that_race_never_take_a_unit_twice`.

use crate::clock::Clock;
use crate::sync::{AtomicU64, CachePadded};
use core::num::NonZeroU32;
use core::sync::atomic::Ordering;
use core::time::Duration;
use leasehold_core::limit::{GcraWord, LimitConfigError, Wait};
use leasehold_core::time::Tick;

/// A limiter that threads share without a lock: one unit is due each `window / limit`, and up to `burst`
/// may come early.
///
/// What was taken is not given back; where that is wanted, or an exact window, there is
/// [`SyncLimiter`](crate::SyncLimiter).
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
/// # Ok::<(), leasehold_sync::core::limit::LimitConfigError>(())
/// ```
#[derive(Debug)]
pub struct AtomicGcra {
    rate: GcraWord,
    word: CachePadded<AtomicU64>,
    clock: Clock,
}

impl AtomicGcra {
    /// A limiter that a whole burst can be taken from at once; its clock starts now.
    ///
    /// # Errors
    /// As for [`GcraWord::new`].
    pub fn new(
        limit: NonZeroU32,
        window: Duration,
        burst: NonZeroU32,
    ) -> Result<Self, LimitConfigError> {
        let rate = GcraWord::new(limit, window, burst)?;
        Ok(Self::with_clock(rate, Clock::start()))
    }

    /// A limiter that goes by this clock.
    #[must_use]
    pub fn with_clock(rate: GcraWord, clock: Clock) -> Self {
        Self {
            rate,
            word: CachePadded(AtomicU64::new(0)),
            clock,
        }
    }

    /// The present on its clock.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.clock.now()
    }

    /// Takes `cost` units, or changes nothing and says when to ask again.
    ///
    /// # Errors
    /// [`Wait::Until`] where there are too few, [`Wait::Never`] where `cost` is above the burst.
    #[inline]
    pub fn try_acquire(&self, cost: u32) -> Result<(), Wait> {
        self.try_acquire_at(self.clock.now(), cost)
    }

    /// The same at a tick that its caller has read from the limiter's clock, or from another if no other is
    /// ever used.
    ///
    /// # Errors
    /// As for [`try_acquire`](Self::try_acquire).
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

    /// When `cost` units could be taken; now if at once.
    #[must_use]
    pub fn earliest(&self, now: Tick, cost: u32) -> Wait {
        self.rate
            .earliest(self.word.0.load(Ordering::Relaxed), now, cost)
    }
}
