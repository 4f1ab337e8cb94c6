//! What is remembered of a request, for the counts and the log.
//!
//! Invariant: each request that was begun is counted and logged once, at its end, however that comes.

use crate::backend::Backend;
use crate::clock::poll_time;
use crate::operator_log::target;
use crate::proxy::{CallerState, Fields};
use crate::state::unix_millis;
use crate::trace::{Attempt, ExchangeSpan, Parent};
use crate::worker::Worker;
use core::sync::atomic::Ordering;
use core::time::Duration;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use leasehold_tokio::RateLimitFields;
use serde_json::json;
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::Instant;

/// What the log has for a caller that left before its answer; nginx's number for it.
const CALLER_LEFT: u16 = 499;

/// Characters that are kept of each text of a request that was refused.
const MAX_REFUSAL_TEXT: usize = 300;

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All of the answer was passed on.
    Complete,
    /// The caller hung up, or stalled, before the answer's end.
    CallerLeft,
    /// The backend's connection broke in the answer's body.
    BackendBroke,
    /// The backend stalled in the answer's body.
    BackendStalled,
    /// The connection went on in another protocol.
    Upgraded,
    /// The gateway answered by itself, for the reason of this code.
    Refused(&'static str),
}

/// What counts of a request that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    /// It was answered with a server's error, or not to the end.
    Failed,
    /// It was turned away for a reason of its own or for a limit, or its caller left before an answer.
    Refused,
}

impl End {
    /// Returns one word, as in the log.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Complete => "ok",
            Self::CallerLeft => "caller_left",
            Self::BackendBroke => "backend_broke",
            Self::BackendStalled => "backend_stalled",
            Self::Upgraded => "upgraded",
            Self::Refused(code) => code,
        }
    }
}

/// Returns the begin of a text of the caller's, which may be as long as its request.
fn shortened(text: &str) -> String {
    text.chars().take(MAX_REFUSAL_TEXT).collect()
}

/// A request and what became of it.
#[derive(Debug)]
pub(crate) struct Record {
    worker: Rc<Worker>,
    state: Arc<CallerState>,
    pub(crate) started: Instant,
    /// The client's address as text.
    pub(crate) client: Option<HeaderValue>,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    /// The page that led here, if the log has it.
    pub(crate) referrer: Option<HeaderValue>,
    /// The caller's program, if the log has it.
    pub(crate) agent: Option<HeaderValue>,
    pub(crate) request_id: HeaderValue,
    pub(crate) status: StatusCode,
    pub(crate) bytes: u64,
    pub(crate) backend: Option<Arc<Backend>>,
    pub(crate) attempts: u32,
    /// The time in the pool's queue.
    pub(crate) waited: Duration,
    /// The time from the request to the answer's head.
    pub(crate) first_byte: Option<Duration>,
    pub(crate) end: End,
    /// The span of the exchange, if spans are exported.
    span: Option<Box<ExchangeSpan>>,
    /// The header fields that tell the caller its limits, until the answer has them.
    pub(crate) limits: Option<Box<RateLimitFields>>,
    /// Whether it is one of the proxy's requests, which are counted and logged; those to the admin are not.
    pub(crate) is_counted: bool,
}

impl Record {
    pub(crate) fn new(
        worker: &Rc<Worker>,
        state: &Arc<CallerState>,
        parts: &Parts,
        fields: &Fields<'_>,
    ) -> Self {
        state.is_busy.store(true, Ordering::Relaxed);
        let has_referrer = worker.logs_referrers();
        let logged = |field: Option<&HeaderValue>| field.filter(|_| has_referrer).cloned();
        Self {
            worker: Rc::clone(worker),
            state: Arc::clone(state),
            started: poll_time(),
            client: None,
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            referrer: logged(fields.referrer),
            agent: logged(fields.agent),
            request_id: fields.request_id(),
            status: StatusCode::from_u16(CALLER_LEFT).unwrap_or(StatusCode::REQUEST_TIMEOUT),
            bytes: 0,
            backend: None,
            attempts: 0,
            waited: Duration::ZERO,
            first_byte: None,
            end: End::CallerLeft,
            span: None,
            limits: None,
            is_counted: true,
        }
    }

    /// Returns the time since it began.
    pub(crate) fn elapsed(&self) -> Duration {
        poll_time().saturating_duration_since(self.started)
    }

    /// Begins the span of the exchange, if spans are exported.
    pub(crate) fn begin_span(&mut self, headers: &HeaderMap) {
        if let Some(otlp) = self.worker.shared().otlp() {
            self.span = Some(ExchangeSpan::begin(otlp.tracer(), self, headers));
        }
    }

    /// Begins the span of the present attempt, which what is sent then names as its parent.
    pub(crate) fn begin_attempt(&mut self, attempt: &Attempt<'_>, headers: &mut HeaderMap) {
        if let Some(span) = &mut self.span {
            span.attempt(attempt, self.attempts, headers);
        }
    }

    /// Notes the head of the present attempt's answer.
    pub(crate) fn attempt_answered(&mut self, status: StatusCode) {
        if let Some(attempt) = self.span.as_mut().and_then(|span| span.present()) {
            attempt.answered(status);
        }
    }

    /// Notes why the present attempt has no answer.
    pub(crate) fn attempt_failed(&mut self, code: &str, why: &dyn core::fmt::Display) {
        if let Some(attempt) = self.span.as_mut().and_then(|span| span.present()) {
            attempt.failed(code, why);
        }
    }

    /// The span above those of waits and attempts, if spans are exported.
    pub(crate) fn parent(&self) -> Option<&Parent> {
        self.span.as_deref().map(ExchangeSpan::parent)
    }

    /// Notes that the gateway answers by itself, and why.
    pub(crate) fn refuse(&mut self, status: StatusCode, code: &'static str, why: &str) {
        tracing::debug!(target: target::EXCHANGE, code, "refused: {why}");
        self.end = End::Refused(code);
        let at = unix_millis();
        self.worker.shared().refusals().add(at, || {
            json!({
                "status": status.as_u16(),
                "code": code,
                "why": shortened(why),
                "request": shortened(&format!("{} {}", self.method, self.uri.path())),
                "client": self.client.as_ref().and_then(|client| client.to_str().ok()),
            })
        });
    }

    pub(crate) fn count(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// Adds what the caller is told of its limits.
    pub(crate) fn tell_limits(&mut self, headers: &mut HeaderMap) {
        if let Some(limits) = self.limits.take() {
            limits.add_to(headers);
        }
    }
}

impl Record {
    /// What the request counts as.
    pub(crate) fn outcome(&self) -> Outcome {
        match self.end {
            _ if self.status.is_server_error() => Outcome::Failed,
            End::BackendBroke | End::BackendStalled => Outcome::Failed,
            End::Refused(_) => Outcome::Refused,
            End::CallerLeft if self.first_byte.is_none() => Outcome::Refused,
            End::Complete | End::Upgraded | End::CallerLeft => Outcome::Ok,
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.state.is_busy.store(false, Ordering::Relaxed);
        if self.is_counted {
            self.worker.finish(self);
            if self.span.is_none() {
                // A head that was refused is traced too.
                self.begin_span(&HeaderMap::new());
            }
            if let Some(span) = self.span.take() {
                span.finish(self);
            }
        }
    }
}
