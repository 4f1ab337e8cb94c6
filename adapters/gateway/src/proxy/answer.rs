//! The body of an answer on its way to the caller.
//!
//! Invariant: at its end, however it comes, its lease is released, its line is logged and, if all of it was read, its
//! connection is kept.

use super::caller_io::CallerState;
use crate::backend::Backend;
use crate::clock::poll_time;
use crate::leases::Undelivered;
use crate::openai::{HeldStream, RelayedBody, Settle};
use crate::patience::Patience;
use crate::record::{End, Record};
use crate::upstream::BackendConnection;
use crate::worker::Worker;
use bytes::Bytes;
use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use leasehold_config::UpstreamBounds;
use leasehold_tokio::LeasedBody;
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::Instant;

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    source: Source,
    /// Told once what came before it was written, because the parser writes nothing any more after an error.
    cut: Option<CutAnswer>,
    record: Option<Box<Record>>,
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all answers are the largest"
)]
enum Source {
    /// The gateway's own text.
    Own(Option<Bytes>),
    /// A stream of the gateway's own.
    Events(tokio::sync::mpsc::Receiver<Bytes>),
    /// A backend's body.
    Backend(LeasedBody<BackendBody, Backend>),
    /// A backend's body without a lease.
    PassedOn(Box<BackendBody>),
    /// A service's stream of events, which this worker hears out when its caller has left.
    Relayed(Box<Relayed>, Option<Rc<Worker>>),
    /// A stream that has begun before its answer.
    Held(Box<HeldStream>),
    /// An answer with leases, and what they are given back by if it can't be written.
    Lent(Option<Bytes>, Option<(Undelivered, Arc<CallerState>)>),
}

/// A service's stream of events.
type Relayed = LeasedBody<RelayedBody, Backend, Settle>;

/// Why an answer's body was cut.
#[derive(Debug)]
pub(crate) enum CutAnswer {
    /// The backend's connection broke.
    Broken(hyper::Error),
    /// The backend stalled.
    Stalled,
}

impl fmt::Display for CutAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(error) => write!(f, "the answer was cut: {error}"),
            Self::Stalled => f.write_str("the answer stalled"),
        }
    }
}

impl core::error::Error for CutAnswer {}

impl AnswerBody {
    /// Makes a body of the gateway's own.
    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        Self::from(Source::Own(Some(text.into())))
    }

    /// Makes a body without end, which ends when its sender is dropped.
    pub(crate) fn events(receiver: tokio::sync::mpsc::Receiver<Bytes>) -> Self {
        Self::from(Source::Events(receiver))
    }

    /// Makes a body that a backend sends.
    pub(crate) fn of_backend(body: LeasedBody<BackendBody, Backend>) -> Self {
        Self::from(Source::Backend(body))
    }

    /// Makes a body that a backend sends, where no lease is needed.
    pub(crate) fn passed_on(body: BackendBody) -> Self {
        Self::from(Source::PassedOn(Box::new(body)))
    }

    /// Makes a body of a service's events, which a worker hears out when its caller has left.
    pub(crate) fn relayed(body: Relayed, drains: Option<Rc<Worker>>) -> Self {
        Self::from(Source::Relayed(Box::new(body), drains))
    }

    /// Makes a body that waits for its answer.
    pub(crate) fn held(stream: HeldStream) -> Self {
        Self::from(Source::Held(Box::new(stream)))
    }

    /// Makes a body with leases, which are given back unless it is written.
    pub(crate) fn lent(
        text: impl Into<Bytes>,
        undelivered: Option<(Undelivered, Arc<CallerState>)>,
    ) -> Self {
        Self::from(Source::Lent(Some(text.into()), undelivered))
    }

    /// Takes the text, if it is one that was read before.
    pub(crate) fn take_text(&mut self) -> Option<Bytes> {
        match &mut self.source {
            Source::Own(text) | Source::Lent(text, _) => Some(text.take().unwrap_or_default()),
            Source::Events(_)
            | Source::Backend(_)
            | Source::PassedOn(_)
            | Source::Relayed(..)
            | Source::Held(_) => None,
        }
    }

    fn from(source: Source) -> Self {
        Self {
            source,
            cut: None,
            record: None,
        }
    }

    /// Logs this record at the body's end.
    pub(crate) fn log(&mut self, record: Box<Record>) {
        self.record = Some(record);
    }

    fn has_ended(&self) -> bool {
        if self.cut.is_some() {
            return false;
        }
        match &self.source {
            Source::Own(text) | Source::Lent(text, _) => text.as_ref().is_none_or(Bytes::is_empty),
            Source::Events(_) => false,
            Source::Backend(body) => body.is_end_stream(),
            Source::PassedOn(body) => body.is_end_stream(),
            Source::Relayed(body, _) => body.is_end_stream(),
            Source::Held(body) => body.is_end_stream(),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        let has_ended = self.has_ended();
        if let Some(record) = &mut self.record
            && record.end == End::CallerLeft
            && has_ended
        {
            record.end = End::Complete;
        }
        if has_ended {
            return;
        }
        if let Source::Relayed(mut body, Some(worker)) =
            core::mem::replace(&mut self.source, Source::Own(None))
        {
            // What it has used is known at its end.
            worker.finish_alone(async move { while body.frame().await.is_some() {} });
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = CutAnswer;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutAnswer>>> {
        let this = self.get_mut();
        if let Some(cut) = this.cut.take() {
            return Poll::Ready(Some(Err(cut)));
        }
        let frame = match &mut this.source {
            Source::Own(text) => Poll::Ready(
                text.take()
                    .filter(|text| !text.is_empty())
                    .map(|text| Ok(Frame::data(text))),
            ),
            Source::Lent(text, undelivered) => {
                if let Some((undelivered, caller)) = undelivered.take() {
                    caller.is_on_its_way(undelivered);
                }
                Poll::Ready(text.take().map(|text| Ok(Frame::data(text))))
            }
            Source::Events(events) => events
                .poll_recv(context)
                .map(|event| event.map(|event| Ok(Frame::data(event)))),
            Source::Backend(body) => Pin::new(body).poll_frame(context),
            Source::PassedOn(body) => Pin::new(&mut **body).poll_frame(context),
            Source::Relayed(body, _) => Pin::new(body).poll_frame(context),
            Source::Held(body) => {
                let frame = Pin::new(&mut *body).poll_frame(context);
                if let (Some(origin), Some(record)) = (body.take_origin(), &mut this.record) {
                    origin.note(record);
                }
                frame
            }
        };
        if let (Some(record), Poll::Ready(Some(frame))) = (&mut this.record, &frame) {
            match frame {
                Ok(frame) => record.count(frame.data_ref().map_or(0, Bytes::len)),
                Err(CutAnswer::Broken(_)) => record.end = End::BackendBroke,
                Err(CutAnswer::Stalled) => record.end = End::BackendStalled,
            }
        }
        if let Poll::Ready(Some(Err(cut))) = frame {
            this.cut = Some(cut);
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(text) | Source::Lent(text, _) => {
                SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64)
            }
            Source::Events(_) | Source::Relayed(..) | Source::Held(_) => SizeHint::default(),
            Source::Backend(body) => body.size_hint(),
            Source::PassedOn(body) => body.size_hint(),
        }
    }
}

/// A backend's body, which gives its connection back once it was read to the end.
#[derive(Debug)]
pub(crate) struct BackendBody {
    body: Incoming,
    bounds: UpstreamBounds,
    kept: Option<(Rc<Worker>, u64, BackendConnection)>,
    waiting: Patience,
    since: Option<Instant>,
}

impl BackendBody {
    pub(crate) fn new(
        body: Incoming,
        connection: BackendConnection,
        backend: &Backend,
        bounds: UpstreamBounds,
        worker: Rc<Worker>,
    ) -> Self {
        Self {
            body,
            bounds,
            kept: Some((worker, backend.number(), connection)),
            waiting: Patience::default(),
            since: None,
        }
    }

    /// Polls the body, and its connection where the body needs it: for more of it, or to find out that it has ended.
    fn poll_body(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let mut polled = Pin::new(&mut self.body).poll_frame(context);
        if let Some((_, _, connection)) = &mut self.kept {
            if polled.is_pending() {
                connection.poll(context);
                polled = Pin::new(&mut self.body).poll_frame(context);
            }
            if self.body.is_end_stream() && !connection.is_idle() {
                connection.poll(context);
            }
        }
        polled
    }

    fn keep(&mut self) {
        if let Some((worker, backend, connection)) = self.kept.take()
            && connection.is_idle()
        {
            worker.idle().keep(backend, connection, &self.bounds);
        }
    }
}

impl Drop for BackendBody {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.keep();
        }
    }
}

impl Body for BackendBody {
    type Data = Bytes;
    type Error = CutAnswer;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutAnswer>>> {
        let this = &mut *self;
        match this.poll_body(context) {
            Poll::Ready(None) => {
                this.keep();
                Poll::Ready(None)
            }
            Poll::Ready(Some(frame)) => {
                this.since = None;
                Poll::Ready(Some(frame.map_err(CutAnswer::Broken)))
            }
            Poll::Pending => {
                let since = *this.since.get_or_insert_with(poll_time);
                let stalled = this.waiting.poll(context, since + this.bounds.body_idle);
                stalled.map(|()| Some(Err(CutAnswer::Stalled)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
