//! Whole streams in unusual framing.

use super::{Properties, Scene};
use crate::openai::chat::{tool_deltas, usage};
use crate::openai::request::Api;
use crate::openai::sse::{Cut, Event};
use crate::reply::Reply;
use serde_json::{Value, json};

const EVERY_API: Properties = Properties::ANSWER.streamed();
const CHAT: Properties = EVERY_API.of(&[Api::Chat]);

/// With characters of 2, 3 and 4 bytes.
const WIDE_TEXT: Properties = Properties {
    prefix: "é€😀 ",
    ..EVERY_API
};

fault_table! {
    /// A whole stream with unusual framing.
    FramingFault {
        Bytes WIDE_TEXT "sse-bytes" "every byte is a write of its own",
        SplitUtf8 WIDE_TEXT "sse-split-utf8" "writes end inside UTF-8 sequences",
        SplitCrLf EVERY_API "sse-split-crlf" "lines end with CRLF, writes between CR and LF",
        Cr EVERY_API "sse-cr" "lines end with CR",
        CrLf EVERY_API "sse-crlf" "lines end with CRLF",
        OneWrite EVERY_API "sse-one-write" "all events in one write",
        Comments EVERY_API "sse-comments" "comment lines before each event, as OpenRouter has it",
        MultiLine EVERY_API "sse-multi-line" "JSON over several data lines",
        Fields EVERY_API "sse-fields" "id, retry and unknown fields before each event",
        NoSpace EVERY_API "sse-no-space" "no space after the colon",
        Bom EVERY_API "sse-bom" "a byte order mark first",
        NoBlank CHAT "sse-no-blank" "no blank line after the last event",
        NoDone CHAT "sse-no-done" "no DONE after the last chunk",
        AfterDone CHAT "sse-after-done" "another chunk after DONE",
        SlowStart EVERY_API "sse-slow-start" "headers, then --fault-wait before the first event",
        Long CHAT "sse-long" "an event of a mebibyte",
        OneEvent CHAT "sse-one-event" "the whole answer in one chunk",
        Json EVERY_API "json-for-sse" "JSON where a stream was asked for",
        TypeJson EVERY_API "sse-type-json" "Content-Type: application/json",
        NoUsage CHAT "sse-no-usage" "no usage, asked for or not",
        UsageLast CHAT "sse-usage-last" "usage in the chunk with the finish_reason",
        UsageEvery CHAT "sse-usage-every" "usage in every chunk",
        UsageZero CHAT "sse-usage-zero" "usage is 0 everywhere",
        Azure CHAT "sse-azure" "a first chunk without id, model and choices, as Azure has it",
        ContentNull CHAT "sse-content-null" "content is null in the first delta and the last",
        RoleEvery CHAT "sse-role-every" "every delta has the role",
        Reasoning CHAT "sse-reasoning" "deltas with reasoning_content first",
        ToolCalls CHAT "sse-tool-calls" "deltas of a tool call in place of content",
        Refusal CHAT "sse-refusal" "deltas of a refusal in place of content",
    }
}

impl FramingFault {
    pub(super) fn reply(self, scene: &Scene<'_>) -> Reply {
        let answer = scene.answer;
        let mut stream = answer.events(scene.pace);
        let (framing, events) = (&mut stream.framing, &mut stream.events);
        match self {
            Self::Bytes => framing.cut = Cut::Bytes,
            Self::SplitUtf8 => framing.cut = Cut::InsideCharacters,
            Self::SplitCrLf => {
                framing.line_end = "\r\n";
                framing.cut = Cut::AfterCr;
            }
            Self::Cr => framing.line_end = "\r",
            Self::CrLf => framing.line_end = "\r\n",
            Self::OneWrite => framing.cut = Cut::Nowhere,
            Self::Comments => framing.before = &[": OPENROUTER PROCESSING", ""],
            Self::MultiLine => framing.pretty = true,
            Self::Fields => {
                framing.before = &["id: 7", "retry: 3000", "x-unknown: 1", "data-free"];
            }
            Self::NoSpace => framing.space = "",
            Self::Bom => framing.bom = true,
            Self::NoBlank => {
                events.pop();
                stream.tail = b"data: [DONE]\n".to_vec();
            }
            Self::NoDone => events.retain(|event| !event.is_done()),
            Self::AfterDone => events.extend(events.first().cloned()),
            Self::SlowStart => stream.first_pause = scene.times.wait,
            Self::Long => lengthen(events),
            Self::OneEvent => one_event(events, &answer.text),
            Self::Json => return Reply::json(200, &answer.whole()),
            Self::TypeJson => return stream.reply(scene.pace).content_type("application/json"),
            Self::NoUsage => drop_usage(events),
            Self::UsageLast => {
                drop_usage(events);
                set_usage(events, &usage(answer), is_last);
            }
            Self::UsageEvery => set_usage(events, &usage(answer), |_| true),
            Self::UsageZero => {
                let zero = json!({ "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0 });
                set_usage(events, &zero, |chunk| chunk["usage"].is_object());
            }
            Self::Azure => events.insert(0, azure_first()),
            Self::ContentNull => each_delta(events, clear_content),
            Self::RoleEvery => each_delta(events, |delta| delta["role"] = json!("assistant")),
            Self::Reasoning => insert_deltas(events, &reasoning()),
            Self::ToolCalls => {
                drop_content(events);
                insert_deltas(events, &tool_deltas("f", &answer.arguments()));
                finish(events, "tool_calls");
            }
            Self::Refusal => {
                drop_content(events);
                insert_deltas(events, &refusal());
            }
        }
        stream.reply(scene.pace)
    }
}

fn reasoning() -> [Value; 2] {
    ["First ", "I think."]
        .map(|text| json!({ "role": "assistant", "content": null, "reasoning_content": text }))
}

fn refusal() -> [Value; 2] {
    ["I can't ", "help."].map(|text| json!({ "refusal": text }))
}

/// Sets the content to null where it is empty or missing.
fn clear_content(delta: &mut Value) {
    if delta.get("content").is_none_or(|content| content == "") {
        delta["content"] = Value::Null;
    }
}

/// Whether a chunk ends a choice.
fn is_last(chunk: &Value) -> bool {
    chunk["choices"][0]["finish_reason"].is_string()
}

fn each_delta(events: &mut [Event], mut edit: impl FnMut(&mut Value)) {
    for chunk in events.iter_mut().filter_map(Event::as_json) {
        for choice in chunk["choices"].as_array_mut().into_iter().flatten() {
            edit(&mut choice["delta"]);
        }
    }
}

/// Makes the first delta with some content a mebibyte long.
fn lengthen(events: &mut [Event]) {
    let mut filler = "lorem ".repeat((1 << 20) / 6);
    each_delta(events, |delta| {
        let text = delta["content"].as_str().filter(|text| !text.is_empty());
        if let Some(text) = text {
            let long = core::mem::take(&mut filler) + text;
            delta["content"] = json!(long);
        }
    });
}

/// Puts copies of the first event after the first, with these deltas.
fn insert_deltas(events: &mut Vec<Event>, deltas: &[Value]) {
    let Some(first) = events.first().cloned() else {
        return;
    };
    let copies = deltas.iter().map(|delta| {
        let mut copy = first.clone();
        if let Some(chunk) = copy.as_json() {
            chunk["choices"][0]["delta"] = delta.clone();
        }
        copy
    });
    events.splice(1..1, copies.collect::<Vec<_>>());
}

/// Removes the events with some content.
fn drop_content(events: &mut Vec<Event>) {
    events.retain_mut(|event| {
        let chunk = event.as_json();
        let content = chunk.and_then(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
        content.is_none_or(str::is_empty)
    });
}

fn one_event(events: &mut Vec<Event>, text: &str) {
    drop_content(events);
    each_delta(events, |delta| {
        if delta.get("role").is_some() {
            delta["content"] = json!(text);
        }
    });
    events.retain_mut(|event| event.as_json().is_none_or(|chunk| !is_last(chunk)));
    if let Some(chunk) = events.first_mut().and_then(Event::as_json) {
        chunk["choices"][0]["finish_reason"] = json!("stop");
    }
}

fn finish(events: &mut [Event], reason: &str) {
    for chunk in events.iter_mut().filter_map(Event::as_json) {
        if is_last(chunk) {
            chunk["choices"][0]["finish_reason"] = json!(reason);
        }
    }
}

/// Removes the usage, and the chunk that is there for it.
fn drop_usage(events: &mut Vec<Event>) {
    events.retain_mut(|event| match event.as_json() {
        Some(chunk) => {
            if let Some(chunk) = chunk.as_object_mut() {
                chunk.remove("usage");
            }
            chunk["choices"] != json!([])
        }
        None => true,
    });
}

fn set_usage(events: &mut [Event], usage: &Value, applies: impl Fn(&Value) -> bool) {
    for chunk in events.iter_mut().filter_map(Event::as_json) {
        if applies(chunk) {
            chunk["usage"] = usage.clone();
        }
    }
}

fn azure_first() -> Event {
    Event::json(json!({
        "id": "",
        "object": "",
        "created": 0,
        "model": "",
        "choices": [],
        "prompt_filter_results": [{ "prompt_index": 0, "content_filter_results": {} }],
    }))
}
