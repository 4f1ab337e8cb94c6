//! Rates as people write them: `3/60s`.

use crate::time::DisplaySpan;
use core::fmt;
use core::num::NonZeroU32;
use core::time::Duration;

/// A count per window: at most `limit` in any `window`.
///
/// Its text is that of a [`LimitSpec`](super::LimitSpec) of requests without algorithm and anchor.
///
/// ```
/// use leasehold_core::limit::Rate;
///
/// let rate: Rate = "500/min".parse()?;
/// assert_eq!(rate.limit.get(), 500);
/// assert_eq!(rate.to_string(), "500/1min");
/// assert_eq!("3/0s".parse::<Rate>().unwrap_err().at, 2);
/// # Ok::<(), leasehold_core::limit::ParseLimitError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units per window.
    pub limit: NonZeroU32,
    /// Length of the window; above zero and at most 584 years if parsed.
    pub window: Duration,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.limit, DisplaySpan(self.window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::ParseLimitErrorKind as Kind;

    #[test]
    fn each_malformed_rate_is_refused_for_its_own_reason() {
        let error = |text: &str| text.parse::<Rate>().unwrap_err().kind;
        assert_eq!(error("3"), Kind::NoWindow);
        assert_eq!(error("0/60s"), Kind::ZeroCount);
        assert_eq!(error("4294967296/s"), Kind::CountTooLarge);
        assert_eq!(error("3/60"), Kind::Window);
        assert_eq!(error("3/0s"), Kind::ZeroWindow);
        assert_eq!(error("3 tokens/s"), Kind::NotARate);
        assert_eq!(error("3 concurrent"), Kind::NotARate);
        assert_eq!(error("3/s from grant"), Kind::NotARate);
    }
}
