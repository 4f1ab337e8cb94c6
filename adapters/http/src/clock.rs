//! Reads the clocks and sleeps; no other file here does.

use core::time::Duration;
use std::time::{Instant, SystemTime};

/// The monotonic clock, for spans.
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The time of day, for dates that a service names.
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}

/// Blocks the calling thread for at least `span`.
pub(crate) fn sleep(span: Duration) {
    std::thread::sleep(span);
}
