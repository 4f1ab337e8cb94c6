//! Spans of exchanges, by OpenTelemetry's names: the exchange, its waits for members, its attempts.
//!
//! Invariant: where no spans are exported, none is made and nothing is allocated for one.

mod context;

use crate::backend::Backend;
use crate::clock::time_of_day;
use crate::lock;
use crate::record::{End, Record};
pub(crate) use context::TRACE_FIELDS;
use context::{caller_of, propagate};
use core::fmt;
use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, Method, StatusCode};
use leasehold_protocol::Usage;
use opentelemetry::trace::{Span as _, SpanBuilder, SpanKind, Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, Span};
use std::sync::{Arc, Mutex};

/// The span of an exchange with a caller, and that of its present attempt.
#[derive(Debug)]
pub(crate) struct ExchangeSpan {
    span: Span,
    parent: Parent,
    attempt: Option<AttemptSpan>,
}

/// The span that waits and attempts begin under, wherever they go on.
#[derive(Clone, Debug)]
pub(crate) struct Parent {
    tracer: SdkTracer,
    context: Context,
    /// Whether the trace is a caller's, whose `tracestate` goes on with it.
    goes_on: bool,
    /// The pool that was asked last.
    pool: Arc<Mutex<String>>,
}

/// The span of a wait for a member, if spans are exported.
#[derive(Debug)]
pub(crate) struct WaitSpan(Option<Box<Span>>);

/// The span of an attempt, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct AttemptSpan {
    span: Span,
    goes_on: bool,
}

/// An attempt at a member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt<'a> {
    pub(crate) pool: &'a str,
    pub(crate) backend: &'a Backend,
    pub(crate) method: &'a Method,
    /// The path that is asked for, without a query.
    pub(crate) path: &'a str,
    pub(crate) model: Option<ModelCall<'a>>,
}

/// A call to a model, in OpenTelemetry's words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelCall<'a> {
    pub(crate) operation: &'static str,
    pub(crate) provider: &'static str,
    pub(crate) model: &'a str,
}

impl ExchangeSpan {
    /// Begins the span of a request that was begun already.
    pub(crate) fn begin(tracer: &SdkTracer, record: &Record, headers: &HeaderMap) -> Box<Self> {
        let caller = caller_of(headers);
        let goes_on = caller.is_some();
        let above = caller.map(|caller| Context::new().with_remote_span_context(caller));
        let begun = time_of_day().checked_sub(record.elapsed());
        let mut span = SpanBuilder::from_name(known(&record.method))
            .with_kind(SpanKind::Server)
            .with_start_time(begun.unwrap_or_else(time_of_day))
            .start_with_context(tracer, &above.unwrap_or_default());
        if let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok())
            && let Ok(authority) = host.parse::<Authority>()
        {
            let address = authority.host().to_owned();
            span.set_attribute(KeyValue::new("server.address", address));
            if let Some(port) = authority.port_u16() {
                span.set_attribute(KeyValue::new("server.port", i64::from(port)));
            }
        }
        let own = span.span_context().clone();
        Box::new(Self {
            span,
            parent: Parent {
                tracer: tracer.clone(),
                context: Context::new().with_remote_span_context(own),
                goes_on,
                pool: Arc::default(),
            },
            attempt: None,
        })
    }

    pub(crate) fn parent(&self) -> &Parent {
        &self.parent
    }

    /// Begins an attempt with its number, from 1 on, and ends the one before.
    pub(crate) fn attempt(&mut self, attempt: &Attempt<'_>, number: u32, headers: &mut HeaderMap) {
        self.attempt = None;
        let span = self.parent.attempt(attempt, number);
        span.propagate(headers);
        self.attempt = Some(span);
    }

    /// The present attempt.
    pub(crate) fn present(&mut self) -> Option<&mut AttemptSpan> {
        self.attempt.as_mut()
    }

    /// Ends the span with what has become of the exchange.
    pub(crate) fn finish(mut self, record: &Record) {
        self.attempt = None;
        if !self.span.is_recording() {
            return;
        }
        let method = known(&record.method);
        let mut told = vec![
            KeyValue::new("http.request.method", method),
            KeyValue::new("url.path", record.uri.path().to_owned()),
            KeyValue::new("url.scheme", "http"),
            KeyValue::new(
                "http.response.status_code",
                i64::from(record.status.as_u16()),
            ),
            KeyValue::new("leasehold.request_id", text(&record.request_id)),
            KeyValue::new("leasehold.attempts", i64::from(record.attempts)),
            KeyValue::new("leasehold.end", record.end.code()),
        ];
        if method == OTHER {
            let original = record.method.to_string();
            told.push(KeyValue::new("http.request.method_original", original));
        }
        if let Some(client) = &record.client {
            told.push(KeyValue::new("client.address", text(client)));
        }
        if let Some(backend) = &record.backend {
            told.push(KeyValue::new("leasehold.member", backend.name().to_owned()));
        }
        let pool = lock(&self.parent.pool).clone();
        if !pool.is_empty() {
            self.span.update_name(format!("{method} {pool}"));
            told.push(KeyValue::new("http.route", pool.clone()));
            told.push(KeyValue::new("leasehold.pool", pool));
        }
        let is_cut = matches!(record.end, End::BackendBroke | End::BackendStalled);
        if record.status.is_server_error() || is_cut {
            let why = match record.end {
                End::Complete | End::CallerLeft | End::Upgraded => {
                    record.status.as_str().to_owned()
                }
                End::BackendBroke | End::BackendStalled | End::Refused(_) => {
                    record.end.code().to_owned()
                }
            };
            told.push(KeyValue::new("error.type", why));
            self.span.set_status(Status::error(""));
        }
        self.span.set_attributes(told);
        self.span.end();
    }
}

impl Parent {
    /// Notes the pool that the exchange is with.
    pub(crate) fn note_pool(&self, pool: &str) {
        pool.clone_into(&mut lock(&self.pool));
    }

    /// Begins an attempt with its number, from 1 on.
    pub(crate) fn attempt(&self, attempt: &Attempt<'_>, number: u32) -> AttemptSpan {
        self.note_pool(attempt.pool);
        let backend = attempt.backend;
        let (method, url) = (known(attempt.method), backend.url());
        let scheme = url.scheme_str().unwrap_or("http");
        let authority = text(backend.authority());
        let mut told = vec![
            KeyValue::new("http.request.method", method),
            KeyValue::new(
                "url.full",
                format!("{scheme}://{authority}{}", attempt.path),
            ),
            KeyValue::new("server.address", backend.host().to_owned()),
            KeyValue::new("server.port", i64::from(backend.port())),
            KeyValue::new("leasehold.pool", attempt.pool.to_owned()),
            KeyValue::new("leasehold.member", backend.name().to_owned()),
        ];
        let repeats = number.saturating_sub(1);
        if repeats > 0 {
            told.push(KeyValue::new(
                "http.request.resend_count",
                i64::from(repeats),
            ));
        }
        let mut name = method.to_owned();
        if let Some(call) = attempt.model {
            name = format!("{} {}", call.operation, call.model);
            told.extend([
                KeyValue::new("gen_ai.operation.name", call.operation),
                KeyValue::new("gen_ai.provider.name", call.provider),
                KeyValue::new("gen_ai.request.model", call.model.to_owned()),
            ]);
        }
        AttemptSpan {
            span: self.begin(name, SpanKind::Client, told),
            goes_on: self.goes_on,
        }
    }

    fn begin(
        &self,
        name: impl Into<std::borrow::Cow<'static, str>>,
        kind: SpanKind,
        told: Vec<KeyValue>,
    ) -> Span {
        SpanBuilder::from_name(name)
            .with_kind(kind)
            .with_attributes(told)
            .start_with_context(&self.tracer, &self.context)
    }
}

impl WaitSpan {
    /// Begins a wait for a member of a pool.
    pub(crate) fn begin(parent: Option<&Parent>, pool: &str) -> Self {
        Self(parent.map(|parent| {
            parent.note_pool(pool);
            let pool = KeyValue::new("leasehold.pool", pool.to_owned());
            Box::new(parent.begin("lease", SpanKind::Internal, vec![pool]))
        }))
    }

    /// Ends it with the member that was granted.
    pub(crate) fn granted(self, member: &str) {
        if let Some(mut span) = self.0 {
            let member = KeyValue::new("leasehold.member", member.to_owned());
            span.set_attribute(member);
        }
    }

    /// Ends it with the reason that there is none.
    pub(crate) fn refused(self, code: &'static str) {
        if let Some(mut span) = self.0 {
            fail(&mut span, code.to_owned(), String::new());
        }
    }
}

impl AttemptSpan {
    /// Names this span as the parent of what the backend does.
    pub(crate) fn propagate(&self, headers: &mut HeaderMap) {
        propagate(self.span.span_context(), self.goes_on, headers);
    }

    /// Notes the answer's head.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        let code = i64::from(status.as_u16());
        let code = KeyValue::new("http.response.status_code", code);
        self.span.set_attribute(code);
        if status.is_client_error() || status.is_server_error() {
            fail(&mut self.span, status.as_str().to_owned(), String::new());
        }
    }

    /// Notes why there is no answer, or none that is one.
    pub(crate) fn failed(&mut self, kind: impl Into<String>, why: &dyn fmt::Display) {
        if self.span.is_recording() {
            fail(&mut self.span, kind.into(), why.to_string());
        }
    }

    /// Notes the tokens that were used.
    pub(crate) fn used(&mut self, usage: &Usage) {
        for (name, count) in [
            ("gen_ai.usage.input_tokens", usage.prompt_tokens),
            ("gen_ai.usage.output_tokens", usage.completion_tokens),
        ] {
            if let Some(count) = count {
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                self.span.set_attribute(KeyValue::new(name, count));
            }
        }
    }
}

fn fail(span: &mut Span, kind: String, why: String) {
    span.set_attribute(KeyValue::new("error.type", kind));
    span.set_status(Status::error(why));
}

/// The name of methods that HTTP does not know.
const OTHER: &str = "_OTHER";

/// Returns the name of a method that HTTP knows, so that callers can't make up names of spans.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::CONNECT => "CONNECT",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        Method::PATCH => "PATCH",
        _ => OTHER,
    }
}

fn text(value: &http::HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}
