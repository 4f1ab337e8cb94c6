//! The simulated members, their limits, and the configuration of the pool.

use crate::schedule::{Nanos, SEC};
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::balance::Policy;
use leasehold_core::health::BreakerConfig;
use leasehold_core::health::OutlierConfig;
use leasehold_core::health::{PanicThreshold, ProbeConfig, SlowStartConfig};
use leasehold_core::limit::{Anchor, LimitSet, SlidingLog, Unit};
use leasehold_core::pool::PoolConfig;
use leasehold_core::time::Tick;

pub(crate) const MEMBERS: usize = 40;
/// Members of tier 0, which have the lowest indices; the others are in tier 1.
pub(crate) const TIER_0: usize = 28;
pub(crate) const GROUPS: usize = 4;
pub(crate) const WINDOW: Nanos = 10 * SEC;
/// Requests a window of each group.
pub(crate) const GROUP_LIMIT: u32 = 80;
/// Requests a window of the pool.
pub(crate) const POOL_LIMIT: u32 = 800;
/// Tokens a window and class of each member that has a token limit.
pub(crate) const TOKEN_LIMIT: u32 = 12_000;
pub(crate) const MAX_WAITERS: u32 = 3_000;
pub(crate) const LEASE_TTL: Nanos = 10 * SEC;
/// How long a client waits for an answer.
pub(crate) const CALL_TIMEOUT: Nanos = 20 * SEC;

const PROBE_INTERVAL: Nanos = 5 * SEC;
const PROBE_JITTER: Nanos = PROBE_INTERVAL / 10;
pub(crate) const PROBE_TIMEOUT: Nanos = 2 * SEC;
pub(crate) const RISE: u32 = 2;
pub(crate) const FALL: u32 = 3;
/// The longest that probes may take to find that a member has recovered.
pub(crate) const RECOVERY: Nanos = RISE as Nanos * (PROBE_INTERVAL + PROBE_JITTER) + PROBE_TIMEOUT;
/// The longest that a breaker stays open.
pub(crate) const BREAKER_CAP: Nanos = 16 * SEC;
pub(crate) const BREAKER_PROBES: u32 = 2;
/// The longest that an ejection lasts.
pub(crate) const EJECTION_CAP: Nanos = 60 * SEC;
pub(crate) const PANIC_PERMILLE: u16 = 300;

pub(crate) const BUDGET_PERMILLE: u16 = 200;
pub(crate) const BUDGET_RESERVE: u32 = 50;
pub(crate) const BUDGET_PER_SECOND: u32 = 5;

/// A run of the simulation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) policy: Policy,
    pub(crate) seed: u64,
    /// How long tasks keep arriving.
    pub(crate) length: Nanos,
    /// The longest that an eligible member of tier 0 may go without a grant.
    pub(crate) max_idle: Nanos,
}

pub(crate) const fn tick(nanos: Nanos) -> Tick {
    Tick::from_nanos(nanos)
}

pub(crate) const fn span(nanos: Nanos) -> Duration {
    Duration::from_nanos(nanos)
}

pub(crate) fn count(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).expect("it is above zero")
}

pub(crate) const IN_RANGE: &str = "the configuration is good";

pub(crate) fn log(limit: u32) -> SlidingLog {
    SlidingLog::new(count(limit), span(WINDOW), Anchor::Completion).expect(IN_RANGE)
}

pub(crate) fn config(plan: Plan) -> PoolConfig {
    let breaker = BreakerConfig::builder(span(2 * SEC), span(BREAKER_CAP))
        .consecutive_failures(count(5))
        .failure_rate(500, span(WINDOW), count(10))
        .probes(count(BREAKER_PROBES))
        .successes(count(2))
        .probe_timeout(span(10 * SEC));
    let probes = ProbeConfig::builder(span(PROBE_INTERVAL), span(PROBE_TIMEOUT))
        .rise(count(RISE))
        .fall(count(FALL));
    let outlier = OutlierConfig::builder(span(10 * SEC), span(10 * SEC), span(EJECTION_CAP))
        .failure_rate(400)
        .volume(count(10), count(5));
    let slow_start = SlowStartConfig::new(span(10 * SEC), count(10));
    let limits = LimitSet::new().with(Unit::Requests, log(POOL_LIMIT));
    PoolConfig::builder(plan.policy)
        .seed(plan.seed)
        .lease_ttl(span(LEASE_TTL))
        .max_waiters(MAX_WAITERS)
        .limits(limits)
        .breaker(breaker.build().expect(IN_RANGE))
        .health(probes.build().expect(IN_RANGE))
        .outlier(outlier.build().expect(IN_RANGE))
        .panic_threshold(PanicThreshold::new(PANIC_PERMILLE).expect(IN_RANGE))
        .slow_start(slow_start.expect(IN_RANGE))
        .affinity(count(200), span(60 * SEC))
        .build()
        .expect(IN_RANGE)
}

/// Requests a window of a member.
pub(crate) const fn request_limit(index: usize) -> u32 {
    24 + 4 * (index as u32 % 4)
}

pub(crate) const fn weight(index: usize) -> u16 {
    1 + index as u16 % 4
}

pub(crate) fn group(index: usize) -> Option<usize> {
    Some(index / 4).filter(|group| *group < GROUPS)
}

/// The labels of a member: bit 0 is needed by class 1, bit 1 by class 2.
pub(crate) fn labels(index: usize) -> u64 {
    u64::from(!index.is_multiple_of(3)) | u64::from(index.is_multiple_of(4)) << 1
}

pub(crate) const fn max_leases(index: usize) -> u32 {
    if index.is_multiple_of(5) {
        u32::MAX
    } else {
        3 + index as u32 % 4
    }
}

pub(crate) const fn has_token_limit(index: usize) -> bool {
    index % 4 == 1
}

/// The settings of a pool that only has a policy and a seed.
pub(crate) fn seeded(policy: Policy, seed: u64) -> PoolConfig {
    let builder = PoolConfig::builder(policy).seed(seed);
    builder.build().expect(IN_RANGE)
}
