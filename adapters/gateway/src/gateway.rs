//! A running gateway: started, reloaded, drained.
//!
//! Invariant: a gateway that has started listens at each of its addresses, and one that has drained at none; sockets that
//! were passed stay open where they come from.

use crate::access_log::LogQueue;
use crate::admin::AdminChanges;
use crate::alerts;
use crate::backend_pool::{BackendPool, PoolError, longest_window};
use crate::bind::{Bound, bind, share};
use crate::callers::{Accounts, Callers};
use crate::comfyui::{self, Hubs, JournalError};
use crate::dashboard;
use crate::heartbeat::{Heart, Heartbeats};
use crate::names::{self, Names};
use crate::operator_log::{OperatorLog, target};
use crate::otlp::{self, Collector, Otlp};
use crate::passed::{PassedError, PassedSockets};
use crate::probes;
use crate::reload::{Reloads, SettingsSource};
use crate::shared::{ADMIN, Logs, OnDisk, ReloadError, Shared, Table};
use crate::state::{State, StateError};
use crate::worker::{self, Accepting};
use core::net::SocketAddr;
use core::time::Duration;
use leasehold_config::{Address, Serve, Settings};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;

/// The pause between two writes of charges that are not due.
const STATE_INTERVAL: Duration = Duration::from_millis(50);

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address can't be listened at.
    #[error("cannot listen at {address}: {source}{}", advice(address, source))]
    Bind {
        /// The address.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// A socket that was passed can't be used.
    #[error(transparent)]
    Passed(#[from] PassedError),
    /// A pool can't be made.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The state file can't be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The access log can't be opened.
    #[error("cannot open the access log: {0}")]
    Log(io::Error),
    /// Traces and metrics can't be exported.
    #[error("cannot export traces and metrics: {0}; change [otlp] or --otlp")]
    Otlp(String),
    /// Jobs of ComfyUI servers can't be kept.
    #[error(transparent)]
    Jobs(#[from] JournalError),
    /// A thread can't be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// Returns what to do where an address of TCP can't be listened at.
fn advice(address: &str, error: &io::Error) -> &'static str {
    let known = [
        (
            io::ErrorKind::AddrInUse,
            "; another program listens there, which `leasehold doctor` names: end it, or choose another port",
        ),
        (
            io::ErrorKind::AddrNotAvailable,
            "; this machine does not have the address",
        ),
        (
            io::ErrorKind::PermissionDenied,
            "; ports below 1024 need CAP_NET_BIND_SERVICE",
        ),
    ];
    let is_tcp = !address.starts_with("unix:");
    let found = known
        .iter()
        .find(|(kind, _)| is_tcp && *kind == error.kind());
    found.map_or("", |(_, advice)| *advice)
}

/// A gateway that runs on threads of its own.
#[derive(Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
    addresses: Vec<Option<SocketAddr>>,
    admin_address: Option<SocketAddr>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    heartbeats: Heartbeats,
    log: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Starts a gateway, with a thread for each core and one for health checks.
    ///
    /// # Errors
    /// An address is taken, a pool's settings contradict each other, or the log can't be opened; nothing runs then.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        Self::start_on(PassedSockets::default(), None, None, settings)
    }

    /// Starts a gateway whose settings are read again by [`read_again`](Self::read_again) and by its admin interface.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_from(source: SettingsSource, settings: Settings) -> Result<Self, StartError> {
        Self::start_on(PassedSockets::default(), Some(source), None, settings)
    }

    /// Starts a gateway as its own program does.
    ///
    /// Its listeners take the passed sockets of their addresses, and bind those that are missing; the levels of the log are
    /// changed by its admin interface.
    ///
    /// # Errors
    /// As [`start`](Self::start), and if no listener has the address of a passed socket.
    pub fn start_on(
        passed: PassedSockets,
        source: Option<SettingsSource>,
        log: Option<OperatorLog>,
        settings: Settings,
    ) -> Result<Self, StartError> {
        let reloads = source.map(Reloads::from).unwrap_or_default();
        Self::run(settings, passed, reloads, Names::of_system(), log)
    }

    /// Starts a gateway that looks names up in this way, for tests.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    #[doc(hidden)]
    pub fn start_with(settings: Settings, look_up: names::LookUp) -> Result<Self, StartError> {
        let passed = PassedSockets::default();
        let reloads = Reloads::default();
        Self::run(settings, passed, reloads, Names::of(look_up), None)
    }

    fn run(
        settings: Settings,
        passed: PassedSockets,
        reloads: Reloads,
        names: Names,
        operator: Option<OperatorLog>,
    ) -> Result<Self, StartError> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let Listening {
            listeners: sockets,
            admin,
        } = listen_all(&settings, passed, threads)?;
        let (logs, writer, collector) = open_logs(&settings, operator)?;
        let drain = settings.drain;
        let state = open_state(&settings)?;
        let changes = state.as_ref().map(|state| state.changes()).transpose()?;
        let changes: AdminChanges = changes.unwrap_or_default();
        names.look_up_first(&settings).map_err(StartError::Thread)?;
        let accounts = state.as_ref().map(|state| state.accounts());
        let accounts = accounts.unwrap_or_default();
        let hubs = Hubs::open(&settings)?;
        let serves_comfyui = settings
            .listeners
            .iter()
            .any(|listener| listener.serve == Serve::Comfyui);
        let table = Table::new(settings, state.as_ref(), &changes, &names, &accounts)?;
        if let Some(state) = &state {
            state.settle()?;
        }
        let disk = OnDisk { state, hubs };
        let shared = Shared::new(table, disk, logs, changes, reloads, names, accounts);
        let shared = Arc::new(shared);
        let mut gateway = Self {
            addresses: sockets
                .iter()
                .map(|bound| bound.first().and_then(Bound::address))
                .collect(),
            admin_address: admin.as_ref().and_then(Bound::address),
            shared: Arc::clone(&shared),
            threads: Vec::new(),
            heartbeats: Heartbeats::default(),
            log: writer,
        };
        for listeners in by_thread(&shared, sockets, threads) {
            let shared = Arc::clone(&shared);
            gateway.spawn("gateway", move |heart| {
                worker::run(shared, listeners, drain, heart)
            })?;
        }
        if let Some(bound) = admin {
            let (shared, connections) = (Arc::clone(&shared), shared.connections(ADMIN));
            let listeners = vec![Accepting {
                number: ADMIN,
                bound,
                connections,
            }];
            gateway.spawn("gateway-admin", move |heart| {
                worker::run(shared, listeners, drain, heart)
            })?;
        }
        if let Some(collector) = collector {
            otlp::start(collector, &shared).map_err(StartError::Thread)?;
        }
        let health = Arc::clone(&shared);
        gateway.spawn("gateway-health", move |heart| watch_health(&health, heart))?;
        if serves_comfyui {
            gateway.spawn("gateway-comfyui", move |heart| comfyui::run(&shared, heart))?;
        }
        tracing::info!(target: target::GATEWAY, "started, listening at {}", gateway.shown_addresses());
        Ok(gateway)
    }

    /// All its addresses, for people.
    fn shown_addresses(&self) -> String {
        let table = self.shared.table();
        let settings = table.settings.listeners.iter();
        let settings = settings.map(|listener| &listener.address);
        let settings = settings.chain(&table.settings.admin.listen);
        let bound = self.addresses.iter().chain([&self.admin_address]);
        let shown = settings.zip(bound).map(|(address, bound)| {
            // A port of 0 was chosen by the system.
            bound.map_or_else(|| address.to_string(), |bound| bound.to_string())
        });
        shown.collect::<Vec<_>>().join(", ")
    }

    /// The addresses that it listens at, in the order of its listeners; `None` for a Unix socket.
    #[must_use]
    pub fn addresses(&self) -> &[Option<SocketAddr>] {
        &self.addresses
    }

    /// The address of the admin's own listener; `None` without one, and for a Unix socket.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Puts other settings in force: members, limits, health and requests in flight stay as they are.
    ///
    /// # Errors
    /// [`ReloadError`] where they can't be put in force.
    pub fn reload(&self, settings: Settings) -> Result<(), ReloadError> {
        self.shared.reload(settings)
    }

    /// Reads the settings again and puts them in force, or tells the operator why not.
    ///
    /// # Errors
    /// The text that was told.
    pub fn read_again(&self) -> Result<(), String> {
        self.shared.reloads().reload(&self.shared)
    }

    /// The signs of progress of its threads, for a watchdog.
    #[must_use]
    pub fn heartbeats(&self) -> Heartbeats {
        self.heartbeats.clone()
    }

    /// Opens the access log anew, because its file was moved away.
    pub fn reopen_log(&self) {
        if let Some(log) = self.shared.log() {
            log.reopen();
        }
    }

    /// Begins to drain: takes no more connections, and lets none have another request; [`drain`](Self::drain) waits for
    /// the end.
    pub fn begin_drain(&self) {
        self.shared.start_drain();
    }

    /// Takes no more connections, and waits until requests in flight have ended or the time for that is over; returns the number
    /// of connections that were cut then.
    pub fn drain(mut self) -> u32 {
        self.begin_drain();
        for thread in self.threads.drain(..) {
            // A thread that has panicked has ended too.
            let _ = thread.join();
        }
        self.end_state();
        let cut = self.shared.totals().cut();
        match cut {
            0 => tracing::info!(target: target::GATEWAY, "ended"),
            1.. => {
                tracing::warn!(target: target::GATEWAY, "ended; connections that were cut: {cut}");
            }
        }
        if let Some(otlp) = self.shared.otlp() {
            otlp.end();
        }
        // The log ends with its last sender.
        let Self { shared, log, .. } = self;
        drop(shared);
        if let Some(log) = log {
            let _ = log.join();
        }
        cut
    }

    /// Writes the last charges, and that the process ends in order.
    fn end_state(&self) {
        if let Err(error) = self.shared.hubs().sync() {
            tracing::error!(target: target::STATE, "{error}");
        }
        let table = self.shared.table();
        let pools = table.pools().iter().map(|pool| &**pool);
        let Some(state) = self.shared.state() else {
            return;
        };
        let written = self.shared.write_accounts();
        if let Err(error) = written.and_then(|()| state.end(pools)) {
            tracing::error!(target: target::STATE, "{error}");
        }
    }

    fn spawn(
        &mut self,
        name: &str,
        run: impl FnOnce(Heart) -> io::Result<()> + Send + 'static,
    ) -> Result<(), StartError> {
        let heart = self.heartbeats.join(name);
        let thread = thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || run(heart));
        self.threads.push(thread.map_err(StartError::Thread)?);
        Ok(())
    }
}

/// The logs, with the thread of the access log and the way to the collector.
type OpenLogs = (Logs, Option<JoinHandle<()>>, Option<Collector>);

/// Opens the access log, and the export of traces and metrics.
fn open_logs(settings: &Settings, operator: Option<OperatorLog>) -> Result<OpenLogs, StartError> {
    let access = LogQueue::start(&settings.access_log).map_err(StartError::Log)?;
    let (access, writer) = access.unzip();
    let otlp = settings.otlp.as_ref().map(Otlp::new).transpose();
    let (otlp, collector) = otlp.map_err(StartError::Otlp)?.unzip();
    let logs = Logs {
        access,
        operator,
        otlp,
    };
    Ok((logs, writer, collector))
}

/// Opens the state file, if there is to be one.
fn open_state(settings: &Settings) -> Result<Option<Arc<State>>, StateError> {
    let Some(state) = &settings.state else {
        return Ok(None);
    };
    let callers = Callers::new(settings, &Accounts::default());
    let pools = settings.pools.iter();
    let windows = pools.map(|pool| longest_window(pool, &callers));
    let state = State::open(state, windows.max().unwrap_or_default())?;
    Ok(Some(Arc::new(state)))
}

/// Deals the sockets of each listener out to the threads.
fn by_thread(shared: &Shared, sockets: Vec<Vec<Bound>>, threads: usize) -> Vec<Vec<Accepting>> {
    let mut dealt: Vec<Vec<Accepting>> = (0..threads).map(|_| Vec::new()).collect();
    for (number, bound) in sockets.into_iter().enumerate() {
        let connections = shared.connections(number);
        for (thread, bound) in dealt.iter_mut().zip(bound) {
            let connections = connections.clone();
            thread.push(Accepting {
                number,
                bound,
                connections,
            });
        }
    }
    dealt
}

fn watch_health(shared: &Arc<Shared>, heart: Heart) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async {
        spawn_local(heart.beat());
        spawn_local(watch_pools(Arc::clone(shared)));
        spawn_local(keep_state(Arc::clone(shared)));
        spawn_local(names::watch(Arc::clone(shared)));
        spawn_local(dashboard::watch(Arc::clone(shared)));
        spawn_local(alerts::watch(Arc::clone(shared)));
        // The sender lives as long as `shared`.
        let _ = shared.drain().wait_for(|drains| *drains).await;
        shared.alerts().flush().await;
    });
    // A look-up of a name that hangs is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

/// Answers the probes of all pools that are in force.
pub(crate) async fn watch_pools(shared: Arc<Shared>) {
    let mut tables = shared.tables();
    let mut watched: Vec<(Arc<BackendPool>, tokio::task::JoinHandle<()>)> = Vec::new();
    loop {
        let table = Arc::clone(&tables.borrow_and_update());
        let mut next = Vec::new();
        for pool in table.pools() {
            let found = watched.iter().position(|(old, _)| old.is_same(pool));
            next.push(match found {
                Some(found) => watched.swap_remove(found),
                None => {
                    let watching = probes::watch(Arc::clone(&shared), Arc::clone(pool));
                    (Arc::clone(pool), spawn_local(watching))
                }
            });
        }
        for (_, gone) in watched {
            gone.abort();
        }
        watched = next;
        if tables.changed().await.is_err() {
            return;
        }
    }
}

/// Writes now and then what has ended, so that little counts as in flight after a crash.
async fn keep_state(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(STATE_INTERVAL);
    loop {
        ticks.tick().await;
        for pool in shared.table().pools() {
            if let Err(error) = pool.flush_charges() {
                tracing::error!(target: target::STATE, "{error}");
            }
        }
        if let Err(error) = shared.write_accounts() {
            tracing::error!(target: target::STATE, "{error}");
        }
    }
}

/// The sockets of a gateway.
struct Listening {
    /// Those of each listener, one for each thread.
    listeners: Vec<Vec<Bound>>,
    admin: Option<Bound>,
}

/// Takes the sockets that were passed, and binds the others.
fn listen_all(
    settings: &Settings,
    mut passed: PassedSockets,
    threads: usize,
) -> Result<Listening, StartError> {
    let mut taken = |address: &Address| (address.clone(), passed.take(address));
    let listeners: Vec<_> = settings
        .listeners
        .iter()
        .map(|listener| taken(&listener.address))
        .collect();
    let admin = settings.admin.listen.as_ref().map(taken);
    // Before anything is bound, so that a socket unit with another address is told as such.
    passed.check_taken()?;
    let listeners = listeners
        .into_iter()
        .map(|(address, passed)| listen(&address, passed, threads));
    let admin = admin.map(|(address, passed)| listen(&address, passed, 1));
    Ok(Listening {
        listeners: listeners.collect::<Result<_, _>>()?,
        admin: admin.transpose()?.and_then(|mut bound| bound.pop()),
    })
}

fn listen(
    address: &Address,
    passed: Option<Bound>,
    threads: usize,
) -> Result<Vec<Bound>, StartError> {
    let bound = match passed {
        Some(passed) => share(&passed, threads),
        None => bind(address, threads),
    };
    bound.map_err(|source| StartError::Bind {
        address: address.to_string(),
        source,
    })
}
