//! Answers to callers, with what the gateway did for them in headers of its own.

use super::attempt::Told;
use crate::proxy::{AnswerBody, X_REQUEST_ID, remove_hop_by_hop};
use core::time::Duration;
use http::header::CONTENT_TYPE;
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use leasehold_protocol::{Call, Refusal};

/// Answers with a refusal of the gateway's own.
pub(super) fn refused(refusal: &Refusal, call: Call, id: &HeaderValue) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::text(refusal.body(call).to_string()));
    *response.status_mut() = refusal.status;
    let headers = response.headers_mut();
    headers.extend(refusal.headers());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_REQUEST_ID, id.clone());
    response
}

/// Makes the answer from a service's head.
pub(super) fn passed(
    mut parts: Parts,
    body: AnswerBody,
    told: &Told,
    id: &HeaderValue,
) -> Response<AnswerBody> {
    remove_hop_by_hop(&mut parts.headers);
    parts.version = http::Version::HTTP_11;
    // The service's own id finds the call in its logs.
    parts
        .headers
        .entry(X_REQUEST_ID)
        .or_insert_with(|| id.clone());
    tell(&mut parts.headers, told);
    Response::from_parts(parts, body)
}

fn tell(headers: &mut HeaderMap, told: &Told) {
    let millis = |time: Duration| {
        let micros = time.as_micros();
        format!("{}.{:03}", micros / 1_000, micros % 1_000)
    };
    for (name, value) in [
        ("x-leasehold-key", told.key.clone()),
        ("x-leasehold-pool", told.pool.clone()),
        ("x-leasehold-attempts", told.attempts.to_string()),
        ("x-leasehold-waited-ms", millis(told.waited)),
        ("x-leasehold-overhead-ms", millis(told.overhead)),
    ] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// Whether an answer is one to read: JSON, text or unnamed, and no sound, picture or file.
pub(super) fn is_text(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    kind.is_none_or(|kind| {
        let kind = kind.to_ascii_lowercase();
        kind.contains("json") || kind.starts_with("text/html")
    })
}
