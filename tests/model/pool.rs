//! The pool against an oracle of plain vectors that looks at everything for each question.
//!
//! The oracle composes by itself what the pool composes: who could serve, in which order, who is next in
//! line, what is due. Machines that have an oracle of their own (breakers, probes, outliers, affinity,
//! policies) it takes as they are; limits it counts by brute force. Policies whose choice depends on
//! nothing but how members stand must choose as the oracle does; of the others (in turn or by chance)
//! any member is right that could serve in the nearest tier that has one.

use crate::limits;
use arbitrary::Arbitrary;
use core::num::{NonZeroU16, NonZeroU32};
use core::time::Duration;
use leasehold_core::affinity::Affinity;
use leasehold_core::balance::{
    Availability, Balancer, Latency, LoadFactor, Policy, Standing, TableSize, pass,
};
use leasehold_core::breaker::{Breaker, BreakerConfig, BreakerState, Permit, Verdict};
use leasehold_core::health::{
    Change, Health, HealthConfig, PanicThreshold, ProbeAnswer, ProbeId, SlowStart, SlowStartConfig,
};
use leasehold_core::limit::{Cost, Limit, LimitSet, Unit, Wait};
use leasehold_core::outlier::{Conduct, Outlier, OutlierConfig};
use leasehold_core::pool::{
    self, AcquireError, Acquired, Condition, Config, Grant, GroupId, Labels, LeaseId, Member,
    MemberId, Outcome, Pool, Probed, Reason, Release, Request, WaiterId,
};
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;
use std::collections::{BTreeMap, VecDeque};

const CLASSES: u32 = 2;

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
    fn policy(self) -> Policy {
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
    fn is_settled(self, request: &Ask) -> bool {
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

fn nanos(count: u64) -> Duration {
    Duration::from_nanos(count)
}

const IN_RANGE: &str = "the numbers are in range";

impl Watch {
    fn breaker(self) -> Option<BreakerConfig> {
        let (failures, open) = self.breaker?;
        let base = nanos(u64::from(open % 16).max(1));
        let config = BreakerConfig::new(base, base * 4).expect(IN_RANGE);
        let failures = NonZeroU32::MIN.saturating_add(u32::from(failures % 4));
        let config = config.consecutive_failures(failures);
        Some(config.probe_timeout(nanos(9)).expect(IN_RANGE))
    }

    fn health(self) -> Option<HealthConfig> {
        let (interval, timeout) = self.health?;
        let interval = u64::from(interval % 16).max(1);
        let timeout = u64::from(timeout % 16).clamp(1, interval);
        let config = HealthConfig::new(nanos(interval), nanos(timeout)).expect(IN_RANGE);
        Some(config.fall(NonZeroU32::MIN).rise(NonZeroU32::MIN))
    }

    fn outlier(self) -> Option<OutlierConfig> {
        let interval = nanos(u64::from(self.outlier? % 32).max(1));
        let config = OutlierConfig::new(interval, nanos(20), nanos(50)).expect(IN_RANGE);
        let config = config.failing(500).and_then(|one| one.max_ejected(500));
        let config = config.expect(IN_RANGE);
        Some(config.volume(NonZeroU32::MIN, NonZeroU32::MIN))
    }

    fn panic(self) -> PanicThreshold {
        PanicThreshold::new(u16::from(self.panic % 251) * 4).expect(IN_RANGE)
    }

    fn slow_start(self) -> Option<SlowStartConfig> {
        let ramp = nanos(u64::from(self.slow_start? % 32).max(1));
        let steps = NonZeroU32::MIN.saturating_add(3);
        Some(SlowStartConfig::new(ramp, steps).expect(IN_RANGE))
    }

    fn affinity(self) -> Option<(NonZeroU32, Duration)> {
        let ttl = nanos(u64::from(self.affinity? % 64).max(1));
        Some((NonZeroU32::MIN.saturating_add(1), ttl))
    }
}

impl MemberSetup {
    fn max_leases(self) -> u32 {
        match u32::from(self.max_leases % 4) {
            0 => u32::MAX,
            max => max,
        }
    }

    fn weight(self) -> u16 {
        match self.weight % 4 {
            0 if self.weight > 31 => 1,
            weight => weight.into(),
        }
    }

    fn tier(self) -> u8 {
        u8::from(self.tier < 64)
    }

    fn labels(self) -> u64 {
        u64::from(self.labels % 4)
    }

    fn group(self) -> Option<usize> {
        Some(usize::from(self.group % 8)).filter(|group| *group < 2)
    }

    fn owner(self) -> Owner {
        let tokens = self.tokens.map(limits::Setup::anchored);
        Owner {
            requests: self.limit.map(|limit| limit.anchored().oracle()),
            tokens: tokens.map(|tokens| [tokens.oracle(), tokens.oracle()]),
            latest: 0,
            turned_away: 0,
        }
    }

    fn member(self, name: usize, groups: &[GroupId]) -> Member<usize> {
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

fn machine_of(requests: Option<limits::Setup>, tokens: Option<limits::Setup>) -> LimitSet {
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
    fn class(self) -> u32 {
        u32::from(self.class) % CLASSES
    }

    fn tokens(self) -> u32 {
        if self.tokens < 64 {
            u32::from(self.tokens % 4)
        } else {
            0
        }
    }

    fn cost(self) -> Cost {
        Cost {
            requests: 1,
            tokens: self.tokens(),
        }
    }

    fn priority(self) -> u8 {
        if self.priority { 128 } else { 7 }
    }

    fn flow(self) -> u64 {
        u64::from(self.flow % 3)
    }

    fn labels(self) -> u64 {
        if self.labels < 64 {
            u64::from(self.labels % 4)
        } else {
            0
        }
    }

    fn key(self) -> Option<u64> {
        (self.key < 200).then_some(u64::from(self.key % 8))
    }

    fn session(self) -> Option<u64> {
        (self.session < 128).then_some(u64::from(self.session % 4))
    }
}

/// The limits of one owner, by brute force, taken as one.
#[derive(Clone, Debug, Default)]
struct Owner {
    requests: Option<limits::Oracle>,
    tokens: Option<[limits::Oracle; CLASSES as usize]>,
    latest: u64,
    /// Until when the upstream serves no more requests.
    turned_away: u64,
}

/// Which uses of an owner's limits are of one lease.
#[derive(Clone, Copy, Debug, Default)]
struct Uses {
    requests: usize,
    tokens: usize,
}

impl Owner {
    fn earliest(&self, asked: u64, class: u32, cost: Cost) -> Wait {
        let now = asked.max(self.latest);
        let mut wait = Wait::Until(Tick::from_nanos(asked));
        if cost.requests > 0 && self.turned_away > now {
            wait = Wait::Until(Tick::from_nanos(self.turned_away));
        }
        let tokens = self
            .tokens
            .as_ref()
            .map(|by_class| &by_class[class as usize]);
        let rules = [
            (self.requests.as_ref(), cost.requests),
            (tokens, cost.tokens),
        ];
        for (limit, units) in rules {
            let Some(limit) = limit else { continue };
            let units = u64::from(units);
            let own = match limit.earliest(now, units) {
                Some(at) if at <= now => continue,
                Some(at) => Wait::Until(Tick::from_nanos(at)),
                None if limit.waits_for_settlement(units) => Wait::ForSettlement,
                None => Wait::Never,
            };
            wait = match (wait, own) {
                (Wait::Never, _) | (_, Wait::Never) => Wait::Never,
                (Wait::ForSettlement, _) | (_, Wait::ForSettlement) => Wait::ForSettlement,
                (Wait::Until(a), Wait::Until(b)) => Wait::Until(a.max(b)),
            };
        }
        wait
    }

    fn charge(&mut self, now: u64, class: u32, cost: Cost) -> Uses {
        self.latest = self.latest.max(now);
        let mut uses = Uses::default();
        if let Some(limit) = &mut self.requests {
            limit.charge(now, cost.requests.into());
            uses.requests = limit.uses.len() - 1;
        }
        if let Some(by_class) = &mut self.tokens {
            let limit = &mut by_class[class as usize];
            limit.charge(now, cost.tokens.into());
            uses.tokens = limit.uses.len() - 1;
        }
        uses
    }

    fn settle(&mut self, now: u64, class: u32, uses: Uses, actual: Cost) {
        self.latest = self.latest.max(now);
        if let Some(limit) = &mut self.requests {
            limit.settle(now, uses.requests, actual.requests.into());
        }
        if let Some(by_class) = &mut self.tokens {
            by_class[class as usize].settle(now, uses.tokens, actual.tokens.into());
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Enabled,
    Disabled,
    Draining,
    Removing,
    Gone,
}

#[derive(Clone, Debug)]
struct OracleMember {
    /// What the machine calls it; in the order of slots.
    id: MemberId,
    setup: MemberSetup,
    weight: u16,
    owner: Owner,
    state: State,
    in_flight: u32,
    pass: u64,
    stamp: u64,
    rests_until: u64,
    calls: u64,
    breaker: Breaker,
    health: Option<Health>,
    probe: Option<ProbeId>,
    conduct: Conduct,
    slow_start: SlowStart,
    depth: Option<u32>,
    unseen: u32,
    unseen_by_probe: u32,
    latency: Option<Latency>,
    service: BTreeMap<u32, u64>,
    told_open: Option<Tick>,
    /// The end of an ejection, until it has been looked after.
    ejected_until: Option<Tick>,
    /// Whether its limits were never set anew.
    judged: bool,
}

#[derive(Clone, Debug)]
struct OracleLease {
    member: usize,
    granted: u64,
    class: u32,
    cost: Cost,
    stride: u64,
    own: Uses,
    grouped: Uses,
    shared: Uses,
    permit: Option<Permit>,
    expires: Option<(u64, u64)>,
    live: bool,
    /// Whether somebody holds it, which nobody does after a restart.
    held: bool,
}

#[derive(Clone, Copy, Debug)]
struct OracleWaiter {
    since: u64,
    ask: Ask,
    kind: Kind,
    deadline: Option<u64>,
    waiting: bool,
}

/// A class with a set of labels, or a pinned member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    class: u32,
    labels: u64,
    pin: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OracleGrant {
    lease: usize,
    member: usize,
    waited: u64,
    expires: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OracleEvent {
    Granted(usize, OracleGrant),
    TimedOut(usize),
    Closed(usize),
    PinRemoved(usize),
    Expired(usize),
    Drained(usize),
    Removed(usize),
    Probe(usize),
    Changed(usize, Condition),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Granted(OracleGrant),
    Waiting(usize),
    Refused(AcquireError),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    granted: u64,
    released: u64,
    expired: u64,
    refused: u64,
    timed_out: u64,
    cancelled: u64,
    waited: u64,
}

struct Oracle {
    choice: Choice,
    watch: Watch,
    ttl: Option<u64>,
    max_waiters: usize,
    max_lanes: usize,
    now: u64,
    /// Up to when time has been replayed.
    as_of: u64,
    closed: bool,
    shared: Owner,
    has_shared: bool,
    groups: [Owner; 2],
    members: Vec<OracleMember>,
    leases: Vec<OracleLease>,
    waiters: Vec<OracleWaiter>,
    /// Failures that count as leases until a success would have ended.
    phantoms: Vec<Phantom>,
    /// Lanes of classes and labels, and when each was last asked for.
    kinds: BTreeMap<Kind, u64>,
    asked: u64,
    /// By priority and flow, when those that wait had their last turn, or joined.
    turns: BTreeMap<(u8, u64), u64>,
    turn: u64,
    outlier: Option<Outlier>,
    affinity: Option<Affinity<usize>>,
    service: BTreeMap<u32, u64>,
    latency: Option<Latency>,
    panic: bool,
    events: Vec<OracleEvent>,
    order: u64,
    levels: BTreeMap<u8, u64>,
    tally: Tally,
    /// Whom the machine granted leases on; where the policy isn't settled, the oracle follows.
    hints: VecDeque<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Phantom {
    member: usize,
    granted: u64,
    class: u32,
    /// How long a success of its class took then, or took first.
    usual: Option<u64>,
}

impl Phantom {
    fn end(&self) -> Option<u64> {
        Some(self.granted.saturating_add(self.usual?))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    Now,
    At(u64),
    AnyTime,
    Unknown,
}

fn opening_of(reason: Reason) -> Opening {
    match reason {
        Reason::Ready | Reason::LowerTier | Reason::InLine => Opening::Now,
        Reason::Ejected { until }
        | Reason::BreakerOpen { until }
        | Reason::Throttled { until }
        | Reason::AtLimit { until } => Opening::At(until.as_nanos()),
        Reason::Full | Reason::Probing | Reason::InFlight | Reason::Unhealthy => Opening::AnyTime,
        Reason::WrongLabels
        | Reason::NotPinned
        | Reason::Removed
        | Reason::Disabled
        | Reason::Draining
        | Reason::NeverFits => Opening::Unknown,
    }
}

fn observe(service: &mut BTreeMap<u32, u64>, class: u32, took: u64) {
    service
        .entry(class)
        .and_modify(|mean| *mean = *mean - *mean / 8 + took / 8)
        .or_insert(took);
}

impl Oracle {
    fn stamp(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    fn tick(&self) -> Tick {
        Tick::from_nanos(self.now)
    }

    fn add(&mut self, now: u64, id: MemberId, setup: MemberSetup) {
        self.advance(now);
        let stamp = self.stamp();
        let mut slow_start = SlowStart::default();
        slow_start.begin(self.tick());
        let health = self.watch.health();
        let seed = self.members.len() as u64;
        let half_life = self.choice.policy().half_life();
        self.members.push(OracleMember {
            id,
            setup,
            weight: setup.weight(),
            owner: setup.owner(),
            state: State::Enabled,
            in_flight: 0,
            pass: self.levels.get(&setup.tier()).copied().unwrap_or(0),
            stamp,
            rests_until: 0,
            calls: 0,
            breaker: Breaker::new(),
            health: health.map(|config| Health::new(&config, self.tick(), seed)),
            probe: None,
            conduct: Conduct::default(),
            slow_start,
            depth: None,
            unseen: 0,
            unseen_by_probe: 0,
            latency: half_life.map(Latency::new),
            service: BTreeMap::new(),
            told_open: None,
            ejected_until: None,
            judged: true,
        });
        self.look_around();
        self.serve();
    }

    fn acquire(&mut self, now: u64, ask: Ask, pin: Option<usize>, deadline: Option<u64>) -> Answer {
        self.advance(now);
        let answer = self.answer(ask, pin, deadline);
        if matches!(answer, Answer::Refused(_)) {
            self.tally.refused += 1;
        }
        self.serve();
        answer
    }

    /// The lane of a request, which may be one too many.
    fn kind(&mut self, ask: Ask, pin: Option<usize>) -> Result<Kind, AcquireError> {
        let kind = Kind {
            class: ask.class(),
            labels: if pin.is_some() { 0 } else { ask.labels() },
            pin,
        };
        self.asked += 1;
        if let Some(pin) = pin {
            if self.next(kind).is_some() {
                return Ok(kind);
            }
            if matches!(self.members[pin].state, State::Removing | State::Gone) {
                return Err(AcquireError::StalePin);
            }
            return self.make_room().map(|()| kind);
        }
        if !self.kinds.contains_key(&kind) {
            self.make_room()?;
        }
        self.kinds.insert(kind, self.asked);
        Ok(kind)
    }

    /// Gives up the lane that was unused longest, if there are as many as may be.
    fn make_room(&mut self) -> Result<(), AcquireError> {
        let mut pinned: Vec<Kind> = self.waiting().map(|(_, waiter)| waiter.kind).collect();
        pinned.retain(|kind| kind.pin.is_some());
        pinned.sort_unstable();
        pinned.dedup();
        if self.kinds.len() + pinned.len() < self.max_lanes {
            return Ok(());
        }
        let kinds = self.kinds.iter();
        let idle = kinds.filter(|(kind, _)| self.next(**kind).is_none());
        let oldest = idle.min_by_key(|(_, asked)| **asked).map(|(kind, _)| *kind);
        let oldest = oldest.ok_or(AcquireError::TooManyLanes)?;
        self.kinds.remove(&oldest);
        Ok(())
    }

    fn answer(&mut self, ask: Ask, pin: Option<usize>, deadline: Option<u64>) -> Answer {
        if self.closed {
            return Answer::Refused(AcquireError::Closed);
        }
        let kind = match self.kind(ask, pin) {
            Ok(kind) => kind,
            Err(error) => return Answer::Refused(error),
        };
        let newcomer = self.waiters.len();
        let turn = self.turn(ask, newcomer);
        let next = self.next(kind).map(|(turn, _)| turn);
        let mut opening = Opening::AnyTime;
        if next.is_none_or(|next| turn < next) {
            opening = self.lane_opening(kind, ask.cost());
            if opening == Opening::Now {
                if next.is_some() {
                    self.had_its_turn(ask);
                }
                return Answer::Granted(self.grant(kind, ask, self.now));
            }
        }
        if ask.cost() != Cost::REQUEST && !self.fits(kind, ask.cost()) {
            return Answer::Refused(AcquireError::NeverFits);
        }
        if let Some(deadline) = deadline {
            if deadline <= self.now {
                return Answer::Refused(AcquireError::NothingFree);
            }
            let mut live = self.leases.iter().filter(|one| one.live);
            if let Opening::At(at) = opening
                && at >= deadline
                && live.all(|one| one.cost == Cost::REQUEST)
            {
                let at = Tick::from_nanos(at);
                return Answer::Refused(AcquireError::DeadlineTooSoon { at });
            }
        }
        if self.waiting().count() >= self.max_waiters {
            return Answer::Refused(AcquireError::QueueFull);
        }
        let flow = (ask.priority(), ask.flow());
        self.turns.entry(flow).or_insert(self.turn);
        self.turn += 1;
        self.waiters.push(OracleWaiter {
            since: self.now,
            ask,
            kind,
            deadline,
            waiting: true,
        });
        Answer::Waiting(newcomer)
    }

    fn waiting(&self) -> impl Iterator<Item = (usize, &OracleWaiter)> {
        let all = self.waiters.iter().enumerate();
        all.filter(|(_, waiter)| waiter.waiting)
    }

    fn turn(&self, ask: Ask, arrival: usize) -> (u8, u64, usize) {
        let known = self.turns.get(&(ask.priority(), ask.flow()));
        let turn = known.copied().unwrap_or(self.turn);
        (ask.priority(), turn, arrival)
    }

    /// Whose turn it is in a lane.
    fn next(&self, kind: Kind) -> Option<((u8, u64, usize), usize)> {
        let in_lane = self.waiting().filter(|(_, waiter)| waiter.kind == kind);
        let turns = in_lane.map(|(name, waiter)| (self.turn(waiter.ask, name), name));
        turns.min()
    }

    fn had_its_turn(&mut self, ask: Ask) {
        self.turns.insert((ask.priority(), ask.flow()), self.turn);
        self.turn += 1;
        self.forget_turns();
    }

    /// Flows of which nobody waits begin anew.
    fn forget_turns(&mut self) {
        let waiting: Vec<_> = self
            .waiting()
            .map(|(_, waiter)| (waiter.ask.priority(), waiter.ask.flow()))
            .collect();
        self.turns.retain(|flow, _| waiting.contains(flow));
    }

    fn could_go(&self, kind: Kind, member: usize) -> bool {
        match kind.pin {
            Some(pin) => pin == member,
            None => self.members[member].setup.labels() & kind.labels == kind.labels,
        }
    }

    fn fits(&self, kind: Kind, cost: Cost) -> bool {
        let admits = |owner: &Owner| owner.earliest(self.now, kind.class, cost) != Wait::Never;
        let mut nobody = true;
        let mut fits = false;
        for (name, member) in self.members.iter().enumerate() {
            if member.state != State::Gone && self.could_go(kind, name) {
                nobody = false;
                let group = member.setup.group();
                fits |= admits(&member.owner) && group.is_none_or(|at| admits(&self.groups[at]));
            }
        }
        (nobody || fits) && admits(&self.shared)
    }

    fn reason(&self, member: usize, kind: Kind, cost: Cost) -> Reason {
        let at = self.as_of;
        let group = self.members[member].setup.group();
        let phantoms = self.phantoms_of(member);
        let member = &self.members[member];
        match member.state {
            State::Removing | State::Gone => return Reason::Removed,
            State::Disabled => return Reason::Disabled,
            State::Draining => return Reason::Draining,
            State::Enabled if member.weight == 0 => return Reason::Draining,
            State::Enabled => {}
        }
        if !self.panic && member.health.as_ref().is_some_and(|one| !one.is_up()) {
            return Reason::Unhealthy;
        }
        if member.in_flight.saturating_add(phantoms) >= member.setup.max_leases() {
            return Reason::Full;
        }
        let mut holds = vec![(at, 0, Reason::Ready)];
        if let Some(until) = member.conduct.ejected(self.tick())
            && !self.panic
        {
            holds.push((until.as_nanos(), 1, Reason::Ejected { until }));
        }
        let until = Tick::from_nanos(member.rests_until);
        holds.push((member.rests_until, 2, Reason::Throttled { until }));
        if let Some(config) = self.watch.breaker() {
            match member.breaker.state(&config, self.tick()) {
                BreakerState::Open { until } => {
                    holds.push((until.as_nanos(), 3, Reason::BreakerOpen { until }));
                }
                BreakerState::HalfOpen { probes: 1.., .. } => return Reason::Probing,
                BreakerState::HalfOpen { .. } | BreakerState::Closed => {}
            }
        }
        let owners = [Some(&member.owner), group.map(|group| &self.groups[group])];
        for owner in owners.into_iter().flatten() {
            match owner.earliest(at, kind.class, cost) {
                Wait::Until(until) => holds.push((until.as_nanos(), 4, Reason::AtLimit { until })),
                Wait::ForSettlement => return Reason::InFlight,
                Wait::Never => return Reason::NeverFits,
            }
        }
        let latest = holds.iter().map(|(until, ..)| *until).max().unwrap_or(at);
        let mut longest = holds.into_iter().filter(|(until, ..)| *until == latest);
        longest.next().map_or(Reason::Ready, |(.., reason)| reason)
    }

    /// When the first member of a lane opens; the pool's own limits count if one is open.
    fn lane_opening(&self, kind: Kind, cost: Cost) -> Opening {
        let openings: Vec<_> = (0..self.members.len())
            .filter(|member| self.could_go(kind, *member))
            .map(|member| opening_of(self.reason(member, kind, cost)))
            .collect();
        if openings.contains(&Opening::Now) {
            return match self.shared.earliest(self.as_of, kind.class, cost) {
                Wait::Until(at) if at.as_nanos() <= self.as_of => Opening::Now,
                Wait::Until(at) => Opening::At(at.as_nanos()),
                Wait::ForSettlement => Opening::AnyTime,
                Wait::Never => Opening::Unknown,
            };
        }
        if openings.contains(&Opening::AnyTime) {
            return Opening::AnyTime;
        }
        self.first_tick(kind, cost)
            .map_or(Opening::Unknown, Opening::At)
    }

    /// The first tick at which a member of a lane is known to open.
    fn first_tick(&self, kind: Kind, cost: Cost) -> Option<u64> {
        let members = (0..self.members.len()).filter(|member| self.could_go(kind, *member));
        let openings = members.map(|member| opening_of(self.reason(member, kind, cost)));
        openings
            .filter_map(|opening| match opening {
                Opening::At(at) => Some(at),
                Opening::Now | Opening::AnyTime | Opening::Unknown => None,
            })
            .min()
    }

    fn phantoms_of(&self, member: usize) -> u32 {
        let its = self.phantoms.iter().filter(|one| one.member == member);
        let alive = its.filter(|one| one.end().is_none_or(|end| end > self.as_of));
        alive.count() as u32
    }

    fn standing(&self, name: usize, class: u32) -> Standing {
        let member = &self.members[name];
        let phantoms = self.phantoms_of(name);
        let jobs = u64::from(match member.depth {
            Some(depth) => depth + member.unseen.max(phantoms),
            None => member.in_flight + phantoms,
        });
        let work = if self.choice == Choice::LeastTime {
            match member.service.get(&class) {
                Some(mean) => ((jobs + 1) * mean).max(1),
                None if jobs == 0 => 0,
                None => u64::MAX / 2 + jobs,
            }
        } else {
            let scaled = jobs << 20;
            scaled
                .checked_div(self.weight(name).into())
                .unwrap_or(scaled)
        };
        Standing {
            load: member.in_flight + phantoms,
            pass: member.pass,
            stamp: member.stamp,
            work,
            latency: member.latency.as_ref().and_then(Latency::key),
        }
    }

    fn weight(&self, name: usize) -> u32 {
        let member = &self.members[name];
        match self.watch.slow_start() {
            _ if self.choice.policy().uses_key() => member.weight.into(),
            Some(ramp) => member
                .slow_start
                .weight_at(&ramp, self.tick(), member.weight.into()),
            None => u32::from(member.weight) * SlowStart::SCALE,
        }
    }

    /// The member of the session, or the one that the policy chooses, of the nearest tier that has one.
    fn choose(&mut self, kind: Kind, ask: Ask) -> usize {
        let hint = self.hints.pop_front();
        let hint = hint.expect("the machine grants as much as the oracle");
        let ready: Vec<usize> = (0..self.members.len())
            .filter(|one| self.could_go(kind, *one))
            .filter(|one| self.reason(*one, kind, ask.cost()) == Reason::Ready)
            .collect();
        let tier = |name: usize| self.members[name].setup.tier();
        let nearest = ready.iter().map(|one| tier(*one)).min();
        let nearest = nearest.expect("a member is ready");
        let ready: Vec<usize> = ready
            .into_iter()
            .filter(|one| tier(*one) == nearest)
            .collect();
        if kind.pin.is_none()
            && let Some(held) = self.held(ask)
            && ready.contains(&held)
        {
            return held;
        }
        if kind.pin.is_some() {
            return ready[0];
        }
        if !self.choice.is_settled(&ask) {
            assert!(ready.contains(&hint), "{hint} of {ready:?}");
            return hint;
        }
        let mut balancer = Balancer::new(self.choice.policy(), 0);
        for name in 0..self.members.len() {
            if tier(name) == nearest
                && self.could_go(kind, name)
                && !matches!(self.members[name].state, State::Removing | State::Gone)
            {
                let identity = leasehold_core::balance::stable_hash(name.to_string().as_bytes());
                let standing = self.standing(name, kind.class);
                balancer.insert(name as u32, identity, self.weight(name));
                let availability = match self.reason(name, kind, ask.cost()) {
                    Reason::Ready => Availability::Ready,
                    Reason::Ejected { .. }
                    | Reason::BreakerOpen { .. }
                    | Reason::Probing
                    | Reason::Full
                    | Reason::Throttled { .. }
                    | Reason::AtLimit { .. }
                    | Reason::InFlight
                    | Reason::NeverFits => Availability::Busy,
                    Reason::LowerTier
                    | Reason::InLine
                    | Reason::WrongLabels
                    | Reason::NotPinned
                    | Reason::Removed
                    | Reason::Disabled
                    | Reason::Draining
                    | Reason::Unhealthy => Availability::Out,
                };
                balancer.place(name as u32, &standing, availability);
            }
        }
        balancer.choose(ask.key()).expect("a member is ready") as usize
    }

    /// Who served the session last.
    fn held(&self, ask: Ask) -> Option<usize> {
        let held = self
            .affinity
            .as_ref()?
            .holder(self.tick(), ask.session()?)?;
        (self.members[held].state != State::Gone).then_some(held)
    }

    fn stick(&mut self, kind: Kind, ask: Ask, mut chosen: usize) {
        let Some(session) = ask.session().filter(|_| kind.pin.is_none()) else {
            return;
        };
        let tier = |oracle: &Self, name: usize| oracle.members[name].setup.tier();
        if let Some(held) = self.held(ask)
            && held != chosen
            && tier(self, held) <= tier(self, chosen)
            && self.could_go(kind, held)
            && matches!(
                self.reason(held, kind, ask.cost()),
                Reason::Full
                    | Reason::Throttled { .. }
                    | Reason::AtLimit { .. }
                    | Reason::InFlight
                    | Reason::Probing
                    | Reason::Ready
            )
        {
            chosen = held;
        }
        let now = self.tick();
        if let Some(affinity) = &mut self.affinity {
            affinity.assign(now, session, chosen);
        }
    }

    fn grant(&mut self, kind: Kind, ask: Ask, since: u64) -> OracleGrant {
        let name = self.choose(kind, ask);
        let stamp = self.stamp();
        let now = self.now;
        let tick = self.tick();
        let (class, cost) = (kind.class, ask.cost());
        let breaker = self.watch.breaker();
        let stride = pass(self.weight(name));
        let chosen = &mut self.members[name];
        if self.choice == Choice::LeastUsed {
            self.levels.insert(chosen.setup.tier(), chosen.pass);
        }
        chosen.pass += stride;
        chosen.calls += 1;
        chosen.in_flight += 1;
        chosen.unseen += 1;
        chosen.unseen_by_probe += 1;
        chosen.stamp = stamp;
        assert!(
            chosen.in_flight <= chosen.setup.max_leases(),
            "two leases on one permit"
        );
        let own = chosen.owner.charge(now, class, cost);
        let group = chosen.setup.group();
        let permit = breaker.and_then(|config| chosen.breaker.begin(&config, tick));
        let grouped = group.map(|group| self.groups[group].charge(now, class, cost));
        let shared = self
            .has_shared
            .then(|| self.shared.charge(now, class, cost));
        self.leases.push(OracleLease {
            member: name,
            granted: now,
            class,
            cost,
            stride,
            own,
            grouped: grouped.unwrap_or_default(),
            shared: shared.unwrap_or_default(),
            permit,
            expires: None,
            live: true,
            held: true,
        });
        self.stick(kind, ask, name);
        let lease = self.leases.len() - 1;
        self.set_expiry(lease);
        self.look_around();
        self.tally.granted += 1;
        self.tally.waited += now - since;
        OracleGrant {
            lease,
            member: name,
            waited: now - since,
            expires: self.leases[lease].expires.map(|(tick, _)| tick),
        }
    }

    fn set_expiry(&mut self, lease: usize) {
        if let Some(ttl) = self.ttl {
            let stamp = self.stamp();
            self.leases[lease].expires = Some((self.now.saturating_add(ttl), stamp));
        }
    }

    fn release(
        &mut self,
        now: u64,
        lease: usize,
        end: End,
        tokens: Option<u32>,
        latency: Option<u64>,
    ) -> bool {
        self.advance(now);
        let live = self.leases[lease].live && self.leases[lease].held;
        if live {
            self.tally.released += 1;
            self.end(lease, Some(end), tokens, latency);
            self.serve();
        }
        live
    }

    fn renew(&mut self, now: u64, lease: usize) -> bool {
        self.advance(now);
        let live = self.leases[lease].live && self.leases[lease].held;
        if live {
            self.set_expiry(lease);
        }
        live
    }

    fn cancel(&mut self, now: u64, waiter: usize) -> bool {
        self.advance(now);
        let waited = core::mem::take(&mut self.waiters[waiter].waiting);
        self.tally.cancelled += u64::from(waited);
        self.forget_turns();
        self.serve();
        waited
    }

    /// Whether the member was there, and whether it left at once.
    fn manage(&mut self, now: u64, member: usize, what: Management) -> (bool, bool) {
        self.advance(now);
        if matches!(self.members[member].state, State::Removing | State::Gone) {
            return (false, false);
        }
        let idle = self.members[member].in_flight == 0;
        let (state, leaves) = match what {
            Management::Remove if idle => (State::Gone, true),
            Management::Remove => (State::Removing, false),
            Management::Drain => (State::Draining, false),
            Management::Disable => (State::Disabled, false),
            Management::Enable => (State::Enabled, false),
            Management::Weigh(weight) => {
                self.members[member].weight = u16::from(weight % 4);
                (self.members[member].state, false)
            }
            Management::Limit(setup) => {
                self.set_limit(member, setup);
                (self.members[member].state, false)
            }
        };
        self.members[member].state = state;
        if matches!(what, Management::Remove) {
            let pinned: Vec<_> = self
                .waiting()
                .filter(|(_, waiter)| waiter.kind.pin == Some(member))
                .map(|(name, waiter)| (waiter.kind.class, self.turn(waiter.ask, name), name))
                .collect();
            self.send_away(
                member,
                pinned.into_iter().map(|(class, ..)| class).collect(),
            );
        }
        self.look_around();
        self.serve();
        if idle && state == State::Draining && matches!(what, Management::Drain) {
            self.events.push(OracleEvent::Drained(member));
        }
        (true, leaves)
    }

    fn set_limit(&mut self, name: usize, setup: limits::Setup) {
        let member = &mut self.members[name];
        member.judged = false;
        member.owner = Owner {
            requests: Some(setup.anchored().oracle()),
            ..Owner::default()
        };
        for lease in &mut self.leases {
            if lease.live && lease.member == name {
                lease.own = member.owner.charge(self.now, lease.class, lease.cost);
            }
        }
    }

    /// Those that are pinned to a member that is no more, lane by lane as these were made, in turn.
    fn send_away(&mut self, member: usize, mut classes: Vec<u32>) {
        classes.dedup();
        let mut lanes: Vec<u32> = Vec::new();
        for class in classes {
            if !lanes.contains(&class) {
                lanes.push(class);
            }
        }
        for class in lanes {
            let kind = Kind {
                class,
                labels: 0,
                pin: Some(member),
            };
            while let Some((_, name)) = self.next(kind) {
                let ask = self.waiters[name].ask;
                self.had_its_turn(ask);
                self.waiters[name].waiting = false;
                self.forget_turns();
                self.tally.refused += 1;
                self.events.push(OracleEvent::PinRemoved(name));
            }
        }
    }

    fn close(&mut self, now: u64) {
        self.advance(now);
        self.closed = true;
        for (name, waiter) in self.waiters.iter_mut().enumerate() {
            if core::mem::take(&mut waiter.waiting) {
                self.tally.cancelled += 1;
                self.events.push(OracleEvent::Closed(name));
            }
        }
        self.turns.clear();
    }

    /// Forgets what no snapshot holds. `leases` are those that are live, in the order in which they end.
    fn restart(&mut self, now: u64, leases: &[usize]) {
        self.now = self.now.max(now);
        self.as_of = self.now;
        self.closed = false;
        for waiter in &mut self.waiters {
            self.tally.cancelled += u64::from(core::mem::take(&mut waiter.waiting));
        }
        self.turns.clear();
        self.kinds.clear();
        self.phantoms.clear();
        self.outlier = self
            .watch
            .outlier()
            .map(|one| Outlier::new(&one, self.tick()));
        let half_life = self.choice.policy().half_life();
        self.latency = half_life.map(Latency::new);
        for member in &mut self.members {
            member.probe = None;
            member.latency = half_life.map(Latency::new);
            let now = Tick::from_nanos(self.now);
            member.ejected_until = member.ejected_until.filter(|until| *until > now);
            if member.conduct.take_end(now) {
                member.slow_start.begin(now);
            }
        }
        for lease in leases {
            let stamp = self.stamp();
            let now = self.now;
            let ends = &mut self.leases[*lease];
            ends.held = false;
            ends.expires = Some((ends.expires.map_or(now, |(tick, _)| tick), stamp));
        }
        self.look_around();
    }

    fn handle_probe(&mut self, now: u64, member: usize, probe: ProbeId, found: Found) -> bool {
        self.advance(now);
        let tick = self.tick();
        let one = &mut self.members[member];
        if one.state == State::Gone || one.probe != Some(probe) {
            return false;
        }
        one.probe = None;
        let answer = match found {
            Found::Up(depth, latency) => {
                if let Some(depth) = depth {
                    one.depth = Some(depth.into());
                    one.unseen = one.unseen_by_probe;
                }
                if let (Some(took), Some(latency)) = (latency, &mut one.latency) {
                    latency.observe(tick, nanos(took.into()));
                }
                ProbeAnswer::Up
            }
            Found::Down => ProbeAnswer::Down,
        };
        let config = self.watch.health().expect("there was a probe");
        let health = one.health.as_mut().expect("there was a probe");
        let change = health.answer(&config, tick, probe, answer);
        self.changed(member, change);
        self.look_around();
        self.serve();
        true
    }

    fn changed(&mut self, member: usize, change: Option<Change>) {
        let condition = match change {
            None => return,
            Some(Change::WentDown) => Condition::Down,
            Some(Change::WentUp) => {
                self.members[member]
                    .slow_start
                    .begin(Tick::from_nanos(self.now));
                Condition::Up
            }
        };
        self.events.push(OracleEvent::Changed(member, condition));
    }

    fn observe_depth(&mut self, now: u64, member: usize, depth: u8) -> bool {
        self.advance(now);
        let one = &mut self.members[member];
        let there = !matches!(one.state, State::Removing | State::Gone);
        if there {
            one.depth = Some(depth.into());
            one.unseen = 0;
            one.unseen_by_probe = 0;
        }
        there
    }

    /// Replays time from one thing that is due to the next.
    fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
        while let Some((tick, member)) = self.first_timer()
            && tick <= self.now
        {
            self.watch_over(member);
        }
        self.sweep();
        self.look_around();
        self.serve();
        while let Some(due) = self.poll_timeout().map(Tick::as_nanos)
            && due <= self.now
        {
            self.as_of = self.as_of.max(due);
            self.replay();
        }
        self.as_of = self.now;
        self.serve();
    }

    fn replay(&mut self) {
        let live = self.leases.iter().enumerate().filter(|(_, one)| one.live);
        let mut due: Vec<_> = live
            .filter_map(|(name, one)| one.expires.map(|expires| (expires, name)))
            .filter(|((tick, _), _)| *tick <= self.as_of)
            .collect();
        due.sort_unstable();
        for (_, lease) in due {
            self.tally.expired += 1;
            self.events.push(OracleEvent::Expired(lease));
            self.end(lease, None, None, None);
        }
        let mut due: Vec<_> = self
            .waiting()
            .filter_map(|(name, one)| one.deadline.map(|deadline| (deadline, name)))
            .filter(|(tick, _)| *tick <= self.as_of)
            .collect();
        due.sort_unstable();
        for (_, waiter) in due {
            self.tally.timed_out += 1;
            self.waiters[waiter].waiting = false;
            self.events.push(OracleEvent::TimedOut(waiter));
        }
        self.forget_turns();
        self.serve();
    }

    fn timer(&self, member: &OracleMember) -> Option<u64> {
        if member.state == State::Gone {
            return None;
        }
        let now = self.tick();
        let ramp = self.watch.slow_start();
        let timers = [
            member.health.as_ref().and_then(Health::poll_timeout),
            member.breaker.poll_timeout(),
            ramp.and_then(|ramp| member.slow_start.next_change(&ramp, now)),
            member.ejected_until,
        ];
        timers.into_iter().flatten().map(Tick::as_nanos).min()
    }

    /// The member that is to be looked after first; of several, the one of the lowest slot.
    fn first_timer(&self) -> Option<(u64, usize)> {
        let members = self.members.iter().enumerate();
        let timers = members
            .filter_map(|(name, member)| self.timer(member).map(|tick| (tick, member.id, name)));
        timers.min().map(|(tick, _, name)| (tick, name))
    }

    fn watch_over(&mut self, name: usize) {
        let tick = self.tick();
        if let Some(config) = self.watch.health() {
            let member = &mut self.members[name];
            let health = member.health.as_mut().expect("members are probed");
            if health.poll_timeout().is_some_and(|due| due <= tick) {
                member.probe = None;
            }
            let change = health.handle_timeout(&config, tick);
            if let Some(probe) = health.begin_probe(&config, tick) {
                member.probe = Some(probe);
                member.unseen_by_probe = 0;
                self.events.push(OracleEvent::Probe(name));
            }
            self.changed(name, change);
        }
        let member = &mut self.members[name];
        member.ejected_until = member.ejected_until.filter(|until| *until > tick);
        if member.conduct.take_end(tick) {
            member.slow_start.begin(tick);
        }
        if let Some(config) = self.watch.breaker() {
            member.breaker.handle_timeout(&config, tick);
            self.note_breaker(name);
        }
        self.look_around();
    }

    fn note_breaker(&mut self, name: usize) {
        let Some(config) = self.watch.breaker() else {
            return;
        };
        let tick = self.tick();
        let member = &mut self.members[name];
        let condition = match member.breaker.state(&config, tick) {
            BreakerState::Open { until } if member.told_open != Some(until) => {
                member.told_open = Some(until);
                Condition::BreakerOpen { until }
            }
            BreakerState::Closed if member.told_open.is_some() => {
                member.told_open = None;
                member.slow_start.begin(tick);
                Condition::BreakerClosed
            }
            BreakerState::Open { .. } | BreakerState::HalfOpen { .. } | BreakerState::Closed => {
                return;
            }
        };
        self.events.push(OracleEvent::Changed(name, condition));
    }

    fn sweep(&mut self) {
        let (Some(outlier), Some(config)) = (&mut self.outlier, self.watch.outlier()) else {
            return;
        };
        if outlier
            .poll_timeout()
            .is_none_or(|due| due.as_nanos() > self.now)
        {
            return;
        }
        let members = self.members.iter_mut().enumerate();
        let there =
            members.filter(|(_, member)| member.state == State::Enabled && member.weight > 0);
        let mut there: Vec<_> = there.collect();
        there.sort_by_key(|(_, member)| member.id);
        let conducts = there
            .into_iter()
            .map(|(name, member)| (name, &mut member.conduct));
        let mut ejected = Vec::new();
        for ejection in outlier.sweep(&config, Tick::from_nanos(self.now), conducts) {
            let until = ejection.until;
            ejected.push((ejection.member, until));
            let condition = Condition::Ejected { until };
            self.events
                .push(OracleEvent::Changed(ejection.member, condition));
        }
        for (member, until) in ejected {
            self.members[member].ejected_until = Some(until);
        }
        self.look_around();
    }

    /// Counts the healthy.
    fn look_around(&mut self) {
        let now = self.tick();
        let members = self.members.iter();
        let counted: Vec<bool> = members
            .filter(|member| member.state == State::Enabled && member.weight > 0)
            .map(|member| {
                let up = member.health.as_ref().is_none_or(Health::is_up);
                up && member.conduct.ejected(now).is_none()
            })
            .collect();
        let healthy = counted.iter().filter(|healthy| **healthy).count();
        let panic = self.watch.panic();
        self.panic = panic.in_panic(healthy as u32, counted.len() as u32);
    }

    fn serve(&mut self) {
        loop {
            let kinds: Vec<Kind> = self.waiting().map(|(_, waiter)| waiter.kind).collect();
            let mut turns: Vec<_> = kinds
                .into_iter()
                .filter_map(|kind| self.next(kind))
                .collect();
            turns.sort_unstable();
            let servable = turns.into_iter().find(|(_, name)| {
                let waiter = &self.waiters[*name];
                self.lane_opening(waiter.kind, waiter.ask.cost()) == Opening::Now
            });
            let Some((_, name)) = servable else { return };
            let OracleWaiter {
                since, ask, kind, ..
            } = self.waiters[name];
            self.had_its_turn(ask);
            self.waiters[name].waiting = false;
            self.forget_turns();
            let grant = self.grant(kind, ask, since);
            self.events.push(OracleEvent::Granted(name, grant));
        }
    }

    fn end(&mut self, lease: usize, end: Option<End>, tokens: Option<u32>, latency: Option<u64>) {
        let stamp = self.stamp();
        let now = self.now;
        let tick = self.tick();
        self.leases[lease].live = false;
        let ended = self.leases[lease].clone();
        let name = ended.member;
        let usual = self.service.get(&ended.class).copied();
        let fleet = self.latency.as_ref().and_then(|one| one.estimate(tick));
        let took = latency.unwrap_or(now - ended.granted);
        let member = &mut self.members[name];
        member.in_flight -= 1;
        member.stamp = stamp;
        let mut actual = Cost {
            requests: 1,
            tokens: tokens.unwrap_or(ended.cost.tokens),
        };
        let mut quick = false;
        let verdict = match end {
            Some(End::Ok) => {
                observe(&mut member.service, ended.class, took);
                observe(&mut self.service, ended.class, took);
                for latency in [&mut member.latency, &mut self.latency]
                    .into_iter()
                    .flatten()
                {
                    latency.observe(tick, nanos(took));
                }
                member.conduct.record(true);
                Verdict::Ok
            }
            Some(End::Failed) | None => {
                quick = true;
                member.conduct.record(false);
                Verdict::Failed
            }
            Some(End::Throttled(pause)) => {
                let until = now.saturating_add(u64::from(pause % 64));
                member.rests_until = member.rests_until.max(until);
                member.owner.latest = member.owner.latest.max(now);
                member.owner.turned_away = member.owner.turned_away.max(until);
                quick = true;
                Verdict::Unused
            }
            Some(End::NotSent) => {
                actual = Cost::default();
                member.pass -= ended.stride;
                member.calls -= 1;
                member.unseen = member.unseen.saturating_sub(1);
                member.unseen_by_probe = member.unseen_by_probe.saturating_sub(1);
                Verdict::Unused
            }
        };
        if quick
            && let Some(latency) = &mut member.latency
            && let Some(least) = latency.estimate(tick).max(fleet)
        {
            latency.observe(tick, nanos(took).max(least));
        }
        member.owner.settle(now, ended.class, ended.own, actual);
        if let Some(group) = member.setup.group() {
            self.groups[group].settle(now, ended.class, ended.grouped, actual);
        }
        if self.has_shared {
            self.shared.settle(now, ended.class, ended.shared, actual);
        }
        if let Some(config) = self.watch.breaker() {
            let breaker = &mut self.members[name].breaker;
            if let Some(permit) = ended.permit {
                breaker.end(&config, tick, permit, verdict);
            }
            if let Some(End::Throttled(pause)) = end {
                let until = now.saturating_add(u64::from(pause % 64));
                breaker.trip(&config, tick, Tick::from_nanos(until));
            }
            self.note_breaker(name);
        }
        for phantom in &mut self.phantoms {
            if phantom.class == ended.class && phantom.usual.is_none() {
                phantom.usual = self.service.get(&ended.class).copied();
            }
        }
        let policy = self.choice.policy();
        let weighs_load = (policy.uses_load() || policy.uses_work()) && policy != Policy::Fifo;
        if quick && weighs_load {
            self.phantoms.push(Phantom {
                member: name,
                granted: ended.granted,
                class: ended.class,
                usual,
            });
        }
        self.look_around();
        let member = &mut self.members[name];
        if member.in_flight == 0 {
            match member.state {
                State::Enabled | State::Disabled | State::Gone => {}
                State::Draining => self.events.push(OracleEvent::Drained(name)),
                State::Removing => {
                    member.state = State::Gone;
                    self.events.push(OracleEvent::Removed(name));
                }
            }
        }
    }

    fn poll_timeout(&self) -> Option<Tick> {
        let live = self.leases.iter().filter(|one| one.live);
        let expiries = live.filter_map(|one| one.expires.map(|(tick, _)| tick));
        let deadlines = self.waiting().filter_map(|(_, one)| one.deadline);
        let heads = self.waiting().filter_map(|(_, one)| self.next(one.kind));
        let openings = heads.filter_map(|(_, name)| {
            let waiter = &self.waiters[name];
            match self.lane_opening(waiter.kind, waiter.ask.cost()) {
                Opening::At(at) => Some(at),
                // What is in flight may yet take longer than that.
                Opening::AnyTime if !self.is_open(waiter) => {
                    self.first_tick(waiter.kind, waiter.ask.cost())
                }
                Opening::Now | Opening::AnyTime | Opening::Unknown => None,
            }
        });
        let timers = self.first_timer().map(|(tick, _)| tick);
        let sweep = self.outlier.as_ref().and_then(Outlier::poll_timeout);
        let phantoms = self.phantoms.iter().filter_map(Phantom::end);
        let phantoms = phantoms.filter(|end| *end > self.as_of && self.waiting().next().is_some());
        let first = phantoms
            .chain(expiries)
            .chain(deadlines)
            .chain(openings)
            .chain(timers);
        let first = first.chain(sweep.map(Tick::as_nanos)).min();
        first.map(Tick::from_nanos)
    }

    /// Whether a member could serve, were it not for the pool's own limits.
    fn is_open(&self, waiter: &OracleWaiter) -> bool {
        (0..self.members.len())
            .filter(|one| self.could_go(waiter.kind, *one))
            .any(|one| self.reason(one, waiter.kind, waiter.ask.cost()) == Reason::Ready)
    }

    /// Why each member that is there could serve a request or not.
    fn explain(&self, ask: Ask, pin: Option<usize>) -> Vec<(usize, Reason)> {
        let kind = Kind {
            class: ask.class(),
            labels: ask.labels(),
            pin,
        };
        let shared = match self.shared.earliest(self.now, kind.class, ask.cost()) {
            Wait::Until(until) if until.as_nanos() <= self.now => None,
            Wait::Until(until) => Some(Reason::AtLimit { until }),
            Wait::ForSettlement => Some(Reason::InFlight),
            Wait::Never => Some(Reason::NeverFits),
        };
        let there = (0..self.members.len()).filter(|one| self.members[*one].state != State::Gone);
        let mut reasons: Vec<_> = there
            .map(|name| {
                let reason = if pin.is_some_and(|pin| pin != name) {
                    Reason::NotPinned
                } else if !self.could_go(kind, name) {
                    Reason::WrongLabels
                } else {
                    match (self.reason(name, kind, ask.cost()), shared) {
                        (Reason::Ready, Some(shared)) => shared,
                        (reason, _) => reason,
                    }
                };
                (name, reason)
            })
            .collect();
        let ready = reasons.iter().filter(|(_, one)| *one == Reason::Ready);
        let tier = |name: usize| self.members[name].setup.tier();
        let nearest = ready.map(|(name, _)| tier(*name)).min();
        let kind = Kind {
            labels: if pin.is_some() { 0 } else { kind.labels },
            ..kind
        };
        let next = self.next(kind).map(|(turn, _)| turn);
        let in_line = next.is_some_and(|next| next < self.turn(ask, self.waiters.len()));
        for (name, reason) in &mut reasons {
            if *reason == Reason::Ready && nearest.is_some_and(|nearest| nearest < tier(*name)) {
                *reason = Reason::LowerTier;
            } else if *reason == Reason::Ready && in_line {
                *reason = Reason::InLine;
            }
        }
        reasons
    }
}

/// The machine, the oracle, and which handle means what.
struct Pair {
    machine: Pool<usize>,
    oracle: Oracle,
    groups: Vec<GroupId>,
    members: Vec<MemberId>,
    leases: Vec<LeaseId>,
    waiters: Vec<WaiterId>,
    /// Each with its member and what the oracle calls it.
    probes: Vec<(pool::ProbeId, usize, Option<ProbeId>)>,
    asked: Option<(Ask, Option<usize>)>,
    config: Config,
    /// Leases of before a restart, in the order in which they end.
    orphans: VecDeque<usize>,
    /// What the machine has told and nobody compared.
    told: Vec<pool::Event<usize>>,
}

/// How the pool of a case behaves.
pub(crate) fn config(case: &Case) -> Config {
    let ttl = Some(u64::from(case.ttl % 64)).filter(|ttl| *ttl > 0);
    let max_lanes = NonZeroU32::MIN.saturating_add(u32::from(case.max_lanes % 6));
    let mut config = Config::new(case.policy.policy())
        .max_waiters(u32::from(case.max_waiters % 16))
        .max_lanes(max_lanes)
        .limits(machine_of(case.shared, None))
        .panic_threshold(case.watch.panic());
    if let Some(ttl) = ttl {
        config = config.lease_ttl(nanos(ttl)).expect(IN_RANGE);
    }
    if let Some(breaker) = case.watch.breaker() {
        config = config.breaker(breaker);
    }
    if let Some(health) = case.watch.health() {
        config = config.health(health);
    }
    if let Some(outlier) = case.watch.outlier() {
        config = config.outlier(outlier);
    }
    if let Some(ramp) = case.watch.slow_start() {
        config = config.slow_start(ramp);
    }
    if let Some((capacity, ttl)) = case.watch.affinity() {
        config = config.affinity(capacity, ttl).expect(IN_RANGE);
    }
    if case.policy == Choice::LeastTime {
        config = config.weigh_by_time();
    }
    config
}

/// The pool of a case with its first members.
pub(crate) fn pool(case: &Case) -> Pool<usize> {
    let mut pool = Pool::new(config(case));
    let groups = case
        .groups
        .map(|setup| pool.add_group(machine_of(setup, None)));
    for (name, setup) in case.members.iter().take(4).enumerate() {
        pool.add(Tick::ZERO, setup.member(name, &groups))
            .expect("a small pool takes members");
    }
    pool
}

/// Holds a pool to its oracle: the same answers, events, deadlines, reasons and figures after each
/// operation; and every limit to its promise.
///
/// # Panics
/// Where they differ.
pub fn run(case: &Case) {
    let ttl = Some(u64::from(case.ttl % 64)).filter(|ttl| *ttl > 0);
    let max_lanes = u32::from(case.max_lanes % 6) + 1;
    let mut machine = Pool::new(config(case));
    let groups = case
        .groups
        .map(|setup| machine.add_group(machine_of(setup, None)));
    let owner = |setup: Option<limits::Setup>| Owner {
        requests: setup.map(|setup| setup.anchored().oracle()),
        ..Owner::default()
    };
    let affinity = case.watch.affinity();
    let mut pair = Pair {
        machine,
        oracle: Oracle {
            choice: case.policy,
            watch: case.watch,
            ttl,
            max_waiters: usize::from(case.max_waiters % 16),
            max_lanes: max_lanes as usize,
            now: 0,
            as_of: 0,
            closed: false,
            shared: owner(case.shared),
            has_shared: case.shared.is_some(),
            groups: case.groups.map(owner),
            members: Vec::new(),
            leases: Vec::new(),
            waiters: Vec::new(),
            phantoms: Vec::new(),
            kinds: BTreeMap::new(),
            asked: 0,
            turns: BTreeMap::new(),
            turn: 0,
            outlier: case
                .watch
                .outlier()
                .map(|one| Outlier::new(&one, Tick::ZERO)),
            affinity: affinity.map(|(capacity, ttl)| Affinity::new(capacity, ttl).expect(IN_RANGE)),
            service: BTreeMap::new(),
            latency: case.policy.policy().half_life().map(Latency::new),
            panic: false,
            events: Vec::new(),
            order: 0,
            levels: BTreeMap::new(),
            tally: Tally::default(),
            hints: VecDeque::new(),
        },
        groups: groups.to_vec(),
        members: Vec::new(),
        leases: Vec::new(),
        waiters: Vec::new(),
        probes: Vec::new(),
        asked: None,
        config: config(case),
        orphans: VecDeque::new(),
        told: Vec::new(),
    };
    for setup in case.members.iter().take(4) {
        pair.add(0, *setup);
        pair.compare();
    }
    let mut now = 0;
    for op in &case.ops {
        now = pair.apply(*op, now);
        pair.compare();
    }
    let promise = |limit: &limits::Oracle, setup: limits::Setup| {
        let machine = setup.anchored().machine();
        limit.judge(|span| machine.worst_case(span));
    };
    for member in &pair.oracle.members {
        if let (Some(limit), Some(setup)) = (&member.owner.requests, member.setup.limit)
            && member.judged
        {
            promise(limit, setup);
        }
    }
    let owners = pair.oracle.groups.iter().chain([&pair.oracle.shared]);
    for (owner, setup) in owners.zip(case.groups.into_iter().chain([case.shared])) {
        if let (Some(limit), Some(setup)) = (&owner.requests, setup) {
            promise(limit, setup);
        }
    }
}

impl Pair {
    fn apply(&mut self, op: Op, now: u64) -> u64 {
        let tick = Tick::from_nanos(now);
        match op {
            Op::Acquire(ask) => self.acquire(now, ask),
            Op::Release(which, end, tokens, latency) => {
                if let Some(lease) = pick(which, self.leases.len()) {
                    self.release(now, lease, end, tokens, latency);
                }
            }
            Op::Renew(which) => {
                if let Some(lease) = pick(which, self.leases.len()) {
                    let got = self.machine.renew(tick, self.leases[lease]);
                    self.take_hints();
                    let live = self.oracle.renew(now, lease);
                    let expires = self.oracle.leases[lease].expires;
                    let expected = expires.map(|(tick, _)| Tick::from_nanos(tick));
                    assert_eq!(got.ok(), live.then_some(expected));
                }
            }
            Op::Cancel(which) => {
                if let Some(waiter) = pick(which, self.waiters.len()) {
                    let got = self.machine.cancel(tick, self.waiters[waiter]);
                    self.take_hints();
                    assert_eq!(got.is_ok(), self.oracle.cancel(now, waiter));
                }
            }
            Op::Add(setup) => {
                if self.members.len() < 8 {
                    self.add(now, setup);
                }
            }
            Op::Manage(which, what) => {
                if let Some(member) = pick(which, self.members.len()) {
                    self.manage(now, member, what);
                }
            }
            Op::Probe(which, found) => {
                if let Some(at) = pick(which, self.probes.len()) {
                    self.answer(now, at, found);
                }
            }
            Op::Depth(which, depth) => {
                if let Some(member) = pick(which, self.members.len()) {
                    let id = self.members[member];
                    let got = self.machine.observe_depth(tick, id, depth.into());
                    self.take_hints();
                    assert_eq!(got.is_ok(), self.oracle.observe_depth(now, member, depth));
                }
            }
            Op::Estimate(ask) => self.estimate(now, ask),
            Op::Advance(ticks) => return now.saturating_add(u64::from(ticks % 16)),
            Op::Back(ticks) => return now.saturating_sub(ticks.into()),
            Op::Leap(ticks) => return now.saturating_add(ticks.into()),
            Op::HandleTimeout => {
                self.machine.handle_timeout(tick);
                self.take_hints();
                self.oracle.advance(now);
            }
            Op::FollowTimeout => {
                if let Some(due) = self.machine.poll_timeout() {
                    self.machine.handle_timeout(due);
                    self.take_hints();
                    self.oracle.advance(due.as_nanos());
                    return now.max(due.as_nanos());
                }
            }
            Op::Close(sure) if sure > 0 => {}
            Op::Close(_) => {
                self.machine.close(tick);
                self.take_hints();
                self.oracle.close(now);
            }
            Op::Restart(pause) => {
                let now = self.oracle.now.max(now) + u64::from(pause % 16);
                self.restart(now);
                return now;
            }
        }
        now
    }

    fn add(&mut self, now: u64, setup: MemberSetup) {
        let member = setup.member(self.members.len(), &self.groups);
        let added = self.machine.add(Tick::from_nanos(now), member);
        let id = added.expect("a small pool takes members");
        self.members.push(id);
        self.take_hints();
        self.oracle.add(now, id, setup);
    }

    /// The member that a request is pinned to.
    fn pin(&self, ask: Ask) -> Option<usize> {
        let pin = (ask.pin < 32).then(|| pick(ask.pin, self.members.len()));
        pin.flatten()
    }

    /// The request as the machine knows it.
    fn request(&self, ask: Ask, pin: Option<usize>, deadline: Option<u64>) -> Request {
        let mut request = Request::new()
            .class(ask.class())
            .cost(ask.cost())
            .priority(ask.priority())
            .flow(ask.flow())
            .labels(Labels::from_bits(ask.labels()));
        if let Some(deadline) = deadline {
            request = request.deadline(Tick::from_nanos(deadline));
        }
        if let Some(key) = ask.key() {
            request = request.key(key);
        }
        if let Some(session) = ask.session() {
            request = request.session(session);
        }
        if let Some(pin) = pin {
            request = request.pin(self.members[pin]);
        }
        request
    }

    fn acquire(&mut self, now: u64, ask: Ask) {
        let pin = self.pin(ask);
        let deadline = ask
            .deadline
            .map(|ticks| now.saturating_add(u64::from(ticks % 64)));
        let request = self.request(ask, pin, deadline);
        self.asked = Some((ask, pin));
        let tick = Tick::from_nanos(now);
        // What became due before is granted before, and what this makes possible after.
        let due = self.granted_by(tick);
        let got = self.machine.acquire(tick, request);
        self.take_hints();
        if let Ok(Acquired::Granted(grant)) = got {
            let member = self.member(grant.member);
            self.oracle.hints.insert(due, member);
        }
        let expected = self.oracle.acquire(now, ask, pin, deadline);
        let own = self.compare_events_with(got.ok().and_then(|acquired| match acquired {
            Acquired::Granted(grant) => Some((due, grant)),
            Acquired::Waiting(_) => None,
        }));
        let got = match got {
            Ok(Acquired::Granted(_)) => Answer::Granted(own.expect("it was named")),
            Ok(Acquired::Waiting(waiter)) => {
                self.waiters.push(waiter);
                Answer::Waiting(self.waiters.len() - 1)
            }
            Err(error) => Answer::Refused(error),
        };
        assert_eq!(got, expected);
    }

    fn release(&mut self, now: u64, lease: usize, end: End, tokens: Option<u8>, took: Option<u8>) {
        let outcome = match end {
            End::Ok => Outcome::Ok,
            End::Failed => Outcome::Failed,
            End::Throttled(pause) => {
                // The pool's clock never runs backwards, and neither does a pause from it.
                let from = self.oracle.now.max(now);
                let until = from.saturating_add(u64::from(pause % 64));
                Outcome::Throttled {
                    until: Tick::from_nanos(until),
                }
            }
            End::NotSent => Outcome::NotSent,
        };
        // No more than was reserved, so that the limits' promises hold.
        let reserved = self.oracle.leases[lease].cost.tokens;
        let tokens = tokens.map(|tokens| u32::from(tokens).min(reserved));
        let took = took.map(u64::from);
        let mut release = Release::from(outcome);
        if let Some(tokens) = tokens {
            release = release.cost(Cost {
                requests: 1,
                tokens,
            });
        }
        if let Some(took) = took {
            release = release.latency(nanos(took));
        }
        let id = self.leases[lease];
        let got = self.machine.release(Tick::from_nanos(now), id, release);
        self.take_hints();
        let live = self.oracle.release(now, lease, end, tokens, took);
        assert_eq!(got.is_ok(), live);
    }

    fn manage(&mut self, now: u64, member: usize, what: Management) {
        let (tick, id) = (Tick::from_nanos(now), self.members[member]);
        let machine = &mut self.machine;
        let mut payload = None;
        let got = match what {
            Management::Remove => machine.remove(tick, id).map(|gone| payload = gone),
            Management::Drain => machine.drain(tick, id),
            Management::Disable => machine.disable(tick, id),
            Management::Enable => machine.enable(tick, id),
            Management::Weigh(weight) => machine.set_weight(tick, id, (weight % 4).into()),
            Management::Limit(setup) => machine.set_limits(tick, id, machine_of(Some(setup), None)),
        };
        self.take_hints();
        let (there, leaves) = self.oracle.manage(now, member, what);
        assert_eq!(got.is_ok(), there);
        assert_eq!(payload, leaves.then_some(member));
    }

    fn restart(&mut self, now: u64) {
        let mut saved = self.machine.snapshot();
        if now.is_multiple_of(2) {
            let written = serde_json::to_vec(&saved).expect("a pool can be saved");
            saved = serde_json::from_slice(&written).expect("it was saved just now");
        }
        let tick = Tick::from_nanos(now);
        let restored = Pool::restore(self.config.clone(), saved, tick, tick);
        self.machine = restored.expect("it was saved just now");
        let leases = &self.oracle.leases;
        let mut orphans: Vec<_> = (0..leases.len()).filter(|one| leases[*one].live).collect();
        orphans.sort_by_key(|one| {
            let id = self.leases.get(*one);
            (leases[*one].expires, id)
        });
        self.oracle.restart(now, &orphans);
        orphans.sort_by_key(|one| self.oracle.leases[*one].expires);
        self.orphans = orphans.into();
        let members = &self.oracle.members;
        let there = (0..members.len()).filter(|one| members[*one].state != State::Gone);
        let mut there: Vec<_> = there.collect();
        there.sort_by_key(|one| self.members[*one]);
        let ids: Vec<_> = self.machine.members().map(|(id, _)| id).collect();
        assert_eq!(ids.len(), there.len());
        for (name, id) in there.into_iter().zip(ids) {
            assert!(!self.members.contains(&id), "an old name means something");
            self.members[name] = id;
            self.oracle.members[name].id = id;
        }
    }

    fn answer(&mut self, now: u64, at: usize, found: Found) {
        let (probe, member, known) = self.probes[at];
        let answer = match found {
            Found::Up(depth, latency) => Probed::Up {
                depth: depth.map(u32::from),
                latency: latency.map(|took| nanos(took.into())),
            },
            Found::Down => Probed::Down,
        };
        let got = self
            .machine
            .handle_probe(Tick::from_nanos(now), probe, answer);
        self.take_hints();
        let known = known.expect("the oracle probed as well");
        assert_eq!(
            got.is_ok(),
            self.oracle.handle_probe(now, member, known, found)
        );
    }

    fn estimate(&mut self, now: u64, ask: Ask) {
        let pin = self.pin(ask);
        let request = self.request(ask, pin, None);
        let got = self.machine.estimate(Tick::from_nanos(now), &request);
        self.take_hints();
        self.oracle.advance(now);
        let kind = self.oracle.kind(ask, pin);
        match (got, kind) {
            (Ok(got), Ok(kind)) => {
                let opening = self.oracle.lane_opening(kind, ask.cost());
                let idle = self.oracle.next(kind).is_none();
                if idle {
                    assert_eq!(got.ahead, 0);
                    match opening {
                        Opening::Now => assert_eq!(got.wait, Some(Duration::ZERO)),
                        Opening::At(at) => assert_eq!(got.wait, Some(nanos(at - self.oracle.now))),
                        Opening::AnyTime | Opening::Unknown => {}
                    }
                }
            }
            (got, kind) => assert_eq!(got.err(), kind.err()),
        }
    }

    /// Gives a new lease the next name.
    fn grant(&mut self, grant: Grant) -> OracleGrant {
        self.leases.push(grant.lease);
        let waited =
            u64::try_from(grant.waited.as_nanos()).expect("a wait is within a clock's range");
        OracleGrant {
            lease: self.leases.len() - 1,
            member: self.member(grant.member),
            waited,
            expires: grant.expires.map(Tick::as_nanos),
        }
    }

    fn member(&self, id: MemberId) -> usize {
        let name = self.members.iter().position(|one| *one == id);
        name.expect("every member has a name")
    }

    fn waiter(&self, id: WaiterId) -> usize {
        let name = self.waiters.iter().position(|one| *one == id);
        name.expect("every waiter has a name")
    }

    /// Collects what the machine tells, for the oracle to go by where it must.
    fn take_hints(&mut self) {
        while let Some(event) = self.machine.poll_event() {
            if let pool::Event::Granted { grant, .. } = &event {
                let member = self.member(grant.member);
                self.oracle.hints.push_back(member);
            }
            self.told.push(event);
        }
    }

    /// How many requests that wait are granted by what is due, before anything else is done.
    fn granted_by(&self, now: Tick) -> usize {
        if self.machine.stats().waiting.waiting == 0 {
            return 0;
        }
        let mut machine = self.machine.clone();
        machine.handle_timeout(now);
        let events = core::iter::from_fn(|| machine.poll_event());
        events
            .filter(|event| matches!(event, pool::Event::Granted { .. }))
            .count()
    }

    fn compare_events(&mut self) {
        self.compare_events_with(None);
    }

    /// The same where a command has granted a lease itself, after as many that were due; that lease's name.
    fn compare_events_with(&mut self, mut own: Option<(usize, Grant)>) -> Option<OracleGrant> {
        let mut got = Vec::new();
        let (mut grants, mut named) = (0, None);
        for event in core::mem::take(&mut self.told) {
            got.push(match event {
                pool::Event::Granted { waiter, grant } => {
                    if let Some((_, first)) = own.take_if(|(due, _)| *due == grants) {
                        named = Some(self.grant(first));
                    }
                    grants += 1;
                    OracleEvent::Granted(self.waiter(waiter), self.grant(grant))
                }
                pool::Event::TimedOut { waiter } => OracleEvent::TimedOut(self.waiter(waiter)),
                pool::Event::Closed { waiter } => OracleEvent::Closed(self.waiter(waiter)),
                pool::Event::PinRemoved { waiter } => OracleEvent::PinRemoved(self.waiter(waiter)),
                pool::Event::Expired { lease, member } => {
                    let name = self.leases.iter().position(|one| *one == lease);
                    let name = name.or_else(|| self.orphans.pop_front());
                    let name = name.expect("every lease has a name");
                    assert_eq!(self.member(member), self.oracle.leases[name].member);
                    OracleEvent::Expired(name)
                }
                pool::Event::Drained { member } => OracleEvent::Drained(self.member(member)),
                pool::Event::Removed { member, payload } => {
                    assert_eq!(self.member(member), payload);
                    OracleEvent::Removed(payload)
                }
                pool::Event::Probe { member, probe } => {
                    let name = self.member(member);
                    let known = self.oracle.members[name].probe;
                    self.probes.push((probe, name, known));
                    OracleEvent::Probe(name)
                }
                pool::Event::Changed { member, condition } => {
                    OracleEvent::Changed(self.member(member), condition)
                }
            });
        }
        let expected = core::mem::take(&mut self.oracle.events);
        assert_eq!(by_member(got), by_member(expected));
        named.or_else(|| own.map(|(_, grant)| self.grant(grant)))
    }

    fn compare(&mut self) {
        self.compare_events();
        assert!(self.oracle.hints.is_empty(), "the machine grants more");
        assert_eq!(self.machine.poll_timeout(), self.oracle.poll_timeout());
        if let Some((ask, pin)) = self.asked {
            let request = self.request(ask, pin, None);
            let got = self.machine.explain(&request);
            let got: Vec<_> = got.map(|(id, reason)| (self.member(id), reason)).collect();
            let mut expected = self.oracle.explain(ask, pin);
            expected.sort_by_key(|(name, _)| self.members[*name]);
            assert_eq!(got, expected);
        }
        let stats = self.machine.stats();
        let total = stats.total;
        let live: u64 = stats
            .members
            .iter()
            .map(|one| u64::from(one.in_flight))
            .sum();
        let tally = Tally {
            granted: total.granted,
            released: total.ok + total.failed + total.throttled + total.not_sent,
            expired: total.expired,
            refused: stats.waiting.refused,
            timed_out: stats.waiting.timed_out,
            cancelled: stats.waiting.cancelled,
            waited: u64::try_from(stats.waiting.waited.as_nanos()).unwrap_or(u64::MAX),
        };
        assert_eq!(tally, self.oracle.tally);
        assert_eq!(tally.granted, tally.released + tally.expired + live);
        assert_eq!(stats.held.count(), tally.granted - live);
        assert_eq!(stats.waited.count(), tally.granted);
        let waiting = self.oracle.waiting().count();
        assert_eq!(stats.waiting.waiting as usize, waiting);
        for figures in &stats.members {
            let member = &self.oracle.members[self.member(figures.member)];
            assert_eq!(figures.counts.calls(), member.calls);
            assert_eq!(figures.in_flight, member.in_flight);
        }
        let there = self
            .oracle
            .members
            .iter()
            .filter(|one| one.state != State::Gone);
        assert_eq!(stats.members.len(), there.count());
    }
}

/// What was told of members in a row, member by member: which of several timers goes first is open.
fn by_member(mut events: Vec<OracleEvent>) -> Vec<OracleEvent> {
    let member = |event: &OracleEvent| match event {
        OracleEvent::Probe(member) | OracleEvent::Changed(member, _) => Some(*member),
        OracleEvent::Granted(..)
        | OracleEvent::TimedOut(_)
        | OracleEvent::Closed(_)
        | OracleEvent::PinRemoved(_)
        | OracleEvent::Expired(_)
        | OracleEvent::Drained(_)
        | OracleEvent::Removed(_) => None,
    };
    for run in events.chunk_by_mut(|one, other| member(one).is_some() && member(other).is_some()) {
        run.sort_by_key(member);
    }
    events
}

/// One of the latest 16.
fn pick(which: u8, among: usize) -> Option<usize> {
    let back = usize::from(which % 16).checked_rem(among)?;
    Some(among - 1 - back)
}
