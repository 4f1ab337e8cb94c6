//! Many ComfyUI servers behind one address: callers see one server that is as large as all of them.
//!
//! ```text
//! caller ── caller (identity, zone) ─┬ submit ── hub: jobs, history, sockets ── journal
//!                                    ├ lists, files, status                └── drive: a task a job ── server
//!                                    ├ socket ── outbox                    └── follow: a websocket a server
//!                                    └ pass
//! ```
//! Invariant: the queue is the gateway's. A job has one end, whatever its servers do; what a job does next is decided by
//! `leasehold-protocol`, and which server it gets by the pool in `leasehold-core`.

mod answers;
mod caller;
mod drive;
mod files;
mod follow;
mod hub;
mod hubs;
mod inputs;
mod journal;
mod line;
mod lists;
mod made;
mod outbox;
mod overview;
mod pass;
mod record;
mod server;
mod servers;
mod socket;
mod state;
mod status;
mod submit;
mod uploads;

pub(crate) use hub::Hub;
pub(crate) use hubs::{Hubs, run};
pub use journal::JournalError;
pub(crate) use socket::CallerSocket;
pub(crate) use status::{Jobs, status};

use crate::backend_pool::BackendPool;
use crate::proxy::{AnswerBody, CallerBody};
use crate::record::Record;
use crate::service::{Asked, read_whole};
use crate::trace::Parent;
use answers::{bad, empty, no_server, ok, refused};
use bytes::Bytes;
use caller::{Caller, check_site};
use drive::backend_named;
use files::{Form, Seen};
use http::header::SET_COOKIE;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use leasehold_protocol::Refusal;
use lists::{Query, Removal};
use serde_json::json;
use server::Call;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// Bytes of a body at most, unless the listener says otherwise: as ComfyUI's own bound.
const MAX_BODY: u64 = 100 << 20;

/// Whether callers may ask for a path below `/lb`: how long the queue is, and how their own jobs stand.
pub(crate) fn is_open(path: &str) -> bool {
    path == "/lb/comfyui" || path.starts_with("/lb/comfyui/jobs/")
}

/// An answer, and the websocket that goes on behind it.
pub(crate) type Answered = (Response<AnswerBody>, Option<CallerSocket>);

/// Answers a request.
pub(crate) async fn answer(
    asked: Asked<'_>,
    body: Incoming,
    upgraded: Option<OnUpgrade>,
    record: &mut Record,
) -> Answered {
    let caller = Caller::of(&asked);
    let served = serve(&asked, &caller, body, upgraded, record).await;
    let (mut response, socket) = served.unwrap_or_else(|refusal| {
        record.refuse(refusal.status, refusal.code, &refusal.message);
        (refused(&refusal), None)
    });
    if let Some(cookie) = caller.cookie {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    (response, socket)
}

/// A request of a caller to a pool.
struct Served<'a> {
    asked: &'a Asked<'a>,
    pool: &'a Arc<BackendPool>,
    hub: Arc<Hub>,
    owner: u64,
    query: Query<'a>,
}

async fn serve(
    asked: &Asked<'_>,
    caller: &Caller,
    body: Incoming,
    upgraded: Option<OnUpgrade>,
    record: &mut Record,
) -> Result<Answered, Refusal> {
    check_site(&asked.parts.headers, asked.target)?;
    if asked.parts.method == Method::OPTIONS {
        return Ok((empty(StatusCode::OK), None));
    }
    let idle = asked.listener.settings().bounds.body_idle;
    let path = plain_path(asked)?;
    let path = &*path;
    let route = asked
        .listener
        .route(asked.target.host_name().as_deref(), path, None);
    let pool = route.and_then(|route| asked.table.pool(route.pool()?));
    let no_pool = || {
        Refusal::new(
            StatusCode::NOT_FOUND,
            "no_route",
            "no pool serves this host and path",
        )
    };
    let pool = pool.ok_or_else(no_pool)?;
    if let Some(parent) = record.parent() {
        parent.note_pool(&pool.settings().name);
    }
    let hub = asked
        .connection
        .worker
        .shared()
        .hubs()
        .get(&pool.settings().name);
    let served = Served {
        asked,
        pool,
        hub: hub.ok_or_else(no_pool)?,
        owner: caller.key,
        query: Query(asked.target.path.query()),
    };
    let bare = path
        .strip_prefix("/api")
        .filter(|rest| rest.starts_with('/'))
        .unwrap_or(path);
    if bare == "/ws" && asked.parts.method == Method::GET {
        let client = served.query.get("clientId");
        let (socket, response) = CallerSocket::new(&served.hub, asked.parts, client, upgraded)?;
        return Ok((response, Some(socket)));
    }
    let response = match (asked.parts.method.as_str(), bare) {
        ("GET" | "HEAD", _) => match served.read(path, bare, record).await? {
            Some(response) => response,
            None if is_of_jobs(bare) => return Err(not_here()),
            None => served.pass(CallerBody::none(), record).await?,
        },
        ("POST", _) if is_own(path, bare) => {
            let (body, held) = served.body(body).await?;
            let response = served.change(path, bare, body, record.parent()).await;
            drop(held);
            response?
        }
        _ => {
            served
                .pass(CallerBody::new(body, Some(MAX_BODY), idle), record)
                .await?
        }
    };
    Ok((response, None))
}

/// Whether a path is one of jobs, which no server is asked for by callers.
fn is_of_jobs(bare: &str) -> bool {
    let first = bare
        .trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or_default();
    [
        "prompt",
        "queue",
        "history",
        "interrupt",
        "free",
        "jobs",
        "ws",
    ]
    .contains(&first)
}

fn not_here() -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "no_path",
        "the gateway has no such call",
    )
}

/// Returns the path as a server reads it.
fn plain_path(asked: &Asked<'_>) -> Result<String, Refusal> {
    let path = percent_encoding::percent_decode_str(asked.target.path.path());
    let path = path.decode_utf8().map_err(|_| bad("the path is no text"))?;
    let is_odd = |part: &str| part.is_empty() || part == "." || part == "..";
    // Parts between slashes; the first and the last may be empty.
    let inner = path.trim_start_matches('/').trim_end_matches('/');
    let has_odd = !inner.is_empty() && inner.split('/').any(is_odd);
    match has_odd || path.starts_with("//") || path.starts_with("/api/api/") {
        true => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "no_path",
            "the path is written in another way",
        )),
        false => Ok(path.into_owned()),
    }
}

/// Whether the gateway itself answers a `POST` to a path.
fn is_own(path: &str, bare: &str) -> bool {
    let is_jobs = path.starts_with("/api/jobs/") && path.ends_with("/cancel");
    let own = [
        "/prompt",
        "/queue",
        "/interrupt",
        "/free",
        "/history",
        "/upload/image",
        "/upload/mask",
    ];
    is_jobs || own.contains(&bare)
}

impl Served<'_> {
    fn max_body(&self) -> u64 {
        let bounds = self.asked.listener.settings().bounds;
        bounds.max_body.unwrap_or(MAX_BODY)
    }

    async fn body(&self, body: Incoming) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Refusal> {
        read_whole(body, self.max_body(), self.asked.connection.worker.shared()).await
    }

    /// Answers what the gateway itself knows; `None` for what a server has to say.
    async fn read(
        &self,
        path: &str,
        bare: &str,
        record: &mut Record,
    ) -> Result<Option<Response<AnswerBody>>, Refusal> {
        let (hub, owner) = (&self.hub, self.owner);
        Ok(Some(match bare {
            "/prompt" => {
                let remaining = lists::remaining(&hub.state());
                ok(&remaining)
            }
            "/queue" => {
                let queue = lists::queue(&hub.state(), owner);
                ok(&queue)
            }
            "/history" => {
                let history = lists::history(&hub.state(), owner, &self.query)?;
                ok(&history)
            }
            "/system_stats" => match hubs::system_stats(&hub.state()) {
                Some(stats) => ok(&stats),
                None => return Ok(None),
            },
            "/object_info" => match hub.object_info() {
                Some(info) => {
                    answers::text(StatusCode::OK, "application/json; charset=utf-8", info)
                }
                None => return Ok(None),
            },
            "/view" => self.view(record).await?,
            "/lb/comfyui" => ok(&status::summary(&hub.state())),
            _ if path == "/api/jobs" => lists::jobs(&hub.state(), owner, &self.query)?,
            _ => {
                let last = bare.rsplit('/').next().unwrap_or_default();
                let last = percent_encoding::percent_decode_str(last).decode_utf8_lossy();
                match bare.strip_suffix(bare.rsplit('/').next().unwrap_or_default()) {
                    Some("/history/") => ok(&lists::history_of(&hub.state(), owner, &last)),
                    Some("/jobs/") if path != bare => lists::job(&hub.state(), owner, &last),
                    Some("/object_info/") => match hub.node_info(&last) {
                        Some(info) => ok(&info),
                        None => return Ok(None),
                    },
                    Some("/lb/comfyui/jobs/") => {
                        match status::job(hub, self.pool, Some(owner), &last) {
                            Some(job) => ok(&job),
                            None => answers::with_status(
                                StatusCode::NOT_FOUND,
                                &json!({"error": "the caller has no such job"}),
                            ),
                        }
                    }
                    Some(_) | None => return Ok(None),
                }
            }
        }))
    }

    /// Does what a `POST` of the gateway's own asks for.
    async fn change(
        &self,
        path: &str,
        bare: &str,
        body: Bytes,
        parent: Option<&Parent>,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let (hub, owner) = (&self.hub, self.owner);
        let headers = &self.asked.parts.headers;
        match bare {
            "/prompt" => {
                let zone = |client| self.asked.listener.settings().zone_of(client);
                let choice = submit::Choice {
                    server: self.query.get("server"),
                    zone: self.asked.client.and_then(zone).map(ToOwned::to_owned),
                    labels: Vec::new(),
                };
                let choice = choice.told(headers);
                return submit::submit(hub, self.pool, owner, choice, &body, parent);
            }
            "/queue" => lists::remove_waiting(hub, owner, &Removal::read(&body)?),
            "/history" => lists::remove_ended(hub, owner, &Removal::read(&body)?)?,
            "/interrupt" => lists::interrupt(hub, owner, &body),
            // A caller's wish to free memory is no reason to slow all others down.
            "/free" => {}
            "/upload/image" => {
                return files::keep(hub, owner, Form::read(headers, body).await?).await;
            }
            "/upload/mask" => return self.keep_mask(&Form::read(headers, body).await?).await,
            _ => return self.cancel(path, &body),
        }
        Ok(empty(StatusCode::OK))
    }

    /// Answers `POST /api/jobs/{id}/cancel` and `POST /api/jobs/cancel`.
    fn cancel(&self, path: &str, body: &[u8]) -> Result<Response<AnswerBody>, Refusal> {
        let rest = path
            .strip_prefix("/api/jobs/")
            .and_then(|rest| rest.strip_suffix("cancel"));
        let ids = match rest.map(|id| id.trim_end_matches('/')) {
            Some("") => {
                let body: serde_json::Value = serde_json::from_slice(body)
                    .map_err(|error| bad(format!("the body is no JSON: {error}")))?;
                let ids = body["job_ids"]
                    .as_array()
                    .ok_or_else(|| bad("the body has no list job_ids"))?;
                ids.iter()
                    .filter_map(|id| id.as_str())
                    .map(ToOwned::to_owned)
                    .collect()
            }
            Some(id) => vec![id.to_owned()],
            None => Vec::new(),
        };
        Ok(ok(&lists::cancel(&self.hub, self.owner, &ids)))
    }

    async fn keep_mask(&self, form: &Form) -> Result<Response<AnswerBody>, Refusal> {
        let backends = files::servers_up(self.pool)?;
        let backend = backends.first().ok_or_else(no_server)?;
        let server = self.hub.state().servers.number(backend.name());
        let call = Call {
            worker: &self.asked.connection.worker,
            backend,
            bounds: self.pool.settings().upstream,
        };
        files::keep_mask(&self.hub, self.owner, server, &call, form).await
    }

    /// Answers `GET /view`.
    async fn view(&self, record: &mut Record) -> Result<Response<AnswerBody>, Refusal> {
        let (backends, query) = match files::find(&self.hub, self.owner, &self.query)? {
            Seen::Here(upload) => return files::show(&self.hub, &upload).await,
            Seen::Nowhere => return Ok(empty(StatusCode::NOT_FOUND)),
            Seen::At(server, query) => {
                let backend = backend_named(self.pool, &server);
                (backend.into_iter().collect::<Vec<_>>(), query)
            }
            Seen::Anywhere(query) => (files::servers_up(self.pool)?, query),
        };
        let path = format!("/view?{query}");
        let count = backends.len();
        for (number, backend) in backends.iter().enumerate() {
            let one = core::slice::from_ref(backend);
            let response = self.pass_to(one, &path, CallerBody::none(), record).await?;
            let is_last = number.saturating_add(1) == count;
            if is_last || response.status() != StatusCode::NOT_FOUND {
                return Ok(response);
            }
        }
        Ok(empty(StatusCode::NOT_FOUND))
    }

    /// Passes the request on to the first server that is up.
    async fn pass(
        &self,
        body: CallerBody,
        record: &mut Record,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let backends = files::servers_up(self.pool)?;
        self.pass_to(&backends, self.asked.target.path.as_str(), body, record)
            .await
    }

    async fn pass_to(
        &self,
        backends: &[Arc<crate::backend::Backend>],
        path: &str,
        body: CallerBody,
        record: &mut Record,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let worker = &self.asked.connection.worker;
        pass::pass(
            worker,
            self.pool,
            backends,
            self.asked.parts,
            path,
            body,
            record,
        )
        .await
    }
}
