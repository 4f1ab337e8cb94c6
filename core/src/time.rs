//! Points in time, deadlines, and spans of time as text.
//!
//! Invariant: arithmetic on ticks saturates, so no input makes it wrap. Nothing here reads a clock; every
//! command takes the present [`Tick`] from its caller.

use crate::util::number::{NumberError, number_length, parse_number};
use core::fmt;
use core::time::Duration;

/// A point in time: nanoseconds from an epoch that the caller picks.
///
/// The range is 584 years. Ticks of different epochs must not be mixed.
///
/// ```
/// use core::time::Duration;
/// use leasehold_core::time::Tick;
///
/// let start = Tick::from_nanos(5);
/// assert_eq!(start.saturating_add(Duration::from_nanos(3)).as_nanos(), 8);
/// assert_eq!(Tick::MAX.saturating_add(Duration::from_secs(1)), Tick::MAX);
/// assert_eq!(start.since(Tick::MAX), Duration::ZERO);
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct Tick(u64);

impl Tick {
    /// The epoch.
    pub const ZERO: Self = Self(0);
    /// The last tick that can be represented.
    pub const MAX: Self = Self(u64::MAX);

    /// The tick `nanos` nanoseconds after the epoch.
    #[inline]
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the epoch.
    #[inline]
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The tick `span` later, or [`Tick::MAX`] when out of range.
    #[inline]
    #[must_use]
    pub const fn saturating_add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(saturating_nanos(span)))
    }

    /// The tick `nanos` nanoseconds later, or `None` when out of range.
    #[inline]
    #[must_use]
    pub(crate) const fn checked_add_nanos(self, nanos: u64) -> Option<Self> {
        match self.0.checked_add(nanos) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The span from `earlier` to this tick, or zero if `earlier` is later.
    #[inline]
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos_since(earlier))
    }

    /// The nanoseconds from `earlier` to here, or zero.
    #[inline]
    #[must_use]
    pub(crate) const fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Debug for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tick({})", self.0)
    }
}

/// The earlier of two deadlines, where `None` means never.
///
/// `Option::min` sorts `None` first and would lose a real deadline.
///
/// ```
/// use leasehold_core::time::{Tick, earliest};
///
/// let (soon, late) = (Tick::from_nanos(1), Tick::from_nanos(2));
/// assert_eq!(earliest(Some(late), Some(soon)), Some(soon));
/// assert_eq!(earliest(None, Some(late)), Some(late));
/// assert_eq!(earliest(None, None), None);
/// ```
#[must_use]
pub fn earliest(a: Option<Tick>, b: Option<Tick>) -> Option<Tick> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// The offset between two clocks: one shows `to` at the moment the other shows `from`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClockOffset {
    pub(crate) from: Tick,
    pub(crate) to: Tick,
}

impl ClockOffset {
    /// The other clock's tick for `tick`, or the nearest it can show.
    pub(crate) fn tick(self, tick: Tick) -> Tick {
        let (from, to) = (self.from.0, self.to.0);
        let later = tick.0.saturating_add(to.saturating_sub(from));
        Tick(later.saturating_sub(from.saturating_sub(to)))
    }
}

/// A span in nanoseconds; a span over 584 years counts as 584 years.
#[inline]
pub(crate) const fn saturating_nanos(span: Duration) -> u64 {
    let whole = span.as_secs().saturating_mul(1_000_000_000);
    whole.saturating_add(span.subsec_nanos() as u64)
}

/// Units of time and their nanoseconds, largest first. The first name of a unit is the one that is shown.
const UNITS: [(&str, u64); 8] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Why a text is not a span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseSpanError {
    /// The number is not whole, or the unit is none of `d h min m s ms us ns`.
    #[error(
        "a span of time must be a whole number and a unit (d, h, min, s, ms, us or ns), such as 60s or 1500ms"
    )]
    Malformed,
    /// The span is longer than a [`Tick`] can count.
    #[error("a span of time may be at most 584 years")]
    TooLong,
}

/// Reads a span such as `60s`, `250ms` or `5 min`; a unit alone means one of it.
///
/// The number is whole and may have `_` between digits. ASCII whitespace around number and unit and the
/// unit's case have no meaning. The windows of [limits](crate::limit::LimitSpec) are read by this function too.
///
/// ```
/// use core::time::Duration;
/// use leasehold_core::time::{ParseSpanError, parse_span};
///
/// assert_eq!(parse_span("250ms"), Ok(Duration::from_millis(250)));
/// assert_eq!(parse_span("min"), Ok(Duration::from_secs(60)));
/// assert_eq!(parse_span("1.5s"), Err(ParseSpanError::Malformed));
/// ```
///
/// # Errors
/// [`ParseSpanError`] if the text has another form or the span is out of range.
pub fn parse_span(text: &str) -> Result<Duration, ParseSpanError> {
    let text = text.trim_ascii();
    let (number, unit) = text.split_at(number_length(text));
    let unit = unit.trim_ascii_start();
    let (_, nanos) = UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .ok_or(ParseSpanError::Malformed)?;
    let number = match number {
        "" => 1,
        number => parse_number(number).map_err(|error| match error {
            NumberError::Malformed => ParseSpanError::Malformed,
            NumberError::TooLarge => ParseSpanError::TooLong,
        })?,
    };
    nanos
        .checked_mul(number)
        .map(Duration::from_nanos)
        .ok_or(ParseSpanError::TooLong)
}

/// A span shown as [`parse_span`] reads it, in the largest unit that divides it.
#[derive(Clone, Copy, Debug)]
pub struct DisplaySpan(pub Duration);

impl fmt::Display for DisplaySpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = saturating_nanos(self.0);
        let (unit, per) = UNITS
            .into_iter()
            .find(|(_, per)| nanos >= *per && nanos.is_multiple_of(*per))
            .unwrap_or(("s", 1));
        write!(f, "{}{unit}", nanos.checked_div(per).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_shown_span_is_read_back_as_the_same() {
        for text in [
            "0s", "1ns", "1500us", "250ms", "60s", "90s", "5min", "36h", "2d",
        ] {
            let span = parse_span(text).unwrap();
            assert_eq!(
                parse_span(&DisplaySpan(span).to_string()),
                Ok(span),
                "{text}"
            );
        }
        assert_eq!(DisplaySpan(Duration::from_secs(60)).to_string(), "1min");
    }

    #[test]
    fn case_whitespace_and_underscores_do_not_change_a_span() {
        for text in ["1500ms", " 1_500 MS\t", "1500\nMs"] {
            assert_eq!(
                parse_span(text),
                Ok(Duration::from_millis(1_500)),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_malformed_span_is_refused() {
        for text in [
            "", "60", "s60", "6 0s", "-1s", "1.5s", "1 year", "_1s", "1_s", "1\u{a0}s",
        ] {
            assert_eq!(parse_span(text), Err(ParseSpanError::Malformed), "{text}");
        }
        assert_eq!(parse_span("300000d"), Err(ParseSpanError::TooLong));
        assert_eq!(
            parse_span("99999999999999999999s"),
            Err(ParseSpanError::TooLong)
        );
    }
}
