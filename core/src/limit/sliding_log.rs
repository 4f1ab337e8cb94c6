//! Exact sliding window: a log of admissions and their ticks.
//!
//! Invariant: stamps are in order of time, none is later than `latest`, each holds at least one unit, and
//! `logged` is their sum. Expired stamps are removed lazily, when units or memory are needed.

use super::admission::{Anchor, Limit, LimitConfigError, Wait, window_nanos};
use super::refund_cutoff::RefundCutoff;
use crate::time::{ClockOffset, Tick, saturating_nanos};
use alloc::collections::VecDeque;
use core::num::NonZeroU32;
use core::time::Duration;

/// The most stamps. Beyond it, the oldest two are merged; tests use a number they can reach.
const MAX_STAMPS: usize = if cfg!(test) { 1 << 12 } else { 1 << 31 };

/// An exact sliding window: at most `limit` units in any window, and no refusal that this doesn't require.
///
/// With n stamps, one a request:
/// - Admission costs O(1) amortised, as does a settlement under [`Anchor::Completion`].
/// - A refusal and [`earliest`](Limit::earliest) cost O(stamps that would have to expire).
/// - A settlement under [`Anchor::Grant`] costs O(log n), and O(n) if it empties or adds a stamp.
/// - [`available`](Limit::available) and [`is_idle`](Limit::is_idle) cost O(n).
/// - Memory is 16 bytes a stamp, however many units it has, for up to twice the most stamps that ever counted.
///
/// With more than 2^31 stamps the oldest are merged, so that they expire late, never early.
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
/// # Ok::<(), leasehold_core::limit::LimitConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "Wire", into = "Wire"))]
pub struct SlidingLog {
    limit: NonZeroU32,
    /// Nanoseconds for which an admission counts.
    window: u64,
    latest: Tick,
    anchor: AnchorState,
    stamps: VecDeque<Stamp>,
    logged: u64,
}

/// The anchor and its state besides the stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnchorState {
    /// The cutoff for refunds.
    Grant(RefundCutoff),
    /// The units in flight, which are stamped when settled.
    Completion(u64),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Stamp {
    at: Tick,
    units: u32,
}

impl SlidingLog {
    /// Creates a log that admits `limit` units in any `window`.
    ///
    /// # Errors
    /// [`LimitConfigError`] if the window is zero or longer than 584 years.
    pub fn new(
        limit: NonZeroU32,
        window: Duration,
        anchor: Anchor,
    ) -> Result<Self, LimitConfigError> {
        Self::with_skew(limit, window, anchor, Duration::ZERO)
    }

    /// Creates a log whose admissions count for `skew` longer than `window`.
    ///
    /// For an upstream whose clock may run ahead of the caller's by up to `skew` in one window.
    ///
    /// # Errors
    /// [`LimitConfigError`] if the window is zero, or longer than 584 years with the skew.
    pub fn with_skew(
        limit: NonZeroU32,
        window: Duration,
        anchor: Anchor,
        skew: Duration,
    ) -> Result<Self, LimitConfigError> {
        window_nanos(window)?;
        Ok(Self {
            limit,
            window: window_nanos(window.saturating_add(skew))?,
            latest: Tick::ZERO,
            anchor: match anchor {
                Anchor::Grant => AnchorState::Grant(RefundCutoff::default()),
                Anchor::Completion => AnchorState::Completion(0),
            },
            stamps: VecDeque::new(),
            logged: 0,
        })
    }

    /// Changes the units a window admits, from now on. No window holds more than the larger of both limits.
    pub fn set_limit(&mut self, limit: NonZeroU32) {
        self.limit = limit;
    }

    #[inline]
    fn in_flight(&self) -> u64 {
        match self.anchor {
            AnchorState::Grant(_) => 0,
            AnchorState::Completion(units) => units,
        }
    }

    /// When a stamp of this tick expires; `None` past the last tick.
    #[inline]
    fn expiry(&self, at: Tick) -> Option<Tick> {
        at.checked_add_nanos(self.window)
    }

    fn is_expired(&self, at: Tick, now: Tick) -> bool {
        self.expiry(at).is_some_and(|expiry| expiry <= now)
    }

    /// The units in flight and those that still count at `now`.
    fn used_at(&self, now: Tick) -> u64 {
        let now = now.max(self.latest);
        let counting = self.stamps.iter();
        let counting = counting.filter(|stamp| !self.is_expired(stamp.at, now));
        counting.fold(self.in_flight(), |sum, stamp| {
            sum.saturating_add(stamp.units.into())
        })
    }

    /// The units above the limit with `cost` more.
    #[inline]
    fn excess(&self, cost: u32) -> u64 {
        self.logged
            .saturating_add(self.in_flight())
            .saturating_add(cost.into())
            .saturating_sub(self.limit.get().into())
    }

    /// Stamps `units` at `latest`, in the newest stamp if that has the same tick and room.
    fn log(&mut self, units: u32) {
        if units == 0 {
            return;
        }
        let at = self.latest;
        self.logged = self.logged.saturating_add(units.into());
        if let Some(newest) = self.stamps.back_mut()
            && newest.at == at
            && newest.units <= u32::MAX.saturating_sub(units)
        {
            newest.units = newest.units.saturating_add(units);
            return;
        }
        self.push(Stamp { at, units });
    }

    fn book(&mut self, cost: u32) {
        match &mut self.anchor {
            AnchorState::Grant(_) => self.log(cost),
            AnchorState::Completion(units) => *units = units.saturating_add(cost.into()),
        }
    }

    /// Admits under either anchor, at any tick, and however many stamps have to expire.
    fn acquire_slow(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait> {
        let now = now.max(self.latest);
        match self.earliest(now, cost) {
            _ if cost == 0 => return Ok(self.charge(now, 0)),
            Wait::Until(at) if at <= now => {}
            wait @ (Wait::Until(_) | Wait::ForSettlement | Wait::Never) => return Err(wait),
        }
        let mut excess = self.excess(cost);
        while excess > 0
            && let Some(oldest) = self.stamps.pop_front()
        {
            self.logged = self.logged.saturating_sub(oldest.units.into());
            excess = excess.saturating_sub(oldest.units.into());
        }
        self.latest = now;
        self.book(cost);
        Ok(now)
    }

    #[inline]
    fn push(&mut self, stamp: Stamp) {
        if self.stamps.len() < self.stamps.capacity() {
            self.stamps.push_back(stamp);
        } else {
            self.push_when_full(stamp);
        }
    }

    #[cold]
    #[inline(never)]
    fn push_when_full(&mut self, stamp: Stamp) {
        self.make_room();
        self.stamps.push_back(stamp);
    }

    /// Removes expired stamps before memory is allocated for another.
    fn make_room(&mut self) {
        if self.stamps.len() == self.stamps.capacity() {
            self.remove_expired();
            if self.stamps.len() >= MAX_STAMPS {
                self.merge_oldest();
            }
        }
    }

    /// Merges the oldest stamp into the next, with which it then expires.
    fn merge_oldest(&mut self) {
        let oldest = self.stamps.pop_front();
        if let (Some(oldest), Some(next)) = (oldest, self.stamps.front_mut()) {
            let before = next.units;
            next.units = before.saturating_add(oldest.units);
            let lost = before.wrapping_add(oldest.units).wrapping_sub(next.units);
            self.logged = self.logged.saturating_sub(lost.into());
        }
    }

    /// Removes expired stamps if `cost` more would be above the limit with them.
    #[inline]
    fn make_way(&mut self, cost: u32) {
        if self.excess(cost) > 0 {
            self.remove_expired();
        }
    }

    fn remove_expired(&mut self) {
        while let Some(oldest) = self.stamps.front()
            && self.is_expired(oldest.at, self.latest)
        {
            self.logged = self.logged.saturating_sub(oldest.units.into());
            self.stamps.pop_front();
        }
    }

    /// Changes the units of the stamp at `booked`. Adds one if none was needed for the reservation; an expired one
    /// needs no change.
    fn correct(&mut self, booked: Tick, less: u32, more: u32) {
        if more > 0 {
            self.make_room();
        }
        match self.stamps.binary_search_by_key(&booked, |stamp| stamp.at) {
            Ok(index) => {
                let Some(stamp) = self.stamps.get_mut(index) else {
                    return;
                };
                let before = stamp.units;
                stamp.units = before.saturating_sub(less).saturating_add(more);
                let after = stamp.units;
                if after == 0 {
                    self.stamps.remove(index);
                }
                self.logged = self
                    .logged
                    .saturating_sub(before.into())
                    .saturating_add(after.into());
            }
            Err(index) => {
                let stamp = Stamp {
                    at: booked,
                    units: more,
                };
                if more > 0 && !self.is_expired(booked, self.latest) {
                    self.stamps.insert(index, stamp);
                    self.logged = self.logged.saturating_add(more.into());
                }
            }
        }
    }
}

impl Limit for SlidingLog {
    #[inline(always)]
    fn try_acquire(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait> {
        // The fast path: a new stamp at a later tick, under the anchor that stamps at once.
        if now <= self.latest || cost == 0 || matches!(self.anchor, AnchorState::Completion(_)) {
            return self.acquire_slow(now, cost);
        }
        let stamp = Stamp {
            at: now,
            units: cost,
        };
        let wanted = self.logged.saturating_add(cost.into());
        let excess = wanted.wrapping_sub(self.limit.get().into());
        if wanted <= self.limit.get().into() {
            self.latest = now;
            self.push(stamp);
            self.logged = self.logged.wrapping_add(cost.into());
        } else {
            // If requests cost about the same, one expired stamp makes room for the next.
            let Some(&Stamp { at, units }) = self.stamps.front() else {
                return self.acquire_slow(now, cost);
            };
            if u64::from(units) < excess {
                return self.acquire_slow(now, cost);
            }
            match self.expiry(at) {
                Some(expiry) if expiry <= now => {}
                Some(expiry) => return Err(Wait::Until(expiry)),
                None => return Err(Wait::Never),
            }
            self.latest = now;
            self.stamps.pop_front();
            self.push(stamp);
            if units != cost {
                let change = u64::from(cost).wrapping_sub(units.into());
                self.logged = self.logged.wrapping_add(change);
            }
        }
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
        for stamp in self.stamps.iter() {
            excess = excess.saturating_sub(stamp.units.into());
            if excess == 0 {
                return self
                    .expiry(stamp.at)
                    .map_or(Wait::Never, |expiry| Wait::Until(expiry.max(now)));
            }
        }
        Wait::ForSettlement
    }

    fn charge(&mut self, now: Tick, cost: u32) -> Tick {
        self.latest = self.latest.max(now);
        self.make_way(cost);
        self.book(cost);
        self.latest
    }

    fn settle(&mut self, now: Tick, booked: Tick, reserved: u32, actual: u32) {
        self.latest = self.latest.max(now);
        match &mut self.anchor {
            AnchorState::Grant(refund_cutoff) => {
                let booked = booked.min(self.latest);
                let (less, more) = refund_cutoff.correction(booked, reserved, actual);
                self.correct(booked, less, more);
            }
            AnchorState::Completion(units) => {
                *units = units.saturating_sub(reserved.into());
                self.make_way(actual);
                self.log(actual);
            }
        }
    }

    fn counts_arrivals(&self) -> bool {
        matches!(self.anchor, AnchorState::Completion(_))
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
        self.latest = self.latest.max(from);
        self.remove_expired();
        let offset = ClockOffset { from, to };
        self.latest = offset.tick(self.latest);
        for stamp in &mut self.stamps {
            stamp.at = offset.tick(stamp.at);
        }
        if let AnchorState::Grant(refund_cutoff) = &mut self.anchor {
            refund_cutoff.rebase(offset);
        }
    }

    fn worst_case(&self, span: Duration) -> u64 {
        let windows = saturating_nanos(span).div_ceil(self.window);
        windows.saturating_mul(self.limit.get().into())
    }
}

#[cfg(feature = "serde")]
#[derive(serde::Serialize, serde::Deserialize)]
struct Wire {
    limit: NonZeroU32,
    window: u64,
    anchor: Anchor,
    latest: Tick,
    refund_cutoff: RefundCutoff,
    stamps: alloc::vec::Vec<Stamp>,
    in_flight: u64,
}

#[cfg(feature = "serde")]
impl From<SlidingLog> for Wire {
    fn from(log: SlidingLog) -> Self {
        let (anchor, refund_cutoff) = match log.anchor {
            AnchorState::Grant(refund_cutoff) => (Anchor::Grant, refund_cutoff),
            AnchorState::Completion(_) => (Anchor::Completion, RefundCutoff::default()),
        };
        Self {
            limit: log.limit,
            window: log.window,
            anchor,
            latest: log.latest,
            refund_cutoff,
            stamps: log.stamps.iter().copied().collect(),
            in_flight: log.in_flight(),
        }
    }
}

#[cfg(feature = "serde")]
impl TryFrom<Wire> for SlidingLog {
    type Error = super::admission::SnapshotError;

    fn try_from(wire: Wire) -> Result<Self, Self::Error> {
        let mut log = Self::new(wire.limit, Duration::from_nanos(wire.window), wire.anchor)?;
        let mut last = None;
        for &Stamp { at, units } in &wire.stamps {
            if last.is_some_and(|last| last > at) || at > wire.latest || units == 0 {
                return Err(super::admission::SnapshotError::Contradiction);
            }
            last = Some(at);
            log.logged = log.logged.saturating_add(units.into());
        }
        log.anchor = match wire.anchor {
            Anchor::Grant if wire.in_flight > 0 => {
                return Err(super::admission::SnapshotError::Contradiction);
            }
            Anchor::Grant => AnchorState::Grant(wire.refund_cutoff),
            Anchor::Completion => AnchorState::Completion(wire.in_flight),
        };
        log.latest = wire.latest;
        log.stamps = wire.stamps.into();
        Ok(log)
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
    fn a_completion_counts_for_a_whole_window() {
        let mut log = log(1, 10, Anchor::Completion);
        let booked = log.try_acquire(tick(0), 1).unwrap();
        assert_eq!(log.try_acquire(tick(50), 1), Err(Wait::ForSettlement));
        log.settle(tick(60), booked, 1, 1);
        assert_eq!(log.try_acquire(tick(60), 1), Err(Wait::Until(tick(70))));
        assert_eq!(log.try_acquire(tick(70), 1), Ok(tick(70)));
    }

    #[test]
    fn a_skew_makes_a_completion_count_for_longer() {
        let (window, skew) = (Duration::from_nanos(10), Duration::from_nanos(3));
        let mut log =
            SlidingLog::with_skew(NonZeroU32::MIN, window, Anchor::Completion, skew).unwrap();
        let booked = log.try_acquire(tick(0), 1).unwrap();
        log.settle(tick(60), booked, 1, 1);
        assert_eq!(log.earliest(tick(60), 1), Wait::Until(tick(73)));
    }

    #[test]
    fn time_that_runs_backwards_adds_nothing() {
        let mut log = log(1, 10, Anchor::Grant);
        log.try_acquire(tick(100), 1).unwrap();
        assert_eq!(log.try_acquire(tick(0), 1), Err(Wait::Until(tick(110))));
        assert_eq!(log.try_acquire(tick(110), 1), Ok(tick(110)));
    }

    #[test]
    fn a_window_that_ends_past_the_last_tick_never_opens() {
        let mut log = log(1, 10, Anchor::Grant);
        log.try_acquire(Tick::MAX, 1).unwrap();
        assert_eq!(log.try_acquire(Tick::MAX, 1), Err(Wait::Never));
    }

    #[test]
    fn memory_grows_with_requests_and_not_with_units() {
        let mut log = log(u32::MAX, 1_000, Anchor::Grant);
        for now in 0..100 {
            log.try_acquire(tick(now), 1_000_000).unwrap();
        }
        assert_eq!(log.stamps.len(), 100);
        assert_eq!(size_of::<Stamp>(), 16);
    }

    #[test]
    fn stamps_beyond_the_maximum_are_merged_and_expire_late() {
        let mut log = log(u32::MAX, 1_000_000, Anchor::Grant);
        let requests = 3 * MAX_STAMPS as u64;
        for now in 0..requests {
            log.charge(tick(now), 1);
            assert!(log.stamps.len() <= MAX_STAMPS);
        }
        let used = |now| u64::from(u32::MAX) - u64::from(log.available(tick(now)));
        let merged_expire = 1_000_000 + requests - MAX_STAMPS as u64;
        assert_eq!(used(requests), requests);
        assert_eq!(used(merged_expire - 1), requests);
        assert_eq!(used(merged_expire), MAX_STAMPS as u64 - 1);
    }

    #[test]
    fn expired_stamps_are_removed_before_memory_grows() {
        let mut log = log(1_000_000, 10, Anchor::Grant);
        for now in 0..1_000 {
            log.try_acquire(tick(now * 10), 1).unwrap();
            assert!(log.stamps.len() <= 4);
        }
    }

    #[test]
    fn a_full_refund_removes_the_stamp() {
        let mut log = log(3, u64::MAX, Anchor::Grant);
        log.try_acquire(tick(0), 1).unwrap();
        let mut last = log.try_acquire(tick(1), 1).unwrap();
        for now in 2..1_000 {
            let next = log.try_acquire(tick(now), 1).unwrap();
            log.refund(tick(now), last, 1);
            last = next;
            assert!(log.stamps.len() <= 3);
        }
    }
}
