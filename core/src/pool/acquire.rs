//! From a request to a lease, a place in the queue or a refusal.

use super::charges::Charge;
use super::drive::Pool;
use super::eligibility::{Cause, Readiness};
use super::error::{AcquireError, StaleWaiter};
use super::event::{Acquired, Event, Grant};
use super::ids::{LeaseId, WaiterId};
use super::leases::{Bookings, Lease};
use super::postpone::Origin;
use super::request::Request;
use crate::balance::pass;
use crate::limit::{Cost, LimitSet};
use crate::time::Tick;
use crate::util::slab::Handle;
use core::time::Duration;

impl<T> Pool<T> {
    /// Asks for a lease.
    ///
    /// # Errors
    /// [`AcquireError`] where the request is refused at once. [`explain`](Self::explain) then says why,
    /// member by member.
    pub fn acquire(&mut self, now: Tick, request: Request) -> Result<Acquired, AcquireError> {
        self.advance(now);
        let answer = self.grant_or_queue(request);
        if answer.is_err() {
            self.figures.record_refusal();
        }
        self.hand_over();
        answer
    }

    /// Cancels a queued request.
    ///
    /// # Errors
    /// [`StaleWaiter`] where the request no longer waits; an event says what became of it.
    pub fn cancel(&mut self, now: Tick, waiter: WaiterId) -> Result<(), StaleWaiter> {
        self.advance(now);
        let handle = waiter.within(self.config.id).ok_or(StaleWaiter)?;
        let left = self.queue.remove(handle).ok_or(StaleWaiter)?;
        self.figures.record_cancellation();
        self.waiter_left(left.lane);
        self.rejudge_flow(left.request.flow);
        self.hand_over();
        Ok(())
    }

    /// Refuses requests from now on, and sends the queued ones away. Leases stay valid until released.
    pub fn close(&mut self, now: Tick) {
        self.advance(now);
        self.is_closed = true;
        for waiter in self.queue.by_arrival() {
            let Some(left) = self.queue.remove(waiter) else {
                continue;
            };
            self.figures.record_cancellation();
            self.events.push_back(Event::Closed {
                waiter: WaiterId::new(self.config.id, waiter),
            });
            self.waiter_left(left.lane);
        }
    }

    fn grant_or_queue(&mut self, request: Request) -> Result<Acquired, AcquireError> {
        if self.is_closed {
            return Err(AcquireError::Closed);
        }
        let lane = self.lane_of(&request)?;
        let answer = self.grant_or_queue_in(lane, request);
        self.lanes.remove_if_pinned_and_idle(lane);
        answer
    }

    fn grant_or_queue_in(&mut self, lane: u32, request: Request) -> Result<Acquired, AcquireError> {
        let weight = self.flow_weight(&request);
        let held_back = self.held_back_by_flow(&request);
        let next = self.queue.next(lane);
        let is_first = self.queue.len_of(lane) == 0 || {
            let turn = self.queue.turn_of(lane, &request, weight);
            turn.is_some_and(|turn| next.is_none_or(|(head, _)| turn < head))
        };
        let held_back = held_back.map(|reason| reason.row());
        let mut readiness = held_back.map_or(Readiness::AnyTime, |row| row.readiness);
        let is_tried = is_first && held_back.is_none() && self.leases.has_room();
        if is_tried {
            let may_wait = self.config.weighs_by_time()
                && self.queue.len() < self.config.max_waiters
                && !self.is_flow_queue_full(&request);
            match self.select(lane, &request, Origin::Caller { may_wait }) {
                Ok(slot) => {
                    if next.is_some() {
                        // Its flow has had its turn of this round.
                        self.queue.push(lane, self.clock.now, request, weight);
                        self.queue.pop(lane);
                        self.flag_lanes_of(&request);
                        // The lane was judged for this request's cost, and goes back to that of its head.
                        self.lanes.flag(lane);
                    }
                    let grant = self.grant(lane, slot, &request, self.clock.now, false);
                    let full = AcquireError::QueueFull { cause: Cause::Full };
                    return grant.map(Acquired::Granted).ok_or(full);
                }
                Err(other) => readiness = other,
            }
            // The lane was judged for this request's cost, and goes back to that of its head.
            self.lanes.flag(lane);
        }
        let cause = |pool: &Self| match held_back {
            Some(row) => row.cause.unwrap_or(Cause::BehindOthers),
            None if is_tried => pool.cause(lane, &request),
            None => pool.cause_of_head(lane),
        };
        self.check_in_time(&request, readiness, cause)?;
        if self.is_flow_queue_full(&request) {
            let cause = cause(self);
            return Err(AcquireError::FlowQueueFull { cause });
        }
        if self.queue.len() >= self.config.max_waiters {
            let cause = cause(self);
            return Err(AcquireError::QueueFull { cause });
        }
        let Some(waiter) = self.queue.push(lane, self.clock.now, request, weight) else {
            return Err(AcquireError::QueueFull { cause: Cause::Full });
        };
        if self.queue.len_of(lane) == 1 {
            self.lanes.set_awaited(lane, true);
        }
        if held_back.is_some() && self.queue.is_head(waiter) {
            self.judge_head(waiter);
        }
        Ok(Acquired::Waiting(WaiterId::new(self.config.id, waiter)))
    }

    /// Refuses a request that can't be served by its deadline, or ever.
    fn check_in_time(
        &self,
        request: &Request,
        readiness: Readiness,
        cause: impl Fn(&Self) -> Cause,
    ) -> Result<(), AcquireError> {
        if request.cost != Cost::REQUEST && !self.fits(request) {
            return Err(AcquireError::NeverFits);
        }
        let Some(deadline) = request.deadline else {
            return Ok(());
        };
        if deadline <= self.clock.now {
            let cause = cause(self);
            return Err(AcquireError::NotReady { cause });
        }
        if let Readiness::At(at) = readiness
            && at >= deadline
            && !self.leases.may_be_refunded()
        {
            let cause = cause(self);
            return Err(AcquireError::DeadlineTooSoon { at, cause });
        }
        Ok(())
    }

    /// Whether the limits of the pool, of the flow and of some member that the request may go to would ever admit it. A
    /// request without any such member may wait for one.
    fn fits(&self, request: &Request) -> bool {
        let (class, cost) = (request.class, request.cost);
        let admits = |limits: &LimitSet| limits.fits(class, cost);
        let Ok(key) = self.lane_key(request) else {
            return false;
        };
        let sets = &self.label_sets;
        let mut matching = self
            .members
            .iter()
            .filter(|(handle, member)| member.matches(*handle, &key, sets) && !member.is_leaving())
            .peekable();
        let has_none = matching.peek().is_none();
        let fits = matching.any(|(_, member)| {
            let group = member.group.and_then(|group| self.shared.group(group));
            admits(&member.limits) && group.is_none_or(admits)
        });
        let flow_fits = self.flows.is_empty() || self.flows.fits(request.flow, class, cost);
        (has_none || fits) && flow_fits && admits(self.shared.pool())
    }

    /// Makes the lease on a selected member.
    pub(super) fn grant(
        &mut self,
        lane: u32,
        slot: u32,
        request: &Request,
        since: Tick,
        is_queued: bool,
    ) -> Option<Grant> {
        let handle = self.members.handle_at(slot)?;
        let fence = self.leases.next_fence();
        let lease = self.book(handle, request, fence)?;
        let tier = self.members.get(handle)?.tier;
        self.lanes.chosen(slot, tier);
        self.assign_session(lane, request, handle);
        self.reindex_after_use(handle);
        self.rejudge_flow(request.flow);
        let waited = self.clock.now.nanos_since(since);
        self.figures.record_grant(waited, is_queued);
        let expires = self.set_expiry(lease);
        self.log_grant(handle, request, fence, expires);
        Some(Grant {
            lease: LeaseId::new(self.config.id, lease),
            member: self.members.id(handle),
            fence,
            waited: Duration::from_nanos(waited),
            expires,
        })
    }

    /// Records a grant in the log of charges, if one is kept.
    fn log_grant(&mut self, handle: Handle, request: &Request, fence: u64, expires: Option<Tick>) {
        let Some(log) = &mut self.charges else {
            return;
        };
        // Where other limits than the member's count too, each lease is written by itself; and so is one that outlives a
        // crash, because what a block covers ends with it.
        let has_blocks =
            !self.by_class && self.flows.is_empty() && self.shared.is_empty() && expires.is_none();
        if let Some(member) = self.members.get_mut(handle) {
            let charge = Charge::Granted {
                lease: fence,
                member: member.identity,
                class: request.class,
                flow: request.flow,
                cost: request.cost,
                at: self.clock.now,
                expires,
            };
            log.record_grant(charge, request.cost, member, has_blocks);
        }
    }

    /// Books a request on a member: its limits, its breaker and its counts.
    fn book(&mut self, handle: Handle, request: &Request, fence: u64) -> Option<Handle> {
        let now = self.clock.now;
        let sequence = self.clock.next_sequence();
        let (class, cost) = (request.class, request.cost);
        let policy = self.config.policy;
        let has_breakers = self.has_breakers();
        let member = self.members.get_mut(handle)?;
        let tier = member.tier;
        let floor = member.pass;
        let mut stride = 0;
        if policy.uses_pass() {
            stride = pass(member.weight_at(&self.config, now));
        }
        member.record_grant(now, sequence, stride, policy.uses_work());
        if self.config.weighs_by_time() {
            let expected = member.service.estimate(class);
            member.backlog.push(fence, now, expected);
        }
        let booked = Bookings {
            member: member.limits.charge(now, class, cost),
            group: member
                .group
                .and_then(|group| self.shared.charge_group(group, now, class, cost)),
            pool: self.shared.charge_pool(now, class, cost),
            flow: match self.flows.is_empty() {
                true => None,
                false => self.flows.charge(now, request.flow, class, cost),
            },
        };
        let breaker = match has_breakers {
            true => member.breaker_mut(&self.config),
            false => None,
        };
        let permit = breaker.and_then(|(config, health)| health.breaker.begin(&config, now));
        if policy.uses_pass() {
            self.members.pass_floors.insert(tier, floor);
        }
        self.leases.insert(Lease {
            member: handle,
            fence,
            granted: now,
            class,
            flow: request.flow,
            cost,
            stride,
            booked,
            permit,
            ttl: request.ttl,
        })
    }

    /// Sets the expiry of a lease a whole time to live from now.
    pub(super) fn set_expiry(&mut self, lease: Handle) -> Option<Tick> {
        let own = self.leases.get(lease)?.ttl;
        let expires = self
            .clock
            .now
            .saturating_add(own.or(self.config.lease_ttl)?);
        let sequence = self.clock.next_sequence();
        self.leases.set_expiry(lease, expires, sequence);
        Some(expires)
    }
}
