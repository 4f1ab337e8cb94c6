//! A mutex-protected limiter with an atomic `blocked_until` that answers refusals without the lock.
//!
//! Invariant: `blocked_until` changes only under the lock. It is zero, or a tick before which one unit is
//! refused unless units are given back; every change that may give units back sets it to zero.
//!
//! # Ordering
//! `blocked_until` is read and written relaxed: it publishes nothing, and admissions are decided under the lock.
//! A thread that learns of a settlement from the thread that made it can't read an older value.
//!
//! # Mutations that loom catches
//! A settlement that doesn't clear `blocked_until`, or clears it before it has the lock, and a refusal that sets
//! it after unlocking, each fail `a_settlement_clears_blocked_until`. Setting it for a cost above one unit fails
//! `blocked_until_never_outlives_the_wait_for_one_unit`.

use crate::clock::Clock;
use crate::sync::{AtomicU64, CachePadded, Mutex, lock};
use core::fmt;
use core::sync::atomic::Ordering;
use leasehold_core::limit::{Limit, Limiter, Wait};
use leasehold_core::time::Tick;

/// Value of `blocked_until` for [`Wait::ForSettlement`].
const UNTIL_SETTLED: u64 = u64::MAX;

/// Any limiter of the core, shared by threads. While it is at its limit, a cost of 1 is refused without the lock.
///
/// It never blocks for units; a [`SyncPool`](crate::SyncPool) with a member that has the limit does.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_sync::SyncLimiter;
/// use leasehold_sync::limit::{Anchor, SlidingLog, Wait};
///
/// let log = SlidingLog::new(NonZeroU32::MIN, Duration::from_secs(60), Anchor::Completion)?;
/// let limiter = SyncLimiter::new(log);
/// let booked = limiter.try_acquire(1).unwrap();
/// assert_eq!(limiter.try_acquire(1), Err(Wait::ForSettlement));
/// limiter.settle(booked, 1, 0);
/// assert!(limiter.try_acquire(1).is_ok());
/// # Ok::<(), leasehold_sync::limit::LimitConfigError>(())
/// ```
pub struct SyncLimiter {
    blocked_until: AtomicU64,
    limiter: CachePadded<Mutex<Limiter>>,
    clock: Clock,
}

impl SyncLimiter {
    /// Makes a shared limiter; its clock starts now.
    #[must_use]
    pub fn new(limiter: impl Into<Limiter>) -> Self {
        Self::with_clock(limiter, Clock::start())
    }

    /// Makes a shared limiter on this clock.
    #[must_use]
    pub fn with_clock(limiter: impl Into<Limiter>, clock: Clock) -> Self {
        Self {
            blocked_until: AtomicU64::new(0),
            limiter: CachePadded(Mutex::new(limiter.into())),
            clock,
        }
    }

    /// The current tick of the limiter's clock.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.clock.now()
    }

    /// Takes `cost` units and returns the tick they are booked at, or changes nothing and returns when to ask
    /// again.
    ///
    /// # Errors
    /// The [`Wait`] until the cost could be admitted.
    #[inline]
    pub fn try_acquire(&self, cost: u32) -> Result<Tick, Wait> {
        self.try_acquire_at(self.clock.now(), cost)
    }

    /// [`try_acquire`](Self::try_acquire) at a tick of the limiter's clock.
    ///
    /// # Errors
    /// The errors of [`try_acquire`](Self::try_acquire).
    #[inline]
    pub fn try_acquire_at(&self, now: Tick, cost: u32) -> Result<Tick, Wait> {
        let blocked_until = self.blocked_until.load(Ordering::Relaxed);
        if cost == 1 && now.as_nanos() < blocked_until {
            return Err(match blocked_until {
                UNTIL_SETTLED => Wait::ForSettlement,
                nanos => Wait::Until(Tick::from_nanos(nanos)),
            });
        }
        self.try_acquire_locked(now, cost)
    }

    /// Ends the use of a booked cost: `reserved` units become `actual` ones.
    pub fn settle(&self, booked: Tick, reserved: u32, actual: u32) {
        self.change(|limiter, now| limiter.settle(now, booked, reserved, actual));
    }

    /// Gives back a booked cost that was not used.
    pub fn refund(&self, booked: Tick, reserved: u32) {
        self.settle(booked, reserved, 0);
    }

    /// Runs `change` on the limiter under the lock, for instance to replace it.
    pub fn change<R>(&self, change: impl FnOnce(&mut Limiter, Tick) -> R) -> R {
        let mut limiter = lock(&self.limiter.0);
        self.blocked_until.store(0, Ordering::Relaxed);
        change(&mut limiter, self.clock.now())
    }

    fn try_acquire_locked(&self, now: Tick, cost: u32) -> Result<Tick, Wait> {
        let mut limiter = lock(&self.limiter.0);
        let answer = limiter.try_acquire(now, cost);
        if let (Err(wait), 1) = (answer, cost) {
            let blocked_until = match wait {
                Wait::Until(tick) => tick.as_nanos(),
                Wait::ForSettlement => UNTIL_SETTLED,
                Wait::Never => 0,
            };
            self.blocked_until.store(blocked_until, Ordering::Relaxed);
        }
        answer
    }
}

impl fmt::Debug for SyncLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncLimiter")
            .field("limiter", &*lock(&self.limiter.0))
            .finish_non_exhaustive()
    }
}
