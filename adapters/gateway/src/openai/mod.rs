//! Calls to services with keys: one address for many keys, whose limits all callers together keep.
//!
//! ```text
//! caller ── service ── call: body, model, tokens ── route ── attempt: lease, send, verdict, repeat ── reply
//!                                           └ models                                    (whole, relayed, held)
//! ```
//! Invariant: each attempt has a lease of its own, which ends once, with what the service said of its cost; what a
//! request asks and what an answer means is decided by `leasehold-protocol`.

mod attempt;
mod call;
mod held;
mod models;
mod relayed;
mod reply;
mod route;
mod settle;
mod span;

pub(crate) use held::HeldStream;
pub(crate) use models::KnownModels;
pub(crate) use relayed::RelayedBody;
pub(crate) use settle::Settle;

use crate::proxy::AnswerBody;
use crate::record::Record;
use crate::service::{self, Asked};
use attempt::Attempts;
use call::Call;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use leasehold_protocol::Refusal;
use std::rc::Rc;

/// Answers a request, in the words of the service that it is for.
pub(crate) async fn answer(
    asked: Asked<'_>,
    body: Incoming,
    record: &mut Record,
) -> Response<AnswerBody> {
    match serve(&asked, body, record).await {
        Ok(response) => response,
        Err(refusal) => {
            record.refuse(refusal.status, refusal.code, &refusal.message);
            let kind = leasehold_protocol::Call::of_path(asked.target.path.path());
            reply::refused(&refusal, kind, &record.request_id)
        }
    }
}

async fn serve(
    asked: &Asked<'_>,
    body: Incoming,
    record: &mut Record,
) -> Result<Response<AnswerBody>, Refusal> {
    let identity = service::check(asked)?;
    if asked.parts.method == Method::GET
        && let Some(wanted) = models::wanted(asked.target.path.path())
    {
        return models::answer(asked, &identity, wanted, record).await;
    }
    let mut call = Call::read(asked, identity, body).await?;
    check_model(&call)?;
    let targets = route::targets(asked, &call)?;
    call.reserve(asked.table.callers(), &targets).await?;
    let worker = Rc::clone(&asked.connection.worker);
    let attempts = Attempts::new(call, targets, worker, record);
    held::answer(attempts, asked.listener.settings(), record).await
}

/// Refuses models that are not for the caller.
fn check_model(call: &Call) -> Result<(), Refusal> {
    let model = &call.asked.model;
    match &call.identity.caller {
        Some(caller) if !model.is_empty() && !caller.may_ask(model) => {
            let name = &caller.settings.name;
            let text = format!("the model {model:?} is not among those of the caller {name}");
            Err(Refusal::new(StatusCode::FORBIDDEN, "model_not_found", text))
        }
        Some(_) | None => Ok(()),
    }
}
