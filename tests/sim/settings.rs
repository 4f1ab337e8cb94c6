//! Who is in the world, what each may serve, and how the pool is told to treat them.

use crate::upstream::{Nanos, SEC};
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
/// Those of the nearest tier.
pub(crate) const NEAREST: usize = 28;
pub(crate) const GROUPS: usize = 4;
pub(crate) const WINDOW: Nanos = 10 * SEC;
pub(crate) const OF_GROUP: u32 = 80;
pub(crate) const OF_POOL: u32 = 800;
pub(crate) const TOKENS: u32 = 12_000;
pub(crate) const TTL: Nanos = 10 * SEC;
/// After so long a client gives a call up.
pub(crate) const CALL_TIMEOUT: Nanos = 20 * SEC;

pub(crate) const PROBE_INTERVAL: Nanos = 5 * SEC;
pub(crate) const PROBE_JITTER: Nanos = PROBE_INTERVAL / 10;
pub(crate) const PROBE_TIMEOUT: Nanos = 2 * SEC;
pub(crate) const RISE: u32 = 2;
pub(crate) const FALL: u32 = 3;
/// How long probes may take to see that a member is well again.
pub(crate) const RECOVERY: Nanos = RISE as Nanos * (PROBE_INTERVAL + PROBE_JITTER) + PROBE_TIMEOUT;
pub(crate) const BREAKER_CAP: Nanos = 16 * SEC;
pub(crate) const BREAKER_PROBE_TIMEOUT: Nanos = 10 * SEC;
pub(crate) const BREAKER_PROBES: u32 = 2;
pub(crate) const EJECTION_CAP: Nanos = 60 * SEC;
pub(crate) const PANIC_PERMILLE: u16 = 300;

pub(crate) const BUDGET_PERMILLE: u16 = 200;
pub(crate) const BUDGET_RESERVE: u32 = 50;
pub(crate) const BUDGET_PER_SECOND: u32 = 5;

/// What is played.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) policy: Policy,
    pub(crate) seed: u64,
    /// How long tasks keep coming.
    pub(crate) span: Nanos,
    /// How long a member of the nearest tier that could serve may go without a grant.
    pub(crate) idle: Nanos,
}

pub(crate) fn tick(nanos: Nanos) -> Tick {
    Tick::from_nanos(nanos)
}

pub(crate) fn span(nanos: Nanos) -> Duration {
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
        .probe_timeout(span(BREAKER_PROBE_TIMEOUT))
        .build();
    let health = ProbeConfig::builder(span(PROBE_INTERVAL), span(PROBE_TIMEOUT))
        .rise(count(RISE))
        .fall(count(FALL))
        .build();
    let outlier = OutlierConfig::builder(span(10 * SEC), span(10 * SEC), span(EJECTION_CAP))
        .failure_rate(400)
        .volume(count(10), count(5))
        .build();
    let slow_start = SlowStartConfig::new(span(10 * SEC), count(10));
    let limits = LimitSet::new().with(Unit::Requests, log(OF_POOL));
    PoolConfig::new(plan.policy)
        .seed(plan.seed)
        .lease_ttl(span(TTL))
        .expect(IN_RANGE)
        .max_waiters(3_000)
        .limits(limits)
        .breaker(breaker.expect(IN_RANGE))
        .health(health.expect(IN_RANGE))
        .outlier(outlier.expect(IN_RANGE))
        .panic_threshold(PanicThreshold::new(PANIC_PERMILLE).expect(IN_RANGE))
        .slow_start(slow_start.expect(IN_RANGE))
        .affinity(count(200), span(60 * SEC))
        .expect(IN_RANGE)
}

pub(crate) fn of_member(at: usize) -> u32 {
    24 + 4 * (at as u32 % 4)
}

pub(crate) fn weight(at: usize) -> u16 {
    1 + at as u16 % 4
}

pub(crate) fn group(at: usize) -> Option<usize> {
    Some(at / 4).filter(|group| *group < GROUPS)
}

/// What a member can do: the first label is for class 1, the second for class 2.
pub(crate) fn labels(at: usize) -> u64 {
    u64::from(!at.is_multiple_of(3)) | u64::from(at.is_multiple_of(4)) << 1
}

pub(crate) fn max_leases(at: usize) -> u32 {
    if at.is_multiple_of(5) {
        u32::MAX
    } else {
        3 + at as u32 % 4
    }
}

pub(crate) fn has_token_limit(at: usize) -> bool {
    at % 4 == 1
}
