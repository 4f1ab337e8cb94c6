//! Health checks: a request to each backend when the pool asks for one.
//!
//! Invariant: when a probe is made, and what follows from its answer, is the pool's decision.

use crate::admin::Told;
use crate::backend::Backend;
use crate::backend_pool::BackendPool;
use crate::clock::now;
use crate::operator_log::target;
use crate::shared::Shared;
use crate::upstream::{ConnectError, connect};
use core::num::NonZeroUsize;
use core::time::Duration;
use http::header::{CONNECTION, DATE, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use leasehold_config::{HealthCheck, Kind, PoolSettings};
use leasehold_sync::{HealthChange, MemberId, PoolEvent, ProbeResult};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::task::spawn_local;
use tokio::time::timeout;

/// Events that may wait; more than there are probes at once.
const EVENTS: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();
/// Bytes of a body that are looked at.
const MAX_BODY: usize = 64 * 1_024;

/// Answers the probes of a pool, and reports changes of its backends, as long as it is in force.
pub(crate) async fn watch(shared: Arc<Shared>, pool: Arc<BackendPool>) {
    let mut events = pool.pool().events(EVENTS);
    while let Some(event) = events.next().await {
        match event {
            PoolEvent::Probe { probe, payload, .. } => {
                let pool = Arc::clone(&pool);
                spawn_local(async move {
                    let result = check(&pool, &payload).await;
                    // A probe that is given up was counted as failed.
                    let _ = pool.pool().blocking().answer_probe(probe, result);
                });
            }
            PoolEvent::Changed { member, change } => {
                let sync = pool.pool().blocking();
                // A backend that was removed is not told of.
                if let Some(name) = sync.member_name(member) {
                    let told = Told::of_health(change, sync.now());
                    log_change(&pool, member, &name, change, told);
                    shared.events().tell(&pool, &name, told);
                }
            }
            PoolEvent::Drained { member } => {
                if let Some(name) = pool.pool().blocking().member_name(member) {
                    shared.events().tell(&pool, &name, Told::Drained);
                }
            }
            PoolEvent::Expired { .. } | PoolEvent::Removed { .. } | PoolEvent::Missed { .. } => {}
        }
    }
}

/// Tells the operator of a change, with the last failure of a backend that is left alone.
fn log_change(pool: &BackendPool, id: MemberId, member: &str, change: HealthChange, told: Told) {
    let pool_name = &*pool.settings().name;
    match change {
        HealthChange::Down | HealthChange::Ejected { .. } | HealthChange::BreakerOpen { .. } => {
            let why = reason(pool, id);
            tracing::warn!(target: target::HEALTH, pool = pool_name, member, "{told}{why}");
        }
        HealthChange::Up | HealthChange::BreakerHalfOpen | HealthChange::BreakerClosed => {
            tracing::info!(target: target::HEALTH, pool = pool_name, member, "{told}");
        }
    }
}

/// Why a backend is left alone, as the end of a line.
fn reason(pool: &BackendPool, member: MemberId) -> String {
    let members = pool.pool().blocking().members();
    let backend = members.into_iter().find(|(id, _)| *id == member);
    let failure = backend.and_then(|(_, backend)| backend.last_failure());
    failure.map(|why| format!(": {why}")).unwrap_or_default()
}

async fn check(pool: &BackendPool, backend: &Backend) -> ProbeResult {
    let Some(health) = &pool.settings().health else {
        return ProbeResult::Down;
    };
    let begun = now();
    let longest = health.probes.timeout();
    let answered = timeout(longest, look_at(pool.settings(), health, backend)).await;
    match answered.unwrap_or(Err(ProbeError::TimedOut(longest))) {
        Ok(looked) => ProbeResult::Up {
            depth: looked.depth,
            latency: Some(begun.elapsed()),
        },
        Err(error) => {
            backend.note_failure(&error);
            ProbeResult::Down
        }
    }
}

/// Why a health check fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("cannot connect: {0}")]
    Connect(#[from] ConnectError),
    #[error("the health check got no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the health check got no answer: {0}")]
    Broken(hyper::Error),
    #[error("the health check at {0} was answered with status {1}")]
    Status(PathAndQuery, StatusCode),
    #[error("the health check's answer could not be read: {0}")]
    Body(Box<dyn core::error::Error + Send + Sync>),
    #[error("the health check's answer lacks the text {0:?}")]
    Text(String),
}

/// The answer of a backend that is up.
#[derive(Debug)]
pub(crate) struct Looked {
    /// The jobs that it has, if it is one that has jobs.
    pub(crate) depth: Option<u32>,
    /// Its time of day.
    pub(crate) date: Option<SystemTime>,
}

/// Asks a backend whether it is up.
pub(crate) async fn look_at(
    pool: &PoolSettings,
    health: &HealthCheck,
    backend: &Backend,
) -> Result<Looked, ProbeError> {
    let has_jobs = pool.kind == Kind::Comfyui;
    let mut connection = connect(backend, pool.upstream.connect).await?;
    let mut request = Request::new(crate::proxy::CallerBody::none());
    *request.uri_mut() = match has_jobs {
        true => below(backend, &health.path),
        false => health.path.clone().into(),
    };
    let headers = request.headers_mut();
    headers.insert(HOST, backend.authority().clone());
    headers.insert(USER_AGENT, HeaderValue::from_static("leasehold"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let longest = health.probes.timeout();
    let sent = connection.send(request, longest).await;
    let response = sent.ok_or(ProbeError::TimedOut(longest))?;
    let response = response.map_err(|error| ProbeError::Broken(error.into_error()))?;
    connection.detach();
    let status = response.status();
    if !health.status.contains(&status.as_u16()) {
        return Err(ProbeError::Status(health.path.clone(), status));
    }
    let date = response.headers().get(DATE);
    let date = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    if health.body.is_none() && !has_jobs {
        return Ok(Looked { depth: None, date });
    }
    let body = Limited::<Incoming>::new(response.into_body(), MAX_BODY);
    let body = body.collect().await.map_err(ProbeError::Body)?.to_bytes();
    let lacks = |text: &&String| memchr::memmem::find(&body, text.as_bytes()).is_none();
    match health.body.as_ref().filter(lacks) {
        Some(text) => Err(ProbeError::Text(text.clone())),
        None => Ok(Looked {
            depth: remaining(&body).filter(|_| has_jobs),
            date,
        }),
    }
}

/// Returns a path below that of a backend's URL.
fn below(backend: &Backend, path: &PathAndQuery) -> Uri {
    let base = backend.url().path().trim_end_matches('/');
    // A path before another is one.
    format!("{base}{path}")
        .parse()
        .unwrap_or_else(|_| path.clone().into())
}

/// How many jobs a ComfyUI server says that it has.
fn remaining(body: &[u8]) -> Option<u32> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    answer["exec_info"]["queue_remaining"]
        .as_u64()?
        .try_into()
        .ok()
}
