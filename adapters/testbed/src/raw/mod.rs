//! A backend that records the bytes of each connection, for tests of request smuggling.
//!
//! Invariant: it answers only what it can delimit by the strictest reading; all bytes are recorded, up to a bound.

mod framing;

pub use framing::{RawRefusal, RawRequest};

use crate::server::{Kill, Server, accept, take_address};
use crate::watched::Watched;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use framing::{Delimited, delimit};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// Most connections that are kept, the last ones.
const MAX_CONNECTIONS: usize = 1_000;

/// Most bytes that are kept of all connections together.
const MAX_BYTES: usize = 64 << 20;

const BUFFER_BYTES: usize = 64 << 10;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

const REFUSED: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Settings of a [`RawBackend`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RawBackendConfig {
    /// Address to listen on; by default a free port of 127.0.0.1.
    pub listen: SocketAddr,
    /// The bytes that answer each request: by default status 200 with the body `ok`.
    ///
    /// An answer to HEAD ends with the head.
    pub answer: Vec<u8>,
    /// Bytes kept of each connection: 1 MiB by default. A longer request is refused.
    pub recorded_bytes: usize,
}

impl Default for RawBackendConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            answer: b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec(),
            recorded_bytes: 1 << 20,
        }
    }
}

/// What arrived on a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawConnection {
    /// Every byte, in order, as far as they are kept.
    pub bytes: Vec<u8>,
    /// Number of bytes that arrived after the kept ones.
    pub dropped: u64,
    /// Number of requests that were answered.
    pub answered: u64,
    /// The reason that the request after them can't be delimited. It got 400, and what follows is only recorded.
    pub refusal: Option<RawRefusal>,
    /// Whether the connection is open.
    pub is_open: bool,
}

impl RawConnection {
    /// Returns the requests that can be delimited in the kept bytes.
    #[must_use]
    pub fn requests(&self) -> Vec<RawRequest> {
        let (mut requests, mut rest) = (Vec::new(), self.bytes.as_slice());
        while let Ok(Delimited::Whole(request)) = delimit(rest) {
            rest = rest.get(request.length..).unwrap_or_default();
            requests.push(request);
        }
        requests
    }
}

/// A backend of plain sockets.
///
/// It answers each request that it can delimit by the strictest reading of RFC 9112 with the same bytes. A request that
/// could be read in two ways gets 400.
///
/// The server runs on its own thread. Dropping it closes every connection at once.
#[derive(Debug)]
pub struct RawBackend {
    address: SocketAddr,
    log: Arc<Watched<Log>>,
    /// Always there, until it is dropped.
    server: Option<Server>,
}

#[derive(Debug, Default)]
struct Log {
    opened: u64,
    bytes: usize,
    connections: BTreeMap<u64, RawConnection>,
}

impl RawBackend {
    /// Starts the backend; the port is open when this returns.
    ///
    /// # Errors
    /// The error of the system, if the address can't be listened on or the thread can't be started.
    pub fn start(config: RawBackendConfig) -> io::Result<Self> {
        let socket = take_address(config.listen)?;
        let log = Arc::new(Watched::new(Log::default()));
        let site = Site {
            log: Arc::clone(&log),
            answer: config.answer.into(),
            most: config.recorded_bytes,
        };
        let address = socket.local_addr()?;
        let server = Server::run(socket, |listener, stop| serve(listener, stop, site))?;
        Ok(Self {
            address,
            log,
            server: Some(server),
        })
    }

    /// The address that it listens on.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns what arrived on the last 1,000 connections, in the order of their start.
    #[must_use]
    pub fn connections(&self) -> Vec<RawConnection> {
        self.log
            .read(|log| log.connections.values().cloned().collect())
    }

    /// Waits until the connections fulfil a condition, for at most `limit`, and returns whether they do.
    pub fn wait(&self, limit: Duration, condition: impl Fn(&[RawConnection]) -> bool) -> bool {
        self.log.wait(limit, || condition(&self.connections()))
    }

    /// Closes the listener and every connection at once, and returns what arrived.
    pub fn stop(mut self) -> Vec<RawConnection> {
        self.kill();
        self.connections()
    }

    fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.kill();
        }
    }
}

impl Drop for RawBackend {
    fn drop(&mut self) {
        self.kill();
    }
}

#[derive(Clone, Debug)]
struct Site {
    log: Arc<Watched<Log>>,
    answer: Arc<[u8]>,
    most: usize,
}

async fn serve(listener: TcpListener, mut stopped: oneshot::Receiver<Kill>, site: Site) {
    loop {
        let accepted = tokio::select! {
            _ = &mut stopped => return,
            accepted = accept(&listener) => accepted,
        };
        if let Some(stream) = accepted {
            let conversation = Conversation::new(site.clone());
            tokio::spawn(conversation.run(stream));
        }
    }
}

/// A connection, open until it is dropped.
#[derive(Debug)]
struct Conversation {
    site: Site,
    number: u64,
    /// The bytes of the request that is not whole yet.
    pending: Vec<u8>,
    /// Whether its sender was told to go on.
    is_continued: bool,
}

/// What comes after some bytes.
enum Next {
    More,
    /// Only records what follows.
    Listen,
    Close,
}

impl Conversation {
    fn new(site: Site) -> Self {
        let number = site.log.change(|log| {
            log.opened += 1;
            let connection = RawConnection {
                is_open: true,
                ..RawConnection::default()
            };
            log.connections.insert(log.opened, connection);
            if log.connections.len() > MAX_CONNECTIONS
                && let Some((_, forgotten)) = log.connections.pop_first()
            {
                log.bytes -= forgotten.bytes.len();
            }
            log.opened
        });
        Self {
            site,
            number,
            pending: Vec::new(),
            is_continued: false,
        }
    }

    async fn run(mut self, mut stream: TcpStream) {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut is_listening = false;
        // An error means that the caller is gone.
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            let bytes = buffer.get(..length).unwrap_or_default();
            self.note(bytes);
            if is_listening {
                continue;
            }
            self.pending.extend_from_slice(bytes);
            match self.answer(&mut stream).await {
                Ok(Next::More) => {}
                Ok(Next::Listen) => is_listening = true,
                Ok(Next::Close) | Err(_) => return,
            }
        }
    }

    /// Answers every whole request, and refuses one that is not clear.
    async fn answer(&mut self, stream: &mut TcpStream) -> io::Result<Next> {
        loop {
            let refusal = match delimit(&self.pending) {
                Ok(Delimited::Whole(request)) => {
                    self.pending.drain(..request.length);
                    self.is_continued = false;
                    self.change(|connection| connection.answered += 1);
                    stream.write_all(self.answer_to(&request)).await?;
                    if !request.is_http_11 || request.lists("connection", "close") {
                        return Ok(Next::Close);
                    }
                    continue;
                }
                Ok(Delimited::Partial { .. }) if self.pending.len() > self.site.most => {
                    RawRefusal::TooLong
                }
                Ok(Delimited::Partial { expects_continue }) => {
                    if expects_continue && !self.is_continued {
                        self.is_continued = true;
                        stream.write_all(CONTINUE).await?;
                    }
                    return Ok(Next::More);
                }
                Err(refusal) => refusal,
            };
            self.pending = Vec::new();
            self.change(|connection| connection.refusal = Some(refusal));
            stream.write_all(REFUSED).await?;
            stream.shutdown().await?;
            return Ok(Next::Listen);
        }
    }

    /// The answer, without its body if that is to HEAD.
    fn answer_to(&self, request: &RawRequest) -> &[u8] {
        let answer = &self.site.answer;
        let mut ends = answer.windows(4);
        let head = ends.position(|end| end == b"\r\n\r\n");
        match head {
            Some(head) if request.method == "HEAD" => answer.get(..head + 4).unwrap_or(answer),
            Some(_) | None => answer,
        }
    }

    /// Records bytes, as far as there is room.
    fn note(&self, bytes: &[u8]) {
        self.site.log.change(|log| {
            let Some(connection) = log.connections.get_mut(&self.number) else {
                return;
            };
            let room = self.site.most.saturating_sub(connection.bytes.len());
            let room = room.min(MAX_BYTES.saturating_sub(log.bytes));
            let (kept, dropped) = bytes.split_at(room.min(bytes.len()));
            connection.bytes.extend_from_slice(kept);
            connection.dropped += dropped.len() as u64;
            log.bytes += kept.len();
        });
    }

    fn change(&self, change: impl FnOnce(&mut RawConnection)) {
        self.site
            .log
            .change(|log| log.connections.get_mut(&self.number).map(change));
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.change(|connection| connection.is_open = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Client, End, PATIENCE};

    fn start() -> RawBackend {
        RawBackend::start(RawBackendConfig::default()).unwrap()
    }

    #[test]
    fn each_request_is_answered_and_every_byte_recorded() {
        let backend = start();
        let mut client = Client::connect(backend.address());
        let first = "POST /1 HTTP/1.1\r\nHost: x\r\nX-Case: Kept\r\ncontent-length: 2\r\n\r\nhi";
        let second = "HEAD /2 HTTP/1.1\r\nhost: x\r\n\r\n";
        let third = "GET /3 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        client.send(&format!("{first}{second}"));
        assert_eq!(client.receive().unwrap().text(), "ok");
        let head = client.receive_head().unwrap();
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, Some("2"))
        );
        for byte in third.as_bytes().chunks(7) {
            client.send(core::str::from_utf8(byte).unwrap());
        }
        assert_eq!(client.receive().unwrap().text(), "ok");
        assert_eq!(client.read_all().1, End::Closed);
        assert!(backend.wait(PATIENCE, |all| all.iter().all(|one| !one.is_open)));
        let connections = backend.stop();
        let [connection] = connections.as_slice() else {
            panic!("{connections:?}");
        };
        assert_eq!(
            connection.bytes,
            format!("{first}{second}{third}").into_bytes()
        );
        assert_eq!((connection.answered, connection.refusal), (3, None));
        let requests = connection.requests();
        let targets: Vec<_> = requests.iter().map(|it| it.target.as_str()).collect();
        assert_eq!(targets, ["/1", "/2", "/3"]);
        assert_eq!(
            (requests[0].header("x-case"), requests[0].body.as_slice()),
            (Some("Kept"), &b"hi"[..])
        );
    }

    #[test]
    fn what_is_not_clear_gets_400_and_the_rest_is_only_recorded() {
        let backend = start();
        let mut client = Client::connect(backend.address());
        let clear = "GET /clear HTTP/1.1\r\nhost: x\r\n\r\n";
        let smuggled = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n\
                        0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
        client.send(&format!("{clear}{smuggled}"));
        assert_eq!(client.receive().unwrap().status, 200);
        let refused = client.receive().unwrap();
        assert_eq!(
            (refused.status, refused.header("connection")),
            (400, Some("close"))
        );
        client.send(clear);
        assert_eq!(client.read_all(), (Vec::new(), End::Closed));
        let bytes = format!("{clear}{smuggled}{clear}").into_bytes();
        assert!(backend.wait(PATIENCE, |all| all[0].bytes == bytes));
        let connection = &backend.connections()[0];
        assert_eq!((connection.answered, connection.requests().len()), (1, 1));
        assert_eq!(connection.refusal, Some(RawRefusal::BothLengths));
    }

    #[test]
    fn a_body_that_is_waited_for_is_asked_for_once() {
        let backend = start();
        let mut client = Client::connect(backend.address());
        client.send(
            "POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n",
        );
        assert_eq!(client.receive().unwrap().status, 100);
        client.send("ab");
        client.send("cd");
        assert_eq!(client.receive().unwrap().status, 200);
        assert_eq!(backend.stop()[0].requests()[0].body, b"abcd");
    }

    #[test]
    fn what_is_recorded_is_bounded() {
        let config = RawBackendConfig {
            recorded_bytes: 100,
            ..RawBackendConfig::default()
        };
        let backend = RawBackend::start(config).unwrap();
        let mut client = Client::connect(backend.address());
        client.send(&format!("GET /{} HTTP/1.1", "x".repeat(200)));
        assert_eq!(client.receive().unwrap().status, 400);
        let connection = &backend.connections()[0];
        assert_eq!((connection.bytes.len(), connection.dropped), (100, 114));
        assert_eq!(connection.refusal, Some(RawRefusal::TooLong));
        for _ in 0..=MAX_CONNECTIONS {
            Client::connect(backend.address());
        }
        assert!(backend.wait(PATIENCE, |all| all.len() == MAX_CONNECTIONS
            && all.iter().all(|one| one.bytes.is_empty())));
    }
}
