//! A call as it is asked for: its body, its model, its cost, and how long it may wait.
//!
//! Invariant: bodies that are held in memory are bounded, each and all together.

use super::route::PoolTarget;
use crate::account::{Attempt, OverBudget, Spending};
use crate::callers::{Caller, Callers};
use crate::proxy::{CallerBody, copied};
use crate::service::{Asked, Identity, read_whole};
use crate::state::unix_tick;
use bytes::Bytes;
use core::net::IpAddr;
use core::time::Duration;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use leasehold_config::MoneyBudget;
use leasehold_core::limit::Cost;
use leasehold_core::time::DisplaySpan;
use leasehold_protocol::{
    Asked as AskedCall, Call as CallKind, Price, Refusal, affinity, estimate_output,
    estimate_prompt, patience,
};
use leasehold_sync::Request;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// Bytes of a body that is read whole, unless the listener says otherwise.
const MAX_BODY: u64 = 32 * 1_024 * 1_024;
/// Tokens reserved for an answer without a limit of its own.
const DEFAULT_OUTPUT: u32 = 1_024;
/// Bodies from this length on have their tokens counted on another thread.
const LONG_PROMPT: usize = 16 * 1_024;

/// The body of a call.
#[derive(Debug)]
enum Payload {
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
    pub(super) identity: Identity,
    /// The address that it came from.
    pub(super) client: Option<IpAddr>,
    payload: Payload,
    /// How long the caller waits, if it tells.
    patience: Option<Duration>,
    /// The tokens of its prompt, and the most that it may use in all.
    tokens: (u32, u32),
    /// What is set aside for it.
    spending: Option<Arc<Spending>>,
    /// The part of the memory for bodies that it holds.
    memory: Option<OwnedSemaphorePermit>,
}

/// A call as one pool gets it.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) target: PoolTarget,
    /// The body; `None` for one that is streamed.
    pub(super) body: Option<Bytes>,
    pub(super) request: Request,
    pub(super) cost: Cost,
    /// What a million of its tokens cost.
    price: Option<Price>,
}

impl Call {
    /// Reads a call.
    pub(super) async fn read(
        asked: &Asked<'_>,
        identity: Identity,
        body: Incoming,
    ) -> Result<Box<Self>, Refusal> {
        let path = asked.target.path;
        let bounds = &asked.listener.settings().bounds;
        let max = bounds.max_body;
        if !body.is_end_stream() && !is_json(&asked.parts.headers) {
            let mut call = Self::bare(asked, identity, path.as_str());
            call.payload = Payload::Streamed(Some(CallerBody::new(body, max, bounds.body_idle)));
            return Ok(call);
        }
        let shared = asked.connection.worker.shared();
        let (bytes, memory) = read_whole(body, max.unwrap_or(MAX_BODY), shared).await?;
        let read = AskedCall::read(path.path(), &bytes).map_err(|error| {
            let text = format!("the body is no JSON: {error}");
            Refusal::new(StatusCode::BAD_REQUEST, "bad_json", text)
        })?;
        let mut call = Self::new(asked, identity, path.as_str(), read);
        (call.payload, call.memory) = (Payload::Whole(bytes), memory);
        Ok(call)
    }

    /// Makes a call of a path, without a body.
    pub(super) fn bare(asked: &Asked<'_>, identity: Identity, path: &str) -> Box<Self> {
        Self::new(asked, identity, path, AskedCall::bare(path))
    }

    fn new(asked: &Asked<'_>, identity: Identity, path: &str, read: AskedCall) -> Box<Self> {
        Box::new(Self {
            method: asked.parts.method.clone(),
            path: path.to_owned(),
            headers: passed(&asked.parts.headers),
            asked: read,
            identity,
            client: asked.client,
            payload: Payload::Whole(Bytes::new()),
            patience: patience(&asked.parts.headers),
            tokens: (0, 0),
            spending: None,
            memory: None,
        })
    }

    /// Counts the tokens that the call may use, and sets aside the money for them; where neither is bounded, does nothing.
    pub(super) async fn reserve(
        &mut self,
        callers: &Callers,
        targets: &[PoolTarget],
    ) -> Result<(), Refusal> {
        let counts = targets
            .iter()
            .any(|target| target.pool.token_cap().is_some());
        let of_caller =
            self.identity.caller.as_ref().is_some_and(|caller| {
                caller.token_cap().is_some() || caller.settings.budget.is_some()
            });
        if counts || of_caller {
            self.count_tokens().await;
        }
        let (prompt, most) = self.tokens;
        let output = most.saturating_sub(prompt);
        let prices = targets
            .iter()
            .filter_map(|target| callers.price(&target.model));
        let most = prices.map(|price| price.most(prompt, output)).max();
        let spending = Spending::new(&self.identity.account, most.unwrap_or_default());
        self.spending = Some(Arc::new(spending.map_err(|over| self.over_budget(&over))?));
        Ok(())
    }

    /// Counts tokens; those of a long prompt on another thread.
    async fn count_tokens(&mut self) {
        let Payload::Whole(bytes) = &self.payload else {
            return;
        };
        let (model, bytes) = (self.asked.model.clone(), bytes.clone());
        let length = bytes.len();
        let default_output = match self.asked.call {
            CallKind::Embeddings => 0,
            CallKind::Chat
            | CallKind::Completions
            | CallKind::Responses
            | CallKind::Messages
            | CallKind::Other => DEFAULT_OUTPUT,
        };
        let estimate = move || {
            let value = json(&bytes);
            let prompt = estimate_prompt(&model, &value);
            (prompt, estimate_output(&value, default_output))
        };
        let counted = match length >= LONG_PROMPT {
            true => tokio::task::spawn_blocking(estimate).await.ok(),
            false => Some(estimate()),
        };
        // A thread that can't be had leaves it to the pools' caps.
        let (prompt, output) = counted.unwrap_or((u32::MAX, 0));
        self.tokens = (prompt, prompt.saturating_add(output));
    }

    /// What requests with a common beginning share.
    fn affinity(&self) -> Option<u64> {
        match &self.payload {
            Payload::Whole(bytes) => affinity(&json(bytes)),
            Payload::Streamed(_) => None,
        }
    }

    fn over_budget(&self, over: &OverBudget) -> Refusal {
        let MoneyBudget { amount, window } = over.budget;
        let caller = self.identity.caller.as_ref();
        let name = caller.map_or("", |caller| &caller.settings.name);
        let (span, spent) = (DisplaySpan(window), over.spent);
        let text = format!(
            "the call may cost more than is left of the budget of {amount} in {span} of the caller {name}, of which \
             {spent} are spent or set aside; ask for fewer tokens (max_tokens), or later"
        );
        let wait = over.opens.map(|at| at.since(unix_tick()));
        let status = StatusCode::TOO_MANY_REQUESTS;
        Refusal::new(status, Refusal::OVER_BUDGET, text).with_wait(wait)
    }

    /// Makes the call as a pool gets it.
    ///
    /// # Errors
    /// No member of the pool serves the model.
    pub(super) fn leg(&self, target: PoolTarget, callers: &Callers) -> Result<Leg, Refusal> {
        let pool = &target.pool;
        let caller = self.identity.caller.as_deref();
        let cap = [pool.token_cap(), caller.and_then(Caller::token_cap)];
        let cap = cap.into_iter().flatten().min();
        let cost = Cost {
            requests: 1,
            tokens: cap.map_or(0, |cap| self.tokens.1.min(cap)),
        };
        let longest = pool.settings().max_wait;
        let wait = self.patience.map_or(longest, |told| told.min(longest));
        let deadline = pool.pool().blocking().now().saturating_add(wait);
        let mut request = Request::new()
            .cost(cost)
            .flow(self.identity.flow)
            .deadline(deadline);
        if let Some(caller) = caller {
            request = request.priority(caller.settings.priority);
        }
        if pool.settings().policy.uses_key() {
            request = request.key(self.affinity().unwrap_or(self.identity.flow));
        }
        if let Some(only) = target.only {
            request = request.pin(only);
        } else if let Some(labels) = pool.labels_for(&target.model).map_err(|_| {
            let text = format!("no key of this gateway serves the model {:?}", target.model);
            Refusal::new(StatusCode::NOT_FOUND, "model_not_found", text)
        })? {
            request = request.labels(labels);
        }
        Ok(Leg {
            body: self.body_for(&target.model),
            price: callers.price(&target.model),
            target,
            request,
            cost,
        })
    }

    /// Returns the body for a service, where the model has this name. One that nothing is changed in goes byte for byte.
    fn body_for(&self, model: &str) -> Option<Bytes> {
        let Payload::Whole(bytes) = &self.payload else {
            return None;
        };
        let asks_usage = self.asked.is_stream && !self.asked.shows_usage;
        if !asks_usage && *model == *self.asked.model {
            return Some(bytes.clone());
        }
        let mut value = self.asked.for_service(json(bytes));
        if *model != *self.asked.model {
            value["model"] = model.into();
        }
        Some(value.to_string().into())
    }

    /// Takes the body of a call that is streamed, once.
    pub(super) fn take_streamed(&mut self) -> Option<CallerBody> {
        match &mut self.payload {
            Payload::Whole(_) => None,
            Payload::Streamed(body) => body.take(),
        }
    }

    /// Begins to count an attempt.
    pub(super) fn count_attempt(&self, leg: &Leg) -> Option<Attempt> {
        let (prompt, most) = self.tokens;
        let most = leg
            .price
            .map(|price| price.most(prompt, most.saturating_sub(prompt)));
        let spending = self.spending.as_ref()?;
        Some(spending.attempt(&leg.target.model, leg.price, most.unwrap_or_default()))
    }

    /// Whether it may be sent more than once.
    pub(super) fn is_repeatable(&self) -> bool {
        matches!(self.payload, Payload::Whole(_))
    }
}

/// Reads a body of which it is known that it is JSON.
fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_default()
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

/// Returns the headers that go to the service.
fn passed(headers: &HeaderMap) -> HeaderMap {
    let mut passed = copied(headers, is_own);
    // A compressed answer could not be read on its way.
    passed.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    passed
}

/// Whether a header is for the gateway, or would tell the service of its caller's own account.
fn is_own(name: &str) -> bool {
    let begins = ["x-leasehold-", "x-forwarded-", "sec-fetch-"];
    matches!(
        name,
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
    ) || begins.iter().any(|begin| name.starts_with(begin))
}
