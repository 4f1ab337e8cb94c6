//! An attempt at a backend: the request is sent, and the answer's head is awaited.
//!
//! Invariant: of a request that is said not to have been sent, no byte was written.

use super::answer::{AnswerHead, BadAnswer, interim_fields, parse};
use super::caller::CallerSide;
use super::text::{write_field, write_request};
use super::upload::{BodyCut, Upload, Waits};
use crate::buffers::HEADROOM;
use crate::clock::poll_time;
use crate::proxy::caller_body::CutBody;
use crate::proxy::connection::Connection;
use crate::proxy::forward::{Fault, FaultKind, NoAnswer, Outgoing, ToBackend, Transport};
use crate::proxy::hyper_transport::pass_interim;
use crate::upstream::{BackendStream, connect_stream};
use core::fmt::Display;
use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use http::{Method, StatusCode};
use leasehold_config::UpstreamBounds;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The transport of plain requests.
#[derive(Debug)]
pub(super) struct DirectTransport<'a, S> {
    pub(super) caller: &'a CallerSide<S>,
    pub(super) connection: &'a Connection,
}

/// An answer whose head has come.
#[derive(Debug)]
pub(super) struct Answer<'a, S> {
    pub(super) stream: BackendStream,
    pub(super) head: AnswerHead,
    /// The head, and what came behind it, from [`HEADROOM`] on.
    pub(super) buffer: Vec<u8>,
    /// The end of what has come.
    pub(super) end: usize,
    /// The rest of the request, which a backend need not read before it answers.
    pub(super) upload: Option<Upload<'a, S>>,
}

/// Why an attempt on one connection has no answer.
#[derive(Debug, thiserror::Error)]
enum Broken {
    /// It had been closed before, or can't be written to; nothing was sent.
    #[error("{}", unsent_text(.0.as_ref()))]
    Unsent(Option<io::Error>),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the backend closed the connection")]
    Closed,
    #[error("{0}")]
    Bad(#[from] BadAnswer),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the request's body was cut")]
    Cut,
}

fn unsent_text(error: Option<&io::Error>) -> String {
    error.map_or_else(
        || "the backend closed the connection".to_owned(),
        io::Error::to_string,
    )
}

impl From<BodyCut> for Broken {
    fn from(BodyCut: BodyCut) -> Self {
        Self::Cut
    }
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Transport for DirectTransport<'a, S> {
    type Sent = Box<Answer<'a, S>>;

    async fn send(
        &mut self,
        outgoing: &Outgoing<'_>,
        to: &ToBackend<'_>,
    ) -> Result<Box<Answer<'a, S>>, NoAnswer> {
        let bounds = &outgoing.pool.settings().upstream;
        let method = &outgoing.parts.method;
        let mut head = self.connection.worker.buffers().take_head();
        write_request(&mut head, method, outgoing.target.path.as_str());
        outgoing.write_fields(to, |name, value| {
            write_field(&mut head, name.as_str().as_bytes(), value.as_bytes());
        });
        head.extend_from_slice(b"\r\n");
        let mut attempt = Attempt {
            connection: self.connection,
            method,
            bounds,
            upload: Some(Upload::new(self.caller, head)),
            stream: None,
            buffer: None,
            end: HEADROOM,
            has_answer: false,
            since: None,
        };
        loop {
            let idle = self.connection.worker.idle_streams();
            let kept = match to.is_anew {
                true => None,
                false => idle.take(to.backend.number()),
            };
            let was_kept = kept.is_some();
            attempt.stream = match kept {
                Some(stream) => Some(stream),
                None => {
                    let connected = Box::pin(connect_stream(to.backend, bounds.connect)).await;
                    Some(connected.map_err(|error| self.unsent(&error))?)
                }
            };
            match poll_fn(|context| attempt.poll(context)).await {
                Ok(answer) => return Ok(answer),
                // Bytes that came on an unused connection are no answer.
                Err(Broken::Unsent(_)) if was_kept => attempt.end = HEADROOM,
                // A backend that begins to answer has not closed an unused connection.
                Err(broken) => {
                    let was_kept = was_kept && !attempt.has_answer;
                    return Err(self.no_answer(&broken, was_kept));
                }
            }
        }
    }
}

impl<S> DirectTransport<'_, S> {
    fn no_answer(&self, broken: &Broken, was_kept: bool) -> NoAnswer {
        let (kind, why) = match broken {
            Broken::Cut => return NoAnswer::Cut(CutBody::ByCaller),
            Broken::Unsent(_) => return self.unsent(broken),
            Broken::TimedOut(_) => (FaultKind::TimedOut, broken.to_string()),
            Broken::Io(_) | Broken::Closed | Broken::Bad(_) => {
                let why = format!("the connection broke before the answer: {broken}");
                (FaultKind::Broken { was_kept }, why)
            }
        };
        NoAnswer::Fault(Fault { kind, why })
    }

    fn unsent(&self, why: &dyn Display) -> NoAnswer {
        let has_begun = self.caller.has_begun();
        NoAnswer::Fault(Fault {
            kind: FaultKind::NotSent { has_begun },
            why: format!("cannot connect: {why}"),
        })
    }
}

/// An attempt on one connection.
struct Attempt<'a, 'o, S> {
    connection: &'a Connection,
    method: &'o Method,
    bounds: &'o UpstreamBounds,
    /// These two are `None` once they are the answer's.
    upload: Option<Upload<'a, S>>,
    stream: Option<BackendStream>,
    buffer: Option<Vec<u8>>,
    /// The end of what has come.
    end: usize,
    /// Whether a byte of an answer has come.
    has_answer: bool,
    /// The time from which the wait for the backend counts.
    since: Option<Instant>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Attempt<'a, '_, S> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Box<Answer<'a, S>>, Broken>> {
        let is_untouched = |upload: &Upload<'_, S>| upload.total() == 0;
        if self.upload.as_ref().is_some_and(is_untouched)
            && let Poll::Ready(read) = self.poll_read(context)
        {
            let error = match read {
                Err(Broken::Io(error)) => Some(error),
                Ok(_) | Err(_) => None,
            };
            return Poll::Ready(Err(Broken::Unsent(error)));
        }
        let waits = self.send(context)?;
        // A backend may answer before it has read all.
        while let Poll::Ready(count) = self.poll_read(context)? {
            if count == 0 {
                return Poll::Ready(Err(self.broken_by(Broken::Closed)));
            }
            self.has_answer = true;
            if let Some(head) = self.read_head()? {
                return Poll::Ready(self.answer(head));
            }
        }
        let longest = match waits {
            Waits::Sent => self.bounds.response_header,
            Waits::Backend => self.bounds.body_idle,
            // Its connection has bounds of its own.
            Waits::Caller => return Poll::Pending,
        };
        let since = *self.since.get_or_insert_with(poll_time);
        let caller = self.upload.as_ref().map(|upload| upload.caller);
        let waited = caller.map(|caller| caller.poll_patience(context, since + longest));
        waited.map_or(Poll::Pending, |waited| {
            waited.map(|()| Err(self.broken_by(Broken::TimedOut(longest))))
        })
    }

    /// Sends what can be sent.
    fn send(&mut self, context: &mut Context<'_>) -> Result<Waits, Broken> {
        let (Some(upload), Some(stream)) = (&mut self.upload, &mut self.stream) else {
            return Ok(Waits::Sent);
        };
        if upload.is_sent() {
            return Ok(Waits::Sent);
        }
        let before = upload.total();
        let waits = upload.poll(context, stream)?;
        // Under TLS, a part may have been sent by a write that failed.
        if upload.total() == 0
            && stream.is_plain()
            && let Some(error) = upload.take_error()
        {
            return Err(Broken::Unsent(Some(error)));
        }
        if upload.total() > before {
            self.since = None;
        }
        Ok(waits)
    }

    /// The reason that there is no answer: why the request was not sent whole, if it was not.
    fn broken_by(&mut self, broken: Broken) -> Broken {
        let error = self.upload.as_mut().and_then(Upload::take_error);
        error.map_or(broken, Broken::Io)
    }

    /// Reads behind what has come. A buffer is held only while bytes are in it.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Ok(0));
        };
        let buffers = self.connection.worker.buffers();
        let mut buffer = self.buffer.take().unwrap_or_else(|| buffers.take());
        let mut room = ReadBuf::new(buffer.get_mut(self.end..).unwrap_or_default());
        if room.remaining() == 0 {
            return Poll::Ready(Err(BadAnswer::TooLong.into()));
        }
        let read = Pin::new(stream).poll_read(context, &mut room);
        let count = room.filled().len();
        if read.is_pending() && self.end == HEADROOM {
            buffers.give(buffer);
        } else {
            self.buffer = Some(buffer);
        }
        ready!(read)?;
        self.end = self.end.saturating_add(count);
        Poll::Ready(Ok(count))
    }

    /// Reads the head, after passing on the interim ones before it; `None` if its end has not come.
    fn read_head(&mut self) -> Result<Option<AnswerHead>, Broken> {
        let Some(buffer) = &mut self.buffer else {
            return Ok(None);
        };
        loop {
            let come = buffer.get(HEADROOM..self.end).unwrap_or_default();
            let text = || self.connection.worker.buffers().take_head();
            let Some(head) = parse(come, self.method, text)? else {
                return Ok(None);
            };
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(BadAnswer::Switched.into());
            }
            if !head.status.is_informational() {
                return Ok(Some(head));
            }
            pass_interim(&self.connection.state, head.status, &interim_fields(come));
            let behind = HEADROOM.saturating_add(head.length).min(self.end);
            buffer.copy_within(behind..self.end, HEADROOM);
            self.end = self.end.saturating_sub(head.length);
        }
    }

    fn answer(&mut self, head: AnswerHead) -> Result<Box<Answer<'a, S>>, Broken> {
        let (Some(stream), Some(buffer)) = (self.stream.take(), self.buffer.take()) else {
            return Err(Broken::Closed);
        };
        Ok(Box::new(Answer {
            stream,
            head,
            buffer,
            end: self.end,
            upload: self.upload.take().filter(|upload| !upload.is_sent()),
        }))
    }
}
