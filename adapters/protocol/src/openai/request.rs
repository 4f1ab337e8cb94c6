//! Requests for chat completions and responses.
//!
//! Invariant: a request that was written has no field twice, and no token limit that the caller did not set.

use crate::call::Call;
use serde_json::{Map, Value, json};

/// A request for a chat completion. It has no token limit unless one is set: the service's own applies.
///
/// ```
/// use leasehold_protocol::ChatRequest;
/// use serde_json::json;
///
/// let mut request = ChatRequest::user("gpt-4o-mini", "Why is the sky blue?");
/// request.extra.insert("temperature".to_owned(), json!(0));
/// let body = request.body()?;
/// assert_eq!(body["messages"][0]["content"], "Why is the sky blue?");
/// assert_eq!(body.get("max_tokens"), None);
/// # Ok::<(), leasehold_protocol::RequestError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// The model's name.
    pub model: String,
    /// The conversation so far, each message as the service expects it.
    pub messages: Vec<Value>,
    /// Maximum number of tokens of the completion, sent as `max_tokens`; none by default.
    ///
    /// Not sent if `extra` has `max_completion_tokens`: services reject a request with both.
    pub max_tokens: Option<u32>,
    /// Other fields, such as `temperature`. None may repeat a field above.
    pub extra: Map<String, Value>,
}

impl ChatRequest {
    /// Creates a request from messages.
    pub fn new(model: impl Into<String>, messages: Vec<Value>) -> Self {
        Self {
            model: model.into(),
            messages,
            max_tokens: None,
            extra: Map::new(),
        }
    }

    /// Creates a request with one user message.
    pub fn user(model: impl Into<String>, prompt: impl Into<String>) -> Self {
        let message = json!({"role": "user", "content": prompt.into()});
        Self::new(model, vec![message])
    }

    /// Puts a system message before the others.
    #[must_use]
    pub fn with_system(mut self, text: impl Into<String>) -> Self {
        let message = json!({"role": "system", "content": text.into()});
        self.messages.insert(0, message);
        self
    }

    /// Builds the body of a call.
    ///
    /// # Errors
    /// If `extra` repeats a field.
    pub fn body(&self) -> Result<Value, RequestError> {
        let mut body = Map::new();
        body.insert("model".to_owned(), self.model.clone().into());
        body.insert("messages".to_owned(), self.messages.clone().into());
        let has_newer_limit = self.extra.contains_key("max_completion_tokens");
        if let Some(max_tokens) = self.max_tokens.filter(|_| !has_newer_limit) {
            body.insert("max_tokens".to_owned(), max_tokens.into());
        }
        for (name, value) in &self.extra {
            if body.insert(name.clone(), value.clone()).is_some() {
                let field = name.clone();
                return Err(RequestError::Repeated { field });
            }
        }
        Ok(Value::Object(body))
    }
}

/// Turns a body into that of a streamed call, which also reports its usage.
///
/// `stream_options` that are null are left out instead, for services that refuse the field.
pub fn make_streamed(call: Call, body: &mut Value) {
    let Value::Object(body) = body else {
        return;
    };
    body.insert("stream".to_owned(), true.into());
    // The others report their usage unasked, and refuse the field.
    if !matches!(call, Call::Chat | Call::Completions) {
        return;
    }
    match body.get_mut("stream_options") {
        Some(Value::Null) => {
            body.shift_remove("stream_options");
        }
        Some(Value::Object(options)) => {
            options.entry("include_usage").or_insert(true.into());
        }
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {}
        None => {
            body.insert("stream_options".to_owned(), json!({"include_usage": true}));
        }
    }
}

/// The reason that a request can't be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A field is given twice.
    #[error("`extra` repeats the field `{field}`")]
    Repeated {
        /// The field's name.
        field: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_fields_that_were_set_and_no_others() {
        let mut request = ChatRequest::user("m", "hello").with_system("be brief");
        request.extra.insert("temperature".to_owned(), json!(0.5));
        let messages = json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]);
        let expected = json!({"model": "m", "messages": messages, "temperature": 0.5});
        assert_eq!(request.body(), Ok(expected));
        request.max_tokens = Some(9);
        assert_eq!(request.body().unwrap()["max_tokens"], 9);
    }

    #[test]
    fn max_completion_tokens_replaces_max_tokens() {
        let mut request = ChatRequest::user("m", "hello");
        request.max_tokens = Some(9);
        let extra = &mut request.extra;
        extra.insert("max_completion_tokens".to_owned(), json!(7));
        let body = request.body().unwrap();
        assert_eq!(body.get("max_tokens"), None);
        assert_eq!(body["max_completion_tokens"], 7);
    }

    #[test]
    fn a_field_given_twice_is_an_error() {
        for field in ["model", "messages", "max_tokens"] {
            let mut request = ChatRequest::user("m", "hello");
            request.max_tokens = Some(9);
            request.extra.insert(field.to_owned(), json!(1));
            let field = field.to_owned();
            assert_eq!(request.body(), Err(RequestError::Repeated { field }));
        }
        let mut request = ChatRequest::user("m", "hello");
        request.extra.insert("max_tokens".to_owned(), json!(1));
        assert_eq!(request.body().unwrap()["max_tokens"], 1);
    }

    #[test]
    fn a_streamed_call_asks_for_its_usage() {
        for (options, expected) in [
            (None, json!({"include_usage": true})),
            (
                Some(json!({"include_obfuscation": false})),
                json!({"include_obfuscation": false, "include_usage": true}),
            ),
            (
                Some(json!({"include_usage": false})),
                json!({"include_usage": false}),
            ),
            (Some(json!(null)), json!(null)),
        ] {
            let mut request = ChatRequest::user("m", "hello");
            request
                .extra
                .extend(options.map(|options| ("stream_options".to_owned(), options)));
            let mut body = request.body().unwrap();
            make_streamed(Call::Chat, &mut body);
            assert_eq!(
                (&body["stream"], &body["stream_options"]),
                (&json!(true), &expected)
            );
        }
        let mut responses = json!({"model": "m", "input": "hello"});
        make_streamed(Call::Responses, &mut responses);
        assert_eq!(
            responses,
            json!({"model": "m", "input": "hello", "stream": true})
        );
    }
}
