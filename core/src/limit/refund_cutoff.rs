//! The cutoff up to which bookings are no longer refunded.
//!
//! Invariant: a booking after the cutoff was made at the tick that its holder has.

use crate::time::{ClockOffset, Tick};

/// The last tick whose bookings are not refunded, if any.
///
/// It is set where a booking's tick becomes ambiguous: by a new limit of a token bucket, GCRA or pacing, and by a
/// clock set back, which shows every tick before its epoch as the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub(super) struct RefundCutoff(Option<Tick>);

impl RefundCutoff {
    #[inline]
    pub(super) fn allows(self, booked: Tick) -> bool {
        self.0.is_none_or(|cutoff| booked > cutoff)
    }

    /// The units a settlement takes away and the units it adds.
    #[inline]
    pub(super) fn correction(self, booked: Tick, reserved: u32, actual: u32) -> (u32, u32) {
        let less = if self.allows(booked) {
            reserved.saturating_sub(actual)
        } else {
            0
        };
        (less, actual.saturating_sub(reserved))
    }

    /// A cutoff no earlier than this one and `latest`.
    pub(super) fn raised_to(self, latest: Tick) -> Self {
        Self(self.0.max(Some(latest)))
    }

    pub(super) fn rebase(&mut self, offset: ClockOffset) {
        if offset.to < offset.from {
            *self = self.raised_to(Tick::ZERO);
        }
        self.0 = self.0.map(|cutoff| offset.tick(cutoff));
    }
}
