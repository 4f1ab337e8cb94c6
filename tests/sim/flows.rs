//! Fairness between flows that wait.

use crate::schedule::{MS, Nanos, SEC};
use crate::settings::{count, seeded, tick};
use core::cmp::Reverse;
use fastrand::Rng;
use leasehold_core::balance::Policy;
use leasehold_core::pool::{Acquired, Event, LeaseId, Member, Outcome, Pool, Request, WaiterId};
use leasehold_core::time::Tick;
use std::collections::BinaryHeap;

const FLOWS: usize = 5;

/// Plays five flows that come and go, with cancellations, on four members that serve all of them.
/// Returns the most by which the grants of any two differ over a time in which both wait.
pub(crate) fn unfairness(policy: Policy, seed: u64) -> i64 {
    let mut run = Run::new(policy, seed);
    for _ in 0..20_000 {
        run.now += run.rng.u64(1..10 * MS);
        run.end_calls();
        let flow = run.rng.usize(..FLOWS);
        if run.rng.u32(..20) == 0 && run.cancel(flow) {
            continue;
        }
        for _ in 0..run.rng.u32(..4) {
            run.acquire(flow);
        }
        // A pause now and then lets the queues run empty.
        if run.rng.u32(..200) == 0 {
            run.now += 2 * SEC;
        }
    }
    run.lead.most
}

/// Waiters by flow, in order of arrival.
type Queues = [Vec<WaiterId>; FLOWS];

struct Run {
    rng: Rng,
    now: Nanos,
    pool: Pool<()>,
    queues: Queues,
    lead: Lead,
    calls: BinaryHeap<Reverse<(Nanos, LeaseId)>>,
}

impl Run {
    fn new(policy: Policy, seed: u64) -> Self {
        let mut pool = Pool::new(seeded(policy, seed));
        for _ in 0..4 {
            let added = pool.add(Tick::ZERO, Member::new(()).max_leases(count(2)));
            added.expect("there is room");
        }
        Self {
            rng: Rng::with_seed(seed),
            now: 0,
            pool,
            queues: Queues::default(),
            lead: Lead::default(),
            calls: BinaryHeap::new(),
        }
    }

    /// Releases the leases of all calls that have ended, and starts the calls that follow.
    fn end_calls(&mut self) {
        while let Some(Reverse((end, lease))) = self.calls.peek().copied()
            && end <= self.now
        {
            self.calls.pop();
            let released = self.pool.release(tick(end), lease, Outcome::Ok);
            released.expect("it is held");
            while let Some(event) = self.pool.poll_event() {
                if let Event::Granted { waiter, grant } = event {
                    self.leave_queue(waiter);
                    self.start_call(end, grant.lease);
                }
            }
        }
    }

    fn leave_queue(&mut self, waiter: WaiterId) {
        let has_waiter = |queue: &Vec<WaiterId>| queue.contains(&waiter);
        let flow = self.queues.iter().position(has_waiter).expect("it waited");
        self.lead.count_grant(flow, &self.queues);
        self.queues[flow].retain(|other| *other != waiter);
        self.lead.forget_if_empty(flow, &self.queues);
    }

    fn start_call(&mut self, now: Nanos, lease: LeaseId) {
        let took = self.rng.u64(10 * MS..60 * MS);
        self.calls.push(Reverse((now + took, lease)));
    }

    /// Cancels the flow's last waiter; returns whether it had one.
    fn cancel(&mut self, flow: usize) -> bool {
        let Some(waiter) = self.queues[flow].pop() else {
            return false;
        };
        let cancelled = self.pool.cancel(tick(self.now), waiter);
        cancelled.expect("it waits");
        self.lead.forget_if_empty(flow, &self.queues);
        true
    }

    fn acquire(&mut self, flow: usize) {
        let request = Request::new().flow(flow as u64);
        match self.pool.acquire(tick(self.now), request) {
            Ok(Acquired::Granted(grant)) => self.start_call(self.now, grant.lease),
            Ok(Acquired::Waiting(waiter)) => self.queues[flow].push(waiter),
            Err(error) => panic!("{error}"),
        }
    }
}

/// The lead of each flow over each other, in grants since both wait.
#[derive(Default)]
struct Lead {
    leads: [[Range; FLOWS]; FLOWS],
    most: i64,
}

#[derive(Clone, Copy, Default)]
struct Range {
    least: i64,
    present: i64,
    greatest: i64,
}

impl Lead {
    /// Counts a grant to a flow that waited.
    fn count_grant(&mut self, flow: usize, queues: &Queues) {
        let waits = |other: &usize| *other != flow && !queues[*other].is_empty();
        for other in (0..FLOWS).filter(waits) {
            for (one, two, step) in [(flow, other, 1), (other, flow, -1)] {
                let lead = &mut self.leads[one][two];
                lead.present += step;
                lead.least = lead.least.min(lead.present);
                lead.greatest = lead.greatest.max(lead.present);
                self.most = self.most.max(lead.greatest - lead.least);
            }
        }
    }

    /// Restarts the count against all others for a flow that no longer waits.
    fn forget_if_empty(&mut self, flow: usize, queues: &Queues) {
        if queues[flow].is_empty() {
            for other in 0..FLOWS {
                self.leads[flow][other] = Range::default();
                self.leads[other][flow] = Range::default();
            }
        }
    }
}
