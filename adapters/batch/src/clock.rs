//! The system's time, read in this file only.

use leasehold_core::time::Tick;
use leasehold_sync::Clock;
use std::time::SystemTime;

/// Starts a clock whose ticks are nanoseconds since 1970, so that they mean the same in the next run.
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
pub(crate) fn wall_clock() -> Clock {
    let since_1970 = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Clock::starting_at(Tick::ZERO.saturating_add(since_1970))
}

/// Writes the time of day of a tick of [`wall_clock`], such as `14:02 UTC`.
pub(crate) fn time_of_day(tick: Tick) -> String {
    let minutes = tick.as_nanos() / 60_000_000_000;
    format!("{:02}:{:02} UTC", minutes / 60 % 24, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_is_that_of_utc() {
        let tick = Tick::from_nanos((14 * 3_600 + 2 * 60 + 59) * 1_000_000_000);
        assert_eq!(time_of_day(tick), "14:02 UTC");
    }
}
