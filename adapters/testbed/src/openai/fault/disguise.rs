//! Failures that look like success: status 200 without an answer.

use super::encoding::gzip;
use super::{Properties, Scene};
use crate::openai::anthropic::error_body;
use crate::openai::{request::Api, responses};
use crate::reply::Reply;
use serde_json::{Value, json};

const FAILURE: Properties = Properties::FAILURE;

fault_table! {
    /// Status 200 without an answer.
    DisguiseFault {
        Error FAILURE "error-200" "an error object with code 502, as OpenRouter has it",
        ErrorRate FAILURE "error-200-rate" "an error object with code 429",
        ErrorString FAILURE "error-200-string" "an error that is a string",
        ErrorChoice FAILURE "error-200-choice" "an error object inside a choice; a failed response",
        NoChoices FAILURE "no-choices" "an answer without choices or output",
        NoMessage FAILURE "no-message" "a choice without a message; an output item without content",
        Html FAILURE "html-200" "an HTML page of a proxy that wants a login",
        Text FAILURE "text-200" "plain text",
        Empty FAILURE "empty-200" "no body at all",
        Null FAILURE "null-200" "the JSON value null",
        List FAILURE "list-200" "a JSON array",
        CutJson FAILURE "cut-json" "JSON that ends in the middle, in a whole HTTP body",
        CutGzip FAILURE "cut-gzip" "a gzip body that ends in the middle, in a whole HTTP body",
    }
}

impl DisguiseFault {
    pub(super) fn reply(self, scene: &Scene<'_>) -> Reply {
        let ok = |body: &Value| Reply::json(200, body);
        let answer = scene.answer;
        match self {
            Self::Error => {
                let error = json!({ "message": "Provider returned error", "code": 502 });
                ok(&json!({ "error": error, "user_id": "user_testbed" }))
            }
            Self::ErrorRate => {
                let error = json!({ "message": "Rate limit exceeded", "code": 429 });
                ok(&json!({ "error": error }))
            }
            Self::ErrorString => ok(&json!({ "error": "upstream timed out" })),
            Self::ErrorChoice => match answer.request.api {
                Api::Responses => ok(&responses::failed(answer)),
                Api::Messages => ok(&error_body(502, "Upstream error from provider", &answer.id)),
                Api::Chat | Api::Embeddings => {
                    let choice = json!({
                        "error": { "code": 502, "message": "Upstream error from provider" },
                        "finish_reason": "error",
                        "message": { "role": "assistant", "content": "" },
                    });
                    ok(&json!({ "id": answer.id, "choices": [choice] }))
                }
            },
            Self::NoChoices => ok(&emptied(answer.whole(), "")),
            Self::NoMessage => ok(&emptied(answer.whole(), "index")),
            Self::Html => Reply::html(
                200,
                "<!DOCTYPE html><html><head><title>Sign in to the network</title></head>\
                 <body><form action=\"/login\"></form></body></html>",
            )
            .by_proxy("squid/6.6"),
            Self::Text => Reply::text(200, "OK"),
            Self::Empty => Reply::new(200, "application/json", ""),
            Self::Null => ok(&Value::Null),
            Self::List => ok(&json!([answer.whole()])),
            Self::CutJson => {
                ok(&answer.whole()).with_body(cut(answer.whole().to_string().as_bytes()))
            }
            Self::CutGzip => {
                let body = gzip(answer.whole().to_string().as_bytes());
                ok(&Value::Null)
                    .with_body(cut(&body))
                    .header("content-encoding", "gzip")
            }
        }
    }
}

/// The first two thirds.
fn cut(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len() * 2 / 3].to_vec()
}

/// Empties the list that holds the answer: an item keeps its member `kept`; without one, no item is kept.
fn emptied(mut body: Value, kept: &str) -> Value {
    for name in ["choices", "output", "data", "content"] {
        let Some(items) = body.get_mut(name).and_then(Value::as_array_mut) else {
            continue;
        };
        if kept.is_empty() {
            items.clear();
        }
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            item.retain(|name, _| name == kept);
        }
    }
    body
}
