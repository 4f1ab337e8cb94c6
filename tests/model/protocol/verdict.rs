//! Verdicts over any answer, held to what they promise.

use super::KEY;
use arbitrary::Arbitrary;
use core::time::Duration;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use leasehold_core::limit::Cost;
use leasehold_protocol::verdict::{Answer, Context, Fate, Kind, Next, Outcome, Pause};
use leasehold_protocol::verdict::{body_as_json, judge, read, told_limits, verdict};
use leasehold_protocol::{ApiKey, Call, MAX_TEXT, MAX_WAIT, Rests};
use serde_json::Value;

/// An answer.
#[derive(Clone, Debug, Arbitrary)]
pub struct Case {
    /// The status, in the range of three digits.
    pub status: u16,
    /// The kind of the call.
    pub call: u8,
    /// The headers.
    pub headers: Vec<Header>,
    /// The body.
    pub body: Vec<u8>,
    /// Places in the body at which the key is put.
    pub keys_at: Vec<u16>,
    /// Seconds since 1970.
    pub now: u32,
}

/// A header, with a name that matters or any other.
#[derive(Clone, Debug, Arbitrary)]
pub struct Header {
    /// Index into [`NAMES`]; one beyond takes `other`.
    pub name: u8,
    /// Any name.
    pub other: String,
    /// The value.
    pub value: String,
    /// Whether the value holds the key.
    pub has_key: bool,
}

/// Headers that a verdict depends on.
pub const NAMES: [&str; 24] = [
    "retry-after",
    "retry-after-ms",
    "x-ms-retry-after-ms",
    "date",
    "content-type",
    "server",
    "location",
    "x-should-retry",
    "x-request-id",
    "request-id",
    "ratelimit",
    "ratelimit-reset",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-rate-limit-reset",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
    "anthropic-ratelimit-requests-reset",
    "anthropic-ratelimit-input-tokens-remaining",
    "anthropic-ratelimit-output-tokens-reset",
];

const CALLS: [Call; 6] = [
    Call::Chat,
    Call::Completions,
    Call::Responses,
    Call::Embeddings,
    Call::Messages,
    Call::Other,
];

/// Judges an answer.
///
/// # Panics
/// If the verdict breaks a promise.
pub fn run(case: &Case) {
    let key = ApiKey::new(KEY).expect("a key");
    let context = Context {
        call: CALLS[usize::from(case.call) % CALLS.len()],
        key: Some(&key),
    };
    let (headers, body) = (case.headers(), case.body());
    let status = StatusCode::from_u16(100 + case.status % 900).expect("three digits");
    let answer = Answer {
        status,
        headers: &headers,
        body: Some(&body),
    };
    let now = Duration::from_secs(case.now.into());

    let (judged, completion) = read(&answer, now, &context);
    assert_eq!(verdict(&answer, now, &context), judged);
    if serde_json::from_slice::<Value>(&body).is_ok() {
        let mut brief = judge(&answer, now, &context);
        // Those of a plain answer are told apart from its verdict.
        if brief.limits.is_empty() {
            brief.limits = told_limits(&headers, now);
        }
        assert_eq!(brief, judged);
    }
    assert_eq!(completion.is_some(), status.is_success());
    assert_eq!(judged.status, Some(status));
    assert!(judged.kind.was_sent());
    assert_eq!(judged.kind == Kind::Answer, judged.next == Next::Done);
    assert_eq!(judged.kind == Kind::Answer, judged.message.is_empty());

    let wait = match judged.next {
        Next::RetryAfter { wait, .. } => wait,
        Next::Done | Next::OtherMember { .. } | Next::GiveUp | Next::Stop => Duration::ZERO,
    };
    assert!(
        wait <= MAX_WAIT
            && judged
                .asked_wait
                .is_none_or(|it| !it.is_zero() && it <= MAX_WAIT)
    );
    if let Fate::Rest(Pause::Told(told)) = judged.fate {
        assert_eq!(
            (Some(told), judged.outcome),
            (judged.asked_wait, Outcome::Throttled)
        );
    }
    if judged.outcome == Outcome::Throttled {
        assert!(matches!(judged.fate, Fate::Rest(_)));
    }
    for limit in &judged.limits {
        assert!(limit.reset.is_none_or(|reset| reset <= MAX_WAIT));
    }
    // 16 of the headers, and one that the message tells.
    assert!(judged.limits.len() <= 17);
    let rest = Rests::new(7).after(&judged);
    assert_eq!(rest.is_some(), matches!(judged.fate, Fate::Rest(_)));
    let reserved = Cost {
        requests: 1,
        tokens: 9,
    };
    assert_eq!(judged.cost(reserved).requests, 1);

    let shown = format!("{judged} {judged:?}");
    assert!(!shown.contains(KEY), "{shown}");
    assert!(judged.message.chars().count() <= MAX_TEXT + 1);
    assert!(!judged.message.contains(char::is_control), "{judged}");
    let kept = body_as_json(&body, Some(&key)).to_string();
    assert!(!kept.contains(KEY), "{kept}");
    if judged.kind != Kind::Answer {
        let kept = format!("{completion:?}");
        assert!(!kept.contains(KEY), "{kept}");
    }
}

impl Case {
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for header in &self.headers {
            let name = NAMES
                .get(usize::from(header.name))
                .map_or(&*header.other, |name| name);
            let key = if header.has_key { KEY } else { "" };
            let value = format!("{}{key}", header.value);
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name), HeaderValue::try_from(value))
            {
                headers.append(name, value);
            }
        }
        headers
    }

    fn body(&self) -> Vec<u8> {
        let mut body = self.body.clone();
        for place in &self.keys_at {
            let at = usize::from(*place) % (body.len() + 1);
            body.splice(at..at, KEY.bytes());
        }
        body
    }
}
