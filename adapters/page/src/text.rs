//! Texts and numbers as people read them.

use core::fmt::{self, Display, Formatter};
use core::time::Duration;

/// Text of users, escaped for HTML elements and quoted attributes.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' | '\t' => fmt::Write::write_char(f, char)?,
                // HTML has no control characters, not even as references.
                _ if char.is_control() => fmt::Write::write_char(f, char::REPLACEMENT_CHARACTER)?,
                _ => fmt::Write::write_char(f, char)?,
            }
        }
        Ok(())
    }
}

/// Returns the text, or its first `limit` characters and an ellipsis.
#[must_use]
pub fn shortened(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", text.split_at(end).0),
        None => text.to_owned(),
    }
}

/// Writes a number with commas, such as `1,000,000`.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a number and its noun, such as `1 call` or `2,000 calls`.
#[must_use]
pub fn counted(number: u64, one: &str, many: &str) -> String {
    let noun = if number == 1 { one } else { many };
    format!("{} {noun}", grouped(number))
}

/// Writes a share in per cent, rounded down so that only the whole is `100 %`.
#[must_use]
pub fn percent(part: u64, whole: u64) -> String {
    let scaled = u128::from(part.min(whole)) * 1_000;
    match scaled.checked_div(whole.into()) {
        None => "–".to_owned(),
        Some(0) if part == 0 => "0 %".to_owned(),
        Some(1_000) => "100 %".to_owned(),
        Some(0) => "under 0.1 %".to_owned(),
        Some(permille) => format!("{}.{} %", permille / 10, permille % 10),
    }
}

/// Writes a number of any size with three digits or more; a dash where it is not finite.
#[must_use]
pub fn decimal(number: f64) -> String {
    let size = number.abs();
    if !number.is_finite() {
        "–".to_owned()
    } else if size >= 1e15 {
        format!("{number:.2e}")
    } else if size >= 1_000.0 {
        let sign = if number < 0.0 { "−" } else { "" };
        format!("{sign}{}", grouped(size.round() as u64))
    } else if size >= 1.0 || number == 0.0 {
        trimmed(format!("{number:.2}"))
    } else if size >= 0.000_001 {
        let zeros = -size.log10().ceil() as usize;
        let digits = zeros + 3;
        trimmed(format!("{number:.digits$}"))
    } else {
        format!("{number:.1e}")
    }
}

/// Writes the label of an axis, such as `500`, `20k` or `1.5M`.
#[must_use]
pub fn compact(number: f64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")];
    let unit = units.into_iter().find(|&(least, _)| number >= least);
    match unit {
        _ if !number.is_finite() => "–".to_owned(),
        Some(_) if number >= 1e15 => format!("{number:.0e}"),
        Some((_, "k")) => trimmed(format!("{:.1}", number / 1e3)) + "k",
        Some((least, unit)) => trimmed(format!("{:.1}", number / least)) + unit,
        None if number >= 1_000.0 => grouped(number.round() as u64),
        None => trimmed(format!("{number:.3}")),
    }
}

/// Writes a duration with three digits, or in two units from a minute on.
#[must_use]
pub fn duration(span: Duration) -> String {
    let seconds = span.as_secs_f64();
    if span >= Duration::from_secs(60) {
        words(span)
    } else if seconds >= 0.999_5 {
        digits(seconds, "s")
    } else if seconds >= 0.000_999_5 {
        digits(seconds * 1e3, "ms")
    } else if span >= Duration::from_micros(1) {
        digits(seconds * 1e6, "µs")
    } else if span.is_zero() {
        "0 s".to_owned()
    } else {
        format!("{} ns", span.subsec_nanos())
    }
}

/// Writes a duration with three digits in one unit, short enough for an axis.
#[must_use]
pub fn short_duration(span: Duration) -> String {
    let seconds = span.as_secs_f64();
    match seconds {
        ..60.0 => duration(span),
        ..120.0 => digits(seconds, "s"),
        ..7_200.0 => digits(seconds / 60.0, "min"),
        _ => digits(seconds / 3_600.0, "h"),
    }
}

fn digits(number: f64, unit: &str) -> String {
    let text = match number {
        ..9.995 => trimmed(format!("{number:.2}")),
        ..99.95 => trimmed(format!("{number:.1}")),
        _ => format!("{number:.0}"),
    };
    format!("{text} {unit}")
}

/// Drops the zeros that end a fraction.
fn trimmed(text: String) -> String {
    if text.contains('.') {
        let text = text.trim_end_matches('0');
        text.trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// Writes a duration for people, in its two largest units, such as `3 h 2 min` or `20 s`.
#[must_use]
pub fn words(span: Duration) -> String {
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
    fn numbers_are_written_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000_000), "1,000,000");
        assert_eq!(counted(1, "call", "calls"), "1 call");
        assert_eq!(percent(999_999, 1_000_000), "99.9 %");
        assert_eq!(percent(1, 1_000_000), "under 0.1 %");
        assert_eq!(percent(5, 5), "100 %");
        assert_eq!(percent(0, 5), "0 %");
        assert_eq!(percent(0, 0), "–");
        assert_eq!(decimal(12.5), "12.5");
        assert_eq!(decimal(0.059_06), "0.0591");
        assert_eq!(decimal(0.000_398_9), "0.000399");
        assert_eq!(decimal(0.5), "0.5");
        assert_eq!(decimal(12_345.6), "12,346");
        assert_eq!(decimal(f64::NAN), "–");
        assert_eq!(compact(500.0), "500");
        assert_eq!(compact(20_000.0), "20k");
        assert_eq!(compact(1.5e6), "1.5M");
        assert_eq!(compact(f64::INFINITY), "–");
    }

    #[test]
    fn durations_have_three_digits() {
        let duration = |nanos| duration(Duration::from_nanos(nanos));
        assert_eq!(duration(0), "0 s");
        assert_eq!(duration(7), "7 ns");
        assert_eq!(duration(1_500), "1.5 µs");
        assert_eq!(duration(131_072_000), "131 ms");
        assert_eq!(duration(999_900_000), "1 s");
        assert_eq!(duration(16_384_000_000), "16.4 s");
        assert_eq!(duration(125_000_000_000), "2 min 5 s");
    }

    #[test]
    fn long_durations_have_two_units() {
        let words = |seconds| words(Duration::from_secs(seconds));
        assert_eq!(words(20), "20 s");
        assert_eq!(words(120), "2 min");
        assert_eq!(words(125), "2 min 5 s");
        assert_eq!(words(10_925), "3 h 2 min");
    }

    #[test]
    fn an_axis_has_one_unit_a_label() {
        let short = |seconds| short_duration(Duration::from_secs(seconds));
        assert_eq!(short(1), "1 s");
        assert_eq!(short(65), "65 s");
        assert_eq!(short(131), "2.18 min");
        assert_eq!(short(9_000), "2.5 h");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(shortened("äöü", 3), "äöü");
        assert_eq!(shortened("äöü", 2), "äö…");
    }
}
