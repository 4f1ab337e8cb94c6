//! Bodies: of requests as they arrive, and of answers as they are made.
//!
//! Invariant: no answer is longer in memory than [`PATTERN`] or one chunk of a stream; an echo holds one frame.

use super::record::SeenRequest;
use super::state::{InFlight, Origin};
use crate::server::{BrokenOff, Payload};
use alloc::sync::Arc;
use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{HeaderMap, HeaderValue};
use tokio::time::{Sleep, sleep};

/// The bytes of generated bodies: byte `i` of one is `PATTERN[i % PATTERN.len()]`.
pub(super) static PATTERN: [u8; 64 << 10] = pattern();

const fn pattern() -> [u8; 64 << 10] {
    let digits = b"0123456789abcdef";
    let mut pattern = [0; 64 << 10];
    let mut index = 0;
    while index < pattern.len() {
        pattern[index] = digits[index % digits.len()];
        index += 1;
    }
    pattern
}

/// Returns this many bytes of the pattern; those within its length are not copied.
pub(super) fn patterned(length: usize) -> Bytes {
    match PATTERN.get(..length) {
        Some(bytes) => Bytes::from_static(bytes),
        None => PATTERN.iter().copied().cycle().take(length).collect(),
    }
}

/// The body of a request, counted and recorded as it is read.
#[derive(Debug)]
pub(super) struct Intake {
    /// `None` if it was taken.
    body: Option<Incoming>,
    length: u64,
    is_complete: bool,
    /// Kept when the intake is dropped.
    record: Option<(Arc<Origin>, SeenRequest)>,
}

impl Intake {
    pub(super) fn new(body: Incoming, record: Option<(Arc<Origin>, SeenRequest)>) -> Self {
        Self {
            is_complete: body.is_end_stream(),
            body: Some(body),
            length: 0,
            record,
        }
    }

    /// Takes the body away. Nothing can be read from what is left.
    pub(super) const fn take(&mut self) -> Self {
        Self {
            body: self.body.take(),
            record: self.record.take(),
            ..*self
        }
    }

    /// Reads and drops the rest, and returns the length of the whole body.
    pub(super) async fn drain(&mut self) -> Result<u64, BrokenOff> {
        while let Some(frame) = poll_fn(|cx| self.poll_frame(cx)).await {
            frame?;
        }
        Ok(self.length)
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let Some(body) = self.body.as_mut().filter(|_| !self.is_complete) else {
            return Poll::Ready(None);
        };
        let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(cx)) else {
            self.is_complete = true;
            return Poll::Ready(None);
        };
        let frame = frame.map_err(|_| BrokenOff)?;
        self.is_complete = body.is_end_stream();
        self.length += frame.data_ref().map_or(0, |data| data.len() as u64);
        if let Some((origin, record)) = &mut self.record {
            record.note(&frame, origin.recorded_body);
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        if let Some((origin, mut record)) = self.record.take() {
            record.is_complete = self.is_complete;
            origin.change(|state| state.records.push(record));
        }
    }
}

/// What an answer's body is made of.
#[derive(Debug)]
pub(super) enum Content {
    /// These bytes, or what is left of them.
    Whole(Bytes),
    /// This many bytes of the pattern.
    Pattern(u64),
    Chunks(Chunks),
    Echo {
        intake: Intake,
        /// Whether the caller takes trailers.
        has_trailers: bool,
    },
    Scripted(Payload),
}

impl Content {
    pub(super) const fn empty() -> Self {
        Self::Whole(Bytes::new())
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self {
            Self::Whole(bytes) => {
                let bytes = core::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Pattern(0) => Poll::Ready(None),
            Self::Pattern(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX);
                let bytes = patterned(length.min(PATTERN.len()));
                *left -= bytes.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Chunks(chunks) => chunks.poll_frame(cx),
            Self::Echo {
                intake,
                has_trailers,
            } => loop {
                let frame = ready!(intake.poll_frame(cx));
                let is_wanted = |frame: &Result<Frame<Bytes>, BrokenOff>| {
                    *has_trailers || frame.as_ref().map_or(true, Frame::is_data)
                };
                if frame.as_ref().is_none_or(is_wanted) {
                    return Poll::Ready(frame);
                }
            },
            Self::Scripted(payload) => Pin::new(payload).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Pattern(left) => *left == 0,
            Self::Chunks(chunks) => chunks.left == 0 && !chunks.has_trailers,
            Self::Echo { intake, .. } => intake.is_complete,
            Self::Scripted(payload) => payload.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Pattern(left) => SizeHint::with_exact(*left),
            Self::Chunks(_) => SizeHint::new(),
            Self::Echo { intake, .. } => {
                let body = intake.body.as_ref();
                body.map_or_else(SizeHint::new, Body::size_hint)
            }
            Self::Scripted(payload) => payload.size_hint(),
        }
    }
}

/// A stream of equal chunks.
#[derive(Debug)]
pub(super) struct Chunks {
    left: u64,
    sent: u64,
    bytes: Bytes,
    pause: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    has_trailers: bool,
}

impl Chunks {
    /// The trailer that tells the number of the chunks.
    pub(super) const TRAILER: &str = "x-chunks";

    /// Creates a stream with a pause before each chunk after the first.
    pub(super) const fn new(count: u64, bytes: Bytes, pause: Duration, has_trailers: bool) -> Self {
        Self {
            left: count,
            sent: 0,
            bytes,
            pause,
            timer: None,
            has_trailers,
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(timer) = &mut self.timer {
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
        }
        if self.left > 0 {
            self.left -= 1;
            self.sent += 1;
            if self.left > 0 && !self.pause.is_zero() {
                self.timer = Some(Box::pin(sleep(self.pause)));
            }
            return Poll::Ready(Some(Ok(Frame::data(self.bytes.clone()))));
        }
        if !core::mem::take(&mut self.has_trailers) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert(Self::TRAILER, HeaderValue::from(self.sent));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

/// The body of an answer, with the request that it ends.
#[derive(Debug)]
pub(crate) struct Outgoing {
    content: Content,
    in_flight: Option<InFlight>,
}

impl Outgoing {
    /// Creates a body that ends a request once its last bytes are handed on.
    pub(super) fn new(content: Content, in_flight: Option<InFlight>) -> Self {
        let mut outgoing = Self { content, in_flight };
        outgoing.finish_at_end();
        outgoing
    }

    fn finish_at_end(&mut self) {
        if self.content.is_end_stream() {
            self.finish();
        }
    }

    fn finish(&mut self) {
        if let Some(in_flight) = self.in_flight.take() {
            in_flight.finish();
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let frame = ready!(self.content.poll_frame(cx));
        match &frame {
            Some(Ok(_)) => self.finish_at_end(),
            // The caller broke off the body of its request.
            Some(Err(BrokenOff)) => self.in_flight = None,
            None => self.finish(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}
