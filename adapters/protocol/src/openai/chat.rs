//! Answers of `/chat/completions` and `/completions`.
//!
//! Invariant: a choice is read whatever its fields are; one that is missing or has the wrong type is left out.

use crate::completion::{Choice, Completion, Shape, error_in};
use crate::error_body::ErrorBody;
use crate::usage::Usage;
use serde_json::{Value, json};

/// Reads a body that has `choices`.
pub(crate) fn read(body: &Value) -> (Shape, Completion) {
    let mut completion = Completion::default().with_common_fields(body);
    if completion.usage.is_none() {
        completion.usage = Usage::read(&body["x_groq"]["usage"]);
    }
    let choices = body["choices"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut found = choices.iter().filter_map(choice);
    let first = found.next();
    completion.more_choices = found.collect();
    let is_typed = first.is_some();
    completion.choice = first.unwrap_or_default();
    let failed = completion.choice.is_empty();
    let error = error_in(body).or_else(|| choices.iter().find_map(error_in_choice));
    let shape = match error {
        Some(error) if failed => Shape::Error(Box::new(error)),
        _ if choices.is_empty() => Shape::Empty,
        _ if !is_typed => Shape::Untyped,
        _ => Shape::Answer,
    };
    (shape, completion)
}

fn error_in_choice(choice: &Value) -> Option<ErrorBody> {
    let unnamed = || {
        let failed = choice["finish_reason"] == "error";
        let body = json!({"error": {"message": "the choice ends with an error", "code": 502}});
        failed.then(|| ErrorBody::from_value(&body))
    };
    error_in(choice).or_else(unnamed)
}

/// Reads a choice; `None` if it has neither a message nor a text.
fn choice(choice: &Value) -> Option<Choice> {
    let mut found = if choice["message"].is_object() {
        message(&choice["message"])
    } else if choice["delta"].is_object() {
        message(&choice["delta"])
    } else {
        Choice {
            content: choice["text"].as_str()?.to_owned(),
            ..Choice::default()
        }
    };
    found.finish_reason = choice["finish_reason"].as_str().map(str::to_owned);
    Some(found)
}

/// Reads a message, or the part of one in a stream.
pub(crate) fn message(message: &Value) -> Choice {
    let mut found = Choice::default();
    add_content(&mut found, &message["content"]);
    let reasoning = ["reasoning_content", "reasoning"];
    let reasoning = reasoning
        .into_iter()
        .find_map(|name| message[name].as_str());
    if let Some(text) = reasoning {
        found.add_reasoning(text);
    }
    if let Some(text) = message["refusal"].as_str() {
        found.add_refusal(text);
    }
    if let Some(calls) = message["tool_calls"].as_array() {
        found.tool_calls.clone_from(calls);
    }
    if message["function_call"].is_object() {
        let call = json!({"type": "function", "function": message["function_call"]});
        found.tool_calls.push(call);
    }
    found
}

/// Adds a content: a text, or parts of which those with text are joined.
fn add_content(choice: &mut Choice, content: &Value) {
    match content {
        Value::String(text) => choice.content.push_str(text),
        Value::Array(parts) => {
            for part in parts {
                add_part(choice, part);
            }
        }
        Value::Object(_) => add_part(choice, content),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn add_part(choice: &mut Choice, part: &Value) {
    if let Some(text) = part["refusal"].as_str() {
        choice.add_refusal(text);
    } else if let Some(thinking) = part["thinking"].as_array() {
        for part in thinking {
            choice.add_reasoning(part["text"].as_str().unwrap_or_default());
        }
    } else if let Some(text) = part["thinking"].as_str() {
        choice.add_reasoning(text);
    } else {
        let text = [part, &part["text"], &part["text"]["value"]];
        let text = text.into_iter().find_map(Value::as_str);
        choice.content.push_str(text.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &Value) -> Completion {
        let (shape, completion) = read(body);
        assert_eq!(shape, Shape::Answer, "{body}");
        completion
    }

    #[test]
    fn content_is_read_in_every_form() {
        for (content, text) in [
            (json!("hello"), "hello"),
            (json!(null), ""),
            (
                json!([{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]),
                "hello",
            ),
            (
                json!(["hel", {"text": {"value": "lo"}}, {"type": "image_url"}, 7]),
                "hello",
            ),
            (json!({"type": "text", "text": "hello"}), "hello"),
            (
                json!([{"type": "thinking", "thinking": [{"text": "hm"}]}, {"type": "text", "text": "hello"}]),
                "hello",
            ),
            (json!(7), ""),
        ] {
            let body = json!({"choices": [{"message": {"content": content}}]});
            assert_eq!(answer(&body).choice.content, text, "{body}");
        }
        let body = json!({"choices": [{"text": "hello", "index": 0}]});
        assert_eq!(answer(&body).choice.content, "hello");
    }

    #[test]
    fn reasoning_refusals_and_tool_calls_are_kept() {
        let body = json!({"choices": [{"message": {
            "content": [{"type": "refusal", "refusal": "no"}, {"type": "thinking", "thinking": "hm"}],
            "tool_calls": [{"id": "t"}], "function_call": {"name": "f"}}, "finish_reason": "stop"}]});
        let choice = answer(&body).choice;
        assert_eq!(
            (choice.refusal.as_deref(), choice.reasoning.as_deref()),
            (Some("no"), Some("hm"))
        );
        assert_eq!(
            choice.tool_calls,
            [
                json!({"id": "t"}),
                json!({"type": "function", "function": {"name": "f"}})
            ]
        );
        for name in ["reasoning_content", "reasoning"] {
            let body = json!({"choices": [{"message": {"content": "42", name: "hm"}}]});
            assert_eq!(answer(&body).choice.reasoning.as_deref(), Some("hm"));
        }
    }

    #[test]
    fn all_choices_are_read() {
        let choice = |text: &str| json!({"message": {"content": text}});
        let completion = answer(&json!({"choices": [choice("a"), {"odd": 1}, choice("b")]}));
        assert_eq!(completion.choice.content, "a");
        assert_eq!(completion.more_choices.len(), 1);
        assert_eq!(completion.more_choices[0].content, "b");
    }

    #[test]
    fn a_field_that_is_missing_or_odd_is_unknown() {
        let body = json!({"choices": [{"message": {}, "finish_reason": 7}], "created": "now", "model": 5,
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": null}});
        let odd = answer(&body);
        assert_eq!(
            (odd.created, &*odd.model, odd.choice.finish_reason),
            (0, "", None)
        );
        assert_eq!(odd.usage.and_then(|usage| usage.total_tokens), Some(7));
        let body = json!({"choices": [{"message": {"content": null}}], "x_groq": {"usage": {"total_tokens": 5}}});
        assert_eq!(
            answer(&body).usage.and_then(|usage| usage.total_tokens),
            Some(5)
        );
    }

    #[test]
    fn an_error_is_told_from_an_answer() {
        let error = json!({"message": "upstream", "code": 502});
        for body in [
            json!({"choices": [{"error": error, "message": {"content": ""}}]}),
            json!({"choices": [], "error": error}),
            json!({"choices": [{"finish_reason": "error", "message": {"content": null}}]}),
            json!({"choices": [{"error": error, "message": {"content": "", "reasoning": "", "refusal": ""}}]}),
        ] {
            let (shape, _) = read(&body);
            assert!(
                matches!(shape, Shape::Error(ref error) if error.status == Some(502)),
                "{body}"
            );
        }
        // What was paid for is kept, even beside an error.
        let body = json!({"choices": [{"error": error, "message": {"content": "half an ans"}}]});
        assert_eq!(answer(&body).choice.content, "half an ans");
        assert_eq!(
            answer(&json!({"error": null, "choices": [{"message": {}}]}))
                .choice
                .content,
            ""
        );
    }

    #[test]
    fn no_choices_are_told_from_odd_ones() {
        assert_eq!(read(&json!({"choices": []})).0, Shape::Empty);
        assert_eq!(read(&json!({"choices": [{}]})).0, Shape::Untyped);
        assert_eq!(read(&json!({"choices": [7]})).0, Shape::Untyped);
    }
}
