//! The Responses API, whole and streamed.

use super::answer::{Answer, Finish, halves};
use super::resource::Kind;
use super::sse::{Event, EventStream, Pace};
use serde_json::{Value, json};

pub(super) fn whole(answer: &Answer) -> Value {
    let (status, details) = match answer.finish {
        Finish::Stop | Finish::ToolCalls => ("completed", Value::Null),
        Finish::Length => ("incomplete", json!({ "reason": "max_output_tokens" })),
    };
    let mut response = started(answer, status);
    response["incomplete_details"] = details;
    response["output"] = json!([item(answer, "completed", &answer.text)]);
    response["usage"] = usage(answer);
    response
}

pub(super) fn events(answer: &Answer, pace: &Pace) -> EventStream {
    let mut events = Sequence(Vec::new());
    let in_progress = started(answer, "in_progress");
    events.push("response.created", json!({ "response": in_progress }));
    events.push("response.in_progress", json!({ "response": in_progress }));
    let empty = item(answer, "in_progress", "");
    let mut first = empty;
    if answer.request.tool.is_none() {
        first["content"] = json!([]);
    } else {
        first["arguments"] = json!("");
    }
    events.push(
        "response.output_item.added",
        json!({ "output_index": 0, "item": first }),
    );
    if answer.request.tool.is_none() {
        push_text(&mut events, answer, pace);
    } else {
        let place = json!({ "item_id": item_id(answer), "output_index": 0 });
        let arguments = answer.arguments();
        let kind = "response.function_call_arguments";
        for part in halves(&arguments) {
            events.push(&format!("{kind}.delta"), with(&place, "delta", json!(part)));
        }
        events.push(
            &format!("{kind}.done"),
            with(&place, "arguments", json!(arguments)),
        );
    }
    let done = item(answer, "completed", &answer.text);
    events.push(
        "response.output_item.done",
        json!({ "output_index": 0, "item": done }),
    );
    let end = match answer.finish {
        Finish::Stop | Finish::ToolCalls => "response.completed",
        Finish::Length => "response.incomplete",
    };
    events.push(end, json!({ "response": whole(answer) }));
    EventStream::new(events.0)
}

/// A response whose status is `failed`.
pub(super) fn failed(answer: &Answer) -> Value {
    let mut response = started(answer, "failed");
    response["error"] = json!({
        "code": "server_error",
        "message": "The model failed to generate a response.",
    });
    response
}

fn push_text(events: &mut Sequence, answer: &Answer, pace: &Pace) {
    let place = json!({ "item_id": item_id(answer), "output_index": 0, "content_index": 0 });
    events.push(
        "response.content_part.added",
        with(&place, "part", text_part("")),
    );
    for piece in pace.pieces(&answer.text, answer.request.choices) {
        let mut delta = with(&place, "delta", json!(piece));
        delta["logprobs"] = json!([]);
        events.push("response.output_text.delta", delta);
    }
    let mut text = with(&place, "text", json!(answer.text));
    text["logprobs"] = json!([]);
    events.push("response.output_text.done", text);
    events.push(
        "response.content_part.done",
        with(&place, "part", text_part(&answer.text)),
    );
}

/// Events with their types and sequence numbers.
struct Sequence(Vec<Event>);

impl Sequence {
    fn push(&mut self, kind: &str, mut data: Value) {
        data["type"] = json!(kind);
        data["sequence_number"] = json!(self.0.len());
        self.0.push(Event::named(kind, data));
    }
}

fn with(place: &Value, name: &str, value: Value) -> Value {
    let mut data = place.clone();
    data[name] = value;
    data
}

fn started(answer: &Answer, status: &str) -> Value {
    let links = &answer.request.links;
    let conversation = links.conversation.as_ref().map(|id| json!({ "id": id }));
    json!({
        "id": Kind::Response.id(&answer.id),
        "object": "response",
        "created_at": answer.created,
        "status": status,
        "background": false,
        "conversation": conversation,
        "error": null,
        "incomplete_details": null,
        "instructions": null,
        "max_output_tokens": answer.request.max_output.map(|(_, most)| most),
        "metadata": {},
        "model": answer.request.model,
        "output": [],
        "parallel_tool_calls": true,
        "previous_response_id": links.previous_response,
        "reasoning": { "effort": null, "summary": null },
        "service_tier": "default",
        "store": links.is_kept,
        "temperature": 1.0,
        "text": { "format": { "type": "text" } },
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": null,
    })
}

fn usage(answer: &Answer) -> Value {
    json!({
        "input_tokens": answer.request.prompt_tokens,
        "input_tokens_details": { "cached_tokens": 0 },
        "output_tokens": answer.completion_tokens,
        "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": answer.total_tokens(),
    })
}

fn item_id(answer: &Answer) -> String {
    let kind = match answer.request.tool {
        None => "msg",
        Some(_) => "fc",
    };
    format!("{kind}_{}", answer.id)
}

fn item(answer: &Answer, status: &str, text: &str) -> Value {
    match &answer.request.tool {
        None => json!({
            "id": item_id(answer),
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [text_part(text)],
        }),
        Some(name) => json!({
            "id": item_id(answer),
            "type": "function_call",
            "status": status,
            "call_id": "call_testbed_1",
            "name": name,
            "arguments": answer.arguments(),
        }),
    }
}

fn text_part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}
