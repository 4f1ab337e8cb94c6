//! A sliding window counted in buckets, in constant memory.
//!
//! Invariant: `counts[b % kept]` is what bucket `b` holds for the `kept` buckets that end with
//! that of `latest`, and `counted` is their sum. One bucket more is kept than the window has, because a window
//! that doesn't begin at a bucket's edge touches one more.

use super::{Anchor, ConfigError, Limit, Wait, window_nanos};
use crate::time::{Tick, saturating_nanos};
use alloc::boxed::Box;
use alloc::vec;
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

/// At most `limit` units in any window, counted in `buckets` buckets aligned to the clock's epoch.
///
/// Never admits more than the exact window would, and makes a caller wait at most one bucket
/// (`window / buckets`) longer. Admission at the current bucket costs O(1), otherwise O(buckets);
/// memory is `4 * (buckets + 1)` bytes whatever the limit.
///
/// Worst case over a span: the limit, once for each `buckets + 1` buckets that the span can touch.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_core::limit::{Anchor, BucketedWindow, Limit, Wait};
/// use leasehold_core::time::Tick;
///
/// let (limit, buckets) = (NonZeroU32::new(3).unwrap(), NonZeroU32::new(6).unwrap());
/// let mut window = BucketedWindow::new(limit, Duration::from_secs(60), buckets, Anchor::Grant)?;
/// let at = |secs: u64| Tick::from_nanos(secs * 1_000_000_000);
/// assert_eq!(window.try_acquire(at(5), 3), Ok(at(5)));
/// assert_eq!(window.try_acquire(at(65), 1), Err(Wait::Until(at(70))));
/// assert_eq!(window.try_acquire(at(70), 3), Ok(at(70)));
/// # Ok::<(), leasehold_core::limit::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketedWindow {
    limit: u32,
    /// Nanoseconds in a bucket.
    width: u64,
    anchor: Anchor,
    /// When something was last admitted or settled.
    latest: Tick,
    counts: Box<[u32]>,
    counted: u64,
    in_flight: u64,
}

impl BucketedWindow {
    /// A window that admits `limit` units and forgets them a bucket at a time.
    ///
    /// # Errors
    /// Where the window is zero, longer than 584 years, or not a multiple of `buckets` nanoseconds.
    pub fn new(
        limit: NonZeroU32,
        window: Duration,
        buckets: NonZeroU32,
        anchor: Anchor,
    ) -> Result<Self, ConfigError> {
        let window = window_nanos(window)?;
        let count = NonZeroU64::from(buckets);
        if !window.is_multiple_of(count.get()) {
            return Err(ConfigError::UnevenBuckets);
        }
        let kept = (buckets.get() as usize).saturating_add(1);
        Ok(Self {
            limit: limit.get(),
            width: window / count,
            anchor,
            latest: Tick::ZERO,
            counts: vec![0; kept].into_boxed_slice(),
            counted: 0,
            in_flight: 0,
        })
    }

    fn kept(&self) -> u64 {
        self.counts.len() as u64
    }

    fn bucket(&self, tick: Tick) -> u64 {
        tick.as_nanos().checked_div(self.width).unwrap_or(0)
    }

    fn count(&mut self, bucket: u64) -> Option<&mut u32> {
        let index = bucket.checked_rem(self.kept())?;
        self.counts.get_mut(index as usize)
    }

    fn count_of(&self, bucket: u64) -> u32 {
        let index = bucket.checked_rem(self.kept()).unwrap_or(0);
        self.counts.get(index as usize).copied().unwrap_or(0)
    }

    /// The buckets that are kept, oldest first.
    fn buckets(&self) -> impl Iterator<Item = u64> {
        let newest = self.bucket(self.latest);
        newest.saturating_sub(self.kept().saturating_sub(1))..=newest
    }

    fn leaves(&self, bucket: u64) -> Option<Tick> {
        let first_without = bucket.checked_add(self.kept())?;
        first_without.checked_mul(self.width).map(Tick::from_nanos)
    }

    /// Moves on to `now` and forgets the buckets that no longer count then.
    fn advance(&mut self, now: Tick) {
        let before = self.bucket(self.latest);
        self.latest = self.latest.max(now);
        let newest = self.bucket(self.latest);
        let steps = newest.saturating_sub(before).min(self.kept());
        for step in 0..steps {
            if let Some(count) = self.count(newest.saturating_sub(step)) {
                let left = core::mem::take(count);
                self.counted = self.counted.saturating_sub(left.into());
            }
        }
    }

    fn add(&mut self, bucket: u64, units: u32) {
        if let Some(count) = self.count(bucket) {
            let before = *count;
            *count = before.saturating_add(units);
            let added = count.saturating_sub(before);
            self.counted = self.counted.saturating_add(added.into());
        }
    }

    fn take(&mut self, bucket: u64, units: u32) {
        if let Some(count) = self.count(bucket) {
            let before = *count;
            *count = before.saturating_sub(units);
            let taken = before.saturating_sub(*count);
            self.counted = self.counted.saturating_sub(taken.into());
        }
    }
}

impl Limit for BucketedWindow {
    fn try_acquire(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait> {
        let now = now.max(self.latest);
        match self.earliest(now, cost) {
            Wait::Until(at) if at <= now => {
                if cost > 0 {
                    self.advance(now);
                    match self.anchor {
                        Anchor::Grant => self.add(self.bucket(now), cost),
                        Anchor::Completion => {
                            self.in_flight = self.in_flight.saturating_add(cost.into());
                        }
                    }
                }
                Ok(now)
            }
            wait @ (Wait::Until(_) | Wait::ForSettlement | Wait::Never) => Err(wait),
        }
    }

    fn earliest(&self, now: Tick, cost: u32) -> Wait {
        let now = now.max(self.latest);
        if cost > self.limit {
            return Wait::Never;
        }
        let wanted = self
            .counted
            .saturating_add(self.in_flight)
            .saturating_add(cost.into());
        let mut excess = wanted.saturating_sub(self.limit.into());
        if cost == 0 || excess == 0 {
            return Wait::Until(now);
        }
        for bucket in self.buckets() {
            excess = excess.saturating_sub(self.count_of(bucket).into());
            if excess == 0 {
                return self
                    .leaves(bucket)
                    .map_or(Wait::Never, |leaves| Wait::Until(leaves.max(now)));
            }
        }
        Wait::ForSettlement
    }

    fn settle(&mut self, now: Tick, booked: Tick, reserved: u32, actual: u32) {
        self.advance(now);
        match self.anchor {
            Anchor::Grant => {
                let bucket = self.bucket(booked);
                if self.buckets().any(|kept| kept == bucket) {
                    self.take(bucket, reserved);
                    self.add(bucket, actual);
                }
            }
            Anchor::Completion => {
                self.in_flight = self.in_flight.saturating_sub(reserved.into());
                self.add(self.bucket(self.latest), actual);
            }
        }
    }

    fn worst_case(&self, span: Duration) -> u64 {
        let Some(reach) = saturating_nanos(span).checked_sub(1) else {
            return 0;
        };
        let touched = reach.div_ceil(self.width).saturating_add(1);
        touched
            .div_ceil(self.kept())
            .saturating_mul(self.limit.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    fn window(limit: u32, window: u64, buckets: u32, anchor: Anchor) -> BucketedWindow {
        let limit = NonZeroU32::new(limit).unwrap();
        let buckets = NonZeroU32::new(buckets).unwrap();
        BucketedWindow::new(limit, Duration::from_nanos(window), buckets, anchor).unwrap()
    }

    #[test]
    fn a_window_that_begins_inside_a_bucket_is_not_exceeded() {
        let mut window = window(3, 60, 6, Anchor::Grant);
        assert_eq!(window.try_acquire(tick(9), 3), Ok(tick(9)));
        assert_eq!(window.try_acquire(tick(68), 1), Err(Wait::Until(tick(70))));
        assert_eq!(window.worst_case(Duration::from_nanos(60)), 3);
        assert_eq!(window.worst_case(Duration::from_nanos(61)), 3);
        assert_eq!(window.worst_case(Duration::from_nanos(62)), 6);
    }

    #[test]
    fn a_jump_over_many_windows_forgets_them_in_one_step() {
        let mut window = window(3, 60, 6, Anchor::Grant);
        window.try_acquire(tick(0), 3).unwrap();
        let far = tick(u64::MAX - 1_000);
        assert_eq!(window.try_acquire(far, 3), Ok(far));
        assert_eq!(window.counted, 3);
    }

    #[test]
    fn a_settlement_after_the_bucket_has_left_changes_nothing() {
        let mut window = window(3, 60, 6, Anchor::Grant);
        let old = window.try_acquire(tick(0), 3).unwrap();
        window.try_acquire(tick(100), 3).unwrap();
        window.settle(tick(100), old, 3, 0);
        assert_eq!(window.counted, 3);
    }

    #[test]
    fn uneven_buckets_are_refused() {
        let (limit, seven) = (NonZeroU32::MIN, NonZeroU32::new(7).unwrap());
        let made = BucketedWindow::new(limit, Duration::from_secs(1), seven, Anchor::Grant);
        assert_eq!(made, Err(ConfigError::UnevenBuckets));
    }
}
