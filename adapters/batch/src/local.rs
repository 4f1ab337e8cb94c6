//! Leases of the run's own pool of keys.
//!
//! Invariant: a lease is handed out only once its charge is written, and not on a member that has to wait since.

use crate::account::{KeyPool, Slot, class_of};
use crate::batch::Batch;
use crate::charges::Charges;
use crate::error::BatchError;
use crate::lock;
use crate::members::Members;
use crate::queue::Task;
use crate::report::KeySummary;
use crate::source::{
    CallPlan, Called, Granted, KeyState, NoLease, OTHER_MEMBER_WAIT, Source, SourceReport, Step,
};
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::limit::Cost;
use leasehold_core::pool::{Eligibility, Outcome, Plan, Request};
use leasehold_core::time::Tick;
use leasehold_sync::{AcquireError, Lease, MemberId, PendingLease};
use std::sync::Mutex;

/// Time after which a task that waits for another member looks for one anew.
const OTHER_MEMBER_RECHECK: Duration = Duration::from_secs(2);

/// The pool of this process, with the charges that are kept of it.
pub(crate) struct Local<'a> {
    batch: &'a Batch,
    keys: &'a KeyPool,
    members: &'a Members<'a>,
    charges: Option<Mutex<Charges>>,
}

impl<'a> Local<'a> {
    pub(crate) fn new(
        batch: &'a Batch,
        keys: &'a KeyPool,
        members: &'a Members<'a>,
        charges: Option<Charges>,
    ) -> Self {
        Self {
            batch,
            keys,
            members,
            charges: charges.map(Mutex::new),
        }
    }

    /// Leases a member; for a task that members have failed, first one that has not.
    fn acquire(&self, task: &Task, cost: Cost) -> Result<Lease<Slot>, AcquireError> {
        let (keys, members) = (self.keys, self.members);
        let request = Request::new()
            .cost(cost)
            .class(class_of(task.model))
            .labels(keys.labels(task.model));
        let wait = |request| keys.pool.enqueue(request).and_then(PendingLease::wait);
        let until = members.now().saturating_add(OTHER_MEMBER_WAIT);
        while !task.tried.is_empty()
            && members.now() < until
            && let Some(other) = members.untried(task)
        {
            // Chosen again now and then: a key that is rejected meanwhile never becomes free.
            let deadline = members.now().saturating_add(OTHER_MEMBER_RECHECK);
            if let Ok(lease) = wait(request.pin(other).deadline(deadline.min(until))) {
                return Ok(lease);
            }
        }
        wait(request)
    }
}

impl Source for Local<'_> {
    type Member = Slot;

    fn now(&self) -> Tick {
        self.members.now()
    }

    fn lease(&self, task: &Task, cost: Cost) -> Result<Granted<Slot>, NoLease> {
        let lease = match self.acquire(task, cost) {
            Ok(lease) => lease,
            Err(AcquireError::NeverFits) => {
                let reason = "the request costs more than a limit ever admits; see --limit";
                return Err(NoLease::NeverFits(reason.to_owned()));
            }
            Err(_) => return Err(NoLease::Closed),
        };
        let written = self.write_charges();
        let members = self.members;
        // Since the grant, another call may have found that the model is wrong, or been told that the key has to wait.
        if written.is_err() || members.is_unserved(task.model) || members.is_resting(lease.member())
        {
            // A lease without a time to live can't have expired.
            let _ = lease.release(Outcome::NotSent);
            return Err(match written {
                Ok(()) => NoLease::Again,
                Err(error) => NoLease::Unwritten(error),
            });
        }
        let upstream = members.pick(&lease);
        Ok(Granted {
            lease,
            upstream,
            endpoint: self.batch.upstreams[upstream].endpoint.clone(),
        })
    }

    fn conclude(&self, lease: Lease<Slot>, called: Called<'_>) -> Step {
        self.members.conclude(lease, called)
    }

    fn has_untried(&self, task: &Task) -> bool {
        self.members.untried(task).is_some()
    }

    fn token_cap(&self, model: usize) -> Option<u32> {
        self.keys.token_cap(model)
    }

    fn write_charges(&self) -> Result<(), BatchError> {
        let Some(charges) = &self.charges else {
            return Ok(());
        };
        // Under the lock, so that a charge that another thread has taken is written before this returns.
        let mut charges = lock(charges);
        charges.write(self.keys.pool.take_charges(), |charge| {
            self.keys.log_of(charge, self.batch)
        })
    }

    fn is_unserved(&self, model: usize) -> bool {
        self.members.is_unserved(model)
    }

    fn is_over(&self) -> bool {
        self.members.is_over()
    }

    fn last_key_error(&self) -> Option<String> {
        self.members.last_key_error()
    }

    fn pause(&self, now: Tick) -> Option<(String, Tick)> {
        self.members.pause(now)
    }

    fn give_up(&self, now: Tick) {
        self.members.give_up(now);
    }

    fn outlook(&self, left: &[usize], plan: CallPlan) -> Option<Duration> {
        let request = |model: usize| {
            let cap = self.keys.token_cap(model).unwrap_or(0);
            let cost = Cost {
                requests: 1,
                tokens: plan.tokens.min(cap),
            };
            let labels = self.keys.labels(model);
            Request::new()
                .cost(cost)
                .class(class_of(model))
                .labels(labels)
        };
        let workers = u32::try_from(plan.workers).ok().and_then(NonZeroU32::new)?;
        // Those in flight have their leases.
        let mut in_flight = plan.in_flight;
        let mut requests = Plan::new(workers, plan.time);
        for (model, count) in left.iter().enumerate() {
            let begun = in_flight.min(*count);
            in_flight = in_flight.saturating_sub(begun);
            let count = count.saturating_sub(begun) as u64;
            requests = requests.requests(request(model), count);
        }
        self.keys.pool.forecast(&requests).ends_in
    }

    fn keys_now(&self) -> Vec<KeyState> {
        let stats = self.keys.pool.stats();
        let explained = self.keys.pool.explain(&Request::new());
        let now = self.now();
        let slot = |member: MemberId| {
            let mut members = self.keys.members.iter();
            members.find(|(id, _)| *id == member).map(|(_, slot)| slot)
        };
        let states = explained.into_iter().filter_map(|one| {
            let figures = stats.members.iter().find(|it| it.member == one.member)?;
            Some(KeyState {
                key: self.members.name_of(slot(one.member)?),
                calls: figures.counts.calls(),
                in_flight: figures.in_flight,
                is_free: one.eligibility == Eligibility::Ready,
                state: one.eligibility.to_string(),
                opens: one.eligibility.until(),
                rests_until: self.members.rests_until(one.member, now),
            })
        });
        states.collect()
    }

    fn closer(&self) -> Box<dyn Fn() + Send + 'static> {
        let pool = self.keys.pool.clone();
        Box::new(move || pool.close())
    }

    fn report(&self) -> SourceReport {
        let keys = self.batch.upstreams.iter().enumerate();
        let keys = keys.map(|(index, upstream)| KeySummary {
            rejected: self.members.is_rejected(index),
            ..KeySummary::new(&upstream.endpoint.key().to_string())
        });
        SourceReport {
            stopped: self.members.stopped(),
            keys: keys.collect(),
            pool: self.keys.pool.stats(),
        }
    }
}
