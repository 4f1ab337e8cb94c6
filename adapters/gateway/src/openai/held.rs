//! Streams whose callers wait long for a key: they begin before their answer, and are kept open by comments.
//!
//! Invariant: a stream that has begun ends with an answer or an error event.

use super::attempt::{Attempts, Origin, Served};
use crate::clock::now;
use crate::proxy::{AnswerBody, CutAnswer};
use crate::record::Record;
use bytes::Bytes;
use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body::{Body, Frame};
use leasehold_config::{ListenerSettings, OnDisconnect};
use leasehold_protocol::{Call, Refusal, is_event_stream};
use tokio::task::spawn_local;
use tokio::time::{Interval, interval_at};

/// The wait after which a stream begins without its answer, and the pause between two comments.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// What keeps a stream open: a comment, which every reader of events skips.
const COMMENT: &[u8] = b": waiting for a key\n\n";

type Serving = Pin<Box<dyn Future<Output = Result<Served, Refusal>>>>;

/// Serves a call; a stream that has to wait long begins before its answer.
pub(super) async fn answer(
    attempts: Attempts,
    settings: &ListenerSettings,
    record: &mut Record,
) -> Result<Response<AnswerBody>, Refusal> {
    let (is_stream, call) = (attempts.call().is_stream, attempts.call().call);
    let id = record.request_id.clone();
    let is_held = is_stream && settings.keep_alive;
    let mut serving: Serving = match settings.on_disconnect {
        OnDisconnect::Cancel if !is_held => return Ok(attempts.run().await?.into_response(record)),
        OnDisconnect::Cancel => Box::pin(attempts.run()),
        OnDisconnect::Drain => Box::pin(heard_out(attempts)),
    };
    if !is_held {
        return Ok(serving.await?.into_response(record));
    }
    match tokio::time::timeout(KEEP_ALIVE, &mut serving).await {
        Ok(served) => Ok(served?.into_response(record)),
        Err(_) => {
            let stream = HeldStream {
                call,
                stage: Stage::Serving(serving),
                ticks: interval_at(now() + KEEP_ALIVE, KEEP_ALIVE),
                origin: None,
            };
            let mut response = Response::new(AnswerBody::held(stream));
            let headers = response.headers_mut();
            let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
            headers.insert(CONTENT_TYPE, kind);
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            headers.insert(crate::proxy::X_REQUEST_ID, id);
            record.status = StatusCode::OK;
            Ok(response)
        }
    }
}

/// Serves a call in a task of its own, which goes on when the caller has left.
async fn heard_out(attempts: Attempts) -> Result<Served, Refusal> {
    let serving = spawn_local(attempts.drained().run());
    serving.await.unwrap_or_else(|_| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Err(Refusal::new(
            status,
            "failed",
            "the gateway has failed; ask again",
        ))
    })
}

/// A stream that waits for its answer.
pub(crate) struct HeldStream {
    call: Call,
    stage: Stage,
    ticks: Interval,
    /// Where its answer came from, until that is noted.
    origin: Option<Origin>,
}

enum Stage {
    Serving(Serving),
    Answering(Box<AnswerBody>),
    Ended,
}

impl HeldStream {
    /// Where its answer came from; told once.
    pub(crate) fn take_origin(&mut self) -> Option<Origin> {
        self.origin.take()
    }

    /// Takes what became of the call.
    fn take(&mut self, served: Result<Served, Refusal>) -> Option<Bytes> {
        let response = match served {
            Ok(served) => {
                self.origin = Some(served.origin());
                served.into_bare_response()
            }
            Err(refusal) => {
                self.stage = Stage::Ended;
                return Some(refusal.event(self.call).into());
            }
        };
        let (status, is_events) = (response.status(), is_event_stream(response.headers()));
        let mut body = response.into_body();
        if is_events {
            self.stage = Stage::Answering(Box::new(body));
            return None;
        }
        self.stage = Stage::Ended;
        let text = body.take_text();
        let text = text.map(|text| String::from_utf8_lossy(&text).into_owned());
        // What the service has to say of an error goes on as an event.
        let text = text.unwrap_or_else(|| "the service answered with no stream".to_owned());
        let refusal = Refusal::new(status, "upstream_error", text);
        Some(refusal.event(self.call).into())
    }
}

impl Body for HeldStream {
    type Data = Bytes;
    type Error = CutAnswer;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutAnswer>>> {
        loop {
            match &mut self.stage {
                Stage::Ended => return Poll::Ready(None),
                Stage::Answering(body) => return Pin::new(body).poll_frame(context),
                Stage::Serving(serving) => match serving.as_mut().poll(context) {
                    Poll::Ready(served) => {
                        if let Some(last) = self.take(served) {
                            return Poll::Ready(Some(Ok(Frame::data(last))));
                        }
                    }
                    Poll::Pending => {
                        ready!(self.ticks.poll_tick(context));
                        return Poll::Ready(Some(Ok(Frame::data(COMMENT.into()))));
                    }
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.stage {
            Stage::Serving(_) => false,
            Stage::Answering(body) => body.is_end_stream(),
            Stage::Ended => true,
        }
    }
}

impl fmt::Debug for HeldStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldStream")
            .field("call", &self.call)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use tokio::time::sleep;

    fn held(wait: Duration, served: Result<Served, Refusal>) -> HeldStream {
        HeldStream {
            call: Call::Chat,
            stage: Stage::Serving(Box::pin(async move {
                sleep(wait).await;
                served
            })),
            ticks: interval_at(now() + KEEP_ALIVE, KEEP_ALIVE),
            origin: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_waits_is_kept_open_and_ends_with_what_became_of_it() {
        let refusal = Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_exceeded",
            "no key",
        );
        let begun = now();
        let body = held(Duration::from_secs(35), Err(refusal));
        let bytes = body.collect().await.unwrap().to_bytes();
        assert_eq!(begun.elapsed(), Duration::from_secs(35));
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (comments, rest) = text.split_at(3 * COMMENT.len());
        assert_eq!(comments.as_bytes(), COMMENT.repeat(3));
        assert!(
            rest.starts_with("data: {\"error\":{\"message\":\"no key\""),
            "{rest}"
        );
    }
}
