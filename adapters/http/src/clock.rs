//! The clocks and sleep; no other file of this crate reads a clock.

use core::time::Duration;
use std::time::{Instant, SystemTime};

#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Reads the time of day, to compare with dates in headers.
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}

/// Blocks the calling thread for at least `span`.
pub(crate) fn sleep(span: Duration) {
    std::thread::sleep(span);
}
