//! The pool by plain vectors.

mod member_health;
mod membership;
mod select;

use super::case::{Ask, Case, Choice, End, IN_RANGE, MemberSetup, Watch, nanos};
use super::owner::{Owner, Uses};
use crate::limits;
use leasehold_core::affinity::Affinity;
use leasehold_core::balance::{PeakEwma, Policy, pass};
use leasehold_core::health::{Breaker, CallResult, Permit};
use leasehold_core::health::{OutcomeWindow, OutlierDetector};
use leasehold_core::health::{ProbeNumber, Prober, SlowStart};
use leasehold_core::limit::Cost;
use leasehold_core::pool::{AcquireError, Eligibility, HealthChange, MemberId};
use leasehold_core::time::Tick;
use std::collections::{BTreeMap, VecDeque};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Enabled,
    Disabled,
    Draining,
    Removing,
    Gone,
}

#[derive(Clone, Debug)]
pub(super) struct OracleMember {
    /// What the machine calls it; in the order of slots.
    pub(super) id: MemberId,
    pub(super) setup: MemberSetup,
    weight: u16,
    pub(super) owner: Owner,
    pub(super) state: State,
    pub(super) in_flight: u32,
    pass: u64,
    stamp: u64,
    rests_until: u64,
    pub(super) calls: u64,
    breaker: Breaker,
    health: Option<Prober>,
    pub(super) probe: Option<ProbeNumber>,
    outcomes: OutcomeWindow,
    slow_start: SlowStart,
    depth: Option<u32>,
    unseen: u32,
    unseen_by_probe: u32,
    latency: Option<PeakEwma>,
    service: BTreeMap<u32, u64>,
    told_open: Option<Tick>,
    /// The end of an ejection, until it has been looked after.
    ejected_until: Option<Tick>,
    /// Whether its limits were never set anew.
    pub(super) judged: bool,
}

#[derive(Clone, Debug)]
pub(super) struct OracleLease {
    pub(super) member: usize,
    granted: u64,
    class: u32,
    pub(super) cost: Cost,
    stride: u64,
    own: Uses,
    grouped: Uses,
    shared: Uses,
    permit: Option<Permit>,
    pub(super) expires: Option<(u64, u64)>,
    pub(super) live: bool,
    /// Whether somebody holds it, which nobody does after a restart.
    held: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct OracleWaiter {
    since: u64,
    ask: Ask,
    kind: Kind,
    deadline: Option<u64>,
    waiting: bool,
}

/// A class with a set of labels, or a pinned member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    class: u32,
    labels: u64,
    pin: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OracleGrant {
    pub(super) lease: usize,
    pub(super) member: usize,
    pub(super) waited: u64,
    pub(super) expires: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OracleEvent {
    Granted(usize, OracleGrant),
    TimedOut(usize),
    Closed(usize),
    PinnedMemberRemoved(usize),
    Expired(usize),
    Drained(usize),
    Removed(usize),
    Probe(usize),
    Changed(usize, HealthChange),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Granted(OracleGrant),
    Waiting(usize),
    Refused(AcquireError),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) granted: u64,
    pub(super) released: u64,
    pub(super) expired: u64,
    pub(super) refused: u64,
    pub(super) timed_out: u64,
    pub(super) cancelled: u64,
    pub(super) waited: u64,
}

pub(super) struct Oracle {
    choice: Choice,
    watch: Watch,
    ttl: Option<u64>,
    max_waiters: usize,
    max_lanes: usize,
    pub(super) now: u64,
    /// Up to when time has been replayed.
    as_of: u64,
    closed: bool,
    pub(super) shared: Owner,
    has_shared: bool,
    pub(super) groups: [Owner; 2],
    pub(super) members: Vec<OracleMember>,
    pub(super) leases: Vec<OracleLease>,
    waiters: Vec<OracleWaiter>,
    /// Failures that count as leases until a success would have ended.
    phantoms: Vec<Phantom>,
    /// Lanes of classes and labels, and when each was last asked for.
    kinds: BTreeMap<Kind, u64>,
    asked: u64,
    /// By priority and flow, when those that wait had their last turn, or joined.
    turns: BTreeMap<(u8, u64), u64>,
    turn: u64,
    outlier: Option<OutlierDetector>,
    affinity: Option<Affinity<usize>>,
    service: BTreeMap<u32, u64>,
    latency: Option<PeakEwma>,
    panic: bool,
    pub(super) events: Vec<OracleEvent>,
    order: u64,
    levels: BTreeMap<u8, u64>,
    pub(super) tally: Tally,
    /// Whom the machine granted leases on; where the policy isn't settled, the oracle follows.
    pub(super) hints: VecDeque<usize>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Phantom {
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
pub(super) enum Opening {
    Now,
    At(u64),
    AnyTime,
    Unknown,
}

pub(super) fn opening_of(reason: Eligibility) -> Opening {
    match reason {
        Eligibility::Ready | Eligibility::LowerTier | Eligibility::InLine => Opening::Now,
        Eligibility::Ejected { until }
        | Eligibility::BreakerOpen { until }
        | Eligibility::Throttled { until }
        | Eligibility::AtLimit { until } => Opening::At(until.as_nanos()),
        Eligibility::Full
        | Eligibility::Probing
        | Eligibility::InFlight
        | Eligibility::Unhealthy => Opening::AnyTime,
        Eligibility::WrongLabels
        | Eligibility::NotPinned
        | Eligibility::Removed
        | Eligibility::Disabled
        | Eligibility::Draining
        | Eligibility::NeverFits => Opening::Unknown,
    }
}

pub(super) fn observe(service: &mut BTreeMap<u32, u64>, class: u32, took: u64) {
    service
        .entry(class)
        .and_modify(|mean| *mean = *mean - *mean / 8 + took / 8)
        .or_insert(took);
}

impl Oracle {
    /// Of the pool of a case, before its first member.
    pub(super) fn new(case: &Case) -> Self {
        let owner = |setup: Option<limits::Setup>| Owner {
            requests: setup.map(|setup| setup.anchored().oracle()),
            ..Owner::default()
        };
        let ttl = Some(u64::from(case.ttl % 64)).filter(|ttl| *ttl > 0);
        let affinity = case.watch.affinity();
        let half_life = case.policy.policy().half_life();
        Self {
            choice: case.policy,
            watch: case.watch,
            ttl,
            max_waiters: usize::from(case.max_waiters % 16),
            max_lanes: usize::from(case.max_lanes % 6) + 1,
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
                .map(|one| OutlierDetector::new(&one, Tick::ZERO)),
            affinity: affinity.map(|(capacity, ttl)| Affinity::new(capacity, ttl).expect(IN_RANGE)),
            service: BTreeMap::new(),
            latency: half_life.map(|half_life| PeakEwma::new(half_life, Tick::ZERO)),
            panic: false,
            events: Vec::new(),
            order: 0,
            levels: BTreeMap::new(),
            tally: Tally::default(),
            hints: VecDeque::new(),
        }
    }

    fn stamp(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    fn tick(&self) -> Tick {
        Tick::from_nanos(self.now)
    }

    pub(super) fn acquire(
        &mut self,
        now: u64,
        ask: Ask,
        pin: Option<usize>,
        deadline: Option<u64>,
    ) -> Answer {
        self.advance(now);
        let answer = self.answer(ask, pin, deadline);
        if matches!(answer, Answer::Refused(_)) {
            self.tally.refused += 1;
        }
        self.serve();
        answer
    }

    /// The lane of a request, which may be one too many.
    pub(super) fn kind(&mut self, ask: Ask, pin: Option<usize>) -> Result<Kind, AcquireError> {
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
                return Err(AcquireError::PinnedMemberRemoved);
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

    pub(super) fn waiting(&self) -> impl Iterator<Item = (usize, &OracleWaiter)> {
        let all = self.waiters.iter().enumerate();
        all.filter(|(_, waiter)| waiter.waiting)
    }

    fn turn(&self, ask: Ask, arrival: usize) -> (u8, u64, usize) {
        let known = self.turns.get(&(ask.priority(), ask.flow()));
        let turn = known.copied().unwrap_or(self.turn);
        (ask.priority(), turn, arrival)
    }

    /// Whose turn it is in a lane.
    pub(super) fn next(&self, kind: Kind) -> Option<((u8, u64, usize), usize)> {
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

    pub(super) fn release(
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

    pub(super) fn renew(&mut self, now: u64, lease: usize) -> bool {
        self.advance(now);
        let live = self.leases[lease].live && self.leases[lease].held;
        if live {
            self.set_expiry(lease);
        }
        live
    }

    pub(super) fn cancel(&mut self, now: u64, waiter: usize) -> bool {
        self.advance(now);
        let waited = core::mem::take(&mut self.waiters[waiter].waiting);
        self.tally.cancelled += u64::from(waited);
        self.forget_turns();
        self.serve();
        waited
    }

    /// Replays time from one thing that is due to the next.
    pub(super) fn advance(&mut self, now: u64) {
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
                member.outcomes.record(true);
                CallResult::Ok
            }
            Some(End::Failed) | None => {
                quick = true;
                member.outcomes.record(false);
                CallResult::Failed
            }
            Some(End::Throttled(pause)) => {
                let until = now.saturating_add(u64::from(pause % 64));
                member.rests_until = member.rests_until.max(until);
                member.owner.latest = member.owner.latest.max(now);
                member.owner.turned_away = member.owner.turned_away.max(until);
                quick = true;
                CallResult::Unused
            }
            Some(End::NotSent) => {
                actual = Cost::default();
                member.pass -= ended.stride;
                member.calls -= 1;
                member.unseen = member.unseen.saturating_sub(1);
                member.unseen_by_probe = member.unseen_by_probe.saturating_sub(1);
                CallResult::Unused
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

    pub(super) fn poll_timeout(&self) -> Option<Tick> {
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
        let sweep = self
            .outlier
            .as_ref()
            .and_then(OutlierDetector::poll_timeout);
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
            .any(|one| self.reason(one, waiter.kind, waiter.ask.cost()) == Eligibility::Ready)
    }
}
