//! Where a request would go, and why: its route, its pool, and each backend of that.
//!
//! Invariant: nothing is leased or counted, and the request is asked for as the proxy would ask.

use super::answer::millis;
use super::body;
use super::error::AdminError;
use super::query::{Parameter, Query};
use crate::affinity::Session;
use crate::backend_pool::BackendPool;
use crate::shared::Table;
use core::net::IpAddr;
use http::HeaderMap;
use http::uri::Authority;
use leasehold_sync::{Eligibility, MemberId};
use serde::Serialize;

/// The answer to `GET /lb/explain`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Explanation {
    listener: usize,
    host: Option<String>,
    path: String,
    client: Option<IpAddr>,
    /// The route that takes the request; `None` if none does, so that it is answered by 404.
    route: Option<RouteView>,
    choice: Option<Choice>,
}

#[derive(Clone, Debug, Serialize)]
struct RouteView {
    host: Option<String>,
    path: String,
    pool: String,
}

/// What would become of a request.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Choice {
    algorithm: &'static str,
    /// The backend that it would be sent to now; `None` if it would wait.
    backend: Option<String>,
    /// The backend of a repeat, if that one fails.
    alternative: Option<String>,
    /// Requests in the queue before it.
    ahead: u32,
    /// The expected wait in milliseconds; `None` if it is not known.
    wait_ms: Option<f64>,
    /// Why it would wait.
    cause: Option<String>,
    backends: Vec<Reason>,
}

#[derive(Clone, Debug, Serialize)]
struct Reason {
    id: String,
    /// Whether it could serve the request now.
    eligible: bool,
    reason: String,
    /// The time until it can, if that is known.
    wait_ms: Option<f64>,
}

/// Explains a request; `listener` is the number of the listener that it would come to, unless the query names one.
pub(crate) fn explain(
    table: &Table,
    listener: usize,
    query: &Query,
) -> Result<Explanation, AdminError> {
    let listener = match query.get(Parameter::Listener) {
        None => listener,
        Some(text) => number(text, table.settings.listeners.len())?,
    };
    let path = query.get(Parameter::Path).unwrap_or("/");
    if !path.starts_with('/') {
        return Err(AdminError::bad_request("path must begin with /"));
    }
    // A route goes by the path alone.
    let path = path.split('?').next().unwrap_or(path).to_owned();
    let host = query.get(Parameter::Host).map(host_name).transpose()?;
    let client = query.get(Parameter::Client).map(str::parse).transpose();
    let client = client.map_err(|_| AdminError::bad_request("client must be an IP address"))?;
    let found = table.listener(listener).ok();
    let route = found.and_then(|listener| listener.route(host.as_deref(), &path, None));
    let pool = route.and_then(|route| table.pool(route.pool()?));
    Ok(Explanation {
        route: route.zip(pool).map(|(route, pool)| RouteView {
            host: route.host.clone(),
            path: route.path.clone(),
            pool: pool.settings().name.clone(),
        }),
        choice: pool.map(|pool| choose(pool, client)),
        listener,
        host,
        path,
        client,
    })
}

/// Tells what would become of a client's request now.
pub(crate) fn choose(pool: &BackendPool, client: Option<IpAddr>) -> Choice {
    let affinity = pool.settings().affinity.as_ref();
    // A session by cookie begins with the request.
    let session = Session::of(affinity, &HeaderMap::new(), client);
    let asked = pool.request(client, &session);
    let sync = pool.pool().blocking();
    let estimate = sync.estimate(&asked);
    let chosen = estimate.as_ref().ok().and_then(|estimate| estimate.member);
    let alternative = sync.alternative(&asked, chosen.as_slice());
    let explained = sync.explain(&asked);
    let name = |member: MemberId| {
        sync.member_name(member)
            .map(|name| name.as_ref().to_owned())
    };
    let now = sync.now();
    let backends = explained.into_iter().map(|one| Reason {
        id: one
            .name
            .map(|name| name.as_ref().to_owned())
            .unwrap_or_default(),
        eligible: matches!(one.eligibility, Eligibility::Ready | Eligibility::LowerTier),
        reason: one.eligibility.to_string(),
        wait_ms: one
            .eligibility
            .until()
            .map(|until| millis(until.since(now))),
    });
    Choice {
        algorithm: super::stats::algorithm(pool.settings().policy),
        backend: chosen.and_then(name),
        alternative: alternative.and_then(name),
        ahead: estimate.as_ref().map_or(0, |estimate| estimate.ahead),
        wait_ms: estimate
            .as_ref()
            .ok()
            .and_then(|estimate| estimate.wait)
            .map(millis),
        cause: match &estimate {
            Ok(estimate) => estimate.cause.map(|cause| cause.to_string()),
            Err(refused) => Some(refused.to_string()),
        },
        backends: backends.collect(),
    }
}

fn number(text: &str, listeners: usize) -> Result<usize, AdminError> {
    // A number has no sign.
    let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits
        .and_then(|text| text.parse().ok())
        .filter(|number| *number < listeners);
    number.ok_or_else(|| {
        let text = format!("listener must be a number below {listeners}, the count of listeners");
        AdminError::bad_request(text)
    })
}

/// Returns the host without its port, as routes have it.
fn host_name(text: &str) -> Result<String, AdminError> {
    let authority: Option<Authority> = text.parse().ok();
    // What is in brackets is compared as text, whether it is an address or not.
    let is_bracketed = |host: &str| {
        let is_part = |byte: u8| byte.is_ascii_hexdigit() || b"[:]".contains(&byte);
        host.starts_with('[') && host.bytes().all(is_part)
    };
    let is_host = |host: &str| is_bracketed(host) || body::authority(host, 80).is_ok();
    let host = authority.filter(|host| !host.as_str().contains('@') && is_host(host.host()));
    let host = host.ok_or_else(|| AdminError::bad_request("host must be a name or an address"))?;
    Ok(host.host().to_ascii_lowercase())
}
