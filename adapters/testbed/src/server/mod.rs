//! An HTTP/1 server on its own thread: accepting connections, time limits, shutdown.
//!
//! Invariant: when the drop of a [`Server`] returns, after at most [`GRACE`], its thread, listener and connections
//! are gone.

mod link;
mod payload;

pub(crate) use link::Orders;
pub(crate) use payload::{Payload, Step};

use alloc::sync::Arc;
use core::net::SocketAddr;
use core::time::Duration;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use link::Link;
use std::io;
use std::net::TcpListener;
use std::thread::{self, JoinHandle};
use tokio::net::TcpListener as AsyncListener;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// A response with a scripted body.
pub(crate) type HttpResponse = Response<Payload>;

/// Closes the connection without a response.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("connection closed on purpose")]
pub(crate) struct CloseConnection;

/// A kind of server: it answers requests and is told of connections.
pub(crate) trait Site: Clone + Send + 'static {
    /// Answers a request of the connection that `orders` belong to.
    fn respond(
        &self,
        request: Request<Incoming>,
        orders: Arc<Orders>,
    ) -> impl Future<Output = Result<HttpResponse, CloseConnection>> + Send + 'static + use<Self>;

    /// A connection was accepted.
    fn opened(&self);

    /// A connection was closed, by either side.
    fn closed(&self);
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

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Server {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `listen`, and lets `site` answer each request.
    pub(crate) fn start(listen: SocketAddr, site: impl Site) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let listener = {
            let _entered = runtime.enter();
            AsyncListener::from_std(listener)?
        };
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("testbed".into())
            .spawn(move || runtime.block_on(serve(listener, stopped, site)))?;
        Ok(Self {
            addr,
            stop: Some(stop),
            thread: Some(thread),
        })
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

async fn serve(listener: AsyncListener, mut stopped: oneshot::Receiver<()>, site: impl Site) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            _ = &mut stopped => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let open = OpenConnection::new(site.clone());
        // An error means a broken connection, which serving it will report.
        let _ = stream.set_nodelay(true);
        let orders = Arc::new(Orders::default());
        let link = Link::new(stream, Arc::clone(&orders));
        let site = site.clone();
        let service = service_fn(move |request| site.respond(request, Arc::clone(&orders)));
        let connection = graceful.watch(http.serve_connection(TokioIo::new(link), service));
        tokio::spawn(async move {
            // An error means that the client misbehaved or a fault closed the connection.
            let _ = connection.await;
            drop(open);
        });
    }
    drop(listener);
    // Connections still open after that are closed when the runtime is dropped.
    let _ = timeout(GRACE, graceful.shutdown()).await;
}

/// Tells the site of a connection's end, also when the runtime is dropped with it.
struct OpenConnection<S: Site>(S);

impl<S: Site> OpenConnection<S> {
    fn new(site: S) -> Self {
        site.opened();
        Self(site)
    }
}

impl<S: Site> Drop for OpenConnection<S> {
    fn drop(&mut self) {
        self.0.closed();
    }
}
