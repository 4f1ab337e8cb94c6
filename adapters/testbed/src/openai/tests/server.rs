//! Keys, limits, concurrency, routes and shutdown.

use super::*;
use crate::clock::Clock;
use std::net::TcpStream;

fn failing(fault: Fault) -> OpenAiConfig {
    OpenAiConfig {
        faults: vec![FaultRule::new(fault)],
        ..config()
    }
}

#[test]
fn a_call_is_answered_with_an_echo() {
    let server = OpenAi::start(OpenAiConfig {
        limit: NonZeroU32::new(3),
        latency: Duration::from_micros(10)..=Duration::from_millis(2),
        ..config()
    })
    .unwrap();
    let mut client = Client::new(&server);
    let reply = client.chat(&call());
    assert_eq!(reply.status, 200);
    let body = reply.json();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "gpt-test");
    let choice = &body["choices"][0];
    assert_eq!(
        choice["message"]["content"],
        "echo from gpt-test: hello there"
    );
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["finish_reason"], "stop");
    let usage = &body["usage"];
    let usage = ["prompt_tokens", "completion_tokens", "total_tokens"].map(|name| &usage[name]);
    assert_eq!(usage, [2, 5, 7]);
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(reply.number("x-ratelimit-limit-requests"), 3);
    assert_eq!(reply.number("x-ratelimit-remaining-requests"), 2);
    let reset = reply.header("x-ratelimit-reset-requests").unwrap();
    assert!(reset == "1m0s" || reset.starts_with('5'), "{reset}");
    assert!(reply.header("openai-processing-ms").is_some());

    let again = client.chat(&call());
    assert_ne!(again.header("x-request-id"), reply.header("x-request-id"));
    let report = server.stop();
    assert_eq!((report.calls, report.ok, report.latencies.len()), (2, 2, 2));
    assert_eq!(report.connections_opened, 1);
}

#[test]
fn the_seed_determines_the_latencies() {
    let latencies = |seed| {
        let server = OpenAi::start(OpenAiConfig {
            latency: Duration::ZERO..=Duration::from_micros(900),
            seed,
            ..config()
        })
        .unwrap();
        let mut client = Client::new(&server);
        for _ in 0..4 {
            client.chat(&call());
        }
        server.stop().latencies
    };
    assert_eq!(latencies(1), latencies(1));
    assert_ne!(latencies(1), latencies(2));
}

#[test]
fn a_call_over_the_limit_gets_429_with_the_time_to_wait() {
    let server = OpenAi::start(OpenAiConfig {
        limit: NonZeroU32::new(1),
        ..config()
    })
    .unwrap();
    let mut client = Client::new(&server);
    assert_eq!(client.chat(&call()).status, 200);
    let reply = client.chat(&call());
    assert_eq!(reply.status, 429);
    let error = &reply.json()["error"];
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with(
            "Rate limit reached for gpt-test in organization org-testbed on requests per min (RPM): \
             Limit 1, Used 1, Requested 1. Please try again in "
        ),
        "{message}"
    );
    assert_eq!(error["type"], "requests");
    assert_eq!(error["code"], "rate_limit_exceeded");
    let (millis, seconds) = (reply.number("retry-after-ms"), reply.number("retry-after"));
    assert!((1..=60_000).contains(&millis));
    assert_eq!(seconds, millis.div_ceil(1_000));
    assert_eq!(reply.number("x-ratelimit-remaining-requests"), 0);

    let other = client.ask(
        "POST",
        "/v1/chat/completions",
        "sk-testbed-key-0002",
        &call().to_string(),
    );
    assert_eq!(other.status, 200, "each key has its own limit");
    let report = server.stop();
    assert_eq!((report.calls, report.ok, report.rejected_429), (3, 2, 1));
    assert_eq!(report.per_key[0].max_in_window, 2);
    assert_eq!(report.connections_opened, 1);
}

#[test]
fn an_unknown_or_missing_key_gets_401_and_is_not_counted() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    let body = call().to_string();
    for key in ["sk-testbed-stranger", ""] {
        let reply = client.ask("POST", "/v1/chat/completions", key, &body);
        assert_eq!(
            (reply.status, reply.code()),
            (401, "\"invalid_api_key\"".into())
        );
        assert!(!reply.text().contains("stranger"));
        assert_eq!(client.ask("GET", "/v1/models", key, "").status, 401);
    }
    assert_eq!(server.stop().calls, 0);
}

#[test]
fn a_malformed_call_counts_as_invalid_and_against_the_limit() {
    let server = OpenAi::start(OpenAiConfig {
        limit: NonZeroU32::new(2),
        models: vec!["gpt-test".into()],
        ..config()
    })
    .unwrap();
    let mut client = Client::new(&server);
    let reply = client.chat(&json!({ "model": "gpt-test" }));
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
    let reply = client.chat(&json!({ "model": "gpt-9", "messages": [{}] }));
    assert_eq!(
        (reply.status, reply.code()),
        (404, "\"model_not_found\"".into())
    );
    assert_eq!(client.chat(&call()).status, 429);
    let report = server.stop();
    assert_eq!(
        (report.calls, report.invalid, report.rejected_429),
        (3, 2, 1)
    );
}

#[test]
fn a_body_that_is_too_large_is_rejected_unread() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    client.send(&head("POST", "/v1/chat/completions", KEY, 9 << 20));
    assert_eq!(client.receive().unwrap().status, 413);
    assert!(client.receive().is_none());
    assert_eq!(server.stop().invalid, 1);
}

#[test]
fn an_unknown_path_gets_404_and_a_wrong_method_405() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    let reply = client.ask("GET", "/v2/nothing?key=secret", KEY, "");
    assert_eq!(
        (reply.status, reply.code()),
        (404, "\"unknown_url\"".into())
    );
    assert!(!reply.text().contains("secret"));
    let reply = client.ask("GET", "/v1/chat/completions", KEY, "");
    assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")));
    let reply = client.ask("POST", "/v1/models", KEY, "");
    assert_eq!((reply.status, reply.header("allow")), (405, Some("GET")));
    assert_eq!(server.stop().connections_opened, 1);
}

#[test]
fn the_models_are_listed() {
    let server = OpenAi::start(OpenAiConfig {
        models: vec!["one".into(), "two".into()],
        ..config()
    })
    .unwrap();
    let mut client = Client::new(&server);
    let list = client.ask("GET", "/v1/models", KEY, "").json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][1]["id"], "two");
    assert_eq!(list["data"][1]["object"], "model");
    let one = client.ask("GET", "/v1/models/one", KEY, "").json();
    assert_eq!(one, list["data"][0]);
    assert_eq!(client.ask("GET", "/v1/models/three", KEY, "").status, 404);
}

#[test]
fn the_report_needs_no_key_and_shows_none() {
    let server = OpenAi::start(OpenAiConfig {
        limit: NonZeroU32::new(3),
        latency: Duration::from_micros(5)..=Duration::from_micros(700),
        ..config()
    })
    .unwrap();
    Client::new(&server).chat(&call());
    wait_until(&server, |now| now.open_connections() == 0);
    let mut client = Client::new(&server);
    let reply = client.ask("GET", "/testbed/report", "", "");
    let report: Report = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(report, server.report());
    assert_eq!(reply.json()["window_ms"], 60_000.0);
    assert_eq!((report.connections_opened, report.connections_open), (2, 1));
    let keys: Vec<_> = report.per_key.iter().map(|of| of.key.as_str()).collect();
    assert_eq!(keys, ["…0001", "…0002"]);
    for shown in [
        reply.text(),
        format!("{:?}", config()),
        format!("{server:?}"),
    ] {
        assert!(!shown.contains("sk-testbed"), "{shown}");
    }
}

#[test]
fn a_call_over_the_concurrency_gets_503() {
    let server = OpenAi::start(OpenAiConfig {
        max_concurrent: Some(1),
        ..config()
    })
    .unwrap();
    let (mut first, mut second) = (Client::new(&server), Client::new(&server));
    let body = call().to_string();
    first.send(&head("POST", "/v1/chat/completions", KEY, body.len()));
    wait_until(&server, |now| now.report().calls == 1);
    assert_eq!(second.chat(&call()).status, 503);
    first.send(&body);
    assert_eq!(first.receive().unwrap().status, 200);
    assert_eq!(second.chat(&call()).status, 200);
    let report = server.stop();
    assert_eq!((report.rejected_503, report.ok), (1, 2));
    assert_eq!(report.max_concurrent, 2);
}

#[test]
fn a_caller_that_hangs_up_is_no_longer_in_flight() {
    let server = OpenAi::start(OpenAiConfig {
        max_concurrent: Some(1),
        latency: Duration::from_secs(3600)..=Duration::from_secs(3600),
        ..config()
    })
    .unwrap();
    for n in 1..=2 {
        let body = call().to_string();
        let mut client = Client::new(&server);
        client.send(&head("POST", "/v1/chat/completions", KEY, body.len()));
        client.send(&body);
        wait_until(&server, |now| now.report().latencies.len() == n);
        drop(client);
        wait_until(&server, |now| now.report().abandoned == n as u64);
    }
    let report = server.stop();
    assert_eq!((report.calls, report.rejected_503), (2, 0));
}

#[test]
fn every_second_call_fails_with_the_status() {
    let rule = "500=every:2".parse().unwrap();
    let server = OpenAi::start(OpenAiConfig {
        faults: vec![rule],
        ..config()
    })
    .unwrap();
    let mut client = Client::new(&server);
    let statuses: Vec<_> = (0..4).map(|_| client.chat(&call()).status).collect();
    assert_eq!(statuses, [200, 500, 200, 500]);
    let reply = client.chat(&json!({}));
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
    let report = server.stop();
    assert_eq!((report.ok, report.faults, report.invalid), (2, 2, 1));
    assert_eq!(report.by_fault["500"], 2);
}

#[test]
fn a_stop_does_not_wait_for_idle_connections() {
    let server = OpenAi::start(config()).unwrap();
    let mut used = Client::new(&server);
    assert_eq!(used.chat(&call()).status, 200);
    let mut fresh = Client::new(&server);
    wait_until(&server, |now| now.report().connections_opened == 2);
    let clock = Clock::start();
    let addr = server.addr();
    server.stop();
    assert!(clock.nanos() < 2_000_000_000);
    assert!(used.receive().is_none());
    assert!(fresh.receive().is_none());
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn the_report_of_a_stop_counts_the_connections_that_callers_left_open() {
    let server = OpenAi::start(config()).unwrap();
    let (mut left, mut closed) = (Client::new(&server), Client::new(&server));
    for client in [&mut left, &mut closed] {
        assert_eq!(client.chat(&call()).status, 200);
    }
    drop(closed);
    wait_until(&server, |now| now.open_connections() == 1);
    let control = server.control();
    assert_eq!(server.stop().connections_open, 1);
    assert_eq!(control.open_connections(), 0, "the stop closed it");
}

#[test]
fn a_stop_waits_for_calls_in_flight() {
    let server = OpenAi::start(config()).unwrap();
    let mut client = Client::new(&server);
    let body = call().to_string();
    client.send(&head("POST", "/v1/chat/completions", KEY, body.len()));
    wait_until(&server, |now| now.report().calls == 1);
    let stopping = std::thread::spawn(move || server.stop());
    client.send(&body);
    assert_eq!(client.receive().unwrap().status, 200);
    assert_eq!(stopping.join().unwrap().ok, 1);
}

#[test]
fn settings_that_make_no_sense_are_an_error() {
    let start = |config| OpenAi::start(config).unwrap_err();
    assert!(matches!(
        start(OpenAiConfig {
            window: Duration::ZERO,
            ..config()
        }),
        StartError::EmptyWindow
    ));
    assert!(matches!(
        start(OpenAiConfig {
            latency: Duration::from_secs(2)..=Duration::from_secs(1),
            ..config()
        }),
        StartError::EmptyLatency
    ));
    assert!(matches!(
        start(failing(Fault::Status(200))),
        StartError::NotAnError(200)
    ));
    let rule = FaultRule::new(Fault::Status(500)).occurring(Occurrence::Share(1.5));
    assert!(matches!(
        start(OpenAiConfig {
            faults: vec![rule],
            ..config()
        }),
        StartError::Share(_)
    ));
    let second = Duration::from_secs(1);
    assert!(matches!(
        start(OpenAiConfig {
            outages: vec![Outage::new(second, second)],
            ..config()
        }),
        StartError::EmptyOutage
    ));
    assert!(matches!(
        start(OpenAiConfig {
            fault_wait: Duration::MAX,
            ..config()
        }),
        StartError::LongWait
    ));
    assert!(matches!(
        start(OpenAiConfig {
            chunks: Some(NonZeroU32::MAX),
            ..config()
        }),
        StartError::ManyChunks
    ));
    let most = MAX_ANSWER_TOKENS + 1;
    assert!(matches!(
        start(OpenAiConfig {
            answer_tokens: 0..=most,
            ..config()
        }),
        StartError::LongAnswer
    ));
    let server = OpenAi::start(config()).unwrap();
    assert!(matches!(
        start(OpenAiConfig {
            listen: server.addr(),
            ..config()
        }),
        StartError::Listen { .. }
    ));
}
