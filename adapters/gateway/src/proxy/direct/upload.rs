//! A request on its way to a backend: its head, then its body as it comes from the caller.
//!
//! Invariant: bytes of the body are taken from the caller only once they are written.

use super::caller::CallerSide;
use crate::upstream::BackendStream;
use core::mem;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io::{self, IoSlice};
use tokio::io::{AsyncRead, AsyncWrite};

/// The next thing that a request needs which is being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// Nothing: all of it was sent.
    Sent,
    /// More of its body.
    Caller,
    /// The backend, which does not read.
    Backend,
}

/// The caller has not sent all of the body.
#[derive(Debug)]
pub(super) struct BodyCut;

/// A request that is being sent.
#[derive(Debug)]
pub(super) struct Upload<'a, S> {
    pub(super) caller: &'a CallerSide<S>,
    head: Vec<u8>,
    /// The bytes of the head that were written; 0 again once all of it was, when its buffer is given back.
    written: usize,
    /// The bytes that were written, with those of the body.
    total: u64,
    /// Whether all of it was written, and handed to the system.
    is_sent: bool,
    /// Why no more is written.
    error: Option<io::Error>,
}

impl<'a, S> Upload<'a, S> {
    pub(super) fn new(caller: &'a CallerSide<S>, head: Vec<u8>) -> Self {
        Self {
            caller,
            head,
            written: 0,
            total: 0,
            is_sent: false,
            error: None,
        }
    }

    /// The bytes that were written.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Whether all of it was sent.
    pub(super) fn is_sent(&self) -> bool {
        self.is_sent
    }

    /// Takes the error that has ended it.
    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Upload<'_, S> {
    /// Sends what can be sent.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut BackendStream,
    ) -> Result<Waits, BodyCut> {
        let caller = self.caller;
        while self.error.is_none() && !self.is_sent {
            if self.head.is_empty() && caller.with_body(<[u8]>::is_empty) {
                // Under TLS, what was written may not be on its way yet.
                match Pin::new(&mut *stream).poll_flush(context) {
                    Poll::Ready(Ok(())) => self.is_sent = caller.left() == 0,
                    Poll::Ready(Err(error)) => self.error = Some(error),
                    Poll::Pending => return Ok(Waits::Backend),
                }
                if self.is_sent || self.error.is_some() {
                    continue;
                }
                match caller.poll_more(context) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_) => return Err(BodyCut),
                    Poll::Pending => return Ok(Waits::Caller),
                }
            }
            let head = self.head.get(self.written..).unwrap_or_default();
            match caller.with_body(|body| poll_write(stream, context, head, body)) {
                Poll::Ready(Ok(count)) => {
                    self.total = self.total.saturating_add(count as u64);
                    let of_head = count.min(head.len());
                    self.written = self.written.saturating_add(of_head);
                    caller.take_body(count.saturating_sub(of_head));
                    if of_head > 0 && self.written == self.head.len() {
                        caller.buffers().give_head(mem::take(&mut self.head));
                        self.written = 0;
                    }
                }
                Poll::Ready(Err(error)) => self.error = Some(error),
                Poll::Pending => return Ok(Waits::Backend),
            }
        }
        Ok(Waits::Sent)
    }
}

fn poll_write(
    stream: &mut BackendStream,
    context: &mut Context<'_>,
    head: &[u8],
    body: &[u8],
) -> Poll<io::Result<usize>> {
    let stream = Pin::new(stream);
    let written = match (head, body) {
        (head, []) => stream.poll_write(context, head),
        ([], body) => stream.poll_write(context, body),
        (head, body) => {
            let both = [IoSlice::new(head), IoSlice::new(body)];
            stream.poll_write_vectored(context, &both)
        }
    };
    match ready!(written)? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        count => Poll::Ready(Ok(count)),
    }
}
