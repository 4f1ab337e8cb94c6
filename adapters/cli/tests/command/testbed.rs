//! The test server as a process: its help, its table of faults, its flags.

use super::*;
use leasehold_testbed::Fault;
use std::io::Write;
use std::net::TcpStream;

const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hello there"}]}"#;

fn connect(testbed: &Testbed) -> TcpStream {
    let address = testbed.url.strip_prefix("http://").expect("a plain URL");
    TcpStream::connect(address).expect("the testbed listens")
}

/// Sends a chat call on a connection of its own, and returns the whole reply.
fn chat(testbed: &Testbed, body: &str) -> String {
    let mut stream = connect(testbed);
    let length = body.len();
    let call = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-testbed-0001\r\n\
         connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream
        .write_all(call.as_bytes())
        .expect("it reads the call");
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).expect("it answers");
    text(&reply)
}

#[test]
fn the_list_of_faults_is_a_table_that_is_also_in_the_help() {
    let list = leasehold()
        .args(["testbed", "openai", "--fault", "list"])
        .output();
    let list = list.expect("the command runs");
    assert_eq!(list.status.code(), Some(0));
    let list = text(&list.stdout);
    let help = leasehold().args(["testbed", "openai", "--help"]).output();
    let help = text(&help.expect("the command runs").stdout);
    for shown in [&list, &help] {
        for line in shown.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
        for row in [
            "rate-limit: 429; the wait is --fault-wait",
            "  429-seconds              Retry-After in whole seconds, rounded up",
            "  stream-cut               the end comes in the middle, without DONE",
            "  400 to 599               that status, with the service's error body",
        ] {
            assert!(shown.lines().any(|line| line == row), "{row}");
        }
    }
    for heading in [
        "\nLimits:\n",
        "\nAnswers:\n",
        "\nFaults:\n",
        "\nFaults, for --fault",
    ] {
        assert!(help.contains(heading), "{heading}");
    }
    for fault in Fault::all() {
        let row = format!("  {fault} ");
        assert!(list.lines().any(|line| line.starts_with(&row)), "{fault}");
    }
}

#[test]
fn flags_reach_the_server() {
    let testbed = Testbed::start(&[
        "--keys",
        "1",
        "--limit",
        "9/60s, 40 tokens/min",
        "--limit",
        "other=1/min",
        "--fault",
        "429-google=first:1",
        "--fault",
        "quota@model=poor",
        "--fault-wait",
        "3s",
        "--refuse-max-tokens",
        "strict",
        "--max-output",
        "100",
        "--model",
        "m",
        "--model",
        "poor",
        "--model",
        "strict",
        "--chunks",
        "3",
        "--answer-tokens",
        "8..8",
    ]);
    assert!(chat(&testbed, CHAT).contains("\"retryDelay\":\"3s\""));
    let reply = chat(&testbed, CHAT);
    assert!(
        reply.contains("x-ratelimit-limit-tokens: 40\r\n"),
        "{reply}"
    );
    assert!(reply.contains("\"completion_tokens\":8,"), "{reply}");
    assert!(chat(&testbed, &CHAT.replace("\"m\"", "\"poor\"")).contains("insufficient_quota"));
    let strict = CHAT.replace("\"m\"", "\"strict\",\"max_tokens\":5");
    assert!(chat(&testbed, &strict).contains("Use 'max_completion_tokens' instead."));
    let long = CHAT.replace("\"m\"", "\"m\",\"max_tokens\":101");
    assert!(chat(&testbed, &long).contains("supports at most 100 completion tokens"));
    let unknown = CHAT.replace("\"m\"", "\"x\"");
    assert!(chat(&testbed, &unknown).starts_with("HTTP/1.1 404 "));
    let streamed = CHAT.replace("\"m\"", "\"m\",\"stream\":true");
    let reply = chat(&testbed, &streamed);
    assert_eq!(reply.matches("data: {").count(), 1 + 3 + 1, "{reply}");
    let report = testbed.stop();
    assert_eq!(report["by_fault"], json!({ "429-google": 1, "quota": 1 }));
    assert_eq!(
        (&report["ok"], &report["invalid"], &report["early"]),
        (&json!(2), &json!(3), &json!(6))
    );
    let limits = [0, 1, 2].map(|index| report["limits"][index]["limit"].as_str().expect("a limit"));
    assert_eq!(
        limits,
        ["9 requests/60s", "40 tokens/60s", "other=1 requests/60s"]
    );
}

#[test]
fn an_outage_answers_every_call_from_the_first_on() {
    let testbed = Testbed::start(&["--outage", "0..3600=524-cloudflare"]);
    for _ in 0..2 {
        let reply = chat(&testbed, CHAT);
        assert!(reply.starts_with("HTTP/1.1 524 "), "{reply}");
        assert!(reply.contains("server: cloudflare\r\n"), "{reply}");
    }
    assert_eq!(testbed.stop()["faults"], 2);
}

#[test]
fn the_report_counts_the_connections_that_are_open_at_the_stop() {
    let testbed = Testbed::start(&[]);
    let mut left_open = connect(&testbed);
    left_open
        .write_all(b"GET /testbed/report HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("it reads the request");
    let mut status = [0; 15];
    left_open.read_exact(&mut status).expect("it answers");
    assert_eq!(&status, b"HTTP/1.1 200 OK");
    let report = testbed.stop();
    let counts = ["connections_opened", "connections_open"].map(|name| &report[name]);
    assert_eq!(counts, [&json!(1), &json!(1)]);
}
