//! How much may be admitted, and when more may be.
//!
//! Every algorithm keeps one promise, its [`Limit::worst_case`]: the most it ever admits in any span of
//! a given length. Spans are half open: what is admitted at `t` and again at `t + window` is not in one
//! window. Where time runs backwards, it is taken to stand at the latest admission or settlement.

mod bucketed_window;
mod concurrency;
mod cost;
mod fixed_window;
mod gcra;
mod gcra_word;
mod pacing;
mod rate;
mod rate_ratio;
mod refund_cutoff;
mod reported_quota;
mod ring_buffer;
mod set;
mod sliding_counter;
mod sliding_log;
mod spec;
mod token_bucket;

pub use bucketed_window::BucketedWindow;
pub use concurrency::Concurrency;
pub use cost::Cost;
pub use fixed_window::FixedWindow;
pub use gcra::Gcra;
pub use gcra_word::GcraWord;
pub use pacing::Pacing;
pub use rate::Rate;
pub use set::{Booking, LimitSet};
pub use sliding_counter::SlidingCounter;
pub use sliding_log::SlidingLog;
pub use spec::{ParseSpecError, ParseSpecErrorKind, Spec, Specs, SpecsError, Unit};
pub use token_bucket::TokenBucket;

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
pub enum LimitConfigError {
    /// The window has no length.
    #[error("a window needs a length above zero")]
    EmptyWindow,
    /// The window is longer than a [`Tick`] can count.
    #[error("a window may be at most 584 years long")]
    WindowTooLong,
    /// The window can't be cut into that many buckets of whole nanoseconds.
    #[error("the window's nanoseconds must be a multiple of the number of buckets")]
    UnevenBuckets,
    /// The limit can't be counted in the parts that its window needs.
    #[error("the limit is too large for its window to be counted exactly")]
    TooFine,
}

/// Why a snapshot was not restored.
#[cfg(feature = "serde")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// No limit has such a configuration.
    #[error("the snapshot's configuration is wrong: {0}")]
    Config(#[from] LimitConfigError),
    /// No limit can be in such a state.
    #[error("the snapshot contradicts itself")]
    Contradiction,
}

/// What every limiting algorithm does.
///
/// A cost that was admitted is booked at a tick. When its use has ended, [`settle`](Self::settle) is
/// told that tick, what was reserved and what was really used; under [`Anchor::Completion`] a cost
/// that is never settled stays in flight. A refusal leaves the state bit for bit as it was.
pub trait Limit {
    /// Admits `cost` units and answers the tick they are booked at, or changes nothing and says when
    /// to ask again. A cost of zero is admitted always, and booked, as it may be settled at more.
    ///
    /// # Errors
    /// The [`Wait`] that [`earliest`](Self::earliest) would answer.
    fn try_acquire(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait>;

    /// When `cost` units could be admitted: `Until(now)` if they could be at once, otherwise the exact
    /// tick, at which they are admitted and one tick before which they are not.
    fn earliest(&self, now: Tick, cost: u32) -> Wait;

    /// Books `cost` units whether they fit or not, and answers the tick they are booked at.
    fn charge(&mut self, now: Tick, cost: u32) -> Tick;

    /// Ends the use of a cost that was booked: `reserved` units become the `actual` ones. More than was
    /// reserved may be settled; the limit then owes the difference. Where it credits less than if the
    /// actual ones had been admitted in the first place, the algorithm says so.
    fn settle(&mut self, now: Tick, booked: Tick, reserved: u32, actual: u32);

    /// Takes back a cost that was booked and not used.
    fn refund(&mut self, now: Tick, booked: Tick, reserved: u32) {
        self.settle(now, booked, reserved, 0);
    }

    /// The largest cost that would be admitted.
    fn available(&self, now: Tick) -> u32;

    /// Whether nothing is in flight, and nothing that was admitted counts at `now` or later: from then on
    /// it decides as a new one does.
    fn is_idle(&self, now: Tick) -> bool;

    /// The first tick after `now` at which more is available if nothing happens until then.
    fn next_change(&self, now: Tick) -> Option<Tick> {
        let more = self.available(now).checked_add(1)?;
        match self.earliest(now, more) {
            Wait::Until(tick) => Some(tick),
            Wait::ForSettlement | Wait::Never => None,
        }
    }

    /// Moves what is remembered to another clock, which shows `to` now that this one shows `from`. Where
    /// the other can't show a tick, the nearest one is taken; it may then count for longer, never for less.
    /// Whoever holds the ticks of what was booked has to move them likewise. What was booked at what is the
    /// other clock's epoch, or before it, is not credited where it is settled at less than was reserved.
    fn rebase(&mut self, from: Tick, to: Tick);

    /// The most units that are ever admitted in a half-open span of this length, provided that
    /// nothing is charged beyond the limit or settled at more than was reserved. Under
    /// [`Anchor::Completion`] it holds for any choice of arrival between grant and settlement.
    fn worst_case(&self, span: Duration) -> u64;
}

/// Makes the enum over all algorithms, and passes every call on.
macro_rules! limiter {
    ($($algorithm:ident),*) => {
        /// Any of the algorithms, chosen at run time.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub enum Limiter {
            $(#[doc = concat!("See [`", stringify!($algorithm), "`].")] $algorithm($algorithm),)*
        }

        $(impl From<$algorithm> for Limiter {
            fn from(limit: $algorithm) -> Self {
                Self::$algorithm(limit)
            }
        })*

        impl Limit for Limiter {
            #[inline]
            fn try_acquire(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait> {
                match self { $(Self::$algorithm(limit) => limit.try_acquire(now, cost),)* }
            }

            #[inline]
            fn earliest(&self, now: Tick, cost: u32) -> Wait {
                match self { $(Self::$algorithm(limit) => limit.earliest(now, cost),)* }
            }

            fn charge(&mut self, now: Tick, cost: u32) -> Tick {
                match self { $(Self::$algorithm(limit) => limit.charge(now, cost),)* }
            }

            #[inline]
            fn settle(&mut self, now: Tick, booked: Tick, reserved: u32, actual: u32) {
                match self { $(Self::$algorithm(limit) => limit.settle(now, booked, reserved, actual),)* }
            }

            fn available(&self, now: Tick) -> u32 {
                match self { $(Self::$algorithm(limit) => limit.available(now),)* }
            }

            fn is_idle(&self, now: Tick) -> bool {
                match self { $(Self::$algorithm(limit) => limit.is_idle(now),)* }
            }

            fn rebase(&mut self, from: Tick, to: Tick) {
                match self { $(Self::$algorithm(limit) => limit.rebase(from, to),)* }
            }

            fn worst_case(&self, span: Duration) -> u64 {
                match self { $(Self::$algorithm(limit) => limit.worst_case(span),)* }
            }
        }
    };
}

limiter!(
    SlidingLog,
    BucketedWindow,
    SlidingCounter,
    FixedWindow,
    TokenBucket,
    Gcra,
    Pacing,
    Concurrency
);

/// When both are over.
fn later(a: Wait, b: Wait) -> Wait {
    match (a, b) {
        (Wait::Never, _) | (_, Wait::Never) => Wait::Never,
        (Wait::ForSettlement, _) | (_, Wait::ForSettlement) => Wait::ForSettlement,
        (Wait::Until(a), Wait::Until(b)) => Wait::Until(a.max(b)),
    }
}

/// Checks that a window or bucket that begins at `start` is that of `latest`.
#[cfg(feature = "serde")]
fn check_start(
    start: u64,
    latest: Tick,
    width: core::num::NonZeroU64,
) -> Result<(), SnapshotError> {
    match latest.as_nanos().checked_sub(start) {
        Some(within) if within < width.get() => Ok(()),
        Some(_) | None => Err(SnapshotError::Contradiction),
    }
}

/// The nanoseconds of a window that an algorithm can work with.
fn window_nanos(window: Duration) -> Result<u64, LimitConfigError> {
    match u64::try_from(window.as_nanos()) {
        Ok(0) => Err(LimitConfigError::EmptyWindow),
        Ok(nanos) => Ok(nanos),
        Err(_) => Err(LimitConfigError::WindowTooLong),
    }
}
