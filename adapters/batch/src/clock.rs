//! The system's time, read in this file only.

use core::time::Duration;
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

/// Writes a duration for people, in its two largest units, such as `3 h 2 min` or `20 s`.
pub(crate) fn words(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600.. => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_for_people() {
        let tick = Tick::from_nanos((14 * 3_600 + 2 * 60 + 59) * 1_000_000_000);
        assert_eq!(time_of_day(tick), "14:02 UTC");
        let words = |seconds| words(Duration::from_secs(seconds));
        assert_eq!(words(20), "20 s");
        assert_eq!(words(120), "2 min");
        assert_eq!(words(125), "2 min 5 s");
        assert_eq!(words(10_925), "3 h 2 min");
    }
}
