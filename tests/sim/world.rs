//! An hour in the life of a pool: forty members, those who call them, those who operate them, and all that
//! goes wrong, as a loop over events in virtual time.
//!
//! The world keeps its own books of everything, and panics where the pool's differ or a promise is broken.

mod books;
mod faults;
mod operators;

use crate::settings::{
    BREAKER_CAP, BREAKER_PROBES, BUDGET_PER_SECOND, BUDGET_PERMILLE, BUDGET_RESERVE, CALL_TIMEOUT,
    EJECTION_CAP, FALL, GROUPS, MEMBERS, NEAREST, OF_GROUP, OF_POOL, PROBE_TIMEOUT, Plan, RECOVERY,
    RISE, TOKENS, TTL, WINDOW, config, group, has_token_limit, log, max_leases, of_member, span,
    tick, weight,
};
use crate::upstream::{Answer, Judge, MS, Nanos, SEC, Upstream};
use core::cmp::{Ordering, Reverse};
use core::hash::{Hash, Hasher};
use core::num::NonZeroU32;
use fastrand::Rng;
use leasehold_core::limit::{Cost, LimitSet, Unit};
use leasehold_core::pool::stats::LeaseCounts;
use leasehold_core::pool::{
    Acquired, Event, Grant, GroupId, HealthChange, Labels, LeaseId, MemberId, Outcome, Pool,
    ProbeId, ProbeResult, Release, Request, WaiterId,
};
use leasehold_core::retry::{AttemptFailure, Backoff, RetryBudget, RetryState};
use leasehold_core::time::Tick;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::DefaultHasher;

/// What came of it. Two of one plan are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) tasks: u64,
    pub(crate) served: u64,
    pub(crate) refused: u64,
    pub(crate) timed_out: u64,
    pub(crate) cancelled: u64,
    pub(crate) counts: LeaseCounts,
    pub(crate) queued: u64,
    pub(crate) retries: u64,
    pub(crate) events: u64,
    /// Calls of `handle_timeout`.
    pub(crate) wakes: u64,
    /// The longest that any member of the nearest tier that could serve went without a grant.
    pub(crate) longest_idle: Nanos,
    pub(crate) panics: u64,
    pub(crate) downs: u64,
    pub(crate) trips: u64,
    pub(crate) ejections: u64,
    pub(crate) farther: u64,
    /// Judges that saw a window filled to its limit.
    pub(crate) full: usize,
    /// A hash of all that happened, in order.
    pub(crate) trace: u64,
}

/// Plays a plan to its end.
pub(crate) fn play(plan: Plan) -> Summary {
    let mut world = World::new(plan);
    world.play();
    world.finish()
}

#[derive(Clone, Copy, Debug)]
enum Happening {
    /// A task comes.
    Task,
    /// A call reaches its upstream.
    Arrival(LeaseId),
    /// The client has the answer, or none for too long.
    Answer(LeaseId),
    Renewal(LeaseId),
    /// A backoff ends.
    Retry(u32),
    Cancel(u32),
    ProbeResult {
        member: MemberId,
        probe: ProbeId,
        up: bool,
    },
    /// Something breaks.
    Strike,
    Flap(usize),
    Mend(usize),
    /// Most of the nearest tier breaks at once.
    Outage,
    /// An operator does something to a member.
    Operate,
    /// And takes it back.
    Restore(usize),
    Check,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Nanos,
    turn: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.turn).cmp(&(other.at, other.turn))
    }
}

/// Where a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    In(MemberId),
    /// Removed, with leases to give back.
    Leaving(MemberId),
    Out,
}

/// A member as the world knows it.
#[derive(Debug)]
struct Known {
    upstream: Upstream,
    requests: Judge,
    /// By class.
    tokens: Option<[Judge; 3]>,
    place: Place,
    /// Whether an operator lets it serve.
    enabled: bool,
    weight: u16,
    /// Whether an operator is at work on it.
    busy: bool,
    /// Whether it is to tell when it is drained.
    draining: bool,
    live: u32,
    granted: u64,
    /// As its upstream asked.
    rests_until: Nanos,
    down: bool,
    /// Probes in a row that didn't say that it is up, and that did.
    bad_probes: u32,
    good_probes: u32,
    /// When probes must have seen that it is well.
    up_by: Nanos,
    open_until: Nanos,
    half_open: bool,
    epoch: u64,
    /// Calls that try a half-open breaker.
    trying: u32,
    ejected_until: Nanos,
    last_grant: Nanos,
    /// Up to when there was a reason to grant it nothing.
    excused: Nanos,
}

#[derive(Debug)]
struct Task {
    request: Request,
    tokens: u32,
    class: u32,
    labels: u64,
    deadline: Nanos,
    tries: RetryState,
    stage: Stage,
    /// Whether the retry it waits for is out of the budget already.
    paid: bool,
    cancelled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting(WaiterId),
    Calling,
    BackingOff,
    Ended,
}

#[derive(Clone, Copy, Debug, Hash)]
enum End {
    Served,
    Refused,
    TimedOut,
    Cancelled,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    task: u32,
    at: usize,
    granted: Nanos,
    expires: Nanos,
    /// Once it has arrived: when the client hears of it, and what.
    answer: Option<(Nanos, Answer)>,
    tokens: u32,
    /// Whether its holder dies before it gives the lease back.
    lost: bool,
    sent: bool,
    epoch: Option<u64>,
}

struct World {
    plan: Plan,
    rng: Rng,
    now: Nanos,
    turn: u64,
    agenda: BinaryHeap<Reverse<Entry>>,
    pool: Pool<usize>,
    groups: Vec<GroupId>,
    names: BTreeMap<MemberId, usize>,
    members: Vec<Known>,
    of_groups: Vec<Judge>,
    of_pool: Judge,
    tasks: Vec<Task>,
    calls: BTreeMap<LeaseId, Call>,
    waiting: BTreeMap<WaiterId, u32>,
    budget: RetryBudget,
    in_panic: bool,
    trace: DefaultHasher,
    sum: Summary,
    /// Tasks that have come to an end.
    ended: usize,
    waiting_cancelled: u64,
    waiting_timed_out: u64,
    waiting_refused: u64,
    granted_waiting: u64,
    pins_removed: u64,
}

impl World {
    fn new(plan: Plan) -> Self {
        let mut pool = Pool::new(config(plan));
        let group = || LimitSet::new().with(Unit::Requests, log(OF_GROUP));
        let groups = (0..GROUPS).map(|_| pool.add_group(group())).collect();
        let known = |at: usize| {
            let judge = || Judge::new("a class's tokens", TOKENS, WINDOW);
            let tokens = has_token_limit(at).then(|| [judge(), judge(), judge()]);
            Known {
                upstream: Upstream::new(4, (200 + 20 * at as Nanos) * MS),
                requests: Judge::new("a member", of_member(at), WINDOW),
                tokens,
                place: Place::Out,
                enabled: true,
                weight: weight(at),
                busy: false,
                draining: false,
                live: 0,
                granted: 0,
                rests_until: 0,
                down: false,
                bad_probes: 0,
                good_probes: 0,
                up_by: 0,
                open_until: 0,
                half_open: false,
                epoch: 0,
                trying: 0,
                ejected_until: 0,
                last_grant: 0,
                excused: 0,
            }
        };
        let mut world = Self {
            plan,
            rng: Rng::with_seed(plan.seed),
            now: 0,
            turn: 0,
            agenda: BinaryHeap::new(),
            pool,
            groups,
            names: BTreeMap::new(),
            members: (0..MEMBERS).map(known).collect(),
            of_groups: vec![Judge::new("a group", OF_GROUP, WINDOW); GROUPS],
            of_pool: Judge::new("the pool", OF_POOL, WINDOW),
            tasks: Vec::new(),
            calls: BTreeMap::new(),
            waiting: BTreeMap::new(),
            budget: RetryBudget::new(BUDGET_PERMILLE, BUDGET_RESERVE).per_second(BUDGET_PER_SECOND),
            in_panic: false,
            trace: DefaultHasher::new(),
            sum: Summary::default(),
            ended: 0,
            waiting_cancelled: 0,
            waiting_timed_out: 0,
            waiting_refused: 0,
            granted_waiting: 0,
            pins_removed: 0,
        };
        for at in 0..MEMBERS {
            world.add(at);
        }
        world.at(0, Happening::Task);
        world.at(15 * SEC, Happening::Strike);
        world.at(20 * SEC, Happening::Operate);
        world.at(plan.span / 2, Happening::Outage);
        world.at(SEC, Happening::Check);
        world
    }

    fn at(&mut self, at: Nanos, what: Happening) {
        self.turn += 1;
        let turn = self.turn;
        self.agenda.push(Reverse(Entry { at, turn, what }));
    }

    fn after(&mut self, delay: Nanos, what: Happening) {
        self.at(self.now + delay, what);
    }

    fn note(&mut self, what: impl Hash) {
        (self.now, what).hash(&mut self.trace);
    }

    fn play(&mut self) {
        loop {
            let Reverse(next) = self.agenda.peek().expect("a check is always to come");
            let (next, due) = (next.at, self.pool.poll_timeout().map(Tick::as_nanos));
            if let Some(due) = due.filter(|due| *due <= next) {
                assert!(due > self.now || self.sum.events == 0, "it spins");
                self.now = due;
                self.sum.wakes += 1;
                self.pool.handle_timeout(tick(due));
                let then = self.pool.poll_timeout().map(Tick::as_nanos);
                assert!(then.is_none_or(|then| then > due), "{then:?} at {due}");
                self.hear();
                continue;
            }
            let Reverse(entry) = self.agenda.pop().expect("it was there");
            self.now = entry.at;
            self.sum.events += 1;
            self.happen(entry.what);
            self.hear();
            let over = self.now > self.plan.span && self.ended == self.tasks.len();
            if over && self.calls.is_empty() {
                return;
            }
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Task => self.begin_task(),
            Happening::Arrival(lease) => self.arrive(lease),
            Happening::Answer(lease) => self.answer(lease),
            Happening::Renewal(lease) => self.renew(lease),
            Happening::Retry(task) => self.retry(task),
            Happening::Cancel(task) => self.cancel(task),
            Happening::ProbeResult { member, probe, up } => self.probed(member, probe, up),
            Happening::Strike => self.strike(),
            Happening::Flap(at) => self.flap(at),
            Happening::Mend(at) => self.mend(at),
            Happening::Outage => self.outage(),
            Happening::Operate => self.operate(),
            Happening::Restore(at) => self.restore(at),
            Happening::Check => self.check(),
        }
    }

    /// Takes in what the pool has to tell.
    fn hear(&mut self) {
        while let Some(event) = self.pool.poll_event() {
            match event {
                Event::Granted { waiter, grant } => {
                    let task = self.waiting.remove(&waiter).expect("it waited");
                    self.granted_waiting += 1;
                    let deadline = self.tasks[task as usize].deadline;
                    assert!(self.now < deadline, "granted after its deadline");
                    self.call(task, grant);
                }
                Event::TimedOut { waiter } => {
                    let task = self.waiting.remove(&waiter).expect("it waited");
                    self.waiting_timed_out += 1;
                    assert_eq!(self.now, self.tasks[task as usize].deadline);
                    self.end(task, End::TimedOut);
                }
                Event::PinnedMemberRemoved { waiter } => {
                    let task = self.waiting.remove(&waiter).expect("it waited");
                    self.waiting_refused += 1;
                    self.pins_removed += 1;
                    self.end(task, End::Refused);
                }
                Event::Closed { waiter } => panic!("{waiter:?} waited when all had ended"),
                Event::Expired { lease, member } => self.expired(lease, member),
                Event::Drained { member } => {
                    let at = self.index(member);
                    let known = &mut self.members[at];
                    assert!(known.draining && known.live == 0, "{at} isn't drained");
                    known.draining = false;
                    self.note(("drained", at));
                }
                Event::Removed { member, payload } => {
                    let known = &mut self.members[payload];
                    assert_eq!(known.place, Place::Leaving(member));
                    assert_eq!(known.live, 0, "{payload} is gone with leases");
                    known.place = Place::Out;
                    self.note(("removed", payload));
                }
                Event::Probe { member, probe } => self.probe(member, probe),
                Event::Changed { member, condition } => self.changed(member, condition),
            }
        }
    }

    fn index(&self, member: MemberId) -> usize {
        *self.names.get(&member).expect("it was added")
    }

    // The clients.

    fn begin_task(&mut self) {
        let busy = self.now / (60 * SEC) % 5 == 4;
        let mean = SEC / if busy { 85 } else { 45 };
        if self.now < self.plan.span {
            let gap = self.rng.u64(1..=2 * mean);
            self.after(gap, Happening::Task);
        }
        let rng = &mut self.rng;
        let (class, labels, tokens) = match rng.u32(..100) {
            0..60 => (0, 0, 0),
            60..85 => (1, 1, rng.u32(100..=1_000)),
            _ => (2, 2, 0),
        };
        let wait = match rng.u32(..50) {
            0 => rng.u64(200 * MS..SEC),
            _ => rng.u64(5 * SEC..60 * SEC),
        };
        let deadline = self.now + wait;
        let mut request = Request::new()
            .class(class)
            .labels(Labels::from_bits(labels))
            .cost(Cost {
                requests: 1,
                tokens,
            })
            .priority(match rng.u32(..100) {
                0..10 => 64,
                10..85 => 128,
                _ => 200,
            })
            .flow(rng.u64(..6))
            .deadline(tick(deadline));
        if rng.u32(..10) < 7 {
            request = request.key(rng.u64(..1_000));
        }
        if rng.u32(..10) < 3 {
            request = request.session(rng.u64(..300));
        }
        let mut pinned = false;
        if rng.u32(..100) == 0
            && let Place::In(member) = self.members[rng.usize(..MEMBERS)].place
        {
            request = request.pin(member);
            pinned = true;
        }
        let (half, most) = (span(SEC / 2), span(8 * SEC));
        let backoff = Backoff::new(half, most, rng.u64(..));
        let number = self.tasks.len() as u32;
        if rng.u32(..100) == 0 {
            let delay = rng.u64(..10 * SEC);
            self.after(delay, Happening::Cancel(number));
        }
        self.tasks.push(Task {
            request,
            tokens,
            class,
            labels: if pinned { 0 } else { labels },
            deadline,
            tries: RetryState::new(NonZeroU32::MAX, u32::MAX, backoff),
            stage: Stage::BackingOff,
            paid: false,
            cancelled: false,
        });
        self.sum.tasks += 1;
        self.budget.deposit(tick(self.now));
        self.attempt(number);
    }

    fn attempt(&mut self, number: u32) {
        let request = self.tasks[number as usize].request;
        match self.pool.acquire(tick(self.now), request) {
            Ok(Acquired::Granted(grant)) => self.call(number, grant),
            Ok(Acquired::Waiting(waiter)) => {
                self.note(("waits", number));
                self.sum.queued += 1;
                self.waiting.insert(waiter, number);
                self.tasks[number as usize].stage = Stage::Waiting(waiter);
            }
            Err(error) => {
                self.note(("refused", number));
                self.waiting_refused += 1;
                self.judge_refusal(number, error);
                self.end(number, End::Refused);
            }
        }
    }

    fn call(&mut self, number: u32, grant: Grant) {
        let (now, lease) = (self.now, grant.lease);
        let at = self.index(grant.member);
        self.note(("granted", number, at));
        self.judge_grant(number, at, grant);
        self.sum.counts.granted += 1;
        self.sum.farther += u64::from(at >= NEAREST);
        let known = &mut self.members[at];
        known.live += 1;
        known.granted += 1;
        known.last_grant = now;
        let epoch = known.half_open.then_some(known.epoch);
        if known.half_open {
            known.trying += 1;
            assert!(known.trying <= BREAKER_PROBES, "{at} is tried by too many");
        }
        assert!(known.live <= max_leases(at), "{at} holds too many leases");
        let rng = &mut self.rng;
        let sent = rng.u32(..1_000) >= 5;
        let lost = rng.u32(..1_000) < 2;
        let way = match rng.u32(..50) {
            0 => rng.u64(..2 * SEC),
            _ => rng.u64(MS..20 * MS),
        };
        let task = &mut self.tasks[number as usize];
        task.stage = Stage::Calling;
        let tokens = match task.tokens {
            0 => 0,
            most => rng.u32(1..=most),
        };
        let call = Call {
            task: number,
            at,
            granted: now,
            expires: now + TTL,
            answer: None,
            tokens,
            lost,
            sent,
            epoch,
        };
        assert!(self.calls.insert(lease, call).is_none(), "a lease twice");
        if sent {
            self.after(way, Happening::Arrival(lease));
        } else if !lost {
            self.after(way, Happening::Answer(lease));
        }
    }

    fn arrive(&mut self, lease: LeaseId) {
        let call = self.calls.get_mut(&lease).expect("no call is that slow");
        let (now, at) = (self.now, call.at);
        let known = &mut self.members[at];
        known.requests.see(now, 1);
        self.of_pool.see(now, 1);
        if let Some(group) = group(at) {
            self.of_groups[group].see(now, 1);
        }
        let class = self.tasks[call.task as usize].class;
        if let Some(tokens) = &mut known.tokens {
            tokens[class as usize].see(now, call.tokens.into());
        }
        let (mut end, mut answer) = known.upstream.take(now, &mut self.rng);
        if end > call.granted + CALL_TIMEOUT {
            (end, answer) = (call.granted + CALL_TIMEOUT, Answer::Broken);
        }
        call.answer = Some((end, answer));
        let (lost, expires) = (call.lost, call.expires);
        if !lost {
            self.at(end, Happening::Answer(lease));
            if end >= expires - SEC {
                self.at(expires - SEC, Happening::Renewal(lease));
            }
        }
    }

    fn renew(&mut self, lease: LeaseId) {
        let now = self.now;
        let Some(call) = self.calls.get_mut(&lease) else {
            return;
        };
        let renewed = self.pool.renew(tick(now), lease);
        assert_eq!(renewed, Ok(Some(tick(now + TTL))));
        call.expires = now + TTL;
        if call.answer.is_some_and(|(end, _)| end >= now + TTL - SEC) {
            self.after(TTL - SEC, Happening::Renewal(lease));
        }
    }

    fn answer(&mut self, lease: LeaseId) {
        let call = self.calls.get(&lease).copied().expect("its holder lives");
        let now = self.now;
        let known = &mut self.members[call.at];
        let counts = &mut self.sum.counts;
        let (outcome, setback) = match call.answer {
            None => {
                assert!(!call.sent);
                counts.not_sent += 1;
                (Outcome::NotSent, Some(AttemptFailure::MemberUnusable))
            }
            Some((_, Answer::Served)) => {
                counts.ok += 1;
                (Outcome::Ok, None)
            }
            Some((_, Answer::Broken)) => {
                counts.failed += 1;
                (Outcome::Failed, Some(AttemptFailure::Failed))
            }
            Some((_, Answer::TooMany { retry_after })) => {
                counts.throttled += 1;
                known.rests_until = known.rests_until.max(now + retry_after);
                known.excused = known.excused.max(known.rests_until);
                let until = tick(now + retry_after);
                (
                    Outcome::Throttled { until },
                    Some(AttemptFailure::Throttled),
                )
            }
        };
        self.note(("answered", call.task, setback.is_none()));
        self.close_call(lease);
        let release = Release::from(outcome).cost(Cost {
            requests: 1,
            tokens: call.tokens,
        });
        let released = self.pool.release(tick(now), lease, release);
        assert_eq!(released, Ok(()), "{call:?}");
        let cancelled = self.tasks[call.task as usize].cancelled;
        match setback {
            _ if cancelled => self.end(call.task, End::Cancelled),
            None => self.end(call.task, End::Served),
            Some(setback) => self.set_back(call.task, setback),
        }
    }

    fn close_call(&mut self, lease: LeaseId) -> Call {
        let call = self.calls.remove(&lease).expect("it is under way");
        let known = &mut self.members[call.at];
        known.live -= 1;
        if call.epoch == Some(known.epoch) {
            known.trying -= 1;
        }
        call
    }

    fn expired(&mut self, lease: LeaseId, member: MemberId) {
        let call = self.close_call(lease);
        assert!(call.lost, "the holder of {call:?} lives");
        assert_eq!(self.now, call.expires);
        assert_eq!(self.index(member), call.at);
        self.sum.counts.expired += 1;
        self.note(("expired", call.task));
        if self.tasks[call.task as usize].cancelled {
            self.end(call.task, End::Cancelled);
        } else {
            self.set_back(call.task, AttemptFailure::Failed);
        }
    }

    /// Has a task tried again later. A failure takes a retry out of the budget; while that is empty, the
    /// task goes on backing off.
    fn set_back(&mut self, number: u32, setback: AttemptFailure) {
        let now = self.now;
        let task = &mut self.tasks[number as usize];
        if now >= task.deadline {
            self.end(number, End::TimedOut);
            return;
        }
        let delay = task
            .tries
            .delay_after(setback)
            .expect("tries don't run out");
        task.paid = setback != AttemptFailure::Failed || self.budget.try_retry(tick(now)).is_ok();
        if setback == AttemptFailure::Failed && task.paid {
            self.sum.retries += 1;
        }
        task.stage = Stage::BackingOff;
        let wait = u64::try_from(delay.as_nanos()).expect("it is short").max(1);
        let at = (now + wait).min(task.deadline);
        self.at(at, Happening::Retry(number));
    }

    fn retry(&mut self, number: u32) {
        let task = &self.tasks[number as usize];
        if task.stage != Stage::BackingOff {
            return;
        }
        if self.now >= task.deadline {
            assert_eq!(self.now, task.deadline);
            self.end(number, End::TimedOut);
        } else if task.paid {
            self.attempt(number);
        } else {
            self.set_back(number, AttemptFailure::Failed);
        }
    }

    fn cancel(&mut self, number: u32) {
        let task = &mut self.tasks[number as usize];
        match task.stage {
            Stage::Ended => {}
            Stage::Calling => task.cancelled = true,
            Stage::BackingOff => self.end(number, End::Cancelled),
            Stage::Waiting(waiter) => {
                self.waiting.remove(&waiter);
                self.waiting_cancelled += 1;
                let cancelled = self.pool.cancel(tick(self.now), waiter);
                assert_eq!(cancelled, Ok(()), "{number} waited");
                self.end(number, End::Cancelled);
            }
        }
    }

    fn end(&mut self, number: u32, end: End) {
        let task = &mut self.tasks[number as usize];
        let before = core::mem::replace(&mut task.stage, Stage::Ended);
        assert_ne!(before, Stage::Ended, "{number} ended twice");
        let counter = match end {
            End::Served => &mut self.sum.served,
            End::Refused => &mut self.sum.refused,
            End::TimedOut => &mut self.sum.timed_out,
            End::Cancelled => &mut self.sum.cancelled,
        };
        *counter += 1;
        self.ended += 1;
        self.note((number, end));
    }

    // Probes, and what the pool makes of them.

    fn probe(&mut self, member: MemberId, probe: ProbeId) {
        let at = self.index(member);
        let known = &mut self.members[at];
        let lost = self.rng.u32(..100) == 0;
        if lost {
            known.bad_probes += 1;
            known.good_probes = 0;
            known.up_by = known.up_by.max(self.now + PROBE_TIMEOUT + RECOVERY);
            known.excused = known.excused.max(if known.down { known.up_by } else { 0 });
            return;
        }
        let took = known.upstream.probe(&mut self.rng);
        let up = took.is_some();
        let probed = Happening::ProbeResult { member, probe, up };
        self.after(took.unwrap_or(MS), probed);
    }

    fn probed(&mut self, member: MemberId, probe: ProbeId, up: bool) {
        let (now, at) = (tick(self.now), self.index(member));
        let known = &mut self.members[at];
        let depth = Some(known.upstream.depth(self.now));
        let latency = None;
        let answer = if up {
            ProbeResult::Up { depth, latency }
        } else {
            ProbeResult::Down
        };
        let there = [Place::In(member), Place::Leaving(member)].contains(&known.place);
        if there {
            let (one, other) = (&mut known.good_probes, &mut known.bad_probes);
            let (counts, ends) = if up { (one, other) } else { (other, one) };
            *counts += 1;
            *ends = 0;
        }
        let taken = self.pool.handle_probe(now, probe, answer);
        assert_eq!(taken.is_ok(), there, "the probe of {at}");
    }

    fn changed(&mut self, member: MemberId, condition: HealthChange) {
        let (now, at) = (self.now, self.index(member));
        let known = &mut self.members[at];
        match condition {
            HealthChange::Down => {
                assert!(known.bad_probes >= FALL, "{at} answers its probes");
                assert!(!known.down);
                known.down = true;
                self.sum.downs += 1;
            }
            HealthChange::Up => {
                assert!(known.good_probes >= RISE, "{at} doesn't answer its probes");
                assert!(known.down);
                known.down = false;
            }
            HealthChange::Ejected { until } => {
                known.ejected_until = until.as_nanos();
                assert!(known.ejected_until <= now + EJECTION_CAP);
                known.excused = known.excused.max(known.ejected_until);
                self.sum.ejections += 1;
            }
            HealthChange::BreakerOpen { until } => {
                known.open_until = until.as_nanos();
                assert!(known.open_until <= now + BREAKER_CAP);
                known.excused = known.excused.max(known.open_until);
                known.half_open = true;
                known.epoch += 1;
                known.trying = 0;
                self.sum.trips += 1;
            }
            HealthChange::BreakerClosed => {
                assert!(known.half_open && known.open_until <= now);
                known.half_open = false;
                known.epoch += 1;
                known.trying = 0;
            }
        }
        let in_panic = self.is_panic();
        if in_panic && !core::mem::replace(&mut self.in_panic, in_panic) {
            self.sum.panics += 1;
        }
        self.in_panic = in_panic;
        self.note(("changed", at, core::mem::discriminant(&condition)));
    }

    fn finish(mut self) -> Summary {
        self.compare();
        self.pool.close(tick(self.now));
        self.hear();
        let stats = self.pool.stats();
        assert!(stats.members.iter().all(|member| member.in_flight == 0));
        let sum = &mut self.sum;
        let ended = sum.served + sum.refused + sum.timed_out + sum.cancelled;
        assert_eq!(sum.tasks, ended, "a task is lost");
        let seconds = self.now / SEC + 1;
        let retries = u64::from(BUDGET_RESERVE)
            + sum.tasks * u64::from(BUDGET_PERMILLE) / 1_000
            + seconds * u64::from(BUDGET_PER_SECOND);
        assert!(sum.retries <= retries, "{} of {retries}", sum.retries);
        assert!(
            sum.wakes <= 2 * sum.events,
            "{} wakes for {} events",
            sum.wakes,
            sum.events
        );
        let of_members = self.members.iter().map(|known| &known.requests);
        let judges = of_members.chain(&self.of_groups).chain([&self.of_pool]);
        sum.full = judges.filter(|judge| judge.was_full()).count();
        sum.trace = self.trace.finish();
        self.sum
    }
}
