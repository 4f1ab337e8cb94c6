//! Commands that add, change and remove members.

use super::drive::Pool;
use super::error::{AddError, StaleMember};
use super::event::Event;
use super::ids::{GroupId, MemberId, WaiterId};
use super::member::{Member, MemberHealth, MemberState, Status};
use super::stats::MemberFigures;
use super::times::ServiceTimes;
use crate::health::SlowStart;
use crate::limit::{LimitSet, Unit};
use crate::random::mix;
use crate::time::Tick;
use crate::util::slab::Handle;

impl<T> Pool<T> {
    /// Adds a group, whose members share these limits besides their own.
    pub fn add_group(&mut self, limits: LimitSet) -> GroupId {
        GroupId::new(self.config.id, self.shared.add_group(limits))
    }

    /// Adds a member, behind the others in the order of policies that take turns.
    ///
    /// # Errors
    /// [`AddError`] where the member's group is of another pool, or the pool has had four billion members.
    pub fn add(&mut self, now: Tick, member: Member<T>) -> Result<MemberId, AddError> {
        self.advance(now);
        let now = self.clock.now;
        let group = match member.group {
            Some(id) => {
                let group = id.within(self.config.id);
                let group = group.filter(|group| self.shared.group(*group).is_some());
                Some(group.ok_or(AddError::NoSuchGroup(id))?)
            }
            None => None,
        };
        let seed = self.config.seed.wrapping_add(self.members.added);
        self.members.added = self.members.added.wrapping_add(1);
        let mut slow_start = SlowStart::default();
        slow_start.begin(now);
        let pass_floor = self.members.pass_floors.get(&member.tier);
        let state = MemberState {
            status: Status::Enabled,
            tier: member.tier,
            weight: member.weight,
            max_leases: member.max_leases,
            in_flight: 0,
            fast_failures: 0,
            untimed_failures: 0,
            last_used_seq: self.clock.next_sequence(),
            group,
            counted: None,
            limits: member.limits,
            health: MemberHealth::new(&self.config, now, seed),
            slow_start,
            pass: pass_floor.copied().unwrap_or(0),
            depth: None,
            granted_since_depth: 0,
            granted_since_probe: 0,
            latency: self.times.member_latency(),
            service: ServiceTimes::default(),
            labels: member.labels,
            identity: 0,
            figures: MemberFigures::default(),
            payload: member.payload,
        };
        let handle = self.members.insert(state).ok_or(AddError::TooManyMembers)?;
        let slot = handle.slot();
        if let Some(group) = group {
            self.shared.join(group, slot);
        }
        if let Some(state) = self.members.get_mut(handle) {
            state.identity = member.identity.unwrap_or_else(|| mix(slot.into()));
        }
        let (lanes, members, ctx) = self.indexing();
        if let Some(state) = members.get(handle) {
            lanes.enroll(slot, state, &ctx);
        }
        self.refresh(handle);
        self.hand_over();
        Ok(self.members.id(handle))
    }

    /// Removes a member. Its payload is returned if no lease is held on it; otherwise no more leases are
    /// granted, and an [`Event::Removed`] brings the payload when the last one ends. Requests pinned to it
    /// are sent away with an [`Event::PinnedMemberRemoved`].
    ///
    /// # Errors
    /// [`StaleMember`] where it was removed before.
    pub fn remove(&mut self, now: Tick, member: MemberId) -> Result<Option<T>, StaleMember> {
        self.advance(now);
        let (handle, state) = self.members.current_mut(member)?;
        state.status = Status::Removing;
        let is_idle = state.in_flight == 0;
        for lane in self.lanes.pinned_to(handle.slot()) {
            while let Some((_, waiter)) = self.queue.next(lane) {
                self.queue.remove(waiter);
                self.figures.record_refusal();
                self.events.push_back(Event::PinnedMemberRemoved {
                    waiter: WaiterId::new(self.config.id, waiter),
                });
            }
            self.lanes.remove(lane);
        }
        self.refresh(handle);
        if let Some(state) = self.members.get(handle) {
            self.lanes.withdraw(handle.slot(), state);
        }
        let payload = is_idle.then(|| self.forget_member(handle)).flatten();
        self.hand_over();
        Ok(payload)
    }

    /// Grants no more leases on a member, and tells by an [`Event::Drained`] when none is held on it.
    ///
    /// # Errors
    /// [`StaleMember`] where it was removed.
    pub fn drain(&mut self, now: Tick, member: MemberId) -> Result<(), StaleMember> {
        let handle = self.set_status(now, member, Status::Draining)?;
        self.finish_drain(handle);
        Ok(())
    }

    /// Grants no more leases on a member until it is enabled.
    ///
    /// # Errors
    /// [`StaleMember`] where it was removed.
    pub fn disable(&mut self, now: Tick, member: MemberId) -> Result<(), StaleMember> {
        self.set_status(now, member, Status::Disabled).map(drop)
    }

    /// Grants leases again on a member that was drained or disabled.
    ///
    /// # Errors
    /// [`StaleMember`] where it was removed.
    pub fn enable(&mut self, now: Tick, member: MemberId) -> Result<(), StaleMember> {
        self.set_status(now, member, Status::Enabled).map(drop)
    }

    fn set_status(
        &mut self,
        now: Tick,
        member: MemberId,
        status: Status,
    ) -> Result<Handle, StaleMember> {
        self.change(now, member, |state| state.status = status)
    }

    /// Changes a member's share of the calls. A weight of 0 drains it, without an event. Its past calls and
    /// leases count as before.
    ///
    /// # Errors
    /// [`StaleMember`] where it was removed.
    pub fn set_weight(
        &mut self,
        now: Tick,
        member: MemberId,
        weight: u16,
    ) -> Result<(), StaleMember> {
        self.change(now, member, |state| state.weight = weight)
            .map(drop)
    }

    /// Changes what decides whether and how much a member serves.
    fn change(
        &mut self,
        now: Tick,
        member: MemberId,
        change: impl FnOnce(&mut MemberState<T>),
    ) -> Result<Handle, StaleMember> {
        self.advance(now);
        let (handle, state) = self.members.current_mut(member)?;
        change(state);
        self.reweigh(handle);
        self.refresh(handle);
        self.hand_over();
        Ok(handle)
    }

    /// Replaces a member's limits. Leases held on it count in them as if granted now; leases that have ended
    /// don't count. O(leases).
    ///
    /// # Errors
    /// [`StaleMember`] where it was removed.
    pub fn set_limits(
        &mut self,
        now: Tick,
        member: MemberId,
        limits: LimitSet,
    ) -> Result<(), StaleMember> {
        self.advance(now);
        let now = self.clock.now;
        let (handle, state) = self.members.current_mut(member)?;
        state.limits = limits;
        for lease in self.leases.iter_mut() {
            if lease.member == handle {
                lease.booked.member = state.limits.charge(now, lease.class, lease.cost);
            }
        }
        self.reindex(handle.slot());
        self.hand_over();
        Ok(())
    }

    /// Learns that a member's upstream will serve only `remaining` more of a unit until `reset`, besides
    /// what is in flight. That tightens the member's limits and never loosens them.
    ///
    /// # Errors
    /// [`StaleMember`] where it was removed.
    pub fn observe(
        &mut self,
        now: Tick,
        member: MemberId,
        unit: Unit,
        remaining: u32,
        reset: Tick,
    ) -> Result<(), StaleMember> {
        self.advance(now);
        let now = self.clock.now;
        let (handle, state) = self.members.current_mut(member)?;
        state.limits.observe(now, unit, remaining, reset);
        self.reindex(handle.slot());
        self.hand_over();
        Ok(())
    }

    /// Removes every trace of a member.
    pub(super) fn forget_member(&mut self, handle: Handle) -> Option<T> {
        let slot = handle.slot();
        if let Some(member) = self.members.get(handle) {
            self.lanes.withdraw(slot, member);
        }
        let gone = self.members.remove(handle)?;
        if let Some(group) = gone.group {
            self.shared.leave(group, slot);
        }
        Some(gone.payload)
    }
}
