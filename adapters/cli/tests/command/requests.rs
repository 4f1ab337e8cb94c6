//! What is sent, and what is kept: requests as the user wants them, forms of input and output, changed requests.

use super::*;
use core::num::NonZeroU32;
use leasehold_testbed::{Call, ModelRule, OpenAi, OpenAiConfig, Recording};
use std::io::Write;

/// Starts a test server in this process that records whole calls.
fn recording_server(config: OpenAiConfig) -> OpenAi {
    let server = OpenAi::start(config).expect("the server starts");
    server.control().record(Recording::Full);
    server
}

fn body(call: &Call) -> Value {
    serde_json::from_slice(&call.body).expect("a body is JSON")
}

#[test]
fn defaults_work_for_models_that_refuse_max_tokens_or_allow_few() {
    let mut config = OpenAiConfig::default();
    let mut refuses = ModelRule::new();
    refuses.model = Some("a".to_owned());
    refuses.refuses_max_tokens = true;
    let mut few = ModelRule::new();
    few.model = Some("b".to_owned());
    few.max_output = NonZeroU32::new(16_384).map(Into::into);
    config.model_rules = vec![refuses, few];
    let server = recording_server(config);
    let job = Job::new(2, 1);
    let output = job.run(&server.url(), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let calls = server.control().calls();
    let body = body(&calls[0]);
    let fields: Vec<_> = body.as_object().expect("an object").keys().collect();
    assert_eq!(fields, ["model", "messages"]);
}

#[test]
fn requests_hold_what_the_flags_say() {
    let server = recording_server(OpenAiConfig::default());
    let job = Job::new(1, 1);
    job.write(
        "body.json",
        [json!({"temperature": 1, "user": "u{{ x[0] }}"})],
    );
    let template = job.path("body.json").display().to_string();
    let arguments = [
        "--system",
        "be brief",
        "--body",
        &template,
        "--set",
        "temperature=0",
        "--header",
        "openai-project=p-1",
        "--trace-header",
        "M-TraceId",
    ];
    let output = job.run(&server.url(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let calls = server.control().calls();
    let body = body(&calls[0]);
    assert_eq!(body["messages"][0]["content"], "be brief");
    assert_eq!(body["messages"][1]["content"], "item 0");
    assert_eq!(
        (&body["temperature"], &body["user"]),
        (&json!(0), &json!("u0"))
    );
    assert_eq!(calls[0].header("openai-project"), Some("p-1"));
    assert!(calls[0].header("m-traceid").is_some() && calls[0].header("x-trace-id").is_none());
}

#[test]
fn lines_of_openai_batch_are_answered_in_their_form() {
    let server = recording_server(OpenAiConfig::default());
    let job = Job::new(0, 1);
    let line = |id: &str, url: &str, body: Value| json!({"custom_id": id, "method": "POST", "url": url, "body": body});
    let chat = json!({"model": "a", "messages": [{"role": "user", "content": "hi"}]});
    let lines = [
        line("chat", "/v1/chat/completions", chat),
        line(
            "vector",
            "/v1/embeddings",
            json!({"model": "e", "input": "x"}),
        ),
        line(
            "answer",
            "/v1/responses",
            json!({"model": "r", "input": "y"}),
        ),
        line("wrong", "/v1/responses", json!({"model": "r"})),
    ];
    job.write("items.jsonl", &lines);
    let run = || {
        let mut command = job.batch();
        command.arg("-i").arg(job.path("items.jsonl"));
        command.arg("-o").arg(job.path("out.jsonl"));
        command.arg("--keys").arg(job.path("keys.txt"));
        let output = command.args(["--url", &server.url()]).output();
        output.expect("the command runs")
    };
    assert_eq!(run().status.code(), Some(1), "one of them is wrong");
    let results = job.results();
    let ids: Vec<_> = results.iter().map(|it| it["custom_id"].as_str()).collect();
    assert_eq!(ids, ["chat", "vector", "answer", "wrong"].map(Some));
    let bodies: Vec<_> = results.iter().map(|it| &it["response"]["body"]).collect();
    assert!(bodies[0]["choices"][0]["message"]["content"].is_string());
    assert!(bodies[1]["data"][0]["embedding"].is_array());
    assert!(bodies[2]["output"].is_array());
    assert!(results[0]["error"].is_null() && results[0]["response"]["status_code"] == 200);
    let status = results[3]["response"]["status_code"].as_u64();
    assert_eq!(
        results[3]["error"]["code"].as_str(),
        status.map(|it| it.to_string()).as_deref()
    );
    let before = server.report().calls;
    assert_eq!(run().status.code(), Some(1));
    assert_eq!(
        server.report().calls,
        before + 1,
        "only the failed one is sent again"
    );
}

#[test]
fn standard_input_and_output_can_be_used() {
    let server = recording_server(OpenAiConfig::default());
    let job = Job::new(0, 1);
    let mut command = job.batch();
    command.args(["-i", "-", "-o", "-", "--model", "a", "--url", &server.url()]);
    command.arg("--keys").arg(job.path("keys.txt"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = command.spawn().expect("the command runs");
    let mut stdin = process.stdin.take().expect("it is piped");
    let messages = json!([{"role": "user", "content": "hello"}]);
    writeln!(stdin, "{}", json!({"id": 7, "messages": messages})).expect("it reads");
    drop(stdin);
    let output = process.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let line: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    assert_eq!(line["id"], 7);
    assert!(
        line["output_pred"]["a"]["content"]
            .as_str()
            .is_some_and(|it| it.ends_with("hello"))
    );
}

#[test]
fn one_file_is_not_input_and_output_at_once() {
    let job = Job::new(2, 1);
    let path = job.path("items.jsonl").display().to_string();
    let mut command = job.batch();
    command.args([
        "-i",
        &path,
        "-o",
        &path,
        "--model",
        "a",
        "--url",
        "http://127.0.0.1:1",
    ]);
    let output = command.env("LEASEHOLD_KEYS", "sk-1").output();
    let output = output.expect("the command runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("is that of --input too"));
    assert_eq!(line_count(&job.path("items.jsonl")), 2);
}

#[test]
fn answers_to_changed_requests_are_kept_asked_again_or_refused() {
    let server = recording_server(OpenAiConfig::default());
    let job = Job::new(3, 1);
    let run = |arguments: &[&str]| job.run(&server.url(), arguments);
    assert_eq!(run(&[]).status.code(), Some(0));
    assert_eq!(run(&[]).status.code(), Some(0));
    assert_eq!(
        server.report().calls,
        6,
        "the same requests are not sent again"
    );

    let output = run(&["--set", "temperature=0"]);
    let shown = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{shown}");
    assert!(
        shown.contains("6 of 6 answers") && shown.contains("item 0, model a"),
        "{shown}"
    );
    assert!(shown.contains("--on-change redo"), "{shown}");
    assert!(!job.journal().exists());

    let output = run(&["--set", "temperature=0", "--on-change", "keep"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(server.report().calls, 6);
    let output = run(&["--set", "temperature=0", "--on-change", "redo"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!((server.report().calls, job.answers()), (12, 6));
    assert_eq!(run(&["--set", "temperature=0"]).status.code(), Some(0));
}

#[test]
fn the_whole_body_is_kept_on_request() {
    let server = recording_server(OpenAiConfig::default());
    let job = Job::new(1, 1);
    assert_eq!(
        job.run(&server.url(), &["--keep", "full"]).status.code(),
        Some(0)
    );
    let answer = &job.results()[0]["output_pred"]["a"];
    assert_eq!(
        answer["raw"]["choices"][0]["message"]["content"],
        answer["content"]
    );
}
