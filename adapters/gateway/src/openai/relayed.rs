//! A streamed answer on its way to the caller.
//!
//! Invariant: once it has ended, its verdict is known; one that breaks ends with an error event, and not by a cut.

use super::settle::since_1970;
use crate::proxy::{BackendBody, CutAnswer};
use bytes::{Bytes, BytesMut};
use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame};
use leasehold_protocol::verdict::{Context as CallContext, Kind, Verdict, read_stream};
use leasehold_protocol::{ApiKey, Call, JoinedStream, Refusal, StreamRelay};

/// A stream of events.
#[derive(Debug)]
pub(crate) struct RelayedBody {
    body: BackendBody,
    /// `None` from its end on.
    relay: Option<StreamRelay>,
    /// Bytes that were read ahead.
    ahead: BytesMut,
    status: StatusCode,
    headers: HeaderMap,
    call: Call,
    key: Option<ApiKey>,
    verdict: Option<Verdict>,
}

impl RelayedBody {
    pub(super) fn new(
        body: BackendBody,
        head: (StatusCode, HeaderMap),
        call: Call,
        shows_usage: bool,
        key: Option<ApiKey>,
    ) -> Self {
        let (status, headers) = head;
        Self {
            body,
            relay: Some(StreamRelay::new(call, shows_usage)),
            ahead: BytesMut::new(),
            status,
            headers,
            call,
            key,
            verdict: None,
        }
    }

    /// Reads until the first event: an answer that fails at once is none yet, and may be asked for again.
    ///
    /// # Errors
    /// The verdict on a stream that has failed before its first event, or by it.
    pub(super) async fn begin(&mut self) -> Result<(), Box<Verdict>> {
        loop {
            let frame = poll_fn(|context| Pin::new(&mut *self).poll_data(context)).await;
            self.ahead.extend_from_slice(&frame.unwrap_or_default());
            match (&self.relay, &self.verdict) {
                (Some(relay), _) if relay.error().is_some() => {
                    // Whether it came before the answer or behind it is the verdict's to say.
                    let rest = self.end(None).unwrap_or_default();
                    self.ahead.extend_from_slice(&rest);
                }
                (Some(relay), _) if relay.has_begun() => return Ok(()),
                (None, Some(verdict)) if verdict.kind != Kind::Answer => {
                    return Err(Box::new(verdict.clone()));
                }
                (None, _) => return Ok(()),
                (Some(_), _) => {}
            }
        }
    }

    /// The ids of what the service makes, as its first event tells them.
    pub(super) fn made_ids(&self) -> &[String] {
        self.relay
            .as_ref()
            .map(StreamRelay::made_ids)
            .unwrap_or_default()
    }

    /// What the answer was; `None` before its end.
    pub(super) fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    fn judge(&self, joined: JoinedStream) -> Verdict {
        let context = CallContext {
            call: self.call,
            key: self.key.as_ref(),
        };
        let now = since_1970();
        read_stream(self.status, &self.headers, joined, now, &context).0
    }

    /// Ends the stream, and returns what its caller still gets.
    fn end(&mut self, broken: Option<&str>) -> Option<Bytes> {
        let relay = self.relay.take()?;
        let text = broken.unwrap_or("the service ended the stream before its answer was complete");
        let refusal = Refusal::new(StatusCode::BAD_GATEWAY, "stream_broken", text);
        let (has_told, ending) = (relay.error().is_some(), relay.end_with(&refusal));
        let (mut rest, joined) = relay.finish();
        let verdict = self.judge(joined);
        let is_whole = verdict.kind == Kind::Answer || self.call == Call::Other && broken.is_none();
        if !is_whole && !has_told {
            rest.extend(ending);
        }
        self.verdict = Some(verdict);
        (!rest.is_empty()).then(|| rest.into())
    }

    fn poll_data(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            let this = &mut *self;
            let Some(relay) = &mut this.relay else {
                return Poll::Ready(None);
            };
            let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
            let passed = match frame {
                None => return Poll::Ready(self.end(None)),
                Some(Err(cut)) => return Poll::Ready(self.end(Some(&cut.to_string()))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => relay.feed(&data),
                    // Trailers have no place in a stream of events.
                    Err(_) => continue,
                },
            };
            match passed {
                // An event that is not the caller's is as good as none.
                Ok(passed) if passed.is_empty() => {}
                Ok(passed) => return Poll::Ready(Some(passed.into())),
                Err(too_long) => return Poll::Ready(self.end(Some(&too_long.to_string()))),
            }
        }
    }
}

impl Body for RelayedBody {
    type Data = Bytes;
    type Error = CutAnswer;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutAnswer>>> {
        if !self.ahead.is_empty() {
            let ahead = self.ahead.split().freeze();
            return Poll::Ready(Some(Ok(Frame::data(ahead))));
        }
        let data = ready!(self.poll_data(context));
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.relay.is_none() && self.ahead.is_empty()
    }
}
