//! A bucketed sliding window on atomics.
//!
//! Invariant: `total` is at least the sum of the buckets that still count, because a cost is added to it before
//! it is added to a bucket and subtracted after; and it is at most the limit. No bucket is subtracted before it
//! has left the window, by `newest`.
//!
//! # Ordering
//! A bucket is subtracted from `total` with release, after `newest` was advanced, and a thread that takes the
//! room acquires it. A thread with an older clock reading therefore books no earlier than the tick that made
//! the room. The buckets publish nothing but their own words.
//!
//! # Mutations that loom catches
//! | mutation | caught by |
//! |---|---|
//! | room is taken by a load and a store | `a_window_never_holds_more_than_the_limit` |
//! | a bucket is swept that still counts, or swept twice | `a_window_never_holds_more_than_the_limit` |
//! | `newest` is stored instead of advanced to the maximum | `a_window_never_holds_more_than_the_limit` |
//! | a sweep subtracts without release, or room is taken without acquire | `a_stale_clock_books_no_earlier_than_the_sweep_that_made_room` |
//! | the stale clock's own tick is returned | `a_stale_clock_books_no_earlier_than_the_sweep_that_made_room` |
//! | an overwritten bucket stays in the total | `an_overwritten_bucket_leaves_the_total` |
//! | a bucket is booked by a load and a store | `concurrent_bookings_are_all_given_back` |
//! | a refund is a load and a store | `a_refund_against_an_admission_keeps_the_count_of_units` |
//!
//! Two orderings are not told apart by loom, as that takes more threads than it can explore: the release with
//! which an overwritten bucket is subtracted, because the exchange that took the room releases too unless
//! another thread has advanced `newest`; and the acquire of the exchange beside that of the load before it,
//! unless the total came back to the same value in between.

use crate::clock::Clock;
use crate::sync::AtomicU64;
use core::fmt;
use core::num::NonZeroU32;
use core::sync::atomic::Ordering;
use core::time::Duration;
use leasehold_core::limit::Wait;
use leasehold_core::time::Tick;

/// Bits of a bucket's word for its count. The other 40 hold its number, enough for 34 years of 1 ms buckets.
const COUNT_BITS: u32 = 24;
const MAX_COUNT: u32 = (1 << COUNT_BITS) - 1;
const MAX_BUCKET: u64 = u64::MAX >> COUNT_BITS;
const MIN_WIDTH: Duration = Duration::from_millis(1);

/// Why an [`AtomicWindow`] could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AtomicWindowConfigError {
    /// The limit does not fit in the count bits of a bucket's word.
    #[error("an atomic window counts to {MAX_COUNT} at most")]
    LimitTooLarge,
    /// A bucket is shorter than 1 ms, so that bucket numbers would run out too soon.
    #[error("an atomic window's buckets are at least 1 ms long")]
    BucketsTooShort,
    /// The window isn't a multiple of `buckets` nanoseconds, or is longer than 584 years.
    #[error("the window's nanoseconds must be a multiple of the number of buckets")]
    UnevenBuckets,
}

/// A lock-free window of at most `limit` units, in buckets aligned to the clock's epoch, counted from the grant.
///
/// Decides like a [`BucketedWindow`](leasehold_core::limit::BucketedWindow) of as many buckets, with one
/// exception: while a thread has taken room and not booked it in a bucket yet, others may be told to wait up to a
/// whole window longer. By the ticks that it returns it never admits more, whatever the threads' clocks show.
/// O(1) while there is room; a call that finds the window full sweeps it in O(buckets). 8 bytes a bucket.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_sync::AtomicWindow;
///
/// let (three, six) = (NonZeroU32::new(3).unwrap(), NonZeroU32::new(6).unwrap());
/// let window = AtomicWindow::new(three, Duration::from_secs(60), six)?;
/// let booked = window.try_acquire(3).unwrap();
/// assert!(window.try_acquire(1).is_err());
/// window.refund(booked, 1);
/// assert!(window.try_acquire(1).is_ok());
/// # Ok::<(), leasehold_sync::AtomicWindowConfigError>(())
/// ```
pub struct AtomicWindow {
    limit: u32,
    /// Nanoseconds in a bucket.
    width: u64,
    total: AtomicU64,
    /// Number of the latest bucket on any thread's clock.
    newest: AtomicU64,
    /// Buckets by `number % len`; one more than the window has.
    buckets: Box<[AtomicU64]>,
    clock: Clock,
}

#[derive(Clone, Copy)]
struct Bucket {
    number: u64,
    count: u32,
}

impl Bucket {
    fn of(word: u64) -> Self {
        Self {
            number: word >> COUNT_BITS,
            count: (word & u64::from(MAX_COUNT)) as u32,
        }
    }

    fn word(self) -> u64 {
        self.number << COUNT_BITS | u64::from(self.count)
    }
}

impl AtomicWindow {
    /// Makes a window of `buckets` buckets; its clock starts now.
    ///
    /// # Errors
    /// The limit is above 16,777,215, a bucket is shorter than 1 ms, or the window is not a multiple of
    /// `buckets` nanoseconds.
    pub fn new(
        limit: NonZeroU32,
        window: Duration,
        buckets: NonZeroU32,
    ) -> Result<Self, AtomicWindowConfigError> {
        Self::with_clock(limit, window, buckets, Clock::start())
    }

    /// Makes a window on this clock.
    ///
    /// # Errors
    /// The errors of [`new`](Self::new).
    pub fn with_clock(
        limit: NonZeroU32,
        window: Duration,
        buckets: NonZeroU32,
        clock: Clock,
    ) -> Result<Self, AtomicWindowConfigError> {
        if limit.get() > MAX_COUNT {
            return Err(AtomicWindowConfigError::LimitTooLarge);
        }
        let nanos =
            u64::try_from(window.as_nanos()).map_err(|_| AtomicWindowConfigError::UnevenBuckets)?;
        let width = nanos / u64::from(buckets.get());
        if !nanos.is_multiple_of(buckets.get().into()) {
            return Err(AtomicWindowConfigError::UnevenBuckets);
        }
        if Duration::from_nanos(width) < MIN_WIDTH {
            return Err(AtomicWindowConfigError::BucketsTooShort);
        }
        Ok(Self {
            limit: limit.get(),
            width,
            total: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            buckets: (0..=buckets.get()).map(|_| AtomicU64::new(0)).collect(),
            clock,
        })
    }

    /// The current tick of the window's clock.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.clock.now()
    }

    /// Takes `cost` units and returns the tick they are booked at, or changes nothing and returns when to ask
    /// again.
    ///
    /// # Errors
    /// [`Wait::Until`] if too few are available, [`Wait::Never`] if `cost` is above the limit.
    pub fn try_acquire(&self, cost: u32) -> Result<Tick, Wait> {
        self.try_acquire_at(self.clock.now(), cost)
    }

    /// [`try_acquire`](Self::try_acquire) at a tick of the window's clock. A later tick of another thread
    /// replaces it.
    ///
    /// # Errors
    /// The errors of [`try_acquire`](Self::try_acquire).
    pub fn try_acquire_at(&self, now: Tick, cost: u32) -> Result<Tick, Wait> {
        let bucket = now.as_nanos() / self.width;
        if cost > self.limit || bucket > MAX_BUCKET {
            return Err(Wait::Never);
        }
        self.newest.fetch_max(bucket, Ordering::AcqRel);
        let mut is_swept = false;
        let mut total = self.total.load(Ordering::Acquire);
        loop {
            let wanted = total.saturating_add(cost.into());
            if wanted > self.limit.into() {
                if is_swept {
                    return Err(self.earliest(now, total, cost));
                }
                self.sweep();
                is_swept = true;
                total = self.total.load(Ordering::Acquire);
                continue;
            }
            let taken = self.total.compare_exchange_weak(
                total,
                wanted,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            match taken {
                Ok(_) => break,
                Err(other) => total = other,
            }
        }
        let booked = self.book(cost);
        Ok(now.max(self.start_of(booked)))
    }

    /// Gives back units that were booked and not used, if they still count.
    pub fn refund(&self, booked: Tick, cost: u32) {
        let number = booked.as_nanos() / self.width;
        let slot = self.slot(number);
        let mut word = slot.load(Ordering::Relaxed);
        loop {
            let bucket = Bucket::of(word);
            if bucket.number != number {
                return;
            }
            let less = bucket.count.min(cost);
            let left = Bucket {
                count: bucket.count - less,
                ..bucket
            };
            match slot.compare_exchange_weak(
                word,
                left.word(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    self.total.fetch_sub(less.into(), Ordering::Release);
                    return;
                }
                Err(other) => word = other,
            }
        }
    }

    /// Adds the cost to the newest bucket and returns its number. An older bucket in its slot is overwritten.
    fn book(&self, cost: u32) -> u64 {
        let mut number = self.newest.load(Ordering::Acquire);
        loop {
            let slot = self.slot(number);
            let word = slot.load(Ordering::Relaxed);
            let found = Bucket::of(word);
            if found.number > number {
                number = self.newest.load(Ordering::Acquire);
                continue;
            }
            let (before, overwritten) = if found.number == number {
                (found.count, 0)
            } else {
                (0, found.count)
            };
            let count = before.saturating_add(cost);
            let after = Bucket { number, count };
            let put = slot.compare_exchange_weak(
                word,
                after.word(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            if put.is_ok() {
                if overwritten > 0 {
                    self.total.fetch_sub(overwritten.into(), Ordering::Release);
                }
                return number;
            }
        }
    }

    /// Subtracts buckets that have left the window from the total.
    fn sweep(&self) {
        let newest = self.newest.load(Ordering::Acquire);
        for slot in &self.buckets {
            let word = slot.load(Ordering::Relaxed);
            let found = Bucket::of(word);
            if found.count == 0 || found.number.saturating_add(self.kept()) > newest {
                continue;
            }
            let empty = Bucket { count: 0, ..found };
            let emptied =
                slot.compare_exchange(word, empty.word(), Ordering::Relaxed, Ordering::Relaxed);
            if emptied.is_ok() {
                self.total.fetch_sub(found.count.into(), Ordering::Release);
            }
        }
    }

    /// The tick at which enough buckets have left for the cost to fit. Units not booked yet count as in the
    /// newest bucket.
    fn earliest(&self, now: Tick, total: u64, cost: u32) -> Wait {
        let mut excess = total
            .saturating_add(cost.into())
            .saturating_sub(self.limit.into());
        let newest = self.newest.load(Ordering::Acquire);
        let oldest = newest.saturating_sub(self.kept() - 1);
        let mut leaves = newest;
        for number in oldest..newest {
            let found = Bucket::of(self.slot(number).load(Ordering::Relaxed));
            if found.number == number {
                excess = excess.saturating_sub(found.count.into());
            }
            if excess == 0 {
                leaves = number;
                break;
            }
        }
        Wait::Until(now.max(self.start_of(leaves.saturating_add(self.kept()))))
    }

    fn kept(&self) -> u64 {
        self.buckets.len() as u64
    }

    fn slot(&self, number: u64) -> &AtomicU64 {
        &self.buckets[(number % self.kept()) as usize]
    }

    fn start_of(&self, number: u64) -> Tick {
        Tick::from_nanos(number.saturating_mul(self.width))
    }
}

impl fmt::Debug for AtomicWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtomicWindow")
            .field("limit", &self.limit)
            .field("total", &self.total.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}
