//! The clocks; no other file of this crate reads one.

use core::time::Duration;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A monotonic clock that counts from its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock file")]
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Nanoseconds since the start; saturates after 584 years.
    pub(crate) fn nanos(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Time since 1970; zero if the machine's clock is set earlier.
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
pub(crate) fn unix_now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
