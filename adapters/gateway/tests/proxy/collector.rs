//! A collector of OpenTelemetry that keeps what it gets.

use core::net::SocketAddr;
use core::time::Duration;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// A timeout that no passing test reaches.
const LONG: Duration = Duration::from_secs(20);

/// All that a collector was sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    /// The heads of all exports.
    pub(crate) heads: Vec<String>,
    /// The attributes of what sends.
    pub(crate) resource: Vec<KeyValue>,
    pub(crate) spans: Vec<Span>,
    /// The latest figures.
    pub(crate) metrics: Vec<Metric>,
}

/// A running collector.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    received: Arc<(Mutex<Received>, Condvar)>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let received: Arc<(Mutex<Received>, Condvar)> = Arc::default();
        let kept = Arc::clone(&received);
        thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.expect("a connection"), &kept);
            }
        });
        Self { address, received }
    }

    /// The table of settings for an export to it.
    pub(crate) fn settings(&self, more: &str) -> String {
        format!("[otlp]\nendpoint = \"http://{}\"\n{more}\n", self.address)
    }

    pub(crate) fn received(&self) -> Received {
        self.received.0.lock().expect("no panic").clone()
    }

    /// Waits until it has got this.
    pub(crate) fn wait(&self, what: &str, is_there: impl Fn(&Received) -> bool) -> Received {
        let (received, changed) = &*self.received;
        let received = received.lock().expect("no panic");
        let (received, timed_out) = changed
            .wait_timeout_while(received, LONG, |received| !is_there(received))
            .expect("no panic");
        assert!(!timed_out.timed_out(), "{what}: {received:#?}");
        received.clone()
    }
}

/// Keeps one export.
fn serve(stream: TcpStream, kept: &(Mutex<Received>, Condvar)) {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let begin = head.len();
        let read = reader.read_line(&mut head).expect("a line");
        assert!(read > 0, "{head}");
        if let Some(value) = head[begin..].strip_prefix("content-length: ") {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    let (received, changed) = kept;
    let mut received = received.lock().expect("no panic");
    if head.starts_with("POST /v1/traces ") {
        let export = ExportTraceServiceRequest::decode(&*body).expect("an export");
        for spans in export.resource_spans {
            received.resource = spans.resource.expect("a resource").attributes;
            let spans = spans.scope_spans.into_iter().flat_map(|it| it.spans);
            received.spans.extend(spans);
        }
    } else {
        assert!(head.starts_with("POST /v1/metrics "), "{head}");
        let export = ExportMetricsServiceRequest::decode(&*body).expect("an export");
        let metrics = export.resource_metrics.into_iter();
        let scopes = metrics.flat_map(|it| it.scope_metrics);
        received.metrics = scopes.flat_map(|it| it.metrics).collect();
    }
    received.heads.push(head);
    changed.notify_all();
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    reader.get_mut().write_all(answer.as_bytes()).expect("sent");
}

/// An attribute as text; empty without it.
pub(crate) fn attribute(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == name);
    let value = found.and_then(|attribute| attribute.value.clone()?.value);
    match value {
        None => String::new(),
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(other) => panic!("{name}: {other:?}"),
    }
}

/// The spans below another.
pub(crate) fn children<'s>(spans: &'s [Span], parent: &Span) -> Vec<&'s Span> {
    let is_child = |span: &&Span| span.parent_span_id == parent.span_id;
    spans.iter().filter(is_child).collect()
}

/// Digits of an id.
pub(crate) fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
