//! Whether and when to try again.
//!
//! Invariant: a wait is never shorter than what the service asked for, and never longer than
//! [`MAX_RETRY_AFTER`] on its account.

use core::time::Duration;
use leasehold_core::retry::Backoff;
use std::time::SystemTime;
use ureq::http::HeaderMap;

/// The longest wait that a service is believed to mean.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// How often and how patiently a failed call is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The most attempts after the first: 3 by default.
    pub max_retries: u32,
    /// The longest first delay: 500 ms by default. Each delay is drawn between zero and its greatest,
    /// which doubles from one attempt to the next.
    pub base: Duration,
    /// The longest delay of all: 8 s by default. What the service asks for comes on top.
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

/// How long a service asks its caller to wait: by `retry-after-ms`, else by `Retry-After` in seconds or
/// as a date. A time in the past is zero; what can't be understood is passed over.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name| Some(headers.get(name)?.to_str().ok()?.trim());
    let in_millis = text("retry-after-ms").and_then(|value| number(value, 1_000.0));
    let in_seconds_or_date = || {
        let value = text("retry-after")?;
        number(value, 1.0).or_else(|| date(value, now))
    };
    in_millis
        .or_else(in_seconds_or_date)
        .map(|wait| wait.min(MAX_RETRY_AFTER))
}

/// A decimal number of units, `per_second` of which make a second. No exponent, `inf` or `nan`.
fn number(value: &str, per_second: f64) -> Option<Duration> {
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
    fn a_service_says_how_long_to_wait_in_many_ways() {
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
            let nanos = millis.map(Duration::from_millis);
            let near =
                |wait: Duration, nanos: Duration| wait.abs_diff(nanos) < Duration::from_millis(1);
            assert_eq!(wait.is_some(), nanos.is_some(), "{headers:?}: {wait:?}");
            assert!(
                wait.zip(nanos)
                    .is_none_or(|(wait, nanos)| near(wait, nanos)),
                "{headers:?}: {wait:?}"
            );
        }
    }
}
