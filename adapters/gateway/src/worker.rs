//! One thread of the gateway: its listeners, its connections to backends and its part of the log.
//!
//! Invariant: nothing of a thread is touched by another; what they share is in [`Shared`].

use crate::access_log::LogBuffer;
use crate::bind::Bound;
use crate::buffers::Buffers;
use crate::connections::Connections;
use crate::drain::Drain;
use crate::heartbeat::Heart;
use crate::operator_log::target;
use crate::proxy::{CallerState, Connection, Peer, serve};
use crate::record::Record;
use crate::shared::Shared;
use crate::upstream::{BackendConnection, BackendStream, IdleConnections};
use core::cell::{Cell, OnceCell, RefCell};
use core::net::IpAddr;
use core::time::Duration;
use leasehold_config::LogFormat;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;
use tokio::time::{interval, sleep, timeout};

/// The pause between two looks at old connections and unwritten lines.
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// The pause after the system had no file left for a connection.
const AFTER_ERROR: Duration = Duration::from_millis(50);

/// One thread's part of a gateway.
#[derive(Debug)]
pub(crate) struct Worker {
    shared: Arc<Shared>,
    idle: IdleConnections<BackendConnection>,
    idle_streams: IdleConnections<BackendStream>,
    buffers: Buffers,
    log: RefCell<LogBuffer>,
    drain: Drain,
}

/// A listener that a worker accepts from.
#[derive(Debug)]
pub(crate) struct Accepting {
    pub(crate) number: usize,
    pub(crate) bound: Bound,
    pub(crate) connections: Connections,
}

impl Worker {
    /// Makes the part of a thread that has no listeners.
    pub(crate) fn alone(shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            shared,
            idle: IdleConnections::default(),
            idle_streams: IdleConnections::default(),
            buffers: Buffers::default(),
            log: RefCell::default(),
            drain: Drain::default(),
        })
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Unused connections of hyper's.
    pub(crate) fn idle(&self) -> &IdleConnections<BackendConnection> {
        &self.idle
    }

    /// Unused connections on which requests are sent without hyper.
    pub(crate) fn idle_streams(&self) -> &IdleConnections<BackendStream> {
        &self.idle_streams
    }

    pub(crate) fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// Whether lines of the log have the page and the program that a request came from.
    pub(crate) fn logs_referrers(&self) -> bool {
        let log = self.shared.log();
        log.is_some_and(|log| log.format() != LogFormat::Common)
    }

    /// Counts and logs a request that has ended.
    pub(crate) fn finish(&self, record: &Record) {
        let took = record.elapsed();
        self.shared.totals().count(record.outcome(), took);
        tracing::trace!(
            target: target::EXCHANGE,
            method = %record.method,
            // A query may hold a key.
            path = record.uri.path(),
            status = record.status.as_u16(),
            end = record.end.code(),
            "an exchange has ended"
        );
        if let Some(queue) = self.shared.log() {
            self.log.borrow_mut().add(queue, record, took);
        }
    }

    /// How the thread's tasks learn that it drains.
    pub(crate) fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Waits until the gateway drains, and tells the thread's tasks.
    async fn follow_drain(&self) {
        // The sender lives as long as `shared`.
        let _ = self.shared.drain().wait_for(|drains| *drains).await;
        self.drain.begin();
    }

    /// Lets a task go on by itself; not while the gateway drains, when all of them are about to end.
    pub(crate) fn finish_alone(&self, task: impl Future<Output = ()> + 'static) {
        if !*self.shared.drain().borrow() {
            spawn_local(task);
        }
    }

    fn flush_log(&self) {
        if let Some(queue) = self.shared.log() {
            self.log.borrow_mut().flush(queue);
        }
    }
}

/// Serves the listeners on this thread until the gateway drains, and `longest` after that at most.
pub(crate) fn run(
    shared: Arc<Shared>,
    listeners: Vec<Accepting>,
    longest: Duration,
    heart: Heart,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    let worker = Worker::alone(shared);
    runtime.block_on(async {
        let open = Rc::new(Open::default());
        for listener in listeners {
            spawn_local(accept_all(Rc::clone(&worker), listener, Rc::clone(&open)));
        }
        spawn_local(keep_house(Rc::clone(&worker)));
        spawn_local(heart.beat());
        worker.follow_drain().await;
        // Those that have not ended by then are cut.
        if timeout(longest, open.all_closed()).await.is_err() {
            worker.shared.totals().count_cut(open.count.get());
        }
    });
    drop(runtime);
    worker.flush_log();
    Ok(())
}

/// The connections of one thread that are open.
#[derive(Debug, Default)]
struct Open {
    count: Cell<u32>,
    closed: tokio::sync::Notify,
}

impl Open {
    fn add(self: &Rc<Self>) -> OpenHere {
        self.count.set(self.count.get().saturating_add(1));
        OpenHere(Rc::clone(self))
    }

    async fn all_closed(&self) {
        while self.count.get() > 0 {
            self.closed.notified().await;
        }
    }
}

/// A connection that its thread waits for as long as this lives.
#[derive(Debug)]
pub(crate) struct OpenHere(Rc<Open>);

impl Drop for OpenHere {
    fn drop(&mut self) {
        let Self(open) = self;
        open.count.set(open.count.get().saturating_sub(1));
        open.closed.notify_waiters();
    }
}

async fn keep_house(worker: Rc<Worker>) {
    let mut ticks = interval(HOUSEKEEPING);
    loop {
        ticks.tick().await;
        worker.flush_log();
        worker.idle.sweep();
        worker.idle_streams.sweep();
    }
}

async fn accept_all(worker: Rc<Worker>, listener: Accepting, open: Rc<Open>) {
    let mut draining = core::pin::pin!(worker.drain().begun());
    let accepting = async {
        let result = match listener.bound.try_clone() {
            Ok(Bound::Tcp(tcp)) => accept_tcp(&worker, &listener, tcp, &open).await,
            Ok(Bound::Unix(unix)) => accept_unix(&worker, &listener, unix, &open).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::error!(target: target::GATEWAY, "cannot accept connections: {error}");
        }
    };
    tokio::select! {
        () = accepting => {}
        () = &mut draining => {}
    }
}

async fn accept_tcp(
    worker: &Rc<Worker>,
    listener: &Accepting,
    tcp: std::net::TcpListener,
    open: &Rc<Open>,
) -> io::Result<()> {
    let tcp = TcpListener::from_std(tcp)?;
    loop {
        match tcp.accept().await {
            Ok((stream, peer)) => {
                // A small answer must not wait for more.
                let _ = stream.set_nodelay(true);
                start(
                    worker,
                    listener,
                    stream,
                    Some(peer.ip().to_canonical()),
                    open,
                );
            }
            Err(_) => sleep(AFTER_ERROR).await,
        }
    }
}

async fn accept_unix(
    worker: &Rc<Worker>,
    listener: &Accepting,
    unix: std::os::unix::net::UnixListener,
    open: &Rc<Open>,
) -> io::Result<()> {
    let unix = UnixListener::from_std(unix)?;
    loop {
        match unix.accept().await {
            Ok((stream, _)) => start(worker, listener, stream, None, open),
            Err(_) => sleep(AFTER_ERROR).await,
        }
    }
}

/// Serves a connection in a task of its own, or closes it where there are too many.
fn start<S>(
    worker: &Rc<Worker>,
    accepting: &Accepting,
    stream: S,
    peer: Option<IpAddr>,
    open: &Rc<Open>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let table = worker.shared.table();
    let Ok(listener) = table.listener(accepting.number) else {
        return;
    };
    let bounds = listener.settings().bounds;
    let counted =
        accepting
            .connections
            .admit(peer, bounds.max_connections, bounds.max_client_connections);
    let Some(counted) = counted else {
        worker.shared.totals().count_turned_away();
        return;
    };
    let connection = Connection {
        worker: Rc::clone(worker),
        listener: accepting.number,
        peer: peer.map(Peer::new),
        host: RefCell::new(None),
        state: Arc::new(CallerState::default()),
        interim: OnceCell::new(),
        max_requests: bounds.max_requests,
        requests: Cell::new(0),
        _open: (counted, open.add()),
    };
    spawn_local(serve(stream, connection, bounds));
}
