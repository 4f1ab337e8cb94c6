//! A connection's socket, which carries out a fault's orders: reset, hang up, a slow head, bytes of its own.
//!
//! Invariant: without orders it reads and writes as the socket does.

use alloc::sync::Arc;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::task::{Context, Poll, ready};
use core::time::Duration;
use hyper::body::Bytes;
use std::io::{self, IoSlice};
use std::sync::{Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// What a site keeps of a connection.
pub(crate) trait Connection: Send + Sync + 'static {
    fn orders(&self) -> &Orders;

    /// The socket was read from or written to.
    fn note_traffic(&self, read: usize, written: usize);
}

/// Orders of a call's handler to its connection.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    reset: AtomicBool,
    hang_up: AtomicBool,
    /// Nanoseconds; 0 for none.
    head_pause: AtomicU64,
    insert: Mutex<Option<Insert>>,
}

/// Bytes that are written before an answer, or in place of one.
#[derive(Debug)]
struct Insert {
    bytes: Bytes,
    then_close: bool,
}

impl Orders {
    /// Closes the connection with a reset (RST) instead of an orderly end (FIN).
    pub(crate) fn reset(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }

    /// Closes the connection when the answer in progress is written, without having announced it.
    pub(crate) fn hang_up(&self) {
        self.hang_up.store(true, Ordering::Relaxed);
    }

    /// Writes the next head byte by byte, with this pause after each.
    pub(crate) fn trickle_head(&self, pause: Duration) {
        let nanos = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        self.head_pause.store(nanos, Ordering::Relaxed);
    }

    /// Writes these bytes before the answer.
    pub(crate) fn write_first(&self, bytes: Bytes) {
        self.insert(Insert {
            bytes,
            then_close: false,
        });
    }

    /// Writes these bytes in place of the answer, and closes the connection.
    pub(crate) fn write_instead(&self, bytes: Bytes) {
        self.insert(Insert {
            bytes,
            then_close: true,
        });
    }

    fn insert(&self, insert: Insert) {
        *self.insert.lock().unwrap_or_else(PoisonError::into_inner) = Some(insert);
    }
}

/// The socket of a connection.
pub(super) struct Link<C: Connection> {
    stream: TcpStream,
    /// Dropped after the socket, so that a connection is counted as closed once it is.
    connection: Arc<C>,
    pause: Option<Pin<Box<Sleep>>>,
    /// The last four bytes of a slow head.
    tail: [u8; 4],
}

impl<C: Connection> Link<C> {
    pub(super) const fn new(stream: TcpStream, connection: Arc<C>) -> Self {
        Self {
            stream,
            connection,
            pause: None,
            tail: [0; 4],
        }
    }

    /// Writes the inserted bytes. Ready once none are left.
    fn poll_insert(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let connection = Arc::clone(&self.connection);
        let insert = &connection.orders().insert;
        let mut slot = insert.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(insert) = slot.as_mut() {
            if insert.bytes.is_empty() {
                let then_close = insert.then_close;
                *slot = None;
                if then_close {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
                break;
            }
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &insert.bytes))?;
            connection.note_traffic(0, written);
            let _ = insert.bytes.split_to(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<C: Connection> AsyncRead for Link<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.connection.orders().hang_up.load(Ordering::Relaxed) {
            // The end of the caller's bytes: hyper closes the connection.
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.connection
            .note_traffic(buffer.filled().len() - before, 0);
        Poll::Ready(Ok(()))
    }
}

impl<C: Connection> AsyncWrite for Link<C> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_insert(cx))?;
        let pause = self.connection.orders().head_pause.load(Ordering::Relaxed);
        let first = slices.iter().find_map(|slice| slice.first());
        let written = match first.filter(|_| pause > 0) {
            Some(first) => ready!(self.poll_slow_write(cx, *first, pause))?,
            None => ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?,
        };
        self.connection.note_traffic(0, written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when a handler waits: what it inserted before that is seen at once.
        ready!(self.poll_insert(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.connection.orders().reset.load(Ordering::Relaxed) {
            // An orderly end would come before the reset.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<C: Connection> Link<C> {
    /// Writes one byte of a slow head, after the pause of the one before.
    fn poll_slow_write(
        &mut self,
        cx: &mut Context<'_>,
        byte: u8,
        pause: u64,
    ) -> Poll<io::Result<usize>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &[byte]))?;
        self.pause = Some(Box::pin(sleep(Duration::from_nanos(pause))));
        self.tail = [self.tail[1], self.tail[2], self.tail[3], byte];
        if self.tail == *b"\r\n\r\n" {
            self.pause = None;
            let orders = self.connection.orders();
            orders.head_pause.store(0, Ordering::Relaxed);
        }
        Poll::Ready(Ok(written))
    }
}

impl<C: Connection> Drop for Link<C> {
    fn drop(&mut self) {
        if self.connection.orders().reset.load(Ordering::Relaxed) {
            // A socket whose peer is gone can't be reset, and needs none.
            let _ = self.stream.set_zero_linger();
        }
    }
}
