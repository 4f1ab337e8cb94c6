//! Joins the events of a streamed response.
//!
//! Invariant: a response that ended is the one of its last event; one that was cut is what the deltas told so far.

use crate::stream::{Delta, indexed};
use crate::usage::Usage;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The events so far, joined.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResponsesJoiner {
    /// The response as the latest event words it.
    response: Value,
    /// Output items by their index, as far as they are known.
    items: BTreeMap<u64, Item>,
    is_finished: bool,
}

#[derive(Clone, Debug, Default)]
struct Item {
    /// The item as announced, or as it ended.
    announced: Value,
    is_done: bool,
    text: String,
    refusal: String,
    reasoning: String,
    arguments: String,
}

impl ResponsesJoiner {
    /// Adds an event; returns what it adds to the answer, and its usage.
    pub(crate) fn add(&mut self, event: &Value) -> (Vec<Delta>, Option<Usage>) {
        let kind = event["type"].as_str().unwrap_or_default();
        if event["response"].is_object() {
            self.response.clone_from(&event["response"]);
        }
        if matches!(
            kind,
            "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled"
        ) {
            self.is_finished = true;
        }
        let index = event["output_index"].as_u64().unwrap_or(0);
        let text = event["delta"].as_str().unwrap_or_default();
        let mut delta = Delta::default();
        match kind {
            "response.output_item.added" | "response.output_item.done" => {
                let item = indexed(&mut self.items, index);
                item.announced.clone_from(&event["item"]);
                item.is_done = kind.ends_with(".done");
            }
            "response.output_text.delta" => {
                indexed(&mut self.items, index).text.push_str(text);
                delta.content = Some(text.to_owned());
            }
            "response.refusal.delta" => {
                indexed(&mut self.items, index).refusal.push_str(text);
                delta.refusal = Some(text.to_owned());
            }
            "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => {
                indexed(&mut self.items, index).reasoning.push_str(text);
                delta.reasoning = Some(text.to_owned());
            }
            "response.function_call_arguments.delta" => {
                indexed(&mut self.items, index).arguments.push_str(text);
                delta.tool_calls.push(event.clone());
            }
            _ => {}
        }
        if self.is_finished {
            let reason = self.response["incomplete_details"]["reason"].as_str();
            let reason = reason.or_else(|| self.response["status"].as_str());
            delta.finish_reason = reason.map(str::to_owned);
        }
        let deltas = if delta.is_empty() {
            Vec::new()
        } else {
            vec![delta]
        };
        (deltas, Usage::read(&event["response"]["usage"]))
    }

    /// Whether the event came that ends a response.
    pub(crate) const fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Returns the body that the call without streaming would have had.
    pub(crate) fn into_body(self) -> Value {
        let mut response = self.response;
        let is_told = response["output"]
            .as_array()
            .is_some_and(|output| !output.is_empty());
        if is_told && self.is_finished {
            return response;
        }
        if !response.is_object() {
            response = json!({"object": "response"});
        }
        let items: Vec<_> = self.items.into_values().map(Item::into_value).collect();
        response["output"] = items.into();
        response
    }
}

impl Item {
    fn into_value(self) -> Value {
        if self.is_done {
            return self.announced;
        }
        if !self.arguments.is_empty() {
            let mut call = self.announced;
            if !call.is_object() {
                call = json!({"type": "function_call"});
            }
            call["arguments"] = self.arguments.into();
            return call;
        }
        if !self.reasoning.is_empty() {
            return json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": self.reasoning}]});
        }
        let mut content = Vec::new();
        if !self.text.is_empty() {
            content.push(json!({"type": "output_text", "text": self.text}));
        }
        if !self.refusal.is_empty() {
            content.push(json!({"type": "refusal", "refusal": self.refusal}));
        }
        if content.is_empty() && self.announced.is_object() {
            return self.announced;
        }
        json!({"type": "message", "role": "assistant", "content": content})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::completion::Shape;
    use crate::openai::responses::read;

    fn join(events: &[Value]) -> (Vec<Delta>, Value, bool) {
        let mut joiner = ResponsesJoiner::default();
        let deltas = events
            .iter()
            .flat_map(|event| joiner.add(event).0)
            .collect();
        let is_finished = joiner.is_finished();
        (deltas, joiner.into_body(), is_finished)
    }

    fn text(text: &str) -> Value {
        json!({"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": text})
    }

    #[test]
    fn the_last_event_tells_the_whole_answer() {
        let message =
            json!({"type": "message", "content": [{"type": "output_text", "text": "hello"}]});
        let whole = json!({"id": "resp_1", "object": "response", "status": "completed", "output": [message],
            "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}});
        let mut joiner = ResponsesJoiner::default();
        joiner.add(&json!({"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "output": []}}));
        assert_eq!(joiner.add(&text("he")).0[0].content.as_deref(), Some("he"));
        joiner.add(&text("llo"));
        assert!(!joiner.is_finished());
        let (deltas, usage) = joiner.add(&json!({"type": "response.completed", "response": whole}));
        assert_eq!(deltas[0].finish_reason.as_deref(), Some("completed"));
        assert_eq!(usage.and_then(|usage| usage.total_tokens), Some(5));
        assert!(joiner.is_finished());
        assert_eq!(joiner.into_body(), whole);
    }

    #[test]
    fn a_cut_stream_is_joined_from_its_deltas() {
        let (_, body, is_finished) = join(&[
            json!({"type": "response.created", "response": {"id": "resp_1", "model": "m", "status": "in_progress", "output": []}}),
            json!({"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "hm"}),
            text("he"),
            text("llo"),
            json!({"type": "response.refusal.delta", "output_index": 2, "delta": "no"}),
            json!({"type": "response.output_item.added", "output_index": 3, "item": {"type": "function_call", "name": "f"}}),
            json!({"type": "response.function_call_arguments.delta", "output_index": 3, "delta": "{"}),
            json!({"type": "response.output_item.done", "output_index": 4, "item": {"type": "web_search_call"}}),
        ]);
        assert!(!is_finished);
        let (shape, completion) = read(&body);
        assert_eq!(
            (shape, &*completion.choice.content),
            (Shape::Answer, "hello")
        );
        assert_eq!(completion.choice.reasoning.as_deref(), Some("hm"));
        assert_eq!(completion.choice.refusal.as_deref(), Some("no"));
        assert_eq!(completion.choice.tool_calls.len(), 2);
        assert_eq!(completion.choice.tool_calls[0]["arguments"], "{");
        assert_eq!(
            (&*completion.request_id, &*completion.model),
            ("resp_1", "m")
        );
    }

    #[test]
    fn a_response_that_failed_is_an_error() {
        let (_, body, is_finished) = join(&[
            text("half"),
            json!({"type": "response.failed", "response": {"status": "failed", "output": [], "error": {"code": "server_error", "message": "m"}}}),
        ]);
        assert!(is_finished);
        let (shape, completion) = read(&body);
        assert!(
            matches!(shape, Shape::Error(error) if error.code.as_deref() == Some("server_error"))
        );
        assert_eq!(completion.choice.content, "half");
    }
}
