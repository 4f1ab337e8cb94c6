//! One exchange: a request in, an answer out, in a straight line of small steps.
//!
//! Invariant: every request gets an answer, and every refusal says why.

use super::answer::{AnswerBody, BackendBody};
use super::caller_body::CallerBody;
use super::connection::Connection;
use super::fields::Fields;
use super::forward::{Answered, Outgoing};
use super::head::Target;
use super::headers::{Caller, X_REQUEST_ID, client_address, own, remove_hop_by_hop};
use super::hyper_transport::{HyperTransport, passing_interim};
use super::refusal::Refusal;
use super::upgrade::Tunnel;
use crate::admin;
use crate::affinity::Session;
use crate::backend::Backend;
use crate::backend_pool::BackendPool;
use crate::caller_limits::OverLimit;
use crate::comfyui::{self, CallerSocket};
use crate::leases;
use crate::listener::Listener;
use crate::openai;
use crate::record::Record;
use crate::service;
use crate::shared::Table;
use crate::upstream::Sent;
use core::convert::Infallible;
use core::mem;
use core::net::{IpAddr, Ipv4Addr};
use http::header::CONNECTION;
use http::request::Parts;
use http::{Extensions, HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use leasehold_config::{Serve, UpstreamBounds};
use leasehold_protocol::{BackendHealth, backend_health};
use leasehold_sync::{Lease, Outcome, Release};
use leasehold_tokio::LeasedBody;
use std::rc::Rc;
use std::sync::Arc;

/// Answers a request.
pub(crate) async fn answer(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let (mut parts, body) = request.into_parts();
    let fields = Fields::of(&parts.headers);
    let asks_upgrade = fields.upgrade.is_some();
    let upgraded = asks_upgrade.then(|| upgrade_of(&mut parts.extensions));
    let closes = connection.is_last_request() || asks_upgrade;
    let mut record = Box::new(Record::new(
        &connection.worker,
        &connection.state,
        &parts,
        &fields,
    ));
    let exchange = Exchange {
        connection: &connection,
        parts: &parts,
        fields,
    };
    let mut response = match exchange.run(body, upgraded, &mut record).await {
        Ok(Passed::Whole(response)) => response,
        Ok(Passed::Upgraded(mut response, tunnel)) => {
            record.tell_limits(response.headers_mut());
            tunnel.start(connection, record);
            return Ok(response);
        }
        Ok(Passed::Socket(response, socket)) => {
            record.status = response.status();
            socket.start(connection, record);
            return Ok(response);
        }
        Err(refusal) => {
            record.refuse(refusal.status, refusal.code, &refusal.text);
            refusal.into_response()
        }
    };
    record.status = response.status();
    record.tell_limits(response.headers_mut());
    if closes || connection.worker.drain().has_begun() {
        // What follows a request for another protocol was not checked.
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response.body_mut().log(record);
    Ok(response)
}

/// Returns what becomes of a connection whose request asks for another protocol.
fn upgrade_of(extensions: &mut Extensions) -> OnUpgrade {
    let mut request = Request::new(());
    *request.extensions_mut() = mem::take(extensions);
    hyper::upgrade::on(request)
}

/// A request and the connection that it came on.
pub(super) struct Exchange<'a> {
    pub(super) connection: &'a Connection,
    pub(super) parts: &'a Parts,
    pub(super) fields: Fields<'a>,
}

/// An answer that is passed on.
enum Passed {
    Whole(Response<AnswerBody>),
    Upgraded(Response<AnswerBody>, Tunnel),
    /// A websocket of the gateway's own.
    Socket(Response<AnswerBody>, CallerSocket),
}

impl<'a> Exchange<'a> {
    async fn run(
        &self,
        body: Incoming,
        upgraded: Option<OnUpgrade>,
        record: &mut Record,
    ) -> Result<Passed, Refusal> {
        let has_body = !body.is_end_stream();
        let target = match self.target(has_body) {
            Ok(target) => target,
            Err(refusal) => {
                record.begin_span(&self.parts.headers);
                return Err(refusal);
            }
        };
        let table = self.connection.worker.shared().table();
        let listener = table.listener(self.connection.listener)?;
        let is_open =
            listener.settings().serve == Serve::Comfyui && comfyui::is_open(target.path.path());
        if !is_open && admin::takes(&table, self.connection.listener, target.path.path()) {
            record.is_counted = false;
            let asked = admin::Asked {
                connection: self.connection,
                parts: self.parts,
                target,
            };
            return Ok(Passed::Whole(admin::answer(&asked, &table, body).await));
        }
        record.begin_span(&self.parts.headers);
        let asked = self.asked(&table, listener, target, record)?;
        match listener.settings().serve {
            Serve::Openai => Ok(Passed::Whole(openai::answer(asked, body, record).await)),
            Serve::Leases => Ok(Passed::Whole(leases::answer(asked, body, record).await)),
            Serve::Comfyui => {
                let (response, socket) = comfyui::answer(asked, body, upgraded, record).await;
                Ok(match socket {
                    Some(socket) => Passed::Socket(response, socket),
                    None => Passed::Whole(response),
                })
            }
            Serve::Http => self.forward(&asked, body, upgraded, record).await,
        }
    }

    /// Passes the request on to a backend, and the answer back.
    async fn forward(
        &self,
        asked: &service::Asked<'_>,
        body: Incoming,
        upgraded: Option<OnUpgrade>,
        record: &mut Record,
    ) -> Result<Passed, Refusal> {
        let (mut outgoing, cookie) = self.outgoing(asked, !body.is_end_stream())?;
        let bounds = &asked.listener.settings().bounds;
        let interim = &self.connection.interim;
        let mut transport = HyperTransport {
            idle: self.connection.worker.idle(),
            interim: interim.get_or_init(|| passing_interim(&self.connection.state)),
            body: Some(CallerBody::new(body, bounds.max_body, bounds.body_idle)),
        };
        let answered = outgoing.send(&mut transport, record).await?;
        let mut passed = self.pass_back(
            answered,
            outgoing.pool.settings().upstream,
            upgraded,
            record,
        );
        if let (Passed::Whole(response), Some(cookie)) = (&mut passed, cookie) {
            response
                .headers_mut()
                .append(http::header::SET_COOKIE, cookie);
        }
        Ok(passed)
    }

    /// Prepares a request for the pool that it goes to, with the cookie of a session that it begins.
    pub(super) fn outgoing(
        &self,
        asked: &service::Asked<'a>,
        has_body: bool,
    ) -> Result<(Outgoing<'a>, Option<HeaderValue>), Refusal> {
        let pool = route(asked.listener, asked.table, asked.target)?;
        let affinity = pool.settings().affinity.as_ref();
        let session = Session::of(affinity, &self.parts.headers, asked.client);
        let outgoing = Outgoing {
            parts: self.parts,
            target: asked.target,
            caller: self.caller(asked.listener, asked.target),
            pool: Arc::clone(pool),
            shared: self.connection.worker.shared(),
            asked: pool.request(asked.client, &session),
            has_body,
        };
        Ok((outgoing, session.cookie))
    }

    /// Takes the request from its caller's limits.
    pub(super) fn asked(
        &self,
        table: &'a Table,
        listener: &'a Listener,
        target: Target<'a>,
        record: &mut Record,
    ) -> Result<service::Asked<'a>, Refusal> {
        Ok(service::Asked {
            connection: self.connection,
            table,
            listener,
            parts: self.parts,
            target,
            client: self.client(listener, record)?,
        })
    }

    /// Checks the head; a host that was found right is not looked at again.
    pub(super) fn target(&self, has_body: bool) -> Result<Target<'a>, Refusal> {
        let mut known = self.connection.host.borrow_mut();
        let target = Target::new(self.parts, &self.fields, has_body, known.as_ref())?;
        if target.host != known.as_ref() {
            *known = target.host.and_then(own);
        }
        Ok(target)
    }

    /// Finds the client's address, and takes a request from the limits.
    fn client(&self, listener: &Listener, record: &mut Record) -> Result<Option<IpAddr>, Refusal> {
        let peer = self.connection.peer.as_ref();
        let client = peer.map(|peer| {
            let trusts = |hop| listener.trusts(hop);
            let client = client_address(&self.parts.headers, peer.address, trusts);
            record.client = match client == peer.address {
                true => Some(peer.text.clone()),
                false => HeaderValue::from_str(&client.to_string()).ok(),
            };
            client
        });
        self.take_from_limits(listener, client, record)?;
        Ok(client)
    }

    /// Takes a request from the listener's limits, which the answer tells.
    fn take_from_limits(
        &self,
        listener: &Listener,
        client: Option<IpAddr>,
        record: &mut Record,
    ) -> Result<(), Refusal> {
        let shared = self.connection.worker.shared();
        let Some(limits) = listener.limits() else {
            shared.totals().count_limit(true);
            return Ok(());
        };
        let unknown = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let admission = limits.admit(client.unwrap_or(unknown), shared.tick());
        shared.totals().count_limit(admission.answer.is_ok());
        record.limits = Some(Box::new(admission.told));
        admission.answer.map_err(|OverLimit { limit, wait }| {
            let text = format!("the limit of {limit} requests is used up");
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, "limit", text).wait(wait)
        })
    }

    fn caller(&self, listener: &Listener, target: Target<'a>) -> Caller<'a> {
        let peer = self.connection.peer.as_ref();
        Caller {
            peer,
            is_trusted: peer.is_some_and(|peer| listener.trusts(peer.address)),
            scheme: "http",
            host: target.host,
        }
    }

    /// Makes the answer from a backend's.
    fn pass_back(
        &self,
        answered: Answered<Sent>,
        bounds: UpstreamBounds,
        upgraded: Option<OnUpgrade>,
        record: &mut Record,
    ) -> Passed {
        let Answered { sent, lease } = answered;
        record.status = sent.response.status();
        let release = healthy_or_not(&lease, record);
        let mut response = sent.response;
        if let (StatusCode::SWITCHING_PROTOCOLS, Some(caller)) = (response.status(), upgraded) {
            let backend = hyper::upgrade::on(&mut response);
            sent.connection.detach();
            let tunnel = Tunnel {
                caller,
                backend,
                lease,
            };
            return Passed::Upgraded(response.map(|_| AnswerBody::text("")), tunnel);
        }
        let (mut parts, body) = response.into_parts();
        remove_hop_by_hop(&mut parts.headers);
        parts
            .headers
            .insert(X_REQUEST_ID, record.request_id.clone());
        parts.version = http::Version::HTTP_11;
        let worker = Rc::clone(&self.connection.worker);
        let body = BackendBody::new(body, sent.connection, &lease, bounds, worker);
        Passed::Whole(Response::from_parts(
            parts,
            AnswerBody::of_backend(LeasedBody::new(body, lease, release)),
        ))
    }
}

/// Notes that an answer's head is there, and returns how its lease ends if all of the body comes.
pub(super) fn healthy_or_not(lease: &Lease<Backend>, record: &mut Record) -> Release {
    let first_byte = record.elapsed();
    record.first_byte = Some(first_byte);
    record.attempt_answered(record.status);
    let outcome = match backend_health(record.status) {
        BackendHealth::Works => Outcome::Ok,
        BackendHealth::Fails => {
            lease.note_failure(&format_args!("it answered with status {}", record.status));
            Outcome::Failed
        }
    };
    Release::from(outcome).latency(first_byte.saturating_sub(record.waited))
}

fn route<'t>(
    listener: &Listener,
    table: &'t Table,
    target: Target<'_>,
) -> Result<&'t Arc<BackendPool>, Refusal> {
    let host = listener
        .routes_by_host()
        .then(|| target.host_name())
        .flatten();
    let route = listener.route(host.as_deref(), target.path.path(), None);
    let pool = route.and_then(|route| table.pool(route.pool()?));
    pool.ok_or_else(|| {
        Refusal::new(
            StatusCode::NOT_FOUND,
            "no_route",
            "no pool serves this host and path",
        )
    })
}
