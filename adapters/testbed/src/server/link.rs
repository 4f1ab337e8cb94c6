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
use std::io;
use std::sync::{Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

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
#[derive(Debug)]
pub(super) struct Link {
    stream: TcpStream,
    orders: Arc<Orders>,
    pause: Option<Pin<Box<Sleep>>>,
    /// The last four bytes of a slow head.
    tail: [u8; 4],
}

impl Link {
    pub(super) const fn new(stream: TcpStream, orders: Arc<Orders>) -> Self {
        Self {
            stream,
            orders,
            pause: None,
            tail: [0; 4],
        }
    }

    /// Writes the inserted bytes. Ready once none are left.
    fn poll_insert(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let orders = Arc::clone(&self.orders);
        let mut slot = orders.insert.lock().unwrap_or_else(PoisonError::into_inner);
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
            let _ = insert.bytes.split_to(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.orders.hang_up.load(Ordering::Relaxed) {
            // The end of the caller's bytes: hyper closes the connection.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_insert(cx))?;
        let pause = self.orders.head_pause.load(Ordering::Relaxed);
        let Some(first) = bytes.first().filter(|_| pause > 0) else {
            return Pin::new(&mut self.stream).poll_write(cx, bytes);
        };
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &[*first]))?;
        self.pause = Some(Box::pin(sleep(Duration::from_nanos(pause))));
        self.tail = [self.tail[1], self.tail[2], self.tail[3], *first];
        if self.tail == *b"\r\n\r\n" {
            self.pause = None;
            self.orders.head_pause.store(0, Ordering::Relaxed);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.orders.reset.load(Ordering::Relaxed) {
            // An orderly end would come before the reset.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.orders.reset.load(Ordering::Relaxed) {
            // A socket whose peer is gone can't be reset, and needs none.
            let _ = self.stream.set_zero_linger();
        }
    }
}
