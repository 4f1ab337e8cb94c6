//! Calls to services with keys: one address for many keys, whose limits all callers together keep.
//!
//! ```text
//! caller ── access ── call: body, model, cost ── attempt: lease, send, verdict, repeat ── reply (whole, relayed, held)
//! ```
//! Invariant: each attempt has a lease of its own, which ends once, with what the service said of its cost; what a
//! request asks and what an answer means is decided by `leasehold-protocol`.

mod access;
mod attempt;
mod call;
mod held;
mod relayed;
mod reply;
mod settle;

pub(crate) use held::HeldStream;
pub(crate) use relayed::RelayedBody;
pub(crate) use settle::Settle;

use crate::backend_pool::BackendPool;
use crate::listener::Listener;
use crate::proxy::{AnswerBody, Connection, Target};
use crate::record::{End, Record};
use attempt::Attempts;
use call::Call;
use core::net::IpAddr;
use http::Response;
use http::request::Parts;
use hyper::body::Incoming;
use leasehold_protocol::Refusal;
use std::rc::Rc;
use std::sync::Arc;

/// A request to a listener that stands for a service.
pub(crate) struct Asked<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) listener: &'a Listener,
    pub(crate) parts: &'a Parts,
    pub(crate) target: &'a Target,
    pub(crate) client: Option<IpAddr>,
    pub(crate) pool: Arc<BackendPool>,
}

/// Answers a request, in the words of the service that it is for.
pub(crate) async fn answer(
    asked: Asked<'_>,
    body: Incoming,
    record: &mut Record,
) -> Response<AnswerBody> {
    let kind = leasehold_protocol::Call::of_path(asked.target.path.path());
    match serve(asked, body, record).await {
        Ok(response) => response,
        Err(refusal) => {
            record.end = End::Refused(refusal.code);
            reply::refused(&refusal, kind, &record.request_id)
        }
    }
}

async fn serve(
    asked: Asked<'_>,
    body: Incoming,
    record: &mut Record,
) -> Result<Response<AnswerBody>, Refusal> {
    access::check(asked.listener, asked.connection, asked.parts)?;
    let worker = &asked.connection.worker;
    let call = Call::read(&asked, worker.shared(), body).await?;
    let attempts = Attempts::new(call, asked.pool, Rc::clone(worker), record);
    held::answer(attempts, record).await
}
