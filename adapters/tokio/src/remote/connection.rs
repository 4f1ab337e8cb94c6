//! Connections to a gateway, which are kept between calls.

use super::lock;
use bytes::Bytes;
use core::error::Error;
use core::fmt;
use core::pin::Pin;
use core::time::Duration;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::{Shutdown, TcpStream as Socket};
use std::sync::Mutex;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that are kept while nothing is asked.
const MAX_IDLE: usize = 256;
/// Bytes of an answer at most: a lease has less than 1 KiB, a batch at most 256 parts.
const MAX_ANSWER: usize = 4 * 1_024 * 1_024;

/// The connections to a gateway.
pub(super) struct Connections {
    address: String,
    idle: Mutex<Vec<Connection>>,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Another handle of its socket.
    socket: Socket,
    task: AbortHandle,
}

/// A request that was sent.
pub(super) struct Exchange {
    /// `None` once its answer was read.
    connection: Option<Connection>,
    answer: Pin<Box<dyn Future<Output = Answer> + Send>>,
    is_hung_up: bool,
}

/// An answer's status and body.
type Answer = Result<(StatusCode, Bytes), CallError>;

/// Why there is no answer.
pub(super) struct CallError(Box<dyn Error + Send + Sync>);

impl Connections {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            idle: Mutex::default(),
        }
    }

    /// Sends a request, on a connection that is kept if there is one.
    pub(super) async fn begin(&self, request: Request<Vec<u8>>) -> Result<Exchange, CallError> {
        let request = of_origin(request)?;
        let mut connection = self.ready().await?;
        let sent = connection.sender.send_request(request);
        let answer = async move {
            let (head, body) = sent.await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            Ok((head.status, body.map_err(CallError)?.to_bytes()))
        };
        Ok(Exchange {
            connection: Some(connection),
            answer: Box::pin(answer),
            is_hung_up: false,
        })
    }

    async fn ready(&self) -> Result<Connection, CallError> {
        loop {
            let kept = lock(&self.idle).pop();
            let Some(mut kept) = kept else {
                return timeout(CONNECT_TIMEOUT, Connection::open(&self.address)).await?;
            };
            // The gateway may have closed it meanwhile.
            if kept.sender.ready().await.is_ok() {
                return Ok(kept);
            }
        }
    }

    fn keep(&self, connection: Connection) {
        let mut idle = lock(&self.idle);
        // Those that the gateway has closed would hold their sockets until they are taken.
        idle.retain(|one| !one.sender.is_closed());
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }
}

impl Connection {
    async fn open(address: &str) -> Result<Self, CallError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        let socket = stream.try_clone()?;
        let io = TokioIo::new(TcpStream::from_std(stream)?);
        let (sender, connection) = handshake(io).await?;
        let task = tokio::spawn(async move {
            // Its error is that of the request.
            let _ = connection.await;
        });
        Ok(Self {
            sender,
            socket,
            task: task.abort_handle(),
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Exchange {
    /// Waits for the answer, after which the connection is kept for others.
    pub(super) async fn answer(&mut self, connections: &Connections) -> Answer {
        let answer = self.answer.as_mut().await?;
        if let Some(connection) = self.connection.take()
            && !self.is_hung_up
        {
            connections.keep(connection);
        }
        Ok(answer)
    }

    /// Tells the gateway that no answer is awaited: it sees the end of the connection. An answer that it has written before
    /// can still be read.
    pub(super) fn hang_up(&mut self) {
        self.is_hung_up = true;
        if let Some(connection) = &self.connection {
            // One that is broken has hung up already.
            let _ = connection.socket.shutdown(Shutdown::Write);
        }
    }
}

/// Words a request as a server gets it: with the path alone, and the host as a header.
fn of_origin(request: Request<Vec<u8>>) -> Result<Request<Full<Bytes>>, CallError> {
    let (mut parts, body) = request.into_parts();
    if let Some(authority) = parts.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str());
        let host = host.map_err(|error| CallError(error.into()))?;
        parts.headers.insert(HOST, host);
    }
    let root = PathAndQuery::from_static("/");
    parts.uri = Uri::from(parts.uri.path_and_query().cloned().unwrap_or(root));
    Ok(Request::from_parts(parts, Full::from(body)))
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)?;
        match self.0.source() {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl From<hyper::Error> for CallError {
    fn from(error: hyper::Error) -> Self {
        Self(error.into())
    }
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        Self(error.into())
    }
}

impl From<tokio::time::error::Elapsed> for CallError {
    fn from(late: tokio::time::error::Elapsed) -> Self {
        Self(late.into())
    }
}
