//! A caller's side of a connection: the bytes that were read ahead of their use.
//!
//! Invariant: bytes are read only where they are wanted, so that a caller is read no faster than it is served.

use super::After;
use super::request::{Parsed, Plain, parse};
use crate::buffers::{BUFFER, Buffers};
use crate::patience::Patience;
use crate::proxy::caller_io::CallerIo;
use crate::worker::Worker;
use bytes::Bytes;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::mem;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use leasehold_config::ListenerBounds;
use std::io;
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout};

/// The time in which a caller may see an answer that came before it had sent all of its request.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes for which no buffer is held.
const FEW: usize = BUFFER / 4;

/// The next event on a connection.
pub(super) enum Next {
    Plain(Box<Plain>),
    /// A request that is left to hyper.
    Other,
    /// The caller has left, or was too slow.
    Closed,
}

/// A caller's connection and what was read from it.
#[derive(Debug)]
pub(in crate::proxy) struct CallerSide<S> {
    io: RefCell<CallerIo<S>>,
    ahead: RefCell<Ahead>,
    worker: Rc<Worker>,
    /// The bytes of the present request's body that were not used.
    left: Cell<u64>,
    /// Whether a byte of that body was used.
    has_begun: Cell<bool>,
    waiting: RefCell<Patience>,
}

/// Bytes that were read and not used.
#[derive(Debug, Default)]
struct Ahead {
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
}

impl Ahead {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(self.begin..self.end).unwrap_or_default()
    }

    /// Takes bytes; returns the buffer once none are left in it.
    fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        self.begin = self.begin.saturating_add(count).min(self.end);
        (self.begin == self.end).then(|| mem::take(self).buffer)
    }

    /// Adds bytes in memory that grows with them.
    fn add(&mut self, bytes: &[u8]) {
        self.buffer.truncate(self.end);
        self.buffer.drain(..self.begin);
        self.buffer.extend_from_slice(bytes);
        (self.begin, self.end) = (0, self.buffer.len());
    }

    /// Moves a few bytes out of a buffer that is meant for many, and returns it.
    fn shrink(&mut self) -> Option<Vec<u8>> {
        let is_due = self.buffer.len() == BUFFER && self.bytes().len() <= FEW;
        is_due.then(|| {
            let bytes = self.bytes().to_vec();
            (self.begin, self.end) = (0, bytes.len());
            mem::replace(&mut self.buffer, bytes)
        })
    }
}

impl<S> CallerSide<S> {
    pub(in crate::proxy) fn new(io: CallerIo<S>, worker: Rc<Worker>) -> Self {
        Self {
            io: RefCell::new(io),
            ahead: RefCell::default(),
            worker,
            left: Cell::new(0),
            has_begun: Cell::new(false),
            waiting: RefCell::default(),
        }
    }

    /// Waits until a time for a backend. The timer is the connection's, because each exchange moves it on.
    pub(super) fn poll_patience(&self, context: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.waiting.borrow_mut().poll(context, deadline)
    }

    /// Takes the connection apart, with the bytes that were read ahead.
    pub(in crate::proxy) fn into_parts(self) -> (CallerIo<S>, Bytes) {
        let ahead = Bytes::copy_from_slice(self.ahead.borrow().bytes());
        (self.io.into_inner(), ahead)
    }

    /// Takes the head of a request that is passed on; its body comes next.
    pub(super) fn begin(&self, request: &Plain) {
        self.take(request.head);
        self.left.set(request.body);
        self.has_begun.set(false);
    }

    pub(super) fn buffers(&self) -> &Buffers {
        self.worker.buffers()
    }

    /// Takes bytes that were read ahead.
    fn take(&self, count: usize) {
        if let Some(buffer) = self.ahead.borrow_mut().take(count) {
            self.buffers().give(buffer);
        }
    }

    /// The bytes of the request's body that were not used.
    pub(super) fn left(&self) -> u64 {
        self.left.get()
    }

    /// Whether a part of the body was used, so that it can't be sent again.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.get()
    }

    /// Shows the bytes of the body that are there.
    pub(super) fn with_body<R>(&self, see: impl FnOnce(&[u8]) -> R) -> R {
        let ahead = self.ahead.borrow();
        let left = usize::try_from(self.left.get()).unwrap_or(usize::MAX);
        see(ahead.bytes().get(..left).unwrap_or(ahead.bytes()))
    }

    /// Ends an exchange, of whose body the rest is not passed on; returns what becomes of the connection.
    pub(super) fn after(&self, after: After) -> After {
        self.take_body(self.with_body(<[u8]>::len));
        match self.left() {
            0 => after,
            _ => After::CloseUnread,
        }
    }

    /// Takes bytes of the body that [`with_body`](Self::with_body) has shown.
    pub(super) fn take_body(&self, count: usize) {
        if count > 0 {
            self.take(count);
            self.left.set(self.left.get().saturating_sub(count as u64));
            self.has_begun.set(true);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> CallerSide<S> {
    /// Waits for the next request.
    pub(super) async fn next(&self, bounds: &ListenerBounds) -> Next {
        let max = usize::try_from(bounds.max_header_bytes).unwrap_or(usize::MAX);
        let mut searched = 0;
        loop {
            let parsed = {
                let ahead = self.ahead.borrow();
                let parsed = parse(ahead.bytes(), searched, bounds.max_headers.into());
                searched = ahead.bytes().len();
                parsed
            };
            match parsed {
                Parsed::Plain(request) if request.head > max => return Next::Other,
                Parsed::Plain(request) => return Next::Plain(request),
                Parsed::Other => return Next::Other,
                Parsed::Partial if searched > max => return Next::Other,
                Parsed::Partial => self.shrink(),
            }
            match poll_fn(|context| self.poll_more(context)).await {
                Ok(1..) => {}
                // What has come may be no request, which hyper answers.
                Ok(0) if searched > 0 => return Next::Other,
                Ok(0) | Err(_) => return Next::Closed,
            }
        }
    }

    /// Reads more bytes; none at the caller's end.
    pub(super) fn poll_more(&self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let (buffers, mut ahead) = (self.buffers(), self.ahead.borrow_mut());
        let mut buffer = buffers.take();
        let mut room = ReadBuf::new(&mut buffer);
        let read = Pin::new(&mut *self.io.borrow_mut()).poll_read(context, &mut room);
        let count = room.filled().len();
        if count > 0 && ahead.bytes().is_empty() {
            let (begin, end) = (0, count);
            *ahead = Ahead { buffer, begin, end };
        } else {
            if count > 0 {
                ahead.add(room.filled());
            }
            buffers.give(buffer);
        }
        read.map_ok(|()| count)
    }

    /// Holds no buffer for a few bytes while an exchange waits.
    fn shrink(&self) {
        if let Some(buffer) = self.ahead.borrow_mut().shrink() {
            self.buffers().give(buffer);
        }
    }

    /// Is ready once the caller has hung up while it is served.
    pub(super) fn poll_left(&self, context: &mut Context<'_>) -> Poll<()> {
        self.shrink();
        // The rest of a body is read by its exchange, and a next request shows that the caller is there.
        if self.ahead.borrow().bytes().len() as u64 != self.left.get() {
            return Poll::Pending;
        }
        match ready!(self.poll_more(context)) {
            Ok(1..) => Poll::Pending,
            Ok(0) | Err(_) => Poll::Ready(()),
        }
    }

    /// Writes some bytes.
    pub(super) fn poll_write(
        &self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut *self.io.borrow_mut()).poll_write(context, bytes)) {
            Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => Poll::Ready(written),
        }
    }

    /// Hands what was written to the system.
    pub(super) fn poll_flush(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io.borrow_mut()).poll_flush(context)
    }

    /// Ends the connection; where a request was not read to its end, or there is another, the caller has some time to read the
    /// answer, which a reset would take from it.
    pub(super) async fn close(&self, is_unread: bool) {
        let is_unread = is_unread || !self.ahead.borrow().bytes().is_empty();
        let shutdown =
            |context: &mut Context<'_>| Pin::new(&mut *self.io.borrow_mut()).poll_shutdown(context);
        let closed = poll_fn(shutdown).await;
        if !is_unread || closed.is_err() {
            return;
        }
        let all_read = async {
            while let Ok(1..) = poll_fn(|context| self.poll_more(context)).await {
                self.take(usize::MAX);
            }
        };
        // The connection closes in any case.
        let _ = timeout(LINGER, all_read).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_that_were_used_take_no_memory(parts in prop::collection::vec((1..100_usize, 0..100_usize), 1..200)) {
            let (mut ahead, mut kept) = (Ahead::default(), Vec::new());
            for (number, (more, used)) in (0_u8..=255).cycle().zip(parts) {
                ahead.add(&vec![number; more]);
                kept.extend(vec![number; more]);
                prop_assert_eq!(ahead.bytes(), &kept);
                prop_assert_eq!(ahead.buffer.len(), kept.len());
                kept.drain(..used.min(kept.len()));
                prop_assert_eq!(ahead.take(used).is_some(), kept.is_empty());
                prop_assert_eq!(ahead.bytes(), &kept);
            }
        }
    }
}
