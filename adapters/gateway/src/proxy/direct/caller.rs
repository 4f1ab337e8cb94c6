//! A caller's side of a connection: the bytes that were read ahead of their use.
//!
//! Invariant: bytes are read only where they are wanted, so that a caller is read no faster than it is served.

use super::request::{Parsed, Plain, parse};
use crate::buffers::BUFFER;
use crate::patience::Patience;
use crate::proxy::caller_io::CallerIo;
use bytes::{Buf, BytesMut};
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use leasehold_config::ListenerBounds;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout};

/// The time in which a caller may see an answer that came before it had sent all of its request.
const LINGER: Duration = Duration::from_secs(1);

thread_local! {
    /// What a read fills before its bytes are taken to where they belong.
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// What comes next on a connection.
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
    ahead: RefCell<BytesMut>,
    /// The bytes of the present request's body that were not used.
    left: Cell<u64>,
    /// Whether a byte of that body was used.
    has_begun: Cell<bool>,
    waiting: RefCell<Patience>,
}

impl<S> CallerSide<S> {
    pub(in crate::proxy) fn new(io: CallerIo<S>) -> Self {
        Self {
            io: RefCell::new(io),
            ahead: RefCell::default(),
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
    pub(in crate::proxy) fn into_parts(self) -> (CallerIo<S>, BytesMut) {
        (self.io.into_inner(), self.ahead.into_inner())
    }

    /// Takes the head of a request that is passed on; its body comes next.
    pub(super) fn begin(&self, request: &Plain) {
        self.take(request.head);
        self.left.set(request.body);
        self.has_begun.set(false);
    }

    /// Takes bytes that were read ahead; a connection that waits for more has no memory for them.
    fn take(&self, count: usize) {
        let mut ahead = self.ahead.borrow_mut();
        ahead.advance(count);
        if ahead.is_empty() {
            *ahead = BytesMut::new();
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
        see(ahead.get(..left.min(ahead.len())).unwrap_or_default())
    }

    /// Takes what is there of a body that is not passed on.
    pub(super) fn skip_body(&self) {
        self.take_body(self.with_body(<[u8]>::len));
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
            let parsed = parse(&self.ahead.borrow(), searched, bounds.max_headers.into());
            searched = self.ahead.borrow().len();
            match parsed {
                Parsed::Plain(request) => return Next::Plain(request),
                Parsed::Other => return Next::Other,
                Parsed::Partial if searched > max => return Next::Other,
                Parsed::Partial => {}
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
        READ.with_borrow_mut(|room| {
            let mut read = ReadBuf::new(room);
            ready!(Pin::new(&mut *self.io.borrow_mut()).poll_read(context, &mut read))?;
            self.ahead.borrow_mut().extend_from_slice(read.filled());
            Poll::Ready(Ok(read.filled().len()))
        })
    }

    /// Is ready once the caller has hung up while it is served.
    pub(super) fn poll_left(&self, context: &mut Context<'_>) -> Poll<()> {
        // A body is read by its exchange, and a next request shows that the caller is there.
        if self.left.get() > 0 || !self.ahead.borrow().is_empty() {
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

    /// Ends the connection; where a request was not read to its end, the caller has some time to read the answer.
    pub(super) async fn close(&self, is_unread: bool) {
        let shutdown =
            |context: &mut Context<'_>| Pin::new(&mut *self.io.borrow_mut()).poll_shutdown(context);
        let closed = poll_fn(shutdown).await;
        if !is_unread || closed.is_err() {
            return;
        }
        let all_read = async {
            while let Ok(1..) = poll_fn(|context| self.poll_more(context)).await {
                self.ahead.borrow_mut().clear();
            }
        };
        // How it ends makes no difference.
        let _ = timeout(LINGER, all_read).await;
    }
}
