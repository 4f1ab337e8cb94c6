//! Errors of limits as text: kind, place and wrong part.

use super::super::admission::LimitConfigError;
use alloc::string::String;
use core::fmt;

/// The bound on limits that hold together.
pub(super) const MAX_SPECS: usize = 16;

/// Why limits can't hold together. An index counts from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitSpecsError {
    /// There is no limit.
    #[error("there must be at least one limit")]
    Empty,
    /// There are more than [`LimitSpecs::MAX`](super::LimitSpecs::MAX).
    #[error("there may be at most {} limits", MAX_SPECS)]
    TooMany,
    /// A limit can't be built.
    #[error("limit {index}: {error}")]
    Config {
        /// Its index.
        index: usize,
        /// The reason.
        error: LimitConfigError,
    },
    /// A limit has the unit, window and algorithm of an earlier one.
    #[error("limit {index} has the unit, window and algorithm of an earlier one")]
    Duplicate {
        /// Its index.
        index: usize,
    },
}

/// Why and where a text is not a [`LimitSpec`](super::LimitSpec), [`LimitSpecs`](super::LimitSpecs) or [`Rate`](super::super::Rate).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseLimitError {
    /// Byte offset of the wrong part, or of the place of a missing one. On a character boundary.
    pub at: usize,
    /// The same place in characters, from 1.
    pub character: usize,
    /// What is wrong.
    pub kind: ParseLimitErrorKind,
    /// The wrong part, cut short; empty if something is missing.
    pub(super) found: String,
}

/// The mistake in a text of limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseLimitErrorKind {
    /// The text is empty, or there is a comma too many.
    #[error("there must be a limit here")]
    Empty,
    /// A count, number of buckets or burst is missing or isn't a whole number.
    #[error("there must be a whole number here")]
    Count,
    /// A count, number of buckets or burst is zero.
    #[error("the number must be at least 1")]
    ZeroCount,
    /// A count, number of buckets or burst is above 4,294,967,295.
    #[error("the number may be at most {}", u32::MAX)]
    CountTooLarge,
    /// The word after the count is unknown.
    #[error("the unit must be requests, tokens or concurrent")]
    UnknownUnit,
    /// The slash or the window after it is missing.
    #[error("a slash and a window must follow")]
    NoWindow,
    /// Something follows `concurrent`, such as a window or an anchor.
    #[error("nothing may follow concurrent")]
    AfterConcurrent,
    /// The window is not a span of time.
    #[error(
        "the window must be a whole number and a unit (d, h, min, s, ms, us or ns), or a unit alone"
    )]
    Window,
    /// The window is zero.
    #[error("the window must be above zero")]
    ZeroWindow,
    /// The window is longer than a [`Tick`](crate::time::Tick) can count.
    #[error("the window may be at most 584 years")]
    WindowTooLong,
    /// The word after the window is unknown.
    #[error(
        "the algorithm must be exact, bucketed N, sliding counter, fixed, token bucket, gcra or \
         paced; or from grant must follow"
    )]
    UnknownAlgorithm,
    /// The word after `from` is missing or unknown.
    #[error("a window counts from completion or from grant")]
    UnknownAnchor,
    /// The algorithm offers no anchor.
    #[error("only exact and bucketed windows count from completion or from grant")]
    NoAnchor,
    /// The limit has a second algorithm or a second anchor.
    #[error("a limit has one algorithm and one anchor")]
    Repeated,
    /// The limit can't be built.
    #[error("{0}")]
    Config(LimitConfigError),
    /// The limit has the unit, window and algorithm of an earlier one, or both are `concurrent`.
    #[error("an earlier limit has the same unit, window and algorithm already")]
    Duplicate,
    /// There are more than [`LimitSpecs::MAX`](super::LimitSpecs::MAX).
    #[error("there may be at most {} limits", MAX_SPECS)]
    TooMany,
    /// A [`Rate`](super::super::Rate) has tokens, `concurrent`, an algorithm or an anchor.
    #[error("only a number of requests per window can be here")]
    NotARate,
    /// There are several limits instead of one.
    #[error("there may be only one limit here")]
    Several,
}

impl fmt::Display for ParseLimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at character {}, ", self.character)?;
        if !self.found.is_empty() {
            write!(f, "{:?}: ", self.found)?;
        }
        let kind = self.kind;
        write!(
            f,
            "{kind}; a limit is written like 3/60s, 40000 tokens/min bucketed 6 or 2 concurrent"
        )
    }
}

impl core::error::Error for ParseLimitError {}
