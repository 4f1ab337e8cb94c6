//! The settings of a pool.

use super::flows::{FlowConfig, ShareBy};
use super::ids::PoolId;
use crate::affinity::{Affinity, AffinityConfigError};
use crate::balance::Policy;
use crate::health::{BreakerConfig, OutlierConfig, PanicThreshold, ProbeConfig, SlowStartConfig};
use crate::limit::LimitSet;
use crate::util::slab::Handle;
use core::num::NonZeroU32;
use core::time::Duration;

/// The settings of a pool, made by a [`PoolConfigBuilder`].
#[derive(Clone, Debug)]
pub struct PoolConfig {
    pub(super) id: PoolId,
    pub(super) policy: Policy,
    pub(super) seed: u64,
    pub(super) lease_ttl: Option<Duration>,
    pub(super) first_fence: u64,
    pub(super) max_waiters: u32,
    pub(super) max_lanes: u32,
    pub(super) limits: LimitSet,
    pub(super) each_flow: FlowConfig,
    pub(super) share_by: ShareBy,
    pub(super) block_permille: Option<u16>,
    pub(super) breaker: Option<BreakerConfig>,
    pub(super) health: Option<ProbeConfig>,
    pub(super) outlier: Option<OutlierConfig>,
    pub(super) panic_threshold: PanicThreshold,
    pub(super) slow_start: Option<SlowStartConfig>,
    pub(super) affinity: Option<Affinity<Handle>>,
    pub(super) weigh_by_time: bool,
}

impl PoolConfig {
    /// The default settings. Leases don't expire, the queue is unbounded, the pool has no limits of its own, and
    /// it does not watch its members' health.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            id: PoolId::default(),
            policy,
            seed: 0,
            lease_ttl: None,
            first_fence: 1,
            max_waiters: u32::MAX,
            max_lanes: 65_536,
            limits: LimitSet::default(),
            each_flow: FlowConfig::new(),
            share_by: ShareBy::Requests,
            block_permille: None,
            breaker: None,
            health: None,
            outlier: None,
            panic_threshold: PanicThreshold::NEVER,
            slow_start: None,
            affinity: None,
            weigh_by_time: false,
        }
    }

    /// A builder that begins with the default settings.
    ///
    /// ```
    /// use core::time::Duration;
    /// use leasehold_core::balance::Policy;
    /// use leasehold_core::pool::{PoolConfig, PoolConfigError};
    ///
    /// let builder = PoolConfig::builder(Policy::Fifo).max_waiters(1_000);
    /// assert!(builder.clone().lease_ttl(Duration::from_secs(600)).build().is_ok());
    /// let error = builder.lease_ttl(Duration::ZERO).build().unwrap_err();
    /// assert_eq!(error, PoolConfigError::EmptyLeaseTtl);
    /// ```
    pub fn builder(policy: Policy) -> PoolConfigBuilder {
        PoolConfigBuilder {
            config: Self::new(policy),
            sessions: None,
        }
    }

    /// Whether the time that jobs take on a member matters.
    pub(super) fn weighs_by_time(&self) -> bool {
        self.weigh_by_time && self.policy.uses_work()
    }
}

/// Builds a [`PoolConfig`].
#[derive(Clone, Debug)]
#[must_use]
pub struct PoolConfigBuilder {
    config: PoolConfig,
    sessions: Option<(NonZeroU32, Duration)>,
}

impl PoolConfigBuilder {
    /// The identity of the pool, by which its ids are told apart from those of other pools. Pools whose
    /// ids could be mixed up need different ones; the default is that of the number 0.
    pub fn id(mut self, id: PoolId) -> Self {
        self.config.id = id;
        self
    }

    /// The [fence](super::Grant::fence) of the first grant, unless the pool is restored from one that was further; 1 by
    /// default. Microseconds since 1970 at the start make fences grow over restarts of which nothing is saved.
    pub fn first_fence(mut self, fence: u64) -> Self {
        self.config.first_fence = fence;
        self
    }

    /// The seed of random choices and of the times of probes. Equal seeds, equal choices.
    pub fn seed(mut self, seed: u64) -> Self {
        self.config.seed = seed;
        self
    }

    /// Time from its grant or last renewal until a lease expires; above zero. So the lease of a crashed holder
    /// comes back. Under a completion anchor the call counts as completed then, so it should
    /// exceed the longest time that a call can take.
    pub fn lease_ttl(mut self, ttl: Duration) -> Self {
        self.config.lease_ttl = Some(ttl);
        self
    }

    /// The bound on queued requests; more are refused.
    pub fn max_waiters(mut self, max: u32) -> Self {
        self.config.max_waiters = max;
        self
    }

    /// The bound on lanes; 65,536 by default.
    ///
    /// A lane is kept for each set of labels that was asked for of late, and for each pinned member while
    /// requests wait for it. Where a limit is counted by class, or work is weighed by time, each class has
    /// lanes of its own. A lane costs what an empty pool of as many members does, and each grant and
    /// release updates all lanes of its member. At most 64 lanes in which no request waits are kept; at the
    /// bound, the least recently used of them is evicted, and if requests wait in all lanes, a request for
    /// another is refused.
    pub fn max_lanes(mut self, max: NonZeroU32) -> Self {
        self.config.max_lanes = max.get();
        self
    }

    /// Limits over all members together.
    pub fn limits(mut self, limits: LimitSet) -> Self {
        self.config.limits = limits;
        self
    }

    /// The settings of each flow that is not [configured](super::Pool::set_flow) by itself.
    pub fn each_flow(mut self, flow: FlowConfig) -> Self {
        self.config.each_flow = flow;
        self
    }

    /// The unit by which flows share; [`ShareBy::Requests`] by default.
    pub fn share_by(mut self, unit: ShareBy) -> Self {
        self.config.share_by = unit;
        self
    }

    /// Keeps a log of [charges](super::Pool::take_charges), by which limits hold across a crash.
    ///
    /// Charges are due for writing once for each block of leases on a member: this share of its limit, in
    /// thousandths, and at least one lease. A crash costs at most the rest of each member's last block, which
    /// counts as used. Where a group, the pool or a flow has limits, or one is counted by class, each
    /// lease is a block by itself.
    pub fn log_charges(mut self, block_permille: u16) -> Self {
        self.config.block_permille = Some(block_permille.min(1_000));
        self
    }

    /// Gives every member a breaker, which stops calls to it after failures.
    pub fn breaker(mut self, breaker: BreakerConfig) -> Self {
        self.config.breaker = Some(breaker);
        self
    }

    /// Asks for probes of every member by [`Event::Probe`](super::Event::Probe), and leaves out members
    /// whose probes fail.
    pub fn health(mut self, health: ProbeConfig) -> Self {
        self.config.health = Some(health);
        self
    }

    /// Ejects, for a time, members that fail more often than the others.
    pub fn outlier(mut self, outlier: OutlierConfig) -> Self {
        self.config.outlier = Some(outlier);
        self
    }

    /// Ignores probes and ejections while less than this share of the members is healthy. The healthy ones are
    /// then not overrun. Breakers still hold.
    pub fn panic_threshold(mut self, threshold: PanicThreshold) -> Self {
        self.config.panic_threshold = threshold;
        self
    }

    /// Lets the weight of a member that was added or has recovered grow to its full value. Policies without
    /// weights, and hashes, whose keys would move, ignore it.
    pub fn slow_start(mut self, ramp: SlowStartConfig) -> Self {
        self.config.slow_start = Some(ramp);
        self
    }

    /// Sends requests of one session to the member that served it last. The latest `capacity` sessions are kept,
    /// for `ttl` (above zero) after their last use.
    pub fn affinity(mut self, capacity: NonZeroU32, ttl: Duration) -> Self {
        self.sessions = Some((capacity, ttl));
        self
    }

    /// Weighs jobs by their measured time on the member, under [`Policy::LeastQueue`]. The expected completion
    /// then decides, and not the number of jobs.
    ///
    /// A member is taken to do one job after another, in the order of their grants, and jobs that
    /// [others](super::Pool::observe_depth) gave it as well. A job's time counts from the end of the one before it, unless its
    /// [release](super::Release::latency) tells it. Before the first job of a class, the mean over the member's other
    /// classes counts; an idle member that was never measured comes first.
    ///
    /// A member does not hold back one of the last requests: it is passed over while others, ready or full, are expected to
    /// do everything that waits for it before it would have done its next job. The request then goes to the ready one that is
    /// expected to be done first, or it waits for a full one, until that has taken twice the expected time for its present
    /// job. From the latest such tick when it first waited on, it takes any ready member. A request goes to a ready member
    /// at once where that tick is not before its deadline, where the queue is full, or where it is pinned or has a session.
    ///
    /// Costs a look at the lanes in which requests wait at each grant; and one at each member for a grant, and for each lane
    /// at each command while its head waits so, if no more requests wait than all members could do in that time.
    pub fn weigh_by_time(mut self) -> Self {
        self.config.weigh_by_time = true;
        self
    }

    /// The settings.
    ///
    /// # Errors
    /// [`PoolConfigError`] for a time to live of zero.
    pub fn build(self) -> Result<PoolConfig, PoolConfigError> {
        let mut config = self.config;
        if config.lease_ttl.is_some_and(|ttl| ttl.is_zero()) {
            return Err(PoolConfigError::EmptyLeaseTtl);
        }
        let table = self
            .sessions
            .map(|(capacity, ttl)| Affinity::new(capacity, ttl));
        config.affinity = table
            .transpose()
            .map_err(|AffinityConfigError| PoolConfigError::EmptyAffinityTtl)?;
        Ok(config)
    }
}

/// Why a [`PoolConfig`] was not built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolConfigError {
    /// The time to live of leases is zero.
    #[error("a lease's time to live must be above zero")]
    EmptyLeaseTtl,
    /// The time to live of sessions is zero.
    #[error("a session's time to live must be above zero")]
    EmptyAffinityTtl,
}
