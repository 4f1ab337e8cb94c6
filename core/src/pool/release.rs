//! How leases end, and what a failure that was too quick leaves behind.

use super::member::State;
use super::request::Event;
use super::{Bookings, GroupId, Lease, LeaseId, MemberId, Outcome, Pool, Release, StaleLease};
use crate::balance::Policy;
use crate::health::CallResult;
use crate::limit::{Cost, Unit};
use crate::time::Tick;
use crate::util::slab::Handle;
use alloc::vec::Vec;
use core::time::Duration;

/// Failures that were quicker than a success and still count as leases, at most so many.
const MAX_PHANTOMS: u32 = 65_536;

/// A failure that still counts as a lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phantom {
    pub(super) member: Handle,
    granted: Tick,
    class: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    Released(Release),
    Expired,
}

impl<T> Pool<T> {
    pub(super) fn end(&mut self, lease: LeaseId, ending: Ending) -> Result<(), StaleLease> {
        let ended = self.leases.remove(lease.0).ok_or(StaleLease)?;
        self.expiries.remove(lease.0.slot());
        let stamp = self.next_stamp();
        let now = self.now;
        let held = now.since(ended.granted);
        let (outcome, cost, latency) = match ending {
            Ending::Released(release) => (Some(release.outcome), release.cost, release.latency),
            Ending::Expired => (None, None, None),
        };
        let latency = latency.unwrap_or(held);
        let entry = self.members.get_mut(ended.member).ok_or(StaleLease)?;
        entry.in_flight = entry.in_flight.saturating_sub(1);
        entry.stamp = stamp;
        self.held.record(held);
        let failure_counts = &mut entry.details.failure_counts;
        let (counter, missed) = match outcome {
            Some(Outcome::Ok) => (&mut self.total.ok, None),
            Some(Outcome::Failed) => (&mut self.total.failed, Some(&mut failure_counts.failed)),
            Some(Outcome::Throttled { .. }) => (
                &mut self.total.throttled,
                Some(&mut failure_counts.throttled),
            ),
            Some(Outcome::NotSent) => {
                (&mut self.total.not_sent, Some(&mut failure_counts.not_sent))
            }
            None => (&mut self.total.expired, Some(&mut failure_counts.expired)),
        };
        for counter in [Some(counter), missed].into_iter().flatten() {
            *counter = counter.saturating_add(1);
        }
        let mut actual = cost.unwrap_or(ended.cost);
        let mut quick = false;
        let mut first_served = false;
        let verdict = match outcome {
            Some(Outcome::Ok) => {
                if self.config.weighs_by_time() {
                    entry.details.service.observe(ended.class, latency);
                }
                first_served = self.service.mean(ended.class).is_none();
                self.service.observe(ended.class, latency);
                if let Some(fleet) = &mut self.latency {
                    fleet.observe(now, latency);
                    if let Some(own) = &mut entry.details.latency {
                        own.observe(now, latency);
                    }
                }
                if let Some(watch) = entry.watch_mut() {
                    watch.outcomes.record(true);
                }
                CallResult::Ok
            }
            Some(Outcome::Failed) | None => {
                if let Some(watch) = entry.watch_mut() {
                    watch.outcomes.record(false);
                }
                quick = true;
                CallResult::Failed
            }
            Some(Outcome::Throttled { until }) => {
                quick = true;
                entry.rest(until);
                entry.limits.observe(now, Unit::Requests, 0, until);
                CallResult::Unused
            }
            Some(Outcome::NotSent) => {
                entry.details.pass = entry.details.pass.saturating_sub(ended.stride);
                entry.details.unseen = entry.details.unseen.saturating_sub(1);
                entry.details.unseen_by_probe = entry.details.unseen_by_probe.saturating_sub(1);
                actual = Cost::default();
                CallResult::Unused
            }
        };
        if quick
            && let Some(fleet) = &self.latency
            && let Some(own) = &mut entry.details.latency
            // A failure is no quicker than a success, as far as that is known.
            && let Some(least) = own.estimate(now).max(fleet.estimate(now))
        {
            own.observe(now, latency.max(least));
        }
        let Bookings {
            member: own,
            group: in_group,
            pool: in_pool,
        } = ended.booked;
        let cost = ended.cost;
        entry.limits.settle(now, own, cost, actual);
        let group = entry.group;
        if let (Some(booked), Some(group)) = (
            in_group,
            group.and_then(|group| self.groups.get_mut(group.index())),
        ) {
            group.limits.settle(now, booked, cost, actual);
        }
        if let Some(booked) = in_pool {
            self.limits.settle(now, booked, cost, actual);
        }
        if let (Some(config), Some(watch)) = (&self.config.breaker, entry.watch_mut()) {
            if let Some(permit) = ended.permit {
                watch.breaker.end(config, now, permit, verdict);
            }
            if let Some(Outcome::Throttled { until }) = outcome {
                watch.breaker.trip(config, now, until);
            }
            self.note_breaker(ended.member);
        }
        if first_served {
            self.date_phantoms(ended.class);
        }
        if quick {
            self.leave_phantom(&ended);
        }
        if ended.cost != Cost::REQUEST {
            self.estimated = self.estimated.saturating_sub(1);
        }
        self.settle_in(ended.member);
        self.reopen(group);
        self.keep_span(ended.member, held);
        self.see_off(ended.member);
        Ok(())
    }

    /// Lets a failure that was quicker than a success go on counting as a lease until a success would have
    /// ended, so that who fails fast isn't given more for being idle. Until it is known how long one takes,
    /// there is no end to it.
    fn leave_phantom(&mut self, ended: &Lease) {
        let policy = self.config.policy;
        let counts = (policy.uses_load() || policy.uses_work()) && policy != Policy::Fifo;
        if !counts || self.phantoms.len() >= MAX_PHANTOMS {
            return;
        }
        let phantom = Phantom {
            member: ended.member,
            granted: ended.granted,
            class: ended.class,
        };
        let end = self.end_of(&phantom);
        if end <= self.as_of {
            return;
        }
        if let Some(handle) = self.phantoms.insert(phantom)
            && let Some(entry) = self.members.get_mut(ended.member)
        {
            entry.phantoms = entry.phantoms.saturating_add(1);
            let stamp = self.next_stamp();
            self.phantom_ends.set(handle.slot(), (end, stamp));
        }
    }

    /// When a success would have ended.
    fn end_of(&self, phantom: &Phantom) -> Tick {
        let usual = self.service.mean(phantom.class);
        usual.map_or(Tick::MAX, |usual| {
            phantom.granted.saturating_add(Duration::from_nanos(usual))
        })
    }

    /// Gives an end to the failures of a class whose first success has told how long one takes.
    fn date_phantoms(&mut self, class: u32) {
        let dated: Vec<_> = self
            .phantoms
            .iter()
            .filter(|(_, phantom)| phantom.class == class)
            .map(|(handle, phantom)| (handle.slot(), self.end_of(phantom)))
            .collect();
        for (slot, end) in dated {
            let stamp = self.next_stamp();
            self.phantom_ends.set(slot, (end, stamp));
        }
        self.end_phantoms();
    }

    #[inline]
    pub(super) fn end_phantoms(&mut self) {
        while let Some(((end, _), slot)) = self.phantom_ends.peek()
            && end <= self.as_of
        {
            self.phantom_ends.remove(slot);
            let phantom = self.phantoms.handle_at(slot);
            let Some(phantom) = phantom.and_then(|phantom| self.phantoms.remove(phantom)) else {
                continue;
            };
            if let Some(entry) = self.members.get_mut(phantom.member) {
                entry.phantoms = entry.phantoms.saturating_sub(1);
                self.place(phantom.member);
            }
        }
    }

    /// Looks again at those whom the limits of a group held back.
    fn reopen(&mut self, group: Option<GroupId>) {
        if let Some(group) = group.and_then(|group| self.groups.get_mut(group.index()))
            && core::mem::take(&mut group.holds_back)
        {
            for slot in group.members.clone() {
                if let Some(member) = self.members.handle_at(slot) {
                    self.place(member);
                }
            }
        }
    }

    /// Tells of a member that was only waiting for its last lease.
    #[inline]
    pub(super) fn see_off(&mut self, handle: Handle) {
        let Some(entry) = self.members.get(handle) else {
            return;
        };
        if entry.in_flight > 0 {
            return;
        }
        let member = MemberId(handle);
        match entry.state {
            State::Enabled | State::Disabled => {}
            State::Draining => self.events.push_back(Event::Drained { member }),
            State::Removing => {
                if let Some(payload) = self.forget(handle) {
                    self.events.push_back(Event::Removed { member, payload });
                }
            }
        }
    }

    /// Takes a member out of everything it is in.
    pub(super) fn forget(&mut self, member: Handle) -> Option<T> {
        self.leave_lanes(member);
        let slot = member.slot();
        let gone = self.members.remove(member)?;
        if let Some(group) = gone
            .group
            .and_then(|group| self.groups.get_mut(group.index()))
        {
            group.members.retain(|other| *other != slot);
        }
        self.timers.remove(slot);
        Some(gone.details.payload)
    }
}
