//! When to come back: the wait that an answer asks for, from its headers and its body.
//!
//! Invariant: a wait is at most [`MAX_WAIT`](crate::wait::MAX_WAIT).

use crate::error_body::ErrorBody;
use crate::rate_headers::LearnedLimit;
use crate::wait::{self, AnswerTime};
use core::time::Duration;
use http::HeaderMap;

/// Headers with a wait, and the units in a second of a plain number; the first that names one decides.
const HEADERS: [(&str, f64); 4] = [
    ("retry-after-ms", 1_000.0),
    ("x-ms-retry-after-ms", 1_000.0),
    ("retry-after", 1.0),
    ("x-retry-after", 1.0),
];

/// Returns the wait that an answer asks for; `None` if it names none, or only zero.
///
/// | order | source |
/// |---|---|
/// | 1 | `retry-after-ms`, `x-ms-retry-after-ms`, `retry-after`, `x-retry-after`: a number, a duration, a date, an epoch |
/// | 2 | the body: Google's `RetryInfo`, `retry_after` |
/// | 3 | the message: "try again in 3.2s", "retry after 7 seconds" |
/// | 4 | the longest reset of the limits with nothing left |
/// | 5 | the longest reset of the limits that do not say what is left |
/// | 6 | the shortest reset of all others |
pub(crate) fn retry_after(
    headers: &HeaderMap,
    time: AnswerTime,
    error: &ErrorBody,
    limits: &[LearnedLimit],
) -> Option<Duration> {
    in_headers(headers, time)
        .or_else(|| error.retry_delay.filter(|wait| !wait.is_zero()))
        .or_else(|| wait::wait_in_message(&error.message).filter(|wait| !wait.is_zero()))
        .or_else(|| of_limits(limits))
}

/// Returns the wait that the headers of an answer name; `None` for none, or only zero.
pub(crate) fn in_headers(headers: &HeaderMap, time: AnswerTime) -> Option<Duration> {
    HEADERS.iter().find_map(|(name, per_second)| {
        let value = headers.get(*name)?.to_str().ok()?;
        time.wait(value, *per_second).filter(|wait| !wait.is_zero())
    })
}

fn of_limits(limits: &[LearnedLimit]) -> Option<Duration> {
    let resets = |has: fn(Option<u64>) -> bool| {
        let chosen = limits.iter().filter(move |limit| has(limit.remaining));
        chosen
            .filter_map(|limit| limit.reset)
            .filter(|reset| !reset.is_zero())
    };
    resets(|left| left == Some(0))
        .max()
        .or_else(|| resets(|left| left.is_none()).max())
        .or_else(|| resets(|left| left.is_some()).min())
}

/// Reads `x-should-retry`: the service's own word on whether another attempt can succeed.
pub(crate) fn should_retry(headers: &HeaderMap) -> Option<bool> {
    let value = headers.get("x-should-retry")?.to_str().ok()?.trim();
    if value.eq_ignore_ascii_case("true") {
        Some(true)
    } else if value.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate_headers::learned;

    /// 1994-11-06T08:49:30Z.
    const NOW: Duration = Duration::from_secs(784_111_770);

    fn wait(headers: &[(&str, &str)], body: &str) -> Option<u128> {
        let map = crate::testing::headers(headers);
        let time = AnswerTime::of(&map, NOW);
        let error = ErrorBody::read(&map, body.as_bytes());
        let wait = retry_after(&map, time, &error, &learned(&map, time));
        wait.map(|wait| wait.as_millis())
    }

    const DAY: Option<u128> = Some(86_400_000);
    type Headers = &'static [(&'static str, &'static str)];

    /// Headers, and the wait in ms that they ask for.
    const WAITS: &[(Headers, Option<u128>)] = &[
        (&[], None),
        (&[("retry-after-ms", "1500")], Some(1_500)),
        (&[("Retry-After-Ms", "1500.5")], Some(1_500)),
        (&[("x-ms-retry-after-ms", "3000")], Some(3_000)),
        (&[("retry-after-ms", "20"), ("retry-after", "7")], Some(20)),
        (
            &[("retry-after-ms", "soon"), ("retry-after", "7")],
            Some(7_000),
        ),
        (
            &[("retry-after-ms", "0"), ("retry-after", "7")],
            Some(7_000),
        ),
        (&[("RETRY-AFTER", " 7 ")], Some(7_000)),
        (&[("retry-after", "0.25")], Some(250)),
        (&[("x-retry-after", "9"), ("retry-after", "7")], Some(7_000)),
        (&[("x-retry-after", "9")], Some(9_000)),
        (&[("retry-after", "3s")], Some(3_000)),
        (&[("retry-after", "784111773")], Some(3_000)),
        (&[("retry-after", "0")], None),
        (&[("retry-after", "-3")], None),
        (&[("retry-after", "99999999999999999999")], DAY),
        (&[("retry-after", "1e9")], None),
        (
            &[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")],
            Some(7_000),
        ),
        (&[("retry-after", "Sun, 06 Nov 1994 08:49:00 GMT")], None),
        (
            &[
                ("date", "Sun, 06 Nov 1994 09:49:00 GMT"),
                ("retry-after", "Sun, 06 Nov 1994 09:49:02 GMT"),
            ],
            Some(2_000),
        ),
        (
            &[
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", "3s"),
                ("x-ratelimit-reset-tokens", "12ms"),
            ],
            Some(3_000),
        ),
        (
            &[
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "12ms"),
                ("x-ratelimit-reset-requests", "6m0s"),
                ("x-ratelimit-remaining-requests", "5"),
            ],
            Some(12),
        ),
        (
            &[
                ("x-ratelimit-remaining-tokens", "90"),
                ("x-ratelimit-reset-tokens", "2s"),
                ("x-ratelimit-reset-requests", "8s"),
                ("x-ratelimit-remaining-requests", "5"),
            ],
            Some(2_000),
        ),
        (&[("x-ratelimit-reset", "784111774000")], Some(4_000)),
        (
            &[("ratelimit", "\"minute\";r=0;t=3, \"day\";r=50;t=600")],
            Some(3_000),
        ),
        (
            &[("x-rate-limit-reset", "4"), ("retry-after", "0")],
            Some(4_000),
        ),
        (
            &[
                ("x-ratelimit-reset-requests", "0"),
                ("x-ratelimit-reset-tokens", "-1"),
            ],
            None,
        ),
    ];

    #[test]
    fn the_wait_is_read_from_every_common_header() {
        for (headers, millis) in WAITS {
            assert_eq!(wait(headers, ""), *millis, "{headers:?}");
        }
    }

    #[test]
    fn the_body_is_believed_after_retry_after_and_before_a_reset() {
        let body = r#"{"error": {"message": "Please try again in 20ms."}}"#;
        let google = r#"{"error": {"message": "retry in 5s", "details": [{"retryDelay": "3s"}]}}"#;
        let reset = ("x-ratelimit-reset-requests", "8s");
        assert_eq!(wait(&[reset, ("retry-after", "1")], body), Some(1_000));
        assert_eq!(wait(&[reset], body), Some(20));
        assert_eq!(wait(&[reset], google), Some(3_000));
        assert_eq!(
            wait(&[reset], r#"{"error": {"message": "try again in 0s"}}"#),
            Some(8_000)
        );
    }

    #[test]
    fn the_services_word_on_retries_is_read() {
        for (value, expected) in [
            ("true", Some(true)),
            (" False ", Some(false)),
            ("maybe", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-should-retry", value.parse().unwrap());
            assert_eq!(should_retry(&headers), expected);
        }
    }
}
