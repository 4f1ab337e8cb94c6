//! The admin interface: what the gateway does and why, and changes of its backends.
//!
//! ```text
//! request ── access ── routes, query ── body ┬─ stats, metrics, backends, usage, settings, explain, openapi
//!                                            ├─ change ── changes (kept for the next start)
//!                                            ├─ log, alerts, requests that wait
//!                                            └─ events (a stream)
//! ```
//! Invariant: nothing is done for a request before `access` has let it through, and every refusal is JSON with a code.

mod access;
mod answer;
mod backends;
mod body;
mod change;
mod changes;
mod error;
mod events;
mod explain;
mod fuzz;
mod log;
mod metrics;
mod openapi;
mod query;
mod routes;
mod settings;
mod stats;
mod usage;

pub(crate) use access::{Need, Rules, Sender, check, is_same};
pub(crate) use backends::{breaker_state, limits, severity, shown_url, status};
pub(crate) use changes::AdminChanges;
pub(crate) use error::AdminError;
pub(crate) use events::{Events, Told, event};
pub(crate) use explain::{Choice, choose};
pub use fuzz::read_admin_request;
pub(crate) use metrics::otlp_metrics;
pub(crate) use stats::algorithm;

use crate::backend_pool::BackendPool;
use crate::comfyui::{self, Hub};
use crate::dashboard;
use crate::operator_log::target;
use crate::proxy::{AnswerBody, Connection, Target};
use crate::shared::{ADMIN, Shared, Table};
use answer::json;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use leasehold_config::Kind;
use query::{Parameter, Query};
use routes::Call;
use serde_json::{Value, json};
use std::sync::Arc;

/// Bytes of a body at most.
const MAX_BODY: usize = 64 * 1_024;
/// Requests that wait and are listed.
const MAX_WAITING: usize = 500;
/// Bytes of a longer body that are read, so that its sender reads the refusal before the connection closes.
const MAX_DROPPED: usize = 1_024 * 1_024;

/// A request to the admin interface.
pub(crate) struct Asked<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) parts: &'a Parts,
    pub(crate) target: Target<'a>,
}

/// Whether a path of a listener is the admin's: any of its own listener, `/lb/*` of others if it has none.
pub(crate) fn takes(table: &Table, listener: usize, path: &str) -> bool {
    match table.settings.admin.listen {
        Some(_) => listener == ADMIN,
        None => path == "/lb" || path.starts_with("/lb/"),
    }
}

/// Answers a request to the admin interface.
pub(crate) async fn answer(
    asked: &Asked<'_>,
    table: &Table,
    body: Incoming,
) -> Response<AnswerBody> {
    let body = read(body).await;
    let answered = asked.answer(table, body);
    let mut response = answered.unwrap_or_else(AdminError::into_response);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

impl Asked<'_> {
    fn answer(
        &self,
        table: &Table,
        body: Result<Vec<u8>, AdminError>,
    ) -> Result<Response<AnswerBody>, AdminError> {
        let is_own_listener = self.connection.listener == ADMIN;
        let path = self.target.path.path();
        let found = routes::find(&self.parts.method, path, is_own_listener);
        let need = found.as_ref().map_or(Need::Read, |(route, _)| route.need);
        let admin = &table.settings.admin;
        let rules = Rules {
            token: admin.token.as_ref(),
            open_on_loopback: admin.open_on_loopback,
        };
        access::check(rules, self.sender(), need)?;
        let (route, id) = found?;
        let query = Query::read(self.target.path.query(), route.parameters)?;
        let shared = self.connection.worker.shared();
        Ok(match route.call {
            Call::Health => json(&stats::health(shared, table)),
            Call::Stats => json(&stats::stats(shared, table)),
            Call::Backends => json(&list(table, query.get(Parameter::Pool))?),
            Call::Config => json(&settings::view(table, shared.reloads())),
            Call::Usage => json(&usage::view(shared.accounts())),
            Call::Alerts => json(&shared.alerts().view()),
            Call::TestAlert => {
                check_type(&self.parts.headers, !body?.is_empty())?;
                test_alert(shared, &id)?
            }
            Call::Waiting => json(&waiting(shared, table, query.get(Parameter::Pool))?),
            Call::CancelWaiting => {
                check_type(&self.parts.headers, !body?.is_empty())?;
                cancel_waiting(shared, &id)?
            }
            Call::Comfyui => {
                let (hub, pool) = comfyui(shared, table, query.get(Parameter::Pool))?;
                json(&comfyui::status(&hub, &pool))
            }
            Call::Verbose => {
                check_type(&self.parts.headers, true)?;
                let (hub, _) = comfyui(shared, table, query.get(Parameter::Pool))?;
                switch_reports(&hub, &body?)?
            }
            Call::Log => json(&log::view(shared)?),
            Call::SetLog => self.set_log(shared, body)?,
            Call::Explain => {
                let number = self.connection.listener;
                let listener = if is_own_listener { 0 } else { number };
                json(&explain::explain(table, listener, &query)?)
            }
            Call::Events => stream(self.events(query.get(Parameter::View))?),
            Call::Dashboard => dashboard::page(),
            Call::Preview => preview(shared, table, query.get(Parameter::Pool), &id)?,
            Call::CancelJob => {
                check_type(&self.parts.headers, !body?.is_empty())?;
                cancel_job(shared, table, query.get(Parameter::Pool), &id)?
            }
            Call::Metrics => metrics::metrics(shared, table, &self.parts.headers),
            Call::OpenApi => json(&openapi::document(
                table.settings.listeners.len(),
                is_own_listener,
            )),
            Call::Live => json(&json!({"status": "ok"})),
            Call::Ready => ready(table),
            Call::Reload => {
                let body = body?;
                check_type(&self.parts.headers, !body.is_empty())?;
                settings::reload(shared)?;
                json(&settings::view(&shared.table(), shared.reloads()))
            }
            Call::Change(kind) => {
                let body = body?;
                check_type(
                    &self.parts.headers,
                    route.body.is_some() || !body.is_empty(),
                )?;
                let change = body::parse(kind, &body).map_err(AdminError::bad_request)?;
                let object = change::Object {
                    id: &id,
                    pool: query.get(Parameter::Pool),
                };
                json(&change::make(shared, object, change)?)
            }
        })
    }

    fn events(&self, view: Option<&str>) -> Result<AnswerBody, AdminError> {
        let worker = &self.connection.worker;
        match view {
            None => events::subscribe(worker),
            Some("figures") => dashboard::subscribe(worker),
            Some(other) => {
                let text = format!("no view has the name {other:?}; there is: figures");
                Err(AdminError::bad_request(text))
            }
        }
    }

    fn set_log(
        &self,
        shared: &Shared,
        body: Result<Vec<u8>, AdminError>,
    ) -> Result<Response<AnswerBody>, AdminError> {
        check_type(&self.parts.headers, true)?;
        Ok(json(&log::change(shared, &body?)?))
    }

    fn sender(&self) -> Sender<'_> {
        Sender {
            peer: self.connection.peer.as_ref().map(|peer| peer.address),
            version: self.parts.version,
            headers: &self.parts.headers,
        }
    }
}

fn list(table: &Table, pool: Option<&str>) -> Result<Vec<backends::BackendView>, AdminError> {
    Ok(match pool {
        Some(_) => backends::list(change::pool(table, pool)?),
        None => {
            let pools = table.pools().iter();
            pools.flat_map(|pool| backends::list(pool)).collect()
        }
    })
}

/// Sends a message to the receivers of an alert.
fn test_alert(shared: &Shared, name: &str) -> Result<Response<AnswerBody>, AdminError> {
    let receivers = shared.alerts().test(name).ok_or_else(|| {
        let text = format!("no alert has the name {name:?}; GET /lb/alerts lists them");
        AdminError::not_found("unknown_alert", text)
    })?;
    tracing::info!(target: target::ADMIN, "the alert {name} is tested by the admin interface");
    Ok(json(&json!({"receivers": receivers})))
}

/// Returns the requests that wait, of the pool of this name or of all.
fn waiting(shared: &Shared, table: &Table, pool: Option<&str>) -> Result<Value, AdminError> {
    if pool.is_some() {
        change::pool(table, pool)?;
    }
    let (count, first) = shared.waiting().list(pool, MAX_WAITING);
    Ok(json!({"count": count, "requests": first}))
}

/// Cancels a request that waits.
fn cancel_waiting(shared: &Shared, id: &str) -> Result<Response<AnswerBody>, AdminError> {
    let request = shared.waiting().cancel(id).ok_or_else(|| {
        let text = format!("no request that waits has the id {id:?}; GET /lb/waiting lists them");
        AdminError::not_found("unknown_request", text)
    })?;
    tracing::info!(target: target::ADMIN, "{request} is cancelled by the admin interface");
    Ok(json(&json!({"cancelled": true})))
}

/// Returns a pool of ComfyUI servers and its queue: the one of this name, or the first.
fn comfyui(
    shared: &Shared,
    table: &Table,
    name: Option<&str>,
) -> Result<(Arc<Hub>, Arc<BackendPool>), AdminError> {
    let mut pools = table.pools().iter();
    let pool = pools.find(|pool| {
        pool.settings().kind == Kind::Comfyui
            && name.is_none_or(|name| name == pool.settings().name)
    });
    let hub = pool.and_then(|pool| shared.hubs().get(&pool.settings().name));
    hub.zip(pool.cloned()).ok_or_else(|| {
        let text = "there is no pool of ComfyUI servers of this name";
        AdminError::new(StatusCode::NOT_FOUND, "no_such_pool", text)
    })
}

/// Returns the picture of a job's last preview.
fn preview(
    shared: &Shared,
    table: &Table,
    pool: Option<&str>,
    id: &str,
) -> Result<Response<AnswerBody>, AdminError> {
    let (hub, _) = comfyui(shared, table, pool)?;
    let picture = hub.preview(id).ok_or_else(|| {
        let text = format!("no job that runs has the id {id:?}, or it has no preview yet");
        AdminError::not_found("no_preview", text)
    })?;
    let is_png = picture.starts_with(b"\x89PNG");
    let kind = if is_png { "image/png" } else { "image/jpeg" };
    let mut response = Response::new(AnswerBody::text(picture));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

/// Takes a job back, whether it runs or waits.
fn cancel_job(
    shared: &Shared,
    table: &Table,
    pool: Option<&str>,
    id: &str,
) -> Result<Response<AnswerBody>, AdminError> {
    let (hub, pool) = comfyui(shared, table, pool)?;
    if !hub.take_back(id) {
        let text = format!("no job that runs or waits has the id {id:?}");
        return Err(AdminError::not_found("unknown_job", text));
    }
    tracing::info!(
        target: target::ADMIN,
        pool = &*pool.settings().name,
        "job {id} is cancelled by the admin interface"
    );
    Ok(json(&json!({"cancelled": true})))
}

/// Switches full reports of a pool on or off.
fn switch_reports(hub: &Hub, body: &[u8]) -> Result<Response<AnswerBody>, AdminError> {
    let verbose = body::verbose(body).map_err(AdminError::bad_request)?;
    hub.set_verbose(verbose);
    Ok(json(&json!({"verbose": verbose})))
}

fn ready(table: &Table) -> Response<AnswerBody> {
    let unready = stats::unready(table);
    let is_ready = unready.is_empty();
    let status = if is_ready { "ready" } else { "not_ready" };
    let mut response = json(&json!({"status": status, "pools_without_backend": unready}));
    if !is_ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

fn stream(body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // nginx would hold events back.
    let buffering = HeaderName::from_static("x-accel-buffering");
    headers.insert(buffering, HeaderValue::from_static("no"));
    response
}

/// Checks that a body is sent as JSON, which a form of another site's page can't.
fn check_type(headers: &HeaderMap, is_needed: bool) -> Result<(), AdminError> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let is_json = |value: &HeaderValue| {
        let value = value.to_str().unwrap_or_default();
        let essence = value.split(';').next().unwrap_or_default();
        essence.trim().eq_ignore_ascii_case("application/json")
    };
    match (types.next(), types.next()) {
        (None, _) if !is_needed => Ok(()),
        (Some(only), None) if is_json(only) => Ok(()),
        _ => Err(AdminError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "wrong_content_type",
            "the body must be JSON, sent with Content-Type: application/json",
        )),
    }
}

/// Reads a body whole.
async fn read(mut body: Incoming) -> Result<Vec<u8>, AdminError> {
    let mut bytes = Vec::new();
    let mut length = 0_usize;
    while length <= MAX_DROPPED
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(|_| AdminError::bad_request("the body was cut"))?;
        let data = frame.data_ref().map(|data| &data[..]).unwrap_or_default();
        length = length.saturating_add(data.len());
        if length <= MAX_BODY {
            bytes.extend_from_slice(data);
        }
    }
    match length <= MAX_BODY {
        true => Ok(bytes),
        false => Err(AdminError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_long",
            format!("the body has more than {MAX_BODY} bytes"),
        )),
    }
}
