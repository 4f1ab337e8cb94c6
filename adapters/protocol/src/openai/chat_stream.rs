//! Joins the chunks of a streamed chat completion.
//!
//! Invariant: the joined body has the shape of a completion that was not streamed, fields unknown here included.

use crate::openai::chat::message;
use crate::stream::{Delta, MAX_INDEXED, indexed};
use crate::usage::Usage;
use serde_json::map::Entry;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The chunks so far, joined.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChatJoiner {
    /// Fields of the chunks besides their choices.
    head: Map<String, Value>,
    choices: BTreeMap<u64, Map<String, Value>>,
}

impl ChatJoiner {
    /// Adds a chunk; returns what it adds to each choice, and its usage.
    pub(crate) fn add(&mut self, chunk: &Value) -> (Vec<Delta>, Option<Usage>) {
        for (name, value) in chunk.as_object().into_iter().flatten() {
            let is_set = self.head.get(name).is_some_and(|known| !known.is_null());
            let is_own = matches!(&**name, "choices" | "object" | "obfuscation");
            if !is_own && !value.is_null() && (!is_set || name == "usage") {
                self.head.insert(name.clone(), value.clone());
            }
        }
        let choices = chunk["choices"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let deltas = choices.iter().map(|choice| self.add_choice(choice));
        let deltas = deltas.filter(|delta| !delta.is_empty()).collect();
        let usage = Usage::read(&chunk["usage"]);
        (
            deltas,
            usage.or_else(|| Usage::read(&chunk["x_groq"]["usage"])),
        )
    }

    /// Whether every choice has its reason to end.
    pub(crate) fn is_finished(&self) -> bool {
        let has_ended = |choice: &Map<String, Value>| {
            choice
                .get("finish_reason")
                .is_some_and(|reason| !reason.is_null())
        };
        !self.choices.is_empty() && self.choices.values().all(has_ended)
    }

    /// Returns the body that the call without streaming would have had.
    pub(crate) fn into_body(mut self) -> Value {
        let is_text = self
            .choices
            .values()
            .any(|choice| choice.contains_key("text"));
        let object = if is_text {
            "text_completion"
        } else {
            "chat.completion"
        };
        self.head.insert("object".to_owned(), object.into());
        let choices: Vec<_> = self.choices.into_values().map(Value::Object).collect();
        self.head.insert("choices".to_owned(), choices.into());
        Value::Object(self.head)
    }

    fn add_choice(&mut self, choice: &Value) -> Delta {
        let number = choice["index"].as_u64().unwrap_or(0);
        let joined = indexed(&mut self.choices, number);
        joined.entry("index").or_insert_with(|| number.into());
        let mut delta = Delta {
            choice: number,
            finish_reason: choice["finish_reason"].as_str().map(str::to_owned),
            ..Delta::default()
        };
        for (name, value) in choice.as_object().into_iter().flatten() {
            match &**name {
                "index" => {}
                "delta" | "message" if value.is_object() => {
                    let part = message(value);
                    delta.content = non_empty(part.content);
                    delta.reasoning = part.reasoning.and_then(non_empty);
                    delta.refusal = part.refusal.and_then(non_empty);
                    delta.tool_calls = part.tool_calls;
                    let target = joined.entry("message").or_insert_with(|| json!({}));
                    accumulate(target, value);
                }
                "text" => {
                    let text = value.as_str().filter(|text| !text.is_empty());
                    delta.content = text.map(str::to_owned);
                    accumulate_field(joined, name, value);
                }
                _ => accumulate_field(joined, name, value),
            }
        }
        delta
    }
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Fields that name a thing: a repetition of the same value is not appended.
const NAMES: [&str; 7] = [
    "id",
    "type",
    "role",
    "name",
    "finish_reason",
    "index",
    "format",
];

/// Adds a part to a value: texts are appended, objects joined by field, items of lists joined by their `index`.
///
/// The depth is bounded by that of the JSON.
fn accumulate(target: &mut Value, part: &Value) {
    match (target, part) {
        (_, Value::Null) => {}
        (Value::Object(target), Value::Object(part)) => {
            for (name, value) in part {
                accumulate_field(target, name, value);
            }
        }
        (Value::Array(target), Value::Array(part)) => {
            for item in part {
                add_item(target, item);
            }
        }
        (Value::String(target), Value::String(part)) => target.push_str(part),
        (target, part) => target.clone_from(part),
    }
}

fn accumulate_field(target: &mut Map<String, Value>, name: &str, part: &Value) {
    match target.entry(name) {
        Entry::Vacant(entry) => {
            // Items that share an index within one part are joined too.
            let mut value = if part.is_array() {
                json!([])
            } else {
                Value::Null
            };
            accumulate(&mut value, part);
            entry.insert(value);
        }
        Entry::Occupied(entry) if NAMES.contains(&name) && entry.get() == part => {}
        Entry::Occupied(mut entry) => accumulate(entry.get_mut(), part),
    }
}

fn add_item(target: &mut Vec<Value>, item: &Value) {
    let is_indexed = item["index"].is_u64() && target.len() <= MAX_INDEXED;
    // Parts of the same item follow each other, so the search from the end is short.
    let known = is_indexed.then(|| {
        target
            .iter_mut()
            .rfind(|known| known["index"] == item["index"])
    });
    match known.flatten() {
        Some(known) => accumulate(known, item),
        None => target.push(item.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(chunks: &[Value]) -> (Vec<Delta>, Value) {
        let mut joiner = ChatJoiner::default();
        let deltas = chunks
            .iter()
            .flat_map(|chunk| joiner.add(chunk).0)
            .collect();
        (deltas, joiner.into_body())
    }

    fn delta(delta: &Value) -> Value {
        json!({"choices": [{"index": 0, "delta": delta}]})
    }

    #[test]
    fn a_stream_is_joined_to_the_body_without_streaming() {
        let (deltas, body) = join(&[
            json!({"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "m", "usage": null, "obfuscation": "x",
                "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]}),
            delta(&json!({"content": "he"})),
            delta(&json!({"role": "assistant", "content": "llo", "reasoning_content": "hm"})),
            json!({"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": null}),
            json!({"id": "c1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}),
        ]);
        assert_eq!(
            body,
            json!({
                "id": "c1", "object": "chat.completion", "created": 5, "model": "m",
                "choices": [{"index": 0, "finish_reason": "stop",
                    "message": {"role": "assistant", "content": "hello", "reasoning_content": "hm"}}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
            })
        );
        let texts: Vec<_> = deltas
            .iter()
            .filter_map(|delta| delta.content.as_deref())
            .collect();
        assert_eq!(texts, ["he", "llo"]);
        assert_eq!(
            deltas.last().unwrap().finish_reason.as_deref(),
            Some("stop")
        );
    }

    #[test]
    fn tool_calls_are_joined_by_index() {
        let call = |index: u64, id: Value, name: Value, arguments: &str| json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
        let (_, body) = join(&[
            delta(&json!({"content": null, "tool_calls": [call(0, json!("a"), json!("f"), "")]})),
            delta(
                &json!({"tool_calls": [call(0, json!(null), json!(null), "{\"x\":"), call(1, json!("b"), json!("g"), "[")]}),
            ),
            delta(
                &json!({"tool_calls": [call(1, json!("b"), json!("g"), "]"), call(0, json!("a"), json!("f"), "1}")]}),
            ),
        ]);
        let calls = &body["choices"][0]["message"]["tool_calls"];
        assert_eq!(
            *calls,
            json!([
                call(0, json!("a"), json!("f"), "{\"x\":1}"),
                call(1, json!("b"), json!("g"), "[]")
            ])
        );
        assert_eq!(body["choices"][0]["message"]["content"], json!(null));
    }

    #[test]
    fn choices_are_joined_by_index_and_sorted() {
        let part = |index: u64, text: &str| json!({"choices": [{"index": index, "delta": {"content": text}}]});
        let (_, body) = join(&[part(1, "b"), part(0, "a"), part(1, "d"), part(0, "c")]);
        let texts: Vec<_> = body["choices"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["message"]["content"].clone())
            .collect();
        assert_eq!(texts, ["ac", "bd"]);
    }

    #[test]
    fn refusals_and_the_older_completions_are_joined() {
        let (deltas, body) = join(&[
            delta(&json!({"refusal": "I "})),
            delta(&json!({"refusal": "can't"})),
        ]);
        assert_eq!(body["choices"][0]["message"]["refusal"], "I can't");
        assert_eq!(deltas[1].refusal.as_deref(), Some("can't"));
        let text = |text: &str| json!({"choices": [{"index": 0, "text": text}]});
        let (deltas, body) = join(&[text("he"), text("llo")]);
        assert_eq!(
            (&body["choices"][0]["text"], &body["object"]),
            (&json!("hello"), &json!("text_completion"))
        );
        assert_eq!(deltas[0].content.as_deref(), Some("he"));
    }

    #[test]
    fn the_numbers_of_choices_and_tool_calls_are_bounded() {
        let mut joiner = ChatJoiner::default();
        for index in 0..3_000_u64 {
            let chunk = json!({"choices": [{"index": index, "delta": {"content": "x"}}]});
            joiner.add(&chunk);
        }
        let body = joiner.into_body();
        assert_eq!(body["choices"].as_array().unwrap().len(), MAX_INDEXED);
        let content = body["choices"][MAX_INDEXED - 1]["message"]["content"].as_str();
        assert_eq!(content.unwrap().len(), 3_000 - MAX_INDEXED + 1);
    }
}
