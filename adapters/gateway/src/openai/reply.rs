//! Answers to callers, with what the gateway did for them in headers of its own.

use super::attempt::Told;
use crate::proxy::{AnswerBody, X_REQUEST_ID, remove_hop_by_hop};
use core::time::Duration;
use http::header::CONTENT_TYPE;
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use leasehold_protocol::{Call, Refusal};

const KEY: HeaderName = HeaderName::from_static("x-leasehold-key");
const POOL: HeaderName = HeaderName::from_static("x-leasehold-pool");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-leasehold-attempts");
const WAITED: HeaderName = HeaderName::from_static("x-leasehold-waited-ms");
const OVERHEAD: HeaderName = HeaderName::from_static("x-leasehold-overhead-ms");

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
    parts.headers.reserve(6);
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
        let text = format!("{}.{:03}", micros / 1_000, micros % 1_000);
        // Digits and a point are a header's value.
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
    };
    for (name, value) in [
        (KEY, told.key.clone()),
        (POOL, told.pool.clone()),
        (ATTEMPTS, told.attempts.into()),
        (WAITED, millis(told.waited)),
        (OVERHEAD, millis(told.overhead)),
    ] {
        headers.insert(name, value);
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
