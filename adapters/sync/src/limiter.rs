//! Any limiter behind a lock, with a sign on the door.
//!
//! Invariant: `blocked_until` is only changed under the lock, and is either zero or a tick before which a
//! single unit is refused unless something is given back; whatever may give something back makes it zero.
//!
//! # Ordering
//! The sign is read and written relaxed. Nothing is published through it: what is admitted is decided under
//! the lock. Whoever learns of a settlement from the thread that made it can't read an older sign.
//!
//! # What loom finds
//! A settlement that leaves the sign up, or takes it down before it has the lock, and a refusal that puts it up
//! after the lock is free, each fail `a_settlement_takes_the_sign_down`. A sign for a request of more than one
//! unit fails `a_sign_never_outlives_what_it_says`.

use crate::clock::Clock;
use crate::sync::{AtomicU64, CachePadded, Mutex, lock};
use core::fmt;
use core::sync::atomic::Ordering;
use leasehold_core::limit::{Limit, Limiter, Wait};
use leasehold_core::time::Tick;

/// The sign that says: until something in flight is settled.
const UNTIL_SETTLED: u64 = u64::MAX;

/// A limiter that threads share. While it is used up, requests of one unit are refused without the lock.
///
/// It makes nobody wait: for that there is a [`SyncPool`](crate::SyncPool) with a member that has the limit.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_sync::SyncLimiter;
/// use leasehold_sync::core::limit::{Anchor, SlidingLog, Wait};
///
/// let log = SlidingLog::new(NonZeroU32::MIN, Duration::from_secs(60), Anchor::Completion)?;
/// let limiter = SyncLimiter::new(log);
/// let booked = limiter.try_acquire(1).unwrap();
/// assert_eq!(limiter.try_acquire(1), Err(Wait::ForSettlement));
/// limiter.settle(booked, 1, 0);
/// assert!(limiter.try_acquire(1).is_ok());
/// # Ok::<(), leasehold_sync::core::limit::LimitConfigError>(())
/// ```
pub struct SyncLimiter {
    blocked_until: AtomicU64,
    limiter: CachePadded<Mutex<Limiter>>,
    clock: Clock,
}

impl SyncLimiter {
    /// A limiter whose clock starts now.
    #[must_use]
    pub fn new(limiter: impl Into<Limiter>) -> Self {
        Self::with_clock(limiter, Clock::start())
    }

    /// A limiter that goes by this clock.
    #[must_use]
    pub fn with_clock(limiter: impl Into<Limiter>, clock: Clock) -> Self {
        Self {
            blocked_until: AtomicU64::new(0),
            limiter: CachePadded(Mutex::new(limiter.into())),
            clock,
        }
    }

    /// The present on its clock.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.clock.now()
    }

    /// Admits `cost` units and answers the tick they are booked at, or changes nothing and says when to ask
    /// again.
    ///
    /// # Errors
    /// The [`Wait`] until it could be admitted.
    #[inline]
    pub fn try_acquire(&self, cost: u32) -> Result<Tick, Wait> {
        self.try_acquire_at(self.clock.now(), cost)
    }

    /// The same at a tick that its caller has read from the limiter's clock.
    ///
    /// # Errors
    /// As for [`try_acquire`](Self::try_acquire).
    #[inline]
    pub fn try_acquire_at(&self, now: Tick, cost: u32) -> Result<Tick, Wait> {
        let blocked_until = self.blocked_until.load(Ordering::Relaxed);
        if cost == 1 && now.as_nanos() < blocked_until {
            return Err(match blocked_until {
                UNTIL_SETTLED => Wait::ForSettlement,
                nanos => Wait::Until(Tick::from_nanos(nanos)),
            });
        }
        self.ask(now, cost)
    }

    /// Ends the use of a cost that was booked: `reserved` units become the `actual` ones.
    pub fn settle(&self, booked: Tick, reserved: u32, actual: u32) {
        self.change(|limiter, now| limiter.settle(now, booked, reserved, actual));
    }

    /// Takes back a cost that was booked and not used.
    pub fn refund(&self, booked: Tick, reserved: u32) {
        self.settle(booked, reserved, 0);
    }

    /// Does anything to the limiter, under the lock, such as giving it another limit.
    pub fn change<R>(&self, change: impl FnOnce(&mut Limiter, Tick) -> R) -> R {
        let mut limiter = lock(&self.limiter.0);
        self.blocked_until.store(0, Ordering::Relaxed);
        change(&mut limiter, self.clock.now())
    }

    fn ask(&self, now: Tick, cost: u32) -> Result<Tick, Wait> {
        let mut limiter = lock(&self.limiter.0);
        let asked = limiter.try_acquire(now, cost);
        if let (Err(wait), 1) = (asked, cost) {
            let sign = match wait {
                Wait::Until(tick) => tick.as_nanos(),
                Wait::ForSettlement => UNTIL_SETTLED,
                Wait::Never => 0,
            };
            self.blocked_until.store(sign, Ordering::Relaxed);
        }
        asked
    }
}

impl fmt::Debug for SyncLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncLimiter")
            .field("limiter", &*lock(&self.limiter.0))
            .finish_non_exhaustive()
    }
}
