//! How a pool behaves.

use crate::affinity::{Affinity, AffinityConfigError};
use crate::balance::Policy;
use crate::health::BreakerConfig;
use crate::health::OutlierConfig;
use crate::health::{PanicThreshold, ProbeConfig, SlowStartConfig};
use crate::limit::LimitSet;
use crate::util::slab::Handle;
use core::num::NonZeroU32;
use core::time::Duration;

/// How a pool behaves.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    pub(super) policy: Policy,
    pub(super) seed: u64,
    pub(super) lease_ttl: Option<Duration>,
    pub(super) max_waiters: u32,
    pub(super) max_lanes: u32,
    pub(super) limits: LimitSet,
    pub(super) breaker: Option<BreakerConfig>,
    pub(super) health: Option<ProbeConfig>,
    pub(super) outlier: Option<OutlierConfig>,
    pub(super) panic_threshold: PanicThreshold,
    pub(super) slow_start: Option<SlowStartConfig>,
    pub(super) affinity: Option<Affinity<Handle>>,
    pub(super) weigh_by_time: bool,
}

impl PoolConfig {
    /// A pool that chooses by `policy`, whose leases don't expire, in whose line any number waits, and
    /// which has no limits of its own and no view of its members' health.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            seed: 0,
            lease_ttl: None,
            max_waiters: u32::MAX,
            max_lanes: 64,
            limits: LimitSet::default(),
            breaker: None,
            health: None,
            outlier: None,
            panic_threshold: PanicThreshold::NEVER,
            slow_start: None,
            affinity: None,
            weigh_by_time: false,
        }
    }

    /// What chance is drawn from: random choices and the times of probes. Equal seeds, equal choices.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Takes leases back `ttl` after their grant or last renewal, so that a holder that crashed loses
    /// them. Under a completion anchor the call counts as completed then: choose a `ttl` above the
    /// longest time a call can take.
    ///
    /// # Errors
    /// Where `ttl` is zero.
    pub fn lease_ttl(mut self, ttl: Duration) -> Result<Self, PoolConfigError> {
        if ttl.is_zero() {
            return Err(PoolConfigError::EmptyLease);
        }
        self.lease_ttl = Some(ttl);
        Ok(self)
    }

    /// Refuses requests while `max` wait.
    #[must_use]
    pub fn max_waiters(mut self, max: u32) -> Self {
        self.max_waiters = max;
        self
    }

    /// Keeps at most `max` lanes, 64 unless told: one for each class with each set of labels that was
    /// asked for of late, and one for each member and class that a request is pinned to while it waits.
    /// Each costs what an empty pool of as many members does, and each grant and release is entered in all
    /// lanes of its member. The lane unused longest makes room for another; requests that would need more
    /// than all in which somebody waits are refused.
    #[must_use]
    pub fn max_lanes(mut self, max: NonZeroU32) -> Self {
        self.max_lanes = max.get();
        self
    }

    /// Grants leases only as these limits allow over all members together.
    #[must_use]
    pub fn limits(mut self, limits: LimitSet) -> Self {
        self.limits = limits;
        self
    }

    /// Gives every member a breaker, which stops calls to it after failures.
    #[must_use]
    pub fn breaker(mut self, breaker: BreakerConfig) -> Self {
        self.breaker = Some(breaker);
        self
    }

    /// Asks for probes of every member, by [`Event::Probe`](super::Event::Probe), and leaves out those
    /// whose probes fail.
    #[must_use]
    pub fn health(mut self, health: ProbeConfig) -> Self {
        self.health = Some(health);
        self
    }

    /// Leaves out for a time who fails more often than the others do.
    #[must_use]
    pub fn outlier(mut self, outlier: OutlierConfig) -> Self {
        self.outlier = Some(outlier);
        self
    }

    /// Ignores probes and ejections while fewer than this share of the members are healthy, rather than
    /// letting the rest be crushed. Breakers still hold.
    #[must_use]
    pub fn panic_threshold(mut self, threshold: PanicThreshold) -> Self {
        self.panic_threshold = threshold;
        self
    }

    /// Lets the weight of a member that was added or has recovered grow to its full value. Policies that
    /// don't weigh, and hashes, whose keys would move, take no notice.
    #[must_use]
    pub fn slow_start(mut self, ramp: SlowStartConfig) -> Self {
        self.slow_start = Some(ramp);
        self
    }

    /// Sends requests of one session to one member: the one that served it last, if that was less than
    /// `ttl` ago and among the latest `capacity` sessions.
    ///
    /// # Errors
    /// Where `ttl` is zero.
    pub fn affinity(
        mut self,
        capacity: NonZeroU32,
        ttl: Duration,
    ) -> Result<Self, PoolConfigError> {
        let table = Affinity::new(capacity, ttl);
        self.affinity = Some(table.map_err(|AffinityConfigError| PoolConfigError::EmptyAffinity)?);
        Ok(self)
    }

    /// Under [`Policy::LeastQueue`], weighs a job by the time that jobs of its class take on the member,
    /// as measured, so that the expected completion decides and not the number of jobs.
    #[must_use]
    pub fn weigh_by_time(mut self) -> Self {
        self.weigh_by_time = true;
        self
    }

    /// Whether it matters how long jobs take on a member.
    pub(super) fn weighs_by_time(&self) -> bool {
        self.weigh_by_time && self.policy.uses_work()
    }
}

/// Why a [`PoolConfig`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolConfigError {
    /// A lease would have ended as it was granted.
    #[error("a lease needs a time to live above zero")]
    EmptyLease,
    /// A session would have been forgotten as it began.
    #[error("affinity needs a time to live above zero")]
    EmptyAffinity,
}
