//! Forecasts: when a plan of requests will have been served, by a simulation on a copy of the pool.
//!
//! Invariant: the simulation uses the pool by its commands alone, so that limits, bounds, breakers and policies
//! decide as they would for real calls.

use super::drive::Pool;
use super::error::AcquireError;
use super::event::{Acquired, Event};
use super::ids::{LeaseId, WaiterId};
use super::outcome::Outcome;
use super::request::Request;
use crate::time::{Tick, earliest};
use alloc::collections::{BTreeMap, BinaryHeap, VecDeque};
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::num::NonZeroU32;
use core::time::Duration;

/// Requests that are to be served from now on, and how.
///
/// A number of workers take the next request whenever they are free. Each asks for a lease, waits for it, holds it for
/// as long as a call takes, and releases it as served, at the expected cost. The kinds of requests are mixed evenly:
/// each is served in proportion to its count. Deadlines are ignored.
#[derive(Clone, Debug)]
pub struct Plan {
    kinds: Vec<Kind>,
    workers: NonZeroU32,
    call: Duration,
    max_steps: NonZeroU32,
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    request: Request,
    count: u64,
}

impl Plan {
    /// The most requests that are simulated by default.
    pub const MAX_STEPS: NonZeroU32 = NonZeroU32::MIN.saturating_add(19_999);

    /// A plan without requests, for at most `workers` calls at a time that take `call` each.
    #[must_use]
    pub const fn new(workers: NonZeroU32, call: Duration) -> Self {
        Self {
            kinds: Vec::new(),
            workers,
            call,
            max_steps: Self::MAX_STEPS,
        }
    }

    /// Adds `count` requests of one kind.
    #[must_use]
    pub fn requests(mut self, request: Request, count: u64) -> Self {
        let request = Request {
            deadline: None,
            ..request
        };
        self.kinds.push(Kind { request, count });
        self
    }

    /// Sets the most requests that are simulated; the rest is extrapolated. [`MAX_STEPS`](Self::MAX_STEPS) by default.
    #[must_use]
    pub const fn max_steps(mut self, max: NonZeroU32) -> Self {
        self.max_steps = max;
        self
    }

    fn total(&self) -> u64 {
        let counts = self.kinds.iter().map(|kind| kind.count);
        counts.fold(0, u64::saturating_add)
    }
}

/// When a [`Plan`] will have been served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Time from now until the last call ends, those under way included; `None` where some request is never served.
    pub ends_in: Option<Duration>,
    /// Requests that were simulated. If these are all of the plan, the forecast is exact; the rest is extrapolated.
    pub simulated: u32,
}

impl<T: Clone> Pool<T> {
    /// Forecasts when a plan will have been served, by a simulation on a copy of the pool.
    ///
    /// The forecast is exact as long as each call takes as long as the plan says and succeeds at its expected cost,
    /// and nothing else uses the pool. A lease that is held now occupies a worker until it has been held that long.
    /// The pool's own queue is left out, since the plan says what is to be served, and bounds on waiters don't count.
    /// Members that are down stay down, and no other goes down or is ejected. At one tick, calls end before workers
    /// ask again.
    ///
    /// Of a plan above [`max_steps`](Plan::max_steps), that many are simulated, and the schedule of the second half
    /// repeats from then on: from the first long pause in which no call ends to the last. Where a window admits more
    /// than are simulated, that pause is not seen, and the forecast is too early.
    ///
    /// Costs a copy of the pool, and as much as acquiring and releasing `min(count, max_steps)` leases; each also
    /// O(log kinds).
    ///
    /// ```
    /// use core::num::NonZeroU32;
    /// use core::time::Duration;
    /// use leasehold_core::balance::Policy;
    /// use leasehold_core::limit::LimitSpecs;
    /// use leasehold_core::pool::{Member, Plan, Pool, PoolConfig, Request};
    /// use leasehold_core::time::Tick;
    ///
    /// let mut pool = Pool::new(PoolConfig::new(Policy::Fifo));
    /// for key in 0..10 {
    ///     let limits: LimitSpecs = "3/60s from grant".parse()?;
    ///     pool.add(Tick::ZERO, Member::new(key).limits(limits.limits()))?;
    /// }
    /// let call = Duration::from_secs(2);
    /// let workers = NonZeroU32::new(64).unwrap();
    /// // 30 calls at once and 30 every 60 s.
    /// let plan = Plan::new(workers, call).requests(Request::new(), 150);
    /// let forecast = pool.forecast(Tick::ZERO, &plan);
    /// assert_eq!(forecast.ends_in, Some(Duration::from_secs(240) + call));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn forecast(&self, now: Tick, plan: &Plan) -> Forecast {
        let total = plan.total();
        let steps = total.min(plan.max_steps.get().into()) as u32;
        let mut simulation = Simulation::new(self.rehearsal(now), plan, steps);
        let held = simulation.last_end();
        let is_stuck = simulation.run().is_none();
        let ends = simulation.ends_in_order(held);
        let simulated = u32::try_from(ends.len()).unwrap_or(steps);
        let nanos = match (ends.last(), is_stuck) {
            (_, true) => None,
            (None, false) => (total == 0).then_some(held),
            (Some(last), false) if u64::from(simulated) == total => Some(*last),
            (Some(_), false) => Some(extrapolate(&ends, total)),
        };
        Forecast {
            ends_in: nanos.map(Duration::from_nanos),
            simulated,
        }
    }

    /// A copy to simulate on: without waiters, events, a log, or anything that has to be answered.
    fn rehearsal(&self, now: Tick) -> Self {
        let mut copy = self.clone();
        copy.events.clear();
        copy.charges = None;
        copy.outlier = None;
        copy.config.max_waiters = u32::MAX;
        copy.flows.lift_max_waiters();
        for waiter in copy.queue.by_arrival() {
            if let Some(left) = copy.queue.remove(waiter) {
                copy.waiter_left(left.lane);
            }
        }
        copy.suspend_probes();
        copy.advance(now);
        copy
    }
}

/// A run of a plan in virtual time.
struct Simulation<T> {
    pool: Pool<T>,
    start: Tick,
    now: Tick,
    call: Duration,
    workers: usize,
    order: Order,
    /// Requests that are yet to be asked for.
    left: u32,
    /// The request that the pool refused for now; it is asked for again before others.
    refused: Option<Request>,
    /// Calls under way, in the order of their ends.
    calls: VecDeque<(Tick, LeaseId)>,
    /// The numbers of the requests that wait, from 0 in the order of the plan.
    waiting: BTreeMap<WaiterId, usize>,
    /// The tick at which the call of each request ends, by number; `None` until it is granted.
    ends: Vec<Option<Tick>>,
}

/// A request that will never be served, whatever happens.
struct NeverServed;

impl<T> Simulation<T> {
    /// Events per request after which a run gives up; a request has four at most, unless limits open step by step.
    const WAKES_PER_STEP: u32 = 8;

    fn new(pool: Pool<T>, plan: &Plan, steps: u32) -> Self {
        let start = pool.clock.now;
        let held = pool.leases.iter().map(|(handle, lease, _)| {
            let end = lease.granted.saturating_add(plan.call).max(start);
            (end, lease.fence, LeaseId::new(pool.config.id, handle))
        });
        let mut held: Vec<_> = held.collect();
        held.sort_by_key(|(end, fence, _)| (*end, *fence));
        Self {
            start,
            now: start,
            call: plan.call,
            workers: plan.workers.get() as usize,
            order: Order::new(plan),
            left: steps,
            refused: None,
            calls: held.into_iter().map(|(end, _, id)| (end, id)).collect(),
            waiting: BTreeMap::new(),
            ends: Vec::with_capacity(steps as usize),
            pool,
        }
    }

    /// Runs until every request is granted; `None` where one is never served.
    fn run(&mut self) -> Option<()> {
        let wakes = self.left.saturating_mul(Self::WAKES_PER_STEP);
        for _ in 0..=wakes.saturating_add(1_000) {
            self.end_calls();
            self.pool.handle_timeout(self.now);
            self.take_grants();
            self.ask().ok()?;
            self.take_grants();
            if self.left == 0 && self.refused.is_none() && self.waiting.is_empty() {
                return Some(());
            }
            let call = self.calls.front().map(|(end, _)| *end);
            let due = self.pool.poll_timeout().filter(|due| *due > self.now);
            self.now = earliest(call, due)?;
        }
        Some(())
    }

    /// Releases the leases whose calls end by now.
    fn end_calls(&mut self) {
        while let Some((end, lease)) = self.calls.front().copied()
            && end <= self.now
        {
            self.calls.pop_front();
            // The lease may have expired.
            let _ = self.pool.release(self.now, lease, Outcome::Ok);
        }
    }

    /// Begins the calls of queued requests that were granted.
    fn take_grants(&mut self) {
        while let Some(event) = self.pool.poll_event() {
            if let Event::Granted { waiter, grant } = event
                && let Some(number) = self.waiting.remove(&waiter)
            {
                self.begin_call(number, grant.lease);
            }
        }
    }

    fn begin_call(&mut self, number: usize, lease: LeaseId) {
        let end = self.now.saturating_add(self.call);
        self.calls.push_back((end, lease));
        if let Some(slot) = self.ends.get_mut(number) {
            *slot = Some(end);
        }
    }

    /// Lets free workers ask for the next requests, up to one that is refused.
    fn ask(&mut self) -> Result<(), NeverServed> {
        while self.calls.len().saturating_add(self.waiting.len()) < self.workers {
            let Some(request) = self.next_request() else {
                break;
            };
            let number = self.ends.len();
            match self.pool.acquire(self.now, request) {
                Ok(Acquired::Granted(grant)) => {
                    self.ends.push(None);
                    self.begin_call(number, grant.lease);
                }
                Ok(Acquired::Waiting(waiter)) => {
                    self.ends.push(None);
                    self.waiting.insert(waiter, number);
                }
                Err(
                    AcquireError::QueueFull { .. }
                    | AcquireError::FlowQueueFull { .. }
                    | AcquireError::NotReady { .. }
                    | AcquireError::DeadlineTooSoon { .. }
                    | AcquireError::TooManyLanes,
                ) => {
                    self.refused = Some(request);
                    break;
                }
                Err(
                    AcquireError::Closed
                    | AcquireError::NeverFits
                    | AcquireError::PinnedMemberRemoved
                    | AcquireError::ForeignLabels,
                ) => return Err(NeverServed),
            }
        }
        Ok(())
    }

    fn next_request(&mut self) -> Option<Request> {
        if let Some(request) = self.refused.take() {
            return Some(request);
        }
        self.left = self.left.checked_sub(1)?;
        self.order.next()
    }

    /// Nanoseconds from the start until the last call that is under way ends.
    fn last_end(&self) -> u64 {
        let last = self.calls.back();
        last.map_or(0, |(end, _)| end.nanos_since(self.start))
    }

    /// For each request in turn, the nanoseconds from the start until its call and all before it have ended, up to
    /// the first that was not granted.
    fn ends_in_order(&self, held: u64) -> Vec<u64> {
        let granted = self.ends.iter().map_while(|end| *end);
        let ends = granted.scan(held, |latest, end| {
            *latest = end.nanos_since(self.start).max(*latest);
            Some(*latest)
        });
        ends.collect()
    }
}

/// The requests of a plan, mixed evenly: the `i`-th of `n` of a kind is at `(i - 1/2) / n` of the plan.
struct Order {
    kinds: Vec<Kind>,
    /// The next request of each kind: its place, the index of its kind, and how many of that came before.
    next: BinaryHeap<Reverse<(u128, usize, u64)>>,
}

impl Order {
    fn new(plan: &Plan) -> Self {
        let mut order = Self {
            kinds: plan.kinds.clone(),
            next: BinaryHeap::with_capacity(plan.kinds.len()),
        };
        for index in 0..order.kinds.len() {
            order.push(index, 0);
        }
        order
    }

    fn push(&mut self, index: usize, before: u64) {
        let Some(kind) = self.kinds.get(index).filter(|kind| before < kind.count) else {
            return;
        };
        let middle = u128::from(before).saturating_mul(2).saturating_add(1);
        let place = (middle << 62).checked_div(kind.count.into()).unwrap_or(0);
        self.next.push(Reverse((place, index, before)));
    }
}

impl Iterator for Order {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        let Reverse((_, index, before)) = self.next.pop()?;
        self.push(index, before.saturating_add(1));
        self.kinds.get(index).map(|kind| kind.request)
    }
}

/// Extrapolates the time at which `total` requests have ended from those of the first ones, which never decrease.
///
/// The schedule is taken to be periodic, from one long step of the times to another. Both are in the second half,
/// where whatever the pool had saved up at first is used up; if only one is there, the period begins before it.
fn extrapolate(ends: &[u64], total: u64) -> u64 {
    let step = |at: usize| {
        let before = ends.get(at.saturating_sub(1)).copied().unwrap_or(0);
        ends.get(at).map_or(0, |end| end.saturating_sub(before))
    };
    let half = (ends.len() / 2).max(1);
    let longest = (half..ends.len()).map(step).max().unwrap_or(0);
    let is_long = |at: &usize| step(*at) >= longest.saturating_sub(longest / 4);
    let Some(last) = (half..ends.len()).rev().find(is_long) else {
        // A single request was simulated.
        return ends.first().map_or(0, |end| end.saturating_mul(total));
    };
    let first = (half..last).find(is_long);
    let first = first.or_else(|| (1..half).rev().find(is_long)).unwrap_or(0);
    let at = |index: usize| ends.get(index).copied().unwrap_or(0);
    let span = at(last).saturating_sub(at(first));
    // No zero, since `first < half <= last` or `first < last`.
    let period = (last.saturating_sub(first) as u64).max(1);
    let periods = total.saturating_sub(ends.len() as u64).div_ceil(period);
    let same = total.saturating_sub(periods.saturating_mul(period));
    at((same as usize).saturating_sub(1)).saturating_add(periods.saturating_mul(span))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Policy;
    use crate::health::ProbeConfig;
    use crate::pool::{Member, PoolConfig, ProbeResult};

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn plan(requests: u64) -> Plan {
        Plan::new(NonZeroU32::MIN, seconds(1)).requests(Request::new(), requests)
    }

    #[test]
    fn members_stay_up_or_down_as_they_are() {
        let probes = ProbeConfig::builder(seconds(1), seconds(1)).fall(NonZeroU32::MIN);
        let config = PoolConfig::builder(Policy::Fifo).health(probes.build().unwrap());
        let mut pool = Pool::new(config.build().unwrap());
        pool.add(Tick::ZERO, Member::new(0)).unwrap();
        let ends_in = |pool: &Pool<u32>| pool.forecast(pool.clock.now, &plan(100)).ends_in;
        assert_eq!(ends_in(&pool), Some(seconds(100)));
        let due = pool.poll_timeout().unwrap();
        pool.handle_timeout(due);
        let Some(Event::Probe { probe, .. }) = pool.poll_event() else {
            panic!("the probe is due");
        };
        assert_eq!(ends_in(&pool), Some(seconds(100)));
        pool.handle_probe(due, probe, ProbeResult::Down).unwrap();
        assert_eq!(ends_in(&pool), None);
    }

    #[test]
    fn a_plan_that_is_never_served_has_no_end() {
        let mut pool = Pool::<u32>::new(PoolConfig::new(Policy::Fifo));
        let ends_in = |pool: &Pool<u32>, count| pool.forecast(Tick::ZERO, &plan(count)).ends_in;
        assert_eq!(ends_in(&pool, 1), None);
        assert_eq!(ends_in(&pool, u64::MAX), None);
        assert_eq!(ends_in(&pool, 0), Some(Duration::ZERO));
        pool.add(Tick::ZERO, Member::new(0)).unwrap();
        assert_eq!(ends_in(&pool, 1), Some(seconds(1)));
        pool.close(Tick::ZERO);
        assert_eq!(ends_in(&pool, 1), None);
    }

    #[test]
    fn the_last_tick_is_the_latest_end() {
        let mut pool = Pool::new(PoolConfig::new(Policy::Fifo));
        pool.add(Tick::ZERO, Member::new(0)).unwrap();
        let call = Duration::MAX;
        let plan = Plan::new(NonZeroU32::MIN, call).requests(Request::new(), u64::MAX);
        let ends_in = pool.forecast(Tick::ZERO, &plan).ends_in;
        assert_eq!(ends_in, Some(Duration::from_nanos(u64::MAX)));
    }

    #[test]
    fn a_held_lease_occupies_a_worker() {
        let mut pool = Pool::new(PoolConfig::new(Policy::Fifo));
        pool.add(Tick::ZERO, Member::new(0)).unwrap();
        assert!(pool.acquire(Tick::ZERO, Request::new()).is_ok());
        let now = Tick::ZERO.saturating_add(seconds(1) / 4);
        let quarters = |count: u32| Some(seconds(1) / 4 * count);
        assert_eq!(pool.forecast(now, &plan(0)).ends_in, quarters(3));
        assert_eq!(pool.forecast(now, &plan(1)).ends_in, quarters(7));
    }
}
