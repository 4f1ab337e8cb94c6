//! Anthropic's Messages: answers, streams, tools, errors, limits and faults.

use super::*;
use crate::text::rfc3339;

fn message() -> Value {
    let mut call = call();
    call["max_tokens"] = json!(100);
    call
}

fn with_tool(mut body: Value) -> Value {
    body["tools"] = json!([{ "name": "look", "input_schema": { "type": "object" } }]);
    body["tool_choice"] = json!({ "type": "any" });
    body
}

/// Sends a call as Anthropic's own package does.
fn ask(client: &mut Client, path: &str, headers: &str, body: &Value) -> Reply {
    let body = body.to_string();
    let length = body.len();
    client.send(&format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length}\r\n\r\n{body}"
    ));
    client.receive().unwrap()
}

fn headers(key: &str) -> String {
    format!("x-api-key: {key}\r\nanthropic-version: 2023-06-01\r\n")
}

fn send(client: &mut Client, body: &Value) -> Reply {
    ask(client, "/v1/messages", &headers(KEY), body)
}

/// Checks that an error is in Anthropic's form, and returns its type.
#[track_caller]
fn error_type(reply: &Reply) -> String {
    let body = reply.json();
    assert_eq!(body["type"], "error", "{body}");
    assert!(body["error"]["message"].is_string(), "{body}");
    assert_eq!(reply.header("request-id"), body["request_id"].as_str());
    assert_eq!(reply.header("x-request-id"), None);
    body["error"]["type"].as_str().unwrap().to_owned()
}

#[test]
fn a_message_is_answered_with_an_echo() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    let mut body = message();
    body["system"] = json!([{ "type": "text", "text": "be brief" }]);
    let reply = send(&mut client, &body);
    assert_eq!(reply.status, 200);
    assert!(reply.header("request-id").is_some());
    assert_eq!(reply.header("openai-version"), None);
    let answer = reply.json();
    assert_eq!(answer["type"], "message");
    assert!(answer["id"].as_str().unwrap().starts_with("msg_"));
    let block = json!({ "type": "text", "text": "echo from gpt-test: hello there" });
    assert_eq!(answer["content"], json!([block]));
    assert_eq!(answer["stop_reason"], "end_turn");
    let usage = ["input_tokens", "output_tokens"].map(|name| &answer["usage"][name]);
    assert_eq!(usage, [4, 5]);

    body["max_tokens"] = json!(3);
    let cut = send(&mut client, &body).json();
    assert_eq!(cut["stop_reason"], "max_tokens");
    assert_eq!(cut["content"][0]["text"], "echo from gpt-test:");
    assert_eq!(server.stop().ok, 2);
}

#[test]
fn a_streamed_message_has_the_events_of_the_service() {
    let server = OpenAi::start(config()).unwrap();
    let mut body = message();
    body["stream"] = json!(true);
    let reply = send(&mut Client::new(&server), &body);
    let content_type = reply.header("content-type");
    assert_eq!(content_type, Some("text/event-stream; charset=utf-8"));
    let events = events(&reply.body);
    let names: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
    let deltas = ["content_block_delta"; 5];
    let expected = [
        &["message_start", "content_block_start", "ping"],
        deltas.as_slice(),
        &["content_block_stop", "message_delta", "message_stop"],
    ];
    assert_eq!(names, expected.concat());
    let data = chunks(&reply.body);
    for (name, data) in names.iter().zip(&data) {
        assert_eq!(data["type"], *name);
    }
    assert_eq!(data[0]["message"]["usage"]["input_tokens"], 2);
    assert_eq!(data[0]["message"]["stop_reason"], Value::Null);
    let texts = data
        .iter()
        .filter_map(|data| data["delta"]["text"].as_str());
    assert_eq!(texts.collect::<String>(), "echo from gpt-test: hello there");
    assert_eq!(data[9]["delta"]["stop_reason"], "end_turn");
    assert_eq!(data[9]["usage"]["output_tokens"], 5);
}

#[test]
fn a_forced_tool_of_a_message_is_called_with_the_prompt() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    let mut body = with_tool(message());
    let answer = send(&mut client, &body).json();
    assert_eq!(answer["stop_reason"], "tool_use");
    let block = &answer["content"][0];
    assert_eq!(
        (&block["type"], &block["name"]),
        (&json!("tool_use"), &json!("look"))
    );
    assert_eq!(block["input"], json!({ "input": "hello there" }));

    body["tool_choice"] = json!({ "type": "tool", "name": "look" });
    body["stream"] = json!(true);
    let data = chunks(&send(&mut client, &body).body);
    assert_eq!(data[1]["content_block"]["input"], json!({}));
    let parts = data
        .iter()
        .filter(|data| data["delta"]["type"] == "input_json_delta");
    let parts: Vec<_> = parts
        .filter_map(|data| data["delta"]["partial_json"].as_str())
        .collect();
    assert!(parts.len() > 1, "{parts:?}");
    assert_eq!(parts.concat(), r#"{"input":"hello there"}"#);

    body["tool_choice"] = json!({ "type": "auto" });
    body["stream"] = json!(false);
    assert_eq!(send(&mut client, &body).json()["stop_reason"], "end_turn");
}

#[test]
fn tokens_are_counted_without_a_call() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    let path = "/v1/messages/count_tokens";
    let reply = ask(&mut client, path, &headers(KEY), &call());
    assert_eq!(reply.json(), json!({ "input_tokens": 2 }));
    let reply = ask(&mut client, path, &headers("sk-stranger"), &call());
    assert_eq!(
        (reply.status, error_type(&reply).as_str()),
        (401, "authentication_error")
    );
    assert_eq!(server.stop().calls, 0);
}

#[test]
fn an_error_is_in_the_form_of_anthropic() {
    let server = OpenAi::start(OpenAiConfig {
        limit: NonZeroU32::new(5),
        models: vec!["gpt-test".into()],
        ..config()
    })
    .unwrap();
    let mut client = Client::new(&server);
    let mut check = |headers: &str, body: &Value, status: u16, kind: &str| {
        let reply = ask(&mut client, "/v1/messages", headers, body);
        assert_eq!((reply.status, error_type(&reply).as_str()), (status, kind));
        reply
    };
    let (known, bearer) = (headers(KEY), format!("authorization: Bearer {KEY}\r\n"));
    check("", &message(), 401, "authentication_error");
    check(
        &headers("sk-stranger"),
        &message(),
        401,
        "authentication_error",
    );
    check(&bearer, &message(), 400, "invalid_request_error");
    check(&known, &call(), 400, "invalid_request_error");
    let mut other = message();
    other["model"] = json!("gpt-9");
    check(&known, &other, 404, "not_found_error");
    other["max_tokens"] = json!(0);
    check(&known, &other, 400, "invalid_request_error");
    let version = "anthropic-version: 2023-06-01\r\n";
    let reply = ask(
        &mut Client::new(&server),
        "/v1/messages",
        &(bearer + version),
        &message(),
    );
    assert_eq!(reply.status, 200);
    assert_eq!(reply.number("anthropic-ratelimit-requests-remaining"), 0);

    let since = crate::clock::unix_now().as_secs();
    let reply = check(&known, &message(), 429, "rate_limit_error");
    assert!((1..=60).contains(&reply.number("retry-after")));
    assert_eq!(reply.header("x-ratelimit-limit-requests"), None);
    assert_eq!(reply.number("anthropic-ratelimit-requests-limit"), 5);
    let reset = reply.header("anthropic-ratelimit-requests-reset").unwrap();
    assert!(
        (since..since + 63).any(|at| rfc3339(at) == reset),
        "{reset}"
    );
    let report = server.stop();
    assert_eq!((report.invalid, report.ok, report.rejected_429), (4, 1, 1));
}

#[test]
fn a_message_over_the_concurrency_gets_529() {
    let server = OpenAi::start(OpenAiConfig {
        max_concurrent: Some(1),
        ..config()
    })
    .unwrap();
    let (mut first, mut second) = (Client::new(&server), Client::new(&server));
    first.send(&head("POST", "/v1/messages", KEY, 1));
    wait_until(&server, |now| now.in_flight() == 1);
    let reply = send(&mut second, &message());
    assert_eq!(
        (reply.status, error_type(&reply).as_str()),
        (529, "overloaded_error")
    );
    assert_eq!(server.control().report().rejected_503, 1);
}

#[test]
fn refusals_by_fault_are_in_the_form_of_anthropic() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    let mut fail = |fault: Fault, body: &Value| {
        server.control().script([fault]);
        send(&mut client, body)
    };
    for (fault, kind) in [
        ("429-seconds", "rate_limit_error"),
        ("quota", "rate_limit_error"),
        ("key-invalid", "authentication_error"),
        ("forbidden", "permission_error"),
        ("context-length", "invalid_request_error"),
        ("model-missing", "not_found_error"),
        ("500", "api_error"),
        ("504", "timeout_error"),
        ("529", "overloaded_error"),
    ] {
        let reply = fail(fault.parse().unwrap(), &message());
        assert_eq!(error_type(&reply), kind, "{fault}");
    }
    let mut body = message();
    body["stream"] = json!(true);
    for (fault, kind) in [
        ("stream-error", "api_error"),
        ("stream-error-rate", "rate_limit_error"),
    ] {
        let reply = fail(fault.parse().unwrap(), &body);
        assert_eq!(reply.status, 200);
        let (name, data) = events(&reply.body).pop().unwrap();
        let data: Value = serde_json::from_str(&data).unwrap();
        assert_eq!(
            (name.as_str(), &data["error"]["type"]),
            ("error", &json!(kind))
        );
    }
    assert_eq!(server.stop().faults, 11);
}

#[test]
fn each_group_of_faults_answers_messages() {
    let server = OpenAi::start(config()).unwrap();
    let groups = [
        FaultGroup::RateLimit,
        FaultGroup::Key,
        FaultGroup::Request,
        FaultGroup::Overload,
        FaultGroup::Disguise,
        FaultGroup::Shape,
        FaultGroup::Bytes,
    ];
    let mut client = Client::new(&server);
    for (fault, name, _) in groups.into_iter().flat_map(FaultGroup::faults) {
        server.control().script([fault]);
        assert_eq!(send(&mut client, &message()).end, End::Whole, "{name}");
    }
    let mut body = message();
    body["stream"] = json!(true);
    for name in ["sse-bytes", "sse-crlf", "sse-multi-line", "json-for-sse"] {
        server.control().script([name.parse().unwrap()]);
        let reply = send(&mut client, &body);
        assert_eq!((reply.status, reply.end), (200, End::Whole), "{name}");
    }
    let report = server.stop();
    assert_eq!(report.calls, report.ok + report.faults);
    for name in [
        "429-seconds",
        "gzip",
        "usage-none",
        "no-message",
        "sse-crlf",
    ] {
        assert_eq!(report.by_fault[name], 1, "{name}");
    }
}
