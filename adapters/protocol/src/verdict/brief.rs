//! The usage of whole answers that are passed on unread, without building their JSON.
//!
//! Invariant: a body that is strict JSON has the same verdict as by the whole body. All that is unusual is left to that.

use crate::call::Call;
use crate::completion::{Completion, Reading, Shape};
use crate::usage::Usage;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::borrow::Cow;

/// The fields of an answer that its verdict depends on.
#[derive(Deserialize)]
struct Body<'b> {
    #[serde(borrow)]
    id: Option<Cow<'b, str>>,
    #[serde(borrow)]
    object: Option<Cow<'b, str>>,
    error: Option<IgnoredAny>,
    output: Option<IgnoredAny>,
    #[serde(rename = "type")]
    kind: Option<IgnoredAny>,
    #[serde(borrow)]
    choices: Option<Vec<Choice<'b>>>,
    data: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    usage: Value,
}

#[derive(Deserialize)]
struct Choice<'b> {
    #[serde(borrow)]
    message: Message<'b>,
}

#[derive(Deserialize)]
struct Message<'b> {
    #[serde(borrow)]
    content: Cow<'b, str>,
}

/// Reads a body; `None` for one that is anything but a plain answer.
pub(super) fn read(call: Call, body: &[u8]) -> Option<Reading> {
    let body: Body<'_> = serde_json::from_slice(body).ok()?;
    let is_plain = body.error.is_none() && body.kind.is_none() && body.output.is_none();
    let usage = Usage::read(&body.usage)?;
    let is_answer = match (call, &body.choices, &body.data) {
        (Call::Chat, Some(choices), _) => {
            let first = choices.first();
            first.is_some_and(|choice| !choice.message.content.is_empty())
        }
        (Call::Embeddings, None, Some(data)) => !data.is_empty(),
        (_, _, _) => false,
    };
    let is_known = !matches!(body.object.as_deref(), Some("error" | "response"));
    (is_plain && is_answer && is_known).then(|| Reading {
        shape: Shape::Answer,
        completion: Completion {
            usage: Some(usage),
            request_id: body.id.map(Cow::into_owned).unwrap_or_default(),
            ..Completion::default()
        },
    })
}
