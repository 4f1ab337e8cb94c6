//! Whole answers in unusual JSON.

use super::Properties;
use crate::openai::answer::Answer;
use crate::openai::chat::tool_call;
use crate::openai::request::Api;
use crate::reply::Reply;
use serde_json::{Map, Value, json};

const EVERY_API: Properties = Properties::ANSWER.unstreamed();
const CHAT: Properties = EVERY_API.of(&[Api::Chat]);

const THOUGHT: &str = "First I think.";

/// NUL, escapes, a line separator, a byte order mark, a change of direction, an emoji of several parts.
const ODD_CHARACTERS: &str = "\0\u{1}\u{1b}[31m\u{2028}\u{feff}\u{202e}👩‍👩‍👧 \"\\/";

fault_table! {
    /// A whole answer with unusual JSON.
    ShapeFault {
        ContentNull CHAT "content-null" "content is null",
        ContentEmpty CHAT "content-empty" "content is an empty string",
        ContentMissing CHAT "content-missing" "the message has no content",
        ContentParts CHAT "content-parts" "content is an array of two text parts",
        ToolCalls CHAT "tool-calls" "a tool call in place of content",
        FunctionCall CHAT "function-call" "the older function_call in place of content",
        Refusal CHAT "refusal" "a refusal in place of content",
        Filtered CHAT "content-filtered" "content is empty, finish_reason content_filter",
        Cut CHAT "finish-length" "finish_reason length",
        FinishNull CHAT "finish-null" "finish_reason is null",
        FinishUnknown CHAT "finish-unknown" "finish_reason eos",
        Reasoning CHAT "reasoning" "reasoning_content beside the content, as DeepSeek has it",
        ReasoningDetails CHAT "reasoning-details" "reasoning and reasoning_details, as OpenRouter has it",
        ThinkTags CHAT "think-tags" "content begins with <think>...</think>",
        UsageNone EVERY_API "usage-none" "no usage",
        UsageNull EVERY_API "usage-null" "usage is null",
        UsageFloat EVERY_API "usage-float" "usage in decimals, such as 3.0",
        UsageText EVERY_API "usage-text" "usage in strings",
        UsageZero EVERY_API "usage-zero" "usage is 0 everywhere",
        UsagePartial EVERY_API "usage-partial" "usage has total_tokens only",
        UsageExtra EVERY_API "usage-extra" "usage has costs and unknown details",
        Minimal CHAT "minimal" "only what is in the answer: no id, model, usage",
        Nulls EVERY_API "nulls" "id, model, created and fingerprint are null",
        Extra EVERY_API "extra-members" "unknown members everywhere",
        FloatTimes CHAT "float-times" "created in decimals",
        Long CHAT "long-content" "content of a mebibyte",
        OddCharacters CHAT "odd-characters" "content with NUL, escapes, emoji, line separators, BOM",
    }
}

impl ShapeFault {
    pub(super) fn reply(self, answer: &Answer) -> Reply {
        let mut body = answer.whole();
        self.edit(&mut body, answer);
        Reply::json(200, &body)
    }

    fn edit(self, body: &mut Value, answer: &Answer) {
        let text = answer.text.as_str();
        match self {
            Self::ContentNull => set_content(body, &Value::Null),
            Self::ContentEmpty => set_content(body, &json!("")),
            Self::ContentMissing => {
                each_choice(body, |choice| remove(&mut choice["message"], "content"));
            }
            Self::ContentParts => set_content(body, &parts(text)),
            Self::ToolCalls => call_tool(body, answer),
            Self::FunctionCall => call_function(body, answer),
            Self::Refusal => {
                let refusal = "I'm sorry, I can't help with that.";
                set_message(body, &json!({ "content": null, "refusal": refusal }));
            }
            Self::Filtered => {
                set_content(body, &json!(""));
                finish(body, &json!("content_filter"));
            }
            Self::Cut => finish(body, &json!("length")),
            Self::FinishNull => finish(body, &Value::Null),
            Self::FinishUnknown => finish(body, &json!("eos")),
            Self::Reasoning => set_message(body, &json!({ "reasoning_content": THOUGHT })),
            Self::ReasoningDetails => {
                let detail = json!({ "type": "reasoning.text", "text": THOUGHT });
                let details = json!({ "reasoning": THOUGHT, "reasoning_details": [detail] });
                set_message(body, &details);
            }
            Self::ThinkTags => {
                let thinking = format!("<think>\n{THOUGHT}\n</think>\n\n{text}");
                set_content(body, &json!(thinking));
            }
            Self::UsageNone => remove(body, "usage"),
            Self::UsageNull => body["usage"] = Value::Null,
            Self::UsageFloat => map_usage(body, |count| json!(count as f64)),
            Self::UsageText => map_usage(body, |count| json!(count.to_string())),
            Self::UsageZero => map_usage(body, |_| json!(0)),
            Self::UsagePartial => body["usage"] = json!({ "total_tokens": answer.total_tokens() }),
            Self::UsageExtra => {
                body["usage"]["cost"] = json!(0.000_012);
                body["usage"]["cost_details"] = json!({ "upstream_inference_cost": null });
                body["usage"]["prompt_cache_hit_tokens"] = json!(0);
            }
            Self::Minimal => *body = json!({ "choices": [{ "message": { "content": text } }] }),
            Self::Nulls => clear_names(body),
            Self::Extra => add_unknown(body),
            Self::FloatTimes => body["created"] = json!(answer.created as f64 + 0.5),
            Self::Long => {
                let filler = "lorem ".repeat((1 << 20) / 6);
                set_content(body, &json!(format!("{filler}{text}")));
            }
            Self::OddCharacters => set_content(body, &json!(format!("{ODD_CHARACTERS} {text}"))),
        }
    }
}

fn each_choice(body: &mut Value, edit: impl Fn(&mut Value)) {
    let choices = body.get_mut("choices").and_then(Value::as_array_mut);
    choices.into_iter().flatten().for_each(edit);
}

/// Sets these members of each message.
fn set_message(body: &mut Value, members: &Value) {
    each_choice(body, |choice| {
        for (name, value) in members.as_object().into_iter().flatten() {
            choice["message"][name] = value.clone();
        }
    });
}

fn set_content(body: &mut Value, content: &Value) {
    set_message(body, &json!({ "content": content }));
}

fn finish(body: &mut Value, reason: &Value) {
    each_choice(body, |choice| choice["finish_reason"] = reason.clone());
}

/// The text as two parts, cut before its second word.
fn parts(text: &str) -> Value {
    let (start, end) = text.split_at(text.find(' ').unwrap_or(0));
    let part = |text| json!({ "type": "text", "text": text });
    json!([part(start), part(end)])
}

fn call_tool(body: &mut Value, answer: &Answer) {
    let call = tool_call("f", &answer.arguments());
    set_message(body, &json!({ "content": null, "tool_calls": [call] }));
    finish(body, &json!("tool_calls"));
}

fn call_function(body: &mut Value, answer: &Answer) {
    let function = tool_call("f", &answer.arguments())["function"].take();
    set_message(body, &json!({ "content": null, "function_call": function }));
    finish(body, &json!("function_call"));
}

/// Sets the members that name and date an answer to null, where there are any.
fn clear_names(body: &mut Value) {
    let dates = ["created", "created_at"];
    for name in ["id", "model", "object", "system_fingerprint"]
        .into_iter()
        .chain(dates)
    {
        if let Some(value) = body.get_mut(name) {
            *value = Value::Null;
        }
    }
}

fn remove(value: &mut Value, name: &str) {
    if let Some(object) = value.as_object_mut() {
        object.remove(name);
    }
}

/// Replaces each whole number of the usage, however deep.
fn map_usage(body: &mut Value, replace: impl Fn(u64) -> Value) {
    fn walk(object: &mut Map<String, Value>, replace: &impl Fn(u64) -> Value) {
        for value in object.values_mut() {
            if let Some(count) = value.as_u64() {
                *value = replace(count);
            } else if let Some(inner) = value.as_object_mut() {
                walk(inner, replace);
            }
        }
    }
    if let Some(usage) = body.get_mut("usage").and_then(Value::as_object_mut) {
        walk(usage, &replace);
    }
}

/// Adds an unknown member to each object, however deep.
fn add_unknown(value: &mut Value) {
    if let Some(items) = value.as_array_mut() {
        items.iter_mut().for_each(add_unknown);
    }
    if let Some(object) = value.as_object_mut() {
        object.values_mut().for_each(add_unknown);
        object.insert("x_unknown".to_owned(), json!({ "list": [1, null, "a"] }));
    }
}
