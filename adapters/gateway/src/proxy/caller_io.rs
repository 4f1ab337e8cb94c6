//! The bytes from and to a caller, watched for ambiguous requests and for callers that stall.
//!
//! Invariant: a parser behind it reads no byte that [`Framing`] refuses, and no caller holds a connection longer than
//! the listener's bounds allow without reading or sending.

use super::framing::{Framing, Place, SoundBytes};
use crate::clock::poll_time;
use crate::leases::Undelivered;
use crate::lock;
use crate::patience::Patience;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker, ready};
use core::time::Duration;
use http::{HeaderMap, StatusCode};
use leasehold_config::ListenerBounds;
use std::io;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Bytes that no request may hold outside of a body, by which the parser behind answers 400 and closes. It judges a head once
/// there is an empty line.
const NO_REQUEST: &[u8] = b"\0\r\n\r\n";

/// The time that a connection without a request stays open in a drain, from its last answer on.
///
/// A caller that has just used it may be sending its next request, which a close would lose: the answer to that one
/// tells it to connect anew. nginx calls this time `keepalive_min_timeout`.
const DRAIN_IDLE: Duration = Duration::from_secs(1);

/// Bytes of interim answers that may wait.
const MAX_INTERIM: usize = 16 * 1_024;

/// What a connection and its exchanges tell each other.
#[derive(Debug, Default)]
pub(crate) struct CallerState {
    /// Whether a request is being answered.
    pub(crate) is_busy: AtomicBool,
    /// Whether an ambiguous request came.
    pub(crate) is_refused: AtomicBool,
    /// Whether the gateway drains.
    pub(crate) is_draining: AtomicBool,
    interim: Mutex<Interim>,
    /// Leases whose answer is being written.
    on_its_way: Mutex<Vec<Undelivered>>,
    has_leases: AtomicBool,
}

/// Interim answers, which a server's parser knows nothing of.
#[derive(Debug, Default)]
struct Interim {
    bytes: Vec<u8>,
    /// Whether a part of them was written.
    has_begun: bool,
    reader: Option<Waker>,
}

impl CallerState {
    /// Keeps leases until all that was given to the connection is written; they are given back if it ends before.
    pub(crate) fn is_on_its_way(&self, leases: Undelivered) {
        lock(&self.on_its_way).push(leases);
        self.has_leases.store(true, Ordering::Relaxed);
    }

    fn is_written(&self) {
        if self.has_leases.swap(false, Ordering::Relaxed) {
            let written = core::mem::take(&mut *lock(&self.on_its_way));
            written.into_iter().for_each(Undelivered::delivered);
        }
    }

    /// Passes an interim answer (1xx) on, ahead of the final one.
    pub(crate) fn pass_interim(&self, status: StatusCode, headers: &HeaderMap) {
        let mut interim = lock(&self.interim);
        if interim.bytes.len() > MAX_INTERIM {
            return;
        }
        let reason = status.canonical_reason().unwrap_or_default();
        interim
            .bytes
            .extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
        for (name, value) in headers {
            interim.bytes.extend_from_slice(name.as_str().as_bytes());
            interim.bytes.extend_from_slice(b": ");
            interim.bytes.extend_from_slice(value.as_bytes());
            interim.bytes.extend_from_slice(b"\r\n");
        }
        interim.bytes.extend_from_slice(b"\r\n");
        if let Some(reader) = interim.reader.take() {
            reader.wake();
        }
    }
}

/// A caller's connection.
#[derive(Debug)]
pub(crate) struct CallerIo<S> {
    io: S,
    state: Arc<CallerState>,
    framing: Framing,
    bounds: ListenerBounds,
    /// The time from which the present wait for bytes counts.
    since: Instant,
    is_first: bool,
    was_busy: bool,
    reading: Patience,
    writing: Patience,
    blocked_since: Option<Instant>,
    interim_since: Option<Instant>,
    /// The bytes that take the place of an ambiguous request's rest, and are not read yet.
    refusal: &'static [u8],
}

impl<S> CallerIo<S> {
    pub(crate) fn new(io: S, state: Arc<CallerState>, bounds: ListenerBounds) -> Self {
        let max_line = usize::try_from(bounds.max_header_bytes).unwrap_or(usize::MAX);
        Self {
            io,
            state,
            framing: Framing::new(max_line),
            bounds,
            since: poll_time(),
            is_first: true,
            was_busy: false,
            reading: Patience::default(),
            writing: Patience::default(),
            blocked_since: None,
            interim_since: None,
            refusal: &[],
        }
    }

    /// Returns how long the next byte may take from `since` on.
    fn longest_wait(&mut self) -> Option<Duration> {
        // An answer whose exchange has ended may still be on its way to a slow reader.
        let is_busy = self.state.is_busy.load(Ordering::Relaxed) || self.blocked_since.is_some();
        if self.was_busy && !is_busy {
            self.since = poll_time();
        }
        self.was_busy = is_busy;
        match self.framing.place() {
            // The head of a next request counts from the end of the answer.
            Place::Start | Place::Head if is_busy => None,
            Place::Start => Some(self.longest_idle()),
            Place::Head => Some(self.bounds.header_read),
            Place::Body => Some(self.bounds.body_idle),
            Place::Opaque => None,
        }
    }

    /// Returns how long the connection may be without a request.
    fn longest_idle(&self) -> Duration {
        let longest = match self.is_first {
            true => self.bounds.header_read,
            false => self.bounds.keep_alive,
        };
        match self.state.is_draining.load(Ordering::Relaxed) {
            true => longest.min(DRAIN_IDLE),
            false => longest,
        }
    }

    /// Judges the bytes of `buffer` from `begin` on; from an ambiguous one on they are taken out.
    fn judge(&mut self, buffer: &mut ReadBuf<'_>, begin: usize) {
        let before = self.framing.place();
        let bytes = buffer.filled().get(begin..).unwrap_or_default();
        if bytes.is_empty() {
            return;
        }
        let ended = match self.framing.read(bytes) {
            Ok(ended) => ended,
            Err(SoundBytes(count)) => {
                buffer.set_filled(begin.saturating_add(count));
                // In a body the first byte is enough; more could be taken for its end.
                self.refusal = match self.framing.refuses_head() {
                    true => NO_REQUEST,
                    false => NO_REQUEST.get(..1).unwrap_or_default(),
                };
                self.refuse(buffer);
                self.state.is_refused.store(true, Ordering::Relaxed);
                false
            }
        };
        // A head counts from its first byte, a body from its last.
        let (counts, is_head) = match self.framing.place() {
            // Empty lines between requests are no progress.
            Place::Start => (ended, true),
            Place::Head => (ended || before == Place::Start, true),
            Place::Body | Place::Opaque => (true, false),
        };
        if counts {
            self.since = poll_time();
        }
        self.is_first &= is_head && !ended;
    }
}

impl<S> CallerIo<S> {
    /// Hands out what takes the place of an ambiguous request's rest.
    fn refuse(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.refusal.len().min(buffer.remaining());
        let (now, later) = self.refusal.split_at(count);
        buffer.put_slice(now);
        self.refusal = later;
    }
}

impl<S: AsyncWrite + Unpin> CallerIo<S> {
    /// Writes interim answers, unless a final one before them is written in part.
    ///
    /// The request that they answer can't have been passed on before the answer before was given to this connection.
    fn poll_interim(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut interim = lock(&self.state.interim);
        let is_behind = self.blocked_since.is_some() && !interim.has_begun;
        while !interim.bytes.is_empty() && !is_behind {
            let Poll::Ready(written) = Pin::new(&mut self.io).poll_write(context, &interim.bytes)
            else {
                let since = *self.interim_since.get_or_insert_with(poll_time);
                ready!(self.writing.poll(context, since + self.bounds.body_idle));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            };
            self.interim_since = None;
            let written = written?;
            interim.bytes.drain(..written);
            interim.has_begun = !interim.bytes.is_empty();
        }
        let is_known = interim
            .reader
            .as_ref()
            .is_some_and(|reader| reader.will_wake(context.waker()));
        if !is_known {
            interim.reader = Some(context.waker().clone());
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for CallerIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.state.is_refused.load(Ordering::Relaxed) {
            this.refuse(buffer);
            return Poll::Ready(Ok(()));
        }
        let begin = buffer.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.io).poll_read(context, buffer) {
            this.judge(buffer, begin);
            return Poll::Ready(result);
        }
        if this.was_busy {
            ready!(this.poll_interim(context))?;
        }
        if let Some(wait) = this.longest_wait() {
            ready!(this.reading.poll(context, this.since + wait));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> CallerIo<S> {
    fn watched<R>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        ready!(self.poll_interim(context))?;
        let result = write(Pin::new(&mut self.io), context);
        if result.is_ready() {
            self.blocked_since = None;
            return result;
        }
        let since = *self.blocked_since.get_or_insert_with(poll_time);
        ready!(self.writing.poll(context, since + self.bounds.body_idle));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CallerIo<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut()
            .watched(context, |io, context| io.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().watched(context, |io, context| {
            io.poll_write_vectored(context, slices)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_flush(context))?;
        this.state.is_written();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::future::poll_fn;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::advance;

    const SECOND: Duration = Duration::from_secs(1);

    /// A connection through which `room` bytes fit at a time, and its other end.
    fn connection(room: usize) -> (CallerIo<DuplexStream>, DuplexStream) {
        let (io, other) = duplex(room);
        let bounds = ListenerBounds::default();
        (CallerIo::new(io, Arc::default(), bounds), other)
    }

    /// Reads once; `None` if no bytes have come.
    async fn read(io: &mut CallerIo<DuplexStream>) -> Option<io::Result<usize>> {
        let mut bytes = [0; 256];
        let mut room = ReadBuf::new(&mut bytes);
        let polled = poll_fn(|context| {
            let polled = Pin::new(&mut *io).poll_read(context, &mut room);
            Poll::Ready(polled)
        });
        match polled.await {
            Poll::Pending => None,
            Poll::Ready(read) => Some(read.map(|()| room.filled().len())),
        }
    }

    fn is_closed(read: Option<io::Result<usize>>) -> bool {
        matches!(read, Some(Err(error)) if error.kind() == io::ErrorKind::TimedOut)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_may_be_unused_for_longer_than_a_head_may_take() {
        let bounds = ListenerBounds::default();
        let (mut io, mut other) = connection(256);
        other.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(matches!(read(&mut io).await, Some(Ok(18))));
        assert!(read(&mut io).await.is_none());
        advance(bounds.header_read + SECOND).await;
        assert!(read(&mut io).await.is_none());
        advance(bounds.keep_alive - bounds.header_read).await;
        assert!(is_closed(read(&mut io).await));
        // One that never asked for anything is closed sooner.
        let (mut io, _other) = connection(256);
        assert!(read(&mut io).await.is_none());
        advance(bounds.header_read + SECOND).await;
        assert!(is_closed(read(&mut io).await));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_an_answer_is_stuck_is_not_unused() {
        let (mut io, _other) = connection(4);
        let mut write = async |bytes: &[u8]| {
            poll_fn(|context| Poll::Ready(Pin::new(&mut io).poll_write(context, bytes))).await
        };
        assert!(write(b"answ").await.is_ready());
        assert!(write(b"er").await.is_pending());
        advance(ListenerBounds::default().keep_alive + SECOND).await;
        assert!(read(&mut io).await.is_none());
    }
}
