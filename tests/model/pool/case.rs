//! A pool and what is done with it.

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
use leasehold_core::pool::{GroupId, Labels, Member};
use proptest_derive::Arbitrary as Strategy;

/// A pool and what is done with it.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// How members are chosen.
    pub policy: Choice,
    /// Ticks that a lease lives, taken modulo 64; 0 for ever.
    pub ttl: u8,
    /// How many may wait, taken modulo 16.
    pub max_waiters: u8,
    /// How many lanes there may be, taken modulo 6 and one more.
    pub max_lanes: u8,
    /// Limits over all members.
    pub shared: Option<limits::Setup>,
    /// Limits of two groups.
    pub groups: [Option<limits::Setup>; 2],
    /// What watches over members.
    pub watch: Watch,
    /// The members it begins with; only the first four are taken.
    pub members: Vec<MemberSetup>,
    /// What is done, in order.
    pub ops: Vec<Op>,
}

/// Which policy.
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

/// What watches over members.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct Watch {
    /// Failures in a row that open a breaker, modulo 4, and ticks that it stays open, modulo 16.
    pub breaker: Option<(u8, u8)>,
    /// Ticks between probes and until one has failed, modulo 16.
    pub health: Option<(u8, u8)>,
    /// Ticks between comparisons, modulo 32.
    pub outlier: Option<u8>,
    /// In permille, by fours.
    pub panic: u8,
    /// Ticks of the ramp, modulo 32.
    pub slow_start: Option<u8>,
    /// Ticks that a session is remembered, modulo 64.
    pub affinity: Option<u8>,
}

/// A member to be added.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct MemberSetup {
    /// Leases at once, taken modulo 4; 0 for any number.
    pub max_leases: u8,
    /// Its limit of requests.
    pub limit: Option<limits::Setup>,
    /// Its limit of tokens for each class.
    pub tokens: Option<limits::Setup>,
    /// Its weight, taken modulo 4, and 1 instead of 0 for the most part.
    pub weight: u8,
    /// Its tier, taken modulo 2, for the most part 0.
    pub tier: u8,
    /// Its labels, of two.
    pub labels: u8,
    /// Its group, if it has one.
    pub group: u8,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct Ask {
    /// Ticks from now, modulo 64.
    pub deadline: Option<u8>,
    /// Modulo 2.
    pub class: u8,
    /// Tokens, modulo 4, for the most part 0.
    pub tokens: u8,
    /// One of two.
    pub priority: bool,
    /// Modulo 3.
    pub flow: u8,
    /// Labels, of two, for the most part none.
    pub labels: u8,
    /// What hashes go by.
    pub key: u8,
    /// Modulo 4, if any.
    pub session: u8,
    /// Names a member if below 32.
    pub pin: u8,
}

/// One operation. Whatever names a member, lease or waiter also names those that are gone, so that
/// stale handles are used too.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Op {
    /// Asks for a lease.
    #[proptest(weight = 12)]
    Acquire(Ask),
    /// Gives one of the latest 16 leases back, at so many tokens and after such a latency.
    #[proptest(weight = 12)]
    Release(u8, End, Option<u8>, Option<u8>),
    /// Puts off an expiry.
    Renew(u8),
    /// Leaves the line, one of the latest 16.
    #[proptest(weight = 2)]
    Cancel(u8),
    /// Adds a member.
    Add(MemberSetup),
    /// Does something with a member.
    Manage(u8, Management),
    /// Answers one of the latest 16 probes.
    #[proptest(weight = 3)]
    Probe(u8, Found),
    /// Tells how many jobs a member has.
    Depth(u8, u8),
    /// Asks what a request would meet.
    Estimate(Ask),
    /// Lets at most 15 ticks pass without telling the pool.
    #[proptest(weight = 8)]
    Advance(u8),
    /// Turns the clock back.
    Back(u8),
    /// Lets much time pass.
    Leap(u32),
    /// Tells the pool the time.
    HandleTimeout,
    /// Goes to the pool's own deadline and tells it.
    #[proptest(weight = 3)]
    FollowTimeout,
    /// Closes the pool, if the number is 0.
    Close(u8),
    /// Saves, and restores at most 15 ticks later.
    Restart(u8),
}

/// How a lease is given back.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum End {
    /// Served.
    #[proptest(weight = 3)]
    Ok,
    /// Failed.
    #[proptest(weight = 2)]
    Failed,
    /// Turned away for at most 63 ticks.
    Throttled(u8),
    /// Never used.
    NotSent,
}

/// What a probe has found.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Found {
    /// All is well, with a depth and a latency if it tells.
    Up(Option<u8>, Option<u8>),
    /// It is not.
    Down,
}

/// What is done with a member.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Management {
    /// Takes it out.
    Remove,
    /// Waits for its leases.
    Drain,
    /// Stops it.
    Disable,
    /// Starts it again.
    Enable,
    /// Gives it another weight, modulo 4.
    Weigh(u8),
    /// Gives it another limit of requests, and none of tokens.
    Limit(limits::Setup),
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

    /// Whether the choice depends on nothing but how members stand.
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

impl Watch {
    pub(super) fn breaker(self) -> Option<BreakerConfig> {
        let (failures, open) = self.breaker?;
        let base = nanos(u64::from(open % 16).max(1));
        let failures = NonZeroU32::MIN.saturating_add(u32::from(failures % 4));
        let config = BreakerConfig::builder(base, base * 4)
            .consecutive_failures(failures)
            .probe_timeout(nanos(9));
        Some(config.build().expect(IN_RANGE))
    }

    pub(super) fn health(self) -> Option<ProbeConfig> {
        let (interval, timeout) = self.health?;
        let interval = u64::from(interval % 16).max(1);
        let timeout = u64::from(timeout % 16).clamp(1, interval);
        let config = ProbeConfig::builder(nanos(interval), nanos(timeout))
            .fall(NonZeroU32::MIN)
            .rise(NonZeroU32::MIN);
        Some(config.build().expect(IN_RANGE))
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
        let tokens = self.tokens.map(limits::Setup::anchored);
        Owner {
            requests: self.limit.map(|limit| limit.anchored().oracle()),
            tokens: tokens.map(|tokens| [tokens.oracle(), tokens.oracle()]),
            latest: 0,
            turned_away: 0,
        }
    }

    pub(super) fn member(self, name: usize, groups: &[GroupId]) -> Member<usize> {
        let mut member = Member::new(name)
            .name(&name.to_string())
            .weight(self.weight())
            .tier(self.tier())
            .labels(Labels::from_bits(self.labels()));
        if let Some(max) = NonZeroU32::new(self.max_leases()) {
            member = member.max_leases(max);
        }
        if let Some(group) = self.group() {
            member = member.group(groups[group]);
        }
        member.limits(machine_of(self.limit, self.tokens))
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
}
