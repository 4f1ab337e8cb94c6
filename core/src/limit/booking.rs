//! Bookings: the receipts of a limit set.
//!
//! Invariant: a booking tells each limit of its set the tick that it was booked at.

use super::admission::Limit;
use super::cost::{Cost, Unit};
use super::limiter::Limiter;
use crate::time::{ClockOffset, Tick};
use core::mem;

/// The receipt of an admission by a [`LimitSet`](super::LimitSet), needed to settle it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Booking {
    at: Tick,
    /// Number of reports before it.
    reports: u64,
    class: u32,
    /// Whether its call has arrived at the upstream.
    has_arrived: bool,
}

impl Booking {
    /// A booking of a class at a tick, after a number of reports of the upstream.
    pub(crate) fn new(at: Tick, reports: u64, class: u32) -> Self {
        Self {
            at,
            reports,
            class,
            has_arrived: false,
        }
    }

    /// The tick it was booked at.
    #[must_use]
    pub fn at(self) -> Tick {
        self.at
    }

    /// Whether its call has arrived at the upstream.
    #[must_use]
    pub fn has_arrived(self) -> bool {
        self.has_arrived
    }

    /// The booking translated to another clock, to be used when its limits are
    /// [rebased](super::LimitSet::rebase).
    #[must_use]
    pub fn rebased(mut self, from: Tick, to: Tick) -> Self {
        self.at = ClockOffset { from, to }.tick(self.at);
        self
    }

    pub(super) fn class(self) -> u32 {
        self.class
    }

    pub(super) fn reports(self) -> u64 {
        self.reports
    }

    /// Notes that its call has arrived; returns whether that is new.
    pub(crate) fn note_arrival(&mut self) -> bool {
        !mem::replace(&mut self.has_arrived, true)
    }

    /// Settles it with one limit of its set.
    #[inline]
    pub(super) fn settle(
        self,
        limit: &mut Limiter,
        now: Tick,
        unit: Unit,
        reserved: Cost,
        actual: Cost,
    ) {
        let (reserved, actual) = (reserved.of(unit), actual.of(unit));
        if self.has_arrived && unit == Unit::Requests {
            limit.settle_arrived(now, self.at, reserved, actual);
        } else {
            limit.settle(now, self.at, reserved, actual);
        }
    }
}
