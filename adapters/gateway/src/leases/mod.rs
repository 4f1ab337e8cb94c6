//! Leases over HTTP: workers in any language lease the members of the gateway's pools, and call them by themselves.
//!
//! ```text
//! request ── service (access) ── routes ┬─ acquire: request, wait, charge written, answer ── undelivered?
//!                                       ├─ held: arrived, renew, release
//!                                       ├─ batch: several of both
//!                                       └─ pools, openapi
//! ```
//! Invariant: a lease is in the state file before its holder knows of it, and one whose answer can't be delivered is given
//! back.

mod acquire;
mod batch;
mod calls;
mod held;
mod openapi;
mod pools;
mod routes;
mod undelivered;

pub use calls::{LeaseAnswer, LeaseCalls};
pub(crate) use undelivered::Undelivered;

use crate::backend_pool::BackendPool;
use crate::drain::Drain;
use crate::proxy::{AnswerBody, X_REQUEST_ID};
use crate::record::Record;
use crate::service::{self, Asked, Identity};
use crate::shared::{Shared, Table};
use crate::trace::Parent;
use bytes::Bytes;
use core::time::Duration;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Incoming;
use leasehold_protocol::Refusal;
use leasehold_protocol::lease::LeaseError;
use routes::{Call, Found};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// Bytes of a body at most, unless the listener says otherwise: those of a batch of the most parts.
const MAX_BODY: u64 = 1_024 * 1_024;

/// What a call needs, without its connection.
struct Session<'a> {
    table: &'a Table,
    shared: &'a Shared,
    drain: &'a Drain,
    lease_ttl: Duration,
    identity: Identity,
    /// The span above those of the call, if spans are exported.
    parent: Option<&'a Parent>,
}

/// What a request is answered with.
struct Reply {
    body: Vec<u8>,
    /// What is given back unless the answer is written.
    undelivered: Option<Undelivered>,
}

/// Answers a request.
pub(crate) async fn answer(
    asked: Asked<'_>,
    body: Incoming,
    record: &mut Record,
) -> Response<AnswerBody> {
    let found = routes::find(&asked.parts.method, asked.target.path.path());
    let mut response = match serve(&asked, &found, body, record.parent()).await {
        Ok(Reply { body, undelivered }) => {
            let state = Arc::clone(&asked.connection.state);
            let undelivered = undelivered.map(|leases| (leases, state));
            Response::new(AnswerBody::lent(body, undelivered))
        }
        Err(refusal) => {
            record.refuse(refusal.status, refusal.code, &refusal.message);
            refused(&refusal)
        }
    };
    let headers = response.headers_mut();
    if let Found::OtherMethods(allowed) = found {
        headers.insert(ALLOW, HeaderValue::from_static(allowed));
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_REQUEST_ID, record.request_id.clone());
    response
}

fn refused(refusal: &Refusal) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::text(text_of(&LeaseError::of(refusal))));
    *response.status_mut() = refusal.status;
    response.headers_mut().extend(refusal.headers());
    response
}

async fn serve(
    asked: &Asked<'_>,
    found: &Found,
    body: Incoming,
    parent: Option<&Parent>,
) -> Result<Reply, Refusal> {
    let identity = service::check(asked)?;
    let Found::Call(call) = found else {
        return Err(found.refusal());
    };
    let (worker, settings) = (&asked.connection.worker, asked.listener.settings());
    let session = Session {
        table: asked.table,
        shared: worker.shared(),
        drain: worker.drain(),
        lease_ttl: settings.lease_ttl,
        identity,
        parent,
    };
    let max = settings.bounds.max_body.unwrap_or(MAX_BODY);
    let (body, _memory) = service::read_whole(body, max, session.shared).await?;
    session.answer(call, &body).await
}

impl Reply {
    fn of(value: &impl Serialize) -> Self {
        Self {
            body: text_of(value),
            undelivered: None,
        }
    }
}

impl Session<'_> {
    async fn answer(&self, call: &Call, body: &Bytes) -> Result<Reply, Refusal> {
        match call {
            Call::Acquire => self.acquire_one(read(body)?).await,
            Call::Batch => self.batch(read(body)?).await,
            Call::Renew(lease) => Ok(Reply::of(&self.renew(lease)?)),
            Call::Release(lease) => Ok(Reply::of(&self.release(lease, &read(body)?)?)),
            Call::Arrived(lease) => Ok(Reply::of(&self.arrived(lease)?)),
            Call::Pools => Ok(Reply::of(&pools::list(self.table))),
            Call::Pool(name) => Ok(Reply::of(&pools::view(self.pool(Some(name))?))),
            Call::OpenApi => Ok(Reply::of(&openapi::document())),
        }
    }

    /// Returns the pool of a name; the only one, if there is no name.
    fn pool(&self, name: Option<&str>) -> Result<&Arc<BackendPool>, Refusal> {
        match (name, self.table.pools()) {
            (Some(name), _) => self.table.pool_named(name).ok_or_else(|| {
                let text = format!("there is no pool {name:?}; GET /v1/pools lists them");
                Refusal::new(StatusCode::NOT_FOUND, "no_such_pool", text)
            }),
            (None, [only]) => Ok(only),
            (None, _) => Err(bad_request("name a pool; GET /v1/pools lists them")),
        }
    }

    /// The name of the caller, if it has a key of its own.
    fn holder(&self) -> Option<&str> {
        let caller = self.identity.caller.as_deref();
        caller.map(|caller| &*caller.settings.name)
    }
}

/// Reads a body; one of nothing is an object without fields.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    let body = if body.is_empty() { b"{}" } else { &body[..] };
    serde_json::from_slice(body).map_err(|error| bad_request(format!("the body: {error}")))
}

fn bad_request(text: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "bad_request", text)
}

fn text_of(value: &impl Serialize) -> Vec<u8> {
    // These values have text for keys and no number that JSON lacks.
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    text
}
