//! The handling of a request: route, key, ruling, draws, answer.
//!
//! Invariant: each call with a known key holds an [`InFlight`] from its arrival to its end.

use super::answer::Answer;
use super::anthropic;
use super::call::{CallStatus, LogIndex};
use super::error::{ApiError, ErrorForm, over_limit};
use super::fault::{Fault, Scene};
use super::in_flight::InFlight;
use super::request::{Api, ApiRequest, Vendor};
use super::resource::Kind;
use super::responses;
use super::route::{Route, Want, credential};
use super::state::{Draw, Upstream, plan};
use super::unlimited::Visit;
use crate::clock::unix_now;
use crate::judge::{CallEnd, KeyId, Ruling, Usages};
use crate::reply::Reply;
use crate::report::Report;
use crate::server::{CloseConnection, Connection, Orders, Payload, Site, drain, read_body};
use crate::text::go_duration;
use alloc::sync::Arc;
use core::time::Duration;
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderMap;
use hyper::http::request::Parts;
use hyper::{Request, Response};
use serde_json::{Value, json};
use tokio::time::sleep;

type HttpResponse = Response<Payload>;

impl Site for Arc<Upstream> {
    type Connection = OpenConnection;
    type Body = Payload;

    fn opened(&self) -> OpenConnection {
        let number = self.change(|state| {
            state.connections_opened += 1;
            state.connections_open += 1;
            state.connections_opened
        });
        OpenConnection {
            upstream: Self::clone(self),
            number,
            orders: Orders::default(),
        }
    }

    fn respond(
        &self,
        request: Request<Incoming>,
        connection: Arc<OpenConnection>,
    ) -> impl Future<Output = Result<HttpResponse, CloseConnection>> + Send + 'static + use<> {
        respond(Self::clone(self), request, connection)
    }
}

/// A connection, counted as open until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    upstream: Arc<Upstream>,
    number: u64,
    orders: Orders,
}

impl Connection for OpenConnection {
    fn orders(&self) -> &Orders {
        &self.orders
    }

    fn note_traffic(&self, _read: usize, _written: usize) {}
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.upstream.change(|state| {
            state.connections_open -= 1;
            state.judge.note_read(self.number);
        });
    }
}

async fn respond(
    upstream: Arc<Upstream>,
    request: Request<Incoming>,
    connection: Arc<OpenConnection>,
) -> Result<HttpResponse, CloseConnection> {
    let arrived = upstream.clock.nanos();
    let id = upstream.next_id();
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let route = Route::of(&head.method, &head.uri);
    if let Route::Call { api, deployment } = route {
        let exchange = Exchange {
            upstream: &upstream,
            connection: &connection,
            arrived,
            id: &id,
            path: head.uri.path_and_query().map_or(path, |path| path.as_str()),
            headers: &head.headers,
            api,
            deployment,
        };
        return exchange.call(body).await;
    }
    let api = if matches!(route, Route::Unlimited(Want::CountTokens)) {
        Api::Messages
    } else {
        Api::Chat
    };
    let form = ErrorForm { api, id: &id };
    let reply = if let Route::Unlimited(want) = route {
        let (upstream, head) = (&upstream, &head);
        let visit = Visit {
            upstream,
            want,
            head,
            arrived,
            form,
        };
        visit.answer(body).await
    } else {
        drain(body).await;
        other(&upstream, &route, form, &head)
    };
    Ok(with_id(reply, form).into_response(|| ()))
}

/// Answers a request that is no call.
fn other(upstream: &Upstream, route: &Route<'_>, form: ErrorForm<'_>, head: &Parts) -> Reply {
    let (method, path) = (&head.method, head.uri.path());
    match route {
        Route::Models | Route::Model(_) => models(upstream, route, form, &head.headers),
        Route::Report => report(&upstream.report(), form),
        Route::WrongMethod(allowed) => {
            let error = ApiError::wrong_method(method, path, allowed);
            error.reply(form).header("allow", allowed)
        }
        Route::NoApiVersion => {
            let error = json!({ "code": "404", "message": "Resource not found" });
            Reply::json(404, &json!({ "error": error }))
        }
        Route::Unknown | Route::Call { .. } | Route::Unlimited(_) => {
            ApiError::unknown_url(method, path).reply(form)
        }
    }
}

fn models(
    upstream: &Upstream,
    route: &Route<'_>,
    form: ErrorForm<'_>,
    headers: &HeaderMap,
) -> Reply {
    let key = credential(headers);
    if !key.is_some_and(|key| upstream.read(|state| state.judge.knows(key))) {
        return ApiError::unauthorized(form.vendor(), key).reply(form);
    }
    let model = |id: &str| json!({ "id": id, "object": "model", "created": upstream.started, "owned_by": "testbed" });
    if let Route::Model(id) = route {
        let is_known = upstream.models.iter().any(|known| known == id);
        return if is_known {
            Reply::json(200, &model(id))
        } else {
            ApiError::unknown_model(form.vendor(), id).reply(form)
        };
    }
    let data: Vec<Value> = upstream.models.iter().map(|id| model(id)).collect();
    Reply::json(200, &json!({ "object": "list", "data": data }))
}

fn report(report: &Report, form: ErrorForm<'_>) -> Reply {
    serde_json::to_value(report).map_or_else(
        |_| ApiError::fault(500).reply(form),
        |report| Reply::json(200, &report),
    )
}

/// A call and its connection.
struct Exchange<'a> {
    upstream: &'a Arc<Upstream>,
    connection: &'a Arc<OpenConnection>,
    arrived: u64,
    id: &'a str,
    path: &'a str,
    headers: &'a HeaderMap,
    api: Api,
    /// The model of a path that names one.
    deployment: Option<&'a str>,
}

impl Exchange<'_> {
    async fn call(&self, body: Incoming) -> Result<HttpResponse, CloseConnection> {
        let token = credential(self.headers);
        let (in_flight, ruling, outage) = match self.arrive(token) {
            Ok(arrival) => arrival,
            Err(index) => {
                drain(body).await;
                let now = self.upstream.now();
                self.upstream
                    .change(|state| state.log.close(index, CallStatus::UnknownKey, now));
                let form = self.form();
                let reply = ApiError::unauthorized(form.vendor(), token).reply(form);
                return Ok(with_id(reply, form).into_response(|| ()));
            }
        };
        if let Some(fault) = outage {
            return self.fail(in_flight, body, fault).await;
        }
        match ruling {
            Ruling::Admitted => self.serve(in_flight, body).await,
            Ruling::OverLimit(refusal) => {
                let body = read_body(body).await.unwrap_or_default();
                let model = self.parse(&body).ok().map(|request| request.model);
                let reply = over_limit(self.form(), model.as_deref(), &refusal);
                Ok(self.finish(in_flight, reply, model.as_deref()))
            }
            Ruling::Busy => {
                drain(body).await;
                let form = self.form();
                let reply = ApiError::busy(form.vendor()).reply(form);
                Ok(self.finish(in_flight, reply, None))
            }
        }
    }

    /// Lets the judge rule on the call. An unknown key has only a place in the log.
    fn arrive(&self, token: Option<&str>) -> Result<(InFlight, Ruling, Option<Fault>), LogIndex> {
        let connection = self.connection.number;
        self.upstream.change(|state| {
            state.judge.note_read(connection);
            let key = token.and_then(|token| state.judge.identify(token));
            let arrived = Duration::from_nanos(self.arrived);
            let index = state.log.open(self.path, token, self.headers, arrived);
            let key = key.ok_or(index)?;
            let outage = state.outage_at(self.arrived);
            let ruling = state.judge.arrive(key, self.arrived);
            if let (Ruling::OverLimit(refusal), None) = (&ruling, outage) {
                let wait = refusal.wait;
                state.judge.tell_wait(key, connection, wait, self.arrived);
            }
            let in_flight = InFlight::new(self.upstream, key, index, self.path, &ruling);
            Ok((in_flight, ruling, outage))
        })
    }

    fn parse(&self, body: &[u8]) -> Result<ApiRequest, ApiError> {
        match self.api.vendor() {
            Vendor::Anthropic => anthropic::check_version(self.headers)?,
            Vendor::OpenAi => {}
        }
        ApiRequest::parse(self.api, self.deployment, body)
    }

    const fn form(&self) -> ErrorForm<'_> {
        let (api, id) = (self.api, self.id);
        ErrorForm { api, id }
    }

    /// Answers an admitted call.
    async fn serve(
        &self,
        mut in_flight: InFlight,
        body: Incoming,
    ) -> Result<HttpResponse, CloseConnection> {
        let upstream = self.upstream;
        let request = match read_body(body).await {
            Ok(body) => {
                in_flight.note_body(body);
                self.parse(in_flight.body())
            }
            Err(error) => Err(error.into()),
        };
        let request = request.and_then(|request| {
            in_flight.note_request(&request);
            let request = request.check(&upstream.models, &upstream.model_rules)?;
            upstream.read(|state| state.resources.check(in_flight.key(), &request))?;
            Ok(request)
        });
        let request = match request {
            Ok(request) => request,
            Err(error) => {
                in_flight.count_as(CallEnd::Invalid);
                return Ok(self.finish(in_flight, error.reply(self.form()), None));
            }
        };
        let draw = upstream.draw(in_flight.key(), &request);
        let answer = plan(request, self.id, &draw);
        let model = answer.request.model.clone();
        let admitted = upstream.change(|state| {
            let (key, now) = (in_flight.key(), upstream.clock.nanos());
            let admitted = state.judge.admit(key, &model, answer.total_tokens(), now);
            match &admitted {
                Ok(()) => state.note_latency(draw.latency),
                Err(refusal) => {
                    let connection = self.connection.number;
                    state.judge.tell_wait(key, connection, refusal.wait, now);
                }
            }
            admitted
        });
        if let Err(refusal) = admitted {
            in_flight.count_as(CallEnd::OverLimit);
            let reply = over_limit(self.form(), Some(&model), &refusal);
            return Ok(self.finish(in_flight, reply, Some(&model)));
        }
        if !draw.latency.is_zero() {
            sleep(draw.latency).await;
        }
        self.deliver(in_flight, &answer, &draw).await
    }

    /// Answers a call of an outage with its fault, or with 503 if that makes no sense for the call.
    async fn fail(
        &self,
        mut in_flight: InFlight,
        body: Incoming,
        fault: Fault,
    ) -> Result<HttpResponse, CloseConnection> {
        let body = read_body(body).await.unwrap_or_default();
        let request = self
            .parse(&body)
            .unwrap_or_else(|_| ApiRequest::empty(self.api));
        in_flight.note_body(body);
        in_flight.note_request(&request);
        let applies = fault.applies_to(&request);
        let draw = Draw {
            latency: Duration::ZERO,
            fault: Some(if applies { fault } else { Fault::Status(503) }),
            tokens: 0,
            pace: self.upstream.pace(0),
        };
        let answer = plan(request, self.id, &draw);
        self.deliver(in_flight, &answer, &draw).await
    }

    /// Answers a call as drawn, with a fault or without.
    async fn deliver(
        &self,
        mut in_flight: InFlight,
        answer: &Answer,
        draw: &Draw,
    ) -> Result<HttpResponse, CloseConnection> {
        let upstream = self.upstream;
        in_flight.plan_answer();
        if draw.fault.is_none_or(Fault::is_answered) {
            self.keep(in_flight.key(), answer);
        }
        let model = Some(answer.request.model.as_str());
        let Some(fault) = draw.fault else {
            return Ok(self.finish(in_flight, answer.reply(&draw.pace), model));
        };
        if !fault.is_answered() {
            in_flight.count_as(CallEnd::Fault);
        }
        upstream.change(|state| {
            state.note_fault(in_flight.index(), fault);
            if fault.tells_wait() {
                let wait = Some(upstream.times.wait);
                let (key, now) = (in_flight.key(), upstream.clock.nanos());
                let connection = self.connection.number;
                state.judge.tell_wait(key, connection, wait, now);
            }
        });
        let scene = Scene {
            answer,
            pace: &draw.pace,
            times: upstream.times,
            now: unix_now(),
            orders: &self.connection.orders,
        };
        let reply = match fault.reply(&scene).await {
            Ok(reply) => reply,
            Err(close) => {
                in_flight.finish();
                return Err(close);
            }
        };
        if fault.hides_limits() {
            return Ok(self.respond(in_flight, reply));
        }
        Ok(self.finish(in_flight, reply, model))
    }

    /// Keeps a response, so that its key may ask for it and go on from it.
    fn keep(&self, key: KeyId, answer: &Answer) {
        if answer.request.links.is_kept {
            let (id, response) = (Kind::Response.id(&answer.id), responses::whole(answer));
            self.upstream
                .change(|state| state.resources.keep(id, key, &response, Bytes::new()));
        }
    }

    /// Adds the headers on limits, unless a proxy made the answer.
    fn finish(&self, in_flight: InFlight, reply: Reply, model: Option<&str>) -> HttpResponse {
        let key = in_flight.key();
        let now = self.upstream.clock.nanos();
        let usages = self
            .upstream
            .read(|state| state.judge.usages(key, model, now));
        let reply = if reply.is_foreign() {
            reply
        } else {
            match self.api.vendor() {
                Vendor::OpenAi => with_limits(reply, &usages),
                Vendor::Anthropic => anthropic::with_limits(reply, &usages),
            }
        };
        self.respond(in_flight, reply)
    }

    fn respond(&self, in_flight: InFlight, reply: Reply) -> HttpResponse {
        let spent = self.upstream.clock.nanos().saturating_sub(self.arrived);
        let spent = Duration::from_nanos(spent).as_millis();
        let reply = if reply.is_foreign() {
            reply
        } else {
            let reply = with_id(reply, self.form());
            match self.api.vendor() {
                Vendor::OpenAi => reply
                    .header("openai-processing-ms", spent)
                    .header("openai-version", "2020-10-01"),
                Vendor::Anthropic => reply,
            }
        };
        let hang_up = reply.hangs_up.then(|| Arc::clone(self.connection));
        reply.into_response(move || {
            in_flight.finish();
            if let Some(connection) = hang_up {
                connection.orders.hang_up();
            }
        })
    }
}

fn with_id(reply: Reply, form: ErrorForm<'_>) -> Reply {
    let name = match form.vendor() {
        Vendor::OpenAi => "x-request-id",
        Vendor::Anthropic => "request-id",
    };
    reply.header(name, format_args!("req_{}", form.id))
}

fn with_limits(mut reply: Reply, usages: &Usages) -> Reply {
    if let Some(usage) = usages.requests {
        reply = reply
            .header("x-ratelimit-limit-requests", usage.amount)
            .header("x-ratelimit-remaining-requests", usage.remaining())
            .header("x-ratelimit-reset-requests", go_duration(usage.reset));
    }
    if let Some(usage) = usages.tokens {
        reply = reply
            .header("x-ratelimit-limit-tokens", usage.amount)
            .header("x-ratelimit-remaining-tokens", usage.remaining())
            .header("x-ratelimit-reset-tokens", go_duration(usage.reset));
    }
    reply
}
