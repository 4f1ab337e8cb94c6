//! Figures of the gateway and its pools, and whether they serve.
//!
//! Invariant: requests are counted once, at their end; those to the admin interface and health checks are not.

use super::answer::millis;
use super::backends::{self, BreakerView, Requests};
use crate::backend_pool::BackendPool;
use crate::shared::{Shared, Table};
use core::sync::atomic::Ordering;
use leasehold_config::ListenerSettings;
use leasehold_core::balance::Policy;
use leasehold_core::limit::{Algorithm, LimitSpec};
use leasehold_core::pool::stats::Histogram;
use leasehold_sync::QueueStats;
use serde::Serialize;

/// The answer to `GET /lb/stats`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Stats {
    /// The balancer of the pool; those of several pools, each once.
    load_balancer: String,
    total_requests: u64,
    successful_requests: u64,
    failed_requests: u64,
    /// From 0 to 1; 1 without a request.
    success_rate: f64,
    /// In milliseconds, to the end of the answer.
    average_response_time: f64,
    circuit_breaker: BreakerView,
    rate_limiter: RateLimiter,
    backends: Backends,
    pools: Vec<PoolStats>,
    connections: ConnectionStats,
    /// Connections that were closed for a request that can be read in two ways.
    ambiguous_requests: u64,
    /// Parts of the access log, of up to 32 KiB each, that were dropped because the disk was too slow.
    access_log_dropped: u64,
    uptime_seconds: f64,
}

#[derive(Clone, Debug, Serialize)]
struct RateLimiter {
    /// The algorithms of the listeners' limits; `none` without a limit.
    r#type: String,
    total_requests: u64,
    allowed_requests: u64,
    rejected_requests: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Backends {
    algorithm: String,
    total_backends: u64,
    healthy_backends: u64,
    unhealthy_backends: u64,
}

#[derive(Clone, Debug, Serialize)]
struct ConnectionStats {
    open: u64,
    /// Connections that were closed at once, because there were too many.
    turned_away: u64,
}

#[derive(Clone, Debug, Serialize)]
struct PoolStats {
    name: String,
    #[serde(flatten)]
    backends: Backends,
    circuit_breaker: BreakerView,
    requests: Requests,
    response_time: Times,
    waiting_time: Times,
    queue: QueueStats,
    repeats: u64,
    /// Requests that failed because they could not be repeated.
    unrepeated: u64,
}

/// Times in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Times {
    mean: f64,
    p50: f64,
    p99: f64,
    max: f64,
}

impl From<&Histogram> for Times {
    fn from(times: &Histogram) -> Self {
        let quantile = |permille| times.quantile(permille).map(millis).unwrap_or_default();
        Self {
            mean: times.mean().map(millis).unwrap_or_default(),
            p50: quantile(500),
            p99: quantile(990),
            max: times.max().map(millis).unwrap_or_default(),
        }
    }
}

/// Returns the figures so far.
pub(crate) fn stats(shared: &Shared, table: &Table) -> Stats {
    let counts = shared.totals().counts();
    let pools: Vec<_> = table.pools().iter().map(|pool| pool_stats(pool)).collect();
    let policies = || table.pools().iter().map(|pool| pool.settings().policy);
    let answered = counts.requests().max(1) as f64;
    Stats {
        load_balancer: distinct(policies().map(balancer)),
        total_requests: counts.requests(),
        successful_requests: counts.ok,
        failed_requests: counts.failed,
        success_rate: 1.0 - counts.failed as f64 / answered,
        average_response_time: millis(counts.time.div_f64(answered)),
        circuit_breaker: worst(pools.iter().map(|pool| pool.circuit_breaker)),
        rate_limiter: RateLimiter {
            r#type: limiter(&table.settings.listeners),
            total_requests: counts.admitted.saturating_add(counts.limited),
            allowed_requests: counts.admitted,
            rejected_requests: counts.limited,
        },
        backends: Backends::new(
            distinct(policies().map(algorithm)),
            backends::count(table.pools()),
        ),
        pools,
        connections: ConnectionStats {
            open: shared.open_connections(),
            turned_away: counts.turned_away,
        },
        ambiguous_requests: counts.ambiguous,
        access_log_dropped: shared.log().map_or(0, |log| log.dropped()),
        uptime_seconds: millis(uptime(shared)) / 1e3,
    }
}

impl Backends {
    fn new(algorithm: String, (total, healthy): (u64, u64)) -> Self {
        Self {
            algorithm,
            total_backends: total,
            healthy_backends: healthy,
            unhealthy_backends: total.saturating_sub(healthy),
        }
    }
}

fn pool_stats(pool: &BackendPool) -> PoolStats {
    let sync = pool.pool().blocking();
    let stats = sync.stats();
    let conditions = pool.conditions();
    let conditions = conditions.iter().map(|(_, _, condition)| condition);
    let healthy = conditions.clone().filter(|one| one.serves()).count();
    let severity = conditions.clone().map(backends::severity).max();
    PoolStats {
        name: pool.settings().name.clone(),
        backends: Backends::new(
            algorithm(pool.settings().policy).to_owned(),
            (conditions.len() as u64, healthy as u64),
        ),
        circuit_breaker: BreakerView {
            state: backends::breaker_state(severity.unwrap_or(0)),
            failure_count: stats.total.failed,
            success_count: stats.total.ok,
            open_ms: None,
        },
        requests: stats.total.into(),
        response_time: (&stats.held).into(),
        waiting_time: (&stats.waited).into(),
        queue: stats.waiting,
        repeats: pool.repeats().made.load(Ordering::Relaxed),
        unrepeated: pool.repeats().refused.load(Ordering::Relaxed),
    }
}

/// Joins breakers: the worst state, and the sums of the counts.
fn worst(breakers: impl Iterator<Item = BreakerView>) -> BreakerView {
    let none = BreakerView {
        state: backends::breaker_state(0),
        failure_count: 0,
        success_count: 0,
        open_ms: None,
    };
    breakers.fold(none, |joined, one| BreakerView {
        state: match (joined.state, one.state) {
            ("open", _) | (_, "open") => "open",
            ("half_open", _) | (_, "half_open") => "half_open",
            _ => "closed",
        },
        failure_count: joined.failure_count.saturating_add(one.failure_count),
        success_count: joined.success_count.saturating_add(one.success_count),
        open_ms: None,
    })
}

/// Returns the name of a policy's balancer.
fn balancer(policy: Policy) -> &'static str {
    match policy {
        Policy::Fifo => "FifoBalancer",
        Policy::RoundRobin => "RoundRobinBalancer",
        Policy::WeightedRoundRobin => "WeightedRoundRobinBalancer",
        Policy::Random => "RandomBalancer",
        Policy::LeastConnections => "LeastConnectionsBalancer",
        Policy::LeastUsed => "LeastUsedBalancer",
        Policy::LeastQueue => "LeastQueueBalancer",
        Policy::PowerOfTwoChoices => "PowerOfTwoChoicesBalancer",
        Policy::PeakEwma(_) => "PeakEwmaBalancer",
        Policy::Rendezvous(_) | Policy::Ring { .. } | Policy::Maglev { .. } => "IPHashBalancer",
    }
}

/// Returns the name of a policy, as `--algorithm` has it.
pub(crate) fn algorithm(policy: Policy) -> &'static str {
    match matches!(policy, Policy::Rendezvous(_)) {
        true => "ip_hash",
        false => policy.name(),
    }
}

/// Returns the algorithms of the limits of listeners.
fn limiter(listeners: &[ListenerSettings]) -> String {
    let limits = listeners
        .iter()
        .flat_map(|listener| [&listener.limit, &listener.client_limit]);
    let specs = limits.flatten().flat_map(|specs| specs.iter());
    let names = distinct(specs.map(|spec| match spec {
        LimitSpec::Concurrent(_) => "concurrent",
        LimitSpec::Rate { algorithm, .. } => match algorithm {
            Algorithm::Exact { .. } => "sliding_window",
            Algorithm::Bucketed { .. } => "bucketed",
            Algorithm::SlidingCounter => "sliding_counter",
            Algorithm::Fixed => "fixed_window",
            Algorithm::TokenBucket { .. } => "token_bucket",
            Algorithm::Gcra { .. } => "gcra",
            Algorithm::Paced => "paced",
        },
    }));
    if names.is_empty() {
        "none".to_owned()
    } else {
        names
    }
}

/// Joins names, each once, in their order.
fn distinct<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let mut seen: Vec<&str> = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen.join(", ")
}

fn uptime(shared: &Shared) -> core::time::Duration {
    shared.tick().since(leasehold_sync::Tick::ZERO)
}

/// The answer to `GET /lb/health`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Health {
    /// `healthy`, `degraded` with a backend that does not serve, `unhealthy` with a pool of which none serves.
    status: &'static str,
    total_backends: u64,
    healthy_backends: u64,
    pools: Vec<PoolHealth>,
    version: &'static str,
    uptime_seconds: f64,
}

#[derive(Clone, Debug, Serialize)]
struct PoolHealth {
    name: String,
    total_backends: u64,
    healthy_backends: u64,
}

/// Tells how many backends serve.
pub(crate) fn health(shared: &Shared, table: &Table) -> Health {
    let pools = table.pools().iter().map(|pool| {
        let (total, healthy) = backends::count(core::slice::from_ref(pool));
        PoolHealth {
            name: pool.settings().name.clone(),
            total_backends: total,
            healthy_backends: healthy,
        }
    });
    let pools: Vec<_> = pools.collect();
    let total_backends = pools.iter().map(|pool| pool.total_backends).sum();
    let healthy_backends = pools.iter().map(|pool| pool.healthy_backends).sum();
    Health {
        status: if pools.iter().any(|pool| pool.healthy_backends == 0) {
            "unhealthy"
        } else if healthy_backends < total_backends {
            "degraded"
        } else {
            "healthy"
        },
        total_backends,
        healthy_backends,
        pools,
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: millis(uptime(shared)) / 1e3,
    }
}

/// Returns the pools of which no backend serves.
pub(crate) fn unready(table: &Table) -> Vec<&str> {
    let pools = table.pools().iter();
    let dead = pools.filter(|pool| backends::count(core::slice::from_ref(*pool)).1 == 0);
    dead.map(|pool| pool.settings().name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_earlier_system() {
        let names = [
            (Policy::RoundRobin, "RoundRobinBalancer", "round_robin"),
            (
                Policy::WeightedRoundRobin,
                "WeightedRoundRobinBalancer",
                "weighted_round_robin",
            ),
            (Policy::RENDEZVOUS, "IPHashBalancer", "ip_hash"),
            (
                Policy::LeastConnections,
                "LeastConnectionsBalancer",
                "least_connections",
            ),
        ];
        for (policy, name, short) in names {
            assert_eq!((balancer(policy), algorithm(policy)), (name, short));
        }
    }

    #[test]
    fn the_worst_breaker_is_told_with_the_sums() {
        let breaker = |state| BreakerView {
            state,
            failure_count: 1,
            success_count: 2,
            open_ms: Some(1.0),
        };
        for (states, expected) in [
            (&["closed", "closed"][..], "closed"),
            (&["half_open", "closed"], "half_open"),
            (&["half_open", "open", "closed"], "open"),
            (&[], "closed"),
        ] {
            let joined = worst(states.iter().map(|state| breaker(state)));
            let count = states.len() as u64;
            assert_eq!(joined.state, expected);
            assert_eq!(
                (joined.failure_count, joined.success_count),
                (count, 2 * count)
            );
        }
    }
}
