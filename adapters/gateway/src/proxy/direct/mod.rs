//! Plain exchanges without a parser between their two connections: heads are rewritten, bodies passed on as they come.
//!
//! ```text
//! caller (bytes ahead) ── request (head, is it plain?) ── transport: send, await the answer ── relay: pass the answer on
//! ```
//! Invariant: a request that is not plain, for whatever reason, is left to hyper as it came, with all that follows it.

mod answer;
mod caller;
mod fuzz;
mod relay;
mod request;
mod text;
mod transport;
mod upload;

pub(super) use caller::CallerSide;
#[doc(hidden)]
pub use fuzz::{DirectAnswer, plain_request, read_answer};

use super::connection::Connection;
use super::exchange::{Exchange, healthy_or_not};
use super::fields::Fields;
use super::refusal::Refusal;
use crate::admin;
use crate::record::Record;
use caller::Next;
use core::future::poll_fn;
use core::pin::pin;
use core::task::{Poll, ready};
use leasehold_config::{ListenerBounds, Serve};
use relay::{Closing, Relay};
use request::Plain;
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncWrite};
use transport::DirectTransport;

/// The fate of a connection after an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// It takes the next request.
    Next,
    /// It closes.
    Close,
    /// It closes although more of the request may come.
    CloseUnread,
    /// The request is left to hyper.
    Other,
}

/// Serves a connection's plain requests; returns whether one came that is left to hyper.
pub(super) async fn serve<S>(
    caller: &CallerSide<S>,
    connection: &Rc<Connection>,
    bounds: &ListenerBounds,
) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let request = match caller.next(bounds).await {
            Next::Plain(request) => request,
            Next::Other => return true,
            Next::Closed => return false,
        };
        let mut exchange = pin!(exchange(caller, connection, &request));
        let after = poll_fn(|context| match exchange.as_mut().poll(context) {
            Poll::Ready(after) => Poll::Ready(after),
            // An exchange whose caller has left ends where it is.
            Poll::Pending => caller.poll_left(context).map(|()| After::Close),
        });
        match after.await {
            After::Next => {}
            After::Other => return true,
            After::Close => {
                caller.close(false).await;
                return false;
            }
            After::CloseUnread => {
                caller.close(true).await;
                return false;
            }
        }
    }
}

/// Answers a request.
async fn exchange<S>(caller: &CallerSide<S>, connection: &Rc<Connection>, request: &Plain) -> After
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let parts = &request.parts;
    let fields = Fields::of(&parts.headers);
    let table = connection.worker.shared().table();
    let Ok(listener) = table.listener(connection.listener) else {
        return After::Other;
    };
    let settings = listener.settings();
    let is_too_long = settings
        .bounds
        .max_body
        .is_some_and(|max| request.body > max);
    if settings.serve != Serve::Http
        || is_too_long
        || admin::takes(&table, connection.listener, parts.uri.path())
    {
        return After::Other;
    }
    let exchange = Exchange {
        connection,
        parts,
        fields,
    };
    let Ok(target) = exchange.target(request.body > 0) else {
        return After::Other;
    };
    caller.begin(request);
    let closes = connection.is_last_request() || request.closes;
    let mut record = Box::new(Record::new(
        &connection.worker,
        &connection.state,
        parts,
        &exchange.fields,
    ));
    record.begin_span(&parts.headers);
    let closing = Closing {
        worker: &connection.worker,
        closes,
    };
    let asked = exchange.asked(&table, listener, target, &mut record);
    let outgoing = asked.and_then(|asked| exchange.outgoing(&asked, request.body > 0));
    let (mut outgoing, mut cookie) = match outgoing {
        Ok(outgoing) => outgoing,
        Err(refusal) => return Box::pin(refuse(caller, closing, refusal, record)).await,
    };
    let sending = async move {
        let mut transport = DirectTransport { caller, connection };
        let answered = outgoing.send(&mut transport, &mut record).await;
        (answered, outgoing.pool, record)
    };
    let mut sending = pin!(sending);
    // Most answers are written whole in this poll, so that their relay stays on the stack. Another is polled twice.
    let progress = poll_fn(|context| {
        let (answered, pool, mut record) = ready!(sending.as_mut().poll(context));
        let answered = match answered {
            Ok(answered) => answered,
            Err(refusal) => return Poll::Ready(Progress::Refused(refusal, record)),
        };
        record.status = answered.sent.head.status;
        let release = healthy_or_not(&answered.lease, &mut record);
        let cookie = cookie.take();
        let mut relay = Relay::new(caller, closing, answered, release, pool, record, cookie);
        Poll::Ready(match relay.poll(context) {
            Poll::Ready(after) => Progress::Ended(after),
            Poll::Pending => Progress::Relayed(Box::new(relay)),
        })
    });
    match progress.await {
        Progress::Ended(after) => after,
        Progress::Relayed(mut relay) => poll_fn(|context| relay.poll(context)).await,
        Progress::Refused(refusal, record) => {
            Box::pin(refuse(caller, closing, refusal, record)).await
        }
    }
}

/// Answers a request that no backend has answered.
async fn refuse<S>(
    caller: &CallerSide<S>,
    closing: Closing<'_>,
    refusal: Refusal,
    mut record: Box<Record>,
) -> After
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    record.refuse(refusal.status, refusal.code, &refusal.text);
    let response = refusal.into_response();
    record.status = response.status();
    relay::answer_by_itself(caller, closing, response, record).await
}

/// The state of an exchange after its first poll with an answer or a refusal.
enum Progress<'a, S> {
    Ended(After),
    Relayed(Box<Relay<'a, S>>),
    Refused(Refusal, Box<Record>),
}
