//! Traces and metrics, as a collector and the backends see them.

use crate::collector::{Collector, Received, attribute, children, hex};
use crate::support::*;
use core::net::SocketAddr;
use core::time::Duration;
use leasehold_config::{Given, Settings};
use leasehold_gateway::Gateway;
use leasehold_testbed::{Backend, FaultRule, OpenAi, OpenAiConfig, Recording};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use std::net::TcpListener;
use std::path::Path;
use tokio::time::Instant;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// A request with a caller's trace.
fn traced(path: &str, flags: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: shop.test:81\r\ntraceparent: 00-{TRACE}-{CALLER}-{flags}\r\n\
        tracestate: a=1,b=2\r\nconnection: close\r\n\r\n"
    )
}

/// The fields of the trace in the last request of a backend.
fn seen(backend: &Backend) -> (String, Option<String>) {
    let report = backend.report();
    let headers = &report.recorded.last().expect("a request").headers;
    let value = |name: &str| {
        let mut values = headers.iter().filter(|(field, _)| field == name);
        let value = values.next()?;
        assert!(values.next().is_none(), "{headers:?}");
        Some(String::from_utf8(value.1.clone()).expect("a text"))
    };
    (
        value("traceparent").unwrap_or_default(),
        value("tracestate"),
    )
}

fn server_span(received: &Received) -> &Span {
    let is_server = |span: &&Span| span.kind() == SpanKind::Server;
    let mut servers = received.spans.iter().filter(is_server);
    let server = servers.next().expect("a span of the exchange");
    assert!(servers.next().is_none(), "{received:#?}");
    server
}

/// A port that nothing listens at.
fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address")
}

fn of_kind(spans: &[&Span], kind: SpanKind) -> Vec<Span> {
    let spans = spans.iter().filter(|span| span.kind() == kind);
    let mut spans: Vec<Span> = spans.map(|span| (*span).clone()).collect();
    spans.sort_by_key(|span| span.start_time_unix_nano);
    spans
}

#[test]
fn an_exchange_its_waits_and_its_attempts_are_spans_of_the_callers_trace() {
    let (collector, [backend]) = (Collector::start(), backends::<1>());
    let (gone, alive) = (closed_port(), backend.address());
    let text = format!(
        "access_log = false\n[pools.web]\nkind = \"http\"\n\
        members = [{{ name = \"gone\", url = \"http://{gone}\" }}, {{ name = \"alive\", tier = 1, url = \"http://{alive}\" }}]\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"http\"\npool = \"web\"\n{}",
        collector.settings("headers_file = \"headers\"\nservice_name = \"edge\"")
    );
    let given = Given::new().with_file("/headers", "x-key: of-the-collector\n");
    let settings = Settings::parse(&text, Path::new("/"), &given).expect("settings");
    let gateway = Gateway::start(settings).expect("it starts");
    let address = gateway.addresses()[0].expect("a TCP listener");
    assert_eq!(ask(address, &traced("/a?b=c", "01")).status, 200);
    gateway.drain();
    let received = collector.received();
    let server = server_span(&received);
    assert_eq!(
        (&*hex(&server.trace_id), &*hex(&server.parent_span_id)),
        (TRACE, CALLER)
    );
    assert_eq!(
        (&*server.name, &*server.trace_state),
        ("GET web", "a=1,b=2")
    );
    for (name, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/a"),
        ("url.scheme", "http"),
        ("http.route", "web"),
        ("http.response.status_code", "200"),
        ("server.address", "shop.test"),
        ("server.port", "81"),
        ("client.address", "127.0.0.1"),
        ("leasehold.pool", "web"),
        ("leasehold.member", "alive"),
        ("leasehold.attempts", "2"),
        ("leasehold.end", "ok"),
        ("error.type", ""),
    ] {
        assert_eq!(attribute(&server.attributes, name), value, "{name}");
    }
    let below = children(&received.spans, server);
    assert_eq!(below.len() + 1, received.spans.len(), "{received:#?}");
    let waits = of_kind(&below, SpanKind::Internal);
    let attempts = of_kind(&below, SpanKind::Client);
    for (index, member) in ["gone", "alive"].into_iter().enumerate() {
        let member_of = |span: &Span| attribute(&span.attributes, "leasehold.member");
        assert_eq!(
            (&*member_of(&waits[index]), &*member_of(&attempts[index])),
            (member, member)
        );
        assert!(waits[index].end_time_unix_nano <= attempts[index].start_time_unix_nano);
        assert!(attempts[index].end_time_unix_nano <= server.end_time_unix_nano);
    }
    let [failed, answered] = &attempts[..] else {
        panic!("{attempts:#?}");
    };
    let told = |span: &Span, name: &str| attribute(&span.attributes, name);
    assert_eq!(told(failed, "error.type"), "no_connection");
    assert_eq!(told(answered, "http.request.resend_count"), "1");
    assert_eq!(told(answered, "http.response.status_code"), "200");
    assert_eq!(told(answered, "url.full"), format!("http://{alive}/a"));
    let parent = format!("00-{TRACE}-{}-01", hex(&answered.span_id));
    assert_eq!(seen(&backend), (parent, Some("a=1,b=2".to_owned())));
    assert_eq!(attribute(&received.resource, "service.name"), "edge");
    let has_key = |head: &String| head.contains("x-key: of-the-collector\r\n");
    assert!(received.heads.len() >= 2 && received.heads.iter().all(has_key));
    assert_metrics(&received);
}

/// The figures are those of one request that was answered at its second attempt.
fn assert_metrics(received: &Received) {
    let metric = |name: &str| {
        let mut metrics = received.metrics.iter();
        let metric = metrics.find(|metric| metric.name == name).expect(name);
        metric.data.clone().expect("data")
    };
    let Data::Sum(requests) = metric("leasehold_requests") else {
        panic!("no sum");
    };
    assert!(requests.is_monotonic);
    let value = |outcome: &str| {
        let is_one = |attributes| attribute(attributes, "outcome") == outcome;
        let mut points = requests.data_points.iter();
        points
            .find(|point| is_one(&point.attributes))
            .expect(outcome)
            .value
    };
    assert_eq!(value("ok"), Some(Value::AsInt(1)));
    assert_eq!(value("failed"), Some(Value::AsInt(0)));
    let Data::Sum(retries) = metric("leasehold_retries") else {
        panic!("no sum");
    };
    assert_eq!(retries.data_points[0].value, Some(Value::AsInt(1)));
    let Data::Histogram(times) = metric("leasehold_request_duration_seconds") else {
        panic!("no histogram");
    };
    let point = &times.data_points[0];
    assert_eq!(
        (point.count, point.bucket_counts.iter().sum::<u64>()),
        (2, 2)
    );
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    assert!(point.start_time_unix_nano > 0 && point.start_time_unix_nano < point.time_unix_nano);
    let Data::Gauge(up) = metric("leasehold_member_up") else {
        panic!("no gauge");
    };
    assert_eq!(up.data_points.len(), 2);
}

#[test]
fn a_trace_that_is_not_sampled_stays_so_and_a_wrong_parent_begins_a_new_one() {
    let (collector, backends) = (Collector::start(), backends::<1>());
    let [backend] = &backends;
    let members = [(backend.address(), 1)];
    let running = start(&(config("", "", &members) + &collector.settings("")));
    assert_eq!(ask(running.address, &traced("/", "00")).status, 200);
    let (parent, state) = seen(backend);
    let begin = format!("00-{TRACE}-");
    assert!(
        parent.starts_with(&begin) && parent.ends_with("-00"),
        "{parent}"
    );
    assert!(!parent.contains(CALLER) && state.is_some());
    let wrong = traced("/", "01").replace("00-0af", "00-0AF");
    assert_eq!(ask(running.address, &wrong).status, 200);
    let (parent, state) = seen(backend);
    assert!(
        !parent.contains(&TRACE[4..]) && parent.ends_with("-01"),
        "{parent}"
    );
    assert_eq!(state, None);
    running.gateway.drain();
    let received = collector.received();
    let server = server_span(&received);
    assert_eq!(server.parent_span_id, Vec::<u8>::new());
    assert!(
        parent.starts_with(&format!("00-{}-", hex(&server.trace_id))),
        "{parent}"
    );
}

#[test]
fn no_share_of_the_traces_is_exported_but_those_of_callers_and_refused_heads_are_spans() {
    let (collector, backends) = (Collector::start(), backends::<1>());
    let members = [(backends[0].address(), 1)];
    let settings = collector.settings("sample = \"0%\"\ninterval = \"50ms\"");
    let running = start(&(config("", "", &members) + &settings));
    assert_eq!(get(running.address, "/").status, 200);
    assert!(seen(&backends[0]).0.ends_with("-00"));
    assert_eq!(ask(running.address, &traced("/", "01")).status, 200);
    let received = collector.wait("spans and metrics while it runs", |received| {
        received.spans.len() == 3 && !received.metrics.is_empty()
    });
    assert_eq!(hex(&server_span(&received).trace_id), TRACE);
    running.gateway.drain();
    assert_eq!(collector.received().spans.len(), 3);
    let collector = Collector::start();
    let running = start(&(config("", "", &members) + &collector.settings("")));
    let refused = "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n";
    assert_eq!(ask(running.address, refused).status, 400);
    running.gateway.drain();
    let received = collector.received();
    let server = server_span(&received);
    let status = attribute(&server.attributes, "http.response.status_code");
    assert_eq!((&*server.name, &*status), ("GET", "400"));
}

#[test]
fn without_an_export_a_callers_trace_goes_through_as_it_is() {
    let backends = backends::<1>();
    let running = start_before("", "", &backends);
    for flags in ["00", "01", "nonsense"] {
        assert_eq!(ask(running.address, &traced("/", flags)).status, 200);
        let parent = format!("00-{TRACE}-{CALLER}-{flags}");
        assert_eq!(seen(&backends[0]), (parent, Some("a=1,b=2".to_owned())));
    }
    running.gateway.drain();
}

#[test]
fn what_is_passed_on_to_a_comfyui_server_is_an_attempt_of_the_exchange() {
    let (collector, backends) = (Collector::start(), backends::<1>());
    let url = backends[0].url();
    let text = format!(
        "access_log = false\n[pools.images]\nkind = \"comfyui\"\nmembers = [{{ url = \"{url}\" }}]\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"comfyui\"\npool = \"images\"\n{}",
        collector.settings("")
    );
    let running = start(&text);
    assert_eq!(ask(running.address, &traced("/page", "01")).status, 200);
    let report = backends[0].report();
    let mut pages = report.recorded.iter().filter(|seen| seen.target == "/page");
    let headers = &pages.next().expect("the page").headers;
    let parent = headers.iter().find(|(name, _)| name == "traceparent");
    let parent = String::from_utf8_lossy(&parent.expect("a parent").1).into_owned();
    running.gateway.drain();
    let received = collector.received();
    let server = server_span(&received);
    assert_eq!(
        (&*server.name, hex(&server.parent_span_id)),
        ("GET images", CALLER.to_owned())
    );
    let attempts = of_kind(&children(&received.spans, server), SpanKind::Client);
    assert_eq!(
        parent,
        format!("00-{TRACE}-{}-01", hex(&attempts[0].span_id))
    );
}

#[test]
fn a_call_tells_its_model_and_its_tokens_and_a_repeat_is_an_attempt_of_its_own() {
    let collector = Collector::start();
    let mut config = OpenAiConfig::default();
    config.keys = vec!["sk-test-0001".to_owned(), "sk-test-0002".to_owned()];
    config.recording = Recording::Full;
    config.faults = vec!["500=first:1".parse::<FaultRule>().expect("a fault")];
    let service = OpenAi::start(config).expect("a free port");
    let url = service.url();
    let text = format!(
        "access_log = false\n[pools.keys]\nkind = \"openai\"\nmembers = [{{ url = \"{url}\", keys = \"keys\" }}]\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nserve = \"openai\"\npool = \"keys\"\n{}",
        collector.settings("")
    );
    let given = Given::new().with_file("/keys", "sk-test-0001\nsk-test-0002\n");
    let settings = Settings::parse(&text, Path::new("/"), &given).expect("settings");
    let gateway = Gateway::start(settings).expect("it starts");
    let address = gateway.addresses()[0].expect("a TCP listener");
    let call = |stream: bool| {
        let body = format!(
            "{{\"model\": \"gpt-4o\", \"stream\": {stream}, \"messages\": [{{\"role\": \"user\", \"content\": \"one two\"}}]}}"
        );
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntraceparent: 00-{TRACE}-{CALLER}-01\r\n\
            content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = ask(address, &request);
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    call(false);
    call(true);
    gateway.drain();
    let received = collector.received();
    let all: Vec<&Span> = received.spans.iter().collect();
    let attempts = of_kind(&all, SpanKind::Client);
    assert_eq!(attempts.len(), 3, "{received:#?}");
    let told = |span: &Span, name: &str| attribute(&span.attributes, name);
    assert_eq!(told(&attempts[0], "error.type"), "500");
    assert_eq!(told(&attempts[1], "http.request.resend_count"), "1");
    for attempt in &attempts {
        assert_eq!(attempt.name, "chat gpt-4o");
        assert_eq!(told(attempt, "gen_ai.operation.name"), "chat");
        assert_eq!(told(attempt, "gen_ai.provider.name"), "openai");
        assert_eq!(told(attempt, "gen_ai.request.model"), "gpt-4o");
        assert_eq!(hex(&attempt.trace_id), TRACE);
    }
    for attempt in &attempts[1..] {
        for tokens in ["gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"] {
            let count = told(attempt, tokens).parse::<u64>();
            assert!(count.is_ok_and(|count| count > 0), "{tokens}: {attempt:#?}");
        }
    }
    let servers = of_kind(&all, SpanKind::Server);
    assert_eq!(servers.len(), 2);
    for (server, count) in servers.iter().zip([2, 1]) {
        assert_eq!(
            (&*server.name, &*hex(&server.parent_span_id)),
            ("POST keys", CALLER)
        );
        let below = children(&received.spans, server);
        assert_eq!(of_kind(&below, SpanKind::Client).len(), count);
        assert_eq!(of_kind(&below, SpanKind::Internal).len(), count);
    }
    let calls = service.control().calls();
    for (call, attempt) in calls.iter().zip(&attempts) {
        let parent = format!("00-{TRACE}-{}-01", hex(&attempt.span_id));
        assert_eq!(call.header("traceparent"), Some(parent.as_str()));
    }
    assert_eq!(calls.len(), attempts.len());
}

#[test]
fn a_collector_that_never_answers_holds_up_neither_requests_nor_the_end() {
    let backends = backends::<1>();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("an address");
    let members = [(backends[0].address(), 1)];
    let export =
        format!("[otlp]\nendpoint = \"http://{address}\"\ntimeout = \"1h\"\ninterval = \"20ms\"\n");
    let running = start(&(config("", "", &members) + &export));
    let mut caller = Caller::connect(running.address);
    // More spans than may wait.
    for _ in 0..3_000 {
        caller.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        assert_eq!(caller.answer().expect("an answer").status, 200);
    }
    drop(caller);
    let begun = Instant::now();
    running.gateway.drain();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
}
