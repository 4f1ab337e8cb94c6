//! The end of leases: outcomes are learnt from, costs settled, members handed over.

use super::charges::Charge;
use super::drive::Pool;
use super::error::StaleLease;
use super::event::Event;
use super::fast_failures::FastFailure;
use super::ids::{GroupIndex, LeaseId};
use super::leases::Lease;
use super::member_state::Status;
use super::outcome::{LeaseEnd, Outcome, Release};
use crate::balance::Policy;
use crate::health::CallResult;
use crate::limit::{Cost, Unit};
use crate::time::Tick;
use crate::util::slab::Handle;
use core::time::Duration;

impl<T> Pool<T> {
    /// Releases a lease.
    ///
    /// # Errors
    /// [`StaleLease`] where it was released before or has expired; its call then counts as completed at
    /// that time.
    pub fn release(
        &mut self,
        now: Tick,
        lease: LeaseId,
        release: impl Into<Release>,
    ) -> Result<(), StaleLease> {
        self.advance(now);
        let handle = lease.within(self.config.id).ok_or(StaleLease)?;
        self.finish_lease(handle, LeaseEnd::Released(release.into()))?;
        self.hand_over();
        Ok(())
    }

    /// Extends a lease to a whole time to live from now; the tick at which it then expires. Where charges are logged,
    /// they are due before its holder goes by that.
    ///
    /// # Errors
    /// [`StaleLease`] where it was released before or has expired.
    pub fn renew(&mut self, now: Tick, lease: LeaseId) -> Result<Option<Tick>, StaleLease> {
        self.advance(now);
        let handle = lease.within(self.config.id).ok_or(StaleLease)?;
        let fence = self.leases.get(handle).ok_or(StaleLease)?.fence;
        let expires = self.set_expiry(handle);
        if let (Some(log), Some(expires)) = (&mut self.charges, expires) {
            log.record_renewal(fence, expires, self.clock.now);
        }
        Ok(expires)
    }

    /// Learns that the call of a lease has arrived at the upstream, as response headers prove.
    ///
    /// Windows that count requests from completion count this one from now on, so that a long response does not
    /// hold up the next request. Tokens and concurrency stay booked until the release. Again for the same
    /// lease, it has no effect.
    ///
    /// # Errors
    /// [`StaleLease`] where it was released before or has expired.
    pub fn arrived(&mut self, now: Tick, lease: LeaseId) -> Result<(), StaleLease> {
        self.advance(now);
        let now = self.clock.now;
        let handle = lease.within(self.config.id).ok_or(StaleLease)?;
        let lease = self.leases.get_mut(handle).ok_or(StaleLease)?;
        let member = self.members.get_mut(lease.member).ok_or(StaleLease)?;
        let (flowing, cost) = (lease.flow_booking(), lease.cost);
        let is_first = !lease.booked.member.has_arrived();
        if let Some(log) = self.charges.as_mut().filter(|_| is_first) {
            let lease = lease.fence;
            log.push(Charge::Arrived { lease, at: now });
        }
        let booked = &mut lease.booked;
        member.limits.arrive(now, &mut booked.member, cost);
        if let Some(grouped) = &mut booked.group {
            self.shared.arrive_group(now, grouped, cost);
        }
        if let Some(pooled) = &mut booked.pool {
            self.shared.arrive_pool(now, pooled, cost);
        }
        let flow = lease.flow;
        if let Some(flowing) = flowing {
            self.flows.arrive(now, flow, flowing, cost);
        }
        let (slot, group) = (lease.member.slot(), lease.booked.group);
        self.reindex(slot);
        self.rejudge_flow(flow);
        self.reindex_held_back(group.map(|(group, _)| group));
        self.hand_over();
        Ok(())
    }

    /// Judges the members again that a group's limit held back until now.
    pub(super) fn reindex_held_back(&mut self, group: Option<GroupIndex>) {
        if let Some(group) = group {
            for slot in self.shared.take_held_back(group) {
                self.reindex(slot);
            }
        }
    }

    /// Ends a lease.
    pub(super) fn finish_lease(&mut self, handle: Handle, end: LeaseEnd) -> Result<(), StaleLease> {
        let lease = self.leases.remove(handle).ok_or(StaleLease)?;
        let sequence = self.clock.next_sequence();
        let held = self.clock.now.nanos_since(lease.granted);
        let member = self.members.get_mut(lease.member).ok_or(StaleLease)?;
        member.record_end(self.clock.now, sequence, &end, held);
        let group = lease.booked.group.map(|(group, _)| group);
        self.figures.record_end(&end, held);
        let ending = Ending::new(&lease, &end, Duration::from_nanos(held));
        let is_first_success = self.learn(&lease, &ending);
        self.settle(&lease, ending.cost);
        if let Some(log) = &mut self.charges {
            log.push(Charge::Ended {
                lease: lease.fence,
                cost: ending.cost,
                at: self.clock.now,
            });
        }
        self.tell_breaker(&lease, &ending);
        if is_first_success {
            let usual = self.times.service.mean(lease.class);
            for handle in self.fast_failures.set_usual_time(lease.class, usual) {
                if let Some(member) = self.members.get_mut(handle) {
                    member.untimed_failures = member.untimed_failures.saturating_sub(1);
                    self.reindex(handle.slot());
                }
            }
            self.end_fast_failures();
        }
        if ending.is_fast_failure() {
            self.penalize_fast_failure(&lease);
        }
        self.reindex_after_use(lease.member);
        self.reindex_held_back(group);
        self.finish_drain(lease.member);
        Ok(())
    }

    /// Learns from an outcome; returns whether it is the first success of its class.
    fn learn(&mut self, lease: &Lease, ending: &Ending) -> bool {
        let now = self.clock.now;
        let Some(member) = self.members.get_mut(lease.member) else {
            return false;
        };
        // Without the time that it waited at the member behind others.
        let was_sent = ending.outcome != Some(Outcome::NotSent);
        let span = member.backlog.end(lease.fence, now, was_sent);
        let service = span.map(|nanos| ending.told.unwrap_or(Duration::from_nanos(nanos)));
        let mut is_first_success = false;
        match ending.outcome {
            Some(Outcome::Ok) => {
                if let Some(took) = service {
                    member.service.observe(lease.class, took);
                }
                is_first_success = self.times.observe(now, lease.class, ending.latency);
                if let Some(latency) = &mut member.latency {
                    latency.observe(now, ending.latency);
                }
                if let Some(health) = &mut member.health {
                    health.outcomes.record(true);
                }
            }
            Some(Outcome::Failed) | None => {
                if let Some(health) = &mut member.health {
                    health.outcomes.record(false);
                }
            }
            Some(Outcome::Throttled { until }) => {
                member.cool_down(until);
                member.limits.observe(now, Unit::Requests, 0, until);
                if let Some(log) = &mut self.charges {
                    log.record_observation(now, member.identity, Unit::Requests, 0, until);
                }
            }
            Some(Outcome::NotSent) => member.take_back_grant(lease.stride),
            Some(Outcome::Unknown) => {}
        }
        if ending.is_fast_failure()
            && let (Some(fleet), Some(own)) = (&self.times.latency, &mut member.latency)
            // A failure is no faster than a success, as far as that is known.
            && let Some(least) = own.estimate(now).max(fleet.estimate(now))
        {
            own.observe(now, ending.latency.max(least));
        }
        is_first_success
    }

    /// Settles what was booked at the real cost.
    fn settle(&mut self, lease: &Lease, actual: Cost) {
        let now = self.clock.now;
        let Some(member) = self.members.get_mut(lease.member) else {
            return;
        };
        member
            .limits
            .settle(now, lease.booked.member, lease.cost, actual);
        if let Some(grouped) = lease.booked.group {
            self.shared.settle_group(now, grouped, lease.cost, actual);
        }
        if let Some(booked) = lease.booked.pool {
            self.shared.settle_pool(now, booked, lease.cost, actual);
        }
        if let Some(booked) = lease.flow_booking() {
            self.flows
                .settle(now, lease.flow, booked, lease.cost, actual);
            self.rejudge_flow(lease.flow);
        }
    }

    fn tell_breaker(&mut self, lease: &Lease, ending: &Ending) {
        if !self.has_breakers() {
            return;
        }
        let now = self.clock.now;
        let Some((config, health)) = self
            .members
            .get_mut(lease.member)
            .and_then(|member| member.breaker_mut(&self.config))
        else {
            return;
        };
        if let Some(permit) = lease.permit {
            let result = ending.call_result();
            health.breaker.end(&config, now, permit, result);
        }
        if let Some(Outcome::Throttled { until }) = ending.outcome {
            health.breaker.trip(&config, now, until);
        }
        self.note_breaker(lease.member);
    }

    /// Keeps counting a failure as in flight until a success would have finished. A member that fails fast then
    /// attracts no traffic. The end is set once the time that a success takes is known.
    fn penalize_fast_failure(&mut self, lease: &Lease) {
        let policy = self.config.policy;
        let counts = (policy.uses_load() || policy.uses_work()) && policy != Policy::Fifo;
        if !counts {
            return;
        }
        let failure = FastFailure {
            member: lease.member,
            granted: lease.granted,
            class: lease.class,
        };
        let usual = self.times.service.mean(lease.class);
        if self.fast_failures.add(failure, usual, self.clock.as_of)
            && let Some(member) = self.members.get_mut(lease.member)
        {
            member.fast_failures = member.fast_failures.saturating_add(1);
            if usual.is_none() {
                member.untimed_failures = member.untimed_failures.saturating_add(1);
            }
        }
    }

    /// Stops counting the fast failures whose time has come.
    pub(super) fn end_fast_failures(&mut self) {
        while let Some(handle) = self.fast_failures.pop_due(self.clock.as_of) {
            if let Some(member) = self.members.get_mut(handle) {
                member.fast_failures = member.fast_failures.saturating_sub(1);
                self.reindex(handle.slot());
            }
        }
    }

    /// If the member's last lease has ended, tells that it is drained, or removes it.
    pub(super) fn finish_drain(&mut self, handle: Handle) {
        let Some(member) = self.members.get(handle).filter(|it| it.in_flight == 0) else {
            return;
        };
        let id = self.members.id(handle);
        match member.status {
            Status::Enabled | Status::Disabled => {}
            Status::Draining => self.events.push_back(Event::Drained { member: id }),
            Status::Removing => {
                if let Some(payload) = self.forget_member(handle) {
                    self.events.push_back(Event::Removed {
                        member: id,
                        payload,
                    });
                }
            }
        }
    }
}

/// The end of a lease, read.
#[derive(Clone, Copy, Debug)]
struct Ending {
    /// `None` for an expiry.
    outcome: Option<Outcome>,
    /// The real cost.
    cost: Cost,
    latency: Duration,
    /// The latency that the release told.
    told: Option<Duration>,
}

impl Ending {
    fn new(lease: &Lease, end: &LeaseEnd, held: Duration) -> Self {
        match end {
            LeaseEnd::Released(release) => Self {
                outcome: Some(release.outcome),
                cost: match release.outcome {
                    Outcome::NotSent => Cost::default(),
                    Outcome::Ok
                    | Outcome::Failed
                    | Outcome::Throttled { .. }
                    | Outcome::Unknown => release.cost.unwrap_or(lease.cost),
                },
                latency: release.latency.unwrap_or(held),
                told: release.latency,
            },
            LeaseEnd::Expired => Self {
                outcome: None,
                cost: lease.cost,
                latency: held,
                told: None,
            },
        }
    }

    /// Whether it may have ended faster than a success, without having served.
    fn is_fast_failure(&self) -> bool {
        match self.outcome {
            Some(Outcome::Failed | Outcome::Throttled { .. }) | None => true,
            Some(Outcome::Ok | Outcome::Unknown | Outcome::NotSent) => false,
        }
    }

    fn call_result(&self) -> CallResult {
        match self.outcome {
            Some(Outcome::Ok) => CallResult::Ok,
            Some(Outcome::Failed) | None => CallResult::Failed,
            // A throttle opens the breaker by itself.
            Some(Outcome::Throttled { .. } | Outcome::Unknown | Outcome::NotSent) => {
                CallResult::Unused
            }
        }
    }
}
