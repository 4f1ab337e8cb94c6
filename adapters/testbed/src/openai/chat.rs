//! Chat completions, whole and streamed.

use super::answer::{Answer, Finish, halves};
use super::sse::{Event, EventStream, Pace};
use serde_json::{Value, json};

const FINGERPRINT: &str = "fp_testbed";

/// Stands for the random padding that hides the length of a delta.
const OBFUSCATION: &str = "xKq3";

pub(super) fn whole(answer: &Answer) -> Value {
    let message = match &answer.request.tool {
        None => json!({ "role": "assistant", "content": answer.text, "refusal": null }),
        Some(name) => json!({
            "role": "assistant",
            "content": null,
            "refusal": null,
            "tool_calls": [tool_call(name, &answer.arguments())],
        }),
    };
    let choices: Vec<_> = (0..answer.request.choices)
        .map(|index| {
            json!({
                "index": index,
                "message": message,
                "logprobs": null,
                "finish_reason": finish_reason(answer.finish),
            })
        })
        .collect();
    json!({
        "id": format!("chatcmpl-{}", answer.id),
        "object": "chat.completion",
        "created": answer.created,
        "model": answer.request.model,
        "choices": choices,
        "usage": usage(answer),
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    })
}

pub(super) fn events(answer: &Answer, pace: &Pace) -> EventStream {
    let chunks = Chunks(answer);
    let choices = 0..answer.request.choices;
    let mut events = Vec::new();
    let first = json!({ "role": "assistant", "content": "", "refusal": null });
    events.extend(choices.clone().map(|index| chunks.delta(index, &first)));
    if let Some(name) = &answer.request.tool {
        for delta in tool_deltas(name, &answer.arguments()) {
            events.extend(choices.clone().map(|index| chunks.delta(index, &delta)));
        }
    }
    for piece in pace.pieces(&answer.text, answer.request.choices) {
        let delta = json!({ "content": piece });
        events.extend(choices.clone().map(|index| chunks.delta(index, &delta)));
    }
    events.extend(choices.map(|index| chunks.last(index)));
    if answer.request.stream.is_some_and(|options| options.usage) {
        let mut chunk = chunks.chunk(json!([]));
        chunk["usage"] = usage(answer);
        events.push(Event::json(chunk));
    }
    events.push(Event::done());
    EventStream::new(events)
}

pub(super) fn usage(answer: &Answer) -> Value {
    json!({
        "prompt_tokens": answer.request.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.total_tokens(),
        "prompt_tokens_details": { "cached_tokens": 0, "audio_tokens": 0 },
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    })
}

pub(super) fn tool_call(name: &str, arguments: &str) -> Value {
    json!({
        "id": "call_testbed_1",
        "type": "function",
        "function": { "name": name, "arguments": arguments },
    })
}

/// The deltas of a function call: its name first, its arguments in two parts.
pub(super) fn tool_deltas(name: &str, arguments: &str) -> [Value; 3] {
    let [start, rest] = halves(arguments);
    let part =
        |text: &str| json!({ "tool_calls": [{ "index": 0, "function": { "arguments": text } }] });
    let mut call = tool_call(name, "");
    call["index"] = json!(0);
    [json!({ "tool_calls": [call] }), part(start), part(rest)]
}

/// Chunks of one answer: all share its id.
struct Chunks<'a>(&'a Answer);

impl Chunks<'_> {
    fn delta(&self, index: u64, delta: &Value) -> Event {
        self.choice(index, delta, None)
    }

    fn last(&self, index: u64) -> Event {
        self.choice(index, &json!({}), Some(finish_reason(self.0.finish)))
    }

    fn choice(&self, index: u64, delta: &Value, finish: Option<&str>) -> Event {
        Event::json(self.chunk(json!([{
            "index": index,
            "delta": delta,
            "logprobs": null,
            "finish_reason": finish,
        }])))
    }

    fn chunk(&self, choices: Value) -> Value {
        let options = self.0.request.stream;
        let has_choices = choices != json!([]);
        let mut chunk = json!({
            "id": format!("chatcmpl-{}", self.0.id),
            "object": "chat.completion.chunk",
            "created": self.0.created,
            "model": self.0.request.model,
            "service_tier": "default",
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        });
        if options.is_some_and(|options| options.usage) {
            chunk["usage"] = Value::Null;
        }
        if has_choices && options.is_some_and(|options| options.obfuscation) {
            chunk["obfuscation"] = json!(OBFUSCATION);
        }
        chunk
    }
}

const fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::ToolCalls => "tool_calls",
    }
}
