//! Which bookings can still be told apart once a clock has been set back.
//!
//! Invariant: what was booked at the floor or later was booked at the tick that its holder has.

use crate::time::{Shift, Tick};

/// A clock that is set back shows all that was before its epoch as the epoch. What is settled of it might
/// be another's, or have left, and is not credited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub(super) struct Floor(Tick);

impl Floor {
    #[inline]
    pub(super) fn is_known(self, booked: Tick) -> bool {
        booked >= self.0
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

    pub(super) fn rebase(&mut self, shift: Shift) {
        self.0 = shift.tick(self.0);
        if shift.to < shift.from {
            self.0 = self.0.max(Tick::from_nanos(1));
        }
    }
}
