//! Whole streams in unusual framing.

use super::Scene;
use crate::openai::chat::{tool_deltas, usage};
use crate::openai::reply::Reply;
use crate::openai::request::Api;
use crate::openai::sse::{Cut, Event, EventStream, Framing};
use serde_json::{Value, json};

fault_table! {
    /// A whole stream with unusual framing.
    FramingFault {
        Bytes "sse-bytes" "every byte is a write of its own",
        SplitUtf8 "sse-split-utf8" "writes end inside UTF-8 sequences",
        SplitCrLf "sse-split-crlf" "lines end with CRLF, writes between CR and LF",
        Cr "sse-cr" "lines end with CR",
        CrLf "sse-crlf" "lines end with CRLF",
        OneWrite "sse-one-write" "all events in one write",
        Comments "sse-comments" "comment lines before each event, as OpenRouter has it",
        MultiLine "sse-multi-line" "JSON over several data lines",
        Fields "sse-fields" "id, retry and unknown fields before each event",
        NoSpace "sse-no-space" "no space after the colon",
        Bom "sse-bom" "a byte order mark first",
        NoBlank "sse-no-blank" "no blank line after the last event",
        NoDone "sse-no-done" "no DONE after the last chunk",
        AfterDone "sse-after-done" "another chunk after DONE",
        SlowStart "sse-slow-start" "headers, then --fault-wait before the first event",
        Long "sse-long" "an event of a mebibyte",
        OneEvent "sse-one-event" "the whole answer in one chunk",
        Json "json-for-sse" "JSON where a stream was asked for",
        TypeJson "sse-type-json" "Content-Type: application/json",
        NoUsage "sse-no-usage" "no usage, asked for or not",
        UsageLast "sse-usage-last" "usage in the chunk with the finish_reason",
        UsageEvery "sse-usage-every" "usage in every chunk",
        UsageZero "sse-usage-zero" "usage is 0 everywhere",
        Azure "sse-azure" "a first chunk without id, model and choices, as Azure has it",
        ContentNull "sse-content-null" "content is null in the first delta and the last",
        RoleEvery "sse-role-every" "every delta has the role",
        Reasoning "sse-reasoning" "deltas with reasoning_content first",
        ToolCalls "sse-tool-calls" "deltas of a tool call in place of content",
        Refusal "sse-refusal" "deltas of a refusal in place of content",
    }
}

impl FramingFault {
    pub(super) const fn applies_to(self, api: Api) -> bool {
        match self {
            Self::Bytes
            | Self::SplitUtf8
            | Self::SplitCrLf
            | Self::Cr
            | Self::CrLf
            | Self::OneWrite
            | Self::Comments
            | Self::MultiLine
            | Self::Fields
            | Self::NoSpace
            | Self::Bom
            | Self::SlowStart
            | Self::Json
            | Self::TypeJson => true,
            Self::NoBlank
            | Self::NoDone
            | Self::AfterDone
            | Self::Long
            | Self::OneEvent
            | Self::NoUsage
            | Self::UsageLast
            | Self::UsageEvery
            | Self::UsageZero
            | Self::Azure
            | Self::ContentNull
            | Self::RoleEvery
            | Self::Reasoning
            | Self::ToolCalls
            | Self::Refusal => matches!(api, Api::Chat),
        }
    }

    /// Text with sequences of 2, 3 and 4 bytes, where some are needed.
    pub(super) const fn prefix(self) -> &'static str {
        if matches!(self, Self::SplitUtf8 | Self::Bytes) {
            "é€😀 "
        } else {
            ""
        }
    }

    pub(super) fn reply(self, scene: &Scene<'_>) -> Reply {
        let mut stream = scene.answer.events(scene.pace);
        stream.framing = self.framing();
        self.edit(&mut stream, scene);
        let reply = stream.reply(scene.pace);
        if self == Self::Json {
            return Reply::json(200, &scene.answer.whole());
        }
        if self == Self::TypeJson {
            return reply.content_type("application/json");
        }
        reply
    }

    fn framing(self) -> Framing {
        let plain = Framing::default();
        match self {
            Self::Bytes => Framing {
                cut: Cut::Bytes,
                ..plain
            },
            Self::SplitUtf8 => Framing {
                cut: Cut::InsideCharacters,
                ..plain
            },
            Self::SplitCrLf => Framing {
                line_end: "\r\n",
                cut: Cut::AfterCr,
                ..plain
            },
            Self::Cr => Framing {
                line_end: "\r",
                ..plain
            },
            Self::CrLf => Framing {
                line_end: "\r\n",
                ..plain
            },
            Self::OneWrite => Framing {
                cut: Cut::Nowhere,
                ..plain
            },
            Self::Comments => Framing {
                before: &[": OPENROUTER PROCESSING", ""],
                ..plain
            },
            Self::MultiLine => Framing {
                pretty: true,
                ..plain
            },
            Self::Fields => Framing {
                before: &["id: 7", "retry: 3000", "x-unknown: 1", "data-free"],
                ..plain
            },
            Self::NoSpace => Framing { space: "", ..plain },
            Self::Bom => Framing { bom: true, ..plain },
            Self::NoBlank
            | Self::NoDone
            | Self::AfterDone
            | Self::SlowStart
            | Self::Long
            | Self::OneEvent
            | Self::Json
            | Self::TypeJson
            | Self::NoUsage
            | Self::UsageLast
            | Self::UsageEvery
            | Self::UsageZero
            | Self::Azure
            | Self::ContentNull
            | Self::RoleEvery
            | Self::Reasoning
            | Self::ToolCalls
            | Self::Refusal => plain,
        }
    }

    fn edit(self, stream: &mut EventStream, scene: &Scene<'_>) {
        let answer = scene.answer;
        let events = &mut stream.events;
        match self {
            Self::NoBlank => {
                events.pop();
                stream.tail = b"data: [DONE]\n".to_vec();
            }
            Self::NoDone => events.retain(|event| !event.is_done()),
            Self::AfterDone => events.extend(events.first().cloned()),
            Self::SlowStart => stream.first_pause = scene.times.wait,
            Self::Long => lengthen(events),
            Self::OneEvent => one_event(events, &answer.text),
            Self::NoUsage => drop_usage(events),
            Self::UsageLast => {
                drop_usage(events);
                let finished = |chunk: &Value| chunk["choices"][0]["finish_reason"].is_string();
                set_usage(events, &usage(answer), finished);
            }
            Self::UsageEvery => set_usage(events, &usage(answer), |_| true),
            Self::UsageZero => {
                let zero = json!({ "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0 });
                set_usage(events, &zero, |chunk| chunk["usage"].is_object());
            }
            Self::Azure => events.insert(0, azure_first()),
            Self::ContentNull => each_delta(events, |delta| {
                if delta.get("content").is_none_or(|content| content == "") {
                    delta["content"] = Value::Null;
                }
            }),
            Self::RoleEvery => each_delta(events, |delta| delta["role"] = json!("assistant")),
            Self::Reasoning => {
                let deltas = ["First ", "I think."].map(|text| {
                    json!({ "role": "assistant", "content": null, "reasoning_content": text })
                });
                insert_deltas(events, &deltas);
            }
            Self::ToolCalls => {
                drop_content(events);
                insert_deltas(events, &tool_deltas("f", &answer.arguments()));
                finish(events, "tool_calls");
            }
            Self::Refusal => {
                drop_content(events);
                insert_deltas(
                    events,
                    &["I can't ", "help."].map(|text| json!({ "refusal": text })),
                );
            }
            Self::Bytes
            | Self::SplitUtf8
            | Self::SplitCrLf
            | Self::Cr
            | Self::CrLf
            | Self::OneWrite
            | Self::Comments
            | Self::MultiLine
            | Self::Fields
            | Self::NoSpace
            | Self::Bom
            | Self::Json
            | Self::TypeJson => {}
        }
    }
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
    let finished = |event: &mut Event| {
        event
            .as_json()
            .is_some_and(|chunk| chunk["choices"][0]["finish_reason"].is_string())
    };
    events.retain_mut(|event| !finished(event));
    if let Some(chunk) = events.first_mut().and_then(Event::as_json) {
        chunk["choices"][0]["finish_reason"] = json!("stop");
    }
}

fn finish(events: &mut [Event], reason: &str) {
    for chunk in events.iter_mut().filter_map(Event::as_json) {
        if chunk["choices"][0]["finish_reason"].is_string() {
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
