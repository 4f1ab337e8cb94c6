//! The handling of a request: stall, guard, route, body, answer.
//!
//! Invariant: the testbed's own paths answer also while the server stalls, and are not counted.

use super::control;
use super::fault::ComfyFault;
use super::files::{self, bare};
use super::guard;
use super::info;
use super::jobs;
use super::prompt::{self, Raises};
use super::route::{Query, Route};
use super::state::Studio;
use super::websocket::Handshake;
use crate::reply::Reply;
use crate::server::{CloseConnection, Connection, Orders, Payload, Site};
use alloc::sync::Arc;
use core::future::pending;
use core::time::Duration;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response};
use serde_json::{Map, Value, json};
use tokio::time::{sleep, timeout};

/// Longest wait for a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(120);

/// The server's name in its answers.
const SERVER: &str = "Python/3.12 aiohttp/3.12.15";

/// The page that `/` shows. The age is inserted.
const PAGE: &str = include_str!("page.html");

/// A connection, counted as open until it is dropped.
#[derive(Debug)]
pub(crate) struct ComfyConnection {
    studio: Arc<Studio>,
    orders: Arc<Orders>,
    number: u64,
}

impl Connection for ComfyConnection {
    fn orders(&self) -> &Orders {
        &self.orders
    }

    fn note_traffic(&self, _read: usize, _written: usize) {}
}

impl Drop for ComfyConnection {
    fn drop(&mut self) {
        self.studio.change(|state| {
            state.connections.remove(&self.number);
            state.report.connections_open = state.connections.len() as u64;
        });
    }
}

impl Site for Arc<Studio> {
    type Connection = ComfyConnection;
    type Body = Payload;

    fn opened(&self) -> ComfyConnection {
        let orders = Arc::new(Orders::default());
        let number = self.change(|state| {
            let report = &mut state.report;
            report.connections_opened += 1;
            let number = report.connections_opened;
            state.connections.insert(number, Arc::clone(&orders));
            report.connections_open = state.connections.len() as u64;
            report.max_connections = report.max_connections.max(report.connections_open);
            number
        });
        ComfyConnection {
            studio: Self::clone(self),
            orders,
            number,
        }
    }

    fn respond(
        &self,
        request: Request<Incoming>,
        connection: Arc<ComfyConnection>,
    ) -> impl Future<Output = Result<Response<Payload>, CloseConnection>> + Send + 'static + use<>
    {
        respond(Self::clone(self), request, connection)
    }
}

async fn respond(
    studio: Arc<Studio>,
    mut request: Request<Incoming>,
    connection: Arc<ComfyConnection>,
) -> Result<Response<Payload>, CloseConnection> {
    if request.uri().path().starts_with("/testbed/") {
        let reply = control::answer(&studio, request.method(), request.uri());
        return Ok(reply.into_response(|| ()));
    }
    studio.unstalled().await;
    let route = Route::of(request.uri().path(), studio.age());
    studio.change(|state| {
        let name = format!("{} {}", request.method(), route.pattern());
        *state.report.calls.entry(name).or_default() += 1;
    });
    let refusal = guard::check(
        studio.guard(),
        studio.age(),
        request.method(),
        request.headers(),
    );
    if route == Route::WebSocket && refusal.is_none() && *request.method() == Method::GET {
        let query = Query::new(request.uri().query());
        let client_id = query.get("clientId").filter(|id| !id.is_empty());
        let client_id = client_id.map(ToOwned::to_owned);
        if let Some(handshake) = Handshake::new(&mut request) {
            studio.change(|state| *state.report.statuses.entry(101).or_default() += 1);
            return Ok(handshake.accept(studio, client_id));
        }
        let reply = Reply::text(
            400,
            "No WebSocket UPGRADE hdr: None\n Can \"Upgrade\" only to \"WebSocket\".",
        );
        return Ok(deliver(&studio, reply));
    }
    let (head, body) = request.into_parts();
    let reply = match refusal {
        Some(refusal) => refusal,
        None => match read(body, studio.config.max_upload_size).await {
            Ok(body) => {
                let exchange = Exchange {
                    studio: &studio,
                    connection: &connection,
                    head: &head,
                    body,
                };
                exchange.answer(route).await?
            }
            Err(refusal) => refusal,
        },
    };
    studio.unstalled().await;
    Ok(deliver(&studio, reply))
}

fn deliver(studio: &Studio, reply: Reply) -> Response<Payload> {
    studio.change(|state| *state.report.statuses.entry(reply.status()).or_default() += 1);
    let reply = guard::mark(studio.guard(), studio.age(), reply);
    reply.header("server", SERVER).into_response(|| ())
}

/// Reads a whole body, or says why not.
async fn read(body: Incoming, most: usize) -> Result<Bytes, Reply> {
    let too_large = || {
        let problem = format!("Maximum request body size {most} exceeded");
        Reply::text(413, problem).header("connection", "close")
    };
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    match timeout(BODY_TIMEOUT, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) | Err(_) => Err(bare(400)),
    }
}

/// The answer to an exception of a handler.
fn raised() -> Reply {
    let text = "500 Internal Server Error\n\nServer got itself in trouble";
    Reply::text(500, text)
}

/// A request whose body was read.
#[derive(Debug)]
struct Exchange<'a> {
    studio: &'a Arc<Studio>,
    connection: &'a ComfyConnection,
    head: &'a Parts,
    body: Bytes,
}

impl Exchange<'_> {
    async fn answer(self, route: Route) -> Result<Reply, CloseConnection> {
        if !route.allows(&self.head.method) {
            // What is no route goes to the static files.
            return Ok(bare(405).header(ALLOW.as_str(), "GET,HEAD"));
        }
        if route == Route::Prompt && self.is_post() {
            return self.post_prompt().await;
        }
        if matches!(route, Route::ObjectInfo | Route::ObjectInfoOf(_)) {
            sleep(self.studio.read(|state| state.object_info_delay)).await;
        }
        Ok(self.plain(&route).unwrap_or_else(|Raises| raised()))
    }

    fn is_post(&self) -> bool {
        self.head.method == Method::POST
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
    }

    /// Answers a route that takes no time.
    fn plain(self, route: &Route) -> Result<Reply, Raises> {
        let studio = &**self.studio;
        let query = Query::new(self.head.uri.query());
        let method = &self.head.method;
        Ok(match route {
            Route::Page => {
                let page = PAGE.replace("{{age}}", &studio.age().to_string());
                Reply::html(200, page.replace("{{id}}", &studio.id))
            }
            Route::Prompt => Reply::json(200, &studio.read(|state| state.queue_info())),
            Route::Queue if self.is_post() => return self.change_queue(),
            Route::Queue => queue(studio),
            Route::Interrupt => self.interrupt(),
            Route::Free => return self.free(),
            Route::History if self.is_post() => return self.change_history(),
            Route::History => return history(studio, &query),
            Route::HistoryOf(id) => history_of(studio, id),
            Route::Jobs => jobs::list(studio, &query),
            Route::Job(id) => jobs::one(studio, id),
            Route::CancelJob(id) => jobs::cancel_one(studio, id),
            Route::CancelJobs => jobs::cancel_many(studio, &self.body),
            Route::UploadImage | Route::UploadMask => {
                let content_type = self.header(CONTENT_TYPE.as_str()).unwrap_or_default();
                let is_mask = *route == Route::UploadMask;
                return files::upload(studio, content_type, &self.body, is_mask);
            }
            Route::View => files::view(studio, &query),
            Route::ViewMetadata => info::view_metadata(studio, &query),
            Route::SystemStats => info::system_stats(studio),
            Route::ObjectInfo => info::object_info(studio, None),
            Route::ObjectInfoOf(class) => info::object_info(studio, Some(class)),
            Route::Models => info::models(),
            Route::ModelsIn(folder) => info::models_in(studio, folder),
            Route::Embeddings => Reply::json(200, &json!([])),
            Route::Extensions => info::extensions(studio),
            Route::Features => Reply::json(200, &studio.features()),
            // One user only: none can be added.
            Route::Users if self.is_post() => bare(400),
            Route::Users => Reply::json(200, &json!({ "storage": "server", "migrated": true })),
            Route::UserFiles => files::list_user(studio, &query),
            Route::UserFile(path) => {
                return files::user_file(studio, method, path, &query, self.body);
            }
            Route::MoveUserFile(from, to) => files::move_user(studio, from, to, &query),
            Route::Settings => return files::settings(studio, method, None, &self.body),
            Route::Setting(id) => return files::settings(studio, method, Some(id), &self.body),
            Route::WebSocket | Route::Unknown => bare(404),
        })
    }

    /// Queues a prompt, with the next fault if one waits.
    async fn post_prompt(self) -> Result<Reply, CloseConnection> {
        let fault = self.studio.change(|state| {
            state.report.posted += 1;
            let fault = state.faults.pop_front();
            if let Some(fault) = fault {
                *state
                    .report
                    .faults
                    .entry(fault.name().to_owned())
                    .or_default() += 1;
            }
            fault
        });
        let usage_source = self.header("comfy-usage-source");
        let queued = || prompt::post(self.studio, &self.body, usage_source);
        let reply = match fault.filter(|fault| !fault.accepts()) {
            Some(_) => raised(),
            None => queued().unwrap_or_else(|Raises| raised()),
        };
        match fault {
            None => Ok(reply),
            Some(ComfyFault::Delay(pause)) => {
                sleep(pause).await;
                Ok(reply)
            }
            Some(ComfyFault::Error | ComfyFault::AcceptError) => Ok(raised()),
            Some(ComfyFault::AcceptSilence) => pending().await,
            Some(ComfyFault::Reset | ComfyFault::AcceptReset) => {
                self.connection.orders.reset();
                Err(CloseConnection)
            }
        }
    }

    fn fields(&self) -> Result<Map<String, Value>, Raises> {
        serde_json::from_slice(&self.body).map_err(|_| Raises)
    }

    fn change_queue(self) -> Result<Reply, Raises> {
        let fields = self.fields()?;
        self.studio.change(|state| {
            if fields.get("clear") == Some(&json!(true)) {
                state.clear_queue();
            }
            for id in named(&fields) {
                state.dequeue(id);
            }
        });
        Ok(empty())
    }

    fn change_history(self) -> Result<Reply, Raises> {
        let fields = self.fields()?;
        self.studio.change(|state| {
            if fields.get("clear") == Some(&json!(true)) {
                state.life.history.clear();
            }
            for id in named(&fields) {
                state.life.history.remove(id);
            }
        });
        Ok(empty())
    }

    /// Interrupts the named prompt, or any if none is named. A body that is no JSON names none.
    fn interrupt(self) -> Reply {
        let fields = self.fields().unwrap_or_default();
        let id = fields
            .get("prompt_id")
            .filter(|id| !id.is_null() && **id != "");
        match id {
            None => self.studio.interrupt(None),
            Some(id) => id
                .as_str()
                .is_some_and(|id| self.studio.interrupt(Some(id))),
        };
        empty()
    }

    fn free(self) -> Result<Reply, Raises> {
        let fields = self.fields()?;
        if fields.get("free_memory") == Some(&json!(true)) {
            self.studio.change(|state| state.life.frees_memory = true);
        }
        Ok(empty())
    }
}

/// The ids that a body asks to delete.
fn named(fields: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let ids = fields.get("delete").and_then(Value::as_array);
    ids.into_iter().flatten().filter_map(Value::as_str)
}

fn empty() -> Reply {
    Reply::new(200, "application/octet-stream", "")
}

fn queue(studio: &Studio) -> Reply {
    let queue = studio.read(|state| {
        let running = state.life.running.iter().map(|run| run.item.to_json());
        let pending = state
            .life
            .pending
            .items()
            .iter()
            .map(super::queue::Item::to_json);
        json!({
            "queue_running": running.collect::<Vec<_>>(),
            "queue_pending": pending.collect::<Vec<_>>(),
        })
    });
    Reply::json(200, &queue)
}

fn history(studio: &Studio, query: &Query) -> Result<Reply, Raises> {
    let number = |name: &str| {
        let number = query.get(name).map(|text| text.trim().parse::<i64>());
        number.transpose().map_err(|_| Raises)
    };
    let (max_items, offset) = (number("max_items")?, number("offset")?);
    let page = studio.read(|state| state.life.history.page(max_items, offset));
    Ok(Reply::json(200, &page))
}

fn history_of(studio: &Studio, id: &str) -> Reply {
    let mut answer = Map::new();
    if let Some(entry) = studio.read(|state| state.life.history.get(id).cloned()) {
        answer.insert(id.to_owned(), entry);
    }
    Reply::json(200, &Value::Object(answer))
}
