//! A count for each window, as people write it: `3/60s`.

use super::ParseSpecError;
use super::spec::parse_rate;
use crate::time::DisplaySpan;
use core::fmt;
use core::num::NonZeroU32;
use core::str::FromStr;
use core::time::Duration;

/// At most `limit` in any `window`. It is read as a [`Spec`](super::Spec) of requests is.
///
/// ```
/// use leasehold_core::limit::Rate;
///
/// let rate: Rate = "500/min".parse()?;
/// assert_eq!(rate.limit.get(), 500);
/// assert_eq!(rate.to_string(), "500/1min");
/// assert_eq!("3/0s".parse::<Rate>().unwrap_err().at, 2);
/// # Ok::<(), leasehold_core::limit::ParseSpecError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub limit: NonZeroU32,
    /// In how long; above zero and at most 584 years when parsed.
    pub window: Duration,
}

impl FromStr for Rate {
    type Err = ParseSpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_rate(text)
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
    use crate::limit::ParseSpecErrorKind as Kind;

    #[test]
    fn each_malformed_limit_says_what_is_wrong() {
        let error = |text: &str| text.parse::<Rate>().unwrap_err().kind;
        assert_eq!(error("3"), Kind::NoWindow);
        assert_eq!(error("0/60s"), Kind::ZeroCount);
        assert_eq!(error("4294967296/s"), Kind::CountTooLarge);
        assert_eq!(error("3/60"), Kind::Window);
        assert_eq!(error("3/0s"), Kind::ZeroWindow);
        assert_eq!(error("3 tokens/s"), Kind::NotRequests);
        assert_eq!(error("3 concurrent"), Kind::NotRequests);
    }
}
