//! Retry settings of a single call.

use core::time::Duration;
use leasehold_core::retry::Backoff;

/// Number of retries, and the delays between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// Maximum number of attempts after the first: 3 by default.
    pub max_retries: u32,
    /// Longest first delay: 500 ms by default. Each delay is drawn between zero and its maximum,
    /// which doubles with every attempt (full jitter).
    pub base: Duration,
    /// Longest delay: 8 s by default. The wait that the service asks for is added to it.
    pub cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_retries: 3,
            base: Duration::from_millis(500),
            cap: Duration::from_secs(8),
        }
    }
}

impl RetryPolicy {
    pub(crate) fn backoff(&self, seed: u64) -> Backoff {
        Backoff::new(self.base, self.cap, seed)
    }
}
