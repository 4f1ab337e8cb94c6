//! Two counters, of which the older fades.
//!
//! Invariant: `current` was admitted in the window that begins at `start`, which is that of `latest`,
//! and `previous` in the one before.

use super::refund_cutoff::RefundCutoff;
use super::{Limit, LimitConfigError, Wait, window_nanos};
use crate::time::{ClockOffset, Tick, saturating_nanos};
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

/// Takes what was admitted in the aligned window before as spread evenly over it, and admits while the
/// share of it that a sliding window would still hold, and what was admitted in the present one, are
/// together below `limit`. An approximation: if it came in a burst, up to almost twice the limit fits
/// into some window, as [`worst_case`](Limit::worst_case) says.
///
/// Every operation costs O(1). Memory is constant.
///
/// Worst case over a span: the limit in its first nanosecond, one less in each further window, and what
/// has faded of that by its last nanosecond. Source of the algorithm: J. Desgats, "How we built rate
/// limiting capable of scaling to millions of domains", Cloudflare, 2017.
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
/// // A third of the three has faded after 20 s of the next window.
/// assert_eq!(counter.try_acquire(at(61), 1), Err(Wait::Until(at(80))));
/// assert_eq!(counter.worst_case(Duration::from_secs(60)), 5);
/// # Ok::<(), leasehold_core::limit::LimitConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "Snapshot"))]
pub struct SlidingCounter {
    limit: NonZeroU32,
    width: NonZeroU64,
    /// When something was last admitted or settled.
    latest: Tick,
    refund_cutoff: RefundCutoff,
    start: u64,
    previous: u32,
    current: u32,
}

impl SlidingCounter {
    /// A counter that aims at `limit` units in any `window`.
    ///
    /// # Errors
    /// Where the window is zero, longer than 584 years, or has less than a nanosecond for each unit.
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

    /// Changes how many units it aims at, from now on.
    ///
    /// # Errors
    /// Where the window has less than a nanosecond for each unit; then nothing is changed.
    pub fn set_limit(&mut self, limit: NonZeroU32) -> Result<(), LimitConfigError> {
        if u64::from(limit.get()) > self.width.get() {
            return Err(LimitConfigError::TooFine);
        }
        self.limit = limit;
        Ok(())
    }

    /// The start of the window that `now` is in, and what was admitted before it and in it.
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

    /// The most units that fit into a window so many nanoseconds after its start.
    #[inline]
    fn free(&self, into: u64, previous: u32, current: u32) -> u32 {
        let left = self.width.get().saturating_sub(into);
        // At most the limit, or what was charged beyond it, for a span of 584 years.
        let fading = u128::from(previous).saturating_mul(left.into());
        let fading = match u64::try_from(fading) {
            Ok(parts) => parts.div_ceil(self.width.get()),
            Err(_) => {
                let units = fading.div_ceil(self.width.get().into());
                u64::try_from(units).unwrap_or(u64::MAX)
            }
        };
        let used = fading.saturating_add(current.into());
        u64::from(self.limit.get()).saturating_sub(used) as u32
    }

    /// How long after a window's start `cost` fits into it; `None` where not before its end.
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
        // In this window, in the next, or in the one after that, when all has faded.
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
        let (less, more) = self.refund_cutoff.change(booked, reserved, actual);
        *count = count.saturating_sub(less).saturating_add(more);
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
        let shift = ClockOffset { from, to };
        self.latest = shift.tick(self.latest);
        self.start = shift.tick(Tick::from_nanos(self.start)).as_nanos();
        self.refund_cutoff.rebase(shift);
    }

    fn worst_case(&self, span: Duration) -> u64 {
        let Some(after) = saturating_nanos(span).checked_sub(1) else {
            return 0;
        };
        let limit = u64::from(self.limit.get());
        let (windows, rest) = (after / self.width, after % self.width);
        // Full windows after the first nanosecond, and what fades into the last from the one before.
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

/// What a snapshot says, before it is believed.
#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
struct Snapshot {
    limit: NonZeroU32,
    width: NonZeroU64,
    latest: Tick,
    refund_cutoff: RefundCutoff,
    start: u64,
    previous: u32,
    current: u32,
}

#[cfg(feature = "serde")]
impl TryFrom<Snapshot> for SlidingCounter {
    type Error = super::SnapshotError;

    fn try_from(read: Snapshot) -> Result<Self, Self::Error> {
        let width = Duration::from_nanos(read.width.get());
        let mut counter = Self::new(read.limit, width)?;
        super::check_start(read.start, read.latest, read.width)?;
        counter.latest = read.latest;
        counter.refund_cutoff = read.refund_cutoff;
        counter.start = read.start;
        counter.previous = read.previous;
        counter.current = read.current;
        Ok(counter)
    }
}
