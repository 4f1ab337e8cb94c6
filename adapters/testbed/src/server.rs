//! An HTTP/1 server on a thread of its own: how connections are accepted, bounded in time, and ended.
//!
//! Invariant: a dropped [`Server`] has no thread, listener or connection left, at most [`GRACE`] later.

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

/// An answer, held whole.
pub(crate) type Answer = Response<Full<Bytes>>;

/// How long calls in flight may take to end once the server is told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// How long a connection may take to send a request's head. hyper starts this timer when it begins to
/// wait for the next head, so it also bounds how long a connection may idle: longer than a client's pool
/// commonly keeps one (60 to 90 s), so that it is the client who closes it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a request's body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest body read.
const MAX_BODY: usize = 8 << 20;

/// How long to wait before another connection is accepted after that failed, as it does at once and
/// again while the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A running server; it stops when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `listen`, adds every connection to `connections`, and answers each request by `handler`.
    /// Where that fails, the connection is closed without an answer.
    ///
    /// # Errors
    /// Where the address can't be listened on or the thread can't be started.
    pub(crate) fn start<H, F, E>(
        listen: SocketAddr,
        connections: Arc<AtomicU64>,
        handler: H,
    ) -> io::Result<Self>
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Result<Answer, E>> + Send + 'static,
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

    /// Where it listens.
    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of that thread was already reported by it, and must not become an abort here.
            let _ = thread.join();
        }
    }
}

/// Why a body could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// It is over [`MAX_BODY`].
    TooLarge,
    /// It took longer than [`BODY_TIMEOUT`].
    Slow,
    /// The connection broke or the framing is malformed.
    Broken,
}

/// Reads a body to its end, within the bounds on its size and time.
pub(crate) async fn read_body(body: Incoming) -> Result<Bytes, BodyError> {
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(BodyError::TooLarge);
    }
    match timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge),
        Ok(Err(_)) => Err(BodyError::Broken),
        Err(_) => Err(BodyError::Slow),
    }
}

/// Reads a body that nobody needs: left unread, it would cost the caller its connection.
pub(crate) async fn drain(body: Incoming) {
    // A body that can't be had ends the connection, which hyper sees to.
    let _ = read_body(body).await;
}

async fn serve<H, F, E>(
    listener: AsyncListener,
    mut stopped: oneshot::Receiver<()>,
    connections: Arc<AtomicU64>,
    handler: H,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Answer, E>> + Send + 'static,
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
        // Where this fails the connection is already broken, which serving it finds out.
        let _ = stream.set_nodelay(true);
        let connection = graceful
            .watch(http.serve_connection(TokioIo::new(stream), service_fn(handler.clone())));
        tokio::spawn(async move {
            // It ends in an error where the peer misbehaved or the handler chose to close it.
            let _ = connection.await;
        });
    }
    drop(listener);
    // What is left after that is cut off when the runtime is dropped.
    let _ = timeout(GRACE, graceful.shutdown()).await;
}
