//! Websockets of a ComfyUI double: the handshake, and one task for each.
//!
//! Invariant: a slow reader delays its own task only; its frames wait in an outbox whose bytes are bounded.

use super::sockets::{Inbox, event};
use super::state::Studio;
use crate::server::Payload;
use alloc::sync::Arc;
use futures_util::{SinkExt, StreamExt};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// Buffer of a socket, in bytes.
const BUFFER_BYTES: usize = 8 << 10;

/// Longest message of a client, in bytes: aiohttp's own limit.
const MAX_MESSAGE: usize = 4 << 20;

/// A request for a websocket.
#[derive(Debug)]
pub(super) struct Handshake {
    response: Response<Payload>,
    upgrade: OnUpgrade,
}

impl Handshake {
    /// Reads a request for a websocket; `None` if it is no handshake.
    pub(super) fn new(request: &mut Request<Incoming>) -> Option<Self> {
        let empty = || Payload::new([], false, || ());
        let response = create_response_with_body(request, empty).ok()?;
        Some(Self {
            response,
            upgrade: hyper::upgrade::on(request),
        })
    }

    /// Answers with 101, and serves the websocket once the connection is upgraded.
    pub(super) fn accept(
        self,
        studio: Arc<Studio>,
        client_id: Option<String>,
    ) -> Response<Payload> {
        let Self { response, upgrade } = self;
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        tokio::spawn(async move {
            // An error means that the client is gone.
            if let Ok(upgraded) = upgrade.await {
                let io = TokioIo::new(upgraded);
                let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
                let (open, inbox) = Open::new(studio, client_id);
                // An error means that the client misbehaved or is gone.
                let _ = open.serve(socket, inbox).await;
            }
        });
        response
    }
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// An open websocket, counted as such until it is dropped.
#[derive(Debug)]
struct Open {
    studio: Arc<Studio>,
    client_id: String,
    number: u64,
}

impl Open {
    fn new(studio: Arc<Studio>, client_id: Option<String>) -> (Self, Inbox) {
        let (client_id, number, inbox) = studio.change(|state| {
            let client_id = client_id.unwrap_or_else(|| state.draw_uuid().replace('-', ""));
            let (number, inbox) = state.open_socket(&client_id);
            (client_id, number, inbox)
        });
        let open = Self {
            studio,
            client_id,
            number,
        };
        (open, inbox)
    }

    async fn serve(self, mut socket: Socket, mut inbox: Inbox) -> Result<(), Error> {
        let mut is_first = true;
        let dropped = inbox.dropped();
        let pump = async {
            loop {
                tokio::select! {
                    frame = inbox.next() => match frame {
                        Some(frame) => self.send(&mut socket, &inbox, frame).await?,
                        None => return Ok(()),
                    },
                    message = socket.next() => match message.transpose()? {
                        Some(message) => self.receive(&message, &mut is_first),
                        None => return Ok(()),
                    },
                }
            }
        };
        tokio::select! {
            ended = pump => ended,
            () = dropped => Ok(()),
        }
    }

    async fn send(&self, socket: &mut Socket, inbox: &Inbox, frame: Message) -> Result<(), Error> {
        self.studio.unstalled().await;
        let bytes = frame.len();
        socket.send(frame).await?;
        inbox.sent(bytes);
        self.studio.change(|state| {
            state.report.frames += 1;
            state.report.frame_bytes += bytes as u64;
        });
        Ok(())
    }

    /// Reads a message of the client: only the first can mean something.
    fn receive(&self, message: &Message, is_first: &mut bool) {
        let Message::Text(text) = message else {
            return;
        };
        let Ok(message) = serde_json::from_str::<Value>(text) else {
            return;
        };
        if core::mem::take(is_first) && message["type"] == "feature_flags" {
            let features = self.studio.features();
            self.studio.change(|state| {
                let sockets = &mut state.life.sockets;
                sockets.set_flags(&self.client_id, message["data"].clone());
                state.send(Some(&self.client_id), &event("feature_flags", &features));
            });
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.studio.change(|state| {
            state.life.sockets.close(&self.client_id, self.number);
            state.report.websockets_open -= 1;
        });
    }
}
