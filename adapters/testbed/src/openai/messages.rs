//! Anthropic's Messages API, whole and streamed.

use super::answer::{Answer, Finish, halves};
use super::sse::{Event, EventStream, Pace};
use serde_json::{Value, json};

pub(super) fn whole(answer: &Answer) -> Value {
    let block = match &answer.request.tool {
        None => json!({ "type": "text", "text": answer.text }),
        Some(name) => tool_use(answer, name, &json!({ "input": answer.request.prompt })),
    };
    let mut message = message(answer);
    message["content"] = json!([block]);
    message["stop_reason"] = json!(stop_reason(answer.finish));
    message["usage"] = usage(answer, answer.completion_tokens);
    message["usage"]["service_tier"] = json!("standard");
    message
}

pub(super) fn events(answer: &Answer, pace: &Pace) -> EventStream {
    let block = match &answer.request.tool {
        None => json!({ "type": "text", "text": "" }),
        Some(name) => tool_use(answer, name, &json!({})),
    };
    let mut events = vec![
        event("message_start", json!({ "message": message(answer) })),
        event(
            "content_block_start",
            json!({ "index": 0, "content_block": block }),
        ),
        event("ping", json!({})),
    ];
    let delta = |delta: Value| event("content_block_delta", json!({ "index": 0, "delta": delta }));
    if answer.request.tool.is_none() {
        let pieces = pace.pieces(&answer.text, 1).into_iter();
        events.extend(pieces.map(|text| delta(json!({ "type": "text_delta", "text": text }))));
    } else {
        let arguments = answer.arguments();
        let [start, rest] = halves(&arguments);
        let part = |text: &str| delta(json!({ "type": "input_json_delta", "partial_json": text }));
        events.extend(["", start, rest].map(part));
    }
    let end = json!({ "stop_reason": stop_reason(answer.finish), "stop_sequence": null });
    events.extend([
        event("content_block_stop", json!({ "index": 0 })),
        event(
            "message_delta",
            json!({ "delta": end, "usage": usage(answer, answer.completion_tokens) }),
        ),
        event("message_stop", json!({})),
    ]);
    EventStream::new(events)
}

/// An event, whose data repeats its name.
pub(super) fn event(kind: &str, mut data: Value) -> Event {
    data["type"] = json!(kind);
    Event::named(kind, data)
}

/// A message at its start: without content, and with the tokens of its prompt.
fn message(answer: &Answer) -> Value {
    json!({
        "id": format!("msg_{}", answer.id),
        "type": "message",
        "role": "assistant",
        "model": answer.request.model,
        "content": [],
        "stop_reason": null,
        "stop_sequence": null,
        "usage": usage(answer, 1),
    })
}

fn usage(answer: &Answer, output_tokens: u64) -> Value {
    json!({
        "input_tokens": answer.request.prompt_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
    })
}

fn tool_use(answer: &Answer, name: &str, input: &Value) -> Value {
    let id = format!("toolu_{}", answer.id);
    json!({ "type": "tool_use", "id": id, "name": name, "input": input })
}

const fn stop_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
        Finish::ToolCalls => "tool_use",
    }
}
