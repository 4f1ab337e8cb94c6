//! Dates of logs as nanoseconds since 1970.

/// Nanoseconds of a second.
pub(super) const SECOND: u64 = 1_000_000_000;

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Reads `10/Oct/2000:13:55:36 +0200`, perhaps without the zone and with a fraction of the second; also the length of its
/// last digit in nanoseconds.
pub(super) fn of_log(text: &str) -> Option<(i128, u64)> {
    let (date, zone) = text.split_once(' ').unwrap_or((text, "+0000"));
    let (day, rest) = date.split_once('/')?;
    let (month, rest) = rest.split_once('/')?;
    let (year, clock) = rest.split_once(':')?;
    let month = MONTHS.iter().position(|name| *name == month)?;
    let days = days(
        year.parse().ok()?,
        (month as i64).saturating_add(1),
        day.parse().ok()?,
    )?;
    let (nanos, tick) = clock_nanos(clock)?;
    Some((total(days, nanos, offset(zone)?), tick))
}

/// Reads `2000-10-10T13:55:36.123Z` or with an offset such as `+02:00`, as RFC 3339 has it.
pub(super) fn of_rfc3339(text: &str) -> Option<(i128, u64)> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let mut parts = date.splitn(3, '-');
    let mut next = || parts.next()?.parse::<i64>().ok();
    let days = days(next()?, next()?, next()?)?;
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = rest.split_at(zone_at);
    let zone = match zone {
        "Z" | "z" => "+0000".to_owned(),
        zone => zone.replacen(':', "", 1),
    };
    let (nanos, tick) = clock_nanos(clock)?;
    Some((total(days, nanos, offset(&zone)?), tick))
}

fn total(days: i64, nanos: u64, offset: i64) -> i128 {
    let seconds = i128::from(days) * 86_400 - i128::from(offset);
    seconds * i128::from(SECOND) + i128::from(nanos)
}

/// Days since 1970 in the Gregorian calendar. Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", 2013.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_date =
        (1..=9_999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !is_date {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// Reads `13:55:36` or `13:55:36.655`: nanoseconds of the day, and those of the last digit.
fn clock_nanos(text: &str) -> Option<(u64, u64)> {
    let mut parts = text.splitn(3, ':');
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next()?);
    let (second, fraction) = second.split_once('.').unwrap_or((second, ""));
    let within = |text: &str, bound: u64| text.parse::<u64>().ok().filter(|it| *it < bound);
    let seconds = within(hour, 24)? * 3_600 + within(minute, 60)? * 60 + within(second, 61)?;
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let tick = SECOND / 10_u64.pow(fraction.len() as u32);
    let fraction = match fraction {
        "" => 0,
        digits => digits.parse::<u64>().ok()? * tick,
    };
    Some((seconds * SECOND + fraction, tick))
}

/// Reads the seconds of `+0200`.
fn offset(text: &str) -> Option<i64> {
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    if digits.len() != 4 {
        return None;
    }
    let (hours, minutes) = digits.split_at_checked(2)?;
    let part = |text: &str| text.parse::<u8>().ok().map(i64::from);
    Some(sign * (part(hours)? * 3_600 + part(minutes)? * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_nanoseconds_since_1970() {
        let seconds = |text: &str| of_log(text).map(|(at, _)| at / i128::from(SECOND));
        assert_eq!(seconds("10/Oct/2000:13:55:36 +0000"), Some(971_186_136));
        assert_eq!(
            seconds("10/Oct/2000:13:55:36 -0700"),
            Some(971_186_136 + 25_200)
        );
        assert_eq!(seconds("29/Feb/2024:00:00:00 +0000"), Some(1_709_164_800));
        let precise = of_log("06/Feb/2009:12:14:14.655");
        assert_eq!(precise, Some((1_233_922_454_655_000_000, 1_000_000)));
        let same = of_rfc3339("2009-02-06T13:14:14.655+01:00");
        assert_eq!(same, precise);
        for wrong in [
            "",
            "10/Okt/2000:13:55:36 +0000",
            "1/Jan/2000:24:00:00 +0000",
            "x/y/z:",
        ] {
            assert_eq!(of_log(wrong), None, "{wrong}");
        }
        for wrong in [
            "2000-01-01",
            "2000-13-01T00:00:00Z",
            "2000-01-01T00:00:00",
            "é-TZ",
        ] {
            assert_eq!(of_rfc3339(wrong), None, "{wrong}");
        }
    }
}
