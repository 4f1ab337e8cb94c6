//! Limits on tokens, outages, scripts, records: the parts that a test steers.

use super::*;
use crate::{Limit, LimitUnit};
use core::num::NonZeroU64;

fn tokens(amount: u64, millis: u64) -> Limit {
    let amount = NonZeroU64::new(amount).unwrap();
    Limit::new(LimitUnit::Tokens, amount, Duration::from_millis(millis))
}

#[test]
fn tokens_are_limited_beside_requests_and_the_headers_say_how_many_remain() {
    let server = OpenAi::start(OpenAiConfig {
        limit: NonZeroU32::new(9),
        limits: vec![tokens(10, 60_000)],
        ..config()
    })
    .unwrap();
    let mut client = Client::new(&server);
    let reply = client.chat(&call());
    assert_eq!(reply.status, 200);
    assert_eq!(reply.number("x-ratelimit-limit-tokens"), 10);
    assert_eq!(reply.number("x-ratelimit-remaining-tokens"), 3);
    assert!(reply.header("x-ratelimit-reset-tokens").is_some());
    assert_eq!(reply.number("x-ratelimit-remaining-requests"), 8);

    let reply = client.chat(&call());
    assert_eq!(reply.status, 429);
    let error = &reply.json()["error"];
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("on tokens per min (TPM): Limit 10, Used 7, Requested 7."),
        "{message}"
    );
    assert_eq!(error["type"], "tokens");
    assert!((1..=60_000).contains(&reply.number("retry-after-ms")));
    assert_eq!(
        reply.number("x-ratelimit-remaining-tokens"),
        3,
        "it was not charged"
    );

    let mut long = call();
    long["messages"][0]["content"] = json!("one two three four five six");
    let reply = client.chat(&long);
    let message = reply.json()["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        message.starts_with("Request too large for gpt-test"),
        "{message}"
    );
    assert_eq!(reply.header("retry-after-ms"), None, "no waiting helps");

    let report = server.stop();
    assert_eq!((report.ok, report.rejected_429, report.early), (1, 2, 1));
    let limit = &report.limits[1];
    assert_eq!((limit.limit.as_str(), limit.amount), ("10 tokens/60s", 10));
    assert_eq!((limit.max_in_window, limit.refused), (7 + 7 + 15, 2));
    assert_eq!(report.per_key[0].limits[1], *limit);
    assert_eq!(report.limits[0].max_in_window, 3);
}

#[test]
fn a_key_is_admitted_again_after_the_time_to_wait() {
    let calls = NonZeroU64::new(1).unwrap();
    let calls = Limit::new(LimitUnit::Requests, calls, Duration::from_millis(40));
    for limit in [calls, tokens(10, 40)] {
        let server = OpenAi::start(OpenAiConfig {
            limits: vec![limit],
            ..config()
        })
        .unwrap();
        let mut client = Client::new(&server);
        assert_eq!(client.chat(&call()).status, 200);
        wait_as_told(&mut client);
        assert_eq!(server.stop().early, 0);
    }
}

#[test]
fn a_model_has_limits_of_its_own() {
    let limit = Limit::new(
        LimitUnit::Requests,
        NonZeroU64::MIN,
        Duration::from_secs(60),
    );
    let server = OpenAi::start(OpenAiConfig {
        limits: vec![limit.of_model("gpt-test")],
        ..config()
    })
    .unwrap();
    let mut client = Client::new(&server);
    assert_eq!(
        client
            .chat(&call())
            .number("x-ratelimit-remaining-requests"),
        0
    );
    assert_eq!(client.chat(&call()).status, 429);
    let mut other = call();
    other["model"] = json!("other");
    let reply = client.chat(&other);
    assert_eq!(
        (reply.status, reply.header("x-ratelimit-limit-requests")),
        (200, None)
    );
}

#[test]
fn a_planned_outage_is_counted_from_the_first_call() {
    let hour = Duration::from_secs(3_600);
    let mut outage = Outage::new(Duration::ZERO, hour);
    outage.fault = "502-nginx".parse().unwrap();
    let server = OpenAi::start(OpenAiConfig {
        outages: vec![Outage::new(hour, hour * 2), outage],
        limit: NonZeroU32::new(1),
        ..config()
    })
    .unwrap();
    let mut client = Client::new(&server);
    for _ in 0..2 {
        let reply = client.chat(&call());
        assert_eq!(
            (reply.status, reply.header("server")),
            (502, Some("nginx/1.27.3"))
        );
    }
    let report = server.stop();
    assert_eq!(report.by_fault["502-nginx"], 2);
    assert_eq!(
        (report.faults, report.rejected_429),
        (1, 1),
        "calls are judged in an outage too"
    );
}

#[test]
fn an_outage_begins_and_ends_at_once() {
    let server = OpenAi::start(config()).unwrap();
    let (control, mut client) = (server.control(), Client::new(&server));
    let mut status = || client.chat(&call()).status;
    assert_eq!(status(), 200);
    control.begin_outage(Fault::Status(503));
    assert_eq!((status(), status()), (503, 503));
    control.end_outage();
    assert_eq!(status(), 200);
    control.begin_outage(Fault::Transport(TransportFault::Reset));
    let mut broken = Client::new(&server);
    broken.post(&call());
    assert_eq!(
        end_of(&broken.0.read_to_end(&mut Vec::new()).unwrap_err()),
        End::Reset
    );
    assert_eq!(server.stop().faults, 3);
}

#[test]
fn a_fault_that_makes_no_sense_for_a_call_does_not_answer_it() {
    let server = OpenAi::start(config()).unwrap();
    let (control, mut client) = (server.control(), Client::new(&server));
    let body = json!({ "model": "m", "input": "x", "stream": true }).to_string();
    let faults = [
        Fault::Framing(FramingFault::Reasoning),
        Fault::Framing(FramingFault::OneEvent),
        Fault::Stream(StreamFault::ErrorChoice),
        Fault::Shape(ShapeFault::ContentNull),
    ];
    for fault in faults {
        let mut ask = || client.ask("POST", "/v1/responses", KEY, &body);
        control.script([fault]);
        assert!(ask().text().contains("response.completed"), "{fault}");
        control.begin_outage(fault);
        assert_eq!(ask().status, 503, "{fault}");
        control.end_outage();
    }
    control.script([Fault::Stream(StreamFault::Cut)]);
    assert_eq!(client.chat(&call()).json()["object"], "chat.completion");
    let report = server.stop();
    assert_eq!((report.ok, report.faults), (5, 4));
    assert_eq!(report.by_fault["503"], 4);
}

#[test]
fn rules_apply_by_key_and_model_and_are_replaced() {
    let rules = ["quota@key=0002", "404@model=gone"];
    let server = OpenAi::start(OpenAiConfig {
        faults: rules.map(|rule| rule.parse().unwrap()).to_vec(),
        ..config()
    })
    .unwrap();
    let mut client = Client::new(&server);
    let mut ask = |key: &str, model: &str| {
        let body = json!({ "model": model, "messages": [{}] }).to_string();
        client
            .ask("POST", "/v1/chat/completions", key, &body)
            .status
    };
    assert_eq!(ask(KEY, "m"), 200);
    assert_eq!(ask("sk-testbed-key-0002", "m"), 429);
    assert_eq!(ask(KEY, "gone"), 404);
    server
        .control()
        .set_faults(vec![FaultRule::new(Fault::Status(418))]);
    assert_eq!(ask("sk-testbed-key-0002", "gone"), 418);
    server.control().set_faults(Vec::new());
    assert_eq!(ask("sk-testbed-key-0002", "gone"), 200);
}

#[test]
fn the_seed_determines_the_faults() {
    let statuses = |seed| {
        let server = OpenAi::start(OpenAiConfig {
            faults: vec!["overload=50%".parse().unwrap()],
            seed,
            ..config()
        })
        .unwrap();
        let mut client = Client::new(&server);
        (0..40)
            .map(|_| client.chat(&call()).status)
            .collect::<Vec<_>>()
    };
    let drawn = statuses(5);
    assert_eq!(drawn, statuses(5));
    assert_ne!(drawn, statuses(6));
    let ok = drawn.iter().filter(|status| **status == 200).count();
    assert!((8..32).contains(&ok), "{ok}");
}

#[test]
fn calls_are_recorded_with_times_headers_and_bodies_on_demand() {
    let server = OpenAi::start(config()).unwrap();
    let (control, mut client) = (server.control(), Client::new(&server));
    client.chat(&call());
    assert!(control.calls().is_empty());
    control.record(Recording::Full);
    client.chat(&call());
    client.chat(&json!({}));
    client.ask("POST", "/v1/chat/completions", "sk-stranger", "{}");
    control.record(Recording::Calls);
    client.chat(&streamed());
    let calls = control.calls();
    let statuses: Vec<_> = calls.iter().map(|call| call.status).collect();
    use CallStatus::{Invalid, Ok, UnknownKey};
    assert_eq!(statuses, [Ok, Invalid, UnknownKey, Ok]);
    assert_eq!(calls[0].key.as_deref(), Some(KEY));
    assert_eq!(calls[0].model.as_deref(), Some("gpt-test"));
    assert_eq!(calls[0].header("HOST"), Some("testbed"));
    assert_eq!(
        serde_json::from_slice::<Value>(&calls[0].body).unwrap(),
        call()
    );
    assert!(calls[0].ended.unwrap() <= calls[1].arrived);
    assert!(calls[3].body.is_empty() && calls[3].headers.is_empty() && calls[3].streamed);
    let shown = format!("{calls:?}");
    assert!(!shown.contains("sk-"), "{shown}");
    control.clear_calls();
    assert!(control.calls().is_empty());
    assert_eq!(server.stop().repeated, 1, "the first call came twice");
}

#[test]
fn a_wait_ends_when_its_condition_holds_or_its_time_is_over() {
    let server = OpenAi::start(config()).unwrap();
    let control = server.control();
    assert!(!control.wait(Duration::from_millis(5), |now| now.report().calls == 1));
    let waiter = std::thread::spawn({
        let control = control.clone();
        move || control.wait(PATIENCE, |now| now.report().ok == 1)
    });
    Client::new(&server).chat(&call());
    assert!(waiter.join().unwrap());
    wait_until(&server, |now| now.open_connections() == 0);
}

#[test]
fn a_key_that_does_not_wait_as_told_is_reported() {
    let server = OpenAi::start(OpenAiConfig {
        fault_wait: Duration::from_secs(60),
        ..config()
    })
    .unwrap();
    server
        .control()
        .script(["429-untold", "429-google"].map(|name| name.parse().unwrap()));
    let mut client = Client::new(&server);
    for _ in 0..3 {
        client.chat(&call());
    }
    let report = server.stop();
    assert_eq!(
        (
            report.early,
            report.per_key[0].early,
            report.per_key[1].early
        ),
        (1, 1, 0)
    );
}

#[test]
fn a_call_that_crosses_the_refusal_of_another_is_not_early() {
    let server = OpenAi::start(OpenAiConfig {
        fault_wait: Duration::from_secs(60),
        ..config()
    })
    .unwrap();
    server.control().script(["429-google".parse().unwrap()]);
    let (mut refused, mut other) = (Client::new(&server), Client::new(&server));
    assert_eq!(refused.chat(&call()).status, 429);
    other.chat(&call());
    assert_eq!(server.report().early, 0, "it may have been under way");
    drop(refused);
    wait_until(&server, |now| now.open_connections() == 1);
    other.chat(&call());
    assert_eq!(server.stop().early, 1);
}

#[test]
fn many_calls_with_faults_of_every_kind_leave_no_connection_and_no_count_open() {
    const THREADS: usize = 8;
    const CALLS: usize = 60;
    let server = OpenAi::start(OpenAiConfig {
        faults: vec!["any=60%".parse().unwrap()],
        fault_wait: Duration::from_millis(5),
        stall: Duration::from_millis(20),
        trickle: Duration::from_micros(1),
        recording: Recording::Calls,
        ..config()
    })
    .unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let server = &server;
            scope.spawn(move || {
                for number in 0..CALLS {
                    let mut client = Client::new(server);
                    let mut body = if number % 2 == 0 { call() } else { streamed() };
                    body["user"] = json!(format!("{thread}-{number}"));
                    let body = body.to_string();
                    let head = head("POST", "/v1/chat/completions", KEY, body.len());
                    client.send(&head.replace("host:", "connection: close\r\nhost:"));
                    client.send(&body);
                    // One in five hangs up at once; to the others any bytes and any end will do.
                    if number % 5 > 0 {
                        let _ = client.0.read_to_end(&mut Vec::new());
                    }
                }
            });
        }
    });
    let all = (THREADS * CALLS) as u64;
    wait_until(&server, |now| now.report().connections_opened == all);
    wait_until(&server, |now| now.open_connections() + now.in_flight() == 0);
    let calls = server.control().calls();
    assert!(calls.iter().all(|call| call.ended.is_some()));
    let report = server.stop();
    assert_eq!(report.ok + report.faults + report.abandoned, report.calls);
    assert!(
        report.calls > all * 4 / 5 - 1 && report.abandoned <= all / 5,
        "{report:?}"
    );
    assert_eq!((report.repeated, report.invalid), (0, 0));
    assert!(report.by_fault.len() > 50, "{:?}", report.by_fault);
    let hung_up = calls.iter().filter(|call| call.hung_up).count();
    assert_eq!(hung_up as u64, report.hung_up);
}
