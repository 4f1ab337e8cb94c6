//! What operators and waiting callers are told: the state of the servers, and when a job will be done.

use super::hub::Hub;
use super::record::{JobRecord, millis, reason};
use super::state::State;
use crate::backend_pool::BackendPool;
use core::time::Duration;
use leasehold_core::time::Tick;
use serde_json::{Value, json};

/// The state of all servers, in the shape that earlier systems had.
pub(crate) fn status(hub: &Hub, pool: &BackendPool) -> Value {
    let conditions = pool.conditions();
    let state = hub.state();
    let mut servers = Vec::new();
    let mut best: Option<(u32, String)> = None;
    let mut healthy = 0_usize;
    for (_, backend, condition) in &conditions {
        let name = backend.name();
        let known = state.servers.named(name);
        let is_healthy = condition.serves();
        let stats = known.and_then(|known| known.system_stats.as_ref());
        let own = own_jobs(&state, name);
        let remaining = known.and_then(|known| known.remaining).unwrap_or(0);
        let total = remaining.max(own.0.saturating_add(own.1));
        if is_healthy {
            healthy = healthy.saturating_add(1);
            if best.as_ref().is_none_or(|(least, _)| total < *least) {
                best = Some((total, name.to_owned()));
            }
        }
        let trouble = known.and_then(|known| known.trouble.clone());
        let why = (!is_healthy).then(|| backend.last_failure().or_else(|| trouble.clone()));
        servers.push(json!({
            "name": name, "url": backend.url().to_string(), "healthy": is_healthy,
            "connected": known.is_some_and(|known| known.connected.is_some()),
            "running": own.0.max(u32::from(total > 0)), "waiting": total.saturating_sub(1), "total": total,
            "own_running": own.0, "own_waiting": own.1,
            "version": stats.map(|stats| stats["system"]["comfyui_version"].clone()),
            "ram_total": stats.map(|stats| stats["system"]["ram_total"].clone()),
            "ram_free": stats.map(|stats| stats["system"]["ram_free"].clone()),
            "vram_total": stats.map(|stats| stats["devices"][0]["vram_total"].clone()),
            "vram_free": stats.map(|stats| stats["devices"][0]["vram_free"].clone()),
            "checked": known.and_then(|known| known.checked),
            "reason": why.flatten().or(trouble.filter(|_| !is_healthy)),
        }));
    }
    let last = state
        .servers
        .iter()
        .filter_map(|(_, server)| server.checked)
        .max();
    json!({
        "pool": hub.pool, "total": conditions.len(), "healthy": healthy,
        "bestServer": best.map(|(_, name)| name), "lastHealthCheck": last,
        "queue": summary(&state), "servers": servers,
    })
}

/// Says in lines how the servers do: in one, or in one for each server too.
pub(super) fn lines(status: &Value, is_verbose: bool) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "unknown".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    let queue = &status["queue"];
    let mut lines = vec![format!(
        "pool {}: {} of {} servers are healthy, {} jobs run and {} wait; the best server is {}",
        text(&status["pool"]),
        status["healthy"],
        status["total"],
        queue["running"],
        queue["waiting"],
        text(&status["bestServer"]),
    )];
    for server in status["servers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|_| is_verbose)
    {
        let state = match server["reason"].as_str() {
            Some(reason) => format!("not healthy: {reason}"),
            None => "healthy".to_owned(),
        };
        let gib = |name: &str| match server[name].as_u64() {
            // In tenths, without rounding errors.
            Some(bytes) => format!(
                "{}.{} GiB",
                bytes >> 30,
                ((bytes >> 20) & 1_023) * 10 / 1_024
            ),
            None => "unknown".to_owned(),
        };
        lines.push(format!(
            "  {}: {state}; version {}, {} running, {} waiting, {} in all; free VRAM {}, free RAM {}",
            text(&server["name"]),
            text(&server["version"]),
            server["running"],
            server["waiting"],
            server["total"],
            gib("vram_free"),
            gib("ram_free"),
        ));
    }
    lines
}

/// How many jobs of the gateway run at a server, and how many wait there.
fn own_jobs(state: &State, name: &str) -> (u32, u32) {
    let mut counts = (0_u32, 0_u32);
    for record in state.jobs.values() {
        let server = record
            .machine
            .server()
            .and_then(|server| state.servers.name(server));
        if server.as_deref() == Some(name) {
            let count = match record.machine.is_running() {
                true => &mut counts.0,
                false => &mut counts.1,
            };
            *count = count.saturating_add(1);
        }
    }
    counts
}

/// How many jobs there are: what any caller may know.
pub(super) fn summary(state: &State) -> Value {
    let Jobs { running, waiting } = Jobs::of(state);
    json!({"running": running, "waiting": waiting, "remaining": state.remaining()})
}

/// The jobs of a queue that have not ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Jobs {
    pub(crate) running: u64,
    pub(crate) waiting: u64,
}

impl Jobs {
    fn of(state: &State) -> Self {
        let is_running = |record: &&JobRecord| record.machine.is_running();
        let running = state.jobs.values().filter(is_running).count() as u64;
        let waiting = (state.jobs.len() as u64).saturating_sub(running);
        Self { running, waiting }
    }
}

impl Hub {
    /// Counts the jobs that have not ended.
    pub(crate) fn jobs(&self) -> Jobs {
        Jobs::of(&self.state())
    }
}

/// What a caller is told of its job; `None` if it has none of this id.
pub(super) fn job(hub: &Hub, pool: &BackendPool, owner: Option<u64>, id: &str) -> Option<Value> {
    let now = hub.now();
    let mut state = hub.state();
    let is_own = |other: u64| owner.is_none_or(|owner| owner == other);
    if let Some(finished) = state.finished.get(id).filter(|one| is_own(one.owner)) {
        return Some(json!({
            "id": id, "status": finished.status, "server": finished.server,
            "created": finished.created, "started": finished.begun, "ended": finished.ended,
        }));
    }
    let error = state.error_permille;
    let record = state.jobs.get(id).filter(|one| is_own(one.owner))?;
    let ahead = state.ahead_of(record);
    let expected = expect(&state, pool, record, ahead, now);
    let server = record
        .machine
        .server()
        .and_then(|server| state.servers.name(server));
    let lost: Vec<Value> = record
        .machine
        .lost_at()
        .iter()
        .map(|(server, loss)| json!({"server": state.servers.name(*server), "why": reason(*loss)}))
        .collect();
    let told = json!({
        "id": id, "status": record.status(), "server": server, "ahead": ahead,
        "created": record.created, "started": record.begun, "lost": lost,
        "expected_start_ms": expected.map(|(start, _)| millis(start)),
        "expected_end_ms": expected.map(|(_, end)| millis(end)),
        "error_permille": error, "node_errors": record.node_errors,
    });
    if let (Some((_, end)), Some(record)) = (expected, state.jobs.get_mut(id)) {
        record.expected.get_or_insert(now.saturating_add(end));
    }
    Some(told)
}

/// When a job is expected to begin and to end, from now on; `None` before any job has ended.
fn expect(
    state: &State,
    pool: &BackendPool,
    record: &JobRecord,
    ahead: usize,
    now: Tick,
) -> Option<(Duration, Duration)> {
    let mut times: Vec<u64> = state
        .finished
        .values()
        .rev()
        .filter(|finished| finished.status == "completed")
        .filter_map(|finished| finished.ended.checked_sub(finished.begun?))
        .take(50)
        .collect();
    times.sort_unstable();
    let typical = Duration::from_millis(*times.get(times.len() / 2)?);
    if let Some(begun) = record.begun_at.filter(|_| record.machine.is_running()) {
        return Some((Duration::ZERO, typical.saturating_sub(now.since(begun))));
    }
    let conditions = pool.conditions();
    let servers = conditions
        .iter()
        .filter(|(_, _, condition)| condition.serves())
        .count();
    let servers = u32::try_from(servers).unwrap_or(u32::MAX).max(1);
    let at_servers = state
        .jobs
        .values()
        .filter(|other| other.machine.server().is_some())
        .count();
    let before = match record.machine.server() {
        Some(_) => at_servers.saturating_sub(1),
        None => ahead.saturating_add(at_servers),
    };
    let before = u32::try_from(before).unwrap_or(u32::MAX);
    let start = typical.saturating_mul(before) / servers;
    Some((start, start.saturating_add(typical)))
}
