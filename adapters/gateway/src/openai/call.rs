//! A call as it is asked for: its body, its model, its cost, and how long it may wait.
//!
//! Invariant: bodies that are held in memory are bounded, each and all together.

use super::{Asked, access};
use crate::backend_pool::BackendPool;
use crate::proxy::CallerBody;
use crate::shared::Shared;
use bytes::Bytes;
use core::time::Duration;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use leasehold_core::balance::stable_hash;
use leasehold_core::limit::Cost;
use leasehold_protocol::{Asked as AskedCall, Refusal, estimate_most, patience};
use leasehold_sync::Request;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

/// Bytes of a body that is read whole, unless the listener says otherwise.
const MAX_BODY: u64 = 32 * 1_024 * 1_024;
/// Bytes of the memory that bodies share, as a permit counts them.
const PERMIT: usize = 1_024;
/// Tokens reserved for an answer without a limit of its own.
const DEFAULT_OUTPUT: u32 = 1_024;
/// Bodies from this length on have their tokens counted on another thread.
const LONG_PROMPT: usize = 16 * 1_024;

/// The body of a call.
#[derive(Debug)]
pub(super) enum Payload {
    /// One that can be sent again.
    Whole(Bytes),
    /// One that is passed on as it comes, once.
    Streamed(Option<CallerBody>),
}

/// A call that is to be served.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    /// The path and query.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) asked: AskedCall,
    pub(super) payload: Payload,
    /// What is asked of the pool for each attempt.
    pub(super) request: Request,
    pub(super) cost: Cost,
    /// The part of the memory for bodies that it holds.
    _memory: Option<OwnedSemaphorePermit>,
}

impl Call {
    /// Reads a call.
    pub(super) async fn read(
        asked: &Asked<'_>,
        shared: &Shared,
        body: Incoming,
    ) -> Result<Self, Refusal> {
        let path = &asked.target.path;
        let max = asked.listener.settings().bounds.max_body;
        let (mut value, mut memory) = (Value::Null, None);
        let mut payload = if body.is_end_stream() {
            Payload::Whole(Bytes::new())
        } else if is_json(&asked.parts.headers) {
            let bytes;
            (bytes, memory) = whole(body, max.unwrap_or(MAX_BODY), shared).await?;
            value = serde_json::from_slice(&bytes).map_err(|error| {
                let text = format!("the body is no JSON: {error}");
                Refusal::new(StatusCode::BAD_REQUEST, "bad_json", text)
            })?;
            Payload::Whole(bytes)
        } else {
            Payload::Streamed(Some(CallerBody::new(body, max)))
        };
        let read = AskedCall::of(path.path(), &value);
        // A body that nothing is added to goes on byte for byte.
        if read.is_stream
            && !read.shows_usage
            && let Payload::Whole(bytes) = &mut payload
        {
            *bytes = read.for_service(value.clone()).to_string().into();
        }
        let cost = cost(&asked.pool, &read, value, &payload).await;
        let request = request(asked, &read, cost)?;
        Ok(Self {
            method: asked.parts.method.clone(),
            path: path.as_str().to_owned(),
            headers: passed(&asked.parts.headers),
            asked: read,
            payload,
            request,
            cost,
            _memory: memory,
        })
    }

    /// Whether it may be sent more than once.
    pub(super) fn is_repeatable(&self) -> bool {
        matches!(self.payload, Payload::Whole(_))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    // SDKs always say so; curl users forget it.
    kind.is_none_or(|kind| {
        let kind = kind.to_ascii_lowercase();
        kind.contains("json") || kind.contains("x-www-form-urlencoded")
    })
}

/// Reads a body whole, and takes its part of the memory for bodies.
async fn whole(
    mut body: Incoming,
    max: u64,
    shared: &Shared,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Refusal> {
    let mut bytes = Vec::new();
    let mut held: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                "bad_body",
                "the request's body was cut",
            )
        })?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        bytes.extend_from_slice(data);
        if bytes.len() as u64 > max {
            let text = format!("the body has more than {max} bytes");
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_long",
                text,
            ));
        }
        let needed = bytes.len().div_ceil(PERMIT);
        let has = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if needed > has {
            let more = shared
                .take_memory(needed.saturating_sub(has))
                .ok_or_else(|| {
                    let text = "the gateway holds as many requests as its memory is for; ask again";
                    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no_memory", text)
                        .with_wait(Some(Duration::from_secs(1)))
                })?;
            match &mut held {
                Some(held) => held.merge(more),
                None => held = Some(more),
            }
        }
    }
    Ok((bytes.into(), held))
}

/// Returns the most that a call may cost, as far as the pool's limits count it.
async fn cost(pool: &BackendPool, read: &AskedCall, body: Value, payload: &Payload) -> Cost {
    let Some(cap) = pool.token_cap() else {
        return Cost::REQUEST;
    };
    let length = match payload {
        Payload::Whole(bytes) => bytes.len(),
        Payload::Streamed(_) => 0,
    };
    let model = read.model.clone();
    let estimate = move || estimate_most(&model, &body, DEFAULT_OUTPUT);
    let tokens = match length >= LONG_PROMPT {
        // A thread that can't be had costs this one's time.
        true => tokio::task::spawn_blocking(estimate).await.unwrap_or(cap),
        false => estimate(),
    };
    Cost {
        requests: 1,
        tokens: tokens.min(cap),
    }
}

/// Tells callers apart, among which the keys are shared evenly: by the key that they send, and by their address.
fn caller(asked: &Asked<'_>) -> u64 {
    let credential = access::given(&asked.parts.headers).unwrap_or_default();
    let client = asked.client.map(|client| client.to_string());
    let client = client.unwrap_or_default();
    stable_hash(&[credential, b" ", client.as_bytes()].concat())
}

/// Makes the request to the pool.
fn request(asked: &Asked<'_>, read: &AskedCall, cost: Cost) -> Result<Request, Refusal> {
    let pool = &asked.pool;
    let now = pool.pool().blocking().now();
    let longest = pool.settings().max_wait;
    let wait = patience(&asked.parts.headers).map_or(longest, |told| told.min(longest));
    let caller = caller(asked);
    let request = Request::new().cost(cost).flow(caller);
    let mut request = request.deadline(now.saturating_add(wait));
    if pool.settings().policy.uses_key() {
        request = request.key(read.affinity.unwrap_or(caller));
    }
    match pool.labels_for(&read.model) {
        Ok(Some(labels)) => Ok(request.labels(labels)),
        Ok(None) => Ok(request),
        Err(_) => {
            let text = format!("no key of this gateway serves the model {:?}", read.model);
            Err(Refusal::new(StatusCode::NOT_FOUND, "model_not_found", text))
        }
    }
}

/// Returns the headers that go to the service.
fn passed(headers: &HeaderMap) -> HeaderMap {
    let mut passed = headers.clone();
    crate::proxy::remove_hop_by_hop(&mut passed);
    let own: Vec<_> = passed.keys().filter(|name| is_own(name)).cloned().collect();
    for name in own {
        passed.remove(name);
    }
    // A compressed answer could not be read on its way.
    passed.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    passed
}

/// Whether a header is for the gateway, or would tell the service of its caller's own account.
fn is_own(name: &HeaderName) -> bool {
    let begins = ["x-leasehold-", "x-forwarded-", "sec-fetch-"];
    matches!(
        name.as_str(),
        "authorization"
            | "x-api-key"
            | "api-key"
            | "openai-organization"
            | "openai-project"
            | "cookie"
            | "host"
            | "content-length"
            | "expect"
            | "forwarded"
            | "origin"
            | "referer"
    ) || begins.iter().any(|begin| name.as_str().starts_with(begin))
}
