//! How much may be admitted, and when more may be.
//!
//! Every algorithm keeps one promise, its [`Limit::worst_case`]: the most it ever admits in any span of
//! a given length. Spans are half open: what is admitted at `t` and again at `t + window` is not in one
//! window. Where time runs backwards, it is taken to stand at the latest admission or settlement.

mod bucketed_window;
mod rate;
mod sliding_log;

pub use bucketed_window::BucketedWindow;
pub use rate::{ParseRateError, Rate};
pub use sliding_log::SlidingLog;

use crate::time::Tick;
use core::time::Duration;

/// When a window begins to forget an admission.
///
/// An upstream counts arrivals, and an arrival lies somewhere between the grant and the completion.
/// Counted from the grant, a slow first call and a fast later one can arrive closer together than they
/// were granted, and the upstream sees more than the limit. Counted from completion, what is in flight
/// and what completed within the window together never exceed the limit, so that no choice of arrival
/// times between grants and completions can exceed it either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Anchor {
    /// A window counts from the grant. Right where the grant itself is what is limited.
    Grant,
    /// A window counts from completion. Right for limits that an upstream enforces.
    #[default]
    Completion,
}

/// When a cost can be admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// At this tick and not before, provided that nothing else is admitted or settled until then.
    Until(Tick),
    /// Only once something in flight has been settled.
    ForSettlement,
    /// Never: the cost is above the limit, or the clock's range ends first.
    Never,
}

/// Why a limit could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The window has no length.
    #[error("a window needs a length above zero")]
    EmptyWindow,
    /// The window is longer than a [`Tick`] can count.
    #[error("a window may be at most 584 years long")]
    WindowTooLong,
    /// The window can't be cut into that many buckets of whole nanoseconds.
    #[error("the window's nanoseconds must be a multiple of the number of buckets")]
    UnevenBuckets,
}

/// What every limiting algorithm does.
///
/// A cost that was admitted is booked at a tick. When its use has ended, [`settle`](Self::settle) is
/// told that tick, what was reserved and what was really used; under [`Anchor::Completion`] a cost
/// that is never settled stays in flight.
pub trait Limit {
    /// Admits `cost` units and answers the tick they are booked at, or changes nothing and says when
    /// to ask again. A cost of zero is admitted always.
    ///
    /// # Errors
    /// The [`Wait`] that [`earliest`](Self::earliest) would answer.
    fn try_acquire(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait>;

    /// When `cost` units could be admitted: `Until(now)` if they could be at once, otherwise the exact
    /// tick, at which they are admitted and one tick before which they are not.
    fn earliest(&self, now: Tick, cost: u32) -> Wait;

    /// Ends the use of a cost that was booked: `reserved` units become the `actual` ones, zero for a
    /// full refund. More than was reserved may be settled; the limit then owes the difference.
    fn settle(&mut self, now: Tick, booked: Tick, reserved: u32, actual: u32);

    /// The most units that are ever admitted in a half-open span of this length, provided that
    /// nothing is settled at more than was reserved. Under [`Anchor::Completion`] it holds for any
    /// choice of arrival between grant and settlement.
    fn worst_case(&self, span: Duration) -> u64;
}

/// Any of the algorithms, chosen at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limiter {
    /// See [`SlidingLog`].
    SlidingLog(SlidingLog),
    /// See [`BucketedWindow`].
    BucketedWindow(BucketedWindow),
}

impl From<SlidingLog> for Limiter {
    fn from(limit: SlidingLog) -> Self {
        Self::SlidingLog(limit)
    }
}

impl From<BucketedWindow> for Limiter {
    fn from(limit: BucketedWindow) -> Self {
        Self::BucketedWindow(limit)
    }
}

impl Limit for Limiter {
    fn try_acquire(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait> {
        match self {
            Self::SlidingLog(limit) => limit.try_acquire(now, cost),
            Self::BucketedWindow(limit) => limit.try_acquire(now, cost),
        }
    }

    fn earliest(&self, now: Tick, cost: u32) -> Wait {
        match self {
            Self::SlidingLog(limit) => limit.earliest(now, cost),
            Self::BucketedWindow(limit) => limit.earliest(now, cost),
        }
    }

    fn settle(&mut self, now: Tick, booked: Tick, reserved: u32, actual: u32) {
        match self {
            Self::SlidingLog(limit) => limit.settle(now, booked, reserved, actual),
            Self::BucketedWindow(limit) => limit.settle(now, booked, reserved, actual),
        }
    }

    fn worst_case(&self, span: Duration) -> u64 {
        match self {
            Self::SlidingLog(limit) => limit.worst_case(span),
            Self::BucketedWindow(limit) => limit.worst_case(span),
        }
    }
}

/// The nanoseconds of a window that an algorithm can work with.
fn window_nanos(window: Duration) -> Result<u64, ConfigError> {
    match u64::try_from(window.as_nanos()) {
        Ok(0) => Err(ConfigError::EmptyWindow),
        Ok(nanos) => Ok(nanos),
        Err(_) => Err(ConfigError::WindowTooLong),
    }
}
