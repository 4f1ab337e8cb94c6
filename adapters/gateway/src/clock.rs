//! The clocks of the gateway, read in this file only.
//!
//! Invariant: the time of a poll is never kept for the next one.

use core::cell::Cell;
use std::time::SystemTime;
use tokio::time::Instant;

/// The clock as a thread's present poll sees it.
#[derive(Clone, Copy, Debug)]
enum PollClock {
    /// No connection is polled; the clock is read each time.
    Unused,
    /// The clock was not read in this poll.
    Unread,
    /// The only reading of this poll.
    Read(Instant),
}

thread_local! {
    static POLL_CLOCK: Cell<PollClock> = const { Cell::new(PollClock::Unused) };
}

/// Returns the time for deadlines and durations.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Returns the time of the present poll, which lasts some microseconds and reads the clock once.
///
/// Not for a loop that waits for a time: within one poll, it stands still.
pub(crate) fn poll_time() -> Instant {
    match POLL_CLOCK.get() {
        PollClock::Unused => now(),
        PollClock::Read(time) => time,
        PollClock::Unread => {
            let time = now();
            POLL_CLOCK.set(PollClock::Read(time));
            time
        }
    }
}

/// Polls a connection, for which [`poll_time`] stands still.
pub(crate) fn in_one_poll<R>(poll: impl FnOnce() -> R) -> R {
    /// Ends the poll, also by a panic.
    struct PollEnd;

    impl Drop for PollEnd {
        fn drop(&mut self) {
            POLL_CLOCK.set(PollClock::Unused);
        }
    }

    POLL_CLOCK.set(PollClock::Unread);
    let _end = PollEnd;
    poll()
}

/// Returns the time of day, for logs and dates of files.
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
pub(crate) fn time_of_day() -> SystemTime {
    SystemTime::now()
}
