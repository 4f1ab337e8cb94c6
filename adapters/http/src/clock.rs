//! The clocks and sleep; no other file of this crate reads a clock.

use core::time::Duration;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Reads the time since 1970, to compare with instants in answers.
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
pub(crate) fn since_epoch() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default()
}

/// Blocks the calling thread for at least `span`.
pub(crate) fn sleep(span: Duration) {
    std::thread::sleep(span);
}
