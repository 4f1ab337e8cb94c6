//! A caller's websocket, which shows one server that is as large as all of them.
//!
//! Invariant: a socket's frames wait in its [`Outbox`] alone, so that one that reads slowly or not at all holds no other
//! up.

use super::hub::Hub;
use super::outbox::{Next, Outbox};
use crate::proxy::{AnswerBody, Connection};
use crate::record::{End, Record};
use core::time::Duration;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use leasehold_protocol::Refusal;
use serde_json::{Value, json};
use std::rc::Rc;
use std::sync::Arc;
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Message, Utf8Bytes};

/// Bytes of a frame from a caller; they only say what they know.
const MAX_MESSAGE: usize = 1 << 20;
const BUFFER: usize = 8 << 10;
/// The pause between two pings. A caller that answers none of three is gone.
const PING: Duration = Duration::from_secs(20);
const UNANSWERED: u32 = 3;
/// How long a frame may take on its way to a caller.
const SEND: Duration = Duration::from_secs(30);

type Sink = SplitSink<WebSocketStream<TokioIo<Upgraded>>, Message>;

/// A websocket that is about to be opened.
pub(crate) struct CallerSocket {
    hub: Arc<Hub>,
    client: String,
    upgraded: OnUpgrade,
}

impl CallerSocket {
    /// Reads a request for a websocket.
    pub(super) fn new(
        hub: &Arc<Hub>,
        parts: &Parts,
        client: Option<String>,
        upgraded: Option<OnUpgrade>,
    ) -> Result<(Self, Response<AnswerBody>), Refusal> {
        let wrong = |text: String| Refusal::new(StatusCode::BAD_REQUEST, "bad_websocket", text);
        let upgraded = upgraded.ok_or_else(|| wrong("this path is a websocket's".to_owned()))?;
        let mut request = Request::new(());
        *request.method_mut() = parts.method.clone();
        *request.version_mut() = parts.version;
        *request.headers_mut() = parts.headers.clone();
        let response = create_response_with_body(&request, || AnswerBody::text(""));
        let response = response.map_err(|error| wrong(error.to_string()))?;
        let socket = Self {
            hub: Arc::clone(hub),
            client: client.unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string()),
            upgraded,
        };
        Ok((socket, response))
    }

    /// Serves it in a task of its own, until either side leaves or the gateway drains.
    pub(crate) fn start(self, connection: Rc<Connection>, mut record: Box<Record>) {
        spawn_local(async move {
            record.end = End::Upgraded;
            let Ok(upgraded) = self.upgraded.await else {
                return;
            };
            let config = WebSocketConfig::default()
                .read_buffer_size(BUFFER)
                .write_buffer_size(0)
                .max_message_size(Some(MAX_MESSAGE))
                .max_frame_size(Some(MAX_MESSAGE));
            let io = TokioIo::new(upgraded);
            let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
            let outbox = Arc::new(Outbox::default());
            self.hub.join(&self.client, &outbox);
            let mut draining = core::pin::pin!(connection.worker.drain().begun());
            tokio::select! {
                sent = serve(socket, &self.hub, &outbox) => record.count(sent),
                // Clients come back by themselves.
                () = &mut draining => {}
            }
            self.hub.leave(&self.client, &outbox);
        });
    }
}

/// Serves a socket until it ends; returns the bytes that were sent.
async fn serve(
    socket: WebSocketStream<TokioIo<Upgraded>>,
    hub: &Hub,
    outbox: &Arc<Outbox>,
) -> usize {
    let (mut sink, mut source) = socket.split();
    let mut pings = interval(PING);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut unanswered, mut sent, mut is_first) = (0_u32, 0_usize, true);
    loop {
        let frame = tokio::select! {
            next = outbox.next() => match next {
                Next::Send(frame) => frame,
                Next::Cut => {
                    let code = CloseCode::Again;
                    let reason = Utf8Bytes::from_static("too slow; connect again for the present state");
                    // One that does not read will not hear it.
                    let _ = send(&mut sink, Message::Close(Some(CloseFrame { code, reason }))).await;
                    return sent;
                }
            },
            heard = source.next() => {
                unanswered = 0;
                match heard {
                    Some(Ok(Message::Text(text))) => {
                        if core::mem::take(&mut is_first) {
                            greet(&text, hub, outbox);
                        }
                        continue;
                    }
                    Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return sent,
                }
            }
            _ = pings.tick() => {
                if unanswered >= UNANSWERED {
                    return sent;
                }
                unanswered = unanswered.saturating_add(1);
                Message::Ping(Bytes::new())
            }
        };
        sent = sent.saturating_add(frame.len());
        if !send(&mut sink, frame).await {
            return sent;
        }
    }
}

async fn send(sink: &mut Sink, frame: Message) -> bool {
    matches!(timeout(SEND, sink.send(frame)).await, Ok(Ok(())))
}

/// Answers a client's first frame, in which it tells what it knows.
fn greet(text: &str, hub: &Hub, outbox: &Outbox) {
    let Ok(frame) = serde_json::from_str::<Value>(text) else {
        return;
    };
    if frame["type"] != "feature_flags" {
        return;
    }
    if frame["data"]["supports_preview_metadata"] == true {
        outbox.take_metadata();
    }
    if frame["data"]["leasehold_places"] == true {
        outbox.take_places();
    }
    let data = hub.state().features();
    outbox.push(
        json!({"type": "feature_flags", "data": data})
            .to_string()
            .into(),
    );
}
