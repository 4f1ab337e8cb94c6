//! Forecasts against a run of the pool itself, event by event, in which each call takes as long as planned.
//!
//! Invariant: no code is shared with the forecast but the pool that both use. The run is that of a real caller, with its
//! queue cancelled and its leases released by their ids.

use crate::limits;
use crate::pool::{self, Ask, Choice, End};
use arbitrary::Arbitrary;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::balance::Policy;
use leasehold_core::limit::{LimitSet, Unit};
use leasehold_core::pool::{
    AcquireError, Acquired, Event, Grant, LeaseId, Member, MemberId, Outcome, Plan, Pool,
    PoolConfig, Request, WaiterId,
};
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;
use std::collections::VecDeque;

/// A pool that has been used, and a plan for it.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// The pool; its operations, probes and outlier sweeps are left out.
    pub pool: pool::Case,
    /// Its use before.
    pub before: Vec<Use>,
    /// Ticks from then to the forecast, modulo 16.
    pub pause: u8,
    /// Kinds of requests, and how many of each, modulo 12; at most four are taken.
    pub kinds: Vec<(Ask, u8)>,
    /// Workers, less one, modulo 8.
    pub workers: u8,
    /// Ticks that a call takes, modulo 16.
    pub call: u8,
}

/// A use of a pool.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Use {
    /// Asks for a lease.
    #[proptest(weight = 4)]
    Acquire(Ask),
    /// Releases one of the leases held.
    Release(u8, End),
    /// Lets at most 15 ticks pass.
    #[proptest(weight = 2)]
    Advance(u8),
}

/// Members with one kind of limit, and a plan of at least twenty rounds for them.
///
/// A round is as many requests as a window of all members admits, or as there are workers if these are more.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub struct Uniform {
    /// The limit of each member.
    pub limit: limits::Setup,
    /// Members, less one, modulo 6.
    pub members: u8,
    /// Requests that are simulated beyond twenty rounds, modulo a round.
    pub simulated: u8,
    /// Requests beyond those, modulo twenty rounds.
    pub more: u16,
    /// Workers, less one, modulo 16.
    pub workers: u8,
    /// Ticks that a call takes, modulo 16.
    pub call: u8,
}

/// The longest run in ticks that is compared with a forecast that it never ends.
const NEVER: u64 = 3_000;

/// Holds a forecast to the end of a real run.
///
/// # Panics
/// Where they differ.
pub fn run(case: &Case) {
    let mut setup = case.pool.clone();
    // Each flow and the pool queue as many requests as there are workers.
    setup.max_waiters = 15;
    if let Some(flow) = &mut setup.each_flow {
        flow.max_waiters = u8::MAX;
    }
    (setup.watch.outlier, setup.watch.health) = (None, None);
    let mut run = Run::new(pool::pool(&setup));
    for what in &case.before {
        run.apply(*what);
    }
    let workers = usize::from(case.workers % 8) + 1;
    let call = u64::from(case.call % 16);
    let mut kinds: Vec<(Request, u64)> = Vec::new();
    for (ask, count) in case.kinds.iter().take(4) {
        let request = run.request(*ask, None);
        kinds.push((request, u64::from(count % 12)));
    }
    let now = run.now + u64::from(case.pause % 16);
    let mut plan = plan(workers, call);
    for (request, count) in &kinds {
        // The deadline is ignored.
        plan = plan.requests(request.deadline(Tick::from_nanos(now)), *count);
    }
    let queued = run.pool.clone();
    // Where requests are granted because others are cancelled, or cancelling takes turns or lots, the pool to
    // forecast for is the one without a queue.
    let is_emptied = run.cancel_all();
    let is_by_load = matches!(
        setup.policy,
        Choice::Fifo | Choice::LeastConnections | Choice::LeastUsed | Choice::LeastQueue
    );
    let pool = match is_emptied && is_by_load {
        true => &queued,
        false => &run.pool,
    };
    let forecast = pool.forecast(Tick::from_nanos(now), &plan);
    let expected = forecast.ends_in.map(|span| span.as_nanos() as u64);
    let total: u64 = kinds.iter().map(|(_, count)| count).sum();
    if expected.is_some() {
        assert_eq!(u64::from(forecast.simulated), total);
    }
    run.begin(now, workers, call, mixed(&kinds));
    assert_eq!(run.finish(expected.unwrap_or(NEVER)), expected);
}

/// Holds an extrapolation to the end of a real run, give or take a tenth.
///
/// # Panics
/// Where it is further off.
pub fn run_uniform(case: &Uniform) {
    let mut pool = Pool::new(PoolConfig::new(Policy::RoundRobin));
    let members = u64::from(case.members % 6) + 1;
    let setup = case.limit.anchored();
    for name in 0..members as usize {
        let limits = LimitSet::new().with(Unit::Requests, setup.machine());
        let added = pool.add(Tick::ZERO, Member::new(name).limits(limits));
        added.expect("a small pool takes members");
    }
    let workers = usize::from(case.workers % 16) + 1;
    let round = (members * u64::from(setup.units())).max(workers as u64);
    let simulated = 20 * round + u64::from(case.simulated) % round;
    let count = simulated + u64::from(case.more) % (20 * round);
    let call = u64::from(case.call % 16);
    let steps = NonZeroU32::new(simulated as u32).expect("a round has a request");
    let plan = plan(workers, call).requests(Request::new(), count);
    let forecast = pool.forecast(Tick::ZERO, &plan.max_steps(steps));
    let got = forecast.ends_in.expect("the members serve all").as_nanos() as u64;
    assert_eq!(u64::from(forecast.simulated), simulated);
    let mut run = Run::new(pool);
    run.begin(0, workers, call, mixed(&[(Request::new(), count)]));
    let real = run.finish(u64::MAX).expect("the members serve all");
    assert!(
        got.abs_diff(real) * 10 <= real,
        "forecast {got}, and it ended at {real}; {count} requests, {simulated} simulated"
    );
}

fn plan(workers: usize, call: u64) -> Plan {
    let workers = NonZeroU32::new(workers as u32).expect("there is a worker");
    Plan::new(workers, Duration::from_nanos(call))
}

/// The requests in the order in which they are asked for: each in the middle of its share of the whole.
fn mixed(kinds: &[(Request, u64)]) -> VecDeque<Request> {
    let mut all = Vec::new();
    for (index, (request, count)) in kinds.iter().enumerate() {
        all.extend((0..*count).map(|before| (2 * before + 1, *count, index, *request)));
    }
    all.sort_by(|one, other| {
        let (place, than) = (one.0 * other.1, other.0 * one.1);
        place.cmp(&than).then(one.2.cmp(&other.2))
    });
    all.into_iter().map(|(.., request)| request).collect()
}

/// A pool in use.
struct Run {
    pool: Pool<usize>,
    members: Vec<MemberId>,
    now: u64,
    start: u64,
    workers: usize,
    call: u64,
    todo: VecDeque<Request>,
    waiting: Vec<WaiterId>,
    /// Leases held, and the ticks and fences of their grants.
    leases: Vec<(u64, LeaseId, u64)>,
    /// Calls under way, and the ticks at which they end, in that order.
    calls: Vec<(u64, LeaseId)>,
    last_end: u64,
}

impl Run {
    fn new(pool: Pool<usize>) -> Self {
        Self {
            members: pool.members().map(|(id, _)| id).collect(),
            pool,
            now: 0,
            start: 0,
            workers: 0,
            call: 0,
            todo: VecDeque::new(),
            waiting: Vec::new(),
            leases: Vec::new(),
            calls: Vec::new(),
            last_end: 0,
        }
    }

    fn tick(&self) -> Tick {
        Tick::from_nanos(self.now)
    }

    fn request(&mut self, ask: Ask, deadline: Option<u64>) -> Request {
        let pin = self.members.get(usize::from(ask.pin)).copied();
        let deadline = deadline.map(|ticks| self.now + ticks);
        pool::request(&mut self.pool, ask, pin, deadline)
    }

    fn apply(&mut self, what: Use) {
        match what {
            Use::Acquire(ask) => {
                let deadline = ask.deadline.map(|ticks| u64::from(ticks % 64));
                let request = self.request(ask, deadline);
                // A refusal changes nothing here.
                let _ = self.ask(request);
            }
            Use::Release(which, end) if !self.leases.is_empty() => {
                let which = usize::from(which) % self.leases.len();
                let (_, lease, _) = self.leases.remove(which);
                let outcome = match end {
                    End::Ok => Outcome::Ok,
                    End::Failed => Outcome::Failed,
                    End::Throttled(pause) => Outcome::Throttled {
                        until: Tick::from_nanos(self.now + u64::from(pause % 64)),
                    },
                    End::NotSent => Outcome::NotSent,
                    End::Unknown => Outcome::Unknown,
                };
                // The lease may have expired.
                let _ = self.pool.release(self.tick(), lease, outcome);
            }
            Use::Release(..) => {}
            Use::Advance(ticks) => {
                self.now += u64::from(ticks % 16);
                self.pool.handle_timeout(self.tick());
            }
        }
        self.take_events();
    }

    fn ask(&mut self, request: Request) -> Result<(), AcquireError> {
        match self.pool.acquire(self.tick(), request)? {
            Acquired::Granted(grant) => self.granted(grant),
            Acquired::Waiting(waiter) => self.waiting.push(waiter),
        }
        Ok(())
    }

    fn granted(&mut self, grant: Grant) {
        self.leases.push((self.now, grant.lease, grant.fence));
        if self.workers > 0 {
            let end = self.now + self.call;
            self.calls.push((end, grant.lease));
            self.last_end = self.last_end.max(end);
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.pool.poll_event() {
            match event {
                Event::Granted { waiter, grant } => {
                    self.waiting.retain(|other| *other != waiter);
                    self.granted(grant);
                }
                Event::TimedOut { waiter, .. } => self.waiting.retain(|other| *other != waiter),
                Event::Closed { .. }
                | Event::Probe { .. }
                | Event::PinnedMemberRemoved { .. }
                | Event::Expired { .. }
                | Event::Drained { .. }
                | Event::Removed { .. }
                | Event::Changed { .. } => {}
            }
        }
    }

    /// Empties the queue; returns whether no request was granted because another was cancelled.
    fn cancel_all(&mut self) -> bool {
        let held = self.leases.len();
        while let Some(waiter) = self.waiting.pop() {
            let cancelled = self.pool.cancel(self.tick(), waiter);
            cancelled.expect("the request waits");
            self.take_events();
        }
        self.leases.len() == held
    }

    /// Begins a plan at a tick. Leases that are held then are calls that began at their grant.
    fn begin(&mut self, now: u64, workers: usize, call: u64, todo: VecDeque<Request>) {
        (self.now, self.start) = (now, now);
        (self.workers, self.call, self.todo) = (workers, call, todo);
        self.pool.handle_timeout(self.tick());
        self.take_events();
        self.leases.sort_by_key(|(.., fence)| *fence);
        let held = self.leases.iter();
        let held = held.filter(|(_, lease, _)| self.pool.leased(*lease).is_some());
        let calls = held.map(|(granted, lease, _)| ((granted + call).max(now), *lease));
        self.calls = calls.collect();
        self.calls.sort_by_key(|(end, _)| *end);
        self.last_end = self.calls.last().map_or(now, |(end, _)| *end);
    }

    /// Returns the ticks from the beginning until the last call ends; `None` if requests are left after `most` ticks.
    fn finish(&mut self, most: u64) -> Option<u64> {
        while self.now - self.start <= most {
            self.step();
            if self.todo.is_empty() && self.waiting.is_empty() {
                return Some(self.last_end - self.start);
            }
            let call = self.calls.first().map(|(end, _)| *end);
            let due = self.pool.poll_timeout().map(Tick::as_nanos);
            // Calls that take no time end at the tick of their grant.
            self.now = call.into_iter().chain(due).min()?.max(self.now);
        }
        None
    }

    fn step(&mut self) {
        while self.calls.first().is_some_and(|(end, _)| *end <= self.now) {
            let (_, lease) = self.calls.remove(0);
            // The lease may have expired.
            let _ = self.pool.release(self.tick(), lease, Outcome::Ok);
        }
        self.pool.handle_timeout(self.tick());
        self.take_events();
        while self.calls.len() + self.waiting.len() < self.workers
            && let Some(request) = self.todo.front().copied()
            && self.ask(request).is_ok()
        {
            self.todo.pop_front();
        }
        self.take_events();
    }
}
