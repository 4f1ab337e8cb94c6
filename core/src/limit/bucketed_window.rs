//! A sliding window counted in buckets, in constant memory.
//!
//! Invariant: `counts[slot]` is what the bucket that begins at `start` holds, the slots before it (in a
//! ring) hold those before it, and `counted` is their sum. One bucket more is kept than the window has,
//! because a window that doesn't begin at a bucket's edge touches one more. `start` is that of `latest`.

use super::refund_cutoff::RefundCutoff;
use super::{Anchor, Limit, LimitConfigError, Wait, window_nanos};
use crate::time::{ClockOffset, Tick, saturating_nanos};
use alloc::boxed::Box;
use alloc::vec;
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

/// At most `limit` units in any window, counted in buckets aligned to the clock's epoch.
///
/// Never admits more than the exact window would, and makes a caller wait at most one bucket longer.
/// Admission costs O(1), a refusal O(buckets); memory is 4 bytes a bucket and one more, whatever the
/// limit: in the machine itself ([`inline`](Self::inline)), or boxed where their number is chosen at
/// run time ([`new`](Self::new)).
///
/// Worst case over a span: the limit, once for each `buckets + 1` buckets that the span can touch.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_core::limit::{Anchor, BucketedWindow, Limit, Wait};
/// use leasehold_core::time::Tick;
///
/// let limit = NonZeroU32::new(3).unwrap();
/// let minute = Duration::from_secs(60);
/// let mut window = BucketedWindow::<[u32; 7]>::inline(limit, minute, Anchor::Grant)?;
/// let at = |secs: u64| Tick::from_nanos(secs * 1_000_000_000);
/// assert_eq!(window.try_acquire(at(5), 3), Ok(at(5)));
/// assert_eq!(window.try_acquire(at(65), 1), Err(Wait::Until(at(70))));
/// assert_eq!(window.try_acquire(at(70), 3), Ok(at(70)));
/// # Ok::<(), leasehold_core::limit::LimitConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct BucketedWindow<C = Box<[u32]>> {
    limit: NonZeroU32,
    /// Nanoseconds in a bucket.
    width: NonZeroU64,
    anchor: Anchor,
    /// When something was last admitted or settled.
    latest: Tick,
    refund_cutoff: RefundCutoff,
    counts: C,
    start: u64,
    slot: usize,
    #[cfg_attr(feature = "serde", serde(skip))]
    counted: u64,
    in_flight: u64,
}

impl BucketedWindow {
    /// A window of `buckets` buckets.
    ///
    /// # Errors
    /// Where the window is zero, longer than 584 years, or not a multiple of `buckets` nanoseconds.
    pub fn new(
        limit: NonZeroU32,
        window: Duration,
        buckets: NonZeroU32,
        anchor: Anchor,
    ) -> Result<Self, LimitConfigError> {
        let kept = (buckets.get() as usize).saturating_add(1);
        let counts = vec![0; kept].into_boxed_slice();
        Self::with_counts(limit, window, anchor, counts)
    }

    /// Lets every admission count for `skew` longer, in whole buckets, for an upstream whose clock may run
    /// that much ahead of ours in one window. An inline window has to be made that much longer itself.
    ///
    /// # Errors
    /// Where the window becomes longer than 584 years.
    pub fn skew(mut self, skew: Duration) -> Result<Self, LimitConfigError> {
        let more = skew.as_nanos().div_ceil(self.width.get().into());
        let more = usize::try_from(more).map_err(|_| LimitConfigError::WindowTooLong)?;
        let buckets = (self.counts.len() as u64).saturating_add(more as u64);
        if buckets.checked_mul(self.width.get()).is_none() {
            return Err(LimitConfigError::WindowTooLong);
        }
        let mut counts = self.counts.into_vec();
        let oldest = self.slot.saturating_add(1);
        counts.splice(oldest..oldest, core::iter::repeat_n(0, more));
        self.counts = counts.into_boxed_slice();
        Ok(self)
    }
}

impl<const KEPT: usize> BucketedWindow<[u32; KEPT]> {
    /// A window of `KEPT - 1` buckets, which needs no allocator.
    ///
    /// # Errors
    /// Where `KEPT` is less than 2, or the window is zero, longer than 584 years, or not a multiple of
    /// `KEPT - 1` nanoseconds.
    pub fn inline(
        limit: NonZeroU32,
        window: Duration,
        anchor: Anchor,
    ) -> Result<Self, LimitConfigError> {
        Self::with_counts(limit, window, anchor, [0; KEPT])
    }
}

impl<C: AsRef<[u32]> + AsMut<[u32]>> BucketedWindow<C> {
    fn with_counts(
        limit: NonZeroU32,
        window: Duration,
        anchor: Anchor,
        counts: C,
    ) -> Result<Self, LimitConfigError> {
        let window = window_nanos(window)?;
        let buckets = (counts.as_ref().len() as u64).saturating_sub(1);
        let width = window.checked_div(buckets).and_then(NonZeroU64::new);
        let width = width.ok_or(LimitConfigError::UnevenBuckets)?;
        if !window.is_multiple_of(buckets) {
            return Err(LimitConfigError::UnevenBuckets);
        }
        Ok(Self {
            limit,
            width,
            anchor,
            latest: Tick::ZERO,
            refund_cutoff: RefundCutoff::default(),
            counts,
            start: 0,
            slot: 0,
            counted: 0,
            in_flight: 0,
        })
    }

    /// Changes how many units a window admits, from now on. No window ever holds more than the larger
    /// of the two limits.
    pub fn set_limit(&mut self, limit: NonZeroU32) {
        self.limit = limit;
    }

    #[inline]
    fn kept(&self) -> usize {
        self.counts.as_ref().len()
    }

    #[inline]
    fn count(&mut self, slot: usize) -> Option<&mut u32> {
        self.counts.as_mut().get_mut(slot)
    }

    /// What the buckets hold, oldest first, and when each no longer counts.
    fn buckets(&self) -> impl Iterator<Item = (u32, Option<Tick>)> {
        let (newer, older) = self.counts.as_ref().split_at(self.slot.saturating_add(1));
        let ends = (1u64..).map(|steps| {
            let after = self.width.get().checked_mul(steps)?;
            self.start.checked_add(after).map(Tick::from_nanos)
        });
        older.iter().chain(newer).copied().zip(ends)
    }

    /// What is in flight and what still counts at `now`.
    fn used_at(&self, now: Tick) -> u64 {
        let now = now.max(self.latest);
        let counted = self
            .buckets()
            .filter(|(_, leaves)| leaves.is_none_or(|leaves| leaves > now));
        counted.fold(self.in_flight, |sum, (count, _)| {
            sum.saturating_add(count.into())
        })
    }

    /// How many more units than the limit there would be with `cost` more.
    #[inline]
    fn excess(&self, cost: u32) -> u64 {
        self.counted
            .saturating_add(self.in_flight)
            .saturating_add(cost.into())
            .saturating_sub(self.limit.get().into())
    }

    /// Moves on to `now` and forgets the buckets that no longer count then.
    #[inline]
    fn advance(&mut self, now: Tick) {
        self.latest = self.latest.max(now);
        let into = self.latest.as_nanos().saturating_sub(self.start);
        if into < self.width.get() {
            return;
        }
        let last = self.kept().saturating_sub(1);
        let (mut left, mut slot, mut gone) = (into, self.slot, 0u64);
        for _ in 0..=last {
            if left < self.width.get() {
                break;
            }
            left = left.saturating_sub(self.width.get());
            slot = if slot >= last {
                0
            } else {
                slot.saturating_add(1)
            };
            if let Some(count) = self.counts.as_mut().get_mut(slot) {
                gone = gone.saturating_add(core::mem::take(count).into());
            }
        }
        // A division costs more than the steps, where they are few.
        if left >= self.width.get() {
            left %= self.width;
        }
        self.slot = slot;
        self.counted = self.counted.saturating_sub(gone);
        self.start = self.latest.as_nanos().saturating_sub(left);
    }

    /// Changes what a bucket holds.
    #[inline]
    fn correct(&mut self, slot: usize, taken: u32, added: u32) {
        if let Some(count) = self.count(slot) {
            let before = *count;
            let after = before.saturating_sub(taken).saturating_add(added);
            *count = after;
            self.counted = self
                .counted
                .saturating_sub(before.into())
                .saturating_add(after.into());
        }
    }

    #[inline]
    fn book(&mut self, cost: u32) {
        match self.anchor {
            Anchor::Grant => self.correct(self.slot, 0, cost),
            Anchor::Completion => self.in_flight = self.in_flight.saturating_add(cost.into()),
        }
    }

    /// The slot of the bucket that `booked` is in, if that is still there.
    fn slot_of(&self, booked: Tick) -> Option<usize> {
        let before = self.start.saturating_sub(booked.as_nanos());
        let back = before.div_ceil(self.width.get());
        let back = usize::try_from(back)
            .ok()
            .filter(|back| *back < self.kept())?;
        match self.slot.checked_sub(back) {
            Some(slot) => Some(slot),
            None => self.slot.saturating_add(self.kept()).checked_sub(back),
        }
    }
}

impl<C: AsRef<[u32]> + AsMut<[u32]>> Limit for BucketedWindow<C> {
    #[inline]
    fn try_acquire(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait> {
        let now = now.max(self.latest);
        if cost == 0 {
            return Ok(self.charge(now, 0));
        }
        if self.excess(cost) > 0 {
            match self.earliest(now, cost) {
                Wait::Until(at) if at <= now => {}
                wait @ (Wait::Until(_) | Wait::ForSettlement | Wait::Never) => return Err(wait),
            }
        }
        self.advance(now);
        self.book(cost);
        Ok(now)
    }

    #[inline]
    fn earliest(&self, now: Tick, cost: u32) -> Wait {
        let now = now.max(self.latest);
        if cost > self.limit.get() {
            return Wait::Never;
        }
        let mut excess = self.excess(cost);
        if cost == 0 || excess == 0 {
            return Wait::Until(now);
        }
        let (newer, older) = self.counts.as_ref().split_at(self.slot.saturating_add(1));
        let needed = |excess: &mut u64, count: &u32| {
            *excess = excess.saturating_sub((*count).into());
            *excess == 0
        };
        let among_older = older.iter().position(|count| needed(&mut excess, count));
        let before = among_older.or_else(|| {
            let among_newer = newer.iter().position(|count| needed(&mut excess, count));
            among_newer.map(|index| older.len().saturating_add(index))
        });
        if let Some(before) = before {
            let steps = (before as u64).saturating_add(1);
            let after = self.width.get().checked_mul(steps);
            let leaves = after.and_then(|after| self.start.checked_add(after));
            let leaves = leaves.map(Tick::from_nanos);
            return leaves.map_or(Wait::Never, |leaves| Wait::Until(leaves.max(now)));
        }
        Wait::ForSettlement
    }

    fn charge(&mut self, now: Tick, cost: u32) -> Tick {
        self.advance(now);
        self.book(cost);
        self.latest
    }

    fn settle(&mut self, now: Tick, booked: Tick, reserved: u32, actual: u32) {
        self.advance(now);
        match self.anchor {
            Anchor::Grant => {
                if let Some(slot) = self.slot_of(booked) {
                    let (less, more) = self.refund_cutoff.change(booked, reserved, actual);
                    self.correct(slot, less, more);
                }
            }
            Anchor::Completion => {
                self.in_flight = self.in_flight.saturating_sub(reserved.into());
                self.correct(self.slot, 0, actual);
            }
        }
    }

    fn available(&self, now: Tick) -> u32 {
        u64::from(self.limit.get()).saturating_sub(self.used_at(now)) as u32
    }

    fn is_idle(&self, now: Tick) -> bool {
        self.used_at(now) == 0
    }

    fn rebase(&mut self, from: Tick, to: Tick) {
        self.advance(from);
        let shift = ClockOffset { from, to };
        self.latest = shift.tick(self.latest);
        self.start = shift.tick(Tick::from_nanos(self.start)).as_nanos();
        self.refund_cutoff.rebase(shift);
    }

    fn worst_case(&self, span: Duration) -> u64 {
        let Some(reach) = saturating_nanos(span).checked_sub(1) else {
            return 0;
        };
        let touched = reach.div_ceil(self.width.get()).saturating_add(1);
        touched
            .div_ceil(self.kept() as u64)
            .saturating_mul(self.limit.get().into())
    }
}

/// What a snapshot says, before it is believed.
#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
struct Snapshot {
    limit: NonZeroU32,
    width: NonZeroU64,
    anchor: Anchor,
    latest: Tick,
    refund_cutoff: RefundCutoff,
    counts: alloc::vec::Vec<u32>,
    start: u64,
    slot: usize,
    in_flight: u64,
}

#[cfg(feature = "serde")]
impl<'de, C> serde::Deserialize<'de> for BucketedWindow<C>
where
    C: TryFrom<alloc::vec::Vec<u32>> + AsRef<[u32]> + AsMut<[u32]>,
{
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use super::SnapshotError::Contradiction;
        use serde::de::Error;
        let read = Snapshot::deserialize(from)?;
        let buckets = (read.counts.len() as u64).saturating_sub(1);
        let window = read.width.get().checked_mul(buckets);
        let window = window.ok_or_else(|| D::Error::custom(Contradiction))?;
        super::check_start(read.start, read.latest, read.width).map_err(D::Error::custom)?;
        if read.slot >= read.counts.len() {
            return Err(D::Error::custom(Contradiction));
        }
        let window = Duration::from_nanos(window);
        let counts = C::try_from(read.counts).map_err(|_| D::Error::custom(Contradiction))?;
        let mut restored =
            Self::with_counts(read.limit, window, read.anchor, counts).map_err(D::Error::custom)?;
        restored.latest = read.latest;
        restored.refund_cutoff = read.refund_cutoff;
        restored.start = read.start;
        restored.slot = read.slot;
        let counts = restored.counts.as_ref().iter();
        restored.counted = counts.fold(0, |sum, count| sum.saturating_add((*count).into()));
        restored.in_flight = read.in_flight;
        Ok(restored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    fn window() -> BucketedWindow<[u32; 7]> {
        let limit = NonZeroU32::new(3).unwrap();
        BucketedWindow::inline(limit, Duration::from_nanos(60), Anchor::Grant).unwrap()
    }

    #[test]
    fn a_window_that_begins_inside_a_bucket_is_not_exceeded() {
        let mut window = window();
        assert_eq!(window.try_acquire(tick(9), 3), Ok(tick(9)));
        assert_eq!(window.try_acquire(tick(68), 1), Err(Wait::Until(tick(70))));
        assert_eq!(window.worst_case(Duration::from_nanos(60)), 3);
        assert_eq!(window.worst_case(Duration::from_nanos(61)), 3);
        assert_eq!(window.worst_case(Duration::from_nanos(62)), 6);
    }

    #[test]
    fn a_jump_over_many_windows_forgets_them_in_one_step() {
        let mut window = window();
        window.try_acquire(tick(0), 3).unwrap();
        let far = tick(u64::MAX - 1_000);
        assert_eq!(window.try_acquire(far, 3), Ok(far));
        assert_eq!(window.counted, 3);
    }

    #[test]
    fn a_settlement_after_the_bucket_has_left_changes_nothing() {
        let mut window = window();
        let old = window.try_acquire(tick(0), 3).unwrap();
        window.try_acquire(tick(100), 3).unwrap();
        window.refund(tick(100), old, 3);
        assert_eq!(window.counted, 3);
    }

    #[test]
    fn a_skew_makes_a_completion_count_for_longer() {
        let (limit, six) = (NonZeroU32::MIN, NonZeroU32::new(6).unwrap());
        let window = BucketedWindow::new(limit, Duration::from_nanos(60), six, Anchor::Completion);
        let mut window = window.unwrap().skew(Duration::from_nanos(11)).unwrap();
        let booked = window.try_acquire(tick(0), 1).unwrap();
        window.settle(tick(65), booked, 1, 1);
        assert_eq!(window.earliest(tick(65), 1), Wait::Until(tick(150)));
    }

    #[test]
    fn uneven_buckets_are_refused() {
        let (limit, seven) = (NonZeroU32::MIN, NonZeroU32::new(7).unwrap());
        let made = BucketedWindow::new(limit, Duration::from_secs(1), seven, Anchor::Grant);
        assert_eq!(made, Err(LimitConfigError::UnevenBuckets));
        let none = BucketedWindow::<[u32; 1]>::inline(limit, Duration::from_secs(1), Anchor::Grant);
        assert_eq!(none, Err(LimitConfigError::UnevenBuckets));
    }
}
