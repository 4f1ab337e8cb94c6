//! Limits as people write them: `3/60s, 40000 tokens/min, 2 concurrent`.
//!
//! It decides what such a text means and where a wrong one is wrong. Invariant: what is shown is read
//! back as the same value, and no text makes it panic.
//!
//! ```text
//! specs  = spec { "," spec }                      at most 16, none said twice
//! spec   = count [ unit ] "/" window | count "concurrent"
//! unit   = "request" | "requests" | "token" | "tokens"
//! window = [ number ] ( "d" | "h" | "min" | "m" | "s" | "ms" | "us" | "ns" )
//! ```
//! Numbers are whole and may have `_` between digits. Between any two of these there may be ASCII
//! whitespace; words are read in any case.

use super::Rate;
use crate::time::{DisplaySpan, parse_span};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU32;
use core::ops::Deref;
use core::str::FromStr;
use core::time::Duration;

/// What a limit counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Unit {
    /// Calls, each of them one. What is meant where no unit is written.
    #[default]
    Requests,
    /// Tokens of a language model, estimated before a call and known after it.
    Tokens,
}

impl Unit {
    pub(super) const ALL: [Self; 2] = [Self::Requests, Self::Tokens];

    /// What is this unit's of a pair in the order of [`ALL`](Self::ALL).
    pub(super) fn of_mut<V>(self, [requests, tokens]: &mut [V; 2]) -> &mut V {
        match self {
            Self::Requests => requests,
            Self::Tokens => tokens,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        })
    }
}

/// One limit.
///
/// ```
/// use leasehold_core::limit::Spec;
///
/// let spec: Spec = "40_000 tokens / min".parse()?;
/// assert_eq!(spec.to_string(), "40000 tokens/1min");
/// # Ok::<(), leasehold_core::limit::ParseSpecError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spec {
    /// So many units in any window.
    Rate {
        /// What is counted.
        unit: Unit,
        /// How many in how long.
        rate: Rate,
    },
    /// So many at once.
    Concurrent(NonZeroU32),
}

impl Spec {
    /// Whether both limit the same thing: one unit in one window, or how many at once.
    fn is_rival_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rate { unit, rate }, Self::Rate { unit: u, rate: r }) => {
                unit == u && rate.window == r.window
            }
            (Self::Concurrent(_), Self::Concurrent(_)) => true,
            (Self::Rate { .. }, Self::Concurrent(_)) | (Self::Concurrent(_), Self::Rate { .. }) => {
                false
            }
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate {
                unit: Unit::Requests,
                rate,
            } => rate.fmt(f),
            Self::Rate { unit, rate } => {
                write!(f, "{} {unit}/{}", rate.limit, DisplaySpan(rate.window))
            }
            Self::Concurrent(count) => write!(f, "{count} concurrent"),
        }
    }
}

impl FromStr for Spec {
    type Err = ParseSpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let whole = Piece { at: 0, text };
        parse_only(whole).map_err(|flaw| flaw.within(text))
    }
}

/// Reads one limit of requests in a window.
pub(super) fn parse_rate(text: &str) -> Result<Rate, ParseSpecError> {
    let whole = Piece { at: 0, text };
    let rate = parse_only(whole).and_then(|spec| match spec {
        Spec::Rate {
            unit: Unit::Requests,
            rate,
        } => Ok(rate),
        Spec::Rate { .. } | Spec::Concurrent(_) => Err(whole.flaw(ParseSpecErrorKind::NotRequests)),
    });
    rate.map_err(|flaw| flaw.within(text))
}

/// One to [`MAX`](Self::MAX) limits that hold together, none of them said twice.
///
/// ```
/// use leasehold_core::limit::Specs;
///
/// let specs: Specs = "3/min, 40000 tokens/min, 2 concurrent".parse()?;
/// assert_eq!(specs.len(), 3);
/// assert_eq!(specs.to_string(), "3/1min, 40000 tokens/1min, 2 concurrent");
///
/// let error = "3/min, 5 apples/min".parse::<Specs>().unwrap_err();
/// assert_eq!(error.at, 9);
/// assert_eq!(
///     error.to_string(),
///     "at character 10, \"apples\": the unit must be requests, tokens or concurrent; \
///      a limit is written like 3/60s, 40000 tokens/min or 2 concurrent",
/// );
/// # Ok::<(), leasehold_core::limit::ParseSpecError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Specs(Vec<Spec>);

impl Specs {
    /// How many limits may hold together.
    pub const MAX: usize = 16;

    /// Takes limits that were not written as text.
    ///
    /// # Errors
    /// [`SpecsError`] where a text of the same limits would be refused.
    pub fn new(specs: Vec<Spec>) -> Result<Self, SpecsError> {
        if specs.is_empty() {
            return Err(SpecsError::Empty);
        }
        if specs.len() > Self::MAX {
            return Err(SpecsError::TooMany);
        }
        for (index, spec) in specs.iter().enumerate() {
            if let Spec::Rate { rate, .. } = spec {
                super::window_nanos(rate.window).map_err(|_| SpecsError::Window(index))?;
            }
            if specs.iter().take(index).any(|said| said.is_rival_of(spec)) {
                return Err(SpecsError::Duplicate(index));
            }
        }
        Ok(Self(specs))
    }
}

impl Deref for Specs {
    type Target = [Spec];

    fn deref(&self) -> &[Spec] {
        &self.0
    }
}

impl fmt::Display for Specs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, spec) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{spec}")?;
        }
        Ok(())
    }
}

impl FromStr for Specs {
    type Err = ParseSpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_all(Piece { at: 0, text })
            .map(Self)
            .map_err(|flaw| flaw.within(text))
    }
}

/// Why limits can't hold together. An index counts from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecsError {
    /// There is none.
    #[error("there must be at least one limit")]
    Empty,
    /// There are more than [`Specs::MAX`].
    #[error("there may be at most {} limits", Specs::MAX)]
    TooMany,
    /// The window of the one at this index is zero or longer than a [`Tick`](crate::time::Tick) counts.
    #[error("the window of limit {0} must be above zero and at most 584 years")]
    Window(usize),
    /// The one at this index limits what an earlier one limits.
    #[error("limit {0} has the unit and window of an earlier one")]
    Duplicate(usize),
}

/// Why and where a text is not a [`Spec`] or not [`Specs`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseSpecError {
    /// Where the wrong part begins, or where a missing one is missing: a byte offset in the whole
    /// text, between two characters or at its end.
    pub at: usize,
    /// The same place as a reader counts: characters from 1.
    pub character: usize,
    /// What is wrong with it.
    pub kind: ParseSpecErrorKind,
    /// The wrong part, cut short; empty where something is missing.
    found: String,
}

/// What is wrong with a text that is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSpecErrorKind {
    /// Nothing is there: the text is empty, or there is a comma too many.
    #[error("there must be a limit here")]
    Empty,
    /// The count is missing or isn't a whole number.
    #[error("the count must be a whole number")]
    Count,
    /// The count is zero.
    #[error("the count must be at least 1")]
    ZeroCount,
    /// The count is above 4,294,967,295.
    #[error("the count may be at most {}", u32::MAX)]
    CountTooLarge,
    /// The word after the count is none of those known.
    #[error("the unit must be requests, tokens or concurrent")]
    UnknownUnit,
    /// The slash or what should follow it is missing.
    #[error("a slash and a window must follow")]
    NoWindow,
    /// A number at once is followed by a slash.
    #[error("a number at once has no window")]
    WindowOfConcurrent,
    /// The window is not a span of time.
    #[error(
        "the window must be a whole number and one of d, h, min, s, ms, us, ns, or one of them alone"
    )]
    Window,
    /// The window is zero.
    #[error("the window must be above zero")]
    ZeroWindow,
    /// The window is longer than a [`Tick`](crate::time::Tick) can count.
    #[error("the window may be at most 584 years")]
    WindowTooLong,
    /// An earlier one has the same unit and window, or both say how many at once.
    #[error("an earlier limit has the same unit and window already")]
    Duplicate,
    /// There are more than [`Specs::MAX`].
    #[error("there may be at most {} limits", Specs::MAX)]
    TooMany,
    /// Something else is limited where a [`Rate`] is read.
    #[error("it must be a number of requests in a window")]
    NotRequests,
    /// There are several where one [`Spec`] is read.
    #[error("there may be only one limit here")]
    Several,
}

impl fmt::Display for ParseSpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at character {}, ", self.character)?;
        if !self.found.is_empty() {
            write!(f, "{:?}: ", self.found)?;
        }
        let kind = self.kind;
        write!(
            f,
            "{kind}; a limit is written like 3/60s, 40000 tokens/min or 2 concurrent"
        )
    }
}

impl core::error::Error for ParseSpecError {}

/// A part of a text and the byte where it begins.
#[derive(Clone, Copy)]
struct Piece<'a> {
    at: usize,
    text: &'a str,
}

/// What is wrong with a piece.
struct Flaw<'a> {
    piece: Piece<'a>,
    kind: ParseSpecErrorKind,
}

fn parse_all(mut rest: Piece<'_>) -> Result<Vec<Spec>, Flaw<'_>> {
    let mut specs = Vec::new();
    loop {
        let (part, more) = match rest.split_once(',') {
            Some((part, more)) => (part, Some(more)),
            None => (rest, None),
        };
        if specs.len() == Specs::MAX {
            return Err(part.flaw(ParseSpecErrorKind::TooMany));
        }
        let spec = parse_one(part)?;
        if specs.iter().any(|said| spec.is_rival_of(said)) {
            return Err(part.flaw(ParseSpecErrorKind::Duplicate));
        }
        specs.push(spec);
        match more {
            Some(more) => rest = more,
            None => return Ok(specs),
        }
    }
}

fn parse_only(whole: Piece<'_>) -> Result<Spec, Flaw<'_>> {
    let Some((first, second)) = whole.split_once(',') else {
        return parse_one(whole);
    };
    parse_one(first).and_then(|_| Err(second.flaw(ParseSpecErrorKind::Several)))
}

fn parse_one(part: Piece<'_>) -> Result<Spec, Flaw<'_>> {
    let part = part.trimmed();
    if part.text.is_empty() {
        return Err(part.flaw(ParseSpecErrorKind::Empty));
    }
    let (head, window) = match part.split_once('/') {
        Some((head, window)) => (head.trimmed(), Some(window.trimmed())),
        None => (part, None),
    };
    let (count, unit) = head.split_number();
    let count = parse_count(head, count, unit)?;
    let unit = unit.trimmed();
    let is = |word: &str| unit.text.eq_ignore_ascii_case(word);
    if is("concurrent") {
        return match window {
            None => Ok(Spec::Concurrent(count)),
            Some(window) => Err(window.flaw(ParseSpecErrorKind::WindowOfConcurrent)),
        };
    }
    let unit = if is("") || is("request") || is("requests") {
        Unit::Requests
    } else if is("token") || is("tokens") {
        Unit::Tokens
    } else {
        return Err(unit.flaw(ParseSpecErrorKind::UnknownUnit));
    };
    let window = window.unwrap_or_else(|| head.end());
    let rate = Rate {
        limit: count,
        window: parse_window(window).map_err(|kind| window.flaw(kind))?,
    };
    Ok(Spec::Rate { unit, rate })
}

/// Reads the digits of a count. `next` is what follows them in `head`; where it could not begin a word,
/// as in `1.5` or `-3`, it belongs to what is wrong.
fn parse_count<'a>(
    head: Piece<'a>,
    digits: Piece<'a>,
    next: Piece<'a>,
) -> Result<NonZeroU32, Flaw<'a>> {
    let separate = |c: char| c.is_ascii_whitespace() || c.is_alphabetic();
    if digits.text.is_empty() || !next.text.chars().next().is_none_or(separate) {
        return Err(head.first_word().flaw(ParseSpecErrorKind::Count));
    }
    let number = parse_number(
        digits.text,
        ParseSpecErrorKind::Count,
        ParseSpecErrorKind::CountTooLarge,
    )
    .map_err(|kind| digits.flaw(kind))?;
    let number =
        u32::try_from(number).map_err(|_| digits.flaw(ParseSpecErrorKind::CountTooLarge))?;
    NonZeroU32::new(number).ok_or_else(|| digits.flaw(ParseSpecErrorKind::ZeroCount))
}

fn parse_window(window: Piece<'_>) -> Result<Duration, ParseSpecErrorKind> {
    use ParseSpecErrorKind::{NoWindow, Window, WindowTooLong, ZeroWindow};
    if window.text.is_empty() {
        return Err(NoWindow);
    }
    let (digits, unit) = window.split_number();
    let unit = parse_time_unit(unit.trimmed().text).ok_or(Window)?;
    let number = if digits.text.is_empty() {
        1
    } else {
        parse_number(digits.text, Window, WindowTooLong)?
    };
    let nanos = u64::try_from(unit.as_nanos())
        .ok()
        .and_then(|nanos| nanos.checked_mul(number))
        .ok_or(WindowTooLong)?;
    if nanos == 0 {
        return Err(ZeroWindow);
    }
    Ok(Duration::from_nanos(nanos))
}

/// How long one of a unit of time is. Its letters are copied to be lowered, as `parse_span` reads them.
fn parse_time_unit(name: &str) -> Option<Duration> {
    let mut lowered = [0; 3];
    let lowered = lowered.get_mut(..name.len())?;
    lowered.copy_from_slice(name.as_bytes());
    lowered.make_ascii_lowercase();
    if !lowered.iter().all(u8::is_ascii_lowercase) {
        return None;
    }
    parse_span(core::str::from_utf8(lowered).ok()?).ok()
}

/// Reads digits, of which any two may have one `_` between them.
fn parse_number(
    text: &str,
    malformed: ParseSpecErrorKind,
    too_large: ParseSpecErrorKind,
) -> Result<u64, ParseSpecErrorKind> {
    if text.split('_').any(str::is_empty) {
        return Err(malformed);
    }
    text.chars()
        .filter_map(|c| c.to_digit(10))
        .try_fold(0_u64, |sum, digit| {
            sum.checked_mul(10)?.checked_add(u64::from(digit))
        })
        .ok_or(too_large)
}

impl<'a> Piece<'a> {
    fn split_at(self, middle: usize) -> (Self, Self) {
        let (before, after) = self.text.split_at(middle);
        let after = Self {
            at: self.at.saturating_add(middle),
            text: after,
        };
        (
            Self {
                text: before,
                ..self
            },
            after,
        )
    }

    /// What is before the separator, which must be ASCII, and what is after it.
    fn split_once(self, separator: char) -> Option<(Self, Self)> {
        let (before, after) = self.split_at(self.text.find(separator)?);
        Some((before, after.split_at(1).1))
    }

    /// The digits and underscores that it begins with, and the rest.
    fn split_number(self) -> (Self, Self) {
        let end = self
            .text
            .find(|c: char| !c.is_ascii_digit() && c != '_')
            .unwrap_or(self.text.len());
        self.split_at(end)
    }

    fn first_word(self) -> Self {
        let end = self
            .text
            .find(|c: char| c.is_ascii_whitespace())
            .unwrap_or(self.text.len());
        self.split_at(end).0
    }

    fn trimmed(self) -> Self {
        let start = self.text.trim_ascii_start();
        let (_, rest) = self.split_at(self.text.len().saturating_sub(start.len()));
        Self {
            text: rest.text.trim_ascii_end(),
            ..rest
        }
    }

    fn end(self) -> Self {
        self.split_at(self.text.len()).1
    }

    fn flaw(self, kind: ParseSpecErrorKind) -> Flaw<'a> {
        Flaw {
            piece: self.trimmed(),
            kind,
        }
    }
}

impl Flaw<'_> {
    /// The most characters of a wrong part that are shown.
    const SHOWN: usize = 24;

    /// Says where in `whole`, the text that the piece is of, the flaw is.
    fn within(self, whole: &str) -> ParseSpecError {
        let Piece { at, text } = self.piece;
        let mut found: String = text.chars().take(Self::SHOWN).collect();
        if found.len() < text.len() {
            found.push('…');
        }
        let before = whole.get(..at).unwrap_or(whole);
        ParseSpecError {
            at,
            character: before.chars().count().saturating_add(1),
            kind: self.kind,
            found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ParseSpecErrorKind as Kind;
    use super::*;
    use alloc::format;
    use alloc::string::ToString;
    use alloc::vec;

    fn rate(unit: Unit, limit: u32, window: Duration) -> Spec {
        let limit = NonZeroU32::new(limit).unwrap();
        Spec::Rate {
            unit,
            rate: Rate { limit, window },
        }
    }

    fn refused(text: &str) -> (Kind, usize, String) {
        let error = text.parse::<Specs>().unwrap_err();
        (error.kind, error.at, error.found)
    }

    #[test]
    fn each_form_that_people_write_is_read() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        for (text, spec) in [
            ("3/60s", rate(Unit::Requests, 3, minute)),
            ("500/min", rate(Unit::Requests, 500, minute)),
            ("500/m", rate(Unit::Requests, 500, minute)),
            ("3 requests/60s", rate(Unit::Requests, 3, minute)),
            ("1 request/s", rate(Unit::Requests, 1, second)),
            ("1 token/s", rate(Unit::Tokens, 1, second)),
            ("40000 tokens/min", rate(Unit::Tokens, 40_000, minute)),
            (
                "40_000tokens/1_000ms",
                rate(Unit::Tokens, 40_000, Duration::from_secs(1)),
            ),
            (
                "\t4 ToKeNs\n/ 60 S\r\n",
                rate(Unit::Tokens, 4, Duration::from_secs(60)),
            ),
            ("1/MIN", rate(Unit::Requests, 1, minute)),
            ("4294967295/s", rate(Unit::Requests, u32::MAX, second)),
            (
                "1/18446744073709551615ns",
                rate(Unit::Requests, 1, Duration::from_nanos(u64::MAX)),
            ),
            (
                "2 concurrent",
                Spec::Concurrent(NonZeroU32::MIN.saturating_add(1)),
            ),
            ("1  CONCURRENT ", Spec::Concurrent(NonZeroU32::MIN)),
        ] {
            assert_eq!(text.parse(), Ok(spec), "{text:?}");
            assert_eq!(
                text.parse::<Specs>().as_deref(),
                Ok(&[spec][..]),
                "{text:?}"
            );
        }
    }

    #[test]
    fn several_are_read_in_their_order_and_shown_in_one_way() {
        let specs: Specs = " 3 requests / min,40_000 TOKENS/60s , 2 concurrent"
            .parse()
            .unwrap();
        let shown = "3/1min, 40000 tokens/1min, 2 concurrent";
        assert_eq!(specs.to_string(), shown);
        assert_eq!(shown.parse(), Ok(specs));
    }

    #[test]
    fn each_mistake_has_its_kind_its_place_and_its_part() {
        for (text, kind, at, found) in [
            ("", Kind::Empty, 0, ""),
            (" \t ", Kind::Empty, 3, ""),
            (",3/min", Kind::Empty, 0, ""),
            ("3/min,,", Kind::Empty, 6, ""),
            ("3/min, , 2/s", Kind::Empty, 7, ""),
            ("3/min,", Kind::Empty, 6, ""),
            ("/min", Kind::Count, 0, ""),
            ("tokens/min", Kind::Count, 0, "tokens"),
            (" -3 tokens/min", Kind::Count, 1, "-3"),
            ("+3/min", Kind::Count, 0, "+3"),
            ("1.5/min", Kind::Count, 0, "1.5"),
            ("_3/min", Kind::Count, 0, "_3"),
            ("3_/min", Kind::Count, 0, "3_"),
            ("4__0/min", Kind::Count, 0, "4__0"),
            ("0/min", Kind::ZeroCount, 0, "0"),
            ("3/s, 0_0 concurrent", Kind::ZeroCount, 5, "0_0"),
            ("4294967296/s", Kind::CountTooLarge, 0, "4294967296"),
            (
                "18446744073709551616 concurrent",
                Kind::CountTooLarge,
                0,
                "18446744073709551616",
            ),
            ("5 apples/min", Kind::UnknownUnit, 2, "apples"),
            ("5 token s/min", Kind::UnknownUnit, 2, "token s"),
            ("5 apples", Kind::UnknownUnit, 2, "apples"),
            ("3 60s", Kind::UnknownUnit, 2, "60s"),
            ("3", Kind::NoWindow, 1, ""),
            ("3 , 2/s", Kind::NoWindow, 1, ""),
            ("3 tokens ", Kind::NoWindow, 8, ""),
            ("3/ ", Kind::NoWindow, 2, ""),
            ("2 concurrent / min", Kind::WindowOfConcurrent, 15, "min"),
            ("2 concurrent/", Kind::WindowOfConcurrent, 13, ""),
            ("3/60", Kind::Window, 2, "60"),
            ("3/6 0s", Kind::Window, 2, "6 0s"),
            ("3/_6s", Kind::Window, 2, "_6s"),
            ("3/s/s", Kind::Window, 2, "s/s"),
            ("3/ minute", Kind::Window, 3, "minute"),
            ("3/0x", Kind::Window, 2, "0x"),
            ("3/0s", Kind::ZeroWindow, 2, "0s"),
            ("3/300000d", Kind::WindowTooLong, 2, "300000d"),
            (
                "3/99999999999999999999ns",
                Kind::WindowTooLong,
                2,
                "99999999999999999999ns",
            ),
            ("3/min, 4/60s", Kind::Duplicate, 7, "4/60s"),
            (
                "3 token/s,3/s ,3 tokens/1000ms",
                Kind::Duplicate,
                15,
                "3 tokens/1000ms",
            ),
            (
                "1 concurrent,  2 concurrent ",
                Kind::Duplicate,
                15,
                "2 concurrent",
            ),
        ] {
            assert_eq!(refused(text), (kind, at, found.into()), "{text:?}");
        }
    }

    #[test]
    fn a_place_is_between_characters_and_counted_in_them() {
        for (text, kind, at, character) in [
            ("5 äpfel/min", Kind::UnknownUnit, 2, 3),
            ("5äpfel/min", Kind::UnknownUnit, 1, 2),
            ("５/min", Kind::Count, 0, 1),
            ("3/µs", Kind::Window, 2, 3),
            ("3/min,\u{a0}2/s", Kind::Count, 6, 7),
            ("3/min, 2 🦀🦀, x", Kind::UnknownUnit, 9, 10),
        ] {
            let error = text.parse::<Specs>().unwrap_err();
            assert_eq!(
                (error.kind, error.at, error.character),
                (kind, at, character),
                "{text:?}"
            );
            assert!(text.is_char_boundary(at), "{text:?}");
        }
        let flaw = Piece { at: 6, text: "x" }.flaw(Kind::Count);
        assert_eq!(flaw.within("äöüx").character, 4);
    }

    #[test]
    fn a_long_mistake_is_shown_cut_short() {
        let error = format!("3 {}/min", "ä".repeat(1_000))
            .parse::<Spec>()
            .unwrap_err();
        assert_eq!(error.found, format!("{}…", "ä".repeat(24)));
        assert!(error.to_string().contains("at character 3"));
    }

    #[test]
    fn there_may_be_sixteen_and_no_more() {
        let text = |count: usize| {
            let parts: Vec<_> = (1..=count).map(|i| format!("1/{i}s")).collect();
            parts.join(",")
        };
        assert_eq!(text(16).parse::<Specs>().unwrap().len(), Specs::MAX);
        let at = text(16).len().saturating_add(1);
        assert_eq!(refused(&text(17)), (Kind::TooMany, at, "1/17s".into()));
    }

    #[test]
    fn one_limit_is_not_several() {
        let error = "3/s, 2/min".parse::<Spec>().unwrap_err();
        assert_eq!((error.kind, error.at), (Kind::Several, 5));
        let error = "3/x, 2/min".parse::<Spec>().unwrap_err();
        assert_eq!((error.kind, error.at), (Kind::Window, 2));
    }

    #[test]
    fn what_no_text_can_say_is_no_value_either() {
        let spec = |window| rate(Unit::Tokens, 1, window);
        let (one, none) = (Duration::from_secs(1), Duration::ZERO);
        assert_eq!(Specs::new(vec![]), Err(SpecsError::Empty));
        assert_eq!(Specs::new(vec![spec(one); 17]), Err(SpecsError::TooMany));
        assert_eq!(Specs::new(vec![spec(none)]), Err(SpecsError::Window(0)));
        assert_eq!(
            Specs::new(vec![spec(Duration::MAX)]),
            Err(SpecsError::Window(0))
        );
        assert_eq!(
            Specs::new(vec![spec(one); 2]),
            Err(SpecsError::Duplicate(1))
        );
        assert!(Specs::new(vec![spec(one), rate(Unit::Requests, 1, one)]).is_ok());
    }
}
