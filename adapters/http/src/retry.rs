//! Retry settings, and the wait that a service asks for.
//!
//! Invariant: a wait read from headers is at most [`MAX_RETRY_AFTER`].

use core::time::Duration;
use leasehold_core::retry::Backoff;
use std::time::SystemTime;
use ureq::http::HeaderMap;

/// Cap on the wait that a service may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Number of retries, and the delays between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// Maximum number of attempts after the first: 3 by default.
    pub max_retries: u32,
    /// Longest first delay: 500 ms by default. Each delay is drawn between zero and its maximum,
    /// which doubles with every attempt (full jitter).
    pub base: Duration,
    /// Longest delay: 8 s by default. The wait that the service asks for is added to it.
    pub cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_retries: 3,
            base: Duration::from_millis(500),
            cap: Duration::from_secs(8),
        }
    }
}

impl RetryPolicy {
    pub(crate) fn backoff(&self, seed: u64) -> Backoff {
        Backoff::new(self.base, self.cap, seed)
    }
}

/// Returns the wait that a service asks for: `retry-after-ms`, else `Retry-After` in seconds or as a date.
///
/// A time in the past is zero; a value that can't be parsed is ignored.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name| Some(headers.get(name)?.to_str().ok()?.trim());
    let in_millis = text("retry-after-ms").and_then(|value| decimal(value, 1_000.0));
    let in_seconds_or_date = || {
        let value = text("retry-after")?;
        decimal(value, 1.0).or_else(|| date(value, now))
    };
    in_millis
        .or_else(in_seconds_or_date)
        .map(|wait| wait.min(MAX_RETRY_AFTER))
}

/// Parses a decimal number of units, with `per_second` units in a second; no exponent, `inf` or `nan`.
fn decimal(value: &str, per_second: f64) -> Option<Duration> {
    let plain = |byte: u8| byte.is_ascii_digit() || byte == b'.' || byte == b'-';
    if !value.bytes().all(plain) {
        return None;
    }
    let seconds = value.parse::<f64>().ok()? / per_second;
    let seconds = seconds.clamp(0.0, MAX_RETRY_AFTER.as_secs_f64());
    Duration::try_from_secs_f64(seconds).ok()
}

fn date(value: &str, now: SystemTime) -> Option<Duration> {
    let until = httpdate::parse_http_date(value).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ureq::http::{HeaderName, HeaderValue};

    #[test]
    fn the_wait_is_read_from_every_common_form() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        let day = Some(86_400_000);
        for (headers, millis) in [
            (&[][..], None),
            (&[("retry-after-ms", "1500")], Some(1_500)),
            (&[("retry-after-ms", "0.5")], Some(0)),
            (&[("retry-after-ms", "20"), ("retry-after", "7")], Some(20)),
            (
                &[("retry-after-ms", "soon"), ("retry-after", "7")],
                Some(7_000),
            ),
            (&[("retry-after", " 7 ")], Some(7_000)),
            (&[("retry-after", "0.25")], Some(250)),
            (&[("retry-after", "-3")], Some(0)),
            (&[("retry-after", "99999999999999999999")], day),
            (&[("retry-after", &"9".repeat(400))], day),
            (&[("retry-after", "1e9")], None),
            (&[("retry-after", "nan")], None),
            (&[("retry-after", "inf")], None),
            (&[("retry-after", "")], None),
            (&[("retry-after", "-")], None),
            (
                &[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")],
                Some(7_000),
            ),
            (
                &[("retry-after", "Sunday, 06-Nov-94 08:49:37 GMT")],
                Some(7_000),
            ),
            (&[("retry-after", "Sun, 06 Nov 1994 08:49:00 GMT")], Some(0)),
            (&[("retry-after", "Fri, 06 Nov 2099 08:49:00 GMT")], day),
            (&[("retry-after", "tomorrow")], None),
        ] {
            let map: HeaderMap = headers
                .iter()
                .map(|(name, value)| {
                    let value = HeaderValue::from_str(value).unwrap();
                    (HeaderName::from_static(name), value)
                })
                .collect();
            let wait = retry_after(&map, now);
            let expected = millis.map(Duration::from_millis);
            assert_eq!(wait.is_some(), expected.is_some(), "{headers:?}: {wait:?}");
            let error = wait.zip(expected).map(|(wait, it)| wait.abs_diff(it));
            assert!(
                error < Some(Duration::from_millis(1)),
                "{headers:?}: {wait:?}"
            );
        }
    }
}
