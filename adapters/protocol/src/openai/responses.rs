//! Answers of `/responses`.

use crate::completion::{Choice, Completion, Shape, error_in};
use crate::error_body::ErrorBody;
use serde_json::{Value, json};

/// Reads a body that has `output`.
pub(crate) fn read(body: &Value) -> (Shape, Completion) {
    let mut completion = Completion::default().with_common_fields(body);
    let items = body["output"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut choice = Choice::default();
    for item in items {
        add_item(&mut choice, item);
    }
    let status = body["status"].as_str();
    let reason = body["incomplete_details"]["reason"].as_str();
    choice.finish_reason = reason.or(status).map(str::to_owned);
    let has_failed = matches!(status, Some("failed" | "cancelled"));
    let error = error_in(body).or_else(|| has_failed.then(|| unnamed(status)));
    let shape = match error {
        Some(error) if has_failed || choice.is_empty() => Shape::Error(Box::new(error)),
        _ if items.is_empty() && matches!(status, None | Some("completed")) => Shape::Empty,
        _ => Shape::Answer,
    };
    completion.choice = choice;
    (shape, completion)
}

fn unnamed(status: Option<&str>) -> ErrorBody {
    let status = status.unwrap_or_default();
    ErrorBody::from_value(&json!({"error": {"message": format!("the response is {status}")}}))
}

fn add_item(choice: &mut Choice, item: &Value) {
    let parts = |name: &str| item[name].as_array().cloned().unwrap_or_default();
    match item["type"].as_str() {
        Some("message") => {
            for part in parts("content") {
                if let Some(text) = part["text"].as_str() {
                    choice.content.push_str(text);
                } else if let Some(text) = part["refusal"].as_str() {
                    choice.add_refusal(text);
                }
            }
        }
        Some("reasoning") => {
            let parts = parts("summary").into_iter().chain(parts("content"));
            for part in parts {
                choice.add_reasoning(part["text"].as_str().unwrap_or_default());
            }
        }
        Some(kind) if kind.ends_with("_call") => choice.tool_calls.push(item.clone()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_with_reasoning_refusal_and_tool_calls() {
        let body = json!({"id": "resp_1", "object": "response", "created_at": 5, "status": "completed", "model": "m",
            "error": null, "output": [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
                {"type": "message", "content": [{"type": "output_text", "text": "hel"}, {"type": "output_text", "text": "lo"},
                    {"type": "refusal", "refusal": "no"}]},
                {"type": "function_call", "name": "f", "arguments": "{}"}],
            "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}});
        let (shape, completion) = read(&body);
        assert_eq!(
            (shape, &*completion.choice.content),
            (Shape::Answer, "hello")
        );
        assert_eq!(completion.choice.reasoning.as_deref(), Some("hm"));
        assert_eq!(completion.choice.refusal.as_deref(), Some("no"));
        assert_eq!(completion.choice.tool_calls.len(), 1);
        assert_eq!((&*completion.request_id, completion.created), ("resp_1", 5));
        assert_eq!(
            completion.choice.finish_reason.as_deref(),
            Some("completed")
        );
        assert_eq!(
            completion.usage.and_then(|usage| usage.total_tokens),
            Some(5)
        );
    }

    #[test]
    fn the_status_says_whether_it_is_an_answer() {
        let message = json!([{"type": "message", "content": [{"text": "half"}]}]);
        let incomplete = json!({"output": message, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}});
        let (shape, completion) = read(&incomplete);
        assert_eq!(shape, Shape::Answer);
        assert_eq!(
            completion.choice.finish_reason.as_deref(),
            Some("max_output_tokens")
        );

        let failed = json!({"output": [], "status": "failed", "error": {"code": "rate_limit_exceeded", "message": "m"}});
        let Shape::Error(error) = read(&failed).0 else {
            panic!("an error");
        };
        assert_eq!(error.code.as_deref(), Some("rate_limit_exceeded"));
        assert!(matches!(
            read(&json!({"output": [], "status": "cancelled"})).0,
            Shape::Error(_)
        ));
        assert_eq!(
            read(&json!({"output": [], "status": "completed"})).0,
            Shape::Empty
        );
        assert_eq!(
            read(&json!({"output": [], "status": "queued"})).0,
            Shape::Answer
        );
    }
}
