//! Refusals of a gateway in the words of the service that it stands for.
//!
//! Invariant: an SDK that reads one knows whether to ask again and when. `Retry-After` is at most a minute, because SDKs
//! don't ask again after a longer one; the true time is in `x-ratelimit-reset-requests`.

use crate::call::Call;
use core::time::Duration;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use leasehold_core::pool::Cause;
use serde_json::{Value, json};

/// The longest `Retry-After` after which all SDKs ask again.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Why a gateway does not serve a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// One word, such as `rate_limit_exceeded`.
    pub code: &'static str,
    /// What happened, and what to do.
    pub message: String,
    /// The time after which another try may be served, if that is known.
    pub wait: Option<Duration>,
    /// What the soonest key waits for, where a pool has refused the call.
    pub cause: Option<Cause>,
}

impl Refusal {
    /// The code of a refusal for want of money, after which SDKs don't ask again by themselves.
    pub const OVER_BUDGET: &'static str = "insufficient_quota";

    /// The code of a refusal by an operator, after which SDKs don't ask again by themselves.
    pub const CANCELLED: &'static str = "cancelled";

    /// Refuses a call for a reason that no wait changes.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            wait: None,
            cause: None,
        }
    }

    /// Tells what the soonest key waits for.
    #[must_use]
    pub fn with_cause(mut self, cause: Option<Cause>) -> Self {
        self.cause = cause;
        self
    }

    /// Tells when another try may be served.
    #[must_use]
    pub fn with_wait(mut self, wait: Option<Duration>) -> Self {
        self.wait = wait;
        self
    }

    /// Returns the body, as the service of the call words its errors.
    #[must_use]
    pub fn body(&self, call: Call) -> Value {
        let kind = error_type(call, self.status);
        match call {
            Call::Messages => {
                json!({"type": "error", "error": {"type": kind, "message": self.message}})
            }
            Call::Chat | Call::Completions | Call::Responses | Call::Embeddings | Call::Other => {
                json!({"error": {
                    "message": self.message,
                    "type": kind,
                    "param": null,
                    "code": self.code,
                }})
            }
        }
    }

    /// Returns the event that ends a stream which has begun.
    #[must_use]
    pub fn event(&self, call: Call) -> Vec<u8> {
        let (event, data) = match call {
            Call::Messages => ("event: error\n", self.body(call)),
            Call::Responses => (
                "event: error\n",
                json!({"type": "error", "code": self.code, "message": self.message, "param": null}),
            ),
            Call::Chat | Call::Completions | Call::Embeddings | Call::Other => {
                ("", self.body(call))
            }
        };
        format!("{event}data: {data}\n\n").into_bytes()
    }

    /// Returns the headers that tell whether to ask again, and when.
    #[must_use]
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let is_passing = ![Self::OVER_BUDGET, Self::CANCELLED].contains(&self.code)
            && (self.status == StatusCode::TOO_MANY_REQUESTS || self.status.is_server_error());
        let should_retry = if is_passing { "true" } else { "false" };
        headers.insert("x-should-retry", HeaderValue::from_static(should_retry));
        let Some(wait) = self.wait else {
            return headers;
        };
        let asked = wait.min(MAX_RETRY_AFTER);
        let seconds = asked
            .as_secs()
            .saturating_add(u64::from(asked.subsec_nanos() > 0));
        headers.insert(RETRY_AFTER, seconds.max(1).into());
        let millis = u64::try_from(asked.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        headers.insert("retry-after-ms", millis.max(1).into());
        let reset = HeaderName::from_static("x-ratelimit-reset-requests");
        if self.status == StatusCode::TOO_MANY_REQUESTS
            && let Ok(value) = HeaderValue::from_str(&reset_of(wait))
        {
            headers.insert(
                "x-ratelimit-remaining-requests",
                HeaderValue::from_static("0"),
            );
            headers.insert(reset, value);
        }
        headers
    }
}

/// Writes a time as OpenAI's headers have it: `1m2.5s`, `12ms`; rounded up.
fn reset_of(wait: Duration) -> String {
    let millis = wait.as_nanos().div_ceil(1_000_000);
    let (minutes, millis) = (millis / 60_000, millis % 60_000);
    let seconds = format!("{}.{:03}", millis / 1_000, millis % 1_000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    match (minutes, millis) {
        (0, ..1_000) => format!("{millis}ms"),
        (0, _) => format!("{seconds}s"),
        (_, _) => format!("{minutes}m{seconds}s"),
    }
}

/// Returns the type of an error, by which SDKs choose their exception.
fn error_type(call: Call, status: StatusCode) -> &'static str {
    let is_anthropic = call == Call::Messages;
    match status.as_u16() {
        401 if is_anthropic => "authentication_error",
        403 => "permission_error",
        404 if is_anthropic => "not_found_error",
        413 if is_anthropic => "request_too_large",
        429 if is_anthropic => "rate_limit_error",
        429 => "requests",
        503 | 529 if is_anthropic => "overloaded_error",
        504 if is_anthropic => "timeout_error",
        500.. if is_anthropic => "api_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Answer, Context, Fate, Pause, verdict};
    use proptest::prelude::*;

    #[test]
    fn times_are_written_as_the_service_does() {
        for (millis, text) in [
            (0, "0ms"),
            (12, "12ms"),
            (1_000, "1s"),
            (6_500, "6.5s"),
            (62_500, "1m2.5s"),
            (360_000, "6m0s"),
        ] {
            assert_eq!(reset_of(Duration::from_millis(millis)), text);
        }
        assert_eq!(reset_of(Duration::from_nanos(1)), "1ms");
    }

    #[test]
    fn each_service_gets_its_own_words() {
        let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no_key", "no key is there");
        assert_eq!(refusal.body(Call::Chat)["error"]["type"], "server_error");
        assert_eq!(
            refusal.body(Call::Messages)["error"]["type"],
            "overloaded_error"
        );
        assert_eq!(refusal.body(Call::Messages)["type"], "error");
        let event = String::from_utf8(refusal.event(Call::Responses)).unwrap();
        assert!(
            event.starts_with("event: error\ndata: {\"type\":\"error\""),
            "{event}"
        );
        assert!(refusal.event(Call::Chat).starts_with(b"data: {\"error\":"));
        let refused = Refusal::new(StatusCode::BAD_REQUEST, "bad_json", "no");
        assert_eq!(refused.headers()["x-should-retry"], "false");
    }

    proptest! {
        /// A gateway before this one understands it.
        #[test]
        fn a_refusal_is_read_as_it_was_meant(millis in 1_u64..60_000) {
            let wait = Duration::from_millis(millis);
            let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", "wait")
                .with_wait(Some(wait));
            let (headers, body) = (refusal.headers(), refusal.body(Call::Chat).to_string());
            let answer = Answer {
                status: refusal.status,
                headers: &headers,
                body: Some(body.as_bytes()),
            };
            let context = Context { call: Call::Chat, key: None };
            let verdict = verdict(&answer, Duration::from_secs(1_800_000_000), &context);
            prop_assert_eq!(verdict.fate, Fate::Rest(Pause::Told(wait)));
        }
    }
}
