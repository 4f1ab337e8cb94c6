//! The time of day and the time since a start. No other file of this crate reads a clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Counts from the moment it was started, and never runs backwards.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[expect(clippy::disallowed_methods, reason = "this is the clock file")]
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Nanoseconds since the start, at most those of 584 years.
    pub(crate) fn nanos(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Whole seconds since 1970, or zero on a machine that believes to be earlier.
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
