//! The handling of a request: route, key, ruling, latency, fault.
//!
//! Invariant: each admitted call holds an [`InFlight`], so that its end is counted exactly once.

use super::config::{Fault, FaultKind, OpenAiConfig};
use super::wire::{self, ApiError, ChatCall};
use crate::clock::{Clock, unix_seconds};
use crate::judge::{CallEnd, Judge, JudgeConfig, KeyId, Ruling};
use crate::report::Report;
use crate::server::{HttpResponse, drain, read_body};
use alloc::sync::Arc;
use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderMap};
use hyper::{Method, Request};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::sleep;

const MAX_LATENCIES: usize = 100_000;

#[derive(Debug)]
pub(super) struct Upstream {
    models: Vec<String>,
    latency: RangeInclusive<u64>,
    fault: Option<Fault>,
    clock: Clock,
    started: u64,
    /// Random id of this run, so that request ids are unique over several runs.
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
    /// Creates an upstream that reports `connections` as the connections opened.
    pub(super) fn new(config: OpenAiConfig, connections: Arc<AtomicU64>) -> Self {
        let judge = JudgeConfig {
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
                judge: Judge::new(judge, config.keys),
                rng: fastrand::Rng::with_seed(config.seed),
                until_fault: config.fault.map_or(0, |fault| fault.every.get()),
                latencies: Vec::new(),
            }),
        }
    }

    pub(super) fn report(&self) -> Report {
        let state = self.state();
        let connections = self.connections.load(Ordering::Relaxed);
        state.judge.report(connections, state.latencies.clone())
    }

    /// Locks the state, and ignores poison: counts that are off by one call are better than none.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws the latency of the next valid call, and whether it fails afterwards.
    fn draw_latency_and_fault(&self) -> (Duration, Option<FaultKind>) {
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

    fn check_model(&self, call: ChatCall) -> Result<ChatCall, ApiError> {
        if self.models.is_empty() || self.models.contains(&call.model) {
            Ok(call)
        } else {
            Err(ApiError::unknown_model(&call.model))
        }
    }

    fn models(&self, headers: &HeaderMap) -> HttpResponse {
        let key = bearer(headers);
        if key.is_some_and(|key| self.state().judge.knows(key)) {
            wire::models(&self.models, self.started)
        } else {
            ApiError::unauthorized(key).response()
        }
    }
}

/// Closes the connection without a response, because of a fault.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("connection closed on purpose")]
pub(super) struct CloseConnection;

pub(super) async fn respond(
    upstream: Arc<Upstream>,
    request: Request<Incoming>,
) -> Result<HttpResponse, CloseConnection> {
    let arrived = upstream.clock.nanos();
    let number = upstream.requests.fetch_add(1, Ordering::Relaxed);
    let id = format!("{:016x}{number:08x}", upstream.run);
    let mut response = route(&upstream, request, arrived, &id).await?;
    wire::set(&mut response, "x-request-id", format_args!("req_{id}"));
    Ok(response)
}

async fn route(
    upstream: &Upstream,
    request: Request<Incoming>,
    arrived: u64,
    id: &str,
) -> Result<HttpResponse, CloseConnection> {
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
        _ => ApiError::unknown_url(method, path).response(),
    })
}

async fn chat(
    upstream: &Upstream,
    headers: &HeaderMap,
    body: Incoming,
    arrived: u64,
    id: &str,
) -> Result<HttpResponse, CloseConnection> {
    let token = bearer(headers);
    let Some(key) = token.and_then(|token| upstream.state().judge.identify(token)) else {
        drain(body).await;
        return Ok(ApiError::unauthorized(token).response());
    };
    let (ruling, usage) = upstream.state().judge.arrive(key, arrived);
    let mut response = match ruling {
        Ruling::Admitted => serve(InFlight::new(upstream, key), body, id).await?,
        Ruling::OverLimit(wait) => wire::over_limit(read_body(body).await.ok(), usage, wait),
        Ruling::Busy => {
            drain(body).await;
            ApiError::overloaded().response()
        }
    };
    if let Some(usage) = usage {
        wire::set_rate_headers(&mut response, usage);
    }
    let spent = Duration::from_nanos(upstream.clock.nanos().saturating_sub(arrived));
    wire::set(&mut response, "openai-processing-ms", spent.as_millis());
    Ok(response)
}

async fn serve(
    in_flight: InFlight<'_>,
    body: Incoming,
    id: &str,
) -> Result<HttpResponse, CloseConnection> {
    let upstream = in_flight.upstream;
    let call = read_body(body)
        .await
        .map_err(ApiError::from)
        .and_then(|body| ChatCall::parse(&body))
        .and_then(|call| upstream.check_model(call));
    let call = match call {
        Ok(call) => call,
        Err(error) => {
            in_flight.end(CallEnd::Invalid);
            return Ok(error.response());
        }
    };
    let (latency, fault) = upstream.draw_latency_and_fault();
    if !latency.is_zero() {
        sleep(latency).await;
    }
    in_flight.end(match fault {
        None => CallEnd::Ok,
        Some(_) => CallEnd::Fault,
    });
    match fault {
        None => Ok(call.response(id, unix_seconds())),
        Some(FaultKind::Status(status)) => Ok(ApiError::fault(status).response()),
        Some(FaultKind::Garbage) => Ok(wire::garbage()),
        Some(FaultKind::Close) => Err(CloseConnection),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// An admitted call. Dropped without [`end`](Self::end) it counts as abandoned.
struct InFlight<'a> {
    upstream: &'a Upstream,
    key: KeyId,
    end: CallEnd,
}

impl<'a> InFlight<'a> {
    const fn new(upstream: &'a Upstream, key: KeyId) -> Self {
        Self {
            upstream,
            key,
            end: CallEnd::Abandoned,
        }
    }

    fn end(mut self, end: CallEnd) {
        self.end = end;
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.upstream.state().judge.finish(self.key, self.end);
    }
}
