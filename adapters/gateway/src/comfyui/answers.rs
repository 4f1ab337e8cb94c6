//! Answers in the words of a ComfyUI server.

use crate::proxy::AnswerBody;
use core::time::Duration;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use leasehold_protocol::Refusal;
use serde_json::{Value, json};

/// An answer with JSON.
pub(super) fn ok(value: &Value) -> Response<AnswerBody> {
    with_status(StatusCode::OK, value)
}

pub(super) fn with_status(status: StatusCode, value: &Value) -> Response<AnswerBody> {
    text(status, "application/json; charset=utf-8", value.to_string())
}

pub(super) fn text(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<bytes::Bytes>,
) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::text(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::text(""));
    *response.status_mut() = status;
    response
}

/// A refusal of the gateway's own.
pub(super) fn refused(refusal: &Refusal) -> Response<AnswerBody> {
    let body = json!({
        "error": {
            "type": refusal.code, "message": refusal.message, "details": "", "extra_info": {},
        },
        "node_errors": {},
    });
    let mut response = with_status(refusal.status, &body);
    if let Some(wait) = refusal.wait {
        let seconds = wait.saturating_add(Duration::from_millis(999)).as_secs();
        response
            .headers_mut()
            .insert(RETRY_AFTER, seconds.max(1).into());
    }
    response
}

/// Refuses a request whose body or query is wrong.
pub(super) fn bad(text: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "bad_request", text)
}

/// Refuses a request because jobs or files can't be kept.
pub(super) fn not_kept(error: &impl ToString) -> Refusal {
    Refusal::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "not_kept",
        error.to_string(),
    )
    .with_wait(Some(Duration::from_secs(5)))
}

/// Refuses a request that no server can answer now.
pub(super) fn no_server() -> Refusal {
    let text = "no server answers now; jobs can be queued all the same";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no_server", text)
        .with_wait(Some(Duration::from_secs(5)))
}
