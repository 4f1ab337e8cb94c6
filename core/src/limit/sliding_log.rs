//! The exact sliding window: a log of what was admitted and when.
//!
//! Invariant: stamps are in order of time, none is later than `latest`, each holds at least one unit, and
//! `logged` is their sum. Stamps that no longer count may still be there until their place is needed.

use super::refund_cutoff::RefundCutoff;
use super::ring_buffer::{MAX, RingBuffer};
use super::{Anchor, Limit, LimitConfigError, Wait, window_nanos};
use crate::time::{ClockOffset, Tick, saturating_nanos};
use core::hint::black_box;
use core::num::NonZeroU32;
use core::time::Duration;

/// At most `limit` units in any window, and nothing refused that this allows.
///
/// Admission costs O(1) amortised, a refusal and [`earliest`](Limit::earliest) O(stamps that would
/// have to leave), a settlement under [`Anchor::Grant`] O(log n) to find the stamp. Memory is 16 bytes
/// for each request that counts, however many units it has, and as much again at the most; three take none
/// but the log's own. Of more than two billion, the oldest count for longer than they have to.
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
#[cfg_attr(feature = "serde", serde(try_from = "Snapshot", into = "Snapshot"))]
pub struct SlidingLog {
    limit: NonZeroU32,
    /// Nanoseconds that an admission counts for.
    window: u64,
    /// When something was last admitted or settled.
    latest: Tick,
    unstamped: Unstamped,
    stamps: RingBuffer<Stamp>,
    logged: u64,
}

/// What is known besides the stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unstamped {
    /// Under the grant anchor, which stamps can still be credited.
    Credit(RefundCutoff),
    /// Under the completion anchor, the units that will be stamped when they are settled.
    InFlight(u64),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Stamp {
    at: Tick,
    units: u32,
}

/// Whether time has passed since something was last admitted or settled, so that no stamp is of now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Passed {
    Some,
    None,
}

impl SlidingLog {
    /// A log that admits `limit` units in any `window`.
    ///
    /// # Errors
    /// Where the window is zero or longer than 584 years.
    pub fn new(
        limit: NonZeroU32,
        window: Duration,
        anchor: Anchor,
    ) -> Result<Self, LimitConfigError> {
        Ok(Self {
            limit,
            window: window_nanos(window)?,
            latest: Tick::ZERO,
            unstamped: match anchor {
                Anchor::Grant => Unstamped::Credit(RefundCutoff::default()),
                Anchor::Completion => Unstamped::InFlight(0),
            },
            stamps: RingBuffer::new(),
            logged: 0,
        })
    }

    /// Lets every admission count for `skew` longer, for an upstream whose clock may run that much
    /// ahead of ours in one window.
    ///
    /// # Errors
    /// Where the window becomes longer than 584 years.
    pub fn skew(mut self, skew: Duration) -> Result<Self, LimitConfigError> {
        let window = Duration::from_nanos(self.window).saturating_add(skew);
        self.window = window_nanos(window)?;
        Ok(self)
    }

    /// Changes how many units a window admits, from now on. No window ever holds more than the larger
    /// of the two limits.
    pub fn set_limit(&mut self, limit: NonZeroU32) {
        self.limit = limit;
    }

    #[inline]
    fn in_flight(&self) -> u64 {
        match self.unstamped {
            Unstamped::Credit(_) => 0,
            Unstamped::InFlight(units) => units,
        }
    }

    /// When a stamp of a tick no longer counts; `None` past the end of time.
    #[inline]
    fn leaves(&self, at: Tick) -> Option<Tick> {
        at.checked_add_nanos(self.window)
    }

    /// What is in flight and what still counts at `now`.
    fn used_at(&self, now: Tick) -> u64 {
        let now = now.max(self.latest);
        let counts = |stamp: &Stamp| self.leaves(stamp.at).is_none_or(|leaves| leaves > now);
        let logged = self.stamps.iter().filter(counts);
        logged.fold(self.in_flight(), |sum, stamp| {
            sum.saturating_add(stamp.units.into())
        })
    }

    /// How many more units than the limit there would be with `cost` more.
    #[inline]
    fn excess(&self, cost: u32) -> u64 {
        self.logged
            .saturating_add(self.in_flight())
            .saturating_add(cost.into())
            .saturating_sub(self.limit.get().into())
    }

    /// Asks the memory for the ends of the log.
    pub(super) fn preload(&self) {
        black_box(self.stamps.len());
    }

    /// Makes it now, if it was earlier.
    fn go_on(&mut self, now: Tick) -> Passed {
        if now > self.latest {
            self.latest = now;
            Passed::Some
        } else {
            Passed::None
        }
    }

    fn log(&mut self, passed: Passed, units: u32) {
        if units == 0 {
            return;
        }
        let at = self.latest;
        self.logged = self.logged.saturating_add(units.into());
        if passed == Passed::None
            && let Some(newest) = self.stamps.back_mut()
            && newest.at == at
            && newest.units <= u32::MAX.saturating_sub(units)
        {
            newest.units = newest.units.saturating_add(units);
            return;
        }
        self.make_room();
        self.stamps.push_back(Stamp { at, units });
    }

    fn book(&mut self, passed: Passed, cost: u32) {
        match &mut self.unstamped {
            Unstamped::Credit(_) => self.log(passed, cost),
            Unstamped::InFlight(units) => *units = units.saturating_add(cost.into()),
        }
    }

    /// Admits whatever the anchor, and however many stamps have to leave.
    fn acquire_unusually(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait> {
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
        let passed = self.go_on(now);
        self.book(passed, cost);
        Ok(now)
    }

    /// Drops the stamps that no longer count, before memory is taken for more.
    #[inline]
    fn make_room(&mut self) {
        if self.stamps.is_full() {
            self.forget();
            if self.stamps.len() == MAX {
                self.merge_oldest();
            }
        }
    }

    /// Lets the oldest stamp leave with the next.
    #[cold]
    fn merge_oldest(&mut self) {
        let oldest = self.stamps.pop_front();
        if let (Some(oldest), Some(next)) = (oldest, self.stamps.get_mut(0)) {
            let before = next.units;
            next.units = before.saturating_add(oldest.units);
            let lost = before.wrapping_add(oldest.units).wrapping_sub(next.units);
            self.logged = self.logged.saturating_sub(lost.into());
        }
    }

    /// Drops the stamps that no longer count, where `cost` more would be above the limit with them.
    /// Below it nobody looks at a stamp.
    #[inline]
    fn make_way(&mut self, cost: u32) {
        if self.excess(cost) > 0 {
            self.forget();
        }
    }

    /// Drops the stamps that no longer count.
    fn forget(&mut self) {
        while let Some(oldest) = self.stamps.front().copied()
            && let Some(leaves) = self.leaves(oldest.at)
            && leaves <= self.latest
        {
            self.stamps.pop_front();
            self.logged = self.logged.saturating_sub(oldest.units.into());
        }
    }

    /// Changes what the stamp at `booked` holds. There is none where nothing was reserved, or nothing is
    /// left of it; where it has left, no change is needed.
    fn correct(&mut self, booked: Tick, less: u32, more: u32) {
        if more > 0 {
            self.make_room();
        }
        match self.stamps.find(&booked, |stamp| stamp.at) {
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
                if more > 0
                    && self
                        .leaves(booked)
                        .is_none_or(|leaves| leaves > self.latest)
                {
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
        // A stamp of its own at a later time, under the anchor that stamps at once and leaves nothing in
        // flight, is the usual case.
        if now <= self.latest || cost == 0 || matches!(self.unstamped, Unstamped::InFlight(_)) {
            return self.acquire_unusually(now, cost);
        }
        let stamp = Stamp {
            at: now,
            units: cost,
        };
        let wanted = self.logged.saturating_add(cost.into());
        let excess = wanted.wrapping_sub(self.limit.get().into());
        if wanted <= self.limit.get().into() {
            self.latest = now;
            self.make_room();
            self.stamps.push_back(stamp);
            self.logged = self.logged.wrapping_add(cost.into());
        } else {
            // Where requests cost about the same, one stamp makes room for the next.
            let Some(&Stamp { at, units }) = self.stamps.front() else {
                return self.acquire_unusually(now, cost);
            };
            if u64::from(units) < excess {
                return self.acquire_unusually(now, cost);
            }
            match self.leaves(at) {
                Some(leaves) if leaves <= now => {}
                Some(leaves) => return Err(Wait::Until(leaves)),
                None => return Err(Wait::Never),
            }
            self.stamps.rotate(stamp);
            if units != cost {
                let change = u64::from(cost).wrapping_sub(units.into());
                self.logged = self.logged.wrapping_add(change);
            }
        }
        self.latest = now;
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
                    .leaves(stamp.at)
                    .map_or(Wait::Never, |leaves| Wait::Until(leaves.max(now)));
            }
        }
        Wait::ForSettlement
    }

    fn charge(&mut self, now: Tick, cost: u32) -> Tick {
        let passed = self.go_on(now);
        self.make_way(cost);
        self.book(passed, cost);
        self.latest
    }

    fn settle(&mut self, now: Tick, booked: Tick, reserved: u32, actual: u32) {
        let passed = self.go_on(now);
        match &mut self.unstamped {
            Unstamped::Credit(refund_cutoff) => {
                let booked = booked.min(self.latest);
                let (less, more) = refund_cutoff.change(booked, reserved, actual);
                self.correct(booked, less, more);
            }
            Unstamped::InFlight(units) => {
                *units = units.saturating_sub(reserved.into());
                self.make_way(actual);
                self.log(passed, actual);
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
        self.latest = self.latest.max(from);
        self.forget();
        let shift = ClockOffset { from, to };
        self.latest = shift.tick(self.latest);
        self.stamps
            .for_each_mut(|stamp| stamp.at = shift.tick(stamp.at));
        if let Unstamped::Credit(refund_cutoff) = &mut self.unstamped {
            refund_cutoff.rebase(shift);
        }
    }

    fn worst_case(&self, span: Duration) -> u64 {
        let windows = saturating_nanos(span).div_ceil(self.window);
        windows.saturating_mul(self.limit.get().into())
    }
}

/// What a snapshot says, before it is believed.
#[cfg(feature = "serde")]
#[derive(serde::Serialize, serde::Deserialize)]
struct Snapshot {
    limit: NonZeroU32,
    window: u64,
    anchor: Anchor,
    latest: Tick,
    refund_cutoff: RefundCutoff,
    stamps: alloc::vec::Vec<Stamp>,
    in_flight: u64,
}

#[cfg(feature = "serde")]
impl From<SlidingLog> for Snapshot {
    fn from(log: SlidingLog) -> Self {
        let (anchor, refund_cutoff) = match log.unstamped {
            Unstamped::Credit(refund_cutoff) => (Anchor::Grant, refund_cutoff),
            Unstamped::InFlight(_) => (Anchor::Completion, RefundCutoff::default()),
        };
        Self {
            limit: log.limit,
            window: log.window,
            anchor,
            latest: log.latest,
            refund_cutoff,
            stamps: log.stamps.iter().collect(),
            in_flight: log.in_flight(),
        }
    }
}

#[cfg(feature = "serde")]
impl TryFrom<Snapshot> for SlidingLog {
    type Error = super::SnapshotError;

    fn try_from(read: Snapshot) -> Result<Self, Self::Error> {
        let mut log = Self::new(read.limit, Duration::from_nanos(read.window), read.anchor)?;
        if read.stamps.len() > MAX {
            return Err(super::SnapshotError::Contradiction);
        }
        let mut last = None;
        for &Stamp { at, units } in &read.stamps {
            if last.is_some_and(|last| last > at) || at > read.latest || units == 0 {
                return Err(super::SnapshotError::Contradiction);
            }
            last = Some(at);
            log.logged = log.logged.saturating_add(units.into());
        }
        log.unstamped = match read.anchor {
            Anchor::Grant if read.in_flight > 0 => {
                return Err(super::SnapshotError::Contradiction);
            }
            Anchor::Grant => Unstamped::Credit(read.refund_cutoff),
            Anchor::Completion => Unstamped::InFlight(read.in_flight),
        };
        log.latest = read.latest;
        log.stamps = read.stamps.into_iter().collect();
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
    fn a_completion_holds_its_place_for_a_whole_window() {
        let mut log = log(1, 10, Anchor::Completion);
        let booked = log.try_acquire(tick(0), 1).unwrap();
        assert_eq!(log.try_acquire(tick(50), 1), Err(Wait::ForSettlement));
        log.settle(tick(60), booked, 1, 1);
        assert_eq!(log.try_acquire(tick(60), 1), Err(Wait::Until(tick(70))));
        assert_eq!(log.try_acquire(tick(70), 1), Ok(tick(70)));
    }

    #[test]
    fn a_skew_makes_a_completion_count_for_longer() {
        let log = log(1, 10, Anchor::Completion);
        let mut log = log.skew(Duration::from_nanos(3)).unwrap();
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
    fn a_window_that_ends_after_time_does_never_opens() {
        let mut log = log(1, 10, Anchor::Grant);
        log.try_acquire(Tick::MAX, 1).unwrap();
        assert_eq!(log.try_acquire(Tick::MAX, 1), Err(Wait::Never));
    }

    #[test]
    fn its_memory_grows_with_requests_and_not_with_units() {
        let mut log = log(u32::MAX, 1_000, Anchor::Grant);
        for now in 0..100 {
            log.try_acquire(tick(now), 1_000_000).unwrap();
        }
        assert_eq!(log.stamps.len(), 100);
        assert_eq!(size_of::<Stamp>(), 16);
    }

    #[test]
    fn more_requests_than_it_can_tell_apart_count_for_longer_and_all_of_them() {
        let mut log = log(u32::MAX, 1_000_000, Anchor::Grant);
        let requests = 3 * MAX as u64;
        for now in 0..requests {
            log.charge(tick(now), 1);
            assert!(log.stamps.len() <= MAX);
        }
        let used = |now| u64::from(u32::MAX) - u64::from(log.available(tick(now)));
        let leave = 1_000_000 + requests - MAX as u64;
        assert_eq!(used(requests), requests);
        assert_eq!(used(leave - 1), requests);
        assert_eq!(used(leave), MAX as u64 - 1);
    }

    #[test]
    fn what_no_longer_counts_takes_no_more_memory() {
        let mut log = log(1_000_000, 10, Anchor::Grant);
        for now in 0..1_000 {
            log.try_acquire(tick(now * 10), 1).unwrap();
            assert!(log.stamps.len() <= 4);
        }
    }

    #[test]
    fn refunds_between_live_stamps_leave_nothing_behind() {
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
