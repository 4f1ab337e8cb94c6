//! A request on its way to a backend: leased, sent, and repeated where that is safe.
//!
//! Invariant: a request of which a part may have reached a backend is repeated only if it has no body and its method
//! is idempotent (RFC 9110, section 9.2.2); each failure is told to the pool before the next attempt.

use super::caller_body::{CallerBody, CutBody};
use super::caller_io::CallerState;
use super::head::Target;
use super::headers::{Caller, for_backend, remove_hop_by_hop};
use super::refusal::Refusal;
use crate::backend::Backend;
use crate::backend_pool::BackendPool;
use crate::operator_log::target;
use crate::record::Record;
use crate::shared::Shared;
use crate::trace::{Attempt, WaitSpan};
use crate::upstream::{IdleConnections, SendError, Sent, send};
use crate::waiting::{CANCELLED_TEXT, Waiter};
use core::mem;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::request::Parts;
use http::uri::Uri;
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use leasehold_core::limit::Cost;
use leasehold_sync::{AcquireError, Lease, MemberId, Outcome, Release};
use std::sync::Arc;

/// The code of a refusal of a request that an operator has cancelled.
const CANCELLED: &str = leasehold_protocol::Refusal::CANCELLED;

/// A request that is passed on.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) parts: &'a Parts,
    pub(crate) target: &'a Target,
    pub(crate) caller: Caller<'a>,
    pub(crate) pool: Arc<BackendPool>,
    pub(crate) shared: &'a Shared,
    pub(crate) interim: &'a Extensions,
    pub(crate) asked: leasehold_sync::Request,
    pub(crate) has_body: bool,
}

/// An answer's head, and the lease under which it was given.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) sent: Sent,
    pub(crate) lease: Lease<Backend>,
}

/// What follows from a failed attempt.
struct Failed {
    /// How the lease ends.
    release: Release,
    /// The body to send again; `None` if the request can't be repeated.
    again: Option<CallerBody>,
    /// Whether the connection had only been closed as unused, which is no failure of the backend.
    was_stale: bool,
    refusal: Refusal,
}

impl Outgoing<'_> {
    /// Passes the request on, again if need be, until it has an answer's head.
    pub(crate) async fn send(
        &mut self,
        idle: &IdleConnections,
        mut body: CallerBody,
        record: &mut Record,
    ) -> Result<Answered, Refusal> {
        let mut tried: Vec<MemberId> = Vec::new();
        self.pool.count_attempt();
        loop {
            record.attempts = record.attempts.saturating_add(1);
            let lease = self.lease(&tried, record).await?;
            record.waited = record.waited.saturating_add(lease.waited());
            record.backend = Some(lease.payload().clone());
            let progress = body.progress();
            let mut headers = for_backend(&self.parts.headers, &self.caller, &record.request_id);
            let attempt = Attempt {
                pool: &self.pool.settings().name,
                backend: &lease,
                method: &self.parts.method,
                path: self.target.path.path(),
                model: None,
            };
            record.begin_attempt(&attempt, &mut headers);
            let request = self.build(&lease, headers, body);
            let result = send(idle, &lease, &self.pool.settings().upstream, request).await;
            let error = match result {
                Ok(sent) => return Ok(Answered { sent, lease }),
                Err(error) => error,
            };
            tracing::debug!(
                target: target::EXCHANGE,
                pool = &*self.pool.settings().name,
                member = lease.name(),
                attempt = record.attempts,
                "the attempt has failed: {error}"
            );
            let failed = match progress.failed.get() {
                Some(cut) => return Err(cut_body(lease, cut)),
                None => self.judge(error, progress.has_begun.get(), &lease),
            };
            record.attempt_failed(failed.refusal.code, &failed.refusal.text);
            let member = lease.member();
            // A lease that has expired meanwhile was taken back already.
            let _ = lease.release(failed.release);
            let Some(again) = failed.again else {
                self.pool.count_unrepeated();
                return Err(failed.refusal);
            };
            if !failed.was_stale {
                if !self.pool.may_repeat(record.attempts) {
                    return Err(failed.refusal);
                }
                tried.push(member);
            }
            body = again;
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
            let asking = pool.acquire_with(asked);
            let waiting = self.shared.waiting();
            let Some(outcome) = waiting.outcome(asking, || self.waiter(record)).await else {
                wait.refused(CANCELLED);
                let status = StatusCode::SERVICE_UNAVAILABLE;
                return Err(Refusal::new(status, CANCELLED, CANCELLED_TEXT));
            };
            match outcome {
                Ok(lease) => break lease,
                Err(AcquireError::Closed) => self.follow_reload().await?,
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

    fn build(
        &self,
        backend: &Backend,
        mut headers: HeaderMap,
        body: CallerBody,
    ) -> Request<CallerBody> {
        // A host that was asked for is passed on.
        if self.target.host.is_none() {
            headers.insert(HOST, backend.authority().clone());
        }
        if let Some(protocol) = &self.target.upgrade {
            headers.insert(UPGRADE, protocol.clone());
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        let mut request = Request::new(body);
        if self.parts.version == Version::HTTP_11 {
            *request.extensions_mut() = self.interim.clone();
        }
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = Uri::from(self.target.path.clone());
        *request.headers_mut() = headers;
        request
    }

    fn judge(&self, error: SendError, has_begun: bool, backend: &Backend) -> Failed {
        backend.note_failure(&error);
        let text = format!("backend {}: {error}", backend.name());
        let failed = Release::from(Outcome::Failed);
        let bad_gateway = |code| Refusal::new(StatusCode::BAD_GATEWAY, code, text.clone());
        match error {
            SendError::Connect { request, .. } => Failed {
                release: failed.cost(Cost::default()),
                again: (!has_begun).then(|| request.into_body()),
                was_stale: false,
                refusal: bad_gateway("no_connection"),
            },
            SendError::Broken { was_kept, .. } => {
                let is_repeatable = self.is_repeatable();
                Failed {
                    // Nothing is known of a backend that closed an unused connection.
                    release: if was_kept {
                        Outcome::Unknown.into()
                    } else {
                        failed
                    },
                    again: is_repeatable.then(CallerBody::none),
                    was_stale: was_kept && is_repeatable,
                    refusal: bad_gateway("backend_broke"),
                }
            }
            SendError::TimedOut(_) => Failed {
                release: failed,
                again: None,
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

/// Makes the extensions of requests whose interim answers are passed on to this caller.
pub(crate) fn passing_interim(state: &Arc<CallerState>) -> Extensions {
    let mut request = Request::new(());
    let state = Arc::clone(state);
    hyper::ext::on_informational(&mut request, move |interim| {
        pass_interim(&state, interim.status(), interim.headers());
    });
    mem::take(request.extensions_mut())
}

/// Passes interim answers on; 100 was the gateway's to give, and 101 is a final one.
fn pass_interim(state: &CallerState, status: StatusCode, headers: &HeaderMap) {
    if status.as_u16() > 101 {
        let mut headers = headers.clone();
        remove_hop_by_hop(&mut headers);
        state.pass_interim(status, &headers);
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
