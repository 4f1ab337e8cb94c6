//! Websockets that echo every message.
//!
//! Invariant: a socket holds at most one message in memory, and its small buffers.

use super::body::Content;
use super::route::{BadRequest, Query};
use super::state::OpenWebSocket;
use futures_util::{SinkExt, StreamExt};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

/// Buffer of a socket; the default of 128 KiB would take 128 MiB for a thousand of them.
const BUFFER_BYTES: usize = 8 << 10;

/// What a request for a websocket asks for.
#[derive(Debug)]
pub(super) struct Handshake {
    response: Response<Content>,
    upgrade: OnUpgrade,
    /// Number of messages after which the server begins the close.
    close_after: Option<u64>,
}

impl Handshake {
    /// Reads a request for a websocket.
    pub(super) fn new(request: &mut Request<Incoming>) -> Result<Self, BadRequest> {
        let query = Query(request.uri().query());
        let asked = query.get("protocol").map(ToOwned::to_owned);
        let close_after = query.number("close_after", 0, u64::MAX)?;
        let response = create_response_with_body(request, Content::empty);
        let mut response = response.map_err(|error| BadRequest(error.to_string()))?;
        if let Some(protocol) = subprotocol(request.headers(), asked.as_deref()) {
            let headers = response.headers_mut();
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        Ok(Self {
            response,
            upgrade: hyper::upgrade::on(request),
            close_after: Some(close_after).filter(|count| *count > 0),
        })
    }

    /// Answers with 101, and echoes once the connection is upgraded.
    pub(super) fn accept(self, open: OpenWebSocket, max_message: usize) -> Response<Content> {
        let Self {
            response,
            upgrade,
            close_after,
        } = self;
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        tokio::spawn(async move {
            // An error means that the caller is gone.
            if let Ok(upgraded) = upgrade.await {
                let io = TokioIo::new(upgraded);
                let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
                // An error means that the caller misbehaved or is gone; it was told why if it can be.
                let _ = echo(socket, &open, close_after).await;
            }
        });
        response
    }
}

/// The offered subprotocol that is asked for in the query, or else the first.
fn subprotocol(headers: &HeaderMap, asked: Option<&str>) -> Option<HeaderValue> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let mut offered = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(',').map(str::trim))
        .filter(|name| asked.is_none_or(|asked| asked == *name));
    HeaderValue::from_str(offered.next()?).ok()
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

async fn echo(
    mut socket: Socket,
    open: &OpenWebSocket,
    close_after: Option<u64>,
) -> Result<(), Error> {
    let mut echoed = 0;
    while let Some(message) = socket.next().await {
        match message {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                socket.send(message).await?;
                open.note_message();
                echoed += 1;
                if close_after == Some(echoed) {
                    close(&mut socket, CloseCode::Away, "as asked").await?;
                }
            }
            // The library answers them.
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_)) => {}
            Err(Error::Capacity(_)) => {
                return close(&mut socket, CloseCode::Size, "too long").await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn close(socket: &mut Socket, code: CloseCode, reason: &'static str) -> Result<(), Error> {
    let reason = Utf8Bytes::from_static(reason);
    socket.close(Some(CloseFrame { code, reason })).await
}
