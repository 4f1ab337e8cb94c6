//! Which bookings can still be credited once a clock has been set back, or a level changed.
//!
//! Invariant: what was booked after the refund_cutoff was booked at the tick that its holder has.

use crate::time::{ClockOffset, Tick};

/// The last tick of which nothing is credited. A level credits nothing once its limit has been changed. A
/// clock that is set back shows all that was before its epoch as the epoch: what is settled of it might be
/// another's, or have left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub(super) struct RefundCutoff(Option<Tick>);

impl RefundCutoff {
    #[inline]
    pub(super) fn is_known(self, booked: Tick) -> bool {
        self.0.is_none_or(|refund_cutoff| booked > refund_cutoff)
    }

    /// How much less and how much more counts by a settlement.
    #[inline]
    pub(super) fn change(self, booked: Tick, reserved: u32, actual: u32) -> (u32, u32) {
        let less = if self.is_known(booked) {
            reserved.saturating_sub(actual)
        } else {
            0
        };
        (less, actual.saturating_sub(reserved))
    }

    /// The same without what was booked until `latest`.
    pub(super) fn above(self, latest: Tick) -> Self {
        Self(self.0.max(Some(latest)))
    }

    pub(super) fn rebase(&mut self, shift: ClockOffset) {
        if shift.to < shift.from {
            *self = self.above(Tick::ZERO);
        }
        self.0 = self.0.map(|refund_cutoff| shift.tick(refund_cutoff));
    }
}
