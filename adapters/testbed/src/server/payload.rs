//! The body of a response, as a script: bytes, pauses, and how it breaks off.
//!
//! Invariant: the end of a call is told exactly once: before its last bytes are handed on, or when it breaks off as
//! scripted. A body that is dropped earlier tells nothing.

use alloc::collections::VecDeque;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

/// A step of a body's script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Bytes(Bytes),
    /// Sends the bytes so far, so that the caller can see it before the next step.
    Flush,
    Wait(Duration),
    /// Closes the connection in the middle of the body.
    Fail,
}

/// The scripted end of a body.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("body broken off on purpose")]
pub(crate) struct BrokenOff;

/// A scripted body.
pub(crate) struct Payload {
    steps: VecDeque<Step>,
    /// Length, if it is announced.
    length: Option<u64>,
    timer: Option<Pin<Box<Sleep>>>,
    on_end: Option<Box<dyn FnOnce() + Send>>,
}

impl Payload {
    /// Creates a body whose length is announced if `sized`, and that calls `on_end` at its end.
    pub(crate) fn new(
        steps: impl IntoIterator<Item = Step>,
        sized: bool,
        on_end: impl FnOnce() + Send + 'static,
    ) -> Self {
        let is_something = |step: &Step| !matches!(step, Step::Bytes(bytes) if bytes.is_empty());
        let steps: VecDeque<_> = steps.into_iter().filter(is_something).collect();
        let length = sized.then(|| steps.iter().map(Step::length).sum());
        let mut payload = Self {
            steps,
            length,
            timer: None,
            on_end: Some(Box::new(on_end)),
        };
        if payload.steps.is_empty() {
            payload.end();
        }
        payload
    }

    fn end(&mut self) {
        if let Some(on_end) = self.on_end.take() {
            on_end();
        }
    }
}

impl Step {
    fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Flush | Self::Wait(_) | Self::Fail => 0,
        }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        loop {
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
                self.timer = None;
            }
            match self.steps.pop_front() {
                Some(Step::Bytes(bytes)) => {
                    if self.steps.is_empty() {
                        self.end();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Step::Flush) => {
                    // hyper flushes when a body is pending.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Some(Step::Wait(span)) => self.timer = Some(Box::pin(sleep(span))),
                Some(Step::Fail) => {
                    self.end();
                    return Poll::Ready(Some(Err(BrokenOff)));
                }
                None => {
                    self.end();
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty() && self.timer.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

impl core::fmt::Debug for Payload {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Payload")
            .field("steps", &self.steps.len())
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}
