//! Health checks: a request to each backend when the pool asks for one.
//!
//! Invariant: when a probe is made, and what follows from its answer, is the pool's decision.

use crate::admin::Told;
use crate::backend::Backend;
use crate::backend_pool::BackendPool;
use crate::clock::now;
use crate::shared::Shared;
use crate::upstream::connect;
use core::num::NonZeroUsize;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use leasehold_config::HealthCheck;
use leasehold_sync::{PoolEvent, ProbeResult};
use std::sync::Arc;
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
                    shared.report(format_args!(
                        "pool {}: {name}: {told}",
                        pool.settings().name
                    ));
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

async fn check(pool: &BackendPool, backend: &Backend) -> ProbeResult {
    let Some(health) = &pool.settings().health else {
        return ProbeResult::Down;
    };
    let begun = now();
    let longest = health.probes.timeout();
    match timeout(longest, is_healthy(pool, health, backend)).await {
        Ok(Some(true)) => ProbeResult::Up {
            depth: None,
            latency: Some(begun.elapsed()),
        },
        Ok(_) | Err(_) => ProbeResult::Down,
    }
}

/// Whether a backend answers as it should; `None` if it does not answer.
async fn is_healthy(pool: &BackendPool, health: &HealthCheck, backend: &Backend) -> Option<bool> {
    let mut connection = connect(backend, pool.settings().upstream.connect)
        .await
        .ok()?;
    let mut request = Request::new(crate::proxy::CallerBody::none());
    *request.uri_mut() = health.path.clone().into();
    let headers = request.headers_mut();
    headers.insert(HOST, backend.authority().clone());
    headers.insert(USER_AGENT, HeaderValue::from_static("leasehold"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let sent = connection.send(request, health.probes.timeout());
    let response = sent.await?.ok()?;
    connection.detach();
    let status = response.status().as_u16();
    let Some(text) = &health.body else {
        return Some(health.status.contains(&status));
    };
    let body = Limited::<Incoming>::new(response.into_body(), MAX_BODY)
        .collect()
        .await
        .ok()?
        .to_bytes();
    let has_text = memchr::memmem::find(&body, text.as_bytes()).is_some();
    Some(has_text && health.status.contains(&status))
}
