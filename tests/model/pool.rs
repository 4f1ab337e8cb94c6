//! The pool against an oracle of plain vectors that looks at everything for each question.

use crate::limits;
use arbitrary::Arbitrary;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::balance::Policy;
use leasehold_core::limit::Limit;
use leasehold_core::pool::{
    self, AcquireError, Acquired, Config, Grant, LeaseId, Member, MemberId, Outcome, Request,
    WaiterId,
};
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;

/// A pool and what is done with it.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// Chooses least used instead of fifo.
    pub least_used: bool,
    /// Ticks that a lease lives, taken modulo 64; 0 for ever.
    pub ttl: u8,
    /// How many may wait, taken modulo 16.
    pub max_waiters: u8,
    /// The members it begins with; only the first four are taken.
    pub members: Vec<MemberSetup>,
    /// What is done, in order.
    pub ops: Vec<Op>,
}

/// A member to be added.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct MemberSetup {
    /// Leases at once, taken modulo 4; 0 for any number.
    pub max_leases: u8,
    /// Its limit.
    pub limit: Option<limits::Setup>,
}

/// One operation. Whatever names a member, lease or waiter also names those that are gone, so that
/// stale handles are used too.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Op {
    /// Asks for a lease, with a deadline at most 63 ticks from now.
    #[proptest(weight = 12)]
    Acquire(Option<u8>),
    /// Gives one of the latest 16 leases back.
    #[proptest(weight = 12)]
    Release(u8, End),
    /// Puts off an expiry.
    Renew(u8),
    /// Leaves the line, one of the latest 16.
    #[proptest(weight = 2)]
    Cancel(u8),
    /// Adds a member.
    Add(MemberSetup),
    /// Does something with a member.
    Manage(u8, Management),
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
}

/// How a lease is given back.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum End {
    /// Served.
    Ok,
    /// Failed.
    Failed,
    /// Turned away for at most 63 ticks.
    Throttled(u8),
    /// Never used.
    NotSent,
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
    max_leases: u32,
    limit: Option<limits::Oracle>,
    state: State,
    in_flight: u32,
    used: u64,
    stamp: u64,
    rests_until: u64,
    calls: u64,
}

#[derive(Clone, Debug)]
struct OracleLease {
    member: usize,
    limit_use: Option<usize>,
    expires: Option<(u64, u64)>,
    live: bool,
}

#[derive(Clone, Debug)]
struct OracleWaiter {
    since: u64,
    deadline: Option<u64>,
    waiting: bool,
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
    Expired(usize),
    Drained(usize),
    Removed(usize),
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
    least_used: bool,
    ttl: Option<u64>,
    max_waiters: usize,
    now: u64,
    /// Up to when time has been replayed.
    as_of: u64,
    closed: bool,
    members: Vec<OracleMember>,
    leases: Vec<OracleLease>,
    waiters: Vec<OracleWaiter>,
    events: Vec<OracleEvent>,
    order: u64,
    level: u64,
    tally: Tally,
}

impl Oracle {
    fn stamp(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    fn add(&mut self, now: u64, setup: MemberSetup) {
        self.advance(now);
        let stamp = self.stamp();
        self.members.push(OracleMember {
            max_leases: setup.max_leases().unwrap_or(u32::MAX),
            limit: setup.limit.map(|limit| limit.anchored().oracle()),
            state: State::Enabled,
            in_flight: 0,
            used: self.level,
            stamp,
            rests_until: 0,
            calls: 0,
        });
        self.serve();
    }

    fn acquire(&mut self, now: u64, deadline: Option<u64>) -> Answer {
        self.advance(now);
        let answer = self.answer(deadline);
        if matches!(answer, Answer::Refused(_)) {
            self.tally.refused += 1;
        }
        answer
    }

    fn answer(&mut self, deadline: Option<u64>) -> Answer {
        if self.closed {
            return Answer::Refused(AcquireError::Closed);
        }
        if let Some(grant) = self.grant(self.now) {
            return Answer::Granted(grant);
        }
        if let Some(deadline) = deadline {
            if deadline <= self.now {
                return Answer::Refused(AcquireError::NothingFree);
            }
            let openings: Vec<_> = (0..self.members.len())
                .map(|one| self.opening(one))
                .collect();
            let any_time = openings.contains(&Opening::AnyTime);
            let first = self.first_opening();
            if let Some(at) = first.filter(|at| *at >= deadline && !any_time) {
                let at = Tick::from_nanos(at);
                return Answer::Refused(AcquireError::DeadlineTooSoon { at });
            }
        }
        if self.waiters.iter().filter(|one| one.waiting).count() >= self.max_waiters {
            return Answer::Refused(AcquireError::QueueFull);
        }
        self.waiters.push(OracleWaiter {
            since: self.now,
            deadline,
            waiting: true,
        });
        Answer::Waiting(self.waiters.len() - 1)
    }

    fn release(&mut self, now: u64, lease: usize, end: End) -> bool {
        self.advance(now);
        let live = self.leases[lease].live;
        if live {
            self.tally.released += 1;
            self.end(lease, end);
            self.serve();
        }
        live
    }

    fn renew(&mut self, now: u64, lease: usize) -> bool {
        self.advance(now);
        let live = self.leases[lease].live;
        if live {
            self.set_expiry(lease);
        }
        live
    }

    fn cancel(&mut self, now: u64, waiter: usize) -> bool {
        self.advance(now);
        let waited = core::mem::take(&mut self.waiters[waiter].waiting);
        self.tally.cancelled += u64::from(waited);
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
        };
        self.members[member].state = state;
        if !matches!(what, Management::Remove) {
            self.serve();
        }
        if idle && state == State::Draining {
            self.events.push(OracleEvent::Drained(member));
        }
        (true, leaves)
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
    }

    /// Replays time from one thing that is due to the next.
    fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
        while let Some(due) = self.poll_timeout().map(Tick::as_nanos)
            && due <= self.now
        {
            self.as_of = self.as_of.max(due);
            self.replay();
        }
        self.as_of = self.now;
        self.replay();
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
            self.end(lease, End::Failed);
        }
        let waiting = self
            .waiters
            .iter()
            .enumerate()
            .filter(|(_, one)| one.waiting);
        let mut due: Vec<_> = waiting
            .filter_map(|(name, one)| one.deadline.map(|deadline| (deadline, name)))
            .filter(|(tick, _)| *tick <= self.as_of)
            .collect();
        due.sort_unstable();
        for (_, waiter) in due {
            self.tally.timed_out += 1;
            self.waiters[waiter].waiting = false;
            self.events.push(OracleEvent::TimedOut(waiter));
        }
        self.serve();
    }

    fn serve(&mut self) {
        while let Some(waiter) = self.waiters.iter().position(|one| one.waiting) {
            let Some(grant) = self.grant(self.waiters[waiter].since) else {
                return;
            };
            self.waiters[waiter].waiting = false;
            self.events.push(OracleEvent::Granted(waiter, grant));
        }
    }

    fn grant(&mut self, since: u64) -> Option<OracleGrant> {
        let ready = (0..self.members.len()).filter(|one| self.opening(*one) == Opening::Now);
        let member = ready.min_by_key(|one| {
            let member = &self.members[*one];
            let first = if self.least_used {
                member.used
            } else {
                u64::from(member.in_flight > 0)
            };
            (first, member.stamp)
        })?;
        let stamp = self.stamp();
        let now = self.now;
        let chosen = &mut self.members[member];
        self.level = chosen.used;
        chosen.used += 1;
        chosen.calls += 1;
        chosen.in_flight += 1;
        chosen.stamp = stamp;
        assert!(
            chosen.in_flight <= chosen.max_leases,
            "two leases on one permit"
        );
        let limit_use = chosen.limit.as_mut().map(|limit| {
            limit.try_acquire(now, 1).expect("the member is ready");
            limit.uses.len() - 1
        });
        self.leases.push(OracleLease {
            member,
            limit_use,
            expires: None,
            live: true,
        });
        let lease = self.leases.len() - 1;
        self.set_expiry(lease);
        self.tally.granted += 1;
        self.tally.waited += now - since;
        Some(OracleGrant {
            lease,
            member,
            waited: now - since,
            expires: self.leases[lease].expires.map(|(tick, _)| tick),
        })
    }

    fn set_expiry(&mut self, lease: usize) {
        let stamp = self.stamp();
        let expires = self.ttl.map(|ttl| (self.now.saturating_add(ttl), stamp));
        self.leases[lease].expires = expires;
    }

    fn end(&mut self, lease: usize, end: End) {
        let stamp = self.stamp();
        let now = self.now;
        self.leases[lease].live = false;
        let OracleLease {
            member: name,
            limit_use,
            ..
        } = self.leases[lease];
        let member = &mut self.members[name];
        member.in_flight -= 1;
        member.stamp = stamp;
        let mut actual = 1;
        match end {
            End::Ok | End::Failed => {}
            End::Throttled(pause) => {
                let until = now.saturating_add(u64::from(pause % 64));
                member.rests_until = member.rests_until.max(until);
            }
            End::NotSent => {
                actual = 0;
                member.used -= 1;
                member.calls -= 1;
            }
        }
        if let (Some(limit), Some(limit_use)) = (&mut member.limit, limit_use) {
            limit.settle(now, limit_use, actual);
        }
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

    fn opening(&self, member: usize) -> Opening {
        let member = &self.members[member];
        if member.state != State::Enabled {
            return Opening::Never;
        }
        if member.in_flight >= member.max_leases {
            return Opening::AnyTime;
        }
        let from = self.as_of.max(member.rests_until);
        let at = match &member.limit {
            None => Some(from),
            Some(limit) => limit.earliest(from, 1),
        };
        match (at, &member.limit) {
            (Some(at), _) if at <= self.as_of => Opening::Now,
            (Some(at), _) => Opening::At(at),
            (None, Some(limit)) if limit.waits_for_settlement(1) => Opening::AnyTime,
            (None, _) => Opening::Never,
        }
    }

    fn first_opening(&self) -> Option<u64> {
        let openings = (0..self.members.len()).map(|one| self.opening(one));
        openings
            .filter_map(|opening| match opening {
                Opening::At(at) => Some(at),
                Opening::Now | Opening::AnyTime | Opening::Never => None,
            })
            .min()
    }

    fn poll_timeout(&self) -> Option<Tick> {
        let live = self.leases.iter().filter(|one| one.live);
        let expiries = live.filter_map(|one| one.expires.map(|(tick, _)| tick));
        let waiting = || self.waiters.iter().filter(|one| one.waiting);
        let deadlines = waiting().filter_map(|one| one.deadline);
        let opening = self.first_opening().filter(|_| waiting().next().is_some());
        let first = expiries.chain(deadlines).chain(opening).min();
        first.map(Tick::from_nanos)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    Now,
    At(u64),
    AnyTime,
    Never,
}

impl MemberSetup {
    fn max_leases(self) -> Option<u32> {
        Some(u32::from(self.max_leases % 4)).filter(|max| *max > 0)
    }

    fn member(self, name: usize) -> Member<usize> {
        let mut member = Member::new(name);
        if let Some(max) = self.max_leases().and_then(NonZeroU32::new) {
            member = member.max_leases(max);
        }
        match self.limit {
            Some(limit) => member.limit(limit.anchored().machine()),
            None => member,
        }
    }
}

/// The machine, the oracle, and which handle means what.
struct Pair {
    machine: pool::Pool<usize>,
    oracle: Oracle,
    members: Vec<MemberId>,
    setups: Vec<MemberSetup>,
    leases: Vec<LeaseId>,
    waiters: Vec<WaiterId>,
}

/// Holds a pool to its oracle: the same answers, events, deadlines and figures after each operation;
/// and every member's limit to its promise.
///
/// # Panics
/// Where they differ.
pub fn run(case: &Case) {
    let policy = if case.least_used {
        Policy::LeastUsed
    } else {
        Policy::Fifo
    };
    let ttl = Some(u64::from(case.ttl % 64)).filter(|ttl| *ttl > 0);
    let max_waiters = u32::from(case.max_waiters % 16);
    let mut config = Config::new(policy).max_waiters(max_waiters);
    if let Some(ttl) = ttl {
        config = config
            .lease_ttl(Duration::from_nanos(ttl))
            .expect("the time to live is above zero");
    }
    let mut pair = Pair {
        machine: pool::Pool::new(config),
        oracle: Oracle {
            least_used: case.least_used,
            ttl,
            max_waiters: max_waiters as usize,
            now: 0,
            as_of: 0,
            closed: false,
            members: Vec::new(),
            leases: Vec::new(),
            waiters: Vec::new(),
            events: Vec::new(),
            order: 0,
            level: 0,
            tally: Tally::default(),
        },
        members: Vec::new(),
        setups: Vec::new(),
        leases: Vec::new(),
        waiters: Vec::new(),
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
    for (member, setup) in pair.oracle.members.iter().zip(&pair.setups) {
        if let (Some(limit), Some(setup)) = (&member.limit, setup.limit) {
            let machine = setup.anchored().machine();
            limit.judge(|span| machine.worst_case(span));
        }
    }
}

impl Pair {
    fn apply(&mut self, op: Op, now: u64) -> u64 {
        let tick = Tick::from_nanos(now);
        match op {
            Op::Acquire(deadline) => self.acquire(now, deadline),
            Op::Release(which, end) => {
                if let Some(lease) = pick(which, self.leases.len()) {
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
                    let got = self.machine.release(tick, self.leases[lease], outcome);
                    assert_eq!(got.is_ok(), self.oracle.release(now, lease, end));
                }
            }
            Op::Renew(which) => {
                if let Some(lease) = pick(which, self.leases.len()) {
                    let got = self.machine.renew(tick, self.leases[lease]);
                    let live = self.oracle.renew(now, lease);
                    let expires = self.oracle.leases[lease].expires;
                    let expected = expires.map(|(tick, _)| Tick::from_nanos(tick));
                    assert_eq!(got.ok(), live.then_some(expected));
                }
            }
            Op::Cancel(which) => {
                if let Some(waiter) = pick(which, self.waiters.len()) {
                    let got = self.machine.cancel(tick, self.waiters[waiter]);
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
            Op::Advance(ticks) => return now.saturating_add(u64::from(ticks % 16)),
            Op::Back(ticks) => return now.saturating_sub(ticks.into()),
            Op::Leap(ticks) => return now.saturating_add(ticks.into()),
            Op::HandleTimeout => {
                self.machine.handle_timeout(tick);
                self.oracle.advance(now);
            }
            Op::FollowTimeout => {
                if let Some(due) = self.machine.poll_timeout() {
                    self.machine.handle_timeout(due);
                    self.oracle.advance(due.as_nanos());
                    return now.max(due.as_nanos());
                }
            }
            Op::Close(sure) if sure > 0 => {}
            Op::Close(_) => {
                self.machine.close(tick);
                self.oracle.close(now);
            }
        }
        now
    }

    fn add(&mut self, now: u64, setup: MemberSetup) {
        let member = setup.member(self.members.len());
        let added = self.machine.add(Tick::from_nanos(now), member);
        self.members
            .push(added.expect("a small pool takes members"));
        self.setups.push(setup);
        self.oracle.add(now, setup);
    }

    fn acquire(&mut self, now: u64, deadline: Option<u8>) {
        let deadline = deadline.map(|ticks| now.saturating_add(u64::from(ticks % 64)));
        let mut request = Request::new();
        if let Some(deadline) = deadline {
            request = request.deadline(Tick::from_nanos(deadline));
        }
        let got = self.machine.acquire(Tick::from_nanos(now), request);
        let expected = self.oracle.acquire(now, deadline);
        // What became due first was granted first.
        self.compare_events();
        let got = match got {
            Ok(Acquired::Granted(grant)) => Answer::Granted(self.grant(grant)),
            Ok(Acquired::Waiting(waiter)) => {
                self.waiters.push(waiter);
                Answer::Waiting(self.waiters.len() - 1)
            }
            Err(error) => Answer::Refused(error),
        };
        assert_eq!(got, expected);
    }

    fn manage(&mut self, now: u64, member: usize, what: Management) {
        let (tick, id) = (Tick::from_nanos(now), self.members[member]);
        let (there, leaves) = self.oracle.manage(now, member, what);
        match what {
            Management::Remove => {
                let expected = there.then_some(leaves.then_some(member));
                assert_eq!(self.machine.remove(tick, id).ok(), expected);
            }
            Management::Drain => assert_eq!(self.machine.drain(tick, id).is_ok(), there),
            Management::Disable => assert_eq!(self.machine.disable(tick, id).is_ok(), there),
            Management::Enable => assert_eq!(self.machine.enable(tick, id).is_ok(), there),
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

    fn compare_events(&mut self) {
        let mut got = Vec::new();
        while let Some(event) = self.machine.poll_event() {
            got.push(match event {
                pool::Event::Granted { waiter, grant } => {
                    OracleEvent::Granted(self.waiter(waiter), self.grant(grant))
                }
                pool::Event::TimedOut { waiter } => OracleEvent::TimedOut(self.waiter(waiter)),
                pool::Event::Closed { waiter } => OracleEvent::Closed(self.waiter(waiter)),
                pool::Event::Expired { lease, member } => {
                    let name = self.leases.iter().position(|one| *one == lease);
                    let name = name.expect("every lease has a name");
                    assert_eq!(self.member(member), self.oracle.leases[name].member);
                    OracleEvent::Expired(name)
                }
                pool::Event::Drained { member } => OracleEvent::Drained(self.member(member)),
                pool::Event::Removed { member, payload } => {
                    assert_eq!(self.member(member), payload);
                    OracleEvent::Removed(payload)
                }
            });
        }
        assert_eq!(got, core::mem::take(&mut self.oracle.events));
    }

    fn compare(&mut self) {
        self.compare_events();
        assert_eq!(self.machine.poll_timeout(), self.oracle.poll_timeout());
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
        let waiting = self.oracle.waiters.iter().filter(|one| one.waiting).count();
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

/// One of the latest 16.
fn pick(which: u8, among: usize) -> Option<usize> {
    let back = usize::from(which % 16).checked_rem(among)?;
    Some(among - 1 - back)
}
