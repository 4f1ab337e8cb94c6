//! Properties of what services say.

use super::cases;
use core::time::Duration;
use leasehold_protocol::verdict::body_as_json;
use leasehold_protocol::{AnswerStream, Call, Encoding, MAX_WAIT, Rest, RestConfig, count_tokens};
use leasehold_tests::protocol::{rate_headers, sse, verdict};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Any JSON value.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A word of what services say, or anything else.
fn word() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\\",
        "\\u",
        "\\ud83d",
        "\\ude00",
        "null",
        "NaN",
        "-Infinity",
        "1e999",
        "error",
        "\"error\":",
        "\"message\":",
        "\"code\":",
        "\"type\":",
        "\"choices\":",
        "\"output\":",
        "\"content\":",
        "\"delta\":",
        "\"index\":",
        "\"usage\":",
        "\"total_tokens\":",
        "\"status\":",
        "\"insufficient_quota\"",
        "\"rate_limit_exceeded\"",
        "\"overloaded_error\"",
        "502",
        "429",
        "try again in ",
        "3.2s",
        "1m30s",
        "20ms",
        "<html>",
        "<title>",
        "</title>",
        "cloudflare",
        "nginx",
        "data: ",
        "event: ",
        "[DONE]",
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        ":",
        "\u{feff}",
        "é",
        "😀",
        "\0",
        "Limit 30000, Requested 36055",
    ]);
    prop_oneof![8 => known.prop_map(str::to_owned), 1 => any::<String>()]
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::collection::vec(word(), 0..30).prop_map(|words| words.concat().into_bytes());
    prop_oneof![3 => words, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

fn wait() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "0",
        "-1",
        "7",
        "0.5",
        "3s",
        "1m2.5s",
        "12ms",
        "6m0s",
        "1795888926",
        "1795888926000",
        "2026-11-28T18:02:06Z",
        "2026-11-28T18:02:06.5+01:00",
        "Sat, 28 Nov 2026 19:02:04 GMT",
        "true",
        "false",
        "text/html",
        "text/event-stream",
        "99999999999999999999999999",
        "1e9",
        "nan",
        "\"default\";r=5;t=30",
        "limit=100, remaining=50, reset=30",
        "🦀",
        "9999999999d",
    ]);
    prop_oneof![6 => known.prop_map(str::to_owned), 1 => any::<String>(), 1 => any::<f64>().prop_map(|it| it.to_string())]
}

fn header() -> impl Strategy<Value = verdict::Header> {
    let name = 0_u8..u8::try_from(verdict::NAMES.len()).expect("few names") + 2;
    let other = prop_oneof![
        "x-ratelimit-[a-z0-9-]{1,20}",
        "anthropic-ratelimit-[a-z-]{1,20}",
        any::<String>()
    ];
    (name, other, wait(), prop::bool::weighted(0.1)).prop_map(|(name, other, value, has_key)| {
        verdict::Header {
            name,
            other,
            value,
            has_key,
        }
    })
}

/// The fields of an answer, each plain, odd or missing.
fn answer_fields() -> impl Strategy<Value = Vec<(String, Value)>> {
    let plain = [
        ("id", json!("chatcmpl-1")),
        ("object", json!("chat.completion")),
        (
            "choices",
            json!([{"index": 0, "message": {"role": "assistant", "content": "hello"}}]),
        ),
        ("data", json!([{"embedding": [0.5], "index": 0}])),
        (
            "usage",
            json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}),
        ),
        ("error", Value::Null),
    ];
    let odd = prop::sample::select(vec![
        json!("error"),
        json!("response"),
        json!([]),
        json!([{"text": "hello"}]),
        json!([{"message": {"content": ""}, "error": {"message": "no"}, "finish_reason": "error"}]),
        json!([{"message": {"content": [{"text": "hello"}]}}]),
        json!([7, {"message": {"content": "late"}}]),
        json!({"message": "no", "code": 429}),
        json!({"total_tokens": "7"}),
        json!(0),
        Value::Null,
    ]);
    let names = plain.clone().map(|(name, _)| name).to_vec();
    let names = [names, vec!["type", "output", "content"]].concat();
    let edits = prop::collection::vec((prop::sample::select(names), prop::option::of(odd)), 0..4);
    edits.prop_map(move |edits| {
        let mut fields: Vec<(String, Value)> = plain
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        for (name, value) in edits {
            fields.retain(|(known, _)| known != name);
            fields.extend(value.map(|value| (name.to_owned(), value)));
        }
        fields
    })
}

/// The events of a stream, each a JSON text, as bytes: with comments, any line ends, and keep-alives.
fn framed(events: &[Value], line_end: &str, comment: bool) -> Vec<u8> {
    let mut text = String::new();
    for event in events {
        if comment {
            text.push_str(&format!(": keep-alive{line_end}{line_end}"));
        }
        let kind = event["type"]
            .as_str()
            .map_or(String::new(), |kind| format!("event: {kind}{line_end}"));
        text.push_str(&format!("{kind}data: {event}{line_end}{line_end}"));
    }
    text.into_bytes()
}

/// Reads a stream in parts of a length.
///
/// Returns the texts of its chunks, whether it is complete, and its content.
fn join(call: Call, bytes: &[u8], part: usize) -> (String, bool, String) {
    let mut stream = AnswerStream::new(call);
    let mut texts = String::new();
    for part in bytes.chunks(part) {
        stream.feed(part).expect("no event is too long");
        while let Some(chunk) = stream.next_chunk() {
            texts.push_str(chunk.text());
        }
    }
    let joined = stream.finish();
    (
        texts,
        joined.is_complete(),
        joined.completion().choice.content.clone(),
    )
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_answer_gets_a_verdict_that_keeps_its_promises(
        status in prop_oneof![Just(100_u16), Just(329_u16), any::<u16>()], call: u8, body in text(),
        headers in prop::collection::vec(header(), 0..6), keys_at in prop::collection::vec(any::<u16>(), 0..2), now: u32,
    ) {
        verdict::run(&verdict::Case { status, call, headers, body, keys_at, now });
    }

    /// An answer is judged without its text as it is with it, whatever its fields hold.
    #[test]
    fn an_answer_is_judged_alike_the_short_way_and_the_long_way(
        call: u8, fields in answer_fields(), status in prop_oneof![9 => Just(100_u16), 1 => any::<u16>()],
    ) {
        let body = Value::Object(fields.into_iter().collect()).to_string().into_bytes();
        verdict::run(&verdict::Case { status, call, headers: Vec::new(), body, keys_at: Vec::new(), now: 0 });
    }

    #[test]
    fn any_headers_give_waits_of_at_most_a_day(headers in prop::collection::vec(header(), 0..12), now: u32) {
        rate_headers::run(&rate_headers::Case { headers, now });
    }

    #[test]
    fn a_stream_split_anywhere_gives_the_same_events(
        bytes in text(), parts in prop::collection::vec(0_u8..40, 0..20), max_event in 0_u16..200,
    ) {
        sse::run(&sse::Case { parts, max_event, bytes });
    }

    #[test]
    fn a_joined_answer_is_the_concatenation_of_its_chunks(
        texts in prop::collection::vec(any::<String>(), 0..12),
        part in 1_usize..50,
        line_end in prop::sample::select(vec!["\n", "\r", "\r\n"]),
        comment: bool,
        cut: prop::sample::Index,
    ) {
        let mut chat: Vec<_> = texts.iter().map(|text| json!({"choices": [{"index": 0, "delta": {"content": text}}]})).collect();
        chat.push(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}));
        let mut responses: Vec<_> = texts.iter().map(|text| json!({"type": "response.output_text.delta", "output_index": 0, "delta": text})).collect();
        responses.push(json!({"type": "response.completed", "response": {"status": "completed"}}));
        let mut messages: Vec<_> = texts.iter().map(|text| json!({"type": "content_block_delta", "index": 0, "delta": {"text": text}})).collect();
        messages.push(json!({"type": "message_stop"}));
        let whole = texts.concat();
        for (call, events) in [(Call::Chat, chat), (Call::Responses, responses), (Call::Messages, messages)] {
            let bytes = framed(&events, line_end, comment);
            let (chunks, complete, content) = join(call, &bytes, part);
            prop_assert_eq!((&chunks, &content), (&whole, &whole), "{:?}", call);
            // Nothing at all may be an empty answer, which is no error.
            prop_assert!(complete, "{:?}", call);
            // Cut anywhere, what came before is kept.
            let end = cut.index(bytes.len());
            let (chunks, _, content) = join(call, &bytes[..end], part);
            prop_assert!(whole.starts_with(&content) && content.starts_with(&chunks), "{:?}", call);
        }
    }

    #[test]
    fn strict_json_is_read_as_it_is_and_padding_is_skipped(value in value()) {
        let text = value.to_string();
        prop_assert_eq!(body_as_json(text.as_bytes(), None), value.clone());
        if value.is_object() || value.is_array() {
            let padded = format!("\u{feff} \n\0{text}\r\n \0");
            prop_assert_eq!(body_as_json(padded.as_bytes(), None), value.clone());
            let trailed = format!("{text} and more");
            prop_assert_eq!(body_as_json(trailed.as_bytes(), None), value);
        }
    }

    #[test]
    fn a_control_character_or_bad_bytes_lose_no_answer(before: String, after: String, bad in prop_oneof![0_u8..32, 128_u8..=255]) {
        let quoted = |text: &str| {
            let quoted = Value::from(text).to_string();
            quoted[1..quoted.len() - 1].to_owned()
        };
        let mut body = format!("{{\"choices\": [{{\"message\": {{\"content\": \"{}", quoted(&before)).into_bytes();
        body.push(bad);
        body.extend(format!("{}\"}}}}]}}", quoted(&after)).into_bytes());
        let found = body_as_json(&body, None);
        let content = found["choices"][0]["message"]["content"].as_str();
        let content = content.expect("the content is kept");
        prop_assert!(content.starts_with(&before) && content.ends_with(&after), "{content:?}");
    }

    #[test]
    fn rests_stay_within_their_bounds(steps in prop::collection::vec((0_u8..3, any::<u64>()), 0..60), seed: u64) {
        for config in [RestConfig::RATE, RestConfig::PATIENCE] {
            let mut rest = Rest::new(config, seed);
            for (step, nanos) in &steps {
                let longest = rest.longest();
                let told = Duration::from_nanos(*nanos);
                match step {
                    0 => {
                        let drawn = rest.untold();
                        prop_assert!(config.floor <= drawn && drawn <= longest && longest <= config.cap);
                        prop_assert!(rest.longest() >= longest);
                    }
                    1 => {
                        let drawn = rest.told(told);
                        prop_assert!(drawn >= told.min(MAX_WAIT) && drawn <= MAX_WAIT.max(config.cap));
                    }
                    _ => {
                        rest.success();
                        prop_assert!(rest.longest() <= longest);
                    }
                }
            }
        }
    }

    #[test]
    fn any_text_has_a_count_of_tokens(text: String) {
        for encoding in [Encoding::Cl100k, Encoding::O200k] {
            let count = encoding.count(&text) as usize;
            prop_assert!(count <= text.len() && (count == 0) == text.is_empty());
        }
        prop_assert_eq!(count_tokens("unknown", &text) as usize, text.len().div_ceil(4));
    }
}
