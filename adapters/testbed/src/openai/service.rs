//! What becomes of a request: its route, its key, its judgement, its latency and its fault.
//!
//! Invariant: each admitted call holds an [`InFlight`], so that it is counted once when it ends,
//! however it ends.

use super::wire::{self, ApiError, Question};
use super::{Fault, FaultKind, OpenAiConfig};
use crate::clock::{Clock, unix_seconds};
use crate::judge::{Judge, KeyId, Outcome, Rules, Verdict};
use crate::report::Report;
use crate::server::{Answer, drain, read_body};
use alloc::sync::Arc;
use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderMap};
use hyper::{Method, Request};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::sleep;

/// How many latencies are remembered for the report.
const MAX_LATENCIES: usize = 100_000;

/// What all requests share.
#[derive(Debug)]
pub(super) struct Upstream {
    models: Vec<String>,
    latency: RangeInclusive<u64>,
    fault: Option<Fault>,
    clock: Clock,
    started: u64,
    /// Told apart from other runs by this, so that request ids are unique across them.
    run: u64,
    requests: AtomicU64,
    connections: Arc<AtomicU64>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    judge: Judge,
    rng: fastrand::Rng,
    until_fault: u32,
    latencies: Vec<Duration>,
}

impl Upstream {
    /// An upstream that has seen nothing, and reports `connections` as those opened.
    pub(super) fn new(config: OpenAiConfig, connections: Arc<AtomicU64>) -> Self {
        let rules = Rules {
            limit: config.limit,
            window: config.window,
            max_concurrent: config.max_concurrent,
        };
        let nanos = |span: &Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self {
            models: config.models,
            latency: nanos(config.latency.start())..=nanos(config.latency.end()),
            fault: config.fault,
            clock: Clock::start(),
            started: unix_seconds(),
            run: fastrand::u64(..),
            requests: AtomicU64::new(0),
            connections,
            state: Mutex::new(State {
                judge: Judge::new(rules, config.keys),
                rng: fastrand::Rng::with_seed(config.seed),
                until_fault: config.fault.map_or(0, |fault| fault.every.get()),
                latencies: Vec::new(),
            }),
        }
    }

    /// What was seen so far.
    pub(super) fn report(&self) -> Report {
        let state = self.state();
        let connections = self.connections.load(Ordering::Relaxed);
        state.judge.report(connections, state.latencies.clone())
    }

    /// The state; after a panic elsewhere, as that left it: figures that are off by one call are better
    /// than none.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws how long the next valid call takes, and whether it then fails.
    fn plan(&self) -> (Duration, Option<FaultKind>) {
        let state = &mut *self.state();
        let latency = Duration::from_nanos(state.rng.u64(self.latency.clone()));
        if state.latencies.len() < MAX_LATENCIES {
            state.latencies.push(latency);
        }
        let fault = self.fault.and_then(|fault| {
            state.until_fault -= 1;
            (state.until_fault == 0).then(|| {
                state.until_fault = fault.every.get();
                fault.kind
            })
        });
        (latency, fault)
    }

    /// Hands the question on where its model is one of this upstream's.
    fn check_model(&self, question: Question) -> Result<Question, ApiError> {
        if self.models.is_empty() || self.models.contains(&question.model) {
            Ok(question)
        } else {
            Err(ApiError::unknown_model(&question.model))
        }
    }

    fn models(&self, headers: &HeaderMap) -> Answer {
        let key = bearer(headers);
        if key.is_some_and(|key| self.state().judge.knows(key)) {
            wire::models(&self.models, self.started)
        } else {
            ApiError::unauthorized(key).answer()
        }
    }
}

/// Why a connection ends without an answer.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("hung up on purpose")]
pub(super) struct HungUp;

/// Answers one request, or asks for its connection to be closed.
pub(super) async fn answer(
    upstream: Arc<Upstream>,
    request: Request<Incoming>,
) -> Result<Answer, HungUp> {
    let arrived = upstream.clock.nanos();
    let number = upstream.requests.fetch_add(1, Ordering::Relaxed);
    let id = format!("{:016x}{number:08x}", upstream.run);
    let mut answer = route(&upstream, request, arrived, &id).await?;
    wire::set(&mut answer, "x-request-id", format_args!("req_{id}"));
    Ok(answer)
}

async fn route(
    upstream: &Upstream,
    request: Request<Incoming>,
    arrived: u64,
    id: &str,
) -> Result<Answer, HungUp> {
    let (head, body) = request.into_parts();
    let (method, path) = (&head.method, head.uri.path());
    if (path, method) == ("/v1/chat/completions", &Method::POST) {
        return chat(upstream, &head.headers, body, arrived, id).await;
    }
    drain(body).await;
    Ok(match (path, method) {
        ("/v1/models", &Method::GET) => upstream.models(&head.headers),
        ("/testbed/report", &Method::GET) => wire::report(&upstream.report()),
        ("/v1/chat/completions", _) => wire::wrong_method(method, path, "POST"),
        ("/v1/models" | "/testbed/report", _) => wire::wrong_method(method, path, "GET"),
        _ => ApiError::unknown_url(method, path).answer(),
    })
}

async fn chat(
    upstream: &Upstream,
    headers: &HeaderMap,
    body: Incoming,
    arrived: u64,
    id: &str,
) -> Result<Answer, HungUp> {
    let token = bearer(headers);
    let Some(key) = token.and_then(|token| upstream.state().judge.identify(token)) else {
        drain(body).await;
        return Ok(ApiError::unauthorized(token).answer());
    };
    let (verdict, quota) = upstream.state().judge.arrive(key, arrived);
    let mut answer = match verdict {
        Verdict::Admitted => serve(InFlight::new(upstream, key), body, id).await?,
        Verdict::OverLimit(wait) => wire::over_limit(read_body(body).await.ok(), quota, wait),
        Verdict::Busy => {
            drain(body).await;
            ApiError::overloaded().answer()
        }
    };
    if let Some(quota) = quota {
        wire::set_quota(&mut answer, quota);
    }
    let spent = Duration::from_nanos(upstream.clock.nanos().saturating_sub(arrived));
    wire::set(&mut answer, "openai-processing-ms", spent.as_millis());
    Ok(answer)
}

async fn serve(call: InFlight<'_>, body: Incoming, id: &str) -> Result<Answer, HungUp> {
    let upstream = call.upstream;
    let question = read_body(body)
        .await
        .map_err(ApiError::from)
        .and_then(|body| Question::parse(&body))
        .and_then(|question| upstream.check_model(question));
    let question = match question {
        Ok(question) => question,
        Err(error) => {
            call.end(Outcome::Invalid);
            return Ok(error.answer());
        }
    };
    let (latency, fault) = upstream.plan();
    if !latency.is_zero() {
        sleep(latency).await;
    }
    call.end(match fault {
        None => Outcome::Ok,
        Some(_) => Outcome::Fault,
    });
    match fault {
        None => Ok(question.answer(id, unix_seconds())),
        Some(FaultKind::Status(status)) => Ok(ApiError::fault(status).answer()),
        Some(FaultKind::Garbage) => Ok(wire::garbage()),
        Some(FaultKind::Close) => Err(HungUp),
    }
}

/// The key of a request, if it has one.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// An admitted call, which ends as abandoned unless told otherwise.
struct InFlight<'a> {
    upstream: &'a Upstream,
    key: KeyId,
    outcome: Outcome,
}

impl<'a> InFlight<'a> {
    const fn new(upstream: &'a Upstream, key: KeyId) -> Self {
        Self {
            upstream,
            key,
            outcome: Outcome::Abandoned,
        }
    }

    fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.upstream.state().judge.finish(self.key, self.outcome);
    }
}
