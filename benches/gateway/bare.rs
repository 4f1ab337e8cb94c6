//! A reverse proxy of hyper alone: the floor that the gateway is compared with.
//!
//! `leasehold-bench-bare LISTEN BACKEND...` passes requests to the backends in turn, as they are. It has no log, no
//! timeouts, no header rules and no health checks. Each core has a thread with a runtime, a listener (SO_REUSEPORT)
//! and idle upstream connections of its own; threads share nothing.
//!
//! Invariant: an upstream connection has no task. The task of a client's connection polls it from the request to the
//! end of the answer. One that is idle has no exchange in progress, and is not polled.

use core::cell::{Cell, RefCell};
use core::convert::Infallible;
use core::future::{Future, poll_fn};
use core::net::SocketAddr;
use core::pin::{Pin, pin};
use core::task::{Context, Poll, ready};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self as client, Connection, SendRequest};
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::env;
use std::io;
use std::process::{ExitCode, exit};
use std::rc::Rc;
use std::thread;
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;

type Request = hyper::Request<Incoming>;
type Unsent = TrySendError<Request>;

const MAX_BUFFER_BYTES: usize = 64 * 1024;
const BACKLOG: u32 = 4096;
/// Idle connections of a thread to one backend.
const MAX_IDLE: usize = 1000;

fn main() -> ExitCode {
    let addresses: Result<Vec<SocketAddr>, _> = env::args().skip(1).map(|a| a.parse()).collect();
    let Ok(all @ [listen, _, ..]) = addresses.as_deref() else {
        eprintln!("usage: leasehold-bench-bare LISTEN BACKEND..., each as 127.0.0.1:8080");
        return ExitCode::from(2);
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                if let Err(error) = serve(*listen, &all[1..]) {
                    eprintln!("error: {listen}: {error}");
                    exit(1);
                }
            });
        }
    });
    ExitCode::SUCCESS
}

/// Serves on the calling thread until its listener fails.
fn serve(listen: SocketAddr, backends: &[SocketAddr]) -> io::Result<()> {
    let proxy = Rc::new(Proxy {
        backends: backends.iter().copied().map(Backend::new).collect(),
        turn: Cell::new(0),
    });
    // A `LocalRuntime` runs local tasks itself; a `LocalSet` would add a queue of its own.
    let runtime = Builder::new_current_thread()
        .enable_io()
        .build_local(LocalOptions::default())?;
    runtime.block_on(accept_all(listen, proxy))
}

async fn accept_all(listen: SocketAddr, proxy: Rc<Proxy>) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(listen)?;
    let listener = socket.listen(BACKLOG)?;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        let proxy = Rc::clone(&proxy);
        spawn_local(async move {
            let _ = stream.set_nodelay(true);
            let service = service_fn(|request| Rc::clone(&proxy).forward(request));
            // An error ends this connection only; there is no log to tell it to.
            let _ = server::Builder::new()
                .max_buf_size(MAX_BUFFER_BYTES)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// The backends as one thread sees them, and whose turn it is.
struct Proxy {
    backends: Vec<Rc<Backend>>,
    turn: Cell<usize>,
}

impl Proxy {
    async fn forward(self: Rc<Self>, request: Request) -> Result<Response<Answer>, Infallible> {
        let turn = self.turn.get();
        self.turn.set((turn + 1) % self.backends.len());
        let result = exchange(&self.backends[turn], request).await;
        Ok(result.unwrap_or_else(|_| {
            let mut response = Response::new(Answer(None));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }))
    }
}

/// Sends a request over an idle connection, or over a new one if there is none.
///
/// The backend may have closed an idle connection. If nothing of the request was sent, the next one is used.
async fn exchange(backend: &Rc<Backend>, mut request: Request) -> io::Result<Response<Answer>> {
    loop {
        let idle = backend.idle.borrow_mut().pop();
        let is_fresh = idle.is_none();
        let mut upstream = match idle {
            Some(upstream) => upstream,
            None => Upstream::connect(backend.address).await?,
        };
        match upstream.send(request).await {
            Ok(response) => {
                return Ok(response.map(|body| Answer::new(body, upstream, Rc::clone(backend))));
            }
            Err(mut error) => match error.take_message() {
                Some(unsent) if !is_fresh => request = unsent,
                _ => return Err(io::Error::other(error.into_error())),
            },
        }
    }
}

struct Backend {
    address: SocketAddr,
    idle: RefCell<Vec<Upstream>>,
}

impl Backend {
    fn new(address: SocketAddr) -> Rc<Self> {
        let idle = RefCell::default();
        Rc::new(Self { address, idle })
    }

    /// Keeps a connection for the next request if its exchange has ended.
    fn put_back(&self, upstream: Upstream) {
        let mut idle = self.idle.borrow_mut();
        if upstream.is_idle() && idle.len() < MAX_IDLE {
            idle.push(upstream);
        }
    }
}

/// A connection to a backend. It makes progress only in `poll_connection`.
struct Upstream {
    sender: SendRequest<Incoming>,
    /// `None` once it has ended.
    connection: Option<Connection<TokioIo<TcpStream>, Incoming>>,
}

impl Upstream {
    async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = client::Builder::new()
            .max_buf_size(MAX_BUFFER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let connection = Some(connection);
        Ok(Self { sender, connection })
    }

    async fn send(&mut self, request: Request) -> Result<Response<Incoming>, Unsent> {
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|context| {
            self.poll_connection(context);
            answer.as_mut().poll(context)
        })
        .await
    }

    fn poll_connection(&mut self, context: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && Pin::new(connection).poll(context).is_ready()
        {
            self.connection = None;
        }
    }

    fn is_idle(&self) -> bool {
        self.connection.is_some() && self.sender.is_ready()
    }
}

/// The body of an answer, with the connection it comes from; `None` once it has ended.
struct Answer(Option<(Incoming, Upstream, Rc<Backend>)>);

impl Answer {
    fn new(body: Incoming, upstream: Upstream, backend: Rc<Backend>) -> Self {
        if body.is_end_stream() {
            backend.put_back(upstream);
            return Self(None);
        }
        Self(Some((body, upstream, backend)))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some((body, upstream, _)) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let mut polled = Pin::new(&mut *body).poll_frame(context);
        if polled.is_pending() {
            upstream.poll_connection(context);
            polled = Pin::new(&mut *body).poll_frame(context);
        }
        let frame = ready!(polled);
        if (frame.is_none() || body.is_end_stream())
            && let Some((_, mut upstream, backend)) = self.0.take()
        {
            if !upstream.is_idle() {
                upstream.poll_connection(context);
            }
            backend.put_back(upstream);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Some((body, ..)) => body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}
