//! A pool and the operations on it.

use super::CLASSES;
use super::owner::Owner;
use crate::limits;
use arbitrary::Arbitrary;
use core::num::{NonZeroU16, NonZeroU32};
use core::time::Duration;
use leasehold_core::balance::{LoadFactor, Policy, TableSize};
use leasehold_core::health::BreakerConfig;
use leasehold_core::health::OutlierConfig;
use leasehold_core::health::{PanicThreshold, ProbeConfig, SlowStartConfig};
use leasehold_core::limit::{Cost, LimitSet, Unit};
use leasehold_core::pool::{
    FlowConfig, GroupId, Labels, Member, MemberSetting, MemberUpdate, Pool,
};
use proptest_derive::Arbitrary as Strategy;

/// A pool and the operations on it.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// The policy.
    pub policy: Choice,
    /// Ticks until a lease expires, modulo 64; 0 for never.
    pub ttl: u8,
    /// The bound on waiters, modulo 16.
    pub max_waiters: u8,
    /// The bound on lanes, less one, modulo 6.
    pub max_lanes: u8,
    /// The settings of each flow.
    pub each_flow: Option<FlowSetup>,
    /// Whether flows share by tokens.
    pub share_by_tokens: bool,
    /// Limits over all members.
    pub shared: Option<limits::Setup>,
    /// Limits of two groups.
    pub groups: [Option<limits::Setup>; 2],
    /// The health settings.
    pub watch: Watch,
    /// The first members; at most four are taken.
    pub members: Vec<MemberSetup>,
    /// The operations, in order.
    pub ops: Vec<Op>,
}

/// A policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Arbitrary, Strategy)]
#[expect(missing_docs, reason = "the names are the policies'")]
pub enum Choice {
    #[proptest(weight = 4)]
    Fifo,
    RoundRobin,
    WeightedRoundRobin,
    Random,
    LeastConnections,
    LeastUsed,
    LeastQueue,
    LeastTime,
    PowerOfTwoChoices,
    PeakEwma,
    Rendezvous,
    Ring,
    Maglev,
}

/// Health settings.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct Watch {
    /// Consecutive failures that open a breaker, modulo 4, and ticks that it stays open, modulo 16.
    pub breaker: Option<(u8, u8)>,
    /// Ticks between probes, and their timeout, modulo 16.
    pub health: Option<(u8, u8)>,
    /// Ticks between outlier sweeps, modulo 32.
    pub outlier: Option<u8>,
    /// The panic threshold in units of 4 permille.
    pub panic: u8,
    /// Ticks of the slow start, modulo 32.
    pub slow_start: Option<u8>,
    /// The time to live of sessions in ticks, modulo 64.
    pub affinity: Option<u8>,
}

/// The settings of a flow.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct FlowSetup {
    /// Its weight, less one, modulo 3.
    pub weight: u8,
    /// Its limit of requests.
    pub limit: Option<limits::Setup>,
    /// Its limit of tokens for each class.
    pub tokens: Option<limits::Setup>,
    /// The bound on its waiters, modulo 8, if below 64.
    pub max_waiters: u8,
}

impl FlowSetup {
    /// A flow without settings.
    pub(super) const PLAIN: Self = Self {
        weight: 0,
        limit: None,
        tokens: None,
        max_waiters: 64,
    };

    pub(super) fn weight(self) -> u16 {
        u16::from(self.weight % 3) + 1
    }

    pub(super) fn max_waiters(self) -> u32 {
        match self.max_waiters {
            few @ ..64 => u32::from(few % 8),
            _ => u32::MAX,
        }
    }

    pub(super) fn owner(self) -> Owner {
        owner(self.limit, self.tokens)
    }

    pub(super) fn config(self) -> FlowConfig {
        let weight = NonZeroU16::new(self.weight()).expect(IN_RANGE);
        FlowConfig::new()
            .weight(weight)
            .limits(machine_of(self.limit, self.tokens))
            .max_waiters(self.max_waiters())
    }
}

/// The brute-force limits of an owner.
fn owner(requests: Option<limits::Setup>, tokens: Option<limits::Setup>) -> Owner {
    let tokens = tokens.map(limits::Setup::anchored);
    Owner {
        requests: requests.map(|limit| limit.anchored().oracle()),
        tokens: tokens.map(|tokens| [tokens.oracle(), tokens.oracle()]),
        latest: 0,
        turned_away: 0,
    }
}

/// A member to be added.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct MemberSetup {
    /// The bound on leases at once, modulo 4; 0 for none.
    pub max_leases: u8,
    /// Its limit of requests.
    pub limit: Option<limits::Setup>,
    /// Its limit of tokens for each class.
    pub tokens: Option<limits::Setup>,
    /// Its weight, modulo 4; mostly 1 instead of 0.
    pub weight: u8,
    /// Its tier, modulo 2; mostly 0.
    pub tier: u8,
    /// Its labels, of two.
    pub labels: u8,
    /// Its group, modulo 8, if below 2.
    pub group: u8,
}

/// A request.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct Ask {
    /// Ticks from now, modulo 64.
    pub deadline: Option<u8>,
    /// Modulo 2.
    pub class: u8,
    /// Tokens, modulo 4; mostly 0.
    pub tokens: u8,
    /// One of two.
    pub priority: bool,
    /// Modulo 3.
    pub flow: u8,
    /// Labels, of two; mostly none.
    pub labels: u8,
    /// The key of hash policies.
    pub key: u8,
    /// The session, modulo 4, if below 128.
    pub session: u8,
    /// The member it is pinned to, if below 32.
    pub pin: u8,
    /// Ticks until its lease expires, modulo 64, in place of the pool's.
    pub ttl: Option<u8>,
}

/// An operation. Numbers of members, leases and waiters include those that are gone, so that stale ids are
/// used too.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Op {
    /// Asks for a lease.
    #[proptest(weight = 12)]
    Acquire(Ask),
    /// Releases one of the latest 16 leases, at a number of tokens and a latency.
    #[proptest(weight = 12)]
    Release(u8, End, Option<u8>, Option<u8>),
    /// Tells that the call of a lease has arrived.
    #[proptest(weight = 4)]
    Arrive(u8),
    /// Renews a lease.
    Renew(u8),
    /// Cancels one of the latest 16 waiters.
    #[proptest(weight = 2)]
    Cancel(u8),
    /// Adds a member.
    Add(MemberSetup),
    /// Changes a member.
    Manage(u8, Management),
    /// Answers one of the latest 16 probes.
    #[proptest(weight = 3)]
    Probe(u8, Found),
    /// Reports a member's queue depth.
    Depth(u8, u8),
    /// Estimates a request.
    Estimate(Ask),
    /// Asks for the place of one of the latest 16 waiters.
    #[proptest(weight = 2)]
    Place(u8),
    /// Configures a flow.
    #[proptest(weight = 2)]
    SetFlow(u8, FlowSetup),
    /// Lets a flow be as the others.
    ResetFlow(u8),
    /// Lets at most 15 ticks pass without a command.
    #[proptest(weight = 8)]
    Advance(u8),
    /// Turns the clock back.
    Back(u8),
    /// Lets many ticks pass.
    Leap(u32),
    /// Calls `handle_timeout`.
    HandleTimeout,
    /// Calls `handle_timeout` at the tick of `poll_timeout`.
    #[proptest(weight = 3)]
    FollowTimeout,
    /// Closes the pool, if the number is 0.
    Close(u8),
    /// Takes a snapshot, and restores it at most 15 ticks later.
    Restart(u8),
    /// Uses ids of another pool.
    Foreign,
}

/// How a lease is released.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum End {
    /// Served.
    #[proptest(weight = 3)]
    Ok,
    /// Failed.
    #[proptest(weight = 2)]
    Failed,
    /// Throttled for at most 63 ticks.
    Throttled(u8),
    /// Not sent.
    NotSent,
    /// Sent, without a verdict.
    Unknown,
}

/// The result of a probe.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Found {
    /// Up, with the depth and latency, if told.
    Up(Option<u8>, Option<u8>),
    /// Down.
    Down,
}

/// A change of a member.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Management {
    /// Removes it.
    Remove,
    /// Drains it.
    Drain,
    /// Disables it.
    Disable,
    /// Enables it.
    Enable,
    /// Sets its weight, modulo 4.
    Weigh(u8),
    /// Replaces its limits by one of requests.
    Limit(limits::Setup),
    /// Changes several things at once.
    #[proptest(weight = 6)]
    Update(Change),
    /// Trips its breaker for at most 63 ticks.
    Trip(u8),
    /// Resets its breaker.
    Reset,
}

/// A change of several things at once; numbers as in [`MemberSetup`].
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
#[expect(missing_docs, reason = "the names are those of the updates")]
pub struct Change {
    pub payload: bool,
    pub weight: Option<u8>,
    pub max_leases: Option<u8>,
    pub tier: Option<u8>,
    pub labels: Option<u8>,
    pub group: Option<u8>,
    pub limit: Option<limits::Setup>,
    pub breaker: Option<Own>,
    pub probes: Option<Own>,
}

/// A setting of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Arbitrary, Strategy)]
pub enum Own {
    /// The pool's.
    Pool,
    /// None.
    Off,
    /// One of the numbers in [`Watch`].
    Own(u8, u8),
}

impl Own {
    pub(super) fn breaker(self) -> MemberSetting<BreakerConfig> {
        self.setting(breaker_config)
    }

    pub(super) fn probes(self) -> MemberSetting<ProbeConfig> {
        self.setting(probe_config)
    }

    fn setting<C>(self, config: fn((u8, u8)) -> C) -> MemberSetting<C> {
        match self {
            Self::Pool => MemberSetting::Pool,
            Self::Off => MemberSetting::Off,
            Self::Own(one, other) => MemberSetting::Own(config((one, other))),
        }
    }
}

impl Choice {
    pub(super) fn policy(self) -> Policy {
        let bound = LoadFactor::DEFAULT;
        match self {
            Self::Fifo => Policy::Fifo,
            Self::RoundRobin => Policy::RoundRobin,
            Self::WeightedRoundRobin => Policy::WeightedRoundRobin,
            Self::Random => Policy::Random,
            Self::LeastConnections => Policy::LeastConnections,
            Self::LeastUsed => Policy::LeastUsed,
            Self::LeastQueue | Self::LeastTime => Policy::LeastQueue,
            Self::PowerOfTwoChoices => Policy::PowerOfTwoChoices,
            Self::PeakEwma => Policy::PEAK_EWMA,
            Self::Rendezvous => Policy::Rendezvous(bound),
            Self::Ring => Policy::Ring {
                points: NonZeroU16::MIN.saturating_add(1),
                bound,
            },
            Self::Maglev => Policy::Maglev {
                table: TableSize::new(31).expect("it is a prime"),
                bound,
            },
        }
    }

    /// Whether the choice depends on the members' load alone.
    pub(super) fn is_settled(self, request: &Ask) -> bool {
        match self {
            Self::RoundRobin
            | Self::WeightedRoundRobin
            | Self::Random
            | Self::PowerOfTwoChoices => false,
            Self::Rendezvous | Self::Ring | Self::Maglev => request.key().is_some(),
            Self::Fifo
            | Self::LeastConnections
            | Self::LeastUsed
            | Self::LeastQueue
            | Self::LeastTime
            | Self::PeakEwma => true,
        }
    }
}

pub(super) fn nanos(count: u64) -> Duration {
    Duration::from_nanos(count)
}

pub(super) const IN_RANGE: &str = "the numbers are in range";

fn breaker_config((failures, open): (u8, u8)) -> BreakerConfig {
    let base = nanos(u64::from(open % 16).max(1));
    let failures = NonZeroU32::MIN.saturating_add(u32::from(failures % 4));
    let config = BreakerConfig::builder(base, base * 4)
        .consecutive_failures(failures)
        .probe_timeout(nanos(9));
    config.build().expect(IN_RANGE)
}

fn probe_config((interval, timeout): (u8, u8)) -> ProbeConfig {
    let interval = u64::from(interval % 16).max(1);
    let timeout = u64::from(timeout % 16).clamp(1, interval);
    let config = ProbeConfig::builder(nanos(interval), nanos(timeout))
        .fall(NonZeroU32::MIN)
        .rise(NonZeroU32::MIN);
    config.build().expect(IN_RANGE)
}

impl Watch {
    pub(super) fn breaker(self) -> Option<BreakerConfig> {
        self.breaker.map(breaker_config)
    }

    pub(super) fn health(self) -> Option<ProbeConfig> {
        self.health.map(probe_config)
    }

    pub(super) fn outlier(self) -> Option<OutlierConfig> {
        let interval = nanos(u64::from(self.outlier? % 32).max(1));
        let config = OutlierConfig::builder(interval, nanos(20), nanos(50))
            .failure_rate(500)
            .max_ejected(500)
            .volume(NonZeroU32::MIN, NonZeroU32::MIN);
        Some(config.build().expect(IN_RANGE))
    }

    pub(super) fn panic(self) -> PanicThreshold {
        PanicThreshold::new(u16::from(self.panic % 251) * 4).expect(IN_RANGE)
    }

    pub(super) fn slow_start(self) -> Option<SlowStartConfig> {
        let ramp = nanos(u64::from(self.slow_start? % 32).max(1));
        let steps = NonZeroU32::MIN.saturating_add(3);
        Some(SlowStartConfig::new(ramp, steps).expect(IN_RANGE))
    }

    pub(super) fn affinity(self) -> Option<(NonZeroU32, Duration)> {
        let ttl = nanos(u64::from(self.affinity? % 64).max(1));
        Some((NonZeroU32::MIN.saturating_add(1), ttl))
    }
}

impl MemberSetup {
    pub(super) fn max_leases(self) -> u32 {
        match u32::from(self.max_leases % 4) {
            0 => u32::MAX,
            max => max,
        }
    }

    pub(super) fn weight(self) -> u16 {
        match self.weight % 4 {
            0 if self.weight > 31 => 1,
            weight => weight.into(),
        }
    }

    pub(super) fn tier(self) -> u8 {
        u8::from(self.tier < 64)
    }

    pub(super) fn labels(self) -> u64 {
        u64::from(self.labels % 4)
    }

    pub(super) fn group(self) -> Option<usize> {
        Some(usize::from(self.group % 8)).filter(|group| *group < 2)
    }

    pub(super) fn owner(self) -> Owner {
        owner(self.limit, self.tokens)
    }

    pub(super) fn member(self, name: usize, groups: &[GroupId], labels: Labels) -> Member<usize> {
        let mut member = Member::new(name)
            .name(&name.to_string())
            .weight(self.weight())
            .tier(self.tier())
            .labels(labels);
        if let Some(max) = NonZeroU32::new(self.max_leases()) {
            member = member.max_leases(max);
        }
        if let Some(group) = self.group().and_then(|group| groups.get(group)) {
            member = member.group(*group);
        }
        member.limits(machine_of(self.limit, self.tokens))
    }
}

/// The set of the labels whose bits are one.
pub(super) fn labels(pool: &mut Pool<usize>, bits: u64) -> Labels {
    // Far from one another, as no number is too large.
    let numbers = (0..2).filter(|bit| bits >> bit & 1 == 1);
    let labels = pool.labels(numbers.map(|bit| bit * 1_000_000));
    labels.expect("there are few sets")
}

impl Change {
    /// The setup with the changes entered.
    pub(super) fn of(self, mut setup: MemberSetup) -> MemberSetup {
        setup.weight = self.weight.unwrap_or(setup.weight);
        setup.max_leases = self.max_leases.unwrap_or(setup.max_leases);
        setup.tier = self.tier.unwrap_or(setup.tier);
        setup.labels = self.labels.unwrap_or(setup.labels);
        setup.group = self.group.unwrap_or(setup.group);
        setup
    }

    /// The machine's update of a member of this name and setup.
    pub(super) fn update(
        self,
        name: usize,
        setup: MemberSetup,
        groups: &[GroupId],
        labels: Labels,
    ) -> MemberUpdate<usize> {
        let setup = self.of(setup);
        let mut update = MemberUpdate::new();
        if self.payload {
            update = update.payload(name);
        }
        if self.weight.is_some() {
            update = update.weight(setup.weight());
        }
        if self.max_leases.is_some() {
            let max = NonZeroU32::new(setup.max_leases());
            update = update.max_leases(max.filter(|max| *max < NonZeroU32::MAX));
        }
        if self.tier.is_some() {
            update = update.tier(setup.tier());
        }
        if self.labels.is_some() {
            update = update.labels(labels);
        }
        if self.group.is_some() {
            let group = setup.group().and_then(|group| groups.get(group));
            update = update.group(group.copied());
        }
        if let Some(limit) = self.limit {
            update = update.limits(machine_of(Some(limit), None));
        }
        if let Some(breaker) = self.breaker {
            update = update.breaker(breaker.breaker());
        }
        if let Some(probes) = self.probes {
            update = update.probes(probes.probes());
        }
        update
    }
}

pub(super) fn machine_of(
    requests: Option<limits::Setup>,
    tokens: Option<limits::Setup>,
) -> LimitSet {
    let mut limits = LimitSet::new();
    if let Some(setup) = requests {
        limits = limits.with(Unit::Requests, setup.anchored().machine());
    }
    if let Some(setup) = tokens {
        limits = limits.with_each_class(Unit::Tokens, setup.anchored().machine());
    }
    limits
}

impl Ask {
    pub(super) fn class(self) -> u32 {
        u32::from(self.class) % CLASSES
    }

    fn tokens(self) -> u32 {
        if self.tokens < 64 {
            u32::from(self.tokens % 4)
        } else {
            0
        }
    }

    pub(super) fn cost(self) -> Cost {
        Cost {
            requests: 1,
            tokens: self.tokens(),
        }
    }

    pub(super) fn priority(self) -> u8 {
        if self.priority { 128 } else { 7 }
    }

    pub(super) fn flow(self) -> u64 {
        u64::from(self.flow % 3)
    }

    pub(super) fn labels(self) -> u64 {
        if self.labels < 64 {
            u64::from(self.labels % 4)
        } else {
            0
        }
    }

    pub(super) fn key(self) -> Option<u64> {
        (self.key < 200).then_some(u64::from(self.key % 8))
    }

    pub(super) fn session(self) -> Option<u64> {
        (self.session < 128).then_some(u64::from(self.session % 4))
    }

    pub(super) fn ttl(self) -> Option<u64> {
        Some(u64::from(self.ttl?.max(1) % 64)).filter(|ttl| *ttl > 0)
    }
}
