//! Whole answers in unusual JSON.

use crate::openai::answer::Answer;
use crate::openai::chat::tool_call;
use crate::openai::reply::Reply;
use crate::openai::request::Api;
use serde_json::{Map, Value, json};

fault_table! {
    /// A whole answer with unusual JSON.
    ShapeFault {
        ContentNull "content-null" "content is null",
        ContentEmpty "content-empty" "content is an empty string",
        ContentMissing "content-missing" "the message has no content",
        ContentParts "content-parts" "content is an array of two text parts",
        ToolCalls "tool-calls" "a tool call in place of content",
        FunctionCall "function-call" "the older function_call in place of content",
        Refusal "refusal" "a refusal in place of content",
        Filtered "content-filtered" "content is empty, finish_reason content_filter",
        Cut "finish-length" "finish_reason length",
        FinishNull "finish-null" "finish_reason is null",
        FinishUnknown "finish-unknown" "finish_reason eos",
        Reasoning "reasoning" "reasoning_content beside the content, as DeepSeek has it",
        ReasoningDetails "reasoning-details" "reasoning and reasoning_details, as OpenRouter has it",
        ThinkTags "think-tags" "content begins with <think>...</think>",
        UsageNone "usage-none" "no usage",
        UsageNull "usage-null" "usage is null",
        UsageFloat "usage-float" "usage in decimals, such as 3.0",
        UsageText "usage-text" "usage in strings",
        UsageZero "usage-zero" "usage is 0 everywhere",
        UsagePartial "usage-partial" "usage has total_tokens only",
        UsageExtra "usage-extra" "usage has costs and unknown details",
        Minimal "minimal" "only what is in the answer: no id, model, usage",
        Nulls "nulls" "id, model, created and fingerprint are null",
        Extra "extra-members" "unknown members everywhere",
        FloatTimes "float-times" "created in decimals",
        Long "long-content" "content of a mebibyte",
        OddCharacters "odd-characters" "content with NUL, escapes, emoji, line separators, BOM",
    }
}

impl ShapeFault {
    pub(super) const fn applies_to(self, api: Api) -> bool {
        match self {
            Self::UsageNone
            | Self::UsageNull
            | Self::UsageFloat
            | Self::UsageText
            | Self::UsageZero
            | Self::UsagePartial
            | Self::UsageExtra
            | Self::Nulls
            | Self::Extra => true,
            Self::ContentNull
            | Self::ContentEmpty
            | Self::ContentMissing
            | Self::ContentParts
            | Self::ToolCalls
            | Self::FunctionCall
            | Self::Refusal
            | Self::Filtered
            | Self::Cut
            | Self::FinishNull
            | Self::FinishUnknown
            | Self::Reasoning
            | Self::ReasoningDetails
            | Self::ThinkTags
            | Self::Minimal
            | Self::FloatTimes
            | Self::Long
            | Self::OddCharacters => matches!(api, Api::Chat),
        }
    }

    pub(super) fn reply(self, answer: &Answer) -> Reply {
        let mut body = answer.whole();
        if let Some(choices) = body.get_mut("choices").and_then(Value::as_array_mut) {
            for choice in choices {
                self.shape_choice(choice, answer);
            }
        }
        self.shape_body(&mut body, answer);
        Reply::json(200, &body)
    }

    fn shape_choice(self, choice: &mut Value, answer: &Answer) {
        let text = answer.text.as_str();
        let mut content = |value: Value| choice["message"]["content"] = value;
        match self {
            Self::ContentNull => content(Value::Null),
            Self::ContentEmpty => content(json!("")),
            Self::ContentMissing => remove(&mut choice["message"], "content"),
            Self::ContentParts => {
                let (start, end) = text.split_at(text.find(' ').unwrap_or(0));
                let part = |text| json!({ "type": "text", "text": text });
                content(json!([part(start), part(end)]));
            }
            Self::ToolCalls => {
                content(Value::Null);
                choice["message"]["tool_calls"] = json!([tool_call("f", &answer.arguments())]);
                choice["finish_reason"] = json!("tool_calls");
            }
            Self::FunctionCall => {
                content(Value::Null);
                choice["message"]["function_call"] =
                    tool_call("f", &answer.arguments())["function"].take();
                choice["finish_reason"] = json!("function_call");
            }
            Self::Refusal => {
                content(Value::Null);
                choice["message"]["refusal"] = json!("I'm sorry, I can't help with that.");
            }
            Self::Filtered => {
                content(json!(""));
                choice["finish_reason"] = json!("content_filter");
            }
            Self::Cut => choice["finish_reason"] = json!("length"),
            Self::FinishNull => choice["finish_reason"] = Value::Null,
            Self::FinishUnknown => choice["finish_reason"] = json!("eos"),
            Self::Reasoning => {
                choice["message"]["reasoning_content"] = json!("First I think.");
            }
            Self::ReasoningDetails => {
                choice["message"]["reasoning"] = json!("First I think.");
                let detail = json!({ "type": "reasoning.text", "text": "First I think." });
                choice["message"]["reasoning_details"] = json!([detail]);
            }
            Self::ThinkTags => content(json!(format!(
                "<think>\nFirst I think.\n</think>\n\n{text}"
            ))),
            Self::Long => content(json!(format!("{}{text}", "lorem ".repeat((1 << 20) / 6)))),
            Self::OddCharacters => {
                content(json!(format!(
                    "\0\u{1}\u{1b}[31m\u{2028}\u{feff}\u{202e}👩‍👩‍👧 \"\\/ {text}"
                )));
            }
            Self::UsageNone
            | Self::UsageNull
            | Self::UsageFloat
            | Self::UsageText
            | Self::UsageZero
            | Self::UsagePartial
            | Self::UsageExtra
            | Self::Minimal
            | Self::Nulls
            | Self::Extra
            | Self::FloatTimes => {}
        }
    }

    fn shape_body(self, body: &mut Value, answer: &Answer) {
        match self {
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
            Self::Minimal => {
                *body = json!({ "choices": [{ "message": { "content": answer.text } }] });
            }
            Self::Nulls => {
                for name in [
                    "id",
                    "model",
                    "created",
                    "created_at",
                    "object",
                    "system_fingerprint",
                ] {
                    if let Some(value) = body.get_mut(name) {
                        *value = Value::Null;
                    }
                }
            }
            Self::Extra => add_unknown(body),
            Self::FloatTimes => body["created"] = json!(answer.created as f64 + 0.5),
            Self::ContentNull
            | Self::ContentEmpty
            | Self::ContentMissing
            | Self::ContentParts
            | Self::ToolCalls
            | Self::FunctionCall
            | Self::Refusal
            | Self::Filtered
            | Self::Cut
            | Self::FinishNull
            | Self::FinishUnknown
            | Self::Reasoning
            | Self::ReasoningDetails
            | Self::ThinkTags
            | Self::Long
            | Self::OddCharacters => {}
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
