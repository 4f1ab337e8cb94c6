//! Fixed window: one counter for each aligned window of the clock.
//!
//! Invariant: `counted` units were admitted in the window that begins at `start` and holds `latest`.

use super::admission::{Limit, LimitConfigError, Wait, window_nanos};
use super::refund_cutoff::RefundCutoff;
use crate::time::{ClockOffset, Tick, saturating_nanos};
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

/// A fixed window: at most `limit` units in each window aligned to the clock's epoch.
///
/// A window that isn't aligned can hold twice the limit. It serves for comparison and for upstreams that count the
/// same way. Every operation costs O(1); memory is constant.
///
/// Worst case over a span: the limit, once for each aligned window that the span can touch.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_core::limit::{FixedWindow, Limit, Wait};
/// use leasehold_core::time::Tick;
///
/// let mut window = FixedWindow::new(NonZeroU32::new(3).unwrap(), Duration::from_secs(60))?;
/// let at = |secs: u64| Tick::from_nanos(secs * 1_000_000_000);
/// assert_eq!(window.try_acquire(at(59), 3), Ok(at(59)));
/// assert_eq!(window.try_acquire(at(59), 1), Err(Wait::Until(at(60))));
/// assert_eq!(window.worst_case(Duration::from_secs(60)), 6);
/// # Ok::<(), leasehold_core::limit::LimitConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "Wire"))]
pub struct FixedWindow {
    limit: NonZeroU32,
    width: NonZeroU64,
    latest: Tick,
    refund_cutoff: RefundCutoff,
    start: u64,
    counted: u32,
}

impl FixedWindow {
    /// Creates a counter that admits `limit` units in each aligned `window`.
    ///
    /// # Errors
    /// [`LimitConfigError`] if the window is zero or longer than 584 years.
    pub fn new(limit: NonZeroU32, window: Duration) -> Result<Self, LimitConfigError> {
        Ok(Self {
            limit,
            width: NonZeroU64::new(window_nanos(window)?).ok_or(LimitConfigError::EmptyWindow)?,
            latest: Tick::ZERO,
            refund_cutoff: RefundCutoff::default(),
            start: 0,
            counted: 0,
        })
    }

    /// Changes the units a window admits, from now on.
    pub fn set_limit(&mut self, limit: NonZeroU32) {
        self.limit = limit;
    }

    fn counted_at(&self, now: Tick) -> u32 {
        let into = now.as_nanos().saturating_sub(self.start);
        if into < self.width.get() {
            self.counted
        } else {
            0
        }
    }

    /// When the present window ends; `None` past the last tick.
    fn end(&self) -> Option<Tick> {
        self.start
            .checked_add(self.width.get())
            .map(Tick::from_nanos)
    }

    fn advance(&mut self, now: Tick) {
        self.latest = self.latest.max(now);
        let into = self.latest.as_nanos().saturating_sub(self.start);
        if into >= self.width.get() {
            let steps = into / self.width;
            self.start = self
                .start
                .saturating_add(steps.saturating_mul(self.width.get()));
            self.counted = 0;
        }
    }
}

impl Limit for FixedWindow {
    #[inline]
    fn try_acquire(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait> {
        let now = now.max(self.latest);
        let free = self.limit.get().saturating_sub(self.counted_at(now));
        if cost > free {
            return Err(self.earliest(now, cost));
        }
        Ok(self.charge(now, cost))
    }

    fn earliest(&self, now: Tick, cost: u32) -> Wait {
        let now = now.max(self.latest);
        let free = self.limit.get().saturating_sub(self.counted_at(now));
        if cost > self.limit.get() {
            Wait::Never
        } else if cost <= free {
            Wait::Until(now)
        } else {
            self.end().map_or(Wait::Never, Wait::Until)
        }
    }

    #[inline]
    fn charge(&mut self, now: Tick, cost: u32) -> Tick {
        self.advance(now);
        self.counted = self.counted.saturating_add(cost);
        self.latest
    }

    fn settle(&mut self, now: Tick, booked: Tick, reserved: u32, actual: u32) {
        self.advance(now);
        if booked.as_nanos() >= self.start {
            let (less, more) = self.refund_cutoff.correction(booked, reserved, actual);
            self.counted = self.counted.saturating_sub(less).saturating_add(more);
        }
    }

    fn capacity(&self) -> u32 {
        self.limit.get()
    }

    fn available(&self, now: Tick) -> u32 {
        let now = now.max(self.latest);
        self.limit.get().saturating_sub(self.counted_at(now))
    }

    fn is_idle(&self, now: Tick) -> bool {
        self.counted_at(now.max(self.latest)) == 0
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
        touched.saturating_mul(self.limit.get().into())
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
    counted: u32,
}

#[cfg(feature = "serde")]
impl TryFrom<Wire> for FixedWindow {
    type Error = super::admission::SnapshotError;

    fn try_from(wire: Wire) -> Result<Self, Self::Error> {
        super::admission::check_start(wire.start, wire.latest, wire.width)?;
        Ok(Self {
            limit: wire.limit,
            width: wire.width,
            latest: wire.latest,
            refund_cutoff: wire.refund_cutoff,
            start: wire.start,
            counted: wire.counted,
        })
    }
}
