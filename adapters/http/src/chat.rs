//! The JSON of chat completions: requests, completions and error bodies.
//!
//! Invariant: a completion that was billed is not lost over a detail. Only the first choice's message is
//! required; any other field that is missing or has the wrong type gets the default that its docs name.

use core::time::Duration;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The author of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the model.
    System,
    /// Instructions for the model; the newer name of `System`.
    Developer,
    /// The caller.
    User,
    /// The model.
    Assistant,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The author.
    pub role: Role,
    /// The text.
    pub content: String,
}

/// A request for a chat completion, without streaming.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// The model's name.
    pub model: String,
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// Maximum number of tokens of the completion: [`ChatRequest::DEFAULT_MAX_TOKENS`] by default.
    ///
    /// Not sent if `extra` has `max_completion_tokens`: services reject a request with both.
    pub max_tokens: u32,
    /// Other fields, such as `temperature`. None may repeat a field above; `stream` must not be true.
    pub extra: Map<String, Value>,
}

impl ChatRequest {
    /// 30,720 tokens.
    pub const DEFAULT_MAX_TOKENS: u32 = 30 * 1024;

    /// A request with one user message.
    pub fn user(model: impl Into<String>, prompt: impl Into<String>) -> Self {
        let message = Message {
            role: Role::User,
            content: prompt.into(),
        };
        Self {
            model: model.into(),
            messages: vec![message],
            max_tokens: Self::DEFAULT_MAX_TOKENS,
            extra: Map::new(),
        }
    }

    /// Writes the request as JSON, or says why it can't be sent.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>, String> {
        for field in ["model", "messages", "max_tokens"] {
            if self.extra.contains_key(field) {
                return Err(format!("`extra` repeats the field `{field}`"));
            }
        }
        if self.extra.get("stream") == Some(&Value::Bool(true)) {
            return Err("`stream` is true, but streaming is not supported".to_owned());
        }
        #[derive(Serialize)]
        struct Body<'a> {
            model: &'a str,
            messages: &'a [Message],
            #[serde(skip_serializing_if = "Option::is_none")]
            max_tokens: Option<u32>,
            #[serde(flatten)]
            extra: &'a Map<String, Value>,
        }
        let has_newer_limit = self.extra.contains_key("max_completion_tokens");
        let body = Body {
            model: &self.model,
            messages: &self.messages,
            max_tokens: (!has_newer_limit).then_some(self.max_tokens),
            extra: &self.extra,
        };
        serde_json::to_vec(&body).map_err(|error| error.to_string())
    }
}

/// A chat completion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatCompletion {
    /// Text of the first choice; empty if it is `null`, as for a refusal or a tool call.
    pub content: String,
    /// Tokens of the prompt; zero if not reported.
    pub prompt_tokens: u64,
    /// Tokens of the completion; zero if not reported.
    pub completion_tokens: u64,
    /// Total tokens; if not reported, the sum of the two above.
    pub total_tokens: u64,
    /// The model that answered; if not reported, the requested one.
    pub model: String,
    /// The service's id of the call: the `x-request-id` header, else the body's `id`, else empty.
    pub request_id: String,
    /// Creation time in seconds since 1970; zero if not reported.
    pub created: u64,
    /// Reason that the text ends, such as `stop` or `length`.
    pub finish_reason: Option<String>,
    /// The client's id of the call, sent as `x-trace-id`.
    pub trace_id: String,
    /// Duration of the successful attempt. Not serialized.
    #[serde(skip)]
    pub latency: Duration,
}

impl ChatCompletion {
    /// Reads a body; the caller fills in `trace_id`, `latency` and the defaults from the request and headers.
    pub(crate) fn from_json(body: &[u8]) -> Result<Self, String> {
        let mut body: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let usage = |field: &str| body["usage"][field].as_u64();
        let prompt_tokens = usage("prompt_tokens").unwrap_or(0);
        let completion_tokens = usage("completion_tokens").unwrap_or(0);
        let sum = || prompt_tokens.saturating_add(completion_tokens);
        let completion = Self {
            content: String::new(),
            prompt_tokens,
            completion_tokens,
            total_tokens: usage("total_tokens").unwrap_or_else(sum),
            model: text(&body["model"]).unwrap_or_default(),
            request_id: text(&body["id"]).unwrap_or_default(),
            created: body["created"].as_u64().unwrap_or(0),
            finish_reason: text(&body["choices"][0]["finish_reason"]),
            trace_id: String::new(),
            latency: Duration::ZERO,
        };
        let message = body.pointer_mut("/choices/0/message");
        let Some(Value::Object(message)) = message else {
            // Some services report an error with status 200.
            let message = ErrorBody::from_value(&body).message;
            return Err(format!("no choices; {message}"));
        };
        match message.remove("content") {
            Some(Value::String(content)) => Ok(Self {
                content,
                ..completion
            }),
            None | Some(Value::Null) => Ok(completion),
            Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                Err("the content is not text".to_owned())
            }
        }
    }
}

/// The body of an error response.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ErrorBody {
    pub(crate) message: String,
    pub(crate) code: Option<String>,
    pub(crate) error_type: Option<String>,
}

impl ErrorBody {
    /// Reads `{"error": {"message", "code", "type"}}` and its common variants.
    ///
    /// Any other body becomes the message as it is.
    pub(crate) fn from_body(body: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(body) {
            Ok(value) => Self::from_value(&value),
            Err(_) => Self {
                message: String::from_utf8_lossy(body).into_owned(),
                ..Self::default()
            },
        }
    }

    fn from_value(body: &Value) -> Self {
        let text = |value: &Value| match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                Some(value.to_string())
            }
        };
        let error = if body["error"].is_object() {
            &body["error"]
        } else {
            body
        };
        let message = ["message", "detail", "error"]
            .into_iter()
            .find_map(|field| text(&error[field]));
        Self {
            message: message.unwrap_or_else(|| body.to_string()),
            code: text(&error["code"]),
            error_type: text(&error["type"]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: &Value) -> Result<ChatCompletion, String> {
        ChatCompletion::from_json(body.to_string().as_bytes())
    }

    #[test]
    fn a_request_is_written_with_its_extra_fields() {
        let mut request = ChatRequest::user("m", "hello");
        request.extra.insert("temperature".to_owned(), json!(0.5));
        let body: Value = serde_json::from_slice(&request.to_json().unwrap()).unwrap();
        assert_eq!(
            body,
            json!({
                "model": "m", "messages": [{"role": "user", "content": "hello"}],
                "max_tokens": 30_720, "temperature": 0.5,
            })
        );
    }

    #[test]
    fn max_completion_tokens_replaces_max_tokens() {
        let mut request = ChatRequest::user("m", "hello");
        let extra = &mut request.extra;
        extra.insert("max_completion_tokens".to_owned(), json!(7));
        let body: Value = serde_json::from_slice(&request.to_json().unwrap()).unwrap();
        assert_eq!(body.get("max_tokens"), None);
        assert_eq!(body["max_completion_tokens"], 7);
    }

    #[test]
    fn a_contradictory_request_is_not_written() {
        for (field, value) in [
            ("model", json!("other")),
            ("messages", json!([])),
            ("max_tokens", json!(1)),
            ("stream", json!(true)),
        ] {
            let mut request = ChatRequest::user("m", "hello");
            request.extra.insert(field.to_owned(), value);
            assert!(request.to_json().is_err(), "{field}");
        }
    }

    #[test]
    fn a_field_missing_from_a_completion_is_zero_or_empty() {
        let bare = read(&json!({"choices": [{"message": {"content": null}}]})).unwrap();
        assert_eq!(
            (&*bare.content, &*bare.model, &*bare.request_id),
            ("", "", "")
        );
        let tokens = (
            bare.prompt_tokens,
            bare.completion_tokens,
            bare.total_tokens,
        );
        assert_eq!(
            (tokens, bare.created, bare.finish_reason),
            ((0, 0, 0), 0, None)
        );

        let odd = read(&json!({
            "choices": [{"message": {"role": "assistant"}, "finish_reason": 7}], "created": "now",
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": null},
        }));
        let odd = odd.unwrap();
        assert_eq!(
            (odd.total_tokens, odd.created, odd.content),
            (7, 0, String::new())
        );
    }

    #[test]
    fn a_body_without_a_message_is_an_error() {
        for body in [
            json!({}),
            json!([]),
            json!("text"),
            json!({"choices": []}),
            json!({"choices": [{}]}),
            json!({"choices": [{"message": {"content": ["parts"]}}]}),
        ] {
            assert!(read(&body).is_err(), "{body}");
        }
        let reason = read(&json!({"error": {"message": "no capacity"}})).unwrap_err();
        assert!(reason.contains("no capacity"), "{reason}");
    }

    #[test]
    fn a_completion_is_restored_without_its_latency() {
        let body = json!({
            "id": "c-1", "created": 5, "model": "m-2",
            "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
        });
        let mut completion = read(&body).unwrap();
        completion.latency = Duration::from_secs(1);
        let stored = serde_json::to_string(&completion).unwrap();
        let restored: ChatCompletion = serde_json::from_str(&stored).unwrap();
        completion.latency = Duration::ZERO;
        assert_eq!(restored, completion);
        assert!(!stored.contains("latency"), "{stored}");
    }

    #[test]
    fn an_error_body_is_read_in_every_common_form() {
        let parsed = |message: &str, code: Option<&str>, error_type: Option<&str>| ErrorBody {
            message: message.to_owned(),
            code: code.map(str::to_owned),
            error_type: error_type.map(str::to_owned),
        };
        for (body, expected) in [
            (
                r#"{"error": {"message": "m", "code": "c", "type": "t"}}"#,
                parsed("m", Some("c"), Some("t")),
            ),
            (
                r#"{"error": {"message": "m", "code": 429}}"#,
                parsed("m", Some("429"), None),
            ),
            (r#"{"error": "m"}"#, parsed("m", None, None)),
            (r#"{"detail": ["m"]}"#, parsed(r#"["m"]"#, None, None)),
            (r#"{"other": 1}"#, parsed(r#"{"other":1}"#, None, None)),
            ("<html>", parsed("<html>", None, None)),
            ("", parsed("", None, None)),
        ] {
            assert_eq!(ErrorBody::from_body(body.as_bytes()), expected, "{body}");
        }
    }
}
