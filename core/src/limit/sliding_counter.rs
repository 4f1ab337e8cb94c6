//! Sliding counter: two aligned windows, the older weighted by how much of it a sliding window still covers.
//!
//! Invariant: `current` units were admitted in the window that begins at `start` and holds `latest`, `previous`
//! units in the one before.

use super::admission::{Limit, LimitConfigError, Wait, window_nanos};
use super::refund_cutoff::RefundCutoff;
use crate::time::{ClockOffset, Tick, saturating_nanos};
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

/// A sliding counter: admits `cost` units while `share + current + cost <= limit`, in whole units.
///
/// `current` is what the present aligned window holds. `share` is the previous window's count times the part of it
/// that a sliding window still covers, rounded up: at a limit of 50, a share of 49.5 counts as 50 and leaves no
/// room. The count is taken as spread evenly over its window. If it came in a burst, some window holds up to one
/// unit less than twice the limit, as [`worst_case`](Limit::worst_case) states.
///
/// Every operation costs O(1); memory is constant.
///
/// Worst case over a span: the limit in its first nanosecond, one less in each further window, and by its last
/// nanosecond the units whose share has expired. Source: J. Desgats, "How we built rate limiting capable of scaling
/// to millions of domains", Cloudflare, 2017.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_core::limit::{Limit, SlidingCounter, Wait};
/// use leasehold_core::time::Tick;
///
/// let mut counter = SlidingCounter::new(NonZeroU32::new(3).unwrap(), Duration::from_secs(60))?;
/// let at = |secs: u64| Tick::from_nanos(secs * 1_000_000_000);
/// assert_eq!(counter.try_acquire(at(59), 3), Ok(at(59)));
/// // After 20 s of the next window, two thirds of the three units still count.
/// assert_eq!(counter.try_acquire(at(61), 1), Err(Wait::Until(at(80))));
/// assert_eq!(counter.worst_case(Duration::from_secs(60)), 5);
/// # Ok::<(), leasehold_core::limit::LimitConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "Wire"))]
pub struct SlidingCounter {
    limit: NonZeroU32,
    width: NonZeroU64,
    latest: Tick,
    refund_cutoff: RefundCutoff,
    start: u64,
    previous: u32,
    current: u32,
}

impl SlidingCounter {
    /// Creates a counter that approximates `limit` units in any `window`.
    ///
    /// # Errors
    /// [`LimitConfigError`] if the window is zero, longer than 584 years, or has less than a nanosecond for each
    /// unit.
    pub fn new(limit: NonZeroU32, window: Duration) -> Result<Self, LimitConfigError> {
        let width = NonZeroU64::new(window_nanos(window)?).ok_or(LimitConfigError::EmptyWindow)?;
        if u64::from(limit.get()) > width.get() {
            return Err(LimitConfigError::TooFine);
        }
        Ok(Self {
            limit,
            width,
            latest: Tick::ZERO,
            refund_cutoff: RefundCutoff::default(),
            start: 0,
            previous: 0,
            current: 0,
        })
    }

    /// Changes the units per window, from now on.
    ///
    /// # Errors
    /// [`LimitConfigError::TooFine`] if the window has less than a nanosecond for each unit; then nothing is changed.
    pub fn set_limit(&mut self, limit: NonZeroU32) -> Result<(), LimitConfigError> {
        if u64::from(limit.get()) > self.width.get() {
            return Err(LimitConfigError::TooFine);
        }
        self.limit = limit;
        Ok(())
    }

    /// The start of the window that holds `now`, and the counts of the previous window and of this one.
    #[inline]
    fn at(&self, now: Tick) -> (u64, u32, u32) {
        let into = now.as_nanos().saturating_sub(self.start);
        if into < self.width.get() {
            return (self.start, self.previous, self.current);
        }
        let steps = into / self.width;
        let start = self
            .start
            .saturating_add(steps.saturating_mul(self.width.get()));
        (start, if steps == 1 { self.current } else { 0 }, 0)
    }

    fn advance(&mut self, now: Tick) {
        self.latest = self.latest.max(now);
        (self.start, self.previous, self.current) = self.at(self.latest);
    }

    /// The units that fit into a window `into` nanoseconds after its start.
    #[inline]
    fn free(&self, into: u64, previous: u32, current: u32) -> u32 {
        let left = self.width.get().saturating_sub(into);
        // Overflows 64 bits only with windows of years, or counts charged far beyond the limit.
        let share = u128::from(previous).saturating_mul(left.into());
        let share = match u64::try_from(share) {
            Ok(parts) => parts.div_ceil(self.width.get()),
            Err(_) => {
                let units = share.div_ceil(self.width.get().into());
                u64::try_from(units).unwrap_or(u64::MAX)
            }
        };
        let used = share.saturating_add(current.into());
        u64::from(self.limit.get()).saturating_sub(used) as u32
    }

    /// Nanoseconds after a window's start from which `cost` fits; `None` if it doesn't before the end.
    fn opens(&self, previous: u32, current: u32, cost: u32) -> Option<u64> {
        let room = self.limit.get().checked_sub(current)?.checked_sub(cost)?;
        let width = u128::from(self.width.get());
        let share = width.saturating_mul(room.into());
        let Some(left) = share.checked_div(previous.into()) else {
            return Some(0);
        };
        let into = width.saturating_sub(left);
        u64::try_from(into)
            .ok()
            .filter(|into| *into < self.width.get())
    }
}

impl Limit for SlidingCounter {
    #[inline]
    fn try_acquire(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait> {
        let now = now.max(self.latest);
        if cost == 0 {
            return Ok(self.charge(now, 0));
        }
        let (start, previous, current) = self.at(now);
        let into = now.as_nanos().saturating_sub(start);
        if cost > self.free(into, previous, current) {
            return Err(self.earliest(now, cost));
        }
        (self.start, self.previous) = (start, previous);
        self.current = current.saturating_add(cost);
        self.latest = now;
        Ok(now)
    }

    fn earliest(&self, now: Tick, cost: u32) -> Wait {
        let now = now.max(self.latest);
        if cost > self.limit.get() {
            return Wait::Never;
        }
        if cost == 0 {
            return Wait::Until(now);
        }
        let (start, previous, current) = self.at(now);
        let width = self.width.get();
        // In this window, the next, or the one after that, when both counts have expired.
        let windows = [(previous, current), (current, 0), (0, 0)];
        let mut begins = Some(start);
        for (previous, current) in windows {
            let Some(begin) = begins else { break };
            if let Some(into) = self.opens(previous, current, cost) {
                let then = begin.checked_add(into).map(Tick::from_nanos);
                return then.map_or(Wait::Never, |then| Wait::Until(then.max(now)));
            }
            begins = begin.checked_add(width);
        }
        Wait::Never
    }

    fn charge(&mut self, now: Tick, cost: u32) -> Tick {
        self.advance(now);
        self.current = self.current.saturating_add(cost);
        self.latest
    }

    fn settle(&mut self, now: Tick, booked: Tick, reserved: u32, actual: u32) {
        self.advance(now);
        let before = self.start.saturating_sub(self.width.get());
        let count = if booked.as_nanos() >= self.start {
            &mut self.current
        } else if booked.as_nanos() >= before {
            &mut self.previous
        } else {
            return;
        };
        let (less, more) = self.refund_cutoff.correction(booked, reserved, actual);
        *count = count.saturating_sub(less).saturating_add(more);
    }

    fn capacity(&self) -> u32 {
        self.limit.get()
    }

    fn available(&self, now: Tick) -> u32 {
        let now = now.max(self.latest);
        let (start, previous, current) = self.at(now);
        self.free(now.as_nanos().saturating_sub(start), previous, current)
    }

    fn is_idle(&self, now: Tick) -> bool {
        let (_, previous, current) = self.at(now.max(self.latest));
        (previous, current) == (0, 0)
    }

    fn rebase(&mut self, from: Tick, to: Tick) {
        self.advance(from);
        let offset = ClockOffset { from, to };
        self.latest = offset.tick(self.latest);
        self.start = offset.tick(Tick::from_nanos(self.start)).as_nanos();
        self.refund_cutoff.rebase(offset);
    }

    fn worst_case(&self, span: Duration) -> u64 {
        let Some(after) = saturating_nanos(span).checked_sub(1) else {
            return 0;
        };
        let limit = u64::from(self.limit.get());
        let (windows, rest) = (after / self.width, after % self.width);
        // Full windows after the first nanosecond, and the share of the one before the last.
        let (full, before) = match (limit, windows) {
            (_, 0) => (0, limit),
            (1, windows) => (windows / 2, u64::from(windows.is_multiple_of(2))),
            (limit, windows) => {
                let each = limit.saturating_sub(1);
                (windows.saturating_mul(each), each)
            }
        };
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        let last = rest
            .checked_sub(1)
            .map_or(0, |into| self.free(into, before, 0));
        limit.saturating_add(full).saturating_add(last.into())
    }
}

#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
struct Wire {
    limit: NonZeroU32,
    width: NonZeroU64,
    latest: Tick,
    refund_cutoff: RefundCutoff,
    start: u64,
    previous: u32,
    current: u32,
}

#[cfg(feature = "serde")]
impl TryFrom<Wire> for SlidingCounter {
    type Error = super::admission::SnapshotError;

    fn try_from(wire: Wire) -> Result<Self, Self::Error> {
        let width = Duration::from_nanos(wire.width.get());
        let mut counter = Self::new(wire.limit, width)?;
        super::admission::check_start(wire.start, wire.latest, wire.width)?;
        counter.latest = wire.latest;
        counter.refund_cutoff = wire.refund_cutoff;
        counter.start = wire.start;
        counter.previous = wire.previous;
        counter.current = wire.current;
        Ok(counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_49_5_counts_as_50_and_leaves_no_room_at_a_limit_of_50() {
        let at = |secs: u64| Tick::from_nanos(secs * 1_000_000_000);
        let limit = NonZeroU32::new(50).unwrap();
        let mut counter = SlidingCounter::new(limit, Duration::from_secs(100)).unwrap();
        counter.try_acquire(at(50), 50).unwrap();
        // One percent into the next window, 99 % of the 50 units are covered: 49.5.
        assert_eq!(counter.available(at(101)), 0);
        assert_eq!(counter.try_acquire(at(101), 1), Err(Wait::Until(at(102))));
        // Two percent into it, exactly 49.
        assert_eq!(counter.try_acquire(at(102), 1), Ok(at(102)));
    }
}
