//! The queues of all pools of ComfyUI servers, and the thread that works on them.
//!
//! Invariant: a pool's queue lives as long as the process, whatever a reload does; its servers are followed as long as
//! they are the pool's.

use super::drive::Driver;
use super::follow::{Followed, new_client_id};
use super::hub::Hub;
use super::journal::JournalError;
use super::state::State;
use super::status::{job, lines, status};
use crate::admin::Told;
use crate::backend_pool::BackendPool;
use crate::clock::now;
use crate::heartbeat::Heart;
use crate::lock;
use crate::operator_log::target;
use crate::shared::Shared;
use crate::state::unix_millis;
use crate::worker::Worker;
use bytes::Bytes;
use core::cell::RefCell;
use core::time::Duration;
use leasehold_config::{Kind, PoolSettings, Settings};
use leasehold_protocol::comfyui::{NodeInfo, ServerId};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::sleep;

/// The pause between two looks for the best server.
const LOOK: Duration = Duration::from_secs(1);
/// The pause between two reports of a pool without health checks.
const REPORT: Duration = Duration::from_secs(30);

/// The queues, by the names of their pools.
#[derive(Debug, Default)]
pub(crate) struct Hubs {
    all: Mutex<HashMap<String, Arc<Hub>>>,
    directory: Option<PathBuf>,
}

impl Hubs {
    /// Opens the queues of all pools that settings have. Where a state file is kept, jobs are kept beside it.
    pub(crate) fn open(settings: &Settings) -> Result<Self, JournalError> {
        let directory = settings.state.as_ref().map(|state| {
            let mut path = state.path.clone().into_os_string();
            path.push(".comfyui");
            PathBuf::from(path)
        });
        let hubs = Self {
            all: Mutex::default(),
            directory,
        };
        for pool in settings
            .pools
            .iter()
            .filter(|pool| pool.kind == Kind::Comfyui)
        {
            hubs.add(pool)?;
        }
        Ok(hubs)
    }

    pub(crate) fn get(&self, pool: &str) -> Option<Arc<Hub>> {
        lock(&self.all).get(pool).cloned()
    }

    /// Returns the queue of a pool, under its settings of now.
    fn add(&self, settings: &PoolSettings) -> Result<Arc<Hub>, JournalError> {
        let mut all = lock(&self.all);
        if let Some(hub) = all.get(&settings.name) {
            hub.configure(settings);
            return Ok(Arc::clone(hub));
        }
        let hub = Hub::open(settings, self.directory.as_deref())?;
        let hub = Arc::new(hub);
        all.insert(settings.name.clone(), Arc::clone(&hub));
        Ok(hub)
    }

    /// Waits until all that was written is on disk.
    pub(crate) fn sync(&self) -> Result<(), JournalError> {
        lock(&self.all).values().try_for_each(|hub| hub.sync())
    }
}

/// Works on the queues until the gateway drains.
pub(crate) fn run(shared: &Arc<Shared>, heart: Heart) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async {
        spawn_local(heart.beat());
        spawn_local(watch(Arc::clone(shared)));
        // The sender lives as long as `shared`. Jobs go on at their servers, and are found again.
        let _ = shared.drain().wait_for(|drains| *drains).await;
    });
    Ok(())
}

/// A server that is followed.
struct Following {
    pool: String,
    server: ServerId,
    number: u64,
    task: JoinHandle<()>,
}

async fn watch(shared: Arc<Shared>) {
    let worker = Worker::alone(Arc::clone(&shared));
    let mut tables = shared.tables();
    let mut followed: Vec<Following> = Vec::new();
    loop {
        let table = Arc::clone(&tables.borrow_and_update());
        let mut next = Vec::new();
        for pool in table
            .pools()
            .iter()
            .filter(|pool| pool.settings().kind == Kind::Comfyui)
        {
            let hub = match shared.hubs().add(pool.settings()) {
                Ok(hub) => hub,
                Err(error) => {
                    let name = &*pool.settings().name;
                    tracing::error!(target: target::STATE, pool = name, "{error}");
                    continue;
                }
            };
            if let Some(begun) = hub.to_begin() {
                spawn_local(report(Arc::clone(&shared), Arc::clone(&hub)));
                spawn_local(drive_all(
                    Arc::clone(&shared),
                    Rc::clone(&worker),
                    Arc::clone(&hub),
                    begun,
                ));
            }
            follow_members(&shared, &worker, &hub, pool, &mut followed, &mut next);
        }
        for gone in followed.drain(..) {
            gone.task.abort();
            if let Some(hub) = shared.hubs().get(&gone.pool) {
                hub.state().servers.forget(gone.server);
            }
        }
        followed = next;
        if tables.changed().await.is_err() {
            return;
        }
    }
}

/// Follows the members of a pool; those that are followed already go on.
fn follow_members(
    shared: &Arc<Shared>,
    worker: &Rc<Worker>,
    hub: &Arc<Hub>,
    pool: &Arc<BackendPool>,
    followed: &mut Vec<Following>,
    next: &mut Vec<Following>,
) {
    for (_, backend) in pool.pool().blocking().members() {
        let is_one = |one: &Following| one.pool == hub.pool && one.number == backend.number();
        if let Some(at) = followed.iter().position(is_one) {
            next.push(followed.swap_remove(at));
            continue;
        }
        let server = hub.state().servers.number(backend.name());
        let number = backend.number();
        let one = Followed {
            shared: Arc::clone(shared),
            worker: Rc::clone(worker),
            hub: Arc::clone(hub),
            pool: Arc::clone(pool),
            backend,
            server,
            client_id: RefCell::new(new_client_id()),
            is_back: Notify::new(),
        };
        next.push(Following {
            pool: hub.pool.clone(),
            server,
            number,
            task: spawn_local(one.follow()),
        });
    }
}

/// Begins the task of each job.
async fn drive_all(
    shared: Arc<Shared>,
    worker: Rc<Worker>,
    hub: Arc<Hub>,
    mut begun: tokio::sync::mpsc::UnboundedReceiver<super::hub::JobId>,
) {
    while let Some(id) = begun.recv().await {
        let driver = Driver {
            shared: Arc::clone(&shared),
            worker: Rc::clone(&worker),
            hub: Arc::clone(&hub),
            id,
        };
        spawn_local(driver.run());
    }
}

/// Tells the operator after each round of health checks how the servers do, and of each change of the best one.
async fn report(shared: Arc<Shared>, hub: Arc<Hub>) {
    let mut best = None;
    let mut alerts = [false; 2];
    let mut since_report = now();
    loop {
        sleep(LOOK).await;
        let Some(pool) = shared.table().pool_named(&hub.pool).cloned() else {
            continue;
        };
        for id in hub.moved() {
            if let Some(place) = job(&hub, &pool, None, &id) {
                hub.tell_place(&id, &place);
            }
        }
        alert(&shared, &hub, &pool, &mut alerts);
        let status = status(&hub, &pool);
        let now_best = status["bestServer"].as_str().map(ToOwned::to_owned);
        if now_best != best {
            let name = |best: &Option<String>| best.clone().unwrap_or_else(|| "none".to_owned());
            let (pool, is, was) = (&hub.pool, name(&now_best), name(&best));
            tracing::info!(
                target: target::COMFYUI,
                pool = &**pool,
                "the best server is {is}, before {was}"
            );
            best = now_best;
        }
        let health = pool.settings().health.as_ref();
        let interval = health.map_or(REPORT, |health| health.probes.interval());
        if since_report.elapsed() >= interval {
            since_report = now();
            let is_verbose = hub.state().is_verbose;
            let lines = lines(&status, is_verbose);
            for line in lines {
                tracing::info!(target: target::COMFYUI, "{line}");
            }
        }
    }
}

/// Tells of it when more jobs wait than the settings say, or one for longer, and when that is over.
fn alert(shared: &Shared, hub: &Hub, pool: &BackendPool, alerts: &mut [bool; 2]) {
    let bounds = pool.settings().comfyui;
    let (waiting, longest) = hub.state().waits(unix_millis());
    let is_above = [
        bounds.alert_waiting.is_some_and(|most| waiting > most),
        bounds.alert_wait.is_some_and(|most| longest > most),
    ];
    let told = [
        Told::Waiting { above: is_above[0] },
        Told::Wait { above: is_above[1] },
    ];
    for ((was, is), told) in alerts.iter_mut().zip(is_above).zip(told) {
        if core::mem::replace(was, is) != is {
            let seconds = longest.as_secs();
            let (name, waits) = (
                &*hub.pool,
                format!("{waiting} jobs wait, the longest for {seconds} s"),
            );
            match is {
                true => tracing::warn!(target: target::COMFYUI, pool = name, "{told}: {waits}"),
                false => tracing::info!(target: target::COMFYUI, pool = name, "{told}: {waits}"),
            }
            shared.events().tell_of(pool, None, told);
        }
    }
}

/// The system of the first server that told, with the devices and the memory of all.
pub(super) fn system_stats(state: &State) -> Option<Value> {
    let mut all = state
        .servers
        .iter()
        .filter_map(|(_, server)| server.system_stats.as_ref());
    let mut joined = all.next()?.clone();
    let mut memory = ["ram_total", "ram_free"].map(|name| (name, joined["system"][name].as_u64()));
    let mut devices = joined["devices"].as_array().cloned().unwrap_or_default();
    for other in all {
        for (name, sum) in &mut memory {
            let more = other["system"][*name].as_u64();
            *sum = sum.zip(more).map(|(sum, more)| sum.saturating_add(more));
        }
        devices.extend(other["devices"].as_array().cloned().unwrap_or_default());
    }
    for (index, device) in devices
        .iter_mut()
        .filter_map(Value::as_object_mut)
        .enumerate()
    {
        device.insert("index".to_owned(), json!(index));
    }
    if let Some(system) = joined["system"].as_object_mut() {
        system.extend(memory.map(|(name, sum)| (name.to_owned(), json!(sum))));
    }
    joined
        .as_object_mut()?
        .insert("devices".to_owned(), devices.into());
    Some(joined)
}

impl Hub {
    /// The descriptions of nodes of all servers together; `None` before one has told.
    pub(super) fn object_info(&self) -> Option<Bytes> {
        let texts: Vec<Bytes> = {
            let state = self.state();
            state
                .servers
                .iter()
                .filter_map(|(_, server)| server.object_info.clone())
                .collect()
        };
        let (first, rest) = texts.split_first()?;
        if rest.iter().all(|other| other == first) {
            return Some(first.clone());
        }
        if let Some((from, merged)) = &*lock(&self.merged)
            && *from == texts
        {
            return Some(merged.clone());
        }
        let mut merged: Value = serde_json::from_slice(first).unwrap_or_default();
        for other in rest {
            let other: Value = serde_json::from_slice(other).unwrap_or_default();
            NodeInfo::merge(&mut merged, &other);
        }
        let merged = Bytes::from(merged.to_string());
        *lock(&self.merged) = Some((texts, merged.clone()));
        Some(merged)
    }

    /// The description of one type of node.
    pub(super) fn node_info(&self, class: &str) -> Option<Value> {
        let all: Value = serde_json::from_slice(&self.object_info()?).ok()?;
        let mut one = json!({});
        if let Some(info) = all.get(class) {
            one[class] = info.clone();
        }
        Some(one)
    }
}
