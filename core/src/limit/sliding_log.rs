//! The exact sliding window: a log of what was admitted and when.
//!
//! Invariant: stamps are in order of time, each holds at least one unit, and `logged` is their sum.

use super::{Anchor, ConfigError, Limit, Wait, window_nanos};
use crate::time::{Tick, saturating_nanos};
use alloc::collections::VecDeque;
use core::num::NonZeroU32;
use core::time::Duration;

/// At most `limit` units in any window, and nothing refused that this allows.
///
/// Admission costs O(1) amortised, a refusal and [`earliest`](Limit::earliest) O(stamps that would
/// have to leave), a settlement under [`Anchor::Grant`] O(log n) to find the stamp. Memory is 16 bytes
/// for each request that counts, however many units it has.
///
/// Worst case over a span: the limit, once for each window begun in it.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_core::limit::{Anchor, Limit, SlidingLog, Wait};
/// use leasehold_core::time::Tick;
///
/// let two = NonZeroU32::new(2).unwrap();
/// let mut log = SlidingLog::new(two, Duration::from_secs(60), Anchor::Grant)?;
/// let at = |secs: u64| Tick::from_nanos(secs * 1_000_000_000);
/// assert_eq!(log.try_acquire(at(0), 1), Ok(at(0)));
/// assert_eq!(log.try_acquire(at(10), 1), Ok(at(10)));
/// assert_eq!(log.try_acquire(at(20), 1), Err(Wait::Until(at(60))));
/// assert_eq!(log.try_acquire(at(60), 1), Ok(at(60)));
/// # Ok::<(), leasehold_core::limit::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlidingLog {
    limit: u32,
    window: u64,
    anchor: Anchor,
    /// When something was last admitted or settled.
    latest: Tick,
    stamps: VecDeque<Stamp>,
    logged: u64,
    in_flight: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    at: Tick,
    units: u32,
}

impl SlidingLog {
    /// A log that admits `limit` units in any `window`.
    ///
    /// # Errors
    /// Where the window is zero or longer than 584 years.
    pub fn new(limit: NonZeroU32, window: Duration, anchor: Anchor) -> Result<Self, ConfigError> {
        Ok(Self {
            limit: limit.get(),
            window: window_nanos(window)?,
            anchor,
            latest: Tick::ZERO,
            stamps: VecDeque::new(),
            logged: 0,
            in_flight: 0,
        })
    }

    /// When a stamp no longer counts; `None` past the end of time.
    fn leaves(&self, stamp: Stamp) -> Option<Tick> {
        stamp.at.checked_add_nanos(self.window)
    }

    fn log(&mut self, units: u32) {
        if units == 0 {
            return;
        }
        let at = self.latest;
        self.logged = self.logged.saturating_add(units.into());
        match self.stamps.back_mut() {
            Some(newest) if newest.at == at && newest.units <= u32::MAX.saturating_sub(units) => {
                newest.units = newest.units.saturating_add(units);
            }
            Some(_) | None => self.stamps.push_back(Stamp { at, units }),
        }
    }

    /// Moves on to `now` and forgets what no longer counts then.
    fn advance(&mut self, now: Tick) {
        self.latest = self.latest.max(now);
        while let Some(oldest) = self.stamps.front().copied() {
            let leaves = self.leaves(oldest);
            if leaves.is_none_or(|leaves| leaves > self.latest) {
                return;
            }
            self.stamps.pop_front();
            self.logged = self.logged.saturating_sub(oldest.units.into());
        }
    }

    /// Changes what the stamp at `booked` holds; a stamp that has left needs no change.
    fn correct(&mut self, booked: Tick, reserved: u32, actual: u32) {
        let Ok(index) = self.stamps.binary_search_by_key(&booked, |stamp| stamp.at) else {
            return;
        };
        let Some(stamp) = self.stamps.get_mut(index) else {
            return;
        };
        let before = stamp.units;
        stamp.units = before.saturating_sub(reserved).saturating_add(actual);
        let after = stamp.units;
        if after == 0 {
            self.stamps.remove(index);
        }
        self.logged = self
            .logged
            .saturating_sub(before.into())
            .saturating_add(after.into());
    }
}

impl Limit for SlidingLog {
    fn try_acquire(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait> {
        let now = now.max(self.latest);
        match self.earliest(now, cost) {
            Wait::Until(at) if at <= now => {
                if cost > 0 {
                    self.advance(now);
                    match self.anchor {
                        Anchor::Grant => self.log(cost),
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
            .logged
            .saturating_add(self.in_flight)
            .saturating_add(cost.into());
        let mut excess = wanted.saturating_sub(self.limit.into());
        if cost == 0 || excess == 0 {
            return Wait::Until(now);
        }
        for stamp in &self.stamps {
            excess = excess.saturating_sub(stamp.units.into());
            if excess == 0 {
                return self
                    .leaves(*stamp)
                    .map_or(Wait::Never, |leaves| Wait::Until(leaves.max(now)));
            }
        }
        Wait::ForSettlement
    }

    fn settle(&mut self, now: Tick, booked: Tick, reserved: u32, actual: u32) {
        self.advance(now);
        match self.anchor {
            Anchor::Grant => self.correct(booked, reserved, actual),
            Anchor::Completion => {
                self.in_flight = self.in_flight.saturating_sub(reserved.into());
                self.log(actual);
            }
        }
    }

    fn worst_case(&self, span: Duration) -> u64 {
        let windows = saturating_nanos(span).div_ceil(self.window);
        windows.saturating_mul(self.limit.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    fn log(limit: u32, window: u64, anchor: Anchor) -> SlidingLog {
        let limit = NonZeroU32::new(limit).unwrap();
        SlidingLog::new(limit, Duration::from_nanos(window), anchor).unwrap()
    }

    #[test]
    fn a_completion_holds_its_place_for_a_whole_window() {
        let mut log = log(1, 10, Anchor::Completion);
        let booked = log.try_acquire(tick(0), 1).unwrap();
        assert_eq!(log.try_acquire(tick(50), 1), Err(Wait::ForSettlement));
        log.settle(tick(60), booked, 1, 1);
        assert_eq!(log.try_acquire(tick(60), 1), Err(Wait::Until(tick(70))));
        assert_eq!(log.try_acquire(tick(70), 1), Ok(tick(70)));
    }

    #[test]
    fn a_refund_opens_the_place_it_held() {
        for anchor in [Anchor::Grant, Anchor::Completion] {
            let mut log = log(2, 10, anchor);
            let first = log.try_acquire(tick(0), 1).unwrap();
            log.try_acquire(tick(1), 1).unwrap();
            log.settle(tick(2), first, 1, 0);
            assert_eq!(log.try_acquire(tick(2), 1), Ok(tick(2)), "{anchor:?}");
        }
    }

    #[test]
    fn time_that_runs_backwards_adds_nothing() {
        let mut log = log(1, 10, Anchor::Grant);
        log.try_acquire(tick(100), 1).unwrap();
        assert_eq!(log.try_acquire(tick(0), 1), Err(Wait::Until(tick(110))));
        assert_eq!(log.try_acquire(tick(110), 1), Ok(tick(110)));
    }

    #[test]
    fn a_window_that_ends_after_time_does_never_opens() {
        let mut log = log(1, 10, Anchor::Grant);
        log.try_acquire(Tick::MAX, 1).unwrap();
        assert_eq!(log.try_acquire(Tick::MAX, 1), Err(Wait::Never));
    }

    #[test]
    fn refunds_between_live_stamps_leave_nothing_behind() {
        let mut log = log(3, u64::MAX, Anchor::Grant);
        log.try_acquire(tick(0), 1).unwrap();
        let mut last = log.try_acquire(tick(1), 1).unwrap();
        for now in 2..1_000 {
            let next = log.try_acquire(tick(now), 1).unwrap();
            log.settle(tick(now), last, 1, 0);
            last = next;
            assert!(log.stamps.len() <= 3);
        }
    }
}
