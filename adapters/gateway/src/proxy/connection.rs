//! One connection of a caller, from its acceptance to its end.
//!
//! Invariant: a connection that drains says so in its next answer, which is its last one.

use super::caller_io::{CallerIo, CallerState};
use super::direct::{self, CallerSide};
use super::exchange::answer;
use super::headers::Peer;
use super::rewound::Rewound;
use crate::buffers::BUFFER;
use crate::clock::in_one_poll;
use crate::connections::Counted;
use crate::worker::{OpenHere, Worker};
use core::cell::{Cell, OnceCell, RefCell};
use core::future::poll_fn;
use core::num::NonZeroU32;
use core::pin::pin;
use core::sync::atomic::Ordering;
use core::task::Poll;
use http::{Extensions, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use leasehold_config::ListenerBounds;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// A caller's connection, as its exchanges see it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    /// The number of its listener.
    pub(crate) listener: usize,
    /// Its other end; `None` for a Unix socket.
    pub(crate) peer: Option<Peer>,
    /// The last `Host` header that was found right.
    pub(crate) host: RefCell<Option<HeaderValue>>,
    pub(crate) state: Arc<CallerState>,
    /// The extensions by which interim answers reach this caller, from its first request on.
    pub(crate) interim: OnceCell<Extensions>,
    pub(crate) max_requests: Option<NonZeroU32>,
    pub(crate) requests: Cell<u32>,
    /// Counts it, with its tunnel, as open.
    pub(crate) _open: (Counted, OpenHere),
}

impl Connection {
    /// Counts a request, and tells whether the connection ends with it.
    pub(crate) fn is_last_request(&self) -> bool {
        self.requests.set(self.requests.get().saturating_add(1));
        self.max_requests
            .is_some_and(|max| self.requests.get() >= max.get())
    }
}

/// Serves a connection until it ends.
///
/// An `async fn` would keep its arguments beside what is made of them.
pub(crate) fn serve<S>(
    io: S,
    connection: Connection,
    bounds: ListenerBounds,
) -> impl Future<Output = ()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let state = Arc::clone(&connection.state);
    let worker = Rc::clone(&connection.worker);
    let io = CallerIo::new(io, Arc::clone(&state), bounds);
    let requests = serve_requests(io, Rc::new(connection), bounds);
    async move {
        let mut served = pin!(requests);
        let drain = worker.drain();
        let mut draining = pin!(drain.begun());
        // From now on, a drain wakes this task.
        poll_fn(|context| Poll::Ready(draining.as_mut().poll(context).is_ready())).await;
        let serving = poll_fn(|context| {
            in_one_poll(|| {
                let mut polled = served.as_mut().poll(context);
                if polled.is_pending()
                    && drain.has_begun()
                    && !state.is_draining.swap(true, Ordering::Relaxed)
                {
                    // It waits for a request from now on as long as a drain allows.
                    polled = served.as_mut().poll(context);
                }
                polled
            })
        });
        serving.await;
        if state.is_refused.load(Ordering::Relaxed) {
            worker.shared().totals().count_ambiguous();
        }
    }
}

/// Serves plain requests directly, and hands the connection to hyper at the first that is not.
///
/// hyper's state is boxed, because few connections need it: with a thousand in turn, each cache line that a task touches is
/// a likely miss.
fn serve_requests<S>(
    io: CallerIo<S>,
    connection: Rc<Connection>,
    bounds: ListenerBounds,
) -> impl Future<Output = ()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let caller = CallerSide::new(io, Rc::clone(&connection.worker));
    async move {
        if direct::serve(&caller, &connection, &bounds).await {
            Box::pin(serve_by_hyper(caller, connection, bounds)).await;
        }
    }
}

async fn serve_by_hyper<S>(
    caller: CallerSide<S>,
    connection: Rc<Connection>,
    bounds: ListenerBounds,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (io, ahead) = caller.into_parts();
    let io = Rewound { ahead, io };
    let service = service_fn(move |request| answer(Rc::clone(&connection), request));
    let max_header = usize::try_from(bounds.max_header_bytes).unwrap_or(BUFFER);
    // Errors of a caller's connection are the caller's.
    let _ = http1::Builder::new()
        .max_buf_size(BUFFER.max(max_header))
        .max_header_size(max_header)
        .max_headers(bounds.max_headers.into())
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades()
        .await;
}
