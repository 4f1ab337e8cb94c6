//! The clocks of the gateway, read in this file only.

use std::time::SystemTime;
use tokio::time::Instant;

/// Returns the time for deadlines and durations.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Returns the time of day, for logs and dates of files.
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
pub(crate) fn time_of_day() -> SystemTime {
    SystemTime::now()
}
