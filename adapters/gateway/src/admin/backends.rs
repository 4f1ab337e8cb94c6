//! The backends as people see them.

use super::answer::millis;
use crate::backend_pool::BackendPool;
use http::Uri;
use http::uri::Authority;
use leasehold_core::health::BreakerState;
use leasehold_sync::{
    LeaseCounts, MemberCondition, MemberId, MemberStats, MemberStatus, Request, Tick,
};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;

/// A backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct BackendView {
    /// Its name, unique in its pool.
    pub(crate) id: String,
    pub(crate) pool: String,
    host: String,
    port: u16,
    url: String,
    weight: u16,
    tier: u8,
    /// Whether it is sent requests, limits and load aside.
    pub(crate) healthy: bool,
    status: &'static str,
    /// Why it can't serve right now; `ready` if it can.
    state: String,
    active_connections: u32,
    max_connections: Option<u32>,
    /// Its limits in force, as in a configuration.
    pub(crate) limits: Option<String>,
    circuit_breaker: BreakerView,
    /// The time for which it is ejected.
    ejected_ms: Option<f64>,
    requests: Requests,
    /// The mean time of its requests, to the end of their answers, in milliseconds.
    average_response_time: f64,
}

/// A circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct BreakerView {
    /// `closed`, `half_open` or `open`; closed without a breaker.
    pub(crate) state: &'static str,
    /// Requests that the backend failed.
    pub(crate) failure_count: u64,
    /// Requests that it served.
    pub(crate) success_count: u64,
    /// The time until an open one lets a request through.
    pub(crate) open_ms: Option<f64>,
}

/// Requests of a backend or pool, by their outcome.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Requests {
    total: u64,
    ok: u64,
    failed: u64,
    unknown: u64,
}

impl From<LeaseCounts> for Requests {
    fn from(counts: LeaseCounts) -> Self {
        Self {
            total: counts.calls(),
            ok: counts.ok,
            failed: counts.failed,
            unknown: counts.unknown,
        }
    }
}

/// Returns the backends of a pool, in the order in which they were added.
pub(crate) fn list(pool: &BackendPool) -> Vec<BackendView> {
    let sync = pool.pool().blocking();
    let conditions = pool.conditions();
    let stats = sync.stats().members.into_iter();
    let stats: HashMap<MemberId, MemberStats> = stats.map(|stats| (stats.member, stats)).collect();
    let explained = sync.explain(&Request::new()).into_iter();
    let reasons: HashMap<_, _> = explained
        .map(|one| (one.member, one.eligibility.to_string()))
        .collect();
    let (now, limits) = (sync.now(), limits(pool));
    let views = conditions.into_iter().map(|(member, backend, condition)| {
        let stats = stats.get(&member);
        let counts = stats.map(|stats| stats.counts).unwrap_or_default();
        let mean = stats.and_then(|stats| stats.held.mean());
        BackendView {
            id: backend.name().to_owned(),
            pool: pool.settings().name.clone(),
            host: backend.host().to_owned(),
            port: backend.port(),
            url: shown_url(backend.url()),
            weight: condition.weight,
            tier: condition.tier,
            healthy: condition.serves(),
            status: status(condition.status),
            state: reasons.get(&member).cloned().unwrap_or_default(),
            active_connections: condition.in_flight,
            max_connections: stats.and_then(|stats| stats.max_leases),
            limits: limits.get(backend.name()).cloned(),
            circuit_breaker: breaker(&condition, counts, now),
            ejected_ms: condition
                .ejected_until
                .map(|until| millis(until.since(now))),
            requests: counts.into(),
            average_response_time: mean.map(millis).unwrap_or_default(),
        }
    });
    views.collect()
}

/// Returns the limits in force of those backends that have some, as a configuration has them.
pub(crate) fn limits(pool: &BackendPool) -> HashMap<&str, String> {
    let members = pool.settings().members.iter();
    let limited = members.filter_map(|member| Some((&*member.name, member.limits.as_ref()?)));
    limited
        .map(|(name, limits)| (name, limits.to_string()))
        .collect()
}

/// Counts the backends of pools, and those of them that serve.
pub(crate) fn count(pools: &[Arc<BackendPool>]) -> (u64, u64) {
    let conditions = pools.iter().flat_map(|pool| pool.conditions());
    conditions.fold((0, 0), |(total, healthy), (_, _, condition)| {
        (total + 1, healthy + u64::from(condition.serves()))
    })
}

/// Returns a URL without a user name and password.
pub(crate) fn shown_url(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or("http");
    let authority = url.authority().map_or("", Authority::as_str);
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{}", url.path())
}

/// Returns the order of a breaker's state by how bad it is.
pub(crate) fn severity(condition: &MemberCondition) -> u8 {
    match condition.breaker {
        None | Some(BreakerState::Closed) => 0,
        Some(BreakerState::HalfOpen { .. }) => 1,
        Some(BreakerState::Open { .. }) => 2,
    }
}

/// Returns the name of a breaker's state by how bad it is.
pub(crate) fn breaker_state(severity: u8) -> &'static str {
    match severity {
        0 => "closed",
        1 => "half_open",
        _ => "open",
    }
}

fn breaker(condition: &MemberCondition, counts: LeaseCounts, now: Tick) -> BreakerView {
    BreakerView {
        state: breaker_state(severity(condition)),
        failure_count: counts.failed,
        success_count: counts.ok,
        open_ms: match condition.breaker {
            Some(BreakerState::Open { until }) => Some(millis(until.since(now))),
            None | Some(BreakerState::Closed | BreakerState::HalfOpen { .. }) => None,
        },
    }
}

/// Returns the name of the state that an operator has put a member in.
pub(crate) fn status(status: MemberStatus) -> &'static str {
    match status {
        MemberStatus::Enabled => "enabled",
        MemberStatus::Disabled => "disabled",
        MemberStatus::Draining => "draining",
        MemberStatus::Removing => "removed",
    }
}
