//! The pool in plain vectors.

mod member_health;
mod membership;
mod postpone;
mod queue;
mod release;
mod select;
mod types;

use super::case::{Ask, Case, Choice, FlowSetup, IN_RANGE, Watch};
use super::owner::Owner;
use crate::limits;
use leasehold_core::affinity::Affinity;
use leasehold_core::balance::{PeakEwma, pass};
use leasehold_core::health::OutlierDetector;
use leasehold_core::limit::Cost;
use leasehold_core::pool::{Cause, Eligibility};
use leasehold_core::time::Tick;
use queue::OracleFlow;
use release::Ended;
use std::collections::{BTreeMap, VecDeque};
pub(super) use types::{
    Answer, FastFailure, Kind, Opening, OracleEvent, OracleGrant, OracleLease, OracleMember,
    OracleWaiter, Refusal, State, Tally,
};
use types::{observe, opening_of};

pub(super) struct Oracle {
    choice: Choice,
    watch: Watch,
    ttl: Option<u64>,
    max_waiters: usize,
    max_lanes: usize,
    pub(super) now: u64,
    /// The tick up to which time has been replayed.
    as_of: u64,
    closed: bool,
    pub(super) shared: Owner,
    has_shared: bool,
    pub(super) groups: [Owner; 2],
    /// Whether nothing was booked beyond a group's limit.
    pub(super) groups_judged: [bool; 2],
    has_groups: bool,
    pub(super) members: Vec<OracleMember>,
    pub(super) leases: Vec<OracleLease>,
    waiters: Vec<OracleWaiter>,
    /// Failures that count as leases until a success would have ended.
    fast_failures: Vec<FastFailure>,
    /// Lanes that aren't pinned, and the number of their last use.
    kinds: BTreeMap<Kind, u64>,
    asked: u64,
    /// Whether classes have lanes of their own.
    by_class: bool,
    /// The flows that have settings.
    pub(super) flows: BTreeMap<u64, OracleFlow>,
    each_flow: Option<FlowSetup>,
    share_by_tokens: bool,
    /// The virtual time at which each waiting flow was served last, or joined, by priority and flow.
    bases: BTreeMap<(u8, u64), (u128, u64)>,
    /// The place behind all flows that joined or were served.
    last_place: u64,
    /// The virtual time of each priority.
    times: BTreeMap<u8, u128>,
    outlier: Option<OutlierDetector>,
    affinity: Option<Affinity<usize>>,
    service: BTreeMap<u32, u64>,
    latency: Option<PeakEwma>,
    panic: bool,
    pub(super) events: Vec<OracleEvent>,
    order: u64,
    pass_floors: BTreeMap<u8, u64>,
    pub(super) tally: Tally,
    /// Members that the machine leased; the oracle follows where the policy is not determined.
    pub(super) hints: VecDeque<usize>,
    /// The causes of which the last refusal may name any.
    pub(super) causes: Vec<Cause>,
}

impl Oracle {
    /// The oracle of a case's pool, before its first member.
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
            groups_judged: [true; 2],
            has_groups: case.groups.iter().any(Option::is_some),
            members: Vec::new(),
            leases: Vec::new(),
            waiters: Vec::new(),
            fast_failures: Vec::new(),
            kinds: BTreeMap::new(),
            asked: 0,
            by_class: case.policy == Choice::LeastTime
                || case.each_flow.is_some_and(|flow| flow.tokens.is_some()),
            flows: case
                .each_flow
                .into_iter()
                .flat_map(|flow| (0..3).map(move |number| (number, OracleFlow::new(flow))))
                .collect(),
            each_flow: case.each_flow,
            share_by_tokens: case.share_by_tokens,
            bases: BTreeMap::new(),
            last_place: 0,
            times: BTreeMap::new(),
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
            pass_floors: BTreeMap::new(),
            tally: Tally::default(),
            hints: VecDeque::new(),
            causes: Vec::new(),
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

    fn answer(&mut self, ask: Ask, pin: Option<usize>, deadline: Option<u64>) -> Answer {
        if self.closed {
            return Answer::Refused(Refusal::Closed);
        }
        let kind = match self.kind(ask, pin) {
            Ok(kind) => kind,
            Err(error) => return Answer::Refused(error),
        };
        let newcomer = self.waiters.len();
        let turn = self.turn(ask);
        let next = self.next(kind).map(|(turn, _)| turn);
        let held_back = self.held_back(ask);
        let mut opening = Opening::AnyTime;
        if let Some((until, cause)) = held_back {
            opening = until;
            self.causes = vec![cause];
        } else if next.is_none_or(|next| turn < next) && !self.is_behind_own(kind, ask) {
            opening = match self.has_room_for(ask) {
                true => self.newcomer_opening(kind, ask, deadline),
                false => self.lane_opening(kind, ask.cost()),
            };
            if opening == Opening::Now {
                if next.is_some() {
                    let flow = (ask.priority(), ask.flow());
                    self.last_place += u64::from(!self.bases.contains_key(&flow));
                    self.had_its_turn(ask, turn);
                }
                return Answer::Granted(self.grant(kind, ask, self.now));
            }
            self.causes = self.causes_of(kind, ask.cost());
        } else {
            self.causes = self.causes_of_head(kind);
        }
        if let Some(refusal) = self.refusal(kind, ask, opening, deadline) {
            return Answer::Refused(refusal);
        }
        let time = *self.times.entry(ask.priority()).or_insert(0);
        let flow = (ask.priority(), ask.flow());
        if !self.bases.contains_key(&flow) {
            self.bases.insert(flow, (time, self.last_place));
            self.last_place += 1;
        }
        self.waiters.push(OracleWaiter {
            since: self.now,
            ask,
            kind,
            deadline,
            waiting: true,
            postponed_until: None,
        });
        Answer::Waiting(newcomer)
    }

    /// Why a request that isn't granted must not wait.
    fn refusal(
        &self,
        kind: Kind,
        ask: Ask,
        opening: Opening,
        deadline: Option<u64>,
    ) -> Option<Refusal> {
        if ask.cost() != Cost::REQUEST && !(self.fits(kind, ask.cost()) && self.fits_flow(ask)) {
            return Some(Refusal::NeverFits);
        }
        if let Some(deadline) = deadline {
            if deadline <= self.now {
                return Some(Refusal::NotReady);
            }
            let mut live = self.leases.iter().filter(|one| one.live);
            if let Opening::At(at) = opening
                && at >= deadline
                && live.all(|one| one.cost == Cost::REQUEST)
            {
                return Some(Refusal::DeadlineTooSoon(Tick::from_nanos(at)));
            }
        }
        if self.is_flow_queue_full(ask) {
            return Some(Refusal::FlowQueueFull);
        }
        if self.waiting().count() >= self.max_waiters {
            return Some(Refusal::QueueFull);
        }
        None
    }

    fn is_flow_queue_full(&self, ask: Ask) -> bool {
        let of_flow = self
            .waiting()
            .filter(|(_, one)| one.ask.flow() == ask.flow());
        let bound = self
            .flow_setup(ask.flow())
            .map_or(u32::MAX, FlowSetup::max_waiters);
        of_flow.count() >= bound as usize
    }

    fn has_room_for(&self, ask: Ask) -> bool {
        self.waiting().count() < self.max_waiters && !self.is_flow_queue_full(ask)
    }

    fn grant(&mut self, kind: Kind, ask: Ask, since: u64) -> OracleGrant {
        let name = self.choose(kind, ask);
        let stamp = self.stamp();
        let now = self.now;
        let tick = self.tick();
        let (class, cost) = (ask.class(), ask.cost());
        let breaker = self.breaker_of(name);
        let stride = pass(self.weight(name));
        let chosen = &mut self.members[name];
        if self.choice == Choice::LeastUsed {
            self.pass_floors.insert(chosen.setup.tier(), chosen.pass);
        }
        chosen.pass += stride;
        chosen.calls += 1;
        chosen.in_flight += 1;
        chosen.granted_since_depth += 1;
        chosen.granted_since_probe += 1;
        chosen.stamp = stamp;
        assert!(
            chosen.in_flight <= chosen.setup.max_leases(),
            "more leases than the member allows"
        );
        let own = chosen.owner.charge(now, class, cost);
        let group = chosen.setup.group();
        let permit = breaker.and_then(|config| chosen.breaker.begin(&config, tick));
        let group = group.map(|group| (group, self.groups[group].charge(now, class, cost)));
        let shared = self
            .has_shared
            .then(|| self.shared.charge(now, class, cost));
        let expected = self.estimate_of(name, class);
        self.enter_job(name);
        self.leases.push(OracleLease {
            number: self.leases.len(),
            expected,
            member: name,
            granted: now,
            class,
            cost,
            stride,
            own,
            group,
            shared: shared.unwrap_or_default(),
            arrived: false,
            flow: ask.flow(),
            flow_uses: None,
            permit,
            ttl: ask.ttl().or(self.ttl),
            expires: None,
            live: true,
            held: true,
        });
        self.assign_session(kind, ask, name);
        let lease = self.leases.len() - 1;
        self.leases[lease].flow_uses = self.charge_flow(ask);
        self.set_expiry(lease);
        self.refresh_panic();
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
        if let Some(ttl) = self.leases[lease].ttl {
            let stamp = self.stamp();
            self.leases[lease].expires = Some((self.now.saturating_add(ttl), stamp));
        }
    }

    /// The requests ahead of a waiter; `None` if it does not wait.
    pub(super) fn place(&self, waiter: usize) -> Option<u32> {
        let one = self.waiters[waiter];
        one.waiting
            .then(|| self.ahead_of(one.kind, one.ask, waiter))
    }

    pub(super) fn cancel(&mut self, now: u64, waiter: usize) -> bool {
        self.advance(now);
        let waited = core::mem::take(&mut self.waiters[waiter].waiting);
        self.tally.cancelled += u64::from(waited);
        self.forget_turns();
        self.serve();
        waited
    }

    /// Replays time from one due thing to the next.
    pub(super) fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
        while let Some((tick, member)) = self.first_timer()
            && tick <= self.now
        {
            self.handle_timer(member);
        }
        self.sweep();
        self.refresh_panic();
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
            self.end(lease, Ended::EXPIRED);
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
                    && self.postponement_of(*name).is_none()
            });
            let Some((turn, name)) = servable else {
                self.note_postponed();
                return;
            };
            let OracleWaiter {
                since, ask, kind, ..
            } = self.waiters[name];
            self.waiters[name].waiting = false;
            self.had_its_turn(ask, turn);
            let grant = self.grant(kind, ask, since);
            self.events.push(OracleEvent::Granted(name, grant));
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
                Opening::Now => {
                    let again = self.postponement_of(name).map(|wait| wait.again_at);
                    let first = self.first_tick(waiter.kind, waiter.ask.cost());
                    again.into_iter().chain(first).min()
                }
                Opening::At(at) => Some(at),
                // A call in flight may take longer than that.
                Opening::AnyTime if !self.is_open(waiter) => {
                    self.first_tick(waiter.kind, waiter.ask.cost())
                }
                Opening::AnyTime | Opening::Unknown => None,
            }
        });
        let timers = self.first_timer().map(|(tick, _)| tick);
        let sweep = self
            .outlier
            .as_ref()
            .and_then(OutlierDetector::poll_timeout);
        let fast_failures = self.fast_failures.iter().filter_map(FastFailure::end);
        let fast_failures =
            fast_failures.filter(|end| *end > self.as_of && self.waiting().next().is_some());
        let first = fast_failures
            .chain(expiries)
            .chain(deadlines)
            .chain(openings)
            .chain(self.parked_until())
            .chain(timers);
        let first = first.chain(sweep.map(Tick::as_nanos)).min();
        first.map(Tick::from_nanos)
    }

    /// Whether a member is ready, the pool's own limits aside.
    fn is_open(&self, waiter: &OracleWaiter) -> bool {
        (0..self.members.len())
            .filter(|one| self.matches(waiter.kind, *one))
            .any(|one| self.reason(one, waiter.kind, waiter.ask.cost()) == Eligibility::Ready)
    }
}
