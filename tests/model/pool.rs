//! The pool against an oracle of plain vectors that looks at everything for each question.
//!
//! The oracle composes by itself what the pool composes: eligibility, the order of the queue, and what is due.
//! It uses the machines that have oracles of their own (breakers, probes, outliers, affinity, policies), and
//! counts limits by brute force. A policy that depends on the members' load alone must choose as the oracle
//! does; under the others (by turn or by chance) any ready member of the lowest tier is right.

mod case;
mod commands;
mod compare;
mod oracle;
mod owner;
pub mod service;

pub use case::{
    Ask, Case, Change, Choice, End, FlowSetup, Found, Management, MemberSetup, Op, Own, Watch,
};

use crate::limits;
use case::{IN_RANGE, machine_of, nanos};
use core::num::NonZeroU32;
use leasehold_core::health::ProbeNumber;
use leasehold_core::limit::Limit;
use leasehold_core::pool::{
    self, GroupId, LeaseId, MemberId, Pool, PoolConfig, Request, ShareBy, WaiterId,
};
use leasehold_core::time::Tick;
use oracle::{Oracle, OracleEvent};
use std::collections::VecDeque;

const CLASSES: u32 = 2;

/// The machine, the oracle, and the oracle's names of the machine's ids.
struct Pair {
    machine: Pool<usize>,
    oracle: Oracle,
    groups: Vec<GroupId>,
    members: Vec<MemberId>,
    leases: Vec<LeaseId>,
    waiters: Vec<WaiterId>,
    /// Probes, with their member and the oracle's name.
    probes: Vec<(pool::ProbeId, usize, Option<ProbeNumber>)>,
    asked: Option<(Ask, Option<usize>)>,
    config: PoolConfig,
    /// Leases from before a restart, in the order of their expiries.
    orphans: VecDeque<usize>,
    /// Events of the machine that are yet to be compared.
    told: Vec<pool::Event<usize>>,
    /// Events that machine and oracle agree on, until a driver takes them.
    agreed: Vec<OracleEvent>,
    /// The fence of the latest grant.
    fence: u64,
}

/// The settings of a case's pool.
pub(crate) fn config(case: &Case) -> PoolConfig {
    let ttl = Some(u64::from(case.ttl % 64)).filter(|ttl| *ttl > 0);
    let max_lanes = NonZeroU32::MIN.saturating_add(u32::from(case.max_lanes % 6));
    let mut config = PoolConfig::builder(case.policy.policy())
        .max_waiters(u32::from(case.max_waiters % 16))
        .max_lanes(max_lanes)
        .limits(machine_of(case.shared, None))
        .share_by(match case.share_by_tokens {
            true => ShareBy::Tokens,
            false => ShareBy::Requests,
        })
        .panic_threshold(case.watch.panic());
    if let Some(flow) = case.each_flow {
        config = config.each_flow(flow.config());
    }
    if let Some(ttl) = ttl {
        config = config.lease_ttl(nanos(ttl));
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
        config = config.affinity(capacity, ttl);
    }
    if case.policy == Choice::LeastTime {
        config = config.weigh_by_time();
    }
    config.build().expect(IN_RANGE)
}

/// Adds the groups of a case, unless neither has a limit, so that pools without groups are tried too.
fn add_groups(pool: &mut Pool<usize>, case: &Case) -> Vec<GroupId> {
    if case.groups.iter().all(Option::is_none) {
        return Vec::new();
    }
    let limits = case.groups.map(|setup| machine_of(setup, None));
    limits.map(|limits| pool.add_group(limits)).to_vec()
}

/// The pool of a case with its first members.
pub(crate) fn pool(case: &Case) -> Pool<usize> {
    let mut pool = Pool::new(config(case));
    let groups = add_groups(&mut pool, case);
    for (name, setup) in case.members.iter().take(4).enumerate() {
        let labels = case::labels(&mut pool, setup.labels());
        pool.add(Tick::ZERO, setup.member(name, &groups, labels))
            .expect("a small pool takes members");
    }
    pool
}

/// The request of a pool that a case asks for.
pub(crate) fn request(
    pool: &mut Pool<usize>,
    ask: Ask,
    pin: Option<MemberId>,
    deadline: Option<u64>,
) -> Request {
    let mut request = Request::new()
        .class(ask.class())
        .cost(ask.cost())
        .priority(ask.priority())
        .flow(ask.flow())
        .labels(case::labels(pool, ask.labels()));
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
        request = request.pin(pin);
    }
    if let Some(ttl) = ask.ttl() {
        request = request.ttl(nanos(ttl));
    }
    request
}

/// Holds a pool to its oracle: the same answers, events, deadlines, reasons and figures after each
/// operation; and every limit to its promise.
///
/// # Panics
/// Where they differ.
pub fn run(case: &Case) {
    let mut pair = Pair::new(case);
    let mut now = 0;
    for op in &case.ops {
        now = pair.apply(*op, now);
        pair.compare();
        pair.agreed.clear();
    }
    for flow in pair.oracle.flows.values().filter(|flow| flow.judged) {
        if let (Some(limit), Some(setup)) = (&flow.owner.requests, flow.setup.limit) {
            let machine = setup.anchored().machine();
            limit.judge(|span| machine.worst_case(span));
        }
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
    let judged = pair.oracle.groups_judged.into_iter().chain([true]);
    let setups = case.groups.into_iter().chain([case.shared]);
    for ((owner, setup), judged) in owners.zip(setups).zip(judged) {
        if let (Some(limit), Some(setup), true) = (&owner.requests, setup, judged) {
            promise(limit, setup);
        }
    }
}

impl Pair {
    /// The pair of a case, with its first members.
    fn new(case: &Case) -> Self {
        let mut machine = Pool::new(config(case));
        let groups = add_groups(&mut machine, case);
        let mut pair = Self {
            machine,
            oracle: Oracle::new(case),
            groups,
            members: Vec::new(),
            leases: Vec::new(),
            waiters: Vec::new(),
            probes: Vec::new(),
            asked: None,
            config: config(case),
            orphans: VecDeque::new(),
            told: Vec::new(),
            agreed: Vec::new(),
            fence: 0,
        };
        for setup in case.members.iter().take(4) {
            pair.add(0, *setup);
            pair.compare();
        }
        pair
    }

    fn apply(&mut self, op: Op, now: u64) -> u64 {
        let tick = Tick::from_nanos(now);
        match op {
            Op::Acquire(ask) => {
                self.acquire(now, ask);
            }
            Op::Release(which, end, tokens, latency) => {
                self.release(now, which, end, tokens, latency)
            }
            Op::Arrive(which) => self.arrive(now, which),
            Op::Renew(which) => self.renew(now, which),
            Op::Cancel(which) => self.cancel(now, which),
            Op::Add(setup) if self.members.len() < 8 => self.add(now, setup),
            Op::Add(_) => {}
            Op::Manage(which, what) => self.manage(now, which, what),
            Op::Probe(which, found) => self.answer(now, which, found),
            Op::Depth(which, depth) => self.observe_depth(now, which, depth),
            Op::Estimate(ask) => self.estimate(now, ask),
            Op::Place(which) => self.place(now, which),
            Op::SetFlow(flow, setup) => self.set_flow(now, flow, Some(setup)),
            Op::ResetFlow(flow) => self.set_flow(now, flow, None),
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
            Op::Close(0) => self.close(now),
            Op::Close(_) => {}
            Op::Foreign => self.use_foreign_ids(tick),
            Op::Restart(pause) => {
                let now = self.oracle.now.max(now) + u64::from(pause % 16);
                self.restart(now);
                return now;
            }
        }
        now
    }
}
