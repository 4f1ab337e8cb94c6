//! An HTTP/1 server on its own thread: accepting connections, time limits, shutdown.
//!
//! Invariant: when the kill of a [`Server`] returns, or its drop after at most [`GRACE`], its thread, listener and
//! connections are gone.

mod link;
mod payload;

pub(crate) use link::{Connection, Orders};
pub(crate) use payload::{BrokenOff, Payload, Step};

use alloc::sync::Arc;
use core::net::SocketAddr;
use core::pin::pin;
use core::time::Duration;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use link::Link;
use std::io;
use std::thread::{self, JoinHandle};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

/// Closes the connection without a response.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("connection closed on purpose")]
pub(crate) struct CloseConnection;

impl From<BrokenOff> for CloseConnection {
    fn from(_: BrokenOff) -> Self {
        Self
    }
}

/// A kind of server: it answers requests, and keeps a state for each connection.
pub(crate) trait Site: Clone + Send + 'static {
    /// It is dropped when its socket is closed, by either side or with the server.
    type Connection: Connection;
    type Body: Body<Data = Bytes, Error = BrokenOff> + Send + 'static;

    /// A connection was accepted.
    fn opened(&self) -> Self::Connection;

    /// Most headers of a request; hyper answers 431 to more.
    fn max_headers(&self) -> Option<usize> {
        None
    }

    fn respond(
        &self,
        request: Request<Incoming>,
        connection: Arc<Self::Connection>,
    ) -> impl Future<Output = Result<Response<Self::Body>, CloseConnection>> + Send + 'static + use<Self>;
}

/// Time for calls in flight to end after a stop.
const GRACE: Duration = Duration::from_secs(5);

/// Timeout of a request's head, and of an idle connection.
///
/// hyper starts this timer when it begins to wait for the next head. It is longer than the idle timeout of common
/// clients (60 to 90 s), so that the client closes first.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);

const BODY_TIMEOUT: Duration = Duration::from_secs(30);

const MAX_BODY_BYTES: usize = 8 << 20;

/// Pause after a failed accept: without it, a process out of file descriptors would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that may wait to be accepted; the system may allow fewer.
const BACKLOG: u32 = 4_096;

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Server {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<Kill>>,
    thread: Option<JoinHandle<()>>,
}

/// Ends a server without waiting for calls in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kill;

/// Takes an address without listening on it: connections are refused.
///
/// A port with connections of an earlier server that the system has not forgotten yet can be taken too.
pub(crate) fn take_address(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if cfg!(unix) {
        // Elsewhere this would let two servers listen on one port.
        socket.set_reuseaddr(true)?;
    }
    socket.bind(addr)?;
    Ok(socket)
}

impl Server {
    /// Listens on `addr`, and lets `site` answer each request.
    pub(crate) fn start(addr: SocketAddr, site: impl Site) -> io::Result<Self> {
        Self::run(take_address(addr)?, |listener, stop| {
            serve(listener, stop, site)
        })
    }

    /// Listens on an address that was taken, and runs `serve` until it ends.
    ///
    /// The receiver of `serve` has a [`Kill`] at a kill, and an error at a stop.
    pub(crate) fn run<F: Future<Output = ()>>(
        socket: TcpSocket,
        serve: impl FnOnce(TcpListener, oneshot::Receiver<Kill>) -> F + Send + 'static,
    ) -> io::Result<Self> {
        let addr = socket.local_addr()?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let listener = {
            let _entered = runtime.enter();
            socket.listen(BACKLOG)?
        };
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("testbed".into())
            .spawn(move || runtime.block_on(serve(listener, stopped)))?;
        Ok(Self {
            addr,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Closes the listener and every connection at once.
    pub(crate) fn kill(mut self) {
        if let Some(stop) = self.stop.take() {
            // An error means that the thread has ended.
            let _ = stop.send(Kill);
        }
    }

    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The thread has already reported its panic; a second one during an unwind would abort.
            let _ = thread.join();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// The body is longer than [`MAX_BODY_BYTES`].
    TooLarge,
    /// The body took longer than [`BODY_TIMEOUT`].
    Slow,
    /// The connection broke, or the framing is malformed.
    Broken,
}

/// Reads a body to its end, within [`MAX_BODY_BYTES`] and [`BODY_TIMEOUT`].
pub(crate) async fn read_body(body: Incoming) -> Result<Bytes, BodyError> {
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(BodyError::TooLarge);
    }
    match timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY_BYTES).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge),
        Ok(Err(_)) => Err(BodyError::Broken),
        Err(_) => Err(BodyError::Slow),
    }
}

/// Reads and drops a body: an unread body would close the connection.
pub(crate) async fn drain(body: Incoming) {
    // After an error hyper closes the connection.
    let _ = read_body(body).await;
}

/// Accepts the next connection, or returns `None` at a failed accept, after a pause.
pub(crate) async fn accept(listener: &TcpListener) -> Option<TcpStream> {
    let Ok((stream, _)) = listener.accept().await else {
        sleep(ACCEPT_PAUSE).await;
        return None;
    };
    // An error means a broken connection, which serving it will report.
    let _ = stream.set_nodelay(true);
    Some(stream)
}

pub(crate) async fn serve(
    listener: TcpListener,
    mut stopped: oneshot::Receiver<Kill>,
    site: impl Site,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    if let Some(most) = site.max_headers() {
        http.max_headers(most);
    }
    let (stopping, stop_signal) = watch::channel(());
    let stop = loop {
        let accepted = tokio::select! {
            stop = &mut stopped => break stop,
            accepted = accept(&listener) => accepted,
        };
        let Some(stream) = accepted else { continue };
        let connection = Arc::new(site.opened());
        let link = Link::new(stream, Arc::clone(&connection));
        let site = site.clone();
        let service = service_fn(move |request| site.respond(request, Arc::clone(&connection)));
        let connection = http.serve_connection(TokioIo::new(link), service);
        let mut stop = stop_signal.clone();
        tokio::spawn(async move {
            let mut connection = pin!(connection.with_upgrades());
            tokio::select! {
                // An error means that the client misbehaved or a fault closed the connection.
                _ = connection.as_mut() => return,
                _ = stop.changed() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
            drop(stop);
        });
    };
    drop((listener, stop_signal));
    // Connections still open after this, upgraded ones too, are closed when the runtime is dropped.
    if stop.is_err() && stopping.send(()).is_ok() {
        let _ = timeout(GRACE, stopping.closed()).await;
    }
}
