//! All figures that the dashboard shows, as one document.
//!
//! Invariant: no nulls, and times that are to come are ticks, so that a document differs from the one before only in
//! what has changed.

use crate::account::Used;
use crate::admin::{algorithm, breaker_state, limits, severity, shown_url};
use crate::backend_pool::BackendPool;
use crate::shared::{Shared, Table};
use core::time::Duration;
use leasehold_sync::{
    Eligibility, Estimate, FlowStats, MemberCondition, MemberId, MemberStats, Request, Stats, Tick,
};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::time::UNIX_EPOCH;

/// Callers that are shown.
const MAX_CALLERS: usize = 200;
/// Requests that wait and are shown, and the wait of each of them at least.
const MAX_WAITING: usize = 50;
const LONG: Duration = Duration::from_secs(1);
/// Jobs of a pool that are shown.
const MAX_JOBS: usize = 100;

/// Gathers the figures at a time, in milliseconds since 1970.
pub(super) fn figures(shared: &Shared, table: &Table, now: u64) -> Value {
    let (mut pools, mut members, mut jobs) = (Map::new(), Map::new(), Map::new());
    for pool in table.pools() {
        let name = &pool.settings().name;
        let sync = pool.pool().blocking();
        let stats = sync.stats();
        members.insert(name.clone(), of_members(pool, &stats));
        let mut view = of_pool(pool, &stats);
        view["flows"] = of_flows(pool, table, &stats.flows);
        if let Some(hub) = shared.hubs().get(name) {
            jobs.insert(name.clone(), hub.overview(MAX_JOBS));
        }
        pools.insert(name.clone(), view);
    }
    let mut figures = json!({
        "now": now,
        "gateway": of_gateway(shared, table),
        "pools": pools,
        "members": members,
        "jobs": jobs,
        "callers": of_callers(shared),
        "waiting": shared.waiting().longer_than(LONG, MAX_WAITING),
    });
    if !table.settings.alerts.is_empty() {
        figures["alerts"] = shared.alerts().active();
    }
    figures
}

fn of_gateway(shared: &Shared, table: &Table) -> Value {
    let counts = shared.totals().counts();
    let began = shared.began().duration_since(UNIX_EPOCH);
    let mut view = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "began": began.unwrap_or_default().as_millis() as u64,
        "open": shared.open_connections(),
        "turned_away": counts.turned_away,
        "has_token": table.settings.admin.token.is_some(),
    });
    let reload = shared.reloads().view();
    if let Some(error) = reload["error"].as_str() {
        view["reload_error"] = error.into();
    }
    view
}

fn of_pool(pool: &BackendPool, stats: &Stats) -> Value {
    let settings = pool.settings();
    let sync = pool.pool().blocking();
    let queue = stats.waiting;
    let mut view = json!({
        "kind": settings.kind.name(),
        "policy": algorithm(settings.policy),
        "now": millis_of(sync.now()),
        "ok": stats.total.ok,
        "failed": stats.total.failed,
        "throttled": stats.total.throttled,
        "waiting": queue.waiting,
    });
    if let Ok(estimate) = sync.estimate(&Request::new()) {
        add_wait(&mut view, &estimate);
    }
    view
}

/// Adds what a request would wait for that came now.
fn add_wait(view: &mut Value, estimate: &Estimate) {
    if let Some(wait) = estimate.wait {
        view["wait"] = tenths(wait).into();
    }
    if let Some(cause) = estimate.cause {
        view["why"] = cause.to_string().into();
        if let Some(until) = cause.until() {
            view["until"] = millis_of(until).into();
        }
    }
}

fn of_members(pool: &BackendPool, stats: &Stats) -> Value {
    let sync = pool.pool().blocking();
    let by_id: HashMap<MemberId, &MemberStats> =
        stats.members.iter().map(|one| (one.member, one)).collect();
    let explained = sync.explain(&Request::new()).into_iter();
    let reasons: HashMap<MemberId, Eligibility> =
        explained.map(|one| (one.member, one.eligibility)).collect();
    let limits = limits(pool);
    let members = pool.conditions().into_iter();
    let members = members.map(|(id, backend, condition)| {
        let mut view = of_member(&condition, by_id.get(&id).copied());
        view["url"] = shown_url(backend.url()).into();
        if let Some(reason) = reasons.get(&id) {
            view["state"] = reason.to_string().into();
            if let Some(until) = reason.until() {
                view["until"] = millis_of(until).into();
            }
        }
        if let Some(failure) = backend.last_failure().filter(|_| !condition.serves()) {
            view["failure"] = failure.into();
        }
        if let Some(limits) = limits.get(backend.name()) {
            view["limits"] = limits.as_str().into();
        }
        (backend.name().to_owned(), view)
    });
    Value::Object(members.collect())
}

fn of_member(condition: &MemberCondition, stats: Option<&MemberStats>) -> Value {
    let mut view = json!({
        "serves": condition.serves(),
        "status": crate::admin::status(condition.status),
        "in_flight": condition.in_flight,
        "weight": condition.weight,
        "tier": condition.tier,
    });
    if condition.breaker.is_some() {
        view["breaker"] = breaker_state(severity(condition)).into();
    }
    let (left, most) = (condition.available, condition.capacity);
    for (unit, left, most) in [
        ("requests", left.requests, most.requests),
        ("tokens", left.tokens, most.tokens),
    ] {
        if most < u32::MAX {
            view[unit] = json!([left, most]);
        }
    }
    let Some(stats) = stats else {
        return view;
    };
    view["ok"] = stats.counts.ok.into();
    view["failed"] = stats.counts.failed.into();
    view["throttled"] = stats.counts.throttled.into();
    if let Some(max) = stats.max_leases {
        view["max"] = max.into();
    }
    for (name, permille) in [("p50", 500), ("p99", 990)] {
        if let Some(time) = stats.held.quantile(permille) {
            view[name] = tenths(time).into();
        }
    }
    view
}

/// The flows of callers with settings that use the pool, by the callers' names.
fn of_flows(pool: &BackendPool, table: &Table, flows: &[FlowStats]) -> Value {
    let sync = pool.pool().blocking();
    let used = flows
        .iter()
        .filter(|flow| flow.granted > 0 || flow.waiting > 0);
    let named = used.filter_map(|flow| {
        let caller = table.callers().of_flow(flow.flow)?;
        let mut view = json!({
            "waiting": flow.waiting, "held": flow.held,
        });
        if flow.waiting > 0
            && let Ok(estimate) = sync.estimate(&Request::new().flow(flow.flow))
        {
            add_wait(&mut view, &estimate);
        }
        Some((caller.to_owned(), view))
    });
    Value::Object(named.take(MAX_CALLERS).collect())
}

/// Returns the usage of services by callers.
fn of_callers(shared: &Shared) -> Value {
    let accounts = shared.accounts().all().into_iter().take(MAX_CALLERS);
    let callers = accounts.map(|(name, account)| {
        let mut all = Used::default();
        account.used().values().for_each(|used| all.add(used));
        let mut view = json!({
            "calls": all.calls,
            "input": all.prompt_tokens,
            "output": all.completion_tokens,
            "cost": all.cost.dollars(),
        });
        if let Some((budget, spent, _)) = account.budget() {
            view["budget"] = json!([spent.dollars(), budget.amount.dollars()]);
        }
        (name.unwrap_or_else(|| "(without a name)".to_owned()), view)
    });
    Value::Object(callers.collect())
}

fn millis_of(tick: Tick) -> u64 {
    tick.as_nanos() / 1_000_000
}

/// Returns a time in milliseconds, to a tenth.
fn tenths(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}
