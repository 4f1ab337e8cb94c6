//! A count for each window, as people write it: `3/60s`.

use crate::time::{DisplaySpan, ParseSpanError, parse_span};
use core::fmt;
use core::num::NonZeroU32;
use core::str::FromStr;
use core::time::Duration;

/// At most `limit` in any `window`.
///
/// ```
/// use leasehold_core::limit::Rate;
///
/// let rate: Rate = "500/min".parse()?;
/// assert_eq!(rate.limit.get(), 500);
/// assert_eq!(rate.to_string(), "500/1min");
/// assert_eq!("3/0s".parse::<Rate>().unwrap_err().to_string(), "the window in \"3/0s\" has no length");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub limit: NonZeroU32,
    /// In how long; above zero and at most 584 years when parsed.
    pub window: Duration,
}

/// Why a text is not a [`Rate`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseRateError {
    /// There is no `/` between count and window.
    #[error("{0:?} is not a limit: write a count, a slash and a window, such as 3/60s")]
    NoSlash(alloc::string::String),
    /// The count is not a whole number from 1 to 4,294,967,295.
    #[error("the count in {0:?} must be a whole number from 1 to 4294967295")]
    Count(alloc::string::String),
    /// The window isn't a span.
    #[error("the window in {0:?} is not understood: {1}")]
    Window(alloc::string::String, #[source] ParseSpanError),
    /// The window is zero.
    #[error("the window in {0:?} has no length")]
    EmptyWindow(alloc::string::String),
}

impl FromStr for Rate {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (count, window) = text
            .split_once('/')
            .ok_or_else(|| ParseRateError::NoSlash(text.into()))?;
        let limit = count
            .trim()
            .parse()
            .map_err(|_| ParseRateError::Count(text.into()))?;
        let window =
            parse_span(window).map_err(|error| ParseRateError::Window(text.into(), error))?;
        if window.is_zero() {
            return Err(ParseRateError::EmptyWindow(text.into()));
        }
        Ok(Self { limit, window })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.limit, DisplaySpan(self.window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_malformed_limit_says_what_is_wrong() {
        let error = |text: &str| text.parse::<Rate>().unwrap_err();
        assert!(matches!(error("3"), ParseRateError::NoSlash(_)));
        assert!(matches!(error("0/60s"), ParseRateError::Count(_)));
        assert!(matches!(error("4294967296/s"), ParseRateError::Count(_)));
        assert!(matches!(error("3/60"), ParseRateError::Window(..)));
        assert!(matches!(error("3/0s"), ParseRateError::EmptyWindow(_)));
    }
}
