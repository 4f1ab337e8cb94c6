//! A call's attempts: each leases a key, sends the call and hears what the answer means, until there is one to pass on.
//!
//! Invariant: nothing of an attempt that is followed by another has reached the caller, and each lease ends once.

use super::call::{Call, Leg};
use super::relayed::RelayedBody;
use super::reply;
use super::route::PoolTarget;
use super::settle::{Settle, since_1970};
use super::span;
use crate::backend::Backend;
use crate::clock::now;
use crate::operator_log::target;
use crate::proxy::{AnswerBody, BackendBody, CallerBody};
use crate::record::Record;
use crate::state::StateError;
use crate::trace::{Parent, WaitSpan};
use crate::upstream::{ConnectError, SendError, Sent, send};
use crate::waiting::{Waiter, cancelled};
use crate::worker::Worker;
use bytes::Bytes;
use core::time::Duration;
use http::header::{CONTENT_LENGTH, HOST};
use http::response::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use leasehold_protocol::verdict::{
    Answer, Context, Failure, Next, Tally, Verdict, judge, read, verdict_of_failure,
};
use leasehold_protocol::{ApiKey, Asked, Refusal, is_event_stream, made_ids};
use leasehold_sync::{AcquireError, Lease, MemberId, Outcome};
use leasehold_tokio::LeasedBody;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use tokio::time::Instant;

/// Bytes of an answer that is read whole, at most.
const MAX_WHOLE: usize = 32 * 1_024 * 1_024;

/// What the gateway did for a call, as its caller is told.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// The end of the key's text.
    pub(super) key: HeaderValue,
    pub(super) pool: HeaderValue,
    pub(super) attempts: u32,
    /// The time in the pool's queue.
    pub(super) waited: Duration,
    /// The gateway's own time, without that in the queue and that of the services.
    pub(super) overhead: Duration,
}

/// The attempts of a call.
pub(super) struct Attempts {
    call: Box<Call>,
    /// Where it may go.
    targets: Vec<PoolTarget>,
    worker: Rc<Worker>,
    request_id: HeaderValue,
    /// The span above those of its attempts, if spans are exported.
    parent: Option<Parent>,
    started: Instant,
    waited: Duration,
    /// The time that services had for their answers.
    served: Duration,
    attempts: u32,
    /// Attempts of which there is a number.
    counted: u32,
    tried: Vec<MemberId>,
    /// Whether a stream is heard out when the caller has left.
    drains: bool,
}

/// A call that was served.
pub(super) struct Served {
    parts: Parts,
    body: AnswerBody,
    told: Told,
    request_id: HeaderValue,
    backend: Arc<Backend>,
}

/// Where an answer came from, for the log.
#[derive(Debug)]
pub(crate) struct Origin {
    backend: Arc<Backend>,
    attempts: u32,
    waited: Duration,
}

impl Origin {
    pub(crate) fn note(self, record: &mut Record) {
        record.attempts = self.attempts;
        record.waited = self.waited;
        record.backend = Some(self.backend);
        record.first_byte = Some(record.started.elapsed());
    }
}

/// What came of one attempt.
enum Attempted {
    /// An answer for the caller.
    Passed(Box<(Parts, AnswerBody)>),
    /// A failure, with the service's own answer if there is one.
    Failed(Box<Verdict>, Option<(Parts, Bytes)>),
}

/// What came of a call in one pool.
enum Ended {
    /// An answer for the caller; whether it is a failure that another pool may not share.
    Served(Box<Served>, bool),
    /// No answer; whether another pool may have one.
    Refused(Refusal, bool),
}

impl Served {
    /// Returns the answer, and notes it in the record.
    pub(super) fn into_response(self, record: &mut Record) -> Response<AnswerBody> {
        self.origin().note(record);
        self.into_bare_response()
    }

    pub(super) fn into_bare_response(self) -> Response<AnswerBody> {
        reply::passed(self.parts, self.body, &self.told, &self.request_id)
    }

    /// What the log has of the answer.
    pub(super) fn origin(&self) -> Origin {
        Origin {
            backend: Arc::clone(&self.backend),
            attempts: self.told.attempts,
            waited: self.told.waited,
        }
    }
}

impl Attempts {
    pub(super) fn new(
        call: Box<Call>,
        targets: Vec<PoolTarget>,
        worker: Rc<Worker>,
        record: &Record,
    ) -> Self {
        Self {
            call,
            targets,
            worker,
            request_id: record.request_id.clone(),
            parent: record.parent().cloned(),
            started: record.started,
            waited: Duration::ZERO,
            served: Duration::ZERO,
            attempts: 0,
            counted: 0,
            tried: Vec::new(),
            drains: false,
        }
    }

    /// Hears streams out when the caller has left.
    pub(super) fn drained(mut self) -> Self {
        self.drains = true;
        self
    }

    pub(super) fn call(&self) -> &Asked {
        &self.call.asked
    }

    /// Asks one pool after the other, until one has an answer or none can have.
    pub(super) async fn run(mut self) -> Result<Served, Refusal> {
        let mut targets = core::mem::take(&mut self.targets).into_iter();
        let mut target = targets.next();
        loop {
            let ended = match target {
                Some(target) => self.ask(target).await,
                // A route has at least one pool.
                None => Ended::Refused(no_pool(), false),
            };
            target = targets.next();
            let is_last = target.is_none() || !self.call.is_repeatable();
            match ended {
                Ended::Served(served, is_failure) if is_last || !is_failure => return Ok(*served),
                Ended::Refused(refusal, may_go_on) if is_last || !may_go_on => return Err(refusal),
                Ended::Served(..) | Ended::Refused(..) => {}
            }
        }
    }

    /// Makes attempts with the members of one pool, until one is answered or none can be.
    async fn ask(&mut self, target: PoolTarget) -> Ended {
        let mut leg = match self.leg(target) {
            Ok(leg) => leg,
            Err(refusal) => return Ended::Refused(refusal, true),
        };
        leg.target.pool.count_attempt();
        self.counted = 0;
        self.tried.clear();
        let mut last: Option<Box<Verdict>> = None;
        loop {
            let lease = match self.lease(&mut leg, last.as_deref()).await {
                Ok(lease) => lease,
                Err(refusal) => {
                    let may_go_on = refusal.code != Refusal::CANCELLED;
                    return Ended::Refused(refusal, may_go_on);
                }
            };
            self.attempts = self.attempts.saturating_add(1);
            self.waited = self.waited.saturating_add(lease.waited());
            let (backend, member) = (Arc::clone(lease.payload()), lease.member());
            let begun = now();
            let attempted = match self.attempt(&leg, lease).await {
                Ok(attempted) => attempted,
                Err(refusal) => return Ended::Refused(refusal, false),
            };
            self.served = self.served.saturating_add(begun.elapsed());
            let (verdict, answer) = match attempted {
                Attempted::Passed(answer) => {
                    let (parts, body) = *answer;
                    return Ended::Served(Box::new(self.served(&leg, parts, body, backend)), false);
                }
                Attempted::Failed(verdict, answer) => (verdict, answer),
            };
            tracing::debug!(
                target: target::EXCHANGE,
                pool = &*leg.target.pool.settings().name,
                member = backend.name(),
                attempt = self.attempts,
                "the attempt has failed: {verdict}"
            );
            self.tried.push(member);
            if self.may_go_on(&leg, &verdict, answer.is_some()) {
                last = Some(verdict);
                continue;
            }
            // What the caller has asked wrongly, it would ask any other pool as wrongly.
            let is_of_pool = matches!(
                verdict.next,
                Next::RetryAfter { .. } | Next::OtherMember { .. }
            );
            return match answer {
                Some((parts, body)) => {
                    let served = self.served(&leg, parts, AnswerBody::text(body), backend);
                    Ended::Served(Box::new(served), is_of_pool)
                }
                None => Ended::Refused(refusal_of(&verdict), true),
            };
        }
    }

    /// Makes the call as a pool gets it, by the table of now.
    fn leg(&self, target: PoolTarget) -> Result<Leg, Refusal> {
        let table = self.worker.shared().table();
        self.call.leg(target, table.callers())
    }

    fn served(&self, leg: &Leg, parts: Parts, body: AnswerBody, backend: Arc<Backend>) -> Served {
        let elsewhere = self.waited.saturating_add(self.served);
        let key = backend.service().map(|service| service.key_end.clone());
        let told = Told {
            key: key.unwrap_or(HeaderValue::from_static("")),
            pool: leg.target.pool.shown_name().clone(),
            attempts: self.attempts,
            waited: self.waited,
            overhead: self.started.elapsed().saturating_sub(elsewhere),
        };
        Served {
            parts,
            body,
            told,
            request_id: self.request_id.clone(),
            backend,
        }
    }

    /// Whether a failed attempt is followed by another.
    fn may_go_on(&mut self, leg: &Leg, verdict: &Verdict, has_answer: bool) -> bool {
        if !self.call.is_repeatable() {
            return false;
        }
        let tally = match verdict.next {
            Next::Done | Next::GiveUp => return false,
            // The service's own word on a wrong model or path is the caller's to read.
            Next::Stop if has_answer => return false,
            Next::Stop => Tally::Attempt,
            Next::RetryAfter { tally, .. } | Next::OtherMember { tally } => tally,
        };
        match tally {
            // As long as there is time, which the pool's queue knows.
            Tally::Free => true,
            Tally::Attempt | Tally::AttemptUnlessOutage => {
                self.counted = self.counted.saturating_add(1);
                leg.target.pool.may_repeat(self.counted)
            }
        }
    }

    /// Waits for a key; after failures for one that has not failed, if there is one.
    async fn lease(
        &self,
        leg: &mut Leg,
        last: Option<&Verdict>,
    ) -> Result<Lease<Backend>, Refusal> {
        let wait = WaitSpan::begin(self.parent.as_ref(), &leg.target.pool.settings().name);
        let lease = loop {
            let pool = leg.target.pool.pool();
            let mut asked = leg.request;
            if !self.tried.is_empty() && leg.target.only.is_none() {
                let other = pool.blocking().alternative(&asked, &self.tried);
                asked = other.map_or(asked, |member| asked.pin(member));
            }
            let ask = || pool.acquire_with(asked);
            let waiting = self.worker.shared().waiting();
            let Some(outcome) = waiting.outcome(ask, || self.waiter(&leg.target)).await else {
                wait.refused(Refusal::CANCELLED);
                return Err(cancelled());
            };
            match outcome {
                Ok(lease) => break lease,
                Err(AcquireError::Closed) => *leg = self.follow_reload(leg).await?,
                Err(refused) => {
                    let refusal = self.no_key(leg, refused, last);
                    wait.refused(refusal.code);
                    return Err(refusal);
                }
            }
        };
        wait.granted(lease.name());
        let written = leg.target.pool.write_charges();
        if let Err(error) = written.and_then(|()| self.write_spent()) {
            // A lease that has expired meanwhile was taken back already.
            let _ = lease.release(Outcome::NotSent);
            let text = error.to_string();
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no_state",
                text,
            ));
        }
        Ok(lease)
    }

    /// The call in words, for an operator.
    fn waiter(&self, target: &PoolTarget) -> Waiter {
        let path = self.call.path.split('?').next().unwrap_or_default();
        let caller = self.call.identity.caller.as_deref();
        Waiter {
            pool: target.pool.settings().name.clone(),
            request: format!("{} {path}", self.call.method),
            client: self.call.client.map(|client| client.to_string()),
            caller: caller.map(|caller| caller.settings.name.clone()),
        }
    }

    /// Makes the call as the pool gets it that a reload puts in the place of one that it has closed.
    async fn follow_reload(&self, leg: &Leg) -> Result<Leg, Refusal> {
        let next = self.worker.shared().successor(&leg.target.pool).await;
        let pool = next.ok_or_else(|| {
            let text = "the pool was taken away by a reload";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no_key", text)
        })?;
        self.leg(PoolTarget {
            pool,
            ..leg.target.clone()
        })
    }

    /// Writes what the caller's budget has left, before more of it is spent.
    fn write_spent(&self) -> Result<(), StateError> {
        let (identity, state) = (&self.call.identity, self.worker.shared().state());
        match (&identity.caller, state, identity.account.spent()) {
            (Some(caller), Some(state), Some(spent)) => {
                state.write_spent(&caller.settings.name, spent)
            }
            (_, _, _) => Ok(()),
        }
    }

    /// Says why there is no key, and when there may be one.
    fn no_key(&self, leg: &Leg, refused: AcquireError, last: Option<&Verdict>) -> Refusal {
        let mut refusal = leg.target.pool.refusal(&refused, &leg.request);
        if let Some(verdict) = last {
            refusal.message = format!("{}; the last attempt failed: {verdict}", refusal.message);
        }
        refusal
    }

    /// Sends the call under a lease, and hears the answer.
    async fn attempt(&mut self, leg: &Leg, lease: Lease<Backend>) -> Result<Attempted, Refusal> {
        let (pool, backend) = (&leg.target.pool, Arc::clone(lease.payload()));
        let bounds = pool.settings().upstream;
        let Some((mut request, progress)) = self.build(leg, &backend) else {
            let _ = lease.release(Outcome::NotSent);
            let text = "the path and the service's URL make no URL";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "bad_path", text));
        };
        let span = self.parent.as_ref().and_then(|parent| {
            let call = (&*self.call, leg);
            span::begin(parent, call, &backend, self.attempts, &mut request)
        });
        let settle = Settle {
            span: Mutex::new(span),
            pool: Arc::clone(pool),
            backend,
            member: lease.member(),
            reserved: leg.cost,
            attempt: Mutex::new(self.call.count_attempt(leg)),
        };
        let sent = match send(Some(self.worker.idle()), &settle.backend, &bounds, request).await {
            Ok(sent) => sent,
            Err(error) => {
                if let Some(cut) = progress.failed.get() {
                    let _ = lease.release(Outcome::Unknown);
                    let text = cut.to_string();
                    return Err(Refusal::new(StatusCode::BAD_REQUEST, "bad_body", text));
                }
                settle.backend.note_failure(&error);
                let verdict = self.verdict_of(&error, &settle.backend);
                let _ = lease.release(settle.release(&verdict));
                return Ok(Attempted::Failed(Box::new(verdict), None));
            }
        };
        // A window that counts from the answer's head counts from now on.
        let _ = lease.arrived();
        let Sent {
            response,
            connection,
        } = sent;
        let (parts, body) = response.into_parts();
        settle.observe(&parts);
        let body = BackendBody::new(
            body,
            connection,
            &settle.backend,
            bounds,
            Rc::clone(&self.worker),
        );
        if is_event_stream(&parts.headers) && parts.status.is_success() {
            return Ok(self.relay(parts, body, lease, settle).await);
        }
        let is_text = reply::is_text(&parts.headers);
        if parts.status.is_success() && !is_text {
            // Its usage is not known, and stays booked.
            let body = LeasedBody::new(body, lease, Outcome::Ok);
            return Ok(Attempted::Passed(Box::new((
                parts,
                AnswerBody::of_backend(body),
            ))));
        }
        Ok(self.hear(parts, body, lease, &settle).await)
    }

    /// Passes a stream on, once its first event has come.
    async fn relay(
        &self,
        mut parts: Parts,
        body: BackendBody,
        lease: Lease<Backend>,
        settle: Settle,
    ) -> Attempted {
        let asked = &self.call.asked;
        let key = key_of(&settle.backend).cloned();
        let head = (parts.status, parts.headers.clone());
        let mut body = RelayedBody::new(body, head, asked.call, asked.shows_usage, key);
        if let Err(verdict) = body.begin().await {
            drop(body);
            let _ = lease.release(settle.release(&verdict));
            return Attempted::Failed(verdict, None);
        }
        if self.call.asked.is_kept {
            self.note_made(&settle, body.made_ids());
        }
        parts.headers.remove(CONTENT_LENGTH);
        let body = LeasedBody::classified(body, lease, Outcome::Ok, settle);
        let drains = self.drains.then(|| Rc::clone(&self.worker));
        Attempted::Passed(Box::new((parts, AnswerBody::relayed(body, drains))))
    }

    /// Notes what the service keeps for this key.
    fn note_made(&self, settle: &Settle, ids: &[String]) {
        if !ids.is_empty() {
            let shared = self.worker.shared();
            let resources = shared.resources();
            // What is only looked at may be older than the gateway, and another caller's.
            let maker = self.call.identity.caller.as_deref();
            let maker = maker.filter(|_| self.call.method == Method::POST);
            let member = (&*settle.pool, settle.backend.name());
            resources.note(shared, member, maker, ids);
        }
    }

    /// Reads an answer whole, and judges it.
    async fn hear(
        &self,
        parts: Parts,
        mut body: BackendBody,
        lease: Lease<Backend>,
        settle: &Settle,
    ) -> Attempted {
        let context = self.context(&settle.backend);
        let mut bytes = Vec::new();
        let mut failure = None;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Err(cut) => {
                    failure = Some((Failure::AnswerCut, cut.to_string()));
                    break;
                }
            }
            if bytes.len() > MAX_WHOLE {
                let text = format!("it has more than {MAX_WHOLE} bytes");
                failure = Some((Failure::AnswerTooLong, text));
                break;
            }
        }
        drop(body);
        if let Some((failure, text)) = failure {
            let verdict = verdict_of_failure(failure, &text, &context);
            let _ = lease.release(settle.release(&verdict));
            return Attempted::Failed(Box::new(verdict), None);
        }
        let answer = Answer {
            status: parts.status,
            headers: &parts.headers,
            body: Some(&bytes),
        };
        let verdict = if self.call.asked.is_kept {
            let (verdict, completion) = read(&answer, since_1970(), &context);
            if let Some(completion) = completion {
                self.note_made(settle, &made_ids(&completion.raw));
            }
            verdict
        } else {
            judge(&answer, since_1970(), &context)
        };
        let _ = lease.release(settle.release(&verdict));
        // An answer that was paid for is the caller's, whatever is in it.
        if parts.status.is_success() && verdict.error.is_none() {
            return Attempted::Passed(Box::new((parts, AnswerBody::text(bytes))));
        }
        Attempted::Failed(Box::new(verdict), Some((parts, bytes.into())))
    }

    /// Makes the request to a service, with its key.
    fn build(
        &mut self,
        leg: &Leg,
        backend: &Backend,
    ) -> Option<(Request<CallerBody>, Rc<crate::proxy::Progress>)> {
        let service = backend.service()?;
        let url = service.endpoint.url_of(&self.call.path, &leg.target.model);
        let url: Uri = url.parse().ok()?;
        let body = match &leg.body {
            Some(bytes) => CallerBody::whole(bytes.clone()),
            None => self.call.take_streamed()?,
        };
        let progress = body.progress();
        let mut request = Request::new(body);
        *request.method_mut() = self.call.method.clone();
        *request.uri_mut() = url.path_and_query()?.clone().into();
        let headers = request.headers_mut();
        *headers = self.call.headers.clone();
        headers.insert(HOST, backend.authority().clone());
        if service.has_key {
            for (name, value) in service.endpoint.auth_headers(url.path()) {
                if let Some(name) = name {
                    // The caller's version of the interface stays.
                    headers.entry(name).or_insert(value);
                }
            }
        }
        Some((request, progress))
    }

    fn context<'b>(&self, backend: &'b Backend) -> Context<'b> {
        Context {
            call: self.call.asked.call,
            key: key_of(backend),
        }
    }

    fn verdict_of(&self, error: &SendError, backend: &Backend) -> Verdict {
        let failure = match error {
            SendError::Connect { error, .. } => match error {
                ConnectError::NoAddress { .. } => Failure::HostNotFound,
                ConnectError::Tls(_) | ConnectError::NoTls(_) => Failure::TlsFailed,
                ConnectError::Io(_) | ConnectError::TimedOut(_) => Failure::NotConnected,
            },
            SendError::Broken { error, .. } if error.is_parse() => Failure::NotHttp,
            SendError::Broken { .. } => Failure::ConnectionLost,
            SendError::TimedOut(_) => Failure::TimedOut,
        };
        verdict_of_failure(failure, &error.to_string(), &self.context(backend))
    }
}

fn key_of(backend: &Backend) -> Option<&ApiKey> {
    backend.service().map(|service| service.endpoint.key())
}

fn no_pool() -> Refusal {
    let text = "no pool of this gateway serves this call";
    Refusal::new(StatusCode::NOT_FOUND, "model_not_found", text)
}

/// Refuses a call that no attempt has an answer of.
fn refusal_of(verdict: &Verdict) -> Refusal {
    let status = verdict.status.filter(|status| !status.is_success());
    let status = status.unwrap_or(StatusCode::BAD_GATEWAY);
    Refusal::new(status, "upstream_error", verdict.to_string()).with_wait(verdict.asked_wait)
}
