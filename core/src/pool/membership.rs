//! Who is in the pool, and what operators change of it.

use super::hold_times::Recent;
use super::member::{Details, Entry, FailureCounts, State, Watch};
use super::service_times::ServiceTimes;
use super::{AddError, Event, Group, GroupId, Member, MemberId, Pool, StaleMember, WaiterId};
use crate::balance::PeakEwma;
use crate::health::SlowStart;
use crate::limit::{LimitSet, Unit};
use crate::pool::stats::Histogram;
use crate::random::mix;
use crate::time::Tick;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::num::NonZeroU32;

impl<T> Pool<T> {
    /// Makes a group of members that will share these limits besides their own.
    pub fn add_group(&mut self, limits: LimitSet) -> GroupId {
        self.groups.push(Group {
            limits,
            members: Vec::new(),
            holds_back: false,
        });
        let len = u32::try_from(self.groups.len())
            .ok()
            .and_then(NonZeroU32::new);
        GroupId(len.unwrap_or(NonZeroU32::MAX))
    }

    /// Adds a member, last in line.
    ///
    /// # Errors
    /// Where the pool has had four billion members at once, or the member's group is unknown.
    pub fn add(&mut self, now: Tick, member: Member<T>) -> Result<MemberId, AddError> {
        self.advance(now);
        if let Some(group) = member.group
            && self.groups.get(group.index()).is_none()
        {
            return Err(AddError::NoSuchGroup(group));
        }
        let stamp = self.next_stamp();
        let mut slow_start = SlowStart::default();
        slow_start.begin(self.now);
        let seed = self.config.seed.wrapping_add(self.added);
        self.added = self.added.wrapping_add(1);
        let details = Details {
            held: Histogram::default(),
            failure_counts: FailureCounts::default(),
            watch: None,
            slow_start,
            pass: self.levels.get(&member.tier).copied().unwrap_or(0),
            depth: None,
            unseen: 0,
            unseen_by_probe: 0,
            latency: self.latency.as_ref().map(PeakEwma::another),
            service: ServiceTimes::default(),
            labels: member.labels,
            identity: 0,
            payload: member.payload,
        };
        let mut entry = Entry {
            state: State::Enabled,
            tier: member.tier,
            weight: member.weight,
            max_leases: member.max_leases,
            in_flight: 0,
            phantoms: 0,
            stamp,
            group: member.group,
            counted: None,
            is_watched: false,
            details: Box::new(details),
            limits: member.limits,
            recent: Recent::default(),
        };
        entry.set_watch(Watch::new(&self.config, self.now, seed));
        let handle = self.members.insert(entry).ok_or(AddError::TooManyMembers)?;
        let slot = handle.slot();
        if let Some(group) = member
            .group
            .and_then(|group| self.groups.get_mut(group.index()))
        {
            group.members.push(slot);
        }
        if let Some(entry) = self.members.get_mut(handle) {
            entry.details.identity = member.identity.unwrap_or_else(|| mix(u64::from(slot)));
        }
        for lane in self.general.clone() {
            self.enroll(lane, slot);
        }
        self.look_after(handle);
        self.serve();
        Ok(MemberId(handle))
    }

    /// Takes a member out. Its payload comes back at once if no lease is held on it; otherwise no more
    /// are granted, and an [`Event::Removed`] brings it with the last release or expiry. Requests that
    /// are pinned to it are told by an [`Event::PinnedMemberRemoved`].
    ///
    /// # Errors
    /// Where it was removed before.
    pub fn remove(&mut self, now: Tick, member: MemberId) -> Result<Option<T>, StaleMember> {
        self.advance(now);
        let entry = self.member_mut(member)?;
        entry.state = State::Removing;
        let idle = entry.in_flight == 0;
        for lane in self.pins.remove(&member.0.slot()).unwrap_or_default() {
            while let Some((waiter, _)) = self.waiters.pop(lane) {
                self.waiting.refused = self.waiting.refused.saturating_add(1);
                self.events.push_back(Event::PinnedMemberRemoved {
                    waiter: WaiterId(waiter),
                });
            }
            self.drop_lane(lane);
        }
        self.look_after(member.0);
        self.leave_lanes(member.0);
        let gone = if idle { self.forget(member.0) } else { None };
        self.serve();
        Ok(gone)
    }

    /// Grants no more leases on a member, and tells by an [`Event::Drained`] when none is held on it.
    ///
    /// # Errors
    /// Where it was removed.
    pub fn drain(&mut self, now: Tick, member: MemberId) -> Result<(), StaleMember> {
        self.set_state(now, member, State::Draining)?;
        self.see_off(member.0);
        Ok(())
    }

    /// Grants no more leases on a member until it is enabled.
    ///
    /// # Errors
    /// Where it was removed.
    pub fn disable(&mut self, now: Tick, member: MemberId) -> Result<(), StaleMember> {
        self.set_state(now, member, State::Disabled)
    }

    /// Grants leases on a member that was drained or disabled.
    ///
    /// # Errors
    /// Where it was removed.
    pub fn enable(&mut self, now: Tick, member: MemberId) -> Result<(), StaleMember> {
        self.set_state(now, member, State::Enabled)
    }

    /// Gives a member another share of the calls; 0 drains it, without telling when that is done. What it
    /// has served and holds counts as before.
    ///
    /// # Errors
    /// Where it was removed.
    pub fn set_weight(
        &mut self,
        now: Tick,
        member: MemberId,
        weight: u16,
    ) -> Result<(), StaleMember> {
        self.advance(now);
        self.member_mut(member)?.weight = weight;
        self.reweigh(member.0);
        self.look_after(member.0);
        self.serve();
        Ok(())
    }

    /// Gives a member other limits. The leases that are held on it count in them as if they had been granted
    /// now; what has ended before doesn't. O(leases).
    ///
    /// # Errors
    /// Where it was removed.
    pub fn set_limits(
        &mut self,
        now: Tick,
        member: MemberId,
        limits: LimitSet,
    ) -> Result<(), StaleMember> {
        self.advance(now);
        let now = self.now;
        let entry = self
            .members
            .get_mut(member.0)
            .filter(|entry| entry.state != State::Removing)
            .ok_or(StaleMember)?;
        entry.limits = limits;
        for (_, lease) in self.leases.iter_mut() {
            if lease.member == member.0 {
                lease.booked.member = entry.limits.charge(now, lease.class, lease.cost);
            }
        }
        self.place(member.0);
        self.serve();
        Ok(())
    }

    /// Learns that a member's upstream will serve only `remaining` more of a unit until `reset`, besides
    /// what is in flight. That tightens the member's limits and never loosens them.
    ///
    /// # Errors
    /// Where it was removed.
    pub fn observe(
        &mut self,
        now: Tick,
        member: MemberId,
        unit: Unit,
        remaining: u32,
        reset: Tick,
    ) -> Result<(), StaleMember> {
        self.advance(now);
        let now = self.now;
        let entry = self.member_mut(member)?;
        entry.limits.observe(now, unit, remaining, reset);
        self.place(member.0);
        self.serve();
        Ok(())
    }

    fn set_state(&mut self, now: Tick, member: MemberId, state: State) -> Result<(), StaleMember> {
        self.advance(now);
        self.member_mut(member)?.state = state;
        self.look_after(member.0);
        self.serve();
        Ok(())
    }

    pub(super) fn member(&self, member: MemberId) -> Option<&Entry<T>> {
        self.members
            .get(member.0)
            .filter(|entry| entry.state != State::Removing)
    }

    pub(super) fn member_mut(&mut self, member: MemberId) -> Result<&mut Entry<T>, StaleMember> {
        self.members
            .get_mut(member.0)
            .filter(|entry| entry.state != State::Removing)
            .ok_or(StaleMember)
    }
}
