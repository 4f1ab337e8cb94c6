//! Parser of limits as text.
//!
//! Invariant: each mistake is told with its kind and its fragment of the text; a spec that was read can be built.

use super::super::admission::Anchor;
use super::super::cost::Unit;
use super::super::rate::Rate;
use super::{
    Algorithm, LimitSpec, LimitSpecs, LimitSpecsError, ParseLimitError, ParseLimitErrorKind as Kind,
};
use crate::time::{ParseSpanError, parse_span};
use crate::util::number::{NumberError, number_length, parse_number};
use alloc::string::String;
use core::num::NonZeroU32;
use core::str::FromStr;
use core::time::Duration;

impl FromStr for LimitSpec {
    type Err = ParseLimitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_spec(text)
    }
}

impl FromStr for LimitSpecs {
    type Err = ParseLimitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_specs(text)
    }
}

impl FromStr for Rate {
    type Err = ParseLimitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_rate(text)
    }
}

fn parse_specs(text: &str) -> Result<LimitSpecs, ParseLimitError> {
    read_specs(Fragment { at: 0, text }).map_err(|mistake| mistake.within(text))
}

fn parse_spec(text: &str) -> Result<LimitSpec, ParseLimitError> {
    let whole = Fragment { at: 0, text };
    read_single(whole, read_spec).map_err(|mistake| mistake.within(text))
}

/// Reads a limit of requests without algorithm and anchor.
fn parse_rate(text: &str) -> Result<Rate, ParseLimitError> {
    let whole = Fragment { at: 0, text };
    let rate = read_single(whole, read_limit).and_then(|limit| match limit {
        Limit::Rate {
            unit: Unit::Requests,
            rate,
            options,
        } if options.text.is_empty() => Ok(rate),
        Limit::Rate { .. } | Limit::Concurrent(_) => Err(whole.mistake(Kind::NotARate)),
    });
    rate.map_err(|mistake| mistake.within(text))
}

/// A part of a text, and the byte offset where it begins.
#[derive(Clone, Copy)]
struct Fragment<'a> {
    at: usize,
    text: &'a str,
}

/// A wrong fragment, and what is wrong with it.
struct Mistake<'a> {
    fragment: Fragment<'a>,
    kind: Kind,
}

/// A limit whose algorithm and anchor have not been read.
enum Limit<'a> {
    Rate {
        unit: Unit,
        rate: Rate,
        options: Fragment<'a>,
    },
    Concurrent(NonZeroU32),
}

fn read_specs(mut rest: Fragment<'_>) -> Result<LimitSpecs, Mistake<'_>> {
    let mut specs = LimitSpecs::none();
    loop {
        let (part, more) = match rest.split_once(',') {
            Some((part, more)) => (part, Some(more)),
            None => (rest, None),
        };
        specs.push(read_spec(part)?).map_err(|error| {
            part.mistake(match error {
                LimitSpecsError::Empty => Kind::Empty,
                LimitSpecsError::TooMany => Kind::TooMany,
                LimitSpecsError::Config { error, .. } => Kind::Config(error),
                LimitSpecsError::Duplicate { .. } => Kind::Duplicate,
            })
        })?;
        match more {
            Some(more) => rest = more,
            None => return Ok(specs),
        }
    }
}

fn read_single<'a, T>(
    whole: Fragment<'a>,
    read: impl Fn(Fragment<'a>) -> Result<T, Mistake<'a>>,
) -> Result<T, Mistake<'a>> {
    let Some((first, second)) = whole.split_once(',') else {
        return read(whole);
    };
    read(first).and_then(|_| Err(second.mistake(Kind::Several)))
}

fn read_spec(part: Fragment<'_>) -> Result<LimitSpec, Mistake<'_>> {
    let spec = match read_limit(part)? {
        Limit::Concurrent(count) => LimitSpec::Concurrent(count),
        Limit::Rate {
            unit,
            rate,
            options,
        } => LimitSpec::Rate {
            unit,
            rate,
            algorithm: read_options(options, rate.limit)?,
        },
    };
    match spec.limiter() {
        Ok(_) => Ok(spec),
        Err(error) => Err(part.mistake(Kind::Config(error))),
    }
}

/// Reads count, unit and window.
fn read_limit(part: Fragment<'_>) -> Result<Limit<'_>, Mistake<'_>> {
    let part = part.trimmed();
    if part.text.is_empty() {
        return Err(part.mistake(Kind::Empty));
    }
    let (head, after_slash) = match part.split_once('/') {
        Some((head, after)) => (head.trimmed(), Some(after.trimmed())),
        None => (part, None),
    };
    let (digits, unit) = head.split_at(number_length(head.text));
    // A count is followed by a unit. In `1.5` or `-3`, what follows the digits is a part of the mistake.
    let separate = |c: char| c.is_ascii_whitespace() || c.is_alphabetic();
    if digits.text.is_empty() || !unit.text.chars().next().is_none_or(separate) {
        return Err(head.split_word().0.mistake(Kind::Count));
    }
    let limit = digits.count()?;
    let unit = unit.trimmed();
    let (word, _) = unit.split_word();
    if word.is("concurrent") {
        let after = part.after(word);
        return match after.text {
            "" => Ok(Limit::Concurrent(limit)),
            _ => Err(after.mistake(Kind::AfterConcurrent)),
        };
    }
    let unit = if unit.is("") || unit.is("request") || unit.is("requests") {
        Unit::Requests
    } else if unit.is("token") || unit.is("tokens") {
        Unit::Tokens
    } else {
        return Err(unit.mistake(Kind::UnknownUnit));
    };
    let (window, options) = read_window(after_slash.unwrap_or_else(|| head.end()))?;
    let rate = Rate { limit, window };
    Ok(Limit::Rate {
        unit,
        rate,
        options,
    })
}

/// Reads a window, and answers what follows it.
fn read_window(text: Fragment<'_>) -> Result<(Duration, Fragment<'_>), Mistake<'_>> {
    if text.text.is_empty() {
        return Err(text.mistake(Kind::NoWindow));
    }
    let (_, unit) = text.split_at(number_length(text.text));
    let after = text.after(unit.trimmed().split_word().0);
    let (window, _) = text.split_at(text.text.len().saturating_sub(after.text.len()));
    let kind = match parse_span(window.text) {
        Ok(span) if !span.is_zero() => return Ok((span, after)),
        Ok(_) => Kind::ZeroWindow,
        Err(ParseSpanError::Malformed) => Kind::Window,
        Err(ParseSpanError::TooLong) => Kind::WindowTooLong,
    };
    Err(window.mistake(kind))
}

/// Reads algorithm and anchor, in either order.
fn read_options(options: Fragment<'_>, limit: NonZeroU32) -> Result<Algorithm, Mistake<'_>> {
    let mut words = Words(options);
    let (mut algorithm, mut anchor) = (None, None);
    while let Some(word) = words.next() {
        let repeated = if word.is("from") {
            anchor.replace((word, words.anchor()?)).is_some()
        } else {
            algorithm.replace(words.algorithm(word, limit)?).is_some()
        };
        if repeated {
            return Err(word.mistake(Kind::Repeated));
        }
    }
    let algorithm = algorithm.unwrap_or_default();
    let Some((from, anchor)) = anchor else {
        return Ok(algorithm);
    };
    match algorithm {
        Algorithm::Exact { .. } => Ok(Algorithm::Exact { anchor }),
        Algorithm::Bucketed { buckets, .. } => Ok(Algorithm::Bucketed { buckets, anchor }),
        Algorithm::SlidingCounter
        | Algorithm::Fixed
        | Algorithm::TokenBucket { .. }
        | Algorithm::Gcra { .. }
        | Algorithm::Paced => Err(from.mistake(Kind::NoAnchor)),
    }
}

/// The words that have not been read.
struct Words<'a>(Fragment<'a>);

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<Fragment<'a>> {
        let (word, rest) = self.0.trimmed().split_word();
        self.0 = rest.trimmed();
        Some(word).filter(|word| !word.text.is_empty())
    }

    /// Reads the next word if it is the `expected` one.
    fn take(&mut self, expected: &str) -> bool {
        let (word, rest) = self.0.split_word();
        let is_there = word.is(expected);
        if is_there {
            self.0 = rest.trimmed();
        }
        is_there
    }

    /// Reads what follows `from`.
    fn anchor(&mut self) -> Result<Anchor, Mistake<'a>> {
        if self.take("completion") {
            Ok(Anchor::Completion)
        } else if self.take("grant") {
            Ok(Anchor::Grant)
        } else {
            Err(self.0.split_word().0.mistake(Kind::UnknownAnchor))
        }
    }

    /// Reads what follows the first word of an algorithm.
    fn algorithm(
        &mut self,
        first: Fragment<'a>,
        limit: NonZeroU32,
    ) -> Result<Algorithm, Mistake<'a>> {
        Ok(if first.is("exact") {
            Algorithm::default()
        } else if first.is("bucketed") {
            Algorithm::Bucketed {
                buckets: self.number()?,
                anchor: Anchor::default(),
            }
        } else if first.is("sliding") && self.take("counter") {
            Algorithm::SlidingCounter
        } else if first.is("fixed") {
            Algorithm::Fixed
        } else if first.is("token") && self.take("bucket") {
            Algorithm::TokenBucket {
                burst: self.burst()?.unwrap_or(limit),
            }
        } else if first.is("gcra") {
            Algorithm::Gcra {
                burst: self.burst()?.unwrap_or(limit),
            }
        } else if first.is("paced") {
            Algorithm::Paced
        } else {
            return Err(first.mistake(Kind::UnknownAlgorithm));
        })
    }

    fn burst(&mut self) -> Result<Option<NonZeroU32>, Mistake<'a>> {
        if self.take("burst") {
            self.number().map(Some)
        } else {
            Ok(None)
        }
    }

    fn number(&mut self) -> Result<NonZeroU32, Mistake<'a>> {
        let (word, rest) = self.0.split_word();
        self.0 = rest.trimmed();
        word.count()
    }
}

impl<'a> Fragment<'a> {
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

    /// The fragments before and after a separator, which must be ASCII.
    fn split_once(self, separator: char) -> Option<(Self, Self)> {
        let (before, after) = self.split_at(self.text.find(separator)?);
        Some((before, after.split_at(1).1))
    }

    /// The first word, which is all up to whitespace, and the rest.
    fn split_word(self) -> (Self, Self) {
        let end = self.text.find(|c: char| c.is_ascii_whitespace());
        self.split_at(end.unwrap_or(self.text.len()))
    }

    /// The rest after a fragment of it, trimmed.
    fn after(self, inner: Self) -> Self {
        let end = inner.at.saturating_add(inner.text.len());
        self.split_at(end.saturating_sub(self.at)).1.trimmed()
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

    fn is(self, word: &str) -> bool {
        self.text.eq_ignore_ascii_case(word)
    }

    /// Reads a number above zero.
    fn count(self) -> Result<NonZeroU32, Mistake<'a>> {
        let kind = match parse_number(self.text).map(u32::try_from) {
            Ok(Ok(number)) => match NonZeroU32::new(number) {
                Some(number) => return Ok(number),
                None => Kind::ZeroCount,
            },
            Ok(Err(_)) | Err(NumberError::TooLarge) => Kind::CountTooLarge,
            Err(NumberError::Malformed) => Kind::Count,
        };
        Err(self.mistake(kind))
    }

    fn mistake(self, kind: Kind) -> Mistake<'a> {
        Mistake {
            fragment: self.trimmed(),
            kind,
        }
    }
}

impl Mistake<'_> {
    /// The most characters of a wrong part that are shown.
    const SHOWN: usize = 24;

    /// Tells the place of the mistake in `whole`, the text that the fragment is a part of.
    fn within(self, whole: &str) -> ParseLimitError {
        let Fragment { at, text } = self.fragment;
        let mut found: String = text.chars().take(Self::SHOWN).collect();
        if found.len() < text.len() {
            found.push('…');
        }
        let before = whole.get(..at).unwrap_or(whole);
        ParseLimitError {
            at,
            character: before.chars().count().saturating_add(1),
            kind: self.kind,
            found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::LimitConfigError;
    use super::*;
    use alloc::format;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    fn refused(text: &str) -> (Kind, usize, String) {
        let error = text.parse::<LimitSpecs>().unwrap_err();
        (error.kind, error.at, error.found)
    }

    fn each_is_refused<const N: usize>(mistakes: [(&str, Kind, usize, &str); N]) {
        for (text, kind, at, found) in mistakes {
            assert_eq!(refused(text), (kind, at, found.into()), "{text:?}");
        }
    }

    #[test]
    fn a_mistake_in_count_or_unit_has_its_kind_its_place_and_its_part() {
        let two_to_the_64 = "18446744073709551616";
        each_is_refused([
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
                &format!("{two_to_the_64} concurrent"),
                Kind::CountTooLarge,
                0,
                two_to_the_64,
            ),
            ("5 apples/min", Kind::UnknownUnit, 2, "apples"),
            ("5 token s/min", Kind::UnknownUnit, 2, "token s"),
            ("5 apples", Kind::UnknownUnit, 2, "apples"),
            ("3 60s", Kind::UnknownUnit, 2, "60s"),
            ("2 concurrent / min", Kind::AfterConcurrent, 13, "/ min"),
            ("2 concurrent/", Kind::AfterConcurrent, 12, "/"),
            (
                "2 concurrent from grant",
                Kind::AfterConcurrent,
                13,
                "from grant",
            ),
        ]);
    }

    #[test]
    fn a_mistake_in_a_window_has_its_kind_its_place_and_its_part() {
        each_is_refused([
            ("3", Kind::NoWindow, 1, ""),
            ("3 , 2/s", Kind::NoWindow, 1, ""),
            ("3 tokens ", Kind::NoWindow, 8, ""),
            ("3/ ", Kind::NoWindow, 2, ""),
            ("3/60", Kind::Window, 2, "60"),
            ("3/60 from grant", Kind::Window, 2, "60 from"),
            ("3/6 0s", Kind::Window, 2, "6 0s"),
            ("3/1.5s", Kind::Window, 2, "1.5s"),
            ("3/_6s", Kind::Window, 2, "_6s"),
            ("3/s/s", Kind::Window, 2, "s/s"),
            ("3/ minute", Kind::Window, 3, "minute"),
            ("3/0x", Kind::Window, 2, "0x"),
            ("3/bucketed 6", Kind::Window, 2, "bucketed"),
            ("3/0s", Kind::ZeroWindow, 2, "0s"),
            ("3/300000d", Kind::WindowTooLong, 2, "300000d"),
            (
                "3/99999999999999999999ns",
                Kind::WindowTooLong,
                2,
                "99999999999999999999ns",
            ),
        ]);
    }

    #[test]
    fn a_mistake_in_algorithm_or_anchor_has_its_kind_its_place_and_its_part() {
        each_is_refused([
            ("3/s smooth", Kind::UnknownAlgorithm, 4, "smooth"),
            ("3/s sliding", Kind::UnknownAlgorithm, 4, "sliding"),
            ("3/s sliding log", Kind::UnknownAlgorithm, 4, "sliding"),
            ("3/s token", Kind::UnknownAlgorithm, 4, "token"),
            ("3/s bucketed6", Kind::UnknownAlgorithm, 4, "bucketed6"),
            ("3/s paced burst 2", Kind::UnknownAlgorithm, 10, "burst"),
            ("3/s bucketed ", Kind::Count, 12, ""),
            ("3/s bucketed six", Kind::Count, 13, "six"),
            ("3/s bucketed 0", Kind::ZeroCount, 13, "0"),
            ("3/s gcra burst", Kind::Count, 14, ""),
            ("3/s gcra burst 2x", Kind::Count, 15, "2x"),
            (
                "3/s token bucket burst 4294967296",
                Kind::CountTooLarge,
                23,
                "4294967296",
            ),
            ("3/s from", Kind::UnknownAnchor, 8, ""),
            ("3/s from start", Kind::UnknownAnchor, 9, "start"),
            ("3/s fixed from grant", Kind::NoAnchor, 10, "from"),
            ("3/s from completion gcra", Kind::NoAnchor, 4, "from"),
            ("3/s exact paced", Kind::Repeated, 10, "paced"),
            ("3/s from grant from grant", Kind::Repeated, 15, "from"),
        ]);
    }

    #[test]
    fn a_limit_that_cannot_be_built_is_refused_as_a_whole() {
        use LimitConfigError::{TooFine, TooManyBuckets, UnevenBuckets};
        each_is_refused([
            (
                "1/s, 3/100ns bucketed 7",
                Kind::Config(UnevenBuckets),
                5,
                "3/100ns bucketed 7",
            ),
            (
                "3/s bucketed 100000",
                Kind::Config(TooManyBuckets),
                0,
                "3/s bucketed 100000",
            ),
            ("3/2ns paced", Kind::Config(TooFine), 0, "3/2ns paced"),
        ]);
    }

    #[test]
    fn a_limit_too_many_is_refused() {
        each_is_refused([
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
        ]);
        let text = |count: usize| {
            let parts: Vec<_> = (1..=count).map(|i| format!("1/{i}s")).collect();
            parts.join(",")
        };
        let most = text(16).parse::<LimitSpecs>().unwrap();
        assert_eq!(most.len(), LimitSpecs::MAX);
        let at = text(16).len().saturating_add(1);
        assert_eq!(refused(&text(17)), (Kind::TooMany, at, "1/17s".into()));
    }

    #[test]
    fn a_place_is_a_character_boundary_and_counted_in_characters() {
        for (text, kind, at, character) in [
            ("5 äpfel/min", Kind::UnknownUnit, 2, 3),
            ("5äpfel/min", Kind::UnknownUnit, 1, 2),
            ("５/min", Kind::Count, 0, 1),
            ("3/µs", Kind::Window, 2, 3),
            ("3/min,\u{a0}2/s", Kind::Count, 6, 7),
            ("3/min, 2 🦀🦀, x", Kind::UnknownUnit, 9, 10),
            ("3/min 🦀, x", Kind::UnknownAlgorithm, 6, 7),
        ] {
            let error = text.parse::<LimitSpecs>().unwrap_err();
            assert_eq!(
                (error.kind, error.at, error.character),
                (kind, at, character),
                "{text:?}"
            );
            assert!(text.is_char_boundary(at), "{text:?}");
        }
        let mistake = Fragment { at: 6, text: "x" }.mistake(Kind::Count);
        assert_eq!(mistake.within("äöüx").character, 4);
    }

    #[test]
    fn a_long_mistake_is_cut_short() {
        let text = format!("3 {}/min", "ä".repeat(1_000));
        let error = text.parse::<LimitSpec>().unwrap_err();
        assert_eq!(error.found, format!("{}…", "ä".repeat(24)));
        assert!(error.to_string().contains("at character 3"));
    }

    #[test]
    fn several_limits_are_not_one() {
        let error = "3/s, 2/min".parse::<LimitSpec>().unwrap_err();
        assert_eq!((error.kind, error.at), (Kind::Several, 5));
        let first = "3/x, 2/min".parse::<LimitSpec>().unwrap_err();
        assert_eq!((first.kind, first.at), (Kind::Window, 2));
    }
}
