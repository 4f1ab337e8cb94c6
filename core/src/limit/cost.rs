//! What a request costs, in each unit that limits count.

use super::Unit;

/// What a request costs, or turned out to have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Cost {
    /// Requests, as a rule 1.
    pub requests: u32,
    /// Tokens.
    pub tokens: u32,
}

impl Cost {
    /// One request, and nothing else.
    pub const REQUEST: Self = Self {
        requests: 1,
        tokens: 0,
    };

    /// Whether it is at least the other in every unit.
    pub(crate) fn covers(self, other: Self) -> bool {
        self.requests >= other.requests && self.tokens >= other.tokens
    }

    pub(super) fn of(self, unit: Unit) -> u32 {
        match unit {
            Unit::Requests => self.requests,
            Unit::Tokens => self.tokens,
        }
    }
}
