//! Bucketed sliding window: constant memory, never above the exact window.
//!
//! Invariant: `counts[slot]` holds the bucket that begins at `start` and holds `latest`; the slots before it, in a
//! ring, hold the earlier buckets; `counted` is their sum. One bucket more is kept than the window has, because a
//! window that doesn't begin at a bucket's edge touches one more.

use super::admission::{Anchor, Limit, LimitConfigError, Wait, window_nanos};
use super::refund_cutoff::RefundCutoff;
use crate::time::{ClockOffset, Tick, saturating_nanos};
use alloc::boxed::Box;
use alloc::vec;
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

/// A bucketed sliding window: at most `limit` units in any window, counted in buckets aligned to the epoch.
///
/// It delays a caller by at most one bucket compared with the exact window. Admission costs O(buckets that have
/// begun since the last call), a refusal O(buckets). Memory is 4 bytes for each of `buckets + 1`, whatever the limit:
/// inside the limiter ([`inline`](Self::inline)), or boxed if their number is chosen at run time
/// ([`new`](Self::new)).
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
    /// Nanoseconds per bucket.
    width: NonZeroU64,
    anchor: Anchor,
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
    /// The most buckets of a boxed window.
    pub const MAX_BUCKETS: u32 = 1 << 16;

    /// Creates a window of `buckets` buckets.
    ///
    /// # Errors
    /// [`LimitConfigError`] if the window is zero, longer than 584 years, not a multiple of `buckets` nanoseconds, or
    /// has more than [`MAX_BUCKETS`](Self::MAX_BUCKETS).
    pub fn new(
        limit: NonZeroU32,
        window: Duration,
        buckets: NonZeroU32,
        anchor: Anchor,
    ) -> Result<Self, LimitConfigError> {
        Self::with_skew(limit, window, buckets, anchor, Duration::ZERO)
    }

    /// Creates a window whose admissions count for `skew` longer, rounded up to whole buckets.
    ///
    /// For an upstream whose clock may run ahead of the caller's by up to `skew` in one window. An inline window takes
    /// a longer `window` instead.
    ///
    /// # Errors
    /// As for [`new`](Self::new); the buckets and the length of the skew count.
    pub fn with_skew(
        limit: NonZeroU32,
        window: Duration,
        buckets: NonZeroU32,
        anchor: Anchor,
        skew: Duration,
    ) -> Result<Self, LimitConfigError> {
        let width = bucket_width(window, buckets.get().into())?;
        let more = skew.as_nanos().div_ceil(width.get().into());
        let all = more.saturating_add(buckets.get().into());
        let nanos = u128::from(width.get()).saturating_mul(all);
        let window = u64::try_from(nanos).map_err(|_| LimitConfigError::WindowTooLong)?;
        if all > Self::MAX_BUCKETS.into() {
            return Err(LimitConfigError::TooManyBuckets);
        }
        let kept = (all as usize).saturating_add(1);
        let counts = vec![0; kept].into_boxed_slice();
        Self::with_counts(limit, Duration::from_nanos(window), anchor, counts)
    }
}

impl<const KEPT: usize> BucketedWindow<[u32; KEPT]> {
    /// Creates a window of `KEPT - 1` buckets, which needs no allocator.
    ///
    /// # Errors
    /// [`LimitConfigError`] if `KEPT` is less than 2, or the window is zero, longer than 584 years, or not a multiple
    /// of `KEPT - 1` nanoseconds.
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
        let buckets = (counts.as_ref().len() as u64).saturating_sub(1);
        Ok(Self {
            limit,
            width: bucket_width(window, buckets)?,
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

    /// Changes the units a window admits, from now on. No window holds more than the larger of both limits.
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

    /// Each bucket's units and expiry, oldest first.
    fn buckets(&self) -> impl Iterator<Item = (u32, Option<Tick>)> {
        let (newer, older) = self.counts.as_ref().split_at(self.slot.saturating_add(1));
        let ends = (1u64..).map(|steps| {
            let after = self.width.get().checked_mul(steps)?;
            self.start.checked_add(after).map(Tick::from_nanos)
        });
        older.iter().chain(newer).copied().zip(ends)
    }

    /// The units in flight and those that still count at `now`.
    fn used_at(&self, now: Tick) -> u64 {
        let now = now.max(self.latest);
        let counted = self
            .buckets()
            .filter(|(_, expiry)| expiry.is_none_or(|expiry| expiry > now));
        counted.fold(self.in_flight, |sum, (count, _)| {
            sum.saturating_add(count.into())
        })
    }

    /// The units above the limit with `cost` more.
    #[inline]
    fn excess(&self, cost: u32) -> u64 {
        self.counted
            .saturating_add(self.in_flight)
            .saturating_add(cost.into())
            .saturating_sub(self.limit.get().into())
    }

    /// Moves on to `now` and clears the buckets that have expired by then.
    #[inline]
    fn advance(&mut self, now: Tick) {
        self.latest = self.latest.max(now);
        let into = self.latest.as_nanos().saturating_sub(self.start);
        if into < self.width.get() {
            return;
        }
        let last = self.kept().saturating_sub(1);
        let (mut left, mut slot, mut expired) = (into, self.slot, 0u64);
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
                expired = expired.saturating_add(core::mem::take(count).into());
            }
        }
        // A division costs more than a few steps.
        if left >= self.width.get() {
            left %= self.width;
        }
        self.slot = slot;
        self.counted = self.counted.saturating_sub(expired);
        self.start = self.latest.as_nanos().saturating_sub(left);
    }

    /// Changes the units of a bucket.
    #[inline]
    fn correct(&mut self, slot: usize, less: u32, more: u32) {
        if let Some(count) = self.count(slot) {
            let before = *count;
            let after = before.saturating_sub(less).saturating_add(more);
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

    /// The slot of the bucket that holds `booked`, unless it has expired.
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
            let expiry = after.and_then(|after| self.start.checked_add(after));
            let expiry = expiry.map(Tick::from_nanos);
            return expiry.map_or(Wait::Never, |expiry| Wait::Until(expiry.max(now)));
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
                    let (less, more) = self.refund_cutoff.correction(booked, reserved, actual);
                    self.correct(slot, less, more);
                }
            }
            Anchor::Completion => {
                self.in_flight = self.in_flight.saturating_sub(reserved.into());
                self.correct(self.slot, 0, actual);
            }
        }
    }

    fn counts_arrivals(&self) -> bool {
        self.anchor == Anchor::Completion
    }

    fn capacity(&self) -> u32 {
        self.limit.get()
    }

    fn available(&self, now: Tick) -> u32 {
        u64::from(self.limit.get()).saturating_sub(self.used_at(now)) as u32
    }

    fn is_idle(&self, now: Tick) -> bool {
        self.used_at(now) == 0
    }

    fn rebase(&mut self, from: Tick, to: Tick) {
        self.advance(from);
        let offset = ClockOffset { from, to };
        self.latest = offset.tick(self.latest);
        self.start = offset.tick(Tick::from_nanos(self.start)).as_nanos();
        self.refund_cutoff.rebase(offset);
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

/// Nanoseconds per bucket.
fn bucket_width(window: Duration, buckets: u64) -> Result<NonZeroU64, LimitConfigError> {
    let window = window_nanos(window)?;
    let width = window.checked_div(buckets).and_then(NonZeroU64::new);
    let even = width.filter(|_| window.is_multiple_of(buckets));
    even.ok_or(LimitConfigError::UnevenBuckets)
}

#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
struct Wire {
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
        use super::admission::SnapshotError::Contradiction;
        use serde::de::Error;
        let wire = Wire::deserialize(from)?;
        let buckets = (wire.counts.len() as u64).saturating_sub(1);
        let window = wire.width.get().checked_mul(buckets);
        let window = window.ok_or_else(|| D::Error::custom(Contradiction))?;
        super::admission::check_start(wire.start, wire.latest, wire.width)
            .map_err(D::Error::custom)?;
        if wire.slot >= wire.counts.len() {
            return Err(D::Error::custom(Contradiction));
        }
        let window = Duration::from_nanos(window);
        let counts = C::try_from(wire.counts).map_err(|_| D::Error::custom(Contradiction))?;
        let mut restored =
            Self::with_counts(wire.limit, window, wire.anchor, counts).map_err(D::Error::custom)?;
        restored.latest = wire.latest;
        restored.refund_cutoff = wire.refund_cutoff;
        restored.start = wire.start;
        restored.slot = wire.slot;
        let counts = restored.counts.as_ref().iter();
        restored.counted = counts.fold(0, |sum, count| sum.saturating_add((*count).into()));
        restored.in_flight = wire.in_flight;
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
    fn a_jump_over_many_windows_clears_all_buckets() {
        let mut window = window();
        window.try_acquire(tick(0), 3).unwrap();
        let far = tick(u64::MAX - 1_000);
        assert_eq!(window.try_acquire(far, 3), Ok(far));
        assert_eq!(window.counted, 3);
    }

    #[test]
    fn a_settlement_of_an_expired_bucket_changes_nothing() {
        let mut window = window();
        let old = window.try_acquire(tick(0), 3).unwrap();
        window.try_acquire(tick(100), 3).unwrap();
        window.refund(tick(100), old, 3);
        assert_eq!(window.counted, 3);
    }

    #[test]
    fn a_skew_makes_a_completion_count_for_longer() {
        let (limit, six) = (NonZeroU32::MIN, NonZeroU32::new(6).unwrap());
        let (window, skew) = (Duration::from_nanos(60), Duration::from_nanos(11));
        let made = BucketedWindow::with_skew(limit, window, six, Anchor::Completion, skew);
        let mut window = made.unwrap();
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

    #[test]
    fn a_window_of_too_many_buckets_is_refused_and_takes_no_memory() {
        let (limit, second) = (NonZeroU32::MIN, Duration::from_secs(1));
        let most = NonZeroU32::new(100_000).unwrap();
        let made = BucketedWindow::new(limit, second, most, Anchor::Grant);
        assert_eq!(made, Err(LimitConfigError::TooManyBuckets));
        let (one, years) = (NonZeroU32::MIN, Duration::from_secs(1 << 33));
        let made = BucketedWindow::with_skew(limit, second, one, Anchor::Grant, years);
        assert_eq!(made, Err(LimitConfigError::TooManyBuckets));
        let made = BucketedWindow::with_skew(limit, second, one, Anchor::Grant, Duration::MAX);
        assert_eq!(made, Err(LimitConfigError::WindowTooLong));
    }
}
