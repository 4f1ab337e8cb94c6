//! Costs of requests and the units limits count them in.

use core::fmt;

/// A unit that limits count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Unit {
    /// Requests. The default where a text names no unit.
    #[default]
    Requests,
    /// Tokens of a language model, estimated before a call and known after it.
    Tokens,
}

impl Unit {
    pub(super) const ALL: [Self; 2] = [Self::Requests, Self::Tokens];

    /// This unit's value of a pair in the order of [`ALL`](Self::ALL).
    pub(super) fn of_mut<V>(self, [requests, tokens]: &mut [V; 2]) -> &mut V {
        match self {
            Self::Requests => requests,
            Self::Tokens => tokens,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        })
    }
}

/// The cost of a request in each unit, estimated or actual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Cost {
    /// Requests, usually 1.
    pub requests: u32,
    /// Tokens.
    pub tokens: u32,
}

impl Cost {
    /// One request and no tokens.
    pub const REQUEST: Self = Self {
        requests: 1,
        tokens: 0,
    };

    /// Whether this cost is at least `other` in every unit.
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
