//! An HTTP/1 server on its own thread: accepting connections, time limits, shutdown.
//!
//! Invariant: when the drop of a [`Server`] returns, after at most [`GRACE`], its thread, listener and connections
//! are gone.

use alloc::sync::Arc;
use core::error::Error;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::io;
use std::net::TcpListener;
use std::thread::{self, JoinHandle};
use tokio::net::TcpListener as AsyncListener;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// A response with its whole body in memory.
pub(crate) type HttpResponse = Response<Full<Bytes>>;

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
    /// Listens on `listen`, counts connections in `connections`, and calls `handler` for each request.
    ///
    /// An error of `handler` closes the connection without a response.
    pub(crate) fn start<H, F, E>(
        listen: SocketAddr,
        connections: Arc<AtomicU64>,
        handler: H,
    ) -> io::Result<Self>
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Result<HttpResponse, E>> + Send + 'static,
        E: Error + Send + Sync + 'static,
    {
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
            .spawn(move || runtime.block_on(serve(listener, stopped, connections, handler)))?;
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

async fn serve<H, F, E>(
    listener: AsyncListener,
    mut stopped: oneshot::Receiver<()>,
    connections: Arc<AtomicU64>,
    handler: H,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<HttpResponse, E>> + Send + 'static,
    E: Error + Send + Sync + 'static,
{
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
        connections.fetch_add(1, Ordering::Relaxed);
        // An error means a broken connection, which serving it will report.
        let _ = stream.set_nodelay(true);
        let connection = graceful
            .watch(http.serve_connection(TokioIo::new(stream), service_fn(handler.clone())));
        tokio::spawn(async move {
            // An error means that the client misbehaved or the handler closed the connection.
            let _ = connection.await;
        });
    }
    drop(listener);
    // Connections still open after that are closed when the runtime is dropped.
    let _ = timeout(GRACE, graceful.shutdown()).await;
}
