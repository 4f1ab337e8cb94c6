//! What goes over the wire: calls as they are read, answers and errors as the real service words them.

use crate::judge::Quota;
use crate::report::{Report, masked};
use crate::server::{Answer, BodyError};
use core::fmt::Display;
use core::time::Duration;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};

/// A chat completion call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// The model asked.
    pub(super) model: String,
    /// The text of the last user message.
    prompt: String,
    /// How many words all messages have.
    words: usize,
}

impl Question {
    /// Reads a call.
    ///
    /// # Errors
    /// The answer it deserves where it isn't one, or asks for a stream.
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
                "streaming isn't offered by this server yet; leave 'stream' out or set it to false",
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

    /// The answer to it: an echo.
    pub(super) fn answer(&self, id: &str, created: u64) -> Answer {
        let content = format!("echo from {}: {}", self.model, self.prompt);
        let completion = words(&content);
        json_answer(
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

/// An error in the service's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
    kind: &'static str,
    param: Option<&'static str>,
    code: Option<&'static str>,
}

impl ApiError {
    /// For a missing or unknown key.
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

    /// For a path that leads nowhere.
    pub(super) fn unknown_url(method: &Method, path: &str) -> Self {
        Self {
            code: Some("unknown_url"),
            ..Self::new(
                StatusCode::NOT_FOUND,
                format!("Unknown request URL: {method} {path}. Please check the URL for typos."),
            )
        }
    }

    /// For a model this upstream doesn't have.
    pub(super) fn unknown_model(model: &str) -> Self {
        Self {
            code: Some("model_not_found"),
            ..Self::new(
                StatusCode::NOT_FOUND,
                format!("The model `{model}` does not exist or you do not have access to it."),
            )
        }
    }

    /// For a call above the concurrency.
    pub(super) fn overloaded() -> Self {
        Self {
            kind: "server_error",
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "The engine is currently overloaded, please try again later.",
            )
        }
    }

    /// For a call that fails on purpose, with a status from 400 to 599.
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
                "The request was refused on purpose.",
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

    /// The error as an answer.
    pub(super) fn answer(&self) -> Answer {
        json_answer(
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

/// The refusal of a call that is over the limit until `wait` from now, worded and with the headers as
/// the real service has them.
pub(super) fn over_limit(body: Option<Bytes>, quota: Option<Quota>, wait: Duration) -> Answer {
    let model = body
        .and_then(|body| Question::parse(&body).ok())
        .map_or_else(|| "the model".to_owned(), |question| question.model);
    let quota = quota.map_or_else(String::new, |quota| {
        format!(
            " on requests per {}: Limit {}, Used {}, Requested 1",
            unit(quota.window),
            quota.limit,
            quota.used
        )
    });
    let message = format!(
        "Rate limit reached for {model} in organization org-testbed{quota}. Please try again in {}. \
         Visit https://platform.openai.com/account/rate-limits to learn more.",
        go_duration(wait)
    );
    let mut answer = ApiError {
        kind: "requests",
        code: Some("rate_limit_exceeded"),
        ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, message)
    }
    .answer();
    set(&mut answer, "retry-after-ms", whole(wait, 1_000_000));
    set(&mut answer, "retry-after", whole(wait, 1_000_000_000));
    answer
}

/// The refusal of a known path asked in the wrong way.
pub(super) fn wrong_method(method: &Method, path: &str, allowed: &str) -> Answer {
    let message = format!("Not allowed to {method} on {path}; {allowed} is.");
    let mut answer = ApiError {
        code: Some("method_not_supported"),
        ..ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
    }
    .answer();
    set(&mut answer, "allow", allowed);
    answer
}

/// The list of models.
pub(super) fn models(models: &[String], created: u64) -> Answer {
    let data: Vec<Value> = models
        .iter()
        .map(|id| json!({ "id": id, "object": "model", "created": created, "owned_by": "testbed" }))
        .collect();
    json_answer(StatusCode::OK, &json!({ "object": "list", "data": data }))
}

/// The report, for programs.
pub(super) fn report(report: &Report) -> Answer {
    serde_json::to_value(report).map_or_else(
        |_| ApiError::fault(500).answer(),
        |report| json_answer(StatusCode::OK, &report),
    )
}

/// What claims to be JSON and isn't.
pub(super) fn garbage() -> Answer {
    answer(StatusCode::OK, "<html>Bad gateway</html>")
}

/// Sets the headers that tell a caller where it stands.
pub(super) fn set_quota(answer: &mut Answer, quota: Quota) {
    set(answer, "x-ratelimit-limit-requests", quota.limit);
    let remaining = quota.limit.saturating_sub(quota.used);
    set(answer, "x-ratelimit-remaining-requests", remaining);
    let reset = go_duration(quota.reset);
    set(answer, "x-ratelimit-reset-requests", reset);
}

/// Sets one header; a value that no header can have is left out.
pub(super) fn set(answer: &mut Answer, name: &'static str, value: impl Display) {
    if let Ok(value) = HeaderValue::try_from(value.to_string()) {
        answer
            .headers_mut()
            .insert(HeaderName::from_static(name), value);
    }
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    answer(status, body.to_string())
}

fn answer(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Answer::new(body.into().into());
    *answer.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, json);
    answer
}

/// The text of a message: its content where that is a string, else the text parts of it, joined.
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

/// What stands in for tokens.
fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// What a limit over `window` is per.
fn unit(window: Duration) -> String {
    match window.as_millis() {
        60_000 => "min (RPM)".to_owned(),
        86_400_000 => "day (RPD)".to_owned(),
        _ => go_duration(window),
    }
}

/// A span in whole units of `nanos`, rounded up, so that nobody is told to come back too early.
fn whole(span: Duration, nanos: u128) -> u128 {
    span.as_nanos().div_ceil(nanos)
}

/// A span as Go writes it, in whole milliseconds, rounded up: `1m0s`, `1.2s`, `120ms`.
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
    fn a_span_is_written_as_go_does_and_never_too_short() {
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
        let question = Question::parse(
            br#"{"model":"m","messages":[
                {"role":"system","content":"be brief"},
                {"role":"user","content":"first"},
                {"role":"user","content":[{"type":"text","text":"one two"},{"type":"image_url"}]},
                {"role":"assistant","content":null}]}"#,
        )
        .unwrap();
        assert_eq!((question.prompt.as_str(), question.words), ("one two", 5));
    }

    #[test]
    fn what_is_not_a_call_is_refused() {
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
            let error = Question::parse(body.as_bytes()).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_REQUEST, "{body}");
            assert_eq!(error.param, param, "{body}");
        }
    }
}
