//! The load on a member that fails faster than the others serve.

use crate::schedule::{MS, Nanos, SEC, Schedule};
use crate::settings::{count, seeded, tick};
use fastrand::Rng;
use leasehold_core::balance::Policy;
use leasehold_core::pool::{
    Acquired, Event, Grant, LeaseId, Member, MemberId, Outcome, Pool, Request, WaiterId,
};
use leasehold_core::time::Tick;
use std::collections::BTreeMap;

const MEMBERS: usize = 10;
/// When the first member starts to fail.
const FAILURE: Nanos = 30 * SEC;
const END: Nanos = 90 * SEC;
/// Attempts after a failure; each follows at once.
const RETRIES: u32 = 3;

/// Calls that arrive at random and take 200 ms on average, on ten members, one of which fails for a minute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FastFailure {
    pub(crate) policy: Policy,
    pub(crate) seed: u64,
    /// Calls per second.
    pub(crate) rate: u64,
    /// Leases at once per member, all of which it serves in parallel.
    pub(crate) max_leases: u32,
}

/// Grants during the failure.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Grants {
    pub(crate) to_failing: u64,
    pub(crate) to_all: u64,
}

impl FastFailure {
    pub(crate) fn play(self) -> Grants {
        let mut run = Run::new(self);
        while let Some((now, event)) = run.schedule.pop()
            && now < END
        {
            run.now = now;
            let next = run.handle(event);
            run.drain_pool_events();
            run.start_calls();
            if let Some((gap, event)) = next {
                run.schedule.add(now + gap, event);
            }
        }
        run.grants
    }
}

#[derive(Clone, Copy, Debug)]
enum SimEvent {
    Arrival,
    End {
        lease: LeaseId,
        retries: u32,
        ok: bool,
    },
    /// The pool is told the queue depths of all members.
    Depths,
}

struct Run {
    scenario: FastFailure,
    rng: Rng,
    now: Nanos,
    schedule: Schedule<SimEvent>,
    pool: Pool<usize>,
    members: Vec<MemberId>,
    /// Retries left, by waiter.
    waiting: BTreeMap<WaiterId, u32>,
    in_flight: BTreeMap<LeaseId, MemberId>,
    /// New grants, each with its retries left.
    granted: Vec<(Grant, u32)>,
    grants: Grants,
}

impl Run {
    fn new(scenario: FastFailure) -> Self {
        let mut pool = Pool::new(seeded(scenario.policy, scenario.seed));
        let max_leases = count(scenario.max_leases);
        let add = |index: usize| pool.add(Tick::ZERO, Member::new(index).max_leases(max_leases));
        let members = (0..MEMBERS).map(add).collect::<Result<_, _>>();
        let mut schedule = Schedule::new();
        schedule.add(0, SimEvent::Arrival);
        schedule.add(1, SimEvent::Depths);
        Self {
            scenario,
            rng: Rng::with_seed(scenario.seed),
            now: 0,
            schedule,
            members: members.expect("there is room"),
            pool,
            waiting: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            granted: Vec::new(),
            grants: Grants::default(),
        }
    }

    /// Handles an event, and returns the next of its kind and the time until it.
    fn handle(&mut self, event: SimEvent) -> Option<(Nanos, SimEvent)> {
        match event {
            SimEvent::Arrival => {
                self.acquire(RETRIES);
                let gap = self.rng.u64(1..2 * SEC / self.scenario.rate);
                Some((gap, SimEvent::Arrival))
            }
            SimEvent::End { lease, retries, ok } => {
                self.in_flight.remove(&lease);
                let outcome = if ok { Outcome::Ok } else { Outcome::Failed };
                let released = self.pool.release(tick(self.now), lease, outcome);
                released.expect("it is held");
                if !ok && retries > 0 {
                    self.acquire(retries - 1);
                }
                None
            }
            SimEvent::Depths => {
                for member in &self.members {
                    let depth = self.in_flight.values().filter(|at| *at == member).count();
                    let now = tick(self.now);
                    let observed = self.pool.observe_depth(now, *member, depth as u32);
                    observed.expect("it is a member");
                }
                Some((5 * SEC, SimEvent::Depths))
            }
        }
    }

    fn acquire(&mut self, retries: u32) {
        let acquired = self.pool.acquire(tick(self.now), Request::new());
        match acquired.expect("the queue is unbounded") {
            Acquired::Granted(grant) => self.granted.push((grant, retries)),
            Acquired::Waiting(waiter) => drop(self.waiting.insert(waiter, retries)),
        }
    }

    fn drain_pool_events(&mut self) {
        while let Some(event) = self.pool.poll_event() {
            if let Event::Granted { waiter, grant } = event {
                let retries = self.waiting.remove(&waiter).expect("it waited");
                self.granted.push((grant, retries));
            }
        }
    }

    fn start_calls(&mut self) {
        let is_failing = self.now >= FAILURE;
        for (Grant { lease, member, .. }, retries) in self.granted.drain(..) {
            self.in_flight.insert(lease, member);
            let ok = member != self.members[0] || !is_failing;
            let took = if ok {
                self.rng.u64(100 * MS..300 * MS)
            } else {
                MS
            };
            let end = SimEvent::End { lease, retries, ok };
            self.schedule.add(self.now + took, end);
            if is_failing {
                self.grants.to_all += 1;
                self.grants.to_failing += u64::from(member == self.members[0]);
            }
        }
    }
}
