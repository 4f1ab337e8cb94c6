//! The simulated world: a pool of forty members, its clients and its operators, as a discrete-event loop.
//!
//! Invariant: the world keeps its own count of everything, and panics where the pool's differs or a
//! promise is broken.

mod calls;
mod checks;
mod faults;
mod health;
mod member;
mod operators;
mod tasks;

use crate::schedule::{Nanos, SEC, Schedule};
use crate::settings::{
    BUDGET_PER_SECOND, BUDGET_PERMILLE, BUDGET_RESERVE, GROUP_LIMIT, GROUPS, MEMBERS, POOL_LIMIT,
    Plan, WINDOW, config, log, tick,
};
use crate::window::WindowOracle;
use calls::Call;
use core::hash::{Hash, Hasher};
use fastrand::Rng;
use leasehold_core::limit::{LimitSet, Unit};
use leasehold_core::pool::stats::LeaseCounts;
use leasehold_core::pool::{Event, GroupId, LeaseId, MemberId, Pool, ProbeId, WaiterId};
use leasehold_core::retry::RetryBudget;
use leasehold_core::time::Tick;
use member::{Membership, SimMember};
use std::collections::BTreeMap;
use std::hash::DefaultHasher;
use tasks::{End, Task};

/// The figures of one run. Two runs of one plan have equal summaries.
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
    pub(crate) timeouts: u64,
    /// The longest that an eligible member of tier 0 went without a grant.
    pub(crate) longest_idle: Nanos,
    pub(crate) panics: u64,
    pub(crate) downs: u64,
    pub(crate) breaker_trips: u64,
    pub(crate) ejections: u64,
    pub(crate) tier_1_grants: u64,
    /// Limits that were reached exactly.
    pub(crate) full_limits: usize,
    /// A hash of the trace: everything that happened, in order.
    pub(crate) trace: u64,
}

/// Plays a plan to its end.
pub(crate) fn play(plan: Plan) -> Summary {
    let mut world = World::new(plan);
    world.play();
    world.finish()
}

/// Something that happens in the world at its scheduled time.
#[derive(Clone, Copy, Debug)]
enum SimEvent {
    TaskArrival,
    /// A call reaches its upstream.
    CallArrival(LeaseId),
    /// A client receives the answer to its call, or gives the call up.
    Answer(LeaseId),
    Renewal(LeaseId),
    /// A task's backoff ends.
    Retry(u32),
    Cancel(u32),
    ProbeResult {
        member: MemberId,
        probe: ProbeId,
        up: bool,
    },
    /// An upstream gets a fault.
    Fault,
    Flap(usize),
    FaultEnd(usize),
    /// Three of four upstreams crash at once.
    Outage,
    /// An operator changes a member.
    Operate,
    /// The operator undoes the change.
    Restore(usize),
    Check,
}

struct World {
    plan: Plan,
    rng: Rng,
    now: Nanos,
    schedule: Schedule<SimEvent>,
    pool: Pool<usize>,
    groups: Vec<GroupId>,
    indices: BTreeMap<MemberId, usize>,
    members: Vec<SimMember>,
    /// Arrivals by group.
    group_arrivals: Vec<WindowOracle>,
    pool_arrivals: WindowOracle,
    tasks: Vec<Task>,
    ended_tasks: usize,
    calls: BTreeMap<LeaseId, Call>,
    waiting: BTreeMap<WaiterId, u32>,
    queue: QueueCounts,
    budget: RetryBudget,
    in_panic: bool,
    trace: DefaultHasher,
    sum: Summary,
}

/// Requests that left the pool's queue, by reason, and requests that it refused.
#[derive(Default)]
struct QueueCounts {
    granted: u64,
    cancelled: u64,
    timed_out: u64,
    pinned_member_removed: u64,
    /// Requests refused at once.
    refused: u64,
}

impl World {
    fn new(plan: Plan) -> Self {
        let mut pool = Pool::new(config(plan));
        let group = || LimitSet::new().with(Unit::Requests, log(GROUP_LIMIT));
        let groups = (0..GROUPS).map(|_| pool.add_group(group())).collect();
        let mut world = Self {
            plan,
            rng: Rng::with_seed(plan.seed),
            now: 0,
            schedule: Schedule::new(),
            pool,
            groups,
            indices: BTreeMap::new(),
            members: (0..MEMBERS).map(SimMember::new).collect(),
            group_arrivals: vec![WindowOracle::new("a group", GROUP_LIMIT, WINDOW); GROUPS],
            pool_arrivals: WindowOracle::new("the pool", POOL_LIMIT, WINDOW),
            tasks: Vec::new(),
            ended_tasks: 0,
            calls: BTreeMap::new(),
            waiting: BTreeMap::new(),
            queue: QueueCounts::default(),
            budget: RetryBudget::new(BUDGET_PERMILLE, BUDGET_RESERVE).per_second(BUDGET_PER_SECOND),
            in_panic: false,
            trace: DefaultHasher::new(),
            sum: Summary::default(),
        };
        for index in 0..MEMBERS {
            world.add_member(index);
        }
        world.at(0, SimEvent::TaskArrival);
        world.at(15 * SEC, SimEvent::Fault);
        world.at(20 * SEC, SimEvent::Operate);
        world.at(plan.length / 2, SimEvent::Outage);
        world.at(SEC, SimEvent::Check);
        world
    }

    /// Runs until all tasks have ended. The pool's timeouts go before events of the same time.
    fn play(&mut self) {
        loop {
            let next = self.schedule.next_at().expect("a check is always due");
            let due = self.pool.poll_timeout().map(Tick::as_nanos);
            if let Some(due) = due.filter(|due| *due <= next) {
                self.handle_timeout(due);
                continue;
            }
            let (now, event) = self.schedule.pop().expect("it was there");
            self.now = now;
            self.sum.events += 1;
            self.handle(event);
            self.drain_pool_events();
            let over = self.now > self.plan.length && self.ended_tasks == self.tasks.len();
            if over && self.calls.is_empty() {
                return;
            }
        }
    }

    fn handle_timeout(&mut self, due: Nanos) {
        assert!(
            due > self.now || self.sum.events == 0,
            "a timeout is due again"
        );
        self.now = due;
        self.sum.timeouts += 1;
        self.pool.handle_timeout(tick(due));
        let next = self.pool.poll_timeout().map(Tick::as_nanos);
        assert!(next.is_none_or(|next| next > due), "{next:?} at {due}");
        self.drain_pool_events();
    }

    fn handle(&mut self, event: SimEvent) {
        match event {
            SimEvent::TaskArrival => self.begin_task(),
            SimEvent::CallArrival(lease) => self.arrive(lease),
            SimEvent::Answer(lease) => self.answer(lease),
            SimEvent::Renewal(lease) => self.renew(lease),
            SimEvent::Retry(task) => self.retry(task),
            SimEvent::Cancel(task) => self.cancel(task),
            SimEvent::ProbeResult { member, probe, up } => self.probe_result(member, probe, up),
            SimEvent::Fault => self.start_fault(),
            SimEvent::Flap(index) => self.flap(index),
            SimEvent::FaultEnd(index) => self.end_fault(index),
            SimEvent::Outage => self.start_outage(),
            SimEvent::Operate => self.operate(),
            SimEvent::Restore(index) => self.restore(index),
            SimEvent::Check => self.check(),
        }
    }

    fn drain_pool_events(&mut self) {
        while let Some(event) = self.pool.poll_event() {
            match event {
                Event::Granted { waiter, grant } => {
                    let task = self.leave_queue(waiter);
                    self.queue.granted += 1;
                    let deadline = self.tasks[task as usize].deadline;
                    assert!(self.now < deadline, "granted after its deadline");
                    self.start_call(task, grant);
                }
                Event::TimedOut { waiter, .. } => {
                    let task = self.leave_queue(waiter);
                    self.queue.timed_out += 1;
                    assert_eq!(self.now, self.tasks[task as usize].deadline);
                    self.end(task, End::TimedOut);
                }
                Event::PinnedMemberRemoved { waiter } => {
                    let task = self.leave_queue(waiter);
                    self.queue.refused += 1;
                    self.queue.pinned_member_removed += 1;
                    self.end(task, End::Refused);
                }
                Event::Closed { waiter } => panic!("{waiter:?} waited after all tasks had ended"),
                Event::Expired { lease, member } => self.expire(lease, member),
                Event::Drained { member } => {
                    let index = self.index(member);
                    let member = &mut self.members[index];
                    assert!(
                        member.draining && member.in_flight == 0,
                        "{index} isn't drained"
                    );
                    member.draining = false;
                    self.record(("drained", index));
                }
                Event::Removed {
                    member: id,
                    payload,
                } => {
                    let member = &mut self.members[payload];
                    assert_eq!(member.membership, Membership::Leaving(id));
                    assert_eq!(member.in_flight, 0, "{payload} was removed with leases");
                    member.membership = Membership::Absent;
                    self.record(("removed", payload));
                }
                Event::Probe { member, probe } => self.probe(member, probe),
                Event::Changed { member, change } => self.health_change(member, change),
            }
        }
    }

    fn leave_queue(&mut self, waiter: WaiterId) -> u32 {
        self.waiting.remove(&waiter).expect("it waited")
    }

    fn at(&mut self, at: Nanos, event: SimEvent) {
        self.schedule.add(at, event);
    }

    fn after(&mut self, delay: Nanos, event: SimEvent) {
        self.at(self.now + delay, event);
    }

    /// Adds to the trace.
    fn record(&mut self, what: impl Hash) {
        (self.now, what).hash(&mut self.trace);
    }

    fn index(&self, member: MemberId) -> usize {
        *self.indices.get(&member).expect("it was added")
    }

    fn finish(mut self) -> Summary {
        self.check_stats();
        self.pool.close(tick(self.now));
        self.drain_pool_events();
        self.check_totals();
        let by_member = self.members.iter().map(|member| &member.arrivals);
        let oracles = by_member
            .chain(&self.group_arrivals)
            .chain([&self.pool_arrivals]);
        self.sum.full_limits = oracles.filter(|oracle| oracle.has_been_full()).count();
        self.sum.trace = self.trace.finish();
        self.sum
    }
}
