//! Answers of `/messages`.

use crate::completion::{Choice, Completion, Shape, error_in};
use serde_json::Value;

/// Reads a body of type `message`.
pub(crate) fn read(body: &Value) -> (Shape, Completion) {
    let mut completion = Completion::default().with_common_fields(body);
    let mut choice = Choice::default();
    for block in body["content"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
    {
        if let Some(text) = block["text"].as_str() {
            choice.content.push_str(text);
        } else if let Some(text) = block["thinking"].as_str() {
            choice.add_reasoning(text);
        } else if block["type"]
            .as_str()
            .is_some_and(|kind| kind.ends_with("tool_use"))
        {
            choice.tool_calls.push(block.clone());
        }
    }
    choice.finish_reason = body["stop_reason"].as_str().map(str::to_owned);
    let shape = match error_in(body) {
        Some(error) if choice.is_empty() => Shape::Error(Box::new(error)),
        _ => Shape::Answer,
    };
    completion.choice = choice;
    (shape, completion)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_message_is_read_with_thinking_and_tools() {
        let body = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [
            {"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "hel"}, {"type": "text", "text": "lo"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {}}],
            "stop_reason": "end_turn", "usage": {"input_tokens": 3, "output_tokens": 2}});
        let (shape, completion) = read(&body);
        assert_eq!(
            (shape, &*completion.choice.content),
            (Shape::Answer, "hello")
        );
        assert_eq!(completion.choice.reasoning.as_deref(), Some("hm"));
        assert_eq!(completion.choice.tool_calls.len(), 1);
        assert_eq!(completion.choice.finish_reason.as_deref(), Some("end_turn"));
        assert_eq!(
            completion.usage.and_then(|usage| usage.total_tokens),
            Some(5)
        );
    }
}
