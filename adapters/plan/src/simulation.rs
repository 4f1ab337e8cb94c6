//! The run of a workload in virtual time, on a pool that is asked as it would be in earnest.
//!
//! Invariant: the pool alone decides. Each call ends once: served, refused, or never served because nothing will happen
//! any more.

use crate::capacity::{BuiltPool, Capacity, CapacityError};
use crate::workload::{Pace, Workload};
use core::cmp::Reverse;
use core::num::NonZeroU32;
use leasehold_core::balance::Policy;
use leasehold_core::limit::Cost;
use leasehold_core::pool::{
    AcquireError, Acquired, Event, Grant, LeaseId, Outcome, Release, Request, WaiterId,
};
use leasehold_core::time::{Tick, earliest};
use std::collections::{BTreeMap, BinaryHeap};

/// The fates of a workload's calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// By the index of the call.
    pub calls: Vec<ScheduledCall>,
}

/// The request and the fate of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledCall {
    /// When it was asked for; `None` if it was not come to.
    pub asked: Option<Tick>,
    /// Its end.
    pub fate: Fate,
}

/// The end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was served.
    Served {
        /// The index of the member.
        member: u32,
        /// When it began.
        granted: Tick,
        /// When it ended.
        ended: Tick,
    },
    /// It was refused: it would have waited too long, or behind too many.
    Refused,
    /// It costs more than any limit ever admits.
    NeverFits,
    /// It waits for ever.
    NeverServed,
}

/// Why a workload can't be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The capacity can't serve it.
    #[error(transparent)]
    Capacity(#[from] CapacityError),
    /// The limits open in steps that are too small to follow.
    #[error(
        "the limits open in so small steps that the plan takes too long; give fewer calls or longer windows"
    )]
    TooManySteps,
}

/// Runs a workload. O((calls + wakes) log(members + waiting)), and a member's policy.
///
/// # Errors
/// If the capacity can't serve the workload, or its limits open in too small steps.
pub fn simulate(capacity: &Capacity, workload: &Workload) -> Result<Schedule, PlanError> {
    let built = capacity.build(&workload.models, workload.seed)?;
    let mut simulation = Simulation::new(built, capacity, workload);
    simulation.run()?;
    Ok(Schedule {
        calls: simulation.calls,
    })
}

/// A call under way, in the order of its end.
type Ending = Reverse<(Tick, usize)>;

struct Simulation<'a> {
    pool: BuiltPool,
    workload: &'a Workload,
    /// The longest wait of a call.
    max_wait: Option<core::time::Duration>,
    uses_key: bool,
    now: Tick,
    /// The index of the next call to be asked for.
    next: usize,
    has_ended: bool,
    ending: BinaryHeap<Ending>,
    /// The leases of calls under way.
    leases: BTreeMap<usize, LeaseId>,
    waiting: BTreeMap<WaiterId, usize>,
    calls: Vec<ScheduledCall>,
}

impl<'a> Simulation<'a> {
    /// Wakes of a call after which a run gives up: a call has three, unless limits open step by step.
    const WAKES_OF_CALL: usize = 64;

    fn new(pool: BuiltPool, capacity: &Capacity, workload: &'a Workload) -> Self {
        let unknown = ScheduledCall {
            asked: None,
            fate: Fate::NeverServed,
        };
        Self {
            pool,
            workload,
            max_wait: match workload.pace {
                // Workers come again where a request has timed out.
                Pace::Workers { .. } => None,
                Pace::Arrivals => capacity.max_wait,
            },
            uses_key: Policy::uses_key(capacity.policy),
            now: Tick::ZERO,
            next: 0,
            has_ended: false,
            ending: BinaryHeap::new(),
            leases: BTreeMap::new(),
            waiting: BTreeMap::new(),
            calls: vec![unknown; workload.calls.len()],
        }
    }

    fn run(&mut self) -> Result<(), PlanError> {
        let wakes = self.calls.len().saturating_mul(Self::WAKES_OF_CALL);
        for _ in 0..=wakes.saturating_add(100_000) {
            self.end_calls();
            self.pool.pool.handle_timeout(self.now);
            self.take_events();
            self.ask();
            self.take_events();
            let end = self.ending.peek().map(|Reverse((end, _))| *end);
            let due = self.pool.pool.poll_timeout();
            let due = due.filter(|due| *due > self.now);
            let soonest = earliest(end, earliest(due, self.next_arrival()));
            let is_over = end.is_none() && self.waiting.is_empty() && self.next >= self.calls.len();
            match soonest {
                Some(soonest) if !is_over => self.now = soonest,
                Some(_) | None => return Ok(()),
            }
        }
        Err(PlanError::TooManySteps)
    }

    /// Releases the leases whose calls end by now.
    fn end_calls(&mut self) {
        while let Some(Reverse((end, index))) = self.ending.peek().copied()
            && end <= self.now
        {
            self.ending.pop();
            self.has_ended = true;
            let call = self.workload.calls.get(index).copied().unwrap_or_default();
            let used = Cost {
                requests: 1,
                tokens: clamped(call.tokens.total()),
            };
            if let Some(lease) = self.leases.remove(&index) {
                let release = Release::from(Outcome::Ok).cost(used);
                // Leases of a plan don't expire.
                let _ = self.pool.pool.release(self.now, lease, release);
            }
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.pool.pool.poll_event() {
            match event {
                Event::Granted { waiter, grant } => {
                    if let Some(index) = self.waiting.remove(&waiter) {
                        self.begin(index, &grant);
                    }
                }
                Event::TimedOut { waiter, .. }
                | Event::Closed { waiter }
                | Event::PinnedMemberRemoved { waiter } => {
                    if let Some(index) = self.waiting.remove(&waiter) {
                        self.set_fate(index, Fate::Refused);
                    }
                }
                Event::Expired { .. }
                | Event::Drained { .. }
                | Event::Removed { .. }
                | Event::Changed { .. }
                | Event::Probe { .. } => {}
            }
        }
    }

    /// Asks for the calls that are due, in their order.
    fn ask(&mut self) {
        while self.next < self.calls.len() && self.is_due() {
            let index = self.next;
            self.next = index.saturating_add(1);
            if let Some(call) = self.calls.get_mut(index) {
                call.asked = Some(self.now);
            }
            match self.pool.pool.acquire(self.now, self.request(index)) {
                Ok(Acquired::Granted(grant)) => self.begin(index, &grant),
                Ok(Acquired::Waiting(waiter)) => {
                    self.waiting.insert(waiter, index);
                }
                Err(AcquireError::NeverFits) => self.set_fate(index, Fate::NeverFits),
                Err(
                    AcquireError::Closed
                    | AcquireError::QueueFull { .. }
                    | AcquireError::FlowQueueFull { .. }
                    | AcquireError::NotReady { .. }
                    | AcquireError::DeadlineTooSoon { .. }
                    | AcquireError::PinnedMemberRemoved
                    | AcquireError::ForeignLabels
                    | AcquireError::TooManyLanes,
                ) => self.set_fate(index, Fate::Refused),
            }
        }
    }

    /// Whether the next call is asked for now.
    fn is_due(&self) -> bool {
        match self.workload.pace {
            Pace::Workers { count, .. } => {
                let start = self.narrow_start();
                let workers = start.map_or(count, |(start, _)| start.min(count));
                let busy = self.ending.len().saturating_add(self.waiting.len());
                busy < NonZeroU32::get(workers) as usize
            }
            Pace::Arrivals => self.next_arrival().is_some_and(|at| at <= self.now),
        }
    }

    /// The workers of a narrow start while it lasts, and the tick at which it is over if no call ends before.
    fn narrow_start(&self) -> Option<(NonZeroU32, Tick)> {
        let Pace::Workers { start, .. } = self.workload.pace else {
            return None;
        };
        let start = start.filter(|_| !self.has_ended)?;
        let until = Tick::ZERO.saturating_add(start.patience);
        (self.now < until).then_some((start.calls, until))
    }

    /// The tick at which the next call may come by itself.
    fn next_arrival(&self) -> Option<Tick> {
        let call = self.workload.calls.get(self.next)?;
        match self.workload.pace {
            Pace::Workers { .. } => self.narrow_start().map(|(_, until)| until),
            Pace::Arrivals => Some(Tick::ZERO.saturating_add(call.at)),
        }
    }

    fn request(&self, index: usize) -> Request {
        let call = self.workload.calls.get(index).copied().unwrap_or_default();
        let model = call.model as usize;
        let labels = self.pool.labels.get(model).copied().unwrap_or_default();
        let cap = self.pool.token_caps.get(model).copied().flatten();
        let cost = Cost {
            requests: 1,
            tokens: clamped(call.reserved).min(cap.unwrap_or(0)),
        };
        let mut request = Request::new().class(call.model).cost(cost).labels(labels);
        if let Some(key) = call.key.filter(|_| self.uses_key) {
            request = request.key(key);
        }
        match self.max_wait {
            Some(max_wait) => request.deadline(self.now.saturating_add(max_wait)),
            None => request,
        }
    }

    fn begin(&mut self, index: usize, grant: &Grant) {
        let member = self.pool.pool.payload(grant.member).copied().unwrap_or(0);
        let time = self.workload.time_of(index, member);
        let ended = self.now.saturating_add(time);
        self.leases.insert(index, grant.lease);
        self.ending.push(Reverse((ended, index)));
        let granted = self.now;
        self.set_fate(
            index,
            Fate::Served {
                member,
                granted,
                ended,
            },
        );
    }

    fn set_fate(&mut self, index: usize, fate: Fate) {
        if let Some(call) = self.calls.get_mut(index) {
            call.fate = fate;
        }
    }
}

/// A count of tokens as limits count them.
fn clamped(tokens: u64) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
