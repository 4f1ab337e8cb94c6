//! A request on its way to a backend: leased, sent, and repeated where that is safe.
//!
//! Invariant: a request of which a part may have reached a backend is repeated only if it has no body and its method
//! is idempotent (RFC 9110, section 9.2.2); each failure is told to the pool before the next attempt.

use super::caller_body::CutBody;
use super::head::Target;
use super::headers::{Caller, write_for_backend};
use super::refusal::Refusal;
use crate::backend::Backend;
use crate::backend_pool::BackendPool;
use crate::operator_log::target;
use crate::record::Record;
use crate::shared::Shared;
use crate::trace::{Attempt, TRACE_FIELDS, WaitSpan};
use crate::waiting::{CANCELLED_TEXT, Waiter};
use http::header::{CONNECTION, HOST, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use leasehold_core::limit::Cost;
use leasehold_sync::{AcquireError, Lease, MemberId, Outcome, Release};
use std::sync::Arc;

/// The code of a refusal of a request that an operator has cancelled.
const CANCELLED: &str = leasehold_protocol::Refusal::CANCELLED;

/// A request that is passed on.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) parts: &'a Parts,
    pub(crate) target: Target<'a>,
    pub(crate) caller: Caller<'a>,
    pub(crate) pool: Arc<BackendPool>,
    pub(crate) shared: &'a Shared,
    pub(crate) asked: leasehold_sync::Request,
    pub(crate) has_body: bool,
}

/// Sends requests to backends: through hyper, or directly.
pub(super) trait Transport {
    /// An answer's head, and what its body comes from.
    type Sent;

    /// Sends the request to a backend once; what was not read of its body stays with the transport.
    async fn send(
        &mut self,
        outgoing: &Outgoing<'_>,
        attempt: &ToBackend<'_>,
    ) -> Result<Self::Sent, NoAnswer>;
}

/// What one attempt tells a backend.
#[derive(Debug)]
pub(super) struct ToBackend<'a> {
    pub(super) backend: &'a Backend,
    /// Whether no kept connection may be used, as one has turned out to be closed.
    pub(super) is_anew: bool,
    request_id: &'a HeaderValue,
    /// The fields of the attempt's trace, if spans are exported.
    trace: Option<Box<HeaderMap>>,
}

/// An answer's head, and the lease under which it was given.
#[derive(Debug)]
pub(crate) struct Answered<T> {
    pub(crate) sent: T,
    pub(crate) lease: Lease<Backend>,
}

/// Why an attempt has no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The request's body was cut.
    Cut(CutBody),
    /// The backend can't be reached, or has not answered.
    Fault(Fault),
}

/// A backend's fault.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    /// What went wrong, for people.
    pub(super) why: String,
}

/// How far an attempt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// Nothing was sent; `has_begun` if a part of the body was read all the same, so that it can't be sent again.
    NotSent { has_begun: bool },
    /// The connection broke before the answer's head; `was_kept` if it had served before, so that it may just have been
    /// closed as unused.
    Broken { was_kept: bool },
    /// There was no answer in time.
    TimedOut,
}

/// What follows from a failed attempt.
struct Failed {
    /// How the lease ends.
    release: Release,
    is_repeatable: bool,
    /// Whether the connection had only been closed as unused, which is no failure of the backend.
    was_stale: bool,
    refusal: Refusal,
}

impl Outgoing<'_> {
    /// Passes the request on, again if need be, until it has an answer's head.
    pub(super) async fn send<T: Transport>(
        &mut self,
        transport: &mut T,
        record: &mut Record,
    ) -> Result<Answered<T::Sent>, Refusal> {
        let mut tried: Vec<MemberId> = Vec::new();
        let mut is_anew = false;
        self.pool.count_attempt();
        loop {
            record.attempts = record.attempts.saturating_add(1);
            let lease = self.lease(&tried, record).await?;
            record.waited = record.waited.saturating_add(lease.waited());
            record.backend = Some(lease.payload().clone());
            let attempt = ToBackend {
                backend: &lease,
                is_anew,
                trace: self.trace(&lease, record),
                request_id: &record.request_id,
            };
            let fault = match transport.send(self, &attempt).await {
                Ok(sent) => return Ok(Answered { sent, lease }),
                Err(NoAnswer::Cut(cut)) => return Err(cut_body(lease, cut)),
                Err(NoAnswer::Fault(fault)) => fault,
            };
            tracing::debug!(
                target: target::EXCHANGE,
                pool = &*self.pool.settings().name,
                member = lease.name(),
                attempt = record.attempts,
                "the attempt has failed: {}",
                fault.why
            );
            let failed = self.judge(&fault, &lease);
            record.attempt_failed(failed.refusal.code, &failed.refusal.text);
            let member = lease.member();
            // A lease that has expired meanwhile was taken back already.
            let _ = lease.release(failed.release);
            if !failed.is_repeatable {
                self.pool.count_unrepeated();
                return Err(failed.refusal);
            }
            is_anew |= failed.was_stale;
            if !failed.was_stale {
                tried.push(member);
                let failures = u32::try_from(tried.len()).unwrap_or(u32::MAX);
                if !self.pool.may_repeat(failures) {
                    return Err(failed.refusal);
                }
            }
        }
    }

    /// Begins the span of an attempt; returns what the backend is told of it instead of the caller's own.
    fn trace(&self, backend: &Backend, record: &mut Record) -> Option<Box<HeaderMap>> {
        record.parent()?;
        let mut trace = HeaderMap::new();
        for name in TRACE_FIELDS {
            for value in self.parts.headers.get_all(&name) {
                trace.append(&name, value.clone());
            }
        }
        let attempt = Attempt {
            pool: &self.pool.settings().name,
            backend,
            method: &self.parts.method,
            path: self.target.path.path(),
            model: None,
        };
        record.begin_attempt(&attempt, &mut trace);
        Some(Box::new(trace))
    }

    /// Writes the header fields of an attempt. O(fields).
    pub(super) fn write_fields(
        &self,
        attempt: &ToBackend<'_>,
        mut write: impl FnMut(&HeaderName, &HeaderValue),
    ) {
        let (headers, trace) = (&self.parts.headers, attempt.trace.as_deref());
        write_for_backend(headers, &self.caller, attempt.request_id, |name, value| {
            if trace.is_none() || !TRACE_FIELDS.contains(name) {
                write(name, value);
            }
        });
        for (name, value) in trace.into_iter().flatten() {
            write(name, value);
        }
        // A host that was asked for is passed on.
        if self.target.host.is_none() {
            write(&HOST, attempt.backend.authority());
        }
        if let Some(protocol) = self.target.upgrade {
            write(&UPGRADE, protocol);
            write(&CONNECTION, &HeaderValue::from_static("upgrade"));
        }
    }

    /// Waits for a member; after failures for one that has not failed, if there is one.
    async fn lease(
        &mut self,
        tried: &[MemberId],
        record: &Record,
    ) -> Result<Lease<Backend>, Refusal> {
        let wait = WaitSpan::begin(record.parent(), &self.pool.settings().name);
        let lease = loop {
            let pool = self.pool.pool();
            let mut asked = self.asked;
            if !tried.is_empty() {
                let other = pool.blocking().alternative(&asked, tried);
                asked = other.map_or(asked, |member| asked.pin(member));
            }
            let ask = || pool.acquire_with(asked);
            let waiting = self.shared.waiting();
            let Some(outcome) = waiting.outcome(ask, || self.waiter(record)).await else {
                wait.refused(CANCELLED);
                let status = StatusCode::SERVICE_UNAVAILABLE;
                return Err(Refusal::new(status, CANCELLED, CANCELLED_TEXT));
            };
            match outcome {
                Ok(lease) => break lease,
                Err(AcquireError::Closed) => Box::pin(self.follow_reload()).await?,
                Err(refused) => {
                    let refusal = self.refusal(&refused);
                    wait.refused(refusal.code);
                    return Err(refusal);
                }
            }
        };
        wait.granted(lease.name());
        if let Err(error) = self.pool.write_charges() {
            let _ = lease.release(Outcome::NotSent);
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no_state",
                error.to_string(),
            ));
        }
        Ok(lease)
    }

    /// The request in words, for an operator.
    fn waiter(&self, record: &Record) -> Waiter {
        let client = record.client.as_ref();
        let client = client.and_then(|client| client.to_str().ok());
        Waiter {
            pool: self.pool.settings().name.clone(),
            request: format!("{} {}", self.parts.method, self.target.path.path()),
            client: client.map(str::to_owned),
            caller: None,
        }
    }

    /// Goes to the pool that a reload puts in this one's place.
    async fn follow_reload(&mut self) -> Result<(), Refusal> {
        let next = self.shared.successor(&self.pool).await;
        let text = "the pool was taken away by a reload";
        self.pool =
            next.ok_or_else(|| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no_backend", text))?;
        Ok(())
    }

    fn refusal(&self, refused: &AcquireError) -> Refusal {
        let pool = self.pool.pool();
        let response: http::Response<String> = pool.refusal_response(refused);
        let code = match response.status() {
            StatusCode::TOO_MANY_REQUESTS => "limit",
            _ => "no_backend",
        };
        let text = format!(
            "{}; pool {}",
            pool.blocking().describe(*refused, &self.asked),
            self.pool.settings().name
        );
        Refusal::new(response.status(), code, text).wait(pool.retry_after(refused))
    }

    fn judge(&self, fault: &Fault, backend: &Backend) -> Failed {
        backend.note_failure(&fault.why);
        let text = format!("backend {}: {}", backend.name(), fault.why);
        let failed = Release::from(Outcome::Failed);
        let bad_gateway = |code| Refusal::new(StatusCode::BAD_GATEWAY, code, text.clone());
        match fault.kind {
            FaultKind::NotSent { has_begun } => Failed {
                release: failed.cost(Cost::default()),
                is_repeatable: !has_begun,
                was_stale: false,
                refusal: bad_gateway("no_connection"),
            },
            FaultKind::Broken { was_kept } => {
                let is_repeatable = self.is_repeatable();
                Failed {
                    // Nothing is known of a backend that closed an unused connection.
                    release: if was_kept {
                        Outcome::Unknown.into()
                    } else {
                        failed
                    },
                    is_repeatable,
                    was_stale: was_kept && is_repeatable,
                    refusal: bad_gateway("backend_broke"),
                }
            }
            FaultKind::TimedOut => Failed {
                release: failed,
                is_repeatable: false,
                was_stale: false,
                refusal: Refusal::new(StatusCode::GATEWAY_TIMEOUT, "backend_timeout", text),
            },
        }
    }

    /// Whether the request may reach a backend twice.
    fn is_repeatable(&self) -> bool {
        !self.has_body && is_idempotent(&self.parts.method) && self.target.upgrade.is_none()
    }
}

fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

fn cut_body(lease: Lease<Backend>, cut: CutBody) -> Refusal {
    // The backend has seen a part of the request at most.
    let _ = lease.release(Outcome::Unknown);
    let status = match cut {
        CutBody::ByCaller => StatusCode::BAD_REQUEST,
        CutBody::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
    };
    Refusal::new(status, "bad_body", cut.to_string()).closing()
}
