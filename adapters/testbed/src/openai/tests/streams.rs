//! Streams: plain, in unusual framing, and broken.

use super::*;

/// A server, and the reply to one streamed call with each fault.
struct Streams(OpenAi);

impl Streams {
    fn new() -> Self {
        Self(
            OpenAi::start(OpenAiConfig {
                fault_wait: Duration::from_millis(300),
                stall: Duration::from_millis(50),
                ..config()
            })
            .unwrap(),
        )
    }

    fn ask(&self, fault: Fault) -> Reply {
        self.0.control().script([fault]);
        Client::new(&self.0).chat(&streamed())
    }
}

#[test]
fn a_stream_has_the_chunks_of_the_service_in_order() {
    let server = OpenAi::start(config()).unwrap();
    let reply = Client::new(&server).chat(&streamed());
    assert_eq!(
        reply.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    assert_eq!(reply.header("content-length"), None);
    assert!(reply.text().ends_with("data: [DONE]\n\n"));
    let chunks = chunks(&reply.body);
    assert_eq!(content(&chunks), "echo from gpt-test: hello there");
    assert_eq!(chunks[0]["object"], "chat.completion.chunk");
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
    let (usage, rest) = chunks.split_last().unwrap();
    assert_eq!(
        (&usage["choices"], &usage["usage"]["total_tokens"]),
        (&json!([]), &json!(7))
    );
    assert!(
        rest.iter()
            .all(|chunk| chunk.get("usage") == Some(&Value::Null))
    );
    let last = &rest[rest.len() - 1]["choices"][0];
    assert_eq!(
        (&last["delta"], &last["finish_reason"]),
        (&json!({}), &json!("stop"))
    );
    let report = server.stop();
    assert_eq!((report.ok, report.hung_up), (1, 0));
}

#[test]
fn usage_and_padding_are_there_as_asked() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    let mut body = call();
    body["stream"] = json!(true);
    let plain = chunks(&client.chat(&body).body);
    assert!(plain.iter().all(|chunk| chunk.get("usage").is_none()));
    assert!(plain.iter().all(|chunk| chunk["obfuscation"].is_string()));
    body["stream_options"] = json!({ "include_obfuscation": false });
    let plain = chunks(&client.chat(&body).body);
    assert!(plain.iter().all(|chunk| chunk.get("obfuscation").is_none()));
}

#[test]
fn the_number_and_the_timing_of_chunks_are_set() {
    let server = OpenAi::start(OpenAiConfig {
        chunks: NonZeroU32::new(7),
        chunk_delay: Duration::from_millis(10)..=Duration::from_millis(10),
        ..config()
    })
    .unwrap();
    let clock = crate::clock::Clock::start();
    let reply = Client::new(&server).chat(&streamed());
    let events = events(&reply.body).len() as u64;
    assert_eq!(
        events,
        1 + 7 + 1 + 1 + 1,
        "role, pieces, finish, usage, [DONE]"
    );
    assert!(clock.nanos() >= (events - 1) * 10_000_000);
    assert_eq!(
        content(&chunks(&reply.body)),
        "echo from gpt-test: hello there"
    );
}

#[test]
fn a_streamed_response_has_numbered_events_and_its_answer_at_the_end() {
    let server = OpenAi::start(config()).unwrap();
    let body = json!({ "model": "m", "input": "hello there", "stream": true }).to_string();
    let reply = Client::new(&server).ask("POST", "/v1/responses", KEY, &body);
    let events = events(&reply.body);
    let names: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names[..4],
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
        ]
    );
    assert_eq!(
        names[names.len() - 4..],
        [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let chunks = chunks(&reply.body);
    for (index, (chunk, name)) in chunks.iter().zip(names).enumerate() {
        assert_eq!(
            (&chunk["sequence_number"], &chunk["type"]),
            (&json!(index), &json!(name))
        );
    }
    let deltas = chunks
        .iter()
        .filter(|chunk| chunk["type"] == "response.output_text.delta");
    let text: String = deltas.filter_map(|chunk| chunk["delta"].as_str()).collect();
    assert_eq!(text, "echo from m: hello there");
    let end = &chunks[chunks.len() - 1]["response"];
    assert_eq!(
        end["output"][0]["content"][0]["text"],
        "echo from m: hello there"
    );
    assert_eq!(end["usage"]["output_tokens"], 5);
}

#[test]
fn each_framing_carries_the_whole_answer() {
    let streams = Streams::new();
    for (kind, name, _) in FramingFault::TABLE {
        let clock = crate::clock::Clock::start();
        let reply = streams.ask(Fault::Framing(*kind));
        let is_slow = *kind == FramingFault::SlowStart;
        assert!(!is_slow || clock.nanos() >= 300_000_000);
        assert_eq!((reply.status, reply.end), (200, End::Whole), "{name}");
        check_framing(*kind, &reply);
        if *kind == FramingFault::Json {
            continue;
        }
        let content = content(&chunks(&reply.body));
        if matches!(kind, FramingFault::ToolCalls | FramingFault::Refusal) {
            assert_eq!(content, "", "{name}");
        } else {
            assert!(content.ends_with("hello there"), "{name}: {content}");
        }
    }
    let report = streams.0.stop();
    assert_eq!(report.ok, FramingFault::TABLE.len() as u64);
    assert_eq!((report.faults, report.hung_up), (0, 0));
}

/// Number of chunks with usage.
fn usages(reply: &Reply) -> usize {
    let chunks = chunks(&reply.body);
    chunks.iter().filter(|of| of["usage"].is_object()).count()
}

/// Number of deltas with this member.
fn deltas(reply: &Reply, name: &str) -> usize {
    let has_it = |chunk: &&Value| !chunk["choices"][0]["delta"][name].is_null();
    chunks(&reply.body).iter().filter(has_it).count()
}

fn last(reply: &Reply) -> Value {
    chunks(&reply.body).pop().unwrap()
}

fn check_framing(kind: FramingFault, reply: &Reply) {
    let text = reply.text();
    match kind {
        FramingFault::Bytes => assert!(reply.chunks.iter().all(|chunk| chunk.len() == 1)),
        FramingFault::SplitUtf8 => {
            let is_split = |chunk: &&Vec<u8>| core::str::from_utf8(chunk).is_err();
            assert!(reply.chunks.iter().filter(is_split).count() > 6);
        }
        FramingFault::SplitCrLf => {
            let is_whole = |chunk: &Vec<u8>| chunk.windows(2).any(|pair| pair == b"\r\n");
            assert!(text.contains("\r\n") && !reply.chunks.iter().any(is_whole));
        }
        FramingFault::Cr => assert!(!text.contains('\n') && text.contains("\r\r")),
        FramingFault::CrLf => assert_eq!(text.matches('\n').count(), text.matches("\r\n").count()),
        FramingFault::OneWrite => assert_eq!(reply.chunks.len(), 1),
        FramingFault::Comments => assert!(text.starts_with(": OPENROUTER PROCESSING\n\ndata: ")),
        FramingFault::MultiLine => assert!(text.starts_with("data: {\ndata:   \"id\"")),
        FramingFault::Fields => {
            assert!(text.starts_with("id: 7\nretry: 3000\nx-unknown: 1\ndata-free\n"))
        }
        FramingFault::NoSpace => {
            assert!(text.starts_with("data:{") && text.ends_with("data:[DONE]\n\n"))
        }
        FramingFault::Bom => assert!(text.starts_with('\u{feff}')),
        FramingFault::NoBlank => assert!(text.ends_with("}\n\ndata: [DONE]\n")),
        FramingFault::NoDone => assert!(!text.contains("[DONE]")),
        FramingFault::AfterDone => assert!(text.contains("[DONE]\n\ndata: {")),
        FramingFault::SlowStart => assert!(reply.header("content-type").is_some()),
        FramingFault::Long => assert!(text.lines().any(|line| line.len() > 1_000_000)),
        FramingFault::OneEvent => assert_eq!(deltas(reply, "content"), 1),
        FramingFault::Json => assert_eq!(reply.json()["object"], "chat.completion"),
        FramingFault::TypeJson => {
            assert_eq!(reply.header("content-type"), Some("application/json"))
        }
        FramingFault::NoUsage => assert_eq!(usages(reply), 0),
        FramingFault::UsageLast => {
            assert_eq!(usages(reply), 1);
            assert_eq!(last(reply)["choices"][0]["finish_reason"], "stop");
        }
        FramingFault::UsageEvery => assert_eq!(usages(reply), chunks(&reply.body).len()),
        FramingFault::UsageZero => assert_eq!(last(reply)["usage"]["total_tokens"], 0),
        FramingFault::Azure => assert_eq!(chunks(&reply.body)[0]["choices"], json!([])),
        FramingFault::ContentNull => assert!(text.contains("\"content\":null")),
        FramingFault::RoleEvery => assert!(deltas(reply, "role") > 5),
        FramingFault::Reasoning => assert_eq!(deltas(reply, "reasoning_content"), 2),
        FramingFault::ToolCalls => assert_eq!(deltas(reply, "tool_calls"), 3),
        FramingFault::Refusal => assert_eq!(deltas(reply, "refusal"), 2),
    }
}

#[test]
fn each_broken_stream_breaks_as_its_name_says() {
    let streams = Streams::new();
    for (kind, name, _) in StreamFault::TABLE {
        if *kind == StreamFault::Failed {
            continue;
        }
        let reply = streams.ask(Fault::Stream(*kind));
        assert_eq!(reply.status, 200, "{name}");
        let expected = match kind {
            StreamFault::Abort | StreamFault::Stall | StreamFault::StallFirst => End::Closed,
            StreamFault::Reset => End::Reset,
            StreamFault::Error
            | StreamFault::ErrorFirst
            | StreamFault::ErrorRate
            | StreamFault::ErrorChoice
            | StreamFault::Failed
            | StreamFault::Cut
            | StreamFault::CutLine
            | StreamFault::Empty
            | StreamFault::OnlyDone
            | StreamFault::BadJson
            | StreamFault::BadUtf8 => End::Whole,
        };
        assert_eq!(reply.end, expected, "{name}");
        check_broken(*kind, &reply);
    }
    let report = streams.0.stop();
    assert_eq!(
        (report.faults, report.ok),
        (StreamFault::TABLE.len() as u64 - 1, 0)
    );
}

fn check_broken(kind: StreamFault, reply: &Reply) {
    let raw = String::from_utf8_lossy(&reply.body);
    assert_eq!(raw.contains("[DONE]"), kind == StreamFault::OnlyDone);
    let halved = || assert!(content(&chunks(&reply.body)).starts_with("echo from"));
    match kind {
        StreamFault::Error => {
            halved();
            assert_eq!(last(reply)["error"]["code"], 502);
        }
        StreamFault::ErrorFirst => assert_eq!(chunks(&reply.body).len(), 1),
        StreamFault::ErrorRate => {
            let error = &last(reply)["error"];
            assert_eq!(error["code"], 429);
            let message = error["message"].as_str().unwrap();
            assert!(message.ends_with("try again in 300ms."), "{message}");
        }
        StreamFault::ErrorChoice => {
            assert_eq!(last(reply)["choices"][0]["finish_reason"], "error");
        }
        StreamFault::Cut | StreamFault::Abort | StreamFault::Reset | StreamFault::Stall => halved(),
        StreamFault::CutLine => {
            halved();
            assert!(!raw.ends_with('\n'));
        }
        StreamFault::Empty | StreamFault::StallFirst => assert!(reply.body.is_empty()),
        StreamFault::OnlyDone => assert_eq!(raw, "data: [DONE]\n\n"),
        StreamFault::BadJson => {
            let events = events(&reply.body);
            let (_, data) = &events[events.len() - 1];
            assert!(serde_json::from_str::<Value>(data).is_err());
        }
        StreamFault::BadUtf8 => assert!(core::str::from_utf8(&reply.body).is_err()),
        StreamFault::Failed => {}
    }
}

#[test]
fn a_response_may_fail_in_its_stream() {
    let streams = Streams::new();
    let body = json!({ "model": "m", "input": "hello there", "stream": true }).to_string();
    let ask = |kind| {
        streams.0.control().script([Fault::Stream(kind)]);
        let reply = Client::new(&streams.0).ask("POST", "/v1/responses", KEY, &body);
        let events = events(&reply.body);
        let (name, data) = events.last().unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["type"], name.as_str());
        assert_eq!(data["sequence_number"], events.len() - 1);
        data
    };
    assert_eq!(ask(StreamFault::Failed)["response"]["status"], "failed");
    let error = ask(StreamFault::ErrorRate);
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("error"), &json!("rate_limit_exceeded"))
    );
}

#[test]
fn a_caller_that_leaves_a_stream_is_seen_at_once() {
    let server = OpenAi::start(OpenAiConfig {
        chunk_delay: Duration::from_secs(3_600)..=Duration::from_secs(3_600),
        recording: Recording::Calls,
        ..config()
    })
    .unwrap();
    let mut client = Client::new(&server);
    client.post(&streamed());
    let mut first = [0; 32];
    client.0.read_exact(&mut first).unwrap();
    assert_eq!(server.control().in_flight(), 1);
    drop(client);
    wait_until(&server, |now| now.report().hung_up == 1);
    wait_until(&server, |now| now.open_connections() == 0);
    let calls = server.control().calls();
    assert!(calls[0].hung_up && calls[0].streamed && calls[0].ended >= Some(calls[0].arrived));
    assert_eq!(calls[0].status, CallStatus::Abandoned);
    let report = server.stop();
    assert_eq!((report.calls, report.abandoned), (1, 1));
}
