//! A sliding window counted in buckets, on atomics.
//!
//! Invariant: `total` is at least what all buckets hold that still count, because a cost is put into it
//! before it is put into a bucket and taken out after; and it is never above the limit. No bucket is taken out
//! before `newest` says that it no longer counts.
//!
//! # Ordering
//! What is taken out of `total` is released there after `newest` was moved on, and whoever gets the room
//! acquires it: so that a thread whose clock reading is older than that books no earlier than the bucket that
//! made the room. The buckets themselves carry nothing but their own words.
//!
//! # What loom finds
//! | change | caught by |
//! |---|---|
//! | room is taken by a load and a store | `a_window_never_holds_more_than_the_limit` |
//! | a bucket is swept that still counts, or taken out twice | `a_window_never_holds_more_than_the_limit` |
//! | `newest` is set and not moved on | `a_window_never_holds_more_than_the_limit` |
//! | what is swept is taken out without release, or room is taken without any acquire | `a_stale_clock_books_no_earlier_than_what_made_room_for_it` |
//! | a stale clock's own tick is answered | `a_stale_clock_books_no_earlier_than_what_made_room_for_it` |
//! | a bucket that is written over stays in the total | `a_bucket_that_is_written_over_gives_its_room_back_and_its_time` |
//! | a bucket is booked in by a load and a store | `what_two_book_at_once_comes_back_in_full` |
//! | a refund is a load and a store | `a_refund_against_an_admission_loses_no_unit_and_makes_none` |
//!
//! Not told apart there: the release by which a bucket that is written over is taken out, as the exchange that
//! took the room before goes on releasing through it, unless it was another thread that moved `newest` on;
//! and the acquire of the exchange, beside that of the load before it, unless the total
//! came back to the same value in between. Both need more threads than can be explored.

use crate::clock::Clock;
use crate::sync::AtomicU64;
use core::fmt;
use core::num::NonZeroU32;
use core::sync::atomic::Ordering;
use core::time::Duration;
use leasehold_core::limit::Wait;
use leasehold_core::time::Tick;

/// Bits of a bucket's word that hold its count; the others hold its number, which lasts for 34 years at
/// buckets of a millisecond.
const COUNT_BITS: u32 = 24;
const MAX_COUNT: u32 = (1 << COUNT_BITS) - 1;
const MAX_BUCKET: u64 = u64::MAX >> COUNT_BITS;
const MIN_WIDTH: Duration = Duration::from_millis(1);

/// Why a window could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// The limit does not fit in a bucket's word.
    #[error("an atomic window counts to {MAX_COUNT} at most")]
    LimitTooLarge,
    /// The buckets would run out of numbers too soon.
    #[error("an atomic window's buckets are a millisecond long at least")]
    BucketsTooShort,
    /// The window can't be cut into that many buckets of whole nanoseconds, or is longer than 584 years.
    #[error("the window's nanoseconds must be a multiple of the number of buckets")]
    UnevenBuckets,
}

/// At most `limit` units in any window, counted from the grant in buckets aligned to the clock's epoch, without
/// a lock.
///
/// Decides as a [`BucketedWindow`](leasehold_core::limit::BucketedWindow) of as many buckets does, except that
/// threads that meet may be told to wait for longer, by up to the whole window, while one of them has taken
/// room and not yet said in which bucket. Never admits more, whatever the threads' clocks show, counted by
/// the ticks that are answered. O(1) to admit, O(buckets) to refuse and where time has passed; 8 bytes a bucket.
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
/// # Ok::<(), leasehold_sync::WindowError>(())
/// ```
pub struct AtomicWindow {
    limit: u32,
    /// Nanoseconds in a bucket.
    width: u64,
    total: AtomicU64,
    /// The number of the latest bucket that anybody's clock has shown.
    newest: AtomicU64,
    /// The bucket of number `n` is in slot `n % slots`; there is one more than the window has.
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
    /// A window of `buckets` buckets, whose clock starts now.
    ///
    /// # Errors
    /// Where the limit is above 16,777,215, a bucket shorter than a millisecond, or the window not a multiple
    /// of `buckets` nanoseconds.
    pub fn new(
        limit: NonZeroU32,
        window: Duration,
        buckets: NonZeroU32,
    ) -> Result<Self, WindowError> {
        Self::with_clock(limit, window, buckets, Clock::start())
    }

    /// The same by this clock.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_clock(
        limit: NonZeroU32,
        window: Duration,
        buckets: NonZeroU32,
        clock: Clock,
    ) -> Result<Self, WindowError> {
        if limit.get() > MAX_COUNT {
            return Err(WindowError::LimitTooLarge);
        }
        let nanos = u64::try_from(window.as_nanos()).map_err(|_| WindowError::UnevenBuckets)?;
        let width = nanos / u64::from(buckets.get());
        if !nanos.is_multiple_of(buckets.get().into()) {
            return Err(WindowError::UnevenBuckets);
        }
        if Duration::from_nanos(width) < MIN_WIDTH {
            return Err(WindowError::BucketsTooShort);
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

    /// The present on its clock.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.clock.now()
    }

    /// Takes `cost` units and answers the tick they are booked at, or changes nothing and says when to ask
    /// again.
    ///
    /// # Errors
    /// [`Wait::Until`] where there are too few, [`Wait::Never`] where `cost` is above the limit.
    pub fn try_acquire(&self, cost: u32) -> Result<Tick, Wait> {
        self.try_acquire_at(self.clock.now(), cost)
    }

    /// The same at a tick that its caller has read from the window's clock. Where another's was later, that
    /// counts.
    ///
    /// # Errors
    /// As for [`try_acquire`](Self::try_acquire).
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

    /// Takes back units that were booked and not used, if they still count.
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

    /// Puts what was taken into the newest bucket, and answers which one that was. What was in its slot before
    /// no longer counts.
    fn book(&self, cost: u32) -> u64 {
        let mut number = self.newest.load(Ordering::Acquire);
        loop {
            let slot = self.slot(number);
            let word = slot.load(Ordering::Relaxed);
            let there = Bucket::of(word);
            if there.number > number {
                number = self.newest.load(Ordering::Acquire);
                continue;
            }
            let (before, gone) = if there.number == number {
                (there.count, 0)
            } else {
                (0, there.count)
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
                if gone > 0 {
                    self.total.fetch_sub(gone.into(), Ordering::Release);
                }
                return number;
            }
        }
    }

    /// Takes out of the total what no longer counts.
    fn sweep(&self) {
        let newest = self.newest.load(Ordering::Acquire);
        for slot in &self.buckets {
            let word = slot.load(Ordering::Relaxed);
            let there = Bucket::of(word);
            if there.count == 0 || there.number.saturating_add(self.kept()) > newest {
                continue;
            }
            let empty = Bucket { count: 0, ..there };
            let emptied =
                slot.compare_exchange(word, empty.word(), Ordering::Relaxed, Ordering::Relaxed);
            if emptied.is_ok() {
                self.total.fetch_sub(there.count.into(), Ordering::Release);
            }
        }
    }

    /// When so many buckets have left that the cost fits; what is in no bucket yet counts as in the newest.
    fn earliest(&self, now: Tick, total: u64, cost: u32) -> Wait {
        let mut excess = total
            .saturating_add(cost.into())
            .saturating_sub(self.limit.into());
        let newest = self.newest.load(Ordering::Acquire);
        let oldest = newest.saturating_sub(self.kept() - 1);
        let mut leaves = newest;
        for number in oldest..newest {
            let there = Bucket::of(self.slot(number).load(Ordering::Relaxed));
            if there.number == number {
                excess = excess.saturating_sub(there.count.into());
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
