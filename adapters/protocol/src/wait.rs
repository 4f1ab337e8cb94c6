//! Waits and instants as services write them: durations, numbers, dates, and phrases in messages.
//!
//! Invariant: no wait is negative or longer than [`MAX_WAIT`], and no text makes a function here panic.

use core::time::Duration;
use http::HeaderMap;
use http::header::DATE;

/// Cap on every wait: a day.
pub const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

const YEAR_SECONDS: f64 = 365.0 * 24.0 * 3_600.0;

/// The time of an answer, against which its instants are measured.
///
/// It is the answer's own `Date` if it has one, so that a service whose clock is an hour off costs no hour.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswerTime(Duration);

impl AnswerTime {
    /// Reads the `Date` header; `now` is the time since 1970 if there is none.
    pub(crate) fn of(headers: &HeaderMap, now: Duration) -> Self {
        let date = headers.get(DATE).and_then(|value| value.to_str().ok());
        Self(date.and_then(http_date).unwrap_or(now))
    }

    /// Returns the wait until an instant; zero if it has passed.
    fn until(self, instant: Duration) -> Duration {
        instant.saturating_sub(self.0).min(MAX_WAIT)
    }

    /// Reads a wait or an instant; a plain number has `per_second` units in a second.
    ///
    /// A number that can't be a wait, because it is more than a year, is an epoch in seconds, milliseconds,
    /// microseconds or nanoseconds if one of them is within ten years of now; else it is the longest wait.
    pub(crate) fn wait(self, text: &str, per_second: f64) -> Option<Duration> {
        let text = text.trim();
        if let Some(number) = decimal(text) {
            return Some(self.wait_of_number(number, per_second));
        }
        if let Some(span) = duration(text) {
            return Some(span.min(MAX_WAIT));
        }
        let instant = rfc3339(text).or_else(|| http_date(text))?;
        Some(self.until(instant))
    }

    fn wait_of_number(self, number: f64, per_second: f64) -> Duration {
        let seconds = number / per_second;
        if seconds > YEAR_SECONDS {
            let now = self.0.as_secs_f64();
            let is_near = |epoch: &f64| (epoch - now).abs() < 10.0 * YEAR_SECONDS;
            let mut epochs = [1.0, 1e3, 1e6, 1e9].into_iter().map(|unit| number / unit);
            if let Some(epoch) = epochs.find(is_near) {
                return self.until(seconds_to_duration(epoch));
            }
        }
        seconds_to_duration(seconds).min(MAX_WAIT)
    }
}

/// Converts seconds; a negative number is zero, and one that is too large is the maximum.
fn seconds_to_duration(seconds: f64) -> Duration {
    if seconds.is_nan() || seconds <= 0.0 {
        return Duration::ZERO;
    }
    // A nanosecond's precision is more than any service gives; it hides the error of the division.
    let rounded = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    rounded
        .checked_add(Duration::from_nanos(500))
        .map_or(rounded, |it| {
            Duration::new(it.as_secs(), it.subsec_micros() * 1_000)
        })
}

/// Parses a plain decimal number; no exponent, `inf` or `nan`.
pub(crate) fn decimal(text: &str) -> Option<f64> {
    let is_plain = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'+');
    if text.is_empty() || !text.bytes().all(is_plain) {
        return None;
    }
    text.parse().ok()
}

/// Parses numbers with units to the end of the text, such as `1m2.5s`, `12ms` or `6 minutes`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (span, rest) = leading_duration(text.trim())?;
    rest.trim().is_empty().then_some(span)
}

/// Parses as many numbers with units as a text starts with, also `1 minute and 30 seconds`; returns the rest.
fn leading_duration(text: &str) -> Option<(Duration, &str)> {
    let (mut total, mut rest, mut found) = (Duration::ZERO, text, false);
    loop {
        let mut start = rest.trim_start_matches(' ');
        if found {
            start = start.trim_start_matches([' ', ',']);
            start = start.strip_prefix("and ").unwrap_or(start);
        }
        let digits = start
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(start.len());
        let (number, after) = start.split_at(digits);
        // A full stop after a unit ends a sentence.
        let Some(number) = decimal(number).filter(|_| number != ".") else {
            return found.then_some((total, rest));
        };
        let after = after.trim_start_matches(' ');
        let letters = after
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let Some(seconds) = unit_seconds(unit) else {
            return found.then_some((total, rest));
        };
        total = total.saturating_add(seconds_to_duration(number * seconds));
        (rest, found) = (after, true);
    }
}

fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match &*unit.to_ascii_lowercase() {
        "ns" | "nanosecond" | "nanoseconds" => 1e-9,
        "us" | "µs" | "μs" | "microsecond" | "microseconds" => 1e-6,
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => 1e-3,
        "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600.0,
        "d" | "day" | "days" => 86_400.0,
        _ => return None,
    })
}

/// Phrases after which a message names a wait.
const PHRASES: [&str; 8] = [
    "try again in",
    "try again after",
    "retry after",
    "retry in",
    "available in",
    "reset in",
    "resets in",
    "please wait",
];

/// Finds a wait in a message, such as `Please try again in 1m30s.`
///
/// A number without a unit is in seconds.
pub(crate) fn wait_in_message(message: &str) -> Option<Duration> {
    let lower = message.to_ascii_lowercase();
    PHRASES.iter().find_map(|phrase| {
        let (_, after) = lower.split_once(phrase)?;
        let after = after.trim_start_matches([' ', ':']);
        if let Some((span, _)) = leading_duration(after) {
            return Some(span.min(MAX_WAIT));
        }
        let digits = after.find(|c: char| !c.is_ascii_digit() && c != '.');
        let number = after[..digits.unwrap_or(after.len())].trim_end_matches('.');
        Some(seconds_to_duration(decimal(number)?).min(MAX_WAIT))
    })
}

/// Parses an HTTP date; returns the time since 1970.
fn http_date(text: &str) -> Option<Duration> {
    let instant = httpdate::parse_http_date(text.trim()).ok()?;
    instant.duration_since(std::time::UNIX_EPOCH).ok()
}

/// Parses an RFC 3339 date and time; returns the time since 1970, zero for one before.
fn rfc3339(text: &str) -> Option<Duration> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let mut parts = date.split('-');
    let (year, month, day) = (
        whole(parts.next()?, 4)?,
        whole(parts.next()?, 2)?,
        whole(parts.next()?, 2)?,
    );
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (clock, offset) = match time.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, 0),
        None => {
            let sign = time.rfind(['+', '-'])?;
            let (clock, offset) = time.split_at(sign);
            let (hours, minutes) = offset.get(1..)?.split_once(':')?;
            let seconds = (whole(hours, 2)? * 60 + whole(minutes, 2)?) * 60;
            (
                clock,
                if offset.starts_with('-') {
                    -seconds
                } else {
                    seconds
                },
            )
        }
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut parts = clock.split(':');
    let (hour, minute, second) = (
        whole(parts.next()?, 2)?,
        whole(parts.next()?, 2)?,
        whole(parts.next()?, 2)?,
    );
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|it| it.is_ascii_digit())
    {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}").parse().ok()?;
    let seconds =
        days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    Some(u64::try_from(seconds).map_or(Duration::ZERO, |seconds| Duration::new(seconds, nanos)))
}

/// Parses a number of exactly `digits` digits.
fn whole(text: &str, digits: usize) -> Option<i64> {
    let fits = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| text.parse().ok())?
}

/// Counts days of the Gregorian calendar.
///
/// Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", 2021 (`days_from_civil`).
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-28T18:02:04Z.
    const NOW: Duration = Duration::from_secs(1_795_888_924);

    fn wait(text: &str) -> Option<u128> {
        AnswerTime(NOW).wait(text, 1.0).map(|it| it.as_millis())
    }

    #[test]
    fn a_wait_is_read_in_every_form() {
        let day = Some(86_400_000);
        for (text, millis) in [
            ("7", Some(7_000)),
            (" 0.25 ", Some(250)),
            ("-3", Some(0)),
            ("3s", Some(3_000)),
            ("3S", Some(3_000)),
            ("12ms", Some(12)),
            ("1m2.5s", Some(62_500)),
            ("6m0s", Some(360_000)),
            ("1h2m3s", Some(3_723_000)),
            ("1 minute 30 seconds", Some(90_000)),
            ("1500us", Some(1)),
            ("3d", day),
            ("1795888926", Some(2_000)),
            ("1795888926.5", Some(2_500)),
            ("1795888926000", Some(2_000)),
            ("1795888926000000", Some(2_000)),
            ("1795888926000000000", Some(2_000)),
            ("1795888900", Some(0)),
            ("99999999999999999999", day),
            ("2026-11-28T18:02:06Z", Some(2_000)),
            ("2026-11-28T18:02:06.25Z", Some(2_250)),
            ("2026-11-28t19:02:06+01:00", Some(2_000)),
            ("2026-11-28 12:32:06-05:30", Some(2_000)),
            ("1960-01-01T00:00:00Z", Some(0)),
            ("Sat, 28 Nov 2026 18:02:06 GMT", Some(2_000)),
            ("Saturday, 28-Nov-26 18:02:06 GMT", Some(2_000)),
            ("Sat, 28 Nov 2026 18:00:00 GMT", Some(0)),
            ("Fri, 06 Nov 2099 08:49:00 GMT", day),
            ("", None),
            (".", None),
            ("-", None),
            ("1e9", None),
            ("nan", None),
            ("inf", None),
            ("3x", None),
            ("3s x", None),
            ("s", None),
            ("tomorrow", None),
            ("2026-11-28T18:02Z", None),
            ("2026-13-28T18:02:06Z", None),
            ("2026-11-28T18:02:06.+1:00", None),
            ("2026-11-28T18:02:06+é1:00", None),
        ] {
            assert_eq!(wait(text), millis, "{text}");
        }
        assert_eq!(wait(&"9".repeat(400)), day);
    }

    #[test]
    fn a_number_of_milliseconds_may_also_be_an_epoch() {
        let wait = |text| AnswerTime(NOW).wait(text, 1_000.0).map(|it| it.as_micros());
        assert_eq!(wait("1500"), Some(1_500_000));
        assert_eq!(wait("0.5"), Some(500));
        assert_eq!(wait("1795888926000"), Some(2_000_000));
    }

    #[test]
    fn a_wait_is_found_in_a_message() {
        for (message, millis) in [
            ("Rate limit reached. Please try again in 3.2s.", Some(3_200)),
            ("Please try again in 20ms. Visit", Some(20)),
            ("TRY AGAIN IN 1m30s", Some(90_000)),
            ("try again in 6m0s.", Some(360_000)),
            ("Please retry after 7 seconds.", Some(7_000)),
            ("Please retry after 7", Some(7_000)),
            ("Retry in 34.074824224s, or", Some(34_074)),
            ("limit resets in: 2 minutes and more", Some(120_000)),
            ("try again in 1 minute and 30 seconds.", Some(90_000)),
            ("Retry in 1 hour, 2 minutes, and 3 s.", Some(3_723_000)),
            ("try again in 5.", Some(5_000)),
            ("try again in a while", None),
            ("try again in", None),
            ("slow down", None),
            ("please wait 1 day", Some(86_400_000)),
            ("please wait 400 days", Some(86_400_000)),
        ] {
            let found = wait_in_message(message).map(|it| it.as_millis());
            assert_eq!(found, millis, "{message}");
        }
    }

    #[test]
    fn the_answers_own_date_is_the_time_to_measure_from() {
        let mut headers = HeaderMap::new();
        let time = |headers: &HeaderMap| {
            AnswerTime::of(headers, NOW).wait("Sat, 28 Nov 2026 19:02:04 GMT", 1.0)
        };
        assert_eq!(time(&headers), Some(Duration::from_secs(3_600)));
        headers.insert(DATE, "Sat, 28 Nov 2026 19:02:02 GMT".parse().unwrap());
        assert_eq!(time(&headers), Some(Duration::from_secs(2)));
        headers.insert(DATE, "yesterday".parse().unwrap());
        assert_eq!(time(&headers), Some(Duration::from_secs(3_600)));
    }

    #[test]
    fn days_are_counted_over_leap_years() {
        for ((year, month, day), days) in [
            ((1970, 1, 1), 0),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2026, 11, 28), 20_785),
            ((1969, 12, 31), -1),
        ] {
            assert_eq!(days_since_1970(year, month, day), days);
        }
    }
}
