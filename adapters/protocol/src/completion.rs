//! Answers of models in one form, whatever the call and the service.
//!
//! Invariant: a paid answer is not lost. What has no field of its own stays in [`Completion::raw`].

use crate::error_body::ErrorBody;
use crate::note::{Note, Notes};
use crate::secret::ApiKey;
use crate::usage::Usage;
use crate::{anthropic, openai};
use http::HeaderMap;
use serde::Serialize;
use serde_json::Value;

/// An answer of a model. Serialized without `raw` and without what is unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Completion {
    /// The first choice.
    #[serde(flatten)]
    pub choice: Choice,
    /// Tokens used; `None` if the answer does not say.
    #[serde(flatten)]
    pub usage: Option<Usage>,
    /// The model that answered; empty if not reported.
    pub model: String,
    /// The service's id of the call: a header, else the body's `id`, else empty.
    pub request_id: String,
    /// Creation time in seconds since 1970; zero if not reported.
    pub created: u64,
    /// Further choices, for calls with `n` above one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub more_choices: Vec<Choice>,
    /// What was odd about the answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
    /// The whole body as JSON; a body that is not JSON is a string. A stream is joined to the body that the call
    /// without streaming would have had.
    #[serde(skip)]
    pub raw: Value,
}

/// One choice of an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Choice {
    /// The text, joined if it came in parts; empty for a refusal or a tool call.
    pub content: String,
    /// The text of the model's reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The model's refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Calls of tools, as the service words them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
    /// Reason that the text ends, such as `stop` or `length`.
    pub finish_reason: Option<String>,
}

impl Choice {
    /// Whether the choice holds nothing at all.
    pub(crate) fn is_empty(&self) -> bool {
        let is_empty = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
        self.content.is_empty()
            && is_empty(&self.reasoning)
            && is_empty(&self.refusal)
            && self.tool_calls.is_empty()
    }

    fn redact(&mut self, key: &ApiKey) {
        let optional = [
            &mut self.reasoning,
            &mut self.refusal,
            &mut self.finish_reason,
        ];
        for text in optional.into_iter().flatten().chain([&mut self.content]) {
            *text = key.redact(text);
        }
        self.tool_calls
            .iter_mut()
            .for_each(|call| key.redact_json(call));
    }

    /// Appends a text to the reasoning.
    pub(crate) fn add_reasoning(&mut self, text: &str) {
        self.reasoning.get_or_insert_default().push_str(text);
    }

    /// Appends a text to the refusal.
    pub(crate) fn add_refusal(&mut self, text: &str) {
        self.refusal.get_or_insert_default().push_str(text);
    }
}

impl Completion {
    /// Masks a key in every text.
    pub(crate) fn redact(&mut self, key: &ApiKey) {
        for choice in core::iter::once(&mut self.choice).chain(&mut self.more_choices) {
            choice.redact(key);
        }
        for text in [&mut self.model, &mut self.request_id] {
            *text = key.redact(text);
        }
        key.redact_json(&mut self.raw);
    }

    /// Reads the fields that all shapes share.
    pub(crate) fn with_common_fields(mut self, body: &Value) -> Self {
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        self.model = text("model");
        self.request_id = text("id");
        let created = [&body["created"], &body["created_at"]];
        let created = created.iter().find_map(|value| value.as_f64());
        // A float's cast is saturating.
        self.created = created.map_or(0, |seconds| seconds as u64);
        self.usage = Usage::read(&body["usage"]);
        self
    }
}

/// Reads the service's id of a call.
pub(crate) fn request_id(headers: &HeaderMap) -> Option<String> {
    let names = ["x-request-id", "request-id", "apim-request-id"];
    let mut values = names.iter().filter_map(|name| headers.get(*name));
    values.find_map(|value| Some(value.to_str().ok()?.to_owned()))
}

/// The shape of an answer with status success.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    /// An answer.
    Answer,
    /// No choices, no data, or no body.
    Empty,
    /// The body ends early.
    Cut,
    /// Neither an answer nor an error in a known form.
    Untyped,
    /// An error, or a proxy's page.
    Error(Box<ErrorBody>),
}

/// An answer that was read, and its shape.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) shape: Shape,
    pub(crate) completion: Completion,
}

impl Reading {
    /// Reads a JSON body by the fields it has. `is_typed` says that the call has an answer of a known shape.
    ///
    /// Other calls return resources, such as a job, whose own `error` is no error of the call.
    pub(crate) fn of_json(body: Value, is_typed: bool, notes: Notes) -> Self {
        let (shape, mut completion) = if body["choices"].is_array() {
            openai::chat::read(&body)
        } else if body["output"].is_array() || body["object"] == "response" {
            openai::responses::read(&body)
        } else if body["type"] == "message" && body["content"].is_array() {
            anthropic::messages::read(&body)
        } else if let Some(error) = error_in(&body).filter(|_| is_typed || body["id"].is_null()) {
            (Shape::Error(Box::new(error)), Completion::default())
        } else if body["data"].is_array() {
            openai::embeddings::read(&body)
        } else {
            let shape = if is_typed {
                Shape::Untyped
            } else {
                Shape::Answer
            };
            (shape, Completion::default().with_common_fields(&body))
        };
        completion.notes = notes.0;
        if matches!(shape, Shape::Untyped) {
            completion.notes.push(Note::Untyped);
        }
        completion.raw = body;
        Self { shape, completion }
    }

    /// Keeps a body that is not JSON.
    pub(crate) fn of_text(shape: Shape, text: String, mut notes: Notes) -> Self {
        match shape {
            Shape::Cut => notes.add(Note::Cut),
            Shape::Untyped => notes.add(Note::Untyped),
            Shape::Answer | Shape::Empty | Shape::Error(_) => {}
        }
        let raw = if text.is_empty() {
            Value::Null
        } else {
            Value::String(text)
        };
        let completion = Completion {
            notes: notes.0,
            raw,
            ..Completion::default()
        };
        Self { shape, completion }
    }
}

/// Returns the error that a body with status success holds.
pub(crate) fn error_in(body: &Value) -> Option<ErrorBody> {
    let is_error = match &body["error"] {
        Value::Null => body["object"] == "error" || body["type"] == "error",
        Value::Bool(value) => *value,
        Value::Number(_) => true,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    };
    is_error.then(|| ErrorBody::from_value(body))
}
