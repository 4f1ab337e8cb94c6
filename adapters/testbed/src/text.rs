//! Durations and dates as text, in the forms that services use.
//!
//! Invariant: a wait is written rounded up, so that a caller that obeys it is not too early.

use core::time::Duration;

const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Parses a duration such as `500ms`, `1.5s`, `2m`, `1h` or `1d`; a bare number is seconds.
pub(crate) fn parse_span(text: &str) -> Option<Duration> {
    let text = text.trim();
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number = &text[..text.len() - unit.len()];
    let unit = unit.trim();
    let unit = if unit.is_empty() {
        1.0
    } else {
        unit_seconds(unit)?
    };
    let number: f64 = number.parse().ok()?;
    Duration::try_from_secs_f64(number * unit).ok()
}

/// Parses the window of a limit: a duration, or a unit alone such as `min`.
pub(crate) fn parse_window(text: &str) -> Option<Duration> {
    let text = text.trim();
    match unit_seconds(text) {
        Some(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        None => parse_span(text),
    }
}

fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ms" => 0.001,
        "s" | "sec" | "second" => 1.0,
        "m" | "min" | "minute" => 60.0,
        "h" | "hour" => 3_600.0,
        "d" | "day" => 86_400.0,
        _ => return None,
    })
}

/// Returns a duration in units of `nanos`, rounded up.
pub(crate) const fn whole(span: Duration, nanos: u128) -> u128 {
    span.as_nanos().div_ceil(nanos)
}

pub(crate) const fn whole_millis(span: Duration) -> u128 {
    whole(span, 1_000_000)
}

pub(crate) const fn whole_seconds(span: Duration) -> u128 {
    whole(span, 1_000_000_000)
}

/// Writes seconds with three decimals, rounded up: `1.500`.
pub(crate) fn decimal_seconds(span: Duration) -> String {
    let millis = whole_millis(span);
    format!("{}.{:03}", millis / 1_000, millis % 1_000)
}

/// Writes a duration as Go does, rounded up to milliseconds: `1m0s`, `1.2s`, `120ms`.
pub(crate) fn go_duration(span: Duration) -> String {
    let millis = whole_millis(span);
    if millis == 0 {
        return "0s".to_owned();
    }
    if millis < 1_000 {
        return format!("{millis}ms");
    }
    let (total, fraction) = (millis / 1_000, millis % 1_000);
    let (hours, minutes, seconds) = (total / 3_600, total / 60 % 60, total % 60);
    let mut text = String::new();
    if hours > 0 {
        text += &format!("{hours}h");
    }
    if total >= 60 {
        text += &format!("{minutes}m");
    }
    text += &seconds.to_string();
    if fraction > 0 {
        text += format!(".{fraction:03}").trim_end_matches('0');
    }
    text + "s"
}

/// Writes seconds since 1970 as an HTTP date: `Sat, 28 Nov 2026 18:02:04 GMT`.
pub(crate) fn http_date(unix: u64) -> String {
    let (year, month, day) = civil(unix / 86_400);
    let weekday = WEEKDAYS[(unix / 86_400 % 7) as usize];
    let month = MONTHS[month as usize - 1];
    let (hours, minutes, seconds) = time_of_day(unix);
    format!("{weekday}, {day:02} {month} {year:04} {hours:02}:{minutes:02}:{seconds:02} GMT")
}

/// Writes seconds since 1970 as RFC 3339 does: `2026-11-28T18:02:04Z`.
pub(crate) fn rfc3339(unix: u64) -> String {
    let (year, month, day) = civil(unix / 86_400);
    let (hours, minutes, seconds) = time_of_day(unix);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}Z")
}

const fn time_of_day(unix: u64) -> (u64, u64, u64) {
    (unix / 3_600 % 24, unix / 60 % 60, unix % 60)
}

/// Converts days since 1970 to year, month and day (Hinnant, "chrono-compatible low-level date algorithms").
const fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + (month <= 2) as u64;
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_as_go_does_and_rounded_up() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ms"),
            (120_000_000, "120ms"),
            (999_000_001, "1s"),
            (1_200_000_000, "1.2s"),
            (8_640_000_000, "8.64s"),
            (60_000_000_000, "1m0s"),
            (61_005_000_000, "1m1.005s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_nanos(nanos)), text);
        }
        assert_eq!(
            decimal_seconds(Duration::from_nanos(1_500_000_001)),
            "1.501"
        );
    }

    #[test]
    fn a_duration_has_a_unit_or_is_seconds() {
        let ms = |millis| Some(Duration::from_millis(millis));
        for (text, span) in [
            ("500ms", ms(500)),
            ("1.5s", ms(1_500)),
            ("2 m", ms(120_000)),
            ("10", ms(10_000)),
            ("0", ms(0)),
            ("1d", ms(86_400_000)),
            ("", None),
            ("min", None),
            ("3 weeks", None),
            ("-1s", None),
            ("1..2s", None),
        ] {
            assert_eq!(parse_span(text), span, "{text}");
        }
        assert_eq!(parse_window("min"), ms(60_000));
        assert_eq!(parse_window("300ms"), ms(300));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix, http, rfc) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT", "1970-01-01T00:00:00Z"),
            (
                951_782_400,
                "Tue, 29 Feb 2000 00:00:00 GMT",
                "2000-02-29T00:00:00Z",
            ),
            (
                1_795_888_926,
                "Sat, 28 Nov 2026 18:02:06 GMT",
                "2026-11-28T18:02:06Z",
            ),
            (
                4_107_542_399,
                "Sun, 28 Feb 2100 23:59:59 GMT",
                "2100-02-28T23:59:59Z",
            ),
        ] {
            assert_eq!(http_date(unix), http);
            assert_eq!(rfc3339(unix), rfc);
        }
    }
}
