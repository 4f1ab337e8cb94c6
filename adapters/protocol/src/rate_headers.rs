//! Limits that headers tell: how much there is, how much is left, and when it is full again.
//!
//! Invariant: at most [`MAX_LIMITS`] limits are read of one answer.

use crate::wait::AnswerTime;
use core::fmt;
use core::time::Duration;
use http::{HeaderMap, HeaderName};
use leasehold_core::limit::Unit;

/// Maximum number of limits read of one answer.
const MAX_LIMITS: usize = 16;

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counted {
    /// Requests.
    Requests,
    /// Tokens of prompt and completion together.
    Tokens,
    /// Tokens of the prompt.
    InputTokens,
    /// Tokens of the completion.
    OutputTokens,
}

impl Counted {
    /// Returns the unit in which a pool counts the same.
    #[must_use]
    pub const fn unit(self) -> Unit {
        match self {
            Self::Requests => Unit::Requests,
            Self::Tokens | Self::InputTokens | Self::OutputTokens => Unit::Tokens,
        }
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::InputTokens => "input tokens",
            Self::OutputTokens => "output tokens",
        })
    }
}

/// A limit as an answer tells it; each part may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LearnedLimit {
    /// What the limit counts.
    pub counted: Counted,
    /// Units in a window.
    pub limit: Option<u64>,
    /// Units left now.
    pub remaining: Option<u64>,
    /// Time until more is left; the service's own measure, often the time until all is.
    pub reset: Option<Duration>,
}

impl LearnedLimit {
    pub(crate) const fn new(counted: Counted) -> Self {
        Self {
            counted,
            limit: None,
            remaining: None,
            reset: None,
        }
    }

    /// Returns what a pool can observe: the units left, and for how long that holds.
    #[must_use]
    pub fn observation(&self) -> Option<(Unit, u32, Duration)> {
        let left = u32::try_from(self.remaining?).unwrap_or(u32::MAX);
        let reset = self.reset.filter(|reset| !reset.is_zero())?;
        Some((self.counted.unit(), left, reset))
    }
}

/// One of the three parts of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Limit,
    Remaining,
    Reset,
}

/// What tells a limit from the others of an answer: what it counts, and its window.
type Group<'a> = (Counted, Vec<&'a str>);

/// Reads all limits that the headers tell.
///
/// Understood are `x-ratelimit-`, `x-rate-limit-`, `ratelimit-` and `anthropic-ratelimit-` with a unit, a window, both
/// or neither, in any order, and the `ratelimit` field of the IETF drafts.
pub(crate) fn learned(headers: &HeaderMap, time: AnswerTime) -> Vec<LearnedLimit> {
    let mut found: Vec<(Group<'_>, LearnedLimit)> = Vec::new();
    for (name, value) in headers {
        let (Some((part, group)), Ok(value)) = (name_parts(name), value.to_str()) else {
            continue;
        };
        let index = match found.iter().position(|(known, _)| *known == group) {
            Some(index) => index,
            None if found.len() < MAX_LIMITS => {
                let limit = LearnedLimit::new(group.0);
                found.push((group, limit));
                found.len() - 1
            }
            None => continue,
        };
        let limit = &mut found[index].1;
        match part {
            Part::Limit => limit.limit = limit.limit.or_else(|| count(value)),
            Part::Remaining => limit.remaining = limit.remaining.or_else(|| count(value)),
            Part::Reset => limit.reset = limit.reset.or_else(|| reset(value, time)),
        }
    }
    let mut limits: Vec<_> = found.into_iter().map(|(_, limit)| limit).collect();
    let values = headers.get_all("ratelimit").iter();
    limits.extend(
        values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| ietf(value, time)),
    );
    limits.retain(|limit| *limit != LearnedLimit::new(limit.counted));
    limits.truncate(MAX_LIMITS);
    limits
}

/// Splits a header's name into its part, the words that tell its limit from others, and what the limit counts.
fn name_parts(name: &HeaderName) -> Option<(Part, Group<'_>)> {
    let name = name.as_str();
    let prefixes = [
        "anthropic-ratelimit-",
        "x-ratelimit-",
        "x-rate-limit-",
        "ratelimit-",
    ];
    let rest = prefixes
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))?;
    let (mut part, mut group) = (None, Vec::new());
    let (mut tokens, mut input, mut output) = (false, false, false);
    for word in rest.split(['-', '_']) {
        match word {
            "limit" => part = Some(Part::Limit),
            "remaining" => part = Some(Part::Remaining),
            "reset" => part = Some(Part::Reset),
            "requests" | "request" | "req" | "after" => {}
            "tokens" | "token" => tokens = true,
            "input" | "prompt" => input = true,
            "output" | "completion" | "generated" => output = true,
            "second" | "minute" | "hour" | "day" | "month" | "usage" | "based" => group.push(word),
            // A window of several units, such as `1m` or `5`.
            _ if word.starts_with(|c: char| c.is_ascii_digit()) => group.push(word),
            // Images, audio, policies: nothing that a pool counts.
            _ => return None,
        }
    }
    let counted = match (tokens, input, output) {
        (_, true, _) => Counted::InputTokens,
        (_, _, true) => Counted::OutputTokens,
        (true, ..) => Counted::Tokens,
        (false, ..) => Counted::Requests,
    };
    group.sort_unstable();
    Some((part?, (counted, group)))
}

/// Reads a count; one below zero means that nothing is told, as on Azure.
fn count(value: &str) -> Option<u64> {
    // `100, 100;w=60` names the policy after the number.
    let number = value.split([',', ';']).next()?.trim();
    let number = crate::wait::decimal(number)?;
    // A float's cast is saturating.
    (number >= 0.0).then_some(number as u64)
}

fn reset(value: &str, time: AnswerTime) -> Option<Duration> {
    let is_negative = value.trim().starts_with('-');
    (!is_negative).then(|| time.wait(value, 1.0))?
}

/// Reads `"minute";r=5;t=30, "day";r=50;t=600`, and the older `limit=100, remaining=50, reset=30` of one limit.
fn ietf(value: &str, time: AnswerTime) -> impl Iterator<Item = LearnedLimit> {
    let between_limits = if value.contains(';') { ',' } else { ';' };
    value
        .split(between_limits)
        .map(move |text| ietf_limit(text, time))
}

fn ietf_limit(text: &str, time: AnswerTime) -> LearnedLimit {
    let mut limit = LearnedLimit::new(Counted::Requests);
    for pair in text.split([',', ';']) {
        let Some((name, value)) = pair.split_once('=') else {
            continue;
        };
        match name.trim() {
            "limit" | "q" => limit.limit = count(value),
            "remaining" | "r" => limit.remaining = count(value),
            "reset" | "t" => limit.reset = reset(value, time),
            _ => {}
        }
    }
    limit
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-28T18:02:04Z.
    const NOW: Duration = Duration::from_secs(1_795_888_924);

    /// What a limit counts, its size, what is left, and its reset in ms.
    type Fields = (Counted, Option<u64>, Option<u64>, Option<u128>);

    fn read(headers: &[(&str, &str)]) -> Vec<Fields> {
        let map = crate::testing::headers(headers);
        let limits = learned(&map, AnswerTime::of(&map, NOW));
        let fields = |limit: LearnedLimit| {
            let reset = limit.reset.map(|it| it.as_millis());
            (limit.counted, limit.limit, limit.remaining, reset)
        };
        limits.into_iter().map(fields).collect()
    }

    #[test]
    fn the_headers_of_openai_are_read() {
        let limits = read(&[
            ("X-RateLimit-Limit-Requests", "60"),
            ("x-ratelimit-remaining-requests", "59"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-limit-tokens", "150000"),
            ("x-ratelimit-remaining-tokens", "149984"),
            ("x-ratelimit-reset-tokens", "6m0s"),
            ("x-ratelimit-limit-images", "5"),
        ]);
        assert_eq!(limits.len(), 2);
        assert!(limits.contains(&(Counted::Requests, Some(60), Some(59), Some(1_000))));
        assert!(limits.contains(&(Counted::Tokens, Some(150_000), Some(149_984), Some(360_000))));
    }

    #[test]
    fn the_headers_of_anthropic_are_read() {
        let limits = read(&[
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "0"),
            ("anthropic-ratelimit-requests-reset", "2026-11-28T18:02:06Z"),
            ("anthropic-ratelimit-input-tokens-remaining", "1000"),
            ("anthropic-ratelimit-output-tokens-remaining", "200"),
            (
                "anthropic-ratelimit-output-tokens-reset",
                "2026-11-28T18:03:04Z",
            ),
        ]);
        assert!(limits.contains(&(Counted::Requests, Some(50), Some(0), Some(2_000))));
        assert!(limits.contains(&(Counted::InputTokens, None, Some(1_000), None)));
        assert!(limits.contains(&(Counted::OutputTokens, None, Some(200), Some(60_000))));
    }

    #[test]
    fn other_dialects_are_read() {
        let requests = |limit, remaining, reset| vec![(Counted::Requests, limit, remaining, reset)];
        for (headers, expected) in [
            (
                &[
                    ("x-ratelimit-limit", "20"),
                    ("x-ratelimit-remaining", "0"),
                    ("x-ratelimit-reset", "1795888926"),
                ][..],
                requests(Some(20), Some(0), Some(2_000)),
            ),
            (
                &[("x-rate-limit-reset", "1795888926000")],
                requests(None, None, Some(2_000)),
            ),
            (
                &[
                    ("ratelimit-limit", "100, 100;w=60"),
                    ("ratelimit-reset", "30"),
                ],
                requests(Some(100), None, Some(30_000)),
            ),
            (
                &[("ratelimit", "\"default\";r=50;t=30")],
                requests(None, Some(50), Some(30_000)),
            ),
            (
                &[("ratelimit", "limit=100, remaining=50, reset=30")],
                requests(Some(100), Some(50), Some(30_000)),
            ),
            (
                &[("x-ratelimit-remaining-req-minute", "3")],
                requests(None, Some(3), None),
            ),
            (
                &[("x-ratelimit-remaining-tokens-5-minute", "3.7")],
                vec![(Counted::Tokens, None, Some(3), None)],
            ),
            // Azure tells nothing by these.
            (
                &[
                    ("x-ratelimit-reset-requests", "-1"),
                    ("x-ratelimit-limit-requests", "-1"),
                ],
                vec![],
            ),
            (
                &[("x-ratelimit-reset-tokens", "0")],
                vec![(Counted::Tokens, None, None, Some(0))],
            ),
            (
                &[
                    ("x-ratelimit-remaining", "many"),
                    ("x-ratelimit", "5"),
                    ("ratelimit", ""),
                ],
                vec![],
            ),
            (
                &[("x-ratelimit-remaining", "99999999999999999999999")],
                requests(None, Some(u64::MAX), None),
            ),
        ] {
            assert_eq!(read(headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn each_limit_of_the_ietf_field_is_one_of_its_own() {
        let minute = (Counted::Requests, None, Some(0), Some(3_000));
        let day = (Counted::Requests, None, Some(50), Some(600_000));
        for headers in [
            &[("ratelimit", "\"minute\";r=0;t=3, \"day\";r=50;t=600")][..],
            &[
                ("ratelimit", "\"minute\";r=0;t=3"),
                ("ratelimit", "\"day\";r=50;t=600"),
            ],
        ] {
            assert_eq!(read(headers), [minute, day], "{headers:?}");
        }
    }

    #[test]
    fn two_windows_of_one_unit_are_two_limits() {
        let limits = read(&[
            ("x-ratelimit-remaining-requests-day", "900"),
            ("x-ratelimit-remaining-requests-minute", "0"),
        ]);
        assert_eq!(limits.len(), 2);
    }

    #[test]
    fn the_number_of_limits_is_bounded() {
        let names: Vec<_> = (0..40)
            .map(|i| format!("x-ratelimit-remaining-{i}"))
            .collect();
        let headers: Vec<_> = names.iter().map(|name| (&**name, "1")).collect();
        assert_eq!(read(&headers).len(), MAX_LIMITS);
        let many = "\"x\";r=1;t=2,".repeat(40);
        assert_eq!(read(&[("ratelimit", &many)]).len(), MAX_LIMITS);
    }

    #[test]
    fn a_limit_can_be_observed_if_it_says_what_is_left_and_for_how_long() {
        let mut limit = LearnedLimit::new(Counted::InputTokens);
        assert_eq!(limit.observation(), None);
        limit.remaining = Some(u64::MAX);
        limit.reset = Some(Duration::ZERO);
        assert_eq!(limit.observation(), None);
        limit.reset = Some(Duration::from_secs(1));
        assert_eq!(
            limit.observation(),
            Some((Unit::Tokens, u32::MAX, Duration::from_secs(1)))
        );
    }
}
