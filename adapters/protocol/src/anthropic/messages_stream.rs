//! Joins the events of a streamed message.

use crate::stream::{Delta, indexed};
use crate::usage::Usage;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The events so far, joined.
#[derive(Clone, Debug, Default)]
pub(crate) struct MessagesJoiner {
    message: Value,
    blocks: BTreeMap<u64, Block>,
    is_finished: bool,
}

#[derive(Clone, Debug, Default)]
struct Block {
    /// The block as it began.
    value: Value,
    text: String,
    thinking: String,
    input: String,
}

impl MessagesJoiner {
    /// Adds an event; returns what it adds to the answer, and its usage.
    pub(crate) fn add(&mut self, event: &Value) -> (Vec<Delta>, Option<Usage>) {
        let index = event["index"].as_u64().unwrap_or(0);
        let mut delta = Delta::default();
        let mut usage = None;
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => {
                self.message.clone_from(&event["message"]);
                usage = Usage::read(&self.message["usage"]);
            }
            "content_block_start" => {
                let block = indexed(&mut self.blocks, index);
                block.value.clone_from(&event["content_block"]);
            }
            "content_block_delta" => {
                let block = indexed(&mut self.blocks, index);
                block.add(&event["delta"], &mut delta);
            }
            "message_delta" => {
                self.end(&event["delta"], &event["usage"]);
                usage = Usage::read(&self.message["usage"]);
                delta.finish_reason = event["delta"]["stop_reason"].as_str().map(str::to_owned);
            }
            "message_stop" => self.is_finished = true,
            _ => {}
        }
        let deltas = if delta.is_empty() {
            Vec::new()
        } else {
            vec![delta]
        };
        (deltas, usage)
    }

    /// Whether the event came that ends a message.
    pub(crate) const fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Returns the body that the call without streaming would have had.
    pub(crate) fn into_body(self) -> Value {
        let mut message = self.message;
        if !message.is_object() {
            message = json!({});
        }
        message["type"] = "message".into();
        let blocks: Vec<_> = self.blocks.into_values().map(Block::into_value).collect();
        message["content"] = blocks.into();
        message
    }

    /// Takes the fields of the last event over. Its counts are totals.
    fn end(&mut self, fields: &Value, counts: &Value) {
        if !self.message.is_object() {
            self.message = json!({});
        }
        for (name, value) in fields.as_object().into_iter().flatten() {
            self.message[name] = value.clone();
        }
        if !self.message["usage"].is_object() {
            self.message["usage"] = json!({});
        }
        for (name, value) in counts.as_object().into_iter().flatten() {
            if !value.is_null() {
                self.message["usage"][name] = value.clone();
            }
        }
    }
}

impl Block {
    fn add(&mut self, part: &Value, delta: &mut Delta) {
        if let Some(text) = part["text"].as_str() {
            self.text.push_str(text);
            delta.content = Some(text.to_owned());
        } else if let Some(text) = part["thinking"].as_str() {
            self.thinking.push_str(text);
            delta.reasoning = Some(text.to_owned());
        } else if let Some(text) = part["partial_json"].as_str() {
            self.input.push_str(text);
            delta.tool_calls.push(part.clone());
        }
    }

    fn into_value(self) -> Value {
        let mut block = self.value;
        if !block.is_object() {
            let kind = if self.thinking.is_empty() {
                "text"
            } else {
                "thinking"
            };
            block = json!({"type": kind});
        }
        for (name, text) in [("text", self.text), ("thinking", self.thinking)] {
            if !text.is_empty() {
                let before = block[name].as_str().unwrap_or_default();
                block[name] = format!("{before}{text}").into();
            }
        }
        if !self.input.is_empty() {
            // A cut input is no JSON; its text is kept.
            let input = serde_json::from_str(&self.input);
            block["input"] = input.unwrap_or(Value::String(self.input));
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anthropic::messages::read;

    fn events() -> Vec<Value> {
        vec![
            json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "model": "claude", "content": [],
                "usage": {"input_tokens": 25, "output_tokens": 1, "cache_read_input_tokens": 100}}}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            json!({"type": "ping"}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "he"}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "llo"}}),
            json!({"type": "content_block_stop", "index": 0}),
            json!({"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}}}),
            json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{\"x\":"}}),
            json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "1}"}}),
            json!({"type": "content_block_delta", "index": 2, "delta": {"type": "thinking_delta", "thinking": "hm"}}),
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 15}}),
            json!({"type": "message_stop"}),
        ]
    }

    #[test]
    fn a_stream_is_joined_to_the_body_without_streaming() {
        let mut joiner = MessagesJoiner::default();
        let mut usage = None;
        for event in events() {
            assert!(!joiner.is_finished());
            usage = joiner.add(&event).1.or(usage);
        }
        assert!(joiner.is_finished());
        let usage = usage.unwrap();
        assert_eq!(
            (usage.prompt_tokens, usage.completion_tokens),
            (Some(125), Some(15))
        );
        let body = joiner.into_body();
        assert_eq!(body["content"][1]["input"], json!({"x": 1}));
        let (_, completion) = read(&body);
        assert_eq!(completion.choice.content, "hello");
        assert_eq!(completion.choice.reasoning.as_deref(), Some("hm"));
        assert_eq!(completion.choice.finish_reason.as_deref(), Some("end_turn"));
        assert_eq!(
            completion.usage.and_then(|usage| usage.total_tokens),
            Some(140)
        );
    }

    #[test]
    fn a_cut_stream_is_what_came_so_far() {
        let mut joiner = MessagesJoiner::default();
        for event in events().into_iter().take(8) {
            joiner.add(&event);
        }
        assert!(!joiner.is_finished());
        let body = joiner.into_body();
        assert_eq!(body["content"][0]["text"], "hello");
        assert_eq!(body["content"][1]["input"], "{\"x\":");
    }
}
