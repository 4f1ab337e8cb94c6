//! What all threads of a gateway share: settings, pools, listeners and counts.
//!
//! Invariant: an exchange sees one table from begin to end; a reload puts another in its place.

use crate::access_log::LogQueue;
use crate::admin::{AdminChanges, Events};
use crate::alerts::Alerts;
use crate::backend_pool::{BackendPool, PoolError};
use crate::callers::{Accounts, Callers};
use crate::clock::time_of_day;
use crate::comfyui::Hubs;
use crate::connections::Connections;
use crate::dashboard::{Feed, Recent};
use crate::listener::Listener;
use crate::lock;
use crate::names::Names;
use crate::openai::KnownModels;
use crate::operator_log::OperatorLog;
use crate::otlp::Otlp;
use crate::proxy::Refusal;
use crate::record::Outcome;
use crate::reload::Reloads;
use crate::resources::Resources;
use crate::state::{State, StateError};
use crate::waiting::WaitingRequests;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use http::StatusCode;
use leasehold_config::{Address, ListenerSettings, PoolSettings, Serve, Settings};
use leasehold_core::time::Tick;
use leasehold_sync::Clock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// KiB of request bodies that are held at once.
const BODY_MEMORY: usize = 256 * 1_024;

/// The number of the admin's own listener, which is none of the settings' listeners.
pub(crate) const ADMIN: usize = usize::MAX;

/// Why other settings are not put in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// What they change is fixed when the gateway starts.
    #[error(
        "addresses, the state file, the access log and [otlp] can't change without a restart; nothing was changed"
    )]
    NeedsRestart,
    /// A pool can't be made or changed.
    #[error("{0}; the settings before stay in force")]
    Pool(#[from] PoolError),
}

/// Settings in force, with the pools and listeners that they made.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) settings: Settings,
    pools: Vec<Arc<BackendPool>>,
    listeners: Vec<Arc<Listener>>,
    admin: Option<Listener>,
    callers: Callers,
}

impl Table {
    /// Makes the pools of the settings, changed as an operator has changed them.
    pub(crate) fn new(
        settings: Settings,
        state: Option<&Arc<State>>,
        changes: &AdminChanges,
        names: &Names,
        accounts: &Accounts,
    ) -> Result<Self, PoolError> {
        let callers = Callers::new(&settings, accounts);
        let lends = lends(&settings);
        let pools = settings.pools.iter().map(|pool| {
            let pool = changes.overlay(&names.expand(pool));
            make_pool(&pool, state, changes, &callers, lends).map(Arc::new)
        });
        let listeners = settings
            .listeners
            .iter()
            .map(|listener| Arc::new(Listener::new(listener.clone())));
        Ok(Self {
            pools: pools.collect::<Result<_, PoolError>>()?,
            listeners: listeners.collect(),
            admin: admin_listener(&settings),
            callers,
            settings,
        })
    }

    /// Makes the table of other settings, whose listeners must be at the same addresses.
    fn reloaded(
        &self,
        settings: Settings,
        state: Option<&Arc<State>>,
        changes: &AdminChanges,
        names: &Names,
        accounts: &Accounts,
    ) -> Result<Self, ReloadError> {
        let addresses = |settings: &Settings| -> Vec<Address> {
            settings
                .listeners
                .iter()
                .map(|listener| listener.address.clone())
                .collect()
        };
        let fixed = |settings: &Settings| {
            (
                settings.state.clone(),
                settings.admin.listen.clone(),
                settings.access_log.clone(),
                settings.otlp.clone(),
            )
        };
        if addresses(&settings) != addresses(&self.settings)
            || fixed(&settings) != fixed(&self.settings)
        {
            return Err(ReloadError::NeedsRestart);
        }
        for pool in &settings.pools {
            BackendPool::check(&changes.overlay(&names.expand(pool)))?;
        }
        let callers = Callers::new(&settings, accounts);
        let lends = lends(&settings);
        let pools = settings.pools.iter().map(|pool| {
            let old = self
                .pools
                .iter()
                .find(|old| old.settings().name == pool.name);
            let pool = changes.overlay(&names.expand(pool));
            let new = match old {
                Some(old) => {
                    let new = old.reloaded(&pool, state, &callers, &self.callers, lends)?;
                    changes.hold_made(&new, old);
                    new
                }
                None => make_pool(&pool, state, changes, &callers, lends)?,
            };
            Ok(Arc::new(new))
        });
        let pools = pools.collect::<Result<_, PoolError>>()?;
        let listeners = settings.listeners.iter().zip(&self.listeners);
        let listeners = listeners.map(|(new, old)| match *new == *old.settings() {
            true => Arc::clone(old),
            false => Arc::new(Listener::replacing(old, new.clone())),
        });
        Ok(Self {
            pools,
            listeners: listeners.collect(),
            admin: admin_listener(&settings),
            callers,
            settings,
        })
    }

    /// The callers of its listeners of services.
    pub(crate) fn callers(&self) -> &Callers {
        &self.callers
    }

    pub(crate) fn pool(&self, index: usize) -> Option<&Arc<BackendPool>> {
        self.pools.get(index)
    }

    /// Returns the pool of a name.
    pub(crate) fn pool_named(&self, name: &str) -> Option<&Arc<BackendPool>> {
        self.pools.iter().find(|pool| pool.settings().name == name)
    }

    pub(crate) fn pools(&self) -> &[Arc<BackendPool>] {
        &self.pools
    }

    pub(crate) fn listener(&self, number: usize) -> Result<&Listener, Refusal> {
        let listener = match number {
            ADMIN => self.admin.as_ref(),
            number => self.listeners.get(number).map(|listener| &**listener),
        };
        listener.ok_or_else(|| {
            let text = "this address is no longer served";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "closed", text).closing()
        })
    }
}

/// Makes a pool, of which some members may be disabled from the first.
fn make_pool(
    settings: &PoolSettings,
    state: Option<&Arc<State>>,
    changes: &AdminChanges,
    callers: &Callers,
    lends: bool,
) -> Result<BackendPool, PoolError> {
    let made = BackendPool::new(settings, state, callers, lends)?;
    changes.hold(&made);
    Ok(made)
}

/// Whether workers elsewhere hold leases of the pools.
fn lends(settings: &Settings) -> bool {
    let mut listeners = settings.listeners.iter();
    listeners.any(|listener| listener.serve == Serve::Leases)
}

/// Makes the admin's own listener, if the settings have one.
fn admin_listener(settings: &Settings) -> Option<Listener> {
    let address = settings.admin.listen.clone()?;
    Some(Listener::new(ListenerSettings::new(address, Serve::Http)))
}

/// What a gateway keeps on disk.
#[derive(Debug, Default)]
pub(crate) struct OnDisk {
    /// Limits and changes; `None` where nothing is to be kept.
    pub(crate) state: Option<Arc<State>>,
    /// The queues of pools of ComfyUI servers.
    pub(crate) hubs: Hubs,
}

/// Where a gateway tells what it does.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    /// The access log, if there is one.
    pub(crate) access: Option<LogQueue>,
    /// The log for the operator; `None` where the program around the gateway has its own.
    pub(crate) operator: Option<OperatorLog>,
    /// The export of traces and metrics, if there is one.
    pub(crate) otlp: Option<Otlp>,
}

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    table: watch::Sender<Arc<Table>>,
    totals: Totals,
    clock: Clock,
    began: SystemTime,
    log: Option<LogQueue>,
    operator_log: Option<OperatorLog>,
    otlp: Option<Otlp>,
    state: Option<Arc<State>>,
    changes: Mutex<AdminChanges>,
    events: Events,
    refusals: Recent,
    feed: Feed,
    alerts: Alerts,
    waiting: WaitingRequests,
    reloads: Reloads,
    memory: Arc<Semaphore>,
    names: Names,
    accounts: Accounts,
    resources: Resources,
    known_models: KnownModels,
    hubs: Hubs,
    connections: Mutex<BTreeMap<usize, Connections>>,
    drain: watch::Sender<bool>,
}

impl Shared {
    pub(crate) fn new(
        table: Table,
        OnDisk { state, hubs }: OnDisk,
        Logs {
            access,
            operator,
            otlp,
        }: Logs,
        changes: AdminChanges,
        reloads: Reloads,
        names: Names,
        accounts: Accounts,
    ) -> Self {
        let earlier = state.as_ref().map(|state| state.resources());
        let resources = Resources::restored(earlier.unwrap_or_default());
        table.callers.set_budgets();
        Self {
            table: watch::Sender::new(Arc::new(table)),
            totals: Totals::default(),
            clock: Clock::start(),
            began: time_of_day(),
            log: access,
            operator_log: operator,
            otlp,
            state,
            changes: Mutex::new(changes),
            events: Events::default(),
            refusals: Recent::default(),
            feed: Feed::default(),
            alerts: Alerts::default(),
            waiting: WaitingRequests::default(),
            reloads,
            memory: Arc::new(Semaphore::new(BODY_MEMORY)),
            names,
            accounts,
            resources,
            known_models: KnownModels::default(),
            hubs,
            connections: Mutex::default(),
            drain: watch::Sender::new(false),
        }
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.borrow())
    }

    /// Tells of each table that takes the place of another.
    pub(crate) fn tables(&self) -> watch::Receiver<Arc<Table>> {
        self.table.subscribe()
    }

    /// Waits for the pool that a reload puts in the place of one that it has closed; `None` if it has taken it away.
    pub(crate) async fn successor(&self, pool: &BackendPool) -> Option<Arc<BackendPool>> {
        let name = &pool.settings().name;
        let mut tables = self.tables();
        // The pool is closed before the other is in its place.
        let is_over = |table: &Arc<Table>| {
            let next = table.pool_named(name);
            next.is_none_or(|next| !next.is_same(pool))
        };
        let table = tables.wait_for(is_over).await.ok()?;
        table.pool_named(name).cloned()
    }

    /// Puts other settings in force, or changes nothing.
    pub(crate) fn reload(&self, settings: Settings) -> Result<(), ReloadError> {
        // Changes by the admin wait, so that each is made in the old table or in the new one.
        let changes = lock(&self.changes);
        let log = settings.log.clone();
        self.put_in_force(settings, &changes)?;
        if let Some(operator_log) = &self.operator_log {
            operator_log.set(log);
        }
        Ok(())
    }

    /// Makes the members that the addresses of names ask for by now.
    pub(crate) fn follow_names(&self) -> Result<(), ReloadError> {
        let changes = lock(&self.changes);
        self.put_in_force(self.table().settings.clone(), &changes)
    }

    /// Puts settings in force, changed as the operator has changed them.
    pub(crate) fn put_in_force(
        &self,
        settings: Settings,
        changes: &AdminChanges,
    ) -> Result<(), ReloadError> {
        let table = self.table();
        let table = table.reloaded(settings, self.state(), changes, &self.names, &self.accounts)?;
        // A caller that is new has its budget from its first call on.
        table.callers.set_budgets();
        self.table.send_replace(Arc::new(table));
        Ok(())
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// What all callers have used.
    pub(crate) fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// The queues of pools of ComfyUI servers.
    pub(crate) fn hubs(&self) -> &Hubs {
        &self.hubs
    }

    /// The models that services list.
    pub(crate) fn known_models(&self) -> &KnownModels {
        &self.known_models
    }

    /// Writes what callers have used and spent since it was last written.
    pub(crate) fn write_accounts(&self) -> Result<(), StateError> {
        let Some(state) = self.state() else {
            return Ok(());
        };
        for (caller, account) in self.accounts.all() {
            let Some(used) = account.take_changed() else {
                continue;
            };
            if let (Some(caller), Some(spent)) = (&caller, account.spent()) {
                state.write_spent(caller, spent)?;
            }
            state.write_used(caller, used)?;
        }
        Ok(())
    }

    /// Which keys have made what services keep.
    pub(crate) fn resources(&self) -> &Resources {
        &self.resources
    }

    /// The log for the operator, if it is the gateway's own.
    pub(crate) fn operator_log(&self) -> Option<&OperatorLog> {
        self.operator_log.as_ref()
    }

    /// The export of traces and metrics, if there is one.
    pub(crate) fn otlp(&self) -> Option<&Otlp> {
        self.otlp.as_ref()
    }

    pub(crate) fn totals(&self) -> &Totals {
        &self.totals
    }

    /// When the gateway began, by the system's clock of then.
    pub(crate) fn began(&self) -> SystemTime {
        self.began
    }

    /// Returns the time for the limits of listeners.
    pub(crate) fn tick(&self) -> Tick {
        self.clock.now()
    }

    pub(crate) fn state(&self) -> Option<&Arc<State>> {
        self.state.as_ref()
    }

    pub(crate) fn log(&self) -> Option<&LogQueue> {
        self.log.as_ref()
    }

    /// The changes made by the admin interface.
    pub(crate) fn changes(&self) -> &Mutex<AdminChanges> {
        &self.changes
    }

    /// The way of changes to the admin interface's subscribers.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// The requests that the gateway has refused of late.
    pub(crate) fn refusals(&self) -> &Recent {
        &self.refusals
    }

    /// The way of figures to the dashboard.
    pub(crate) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// The alerts of the settings.
    pub(crate) fn alerts(&self) -> &Alerts {
        &self.alerts
    }

    /// The requests that wait for a member.
    pub(crate) fn waiting(&self) -> &WaitingRequests {
        &self.waiting
    }

    /// Takes a number of KiB of the memory for bodies; `None` if there is less.
    pub(crate) fn take_memory(&self, kib: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(kib).ok()?;
        Arc::clone(&self.memory).try_acquire_many_owned(kib).ok()
    }

    pub(crate) fn reloads(&self) -> &Reloads {
        &self.reloads
    }

    /// Returns the connections of a listener, for all its threads.
    pub(crate) fn connections(&self, listener: usize) -> Connections {
        let mut connections = lock(&self.connections);
        connections.entry(listener).or_default().clone()
    }

    /// Returns how many callers' connections are open.
    pub(crate) fn open_connections(&self) -> u64 {
        let connections = lock(&self.connections);
        connections.values().map(|one| u64::from(one.total())).sum()
    }

    /// Tells all connections to end after the request that they have.
    pub(crate) fn start_drain(&self) {
        self.drain.send_replace(true);
    }

    pub(crate) fn drain(&self) -> watch::Receiver<bool> {
        self.drain.subscribe()
    }
}

/// Requests by what became of them.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    ok: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    micros: AtomicU64,
    limited: AtomicU64,
    admitted: AtomicU64,
    ambiguous: AtomicU64,
    turned_away: AtomicU64,
    cut: AtomicU32,
}

/// The counts of [`Totals`] at one time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    pub(crate) refused: u64,
    pub(crate) time: Duration,
    pub(crate) limited: u64,
    pub(crate) admitted: u64,
    pub(crate) ambiguous: u64,
    pub(crate) turned_away: u64,
}

impl Counts {
    /// Requests that have ended.
    pub(crate) fn requests(&self) -> u64 {
        let served = self.ok.saturating_add(self.failed);
        served.saturating_add(self.refused)
    }
}

impl Totals {
    pub(crate) fn count(&self, outcome: Outcome, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let count = match outcome {
            Outcome::Ok => &self.ok,
            Outcome::Failed => &self.failed,
            Outcome::Refused => &self.refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Counts a request that a listener's limits admitted or not.
    pub(crate) fn count_limit(&self, is_admitted: bool) {
        let count = if is_admitted {
            &self.admitted
        } else {
            &self.limited
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that was closed at once, because there were too many.
    pub(crate) fn count_turned_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts connections that were cut at the end of a drain.
    pub(crate) fn count_cut(&self, connections: u32) {
        self.cut.fetch_add(connections, Ordering::Relaxed);
    }

    pub(crate) fn cut(&self) -> u32 {
        self.cut.load(Ordering::Relaxed)
    }

    /// Counts a connection that was closed for an ambiguous request.
    pub(crate) fn count_ambiguous(&self) {
        self.ambiguous.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            ok: read(&self.ok),
            failed: read(&self.failed),
            refused: read(&self.refused),
            time: Duration::from_micros(read(&self.micros)),
            limited: read(&self.limited),
            admitted: read(&self.admitted),
            ambiguous: read(&self.ambiguous),
            turned_away: read(&self.turned_away),
        }
    }
}
