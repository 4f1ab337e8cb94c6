//! The handling of a request: route, arrival, ruling, delay, fault, answer.
//!
//! Invariant: each request, except for `/health` and `/testbed/`, holds an [`InFlight`] from its arrival to the end of
//! its answer.

use super::body::{Content, Intake, Outgoing};
use super::connection::BackendConnection;
use super::fault::{BackendFault, BackendFaultError, BackendFaultRule};
use super::record::SeenRequest;
use super::route::{BadRequest, Control, Page, Query, Route, parse_delay};
use super::state::{Arrival, InFlight, Origin, Refused};
use super::websocket::Handshake;
use crate::openai::FaultTimes;
use crate::reply::Reply;
use crate::server::{BrokenOff, CloseConnection, Connection, Site};
use crate::text::whole_seconds;
use alloc::sync::Arc;
use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::time::sleep;

/// The header that names the backend in each answer.
const NAME_HEADER: HeaderName = HeaderName::from_static("x-backend");

/// The header that asks for a fault, as `fault` in the query does.
const FAULT_HEADER: HeaderName = HeaderName::from_static("x-testbed-fault");

impl Site for Arc<Origin> {
    type Connection = BackendConnection;
    type Body = Outgoing;

    fn opened(&self) -> BackendConnection {
        BackendConnection::open(self)
    }

    fn max_headers(&self) -> Option<usize> {
        self.max_headers
    }

    fn respond(
        &self,
        request: Request<Incoming>,
        connection: Arc<BackendConnection>,
    ) -> impl Future<Output = Result<Response<Outgoing>, CloseConnection>> + Send + 'static + use<>
    {
        respond(Self::clone(self), request, connection)
    }
}

async fn respond(
    origin: Arc<Origin>,
    mut request: Request<Incoming>,
    connection: Arc<BackendConnection>,
) -> Result<Response<Outgoing>, CloseConnection> {
    let wanted = match Route::of(request.uri().path()) {
        Route::Page(page) => Wanted::Page(page),
        Route::WebSocket => Wanted::WebSocket(Handshake::new(&mut request).map(Box::new)),
        Route::Control(control) => {
            let (head, body) = request.into_parts();
            let intake = Intake::new(body, None);
            let exchange = Exchange::new(&origin, &connection, &head, intake);
            return exchange.control(control).await;
        }
    };
    let (head, body) = request.into_parts();
    let arrival = origin.arrive(head.uri.path());
    let record = || SeenRequest::new(arrival.number, connection.number(), &head);
    let intake = Intake::new(body, origin.record(record));
    let exchange = Exchange::new(&origin, &connection, &head, intake);
    exchange.serve(wanted, arrival).await
}

/// What a counted request asks for.
#[derive(Debug)]
enum Wanted {
    Page(Page),
    WebSocket(Result<Box<Handshake>, BadRequest>),
}

/// A request and its connection.
pub(super) struct Exchange<'a> {
    pub(super) origin: &'a Arc<Origin>,
    pub(super) connection: &'a Arc<BackendConnection>,
    pub(super) head: &'a Parts,
    pub(super) intake: Intake,
    /// Number of the request on its connection.
    pub(super) on_connection: u64,
}

/// The reason that a request gets no plain answer.
#[derive(Debug)]
pub(super) enum Failure {
    Bad(BadRequest),
    /// The caller broke off the body of its request.
    Broken(BrokenOff),
    Fault(BackendFault, FaultTimes),
}

impl From<BadRequest> for Failure {
    fn from(error: BadRequest) -> Self {
        Self::Bad(error)
    }
}

impl From<BackendFaultError> for Failure {
    fn from(error: BackendFaultError) -> Self {
        Self::Bad(BadRequest(error.to_string()))
    }
}

impl From<BrokenOff> for Failure {
    fn from(error: BrokenOff) -> Self {
        Self::Broken(error)
    }
}

impl<'a> Exchange<'a> {
    fn new(
        origin: &'a Arc<Origin>,
        connection: &'a Arc<BackendConnection>,
        head: &'a Parts,
        intake: Intake,
    ) -> Self {
        Self {
            origin,
            connection,
            head,
            intake,
            on_connection: connection.note_request(),
        }
    }

    pub(super) fn query(&self) -> Query<'_> {
        Query(self.head.uri.query())
    }

    /// Answers a request that was counted.
    async fn serve(
        mut self,
        wanted: Wanted,
        arrival: Arrival,
    ) -> Result<Response<Outgoing>, CloseConnection> {
        let mut in_flight = arrival.in_flight;
        if let Some(refused) = arrival.refusal {
            self.intake.drain().await?;
            return Ok(self.deliver(self.refuse(&refused), Some(in_flight)));
        }
        if !arrival.delay.is_zero() {
            sleep(arrival.delay).await;
        }
        let answer = match (self.asked_fault(arrival.fault), wanted) {
            (Err(failure), _) => Err(failure),
            (Ok(()), Wanted::Page(page)) => self.answer(page).await,
            (Ok(()), Wanted::WebSocket(Ok(handshake))) => {
                Ok(self.upgrade(*handshake, &mut in_flight))
            }
            (Ok(()), Wanted::WebSocket(Err(error))) => Err(error.into()),
        };
        self.end(answer, Some(in_flight)).await
    }

    /// Answers a request that is not counted.
    async fn control(mut self, control: Control) -> Result<Response<Outgoing>, CloseConnection> {
        let answer = match control {
            Control::Report => Ok(self.report()),
            Control::Set => self.set(),
            Control::Health => {
                let is_healthy = self.origin.probe();
                self.asked_fault(None).map(|()| self.health(is_healthy))
            }
        };
        self.end(answer, None).await
    }

    /// Delivers an answer, or what comes in its place.
    async fn end(
        &mut self,
        answer: Result<Response<Content>, Failure>,
        in_flight: Option<InFlight>,
    ) -> Result<Response<Outgoing>, CloseConnection> {
        match answer {
            Ok(response) => Ok(self.deliver(response, in_flight)),
            Err(Failure::Bad(error)) => {
                let error = self.json(StatusCode::BAD_REQUEST, "error", &json!(error.0));
                Ok(self.deliver(error, in_flight))
            }
            Err(Failure::Broken(error)) => Err(error.into()),
            // Boxed, so that the plain answers are not moved with room for it.
            Err(Failure::Fault(fault, times)) => Box::pin(self.fail(fault, times, in_flight)).await,
        }
    }

    fn deliver(
        &self,
        mut response: Response<Content>,
        mut in_flight: Option<InFlight>,
    ) -> Response<Outgoing> {
        let name = self.origin.name.clone();
        response.headers_mut().insert(NAME_HEADER, name);
        if let Some(in_flight) = &mut in_flight {
            in_flight.note_status(response.status().as_u16());
        }
        // The body of an answer to HEAD is never asked for.
        if self.head.method == Method::HEAD
            && let Some(in_flight) = in_flight.take()
        {
            in_flight.finish();
        }
        response.map(|content| Outgoing::new(content, in_flight))
    }

    /// Fails with the fault that the request asks for, or else with the one that was drawn for it.
    fn asked_fault(&self, drawn: Option<BackendFault>) -> Result<(), Failure> {
        let header = self.head.headers.get(FAULT_HEADER);
        let header = header.map(|value| value.to_str().unwrap_or_default());
        let asked = self.query().get("fault").or(header);
        let asked = asked.map(str::parse).transpose()?;
        match asked.or(drawn) {
            Some(fault) => Err(Failure::Fault(fault, self.origin.times)),
            None => Ok(()),
        }
    }

    /// Answers with a fault, after the body of the request unless its query says `unread`.
    async fn fail(
        &mut self,
        fault: BackendFault,
        times: FaultTimes,
        mut in_flight: Option<InFlight>,
    ) -> Result<Response<Outgoing>, CloseConnection> {
        if let Some(in_flight) = &mut in_flight {
            in_flight.note_fault(fault);
        }
        if !self.query().has("unread") {
            self.intake.drain().await?;
        }
        let reply = match fault {
            BackendFault::Status(status) => {
                if let Some(in_flight) = &mut in_flight {
                    in_flight.note_status(status);
                }
                Reply::new(
                    status,
                    "application/json",
                    self.text("error", &json!("a fault")),
                )
            }
            BackendFault::Transport(fault) => {
                let plain = self.plain_reply();
                fault.reply(plain, self.connection.orders(), times).await?
            }
        };
        let hang_up = reply.hangs_up.then(|| Arc::clone(self.connection));
        let response = reply.into_response(move || {
            if let Some(in_flight) = in_flight {
                in_flight.finish();
            }
            if let Some(connection) = hang_up {
                connection.orders().hang_up();
            }
        });
        Ok(response.map(|payload| Outgoing::new(Content::Scripted(payload), None)))
    }

    fn refuse(&self, refused: &Refused) -> Response<Content> {
        let Refused::OverLimit(refusal) = refused else {
            return self.busy();
        };
        let problem = format!("over {}", refusal.limit);
        let mut response = self.json(StatusCode::TOO_MANY_REQUESTS, "error", &json!(problem));
        let seconds = refusal.wait.map_or(1, whole_seconds).to_string();
        if let Ok(seconds) = HeaderValue::from_str(&seconds) {
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response
    }

    fn busy(&self) -> Response<Content> {
        self.json(StatusCode::SERVICE_UNAVAILABLE, "error", &json!("busy"))
    }

    fn upgrade(&self, handshake: Handshake, in_flight: &mut InFlight) -> Response<Content> {
        match self.origin.open_websocket() {
            Some(open) => handshake.accept(open, self.origin.max_message),
            None => {
                in_flight.note_busy();
                self.busy()
            }
        }
    }

    fn report(&self) -> Response<Content> {
        match serde_json::to_vec(&self.origin.report()) {
            Ok(report) => self.json_bytes(StatusCode::OK, report.into()),
            Err(error) => {
                let problem = json!(error.to_string());
                self.json(StatusCode::INTERNAL_SERVER_ERROR, "error", &problem)
            }
        }
    }

    /// Changes settings: `POST /testbed/set?healthy=false&delay=50ms&fault=close=20%`, all of them or none.
    fn set(&self) -> Result<Response<Content>, Failure> {
        if self.head.method != Method::POST {
            let problem = json!("write it as POST");
            let mut response = self.json(StatusCode::METHOD_NOT_ALLOWED, "error", &problem);
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("POST"));
            return Ok(response);
        }
        let (mut is_healthy, mut delay, mut rules) = (None, None, None);
        for (name, value) in self.query().pairs() {
            match (name, value) {
                ("healthy", "true" | "false") => is_healthy = Some(value == "true"),
                ("delay", _) => delay = Some(parse_delay(value)?),
                ("fault", "none") => rules = Some(Vec::new()),
                ("fault", _) => {
                    let rule: BackendFaultRule = value.parse()?;
                    rules.get_or_insert_with(Vec::new).push(rule);
                }
                _ => {
                    let advice = "write healthy=true or false, delay=50ms, fault=none or a rule";
                    return Err(BadRequest(format!("{name}={value}: {advice}")).into());
                }
            }
        }
        let (is_healthy, delay) = self.origin.change(|state| {
            state.is_healthy = is_healthy.unwrap_or(state.is_healthy);
            state.delay = delay.unwrap_or(state.delay);
            if let Some(rules) = rules {
                state.dice.set_rules(rules);
            }
            (state.is_healthy, state.delay)
        });
        let now = json!({ "healthy": is_healthy, "delay_ms": delay.as_millis() });
        Ok(self.json(StatusCode::OK, "now", &now))
    }
}
