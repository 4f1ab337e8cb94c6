//! What is asked of a chat model and what it answers.
//!
//! Invariant: an answer that was paid for is not lost over a detail. Only the first choice's message is
//! required; whatever else is missing or of the wrong type gets the value that its field's docs name.

use core::time::Duration;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the model.
    System,
    /// Instructions for the model, under their newer name.
    Developer,
    /// The caller.
    User,
    /// The model.
    Assistant,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// A chat completion that is asked for, whole.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// The model's name.
    pub model: String,
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// The most tokens to answer with: [`ChatRequest::DEFAULT_MAX_TOKENS`] by default. Not sent where
    /// `extra` has `max_completion_tokens`, which services refuse beside it.
    pub max_tokens: u32,
    /// Further fields, such as `temperature`. None may repeat a field above, and `stream` must not be
    /// true.
    pub extra: Map<String, Value>,
}

impl ChatRequest {
    /// 30 Ki tokens.
    pub const DEFAULT_MAX_TOKENS: u32 = 30 * 1024;

    /// A question without history.
    pub fn user(model: impl Into<String>, prompt: impl Into<String>) -> Self {
        let question = Message {
            role: Role::User,
            content: prompt.into(),
        };
        Self {
            model: model.into(),
            messages: vec![question],
            max_tokens: Self::DEFAULT_MAX_TOKENS,
            extra: Map::new(),
        }
    }

    /// The request as JSON, or why there is none.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>, String> {
        for field in ["model", "messages", "max_tokens"] {
            if self.extra.contains_key(field) {
                return Err(format!("`extra` repeats the field `{field}`"));
            }
        }
        if self.extra.get("stream") == Some(&Value::Bool(true)) {
            return Err("a streamed answer was asked for".to_owned());
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
        let newer_limit = self.extra.contains_key("max_completion_tokens");
        let body = Body {
            model: &self.model,
            messages: &self.messages,
            max_tokens: (!newer_limit).then_some(self.max_tokens),
            extra: &self.extra,
        };
        serde_json::to_vec(&body).map_err(|error| error.to_string())
    }
}

/// A chat completion that was given, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatCompletion {
    /// What the model said first; empty where it said nothing (`null`), as with a refusal or a call of a
    /// tool.
    pub content: String,
    /// Tokens of the question; zero where the service doesn't say.
    pub prompt_tokens: u64,
    /// Tokens of the answer; zero where the service doesn't say.
    pub completion_tokens: u64,
    /// Tokens in all; where the service doesn't say, the sum of the two.
    pub total_tokens: u64,
    /// The model that answered; where the service doesn't say, the one asked for.
    pub model: String,
    /// The service's name for the call: its `x-request-id` header, else the answer's `id`, else empty.
    pub request_id: String,
    /// When the service made the answer, in seconds since 1970; zero where it doesn't say.
    pub created: u64,
    /// Why the answer ends, such as `stop` or `length`.
    pub finish_reason: Option<String>,
    /// Our name for the call, sent along as `x-trace-id`.
    pub trace_id: String,
    /// How long the attempt took that brought the answer. Not serialised.
    #[serde(skip)]
    pub latency: Duration,
}

impl ChatCompletion {
    /// Reads an answer; the fields that aren't in its body are the caller's to fill in.
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
            // Some services report a failure under status 200.
            let said = ErrorBody::from_body_value(&body).message;
            return Err(format!("no choices; {said}"));
        };
        match message.remove("content") {
            Some(Value::String(content)) => Ok(Self {
                content,
                ..completion
            }),
            None | Some(Value::Null) => Ok(completion),
            Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                Err("the content isn't text".to_owned())
            }
        }
    }
}

/// What a service says when it refuses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ErrorBody {
    pub(crate) message: String,
    pub(crate) code: Option<String>,
    pub(crate) kind: Option<String>,
}

impl ErrorBody {
    /// Reads `{"error": {"message", "code", "type"}}` and its common variations, else takes the body as
    /// it is.
    pub(crate) fn from_body(body: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(body) {
            Ok(value) => Self::from_body_value(&value),
            Err(_) => Self {
                message: String::from_utf8_lossy(body).into_owned(),
                ..Self::default()
            },
        }
    }

    fn from_body_value(body: &Value) -> Self {
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
            kind: text(&error["type"]),
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
    fn a_request_is_written_with_its_further_fields() {
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
    fn a_newer_limit_takes_the_place_of_max_tokens() {
        let mut request = ChatRequest::user("m", "hello");
        let extra = &mut request.extra;
        extra.insert("max_completion_tokens".to_owned(), json!(7));
        let body: Value = serde_json::from_slice(&request.to_json().unwrap()).unwrap();
        assert_eq!(body.get("max_tokens"), None);
        assert_eq!(body["max_completion_tokens"], 7);
    }

    #[test]
    fn a_request_that_contradicts_itself_is_not_written() {
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
    fn what_an_answer_leaves_out_is_zero_or_empty() {
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
    fn what_holds_no_message_is_no_answer() {
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
    fn an_answer_survives_being_stored_but_for_its_latency() {
        let body = json!({
            "id": "c-1", "created": 5, "model": "m-2",
            "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
        });
        let mut answer = read(&body).unwrap();
        let stored = serde_json::to_string(&answer).unwrap();
        answer.latency = Duration::from_secs(1);
        let restored: ChatCompletion = serde_json::from_str(&stored).unwrap();
        answer.latency = Duration::ZERO;
        assert_eq!(restored, answer);
        assert!(!stored.contains("latency"), "{stored}");
    }

    #[test]
    fn a_refusal_is_read_in_whatever_form_it_comes() {
        let said = |message: &str, code: Option<&str>, kind: Option<&str>| ErrorBody {
            message: message.to_owned(),
            code: code.map(str::to_owned),
            kind: kind.map(str::to_owned),
        };
        for (body, expected) in [
            (
                r#"{"error": {"message": "m", "code": "c", "type": "t"}}"#,
                said("m", Some("c"), Some("t")),
            ),
            (
                r#"{"error": {"message": "m", "code": 429}}"#,
                said("m", Some("429"), None),
            ),
            (r#"{"error": "m"}"#, said("m", None, None)),
            (r#"{"detail": ["m"]}"#, said(r#"["m"]"#, None, None)),
            (r#"{"other": 1}"#, said(r#"{"other":1}"#, None, None)),
            ("<html>", said("<html>", None, None)),
            ("", said("", None, None)),
        ] {
            assert_eq!(ErrorBody::from_body(body.as_bytes()), expected, "{body}");
        }
    }
}
