//! Parsing of calls, and responses and errors with the texts and headers of the real service.
//!
//! Invariant: a wait in a response is rounded up, so that a caller that obeys it is not too early.

use crate::judge::LimitUsage;
use crate::report::{Report, masked};
use crate::server::{BodyError, HttpResponse};
use core::fmt::Display;
use core::time::Duration;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChatCall {
    pub(super) model: String,
    /// Text of the last user message.
    prompt: String,
    words: usize,
}

impl ChatCall {
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let Ok(Value::Object(call)) = serde_json::from_slice(body) else {
            return Err(ApiError::invalid("the body must be a JSON object", None));
        };
        let Some(model) = call.get("model").and_then(Value::as_str) else {
            return Err(ApiError::invalid(
                "you must provide a model parameter",
                Some("model"),
            ));
        };
        let messages: Option<Vec<&Map<String, Value>>> = call
            .get("messages")
            .and_then(Value::as_array)
            .and_then(|messages| messages.iter().map(Value::as_object).collect());
        let Some(messages) = messages.filter(|messages| !messages.is_empty()) else {
            return Err(ApiError::invalid(
                "'messages' must be an array of at least one object",
                Some("messages"),
            ));
        };
        if call.get("stream") == Some(&Value::Bool(true)) {
            return Err(ApiError::invalid(
                "this server does not support streaming; leave 'stream' out or set it to false",
                Some("stream"),
            ));
        }
        let prompt = messages
            .iter()
            .rfind(|message| message.get("role").and_then(Value::as_str) == Some("user"))
            .map_or_else(String::new, |message| text(message));
        Ok(Self {
            model: model.to_owned(),
            prompt,
            words: messages.iter().map(|message| words(&text(message))).sum(),
        })
    }

    /// Responds with an echo.
    pub(super) fn response(&self, id: &str, created: u64) -> HttpResponse {
        let content = format!("echo from {}: {}", self.model, self.prompt);
        let completion = words(&content);
        json_response(
            StatusCode::OK,
            &json!({
                "id": format!("chatcmpl-{id}"),
                "object": "chat.completion",
                "created": created,
                "model": self.model,
                "choices": [{
                    "index": 0,
                    "message": { "role": "assistant", "content": content, "refusal": null },
                    "logprobs": null,
                    "finish_reason": "stop",
                }],
                "usage": {
                    "prompt_tokens": self.words,
                    "completion_tokens": completion,
                    "total_tokens": self.words + completion,
                },
            }),
        )
    }
}

/// An error as the real service writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
    kind: &'static str,
    param: Option<&'static str>,
    code: Option<&'static str>,
}

impl ApiError {
    /// 401, for a missing or unknown key.
    pub(super) fn unauthorized(key: Option<&str>) -> Self {
        let message = key.map_or_else(
            || {
                "You didn't provide an API key. You need to provide your API key in an Authorization \
                 header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
                    .to_owned()
            },
            |key| format!("Incorrect API key provided: {}.", masked(key)),
        );
        Self {
            code: Some("invalid_api_key"),
            ..Self::new(StatusCode::UNAUTHORIZED, message)
        }
    }

    /// 404, for an unknown path.
    pub(super) fn unknown_url(method: &Method, path: &str) -> Self {
        Self {
            code: Some("unknown_url"),
            ..Self::new(
                StatusCode::NOT_FOUND,
                format!("Unknown request URL: {method} {path}. Please check the URL for typos."),
            )
        }
    }

    /// 404, for an unknown model.
    pub(super) fn unknown_model(model: &str) -> Self {
        Self {
            code: Some("model_not_found"),
            ..Self::new(
                StatusCode::NOT_FOUND,
                format!("The model `{model}` does not exist or you do not have access to it."),
            )
        }
    }

    /// 503, for a call over the concurrency.
    pub(super) fn overloaded() -> Self {
        Self {
            kind: "server_error",
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "The engine is currently overloaded, please try again later.",
            )
        }
    }

    /// A failure on purpose, with a status from 400 to 599.
    pub(super) fn fault(status: u16) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let (message, kind, code) = if status == StatusCode::TOO_MANY_REQUESTS {
            (
                "Rate limit reached. Please try again later.",
                "requests",
                Some("rate_limit_exceeded"),
            )
        } else if status.is_server_error() {
            (
                "The server had an error while processing your request. Sorry about that!",
                "server_error",
                None,
            )
        } else {
            (
                "The request failed on purpose.",
                "invalid_request_error",
                None,
            )
        };
        Self {
            kind,
            code,
            ..Self::new(status, message)
        }
    }

    pub(super) fn response(&self) -> HttpResponse {
        json_response(
            self.status,
            &json!({
                "error": {
                    "message": self.message,
                    "type": self.kind,
                    "param": self.param,
                    "code": self.code,
                },
            }),
        )
    }

    fn invalid(message: &str, param: Option<&'static str>) -> Self {
        Self {
            param,
            ..Self::new(StatusCode::BAD_REQUEST, message)
        }
    }

    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            kind: "invalid_request_error",
            param: None,
            code: None,
        }
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        let (status, message) = match error {
            BodyError::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "The request body is too large.",
            ),
            BodyError::Slow => (
                StatusCode::REQUEST_TIMEOUT,
                "The request body took too long to arrive.",
            ),
            BodyError::Broken => (
                StatusCode::BAD_REQUEST,
                "The request body could not be read.",
            ),
        };
        Self::new(status, message)
    }
}

/// Responds with 429 to a call over the limit, with the text and headers of the real service.
///
/// `wait` is the time until the key is below its limit.
pub(super) fn over_limit(
    body: Option<Bytes>,
    usage: Option<LimitUsage>,
    wait: Duration,
) -> HttpResponse {
    let model = body
        .and_then(|body| ChatCall::parse(&body).ok())
        .map_or_else(|| "the model".to_owned(), |call| call.model);
    let usage = usage.map_or_else(String::new, |usage| {
        format!(
            " on requests per {}: Limit {}, Used {}, Requested 1",
            window_unit(usage.window),
            usage.limit,
            usage.used
        )
    });
    let message = format!(
        "Rate limit reached for {model} in organization org-testbed{usage}. Please try again in {}. \
         Visit https://platform.openai.com/account/rate-limits to learn more.",
        go_duration(wait)
    );
    let mut response = ApiError {
        kind: "requests",
        code: Some("rate_limit_exceeded"),
        ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, message)
    }
    .response();
    set(&mut response, "retry-after-ms", whole(wait, 1_000_000));
    set(&mut response, "retry-after", whole(wait, 1_000_000_000));
    response
}

/// Responds with 405 to a wrong method on a known path.
pub(super) fn wrong_method(method: &Method, path: &str, allowed: &str) -> HttpResponse {
    let message = format!("Not allowed to {method} on {path}; {allowed} is.");
    let mut response = ApiError {
        code: Some("method_not_supported"),
        ..ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
    }
    .response();
    set(&mut response, "allow", allowed);
    response
}

pub(super) fn models(models: &[String], created: u64) -> HttpResponse {
    let data: Vec<Value> = models
        .iter()
        .map(|id| json!({ "id": id, "object": "model", "created": created, "owned_by": "testbed" }))
        .collect();
    json_response(StatusCode::OK, &json!({ "object": "list", "data": data }))
}

pub(super) fn report(report: &Report) -> HttpResponse {
    serde_json::to_value(report).map_or_else(
        |_| ApiError::fault(500).response(),
        |report| json_response(StatusCode::OK, &report),
    )
}

/// Responds with a body that isn't JSON, in spite of its content type.
pub(super) fn garbage() -> HttpResponse {
    response(StatusCode::OK, "<html>Bad gateway</html>")
}

pub(super) fn set_rate_headers(response: &mut HttpResponse, usage: LimitUsage) {
    set(response, "x-ratelimit-limit-requests", usage.limit);
    let remaining = usage.limit.saturating_sub(usage.used);
    set(response, "x-ratelimit-remaining-requests", remaining);
    let reset = go_duration(usage.reset);
    set(response, "x-ratelimit-reset-requests", reset);
}

/// Sets a header; a value that is not valid in a header is left out.
pub(super) fn set(response: &mut HttpResponse, name: &'static str, value: impl Display) {
    if let Ok(value) = HeaderValue::try_from(value.to_string()) {
        response
            .headers_mut()
            .insert(HeaderName::from_static(name), value);
    }
}

fn json_response(status: StatusCode, body: &Value) -> HttpResponse {
    response(status, body.to_string())
}

fn response(status: StatusCode, body: impl Into<Bytes>) -> HttpResponse {
    let mut response = HttpResponse::new(body.into().into());
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// Returns the text of a message: its content if that is a string, else its text parts, joined.
fn text(message: &Map<String, Value>) -> String {
    match message.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts
            .iter()
            .filter_map(|part| part.get("text").and_then(Value::as_str))
            .collect(),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => {
            String::new()
        }
    }
}

/// Counts words, which stand for tokens here.
fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// Names a window as the real service does.
fn window_unit(window: Duration) -> String {
    match window.as_millis() {
        60_000 => "min (RPM)".to_owned(),
        86_400_000 => "day (RPD)".to_owned(),
        _ => go_duration(window),
    }
}

/// Returns a duration in units of `nanos`, rounded up.
fn whole(span: Duration, nanos: u128) -> u128 {
    span.as_nanos().div_ceil(nanos)
}

/// Writes a duration as Go does, rounded up to milliseconds: `1m0s`, `1.2s`, `120ms`.
fn go_duration(span: Duration) -> String {
    let millis = whole(span, 1_000_000);
    if millis == 0 {
        return "0s".to_owned();
    }
    if millis < 1_000 {
        return format!("{millis}ms");
    }
    let (total, fraction) = (millis / 1_000, millis % 1_000);
    let (hours, minutes, seconds) = (total / 3_600, total / 60 % 60, total % 60);
    let mut text = String::new();
    if hours > 0 {
        text += &format!("{hours}h");
    }
    if total >= 60 {
        text += &format!("{minutes}m");
    }
    text += &seconds.to_string();
    if fraction > 0 {
        text += format!(".{fraction:03}").trim_end_matches('0');
    }
    text + "s"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_as_go_does_and_rounded_up() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ms"),
            (120_000_000, "120ms"),
            (999_000_001, "1s"),
            (1_200_000_000, "1.2s"),
            (8_640_000_000, "8.64s"),
            (60_000_000_000, "1m0s"),
            (61_005_000_000, "1m1.005s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn the_last_user_message_is_echoed_and_every_message_is_counted() {
        let call = ChatCall::parse(
            br#"{"model":"m","messages":[
                {"role":"system","content":"be brief"},
                {"role":"user","content":"first"},
                {"role":"user","content":[{"type":"text","text":"one two"},{"type":"image_url"}]},
                {"role":"assistant","content":null}]}"#,
        )
        .unwrap();
        assert_eq!((call.prompt.as_str(), call.words), ("one two", 5));
    }

    #[test]
    fn a_malformed_call_is_rejected() {
        for (body, param) in [
            (r#""#, None),
            (r#"["m",[{}]]"#, None),
            (r#"{"messages":[{}]}"#, Some("model")),
            (r#"{"model":7,"messages":[{}]}"#, Some("model")),
            (r#"{"model":"m"}"#, Some("messages")),
            (r#"{"model":"m","messages":[]}"#, Some("messages")),
            (r#"{"model":"m","messages":["hi"]}"#, Some("messages")),
            (
                r#"{"model":"m","messages":[{}],"stream":true}"#,
                Some("stream"),
            ),
        ] {
            let error = ChatCall::parse(body.as_bytes()).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_REQUEST, "{body}");
            assert_eq!(error.param, param, "{body}");
        }
    }
}
