//! Errors and headers with the texts and types of Anthropic's service.

use super::error::ApiError;
use crate::clock::unix_now;
use crate::judge::{Refusal, Usages};
use crate::limit::LimitUnit;
use crate::reply::Reply;
use crate::text::rfc3339;
use core::time::Duration;
use hyper::header::HeaderMap;
use serde_json::{Value, json};

/// Checks that a call says which version of the service it is for.
pub(super) fn check_version(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get("anthropic-version") {
        Some(_) => Ok(()),
        None => Err(ApiError::invalid("anthropic-version: header is required")),
    }
}

/// The body of an error; its type follows from the status.
pub(super) fn error_body(status: u16, message: &str, id: &str) -> Value {
    json!({
        "type": "error",
        "error": { "type": error_type(status), "message": message },
        "request_id": format!("req_{id}"),
    })
}

const fn error_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        500..=599 => "api_error",
        _ => "invalid_request_error",
    }
}

/// The message of a call over a limit.
pub(super) fn over_limit_message(refusal: &Refusal) -> String {
    let unit = refusal.limit.unit.name();
    format!(
        "This request would exceed your organization's rate limit of {} {unit} per {:?} (used {}, \
         requested {}). For details, refer to: https://docs.claude.com/en/api/rate-limits.",
        refusal.limit.amount, refusal.limit.window, refusal.used, refusal.cost
    )
}

/// Adds what is left of the limits, and the times at which they are whole again, rounded up.
pub(super) fn with_limits(reply: Reply, usages: &Usages) -> Reply {
    let now = unix_now();
    let reset =
        |span: Duration| rfc3339((now + span + Duration::from_nanos(999_999_999)).as_secs());
    let units = [
        (LimitUnit::Requests, usages.requests),
        (LimitUnit::Tokens, usages.tokens),
    ];
    units.into_iter().fold(reply, |reply, (unit, usage)| {
        let Some(usage) = usage else { return reply };
        let [limit, remaining, at] = match unit {
            LimitUnit::Requests => [
                "anthropic-ratelimit-requests-limit",
                "anthropic-ratelimit-requests-remaining",
                "anthropic-ratelimit-requests-reset",
            ],
            LimitUnit::Tokens => [
                "anthropic-ratelimit-tokens-limit",
                "anthropic-ratelimit-tokens-remaining",
                "anthropic-ratelimit-tokens-reset",
            ],
        };
        reply
            .header(limit, usage.amount)
            .header(remaining, usage.remaining())
            .header(at, reset(usage.reset))
    })
}
