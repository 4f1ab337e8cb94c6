//! A request's body on its way from the caller to a backend.
//!
//! Invariant: what has become of it is told while and after it is read: not touched, begun, ended or failed.

use crate::clock::poll_time;
use bytes::Bytes;
use core::cell::Cell;
use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use std::rc::Rc;
use tokio::time::Instant;

/// How far a body has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Whether a part of it was read, so that it can't be sent again.
    pub(crate) has_begun: Cell<bool>,
    /// The time at which the connection to the backend has last asked for a part of it.
    asked: Cell<Option<Instant>>,
    /// Whether no part was there when it was asked for.
    is_awaited: Cell<bool>,
    /// The time in which the caller's next part comes.
    idle: Duration,
    /// The time at which its last part was read; `None` for one without parts.
    pub(crate) ended: Cell<Option<Instant>>,
    /// The reason that it was cut.
    pub(crate) failed: Cell<Option<CutBody>>,
}

impl Progress {
    /// The time from which the wait for an answer counts, where that for the body began at `begun`.
    ///
    /// While the body comes, that is when a part of it was last asked for: a backend that reads nothing asks for none. A caller
    /// has time for a part of its own.
    pub(crate) fn awaits_answer_from(&self, begun: Instant) -> Instant {
        let asked = self.asked.get().unwrap_or(begun);
        match self.ended.get() {
            Some(ended) => ended,
            None if self.is_awaited.get() => asked + self.idle,
            None => asked,
        }
    }
}

/// Why a request's body was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CutBody {
    /// The caller hung up, stalled or sent what is no body.
    ByCaller,
    /// It is longer than the listener allows.
    TooLong,
}

impl fmt::Display for CutBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ByCaller => "the request's body was cut or has no end",
            Self::TooLong => "the request's body is too long",
        })
    }
}

impl core::error::Error for CutBody {}

#[derive(Debug)]
enum Source {
    /// As it comes.
    Incoming(Incoming),
    /// Read before.
    Whole(Full<Bytes>),
}

/// The body of a request.
#[derive(Debug)]
pub(crate) struct CallerBody {
    /// `None` for a request without a body, and from its end on.
    body: Option<Source>,
    progress: Rc<Progress>,
    /// Bytes that may still come.
    left: u64,
}

impl CallerBody {
    /// Takes the body of a request, which may have at most `max` bytes, and whose next part comes within `idle`.
    pub(crate) fn new(body: Incoming, max: Option<u64>, idle: Duration) -> Self {
        Self {
            body: (!body.is_end_stream()).then_some(Source::Incoming(body)),
            progress: Rc::new(Progress {
                idle,
                ..Progress::default()
            }),
            left: max.unwrap_or(u64::MAX),
        }
    }

    /// Returns the body of a repeated request that has none.
    pub(crate) fn none() -> Self {
        Self {
            body: None,
            progress: Rc::default(),
            left: 0,
        }
    }

    /// Returns a body that was read before.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        let left = bytes.len() as u64;
        Self {
            body: (left > 0).then(|| Source::Whole(Full::new(bytes))),
            progress: Rc::default(),
            left,
        }
    }

    pub(crate) fn progress(&self) -> Rc<Progress> {
        Rc::clone(&self.progress)
    }

    fn fail(&mut self, why: CutBody) -> Poll<Option<Result<Frame<Bytes>, CutBody>>> {
        self.progress.failed.set(Some(why));
        self.body = None;
        Poll::Ready(Some(Err(why)))
    }
}

impl Source {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutBody>>> {
        match self {
            Self::Incoming(body) => {
                let frame = ready!(Pin::new(body).poll_frame(context));
                Poll::Ready(frame.map(|frame| frame.map_err(|_| CutBody::ByCaller)))
            }
            Self::Whole(body) => {
                let frame = ready!(Pin::new(body).poll_frame(context));
                Poll::Ready(frame.map(|frame| frame.map_err(|never| match never {})))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Incoming(body) => body.is_end_stream(),
            Self::Whole(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Incoming(body) => body.size_hint(),
            Self::Whole(body) => body.size_hint(),
        }
    }
}

impl Body for CallerBody {
    type Data = Bytes;
    type Error = CutBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutBody>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        this.progress.asked.set(Some(poll_time()));
        let frame = body.poll_frame(context);
        this.progress.is_awaited.set(frame.is_pending());
        let frame = match ready!(frame) {
            None => {
                this.body = None;
                this.progress.ended.set(Some(poll_time()));
                return Poll::Ready(None);
            }
            Some(Err(cut)) => return this.fail(cut),
            Some(Ok(frame)) => frame,
        };
        let has_ended = frame.is_trailers() || body.is_end_stream();
        let length = frame.data_ref().map_or(0, Bytes::len) as u64;
        this.progress.has_begun.set(true);
        match this.left.checked_sub(length) {
            Some(left) => this.left = left,
            None => return this.fail(CutBody::TooLong),
        }
        if has_ended {
            this.progress.ended.set(Some(poll_time()));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Source::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.body.as_ref();
        body.map_or_else(|| SizeHint::with_exact(0), Source::size_hint)
    }
}
