//! Commands that add, change and remove members.

use super::backlog::Backlog;
use super::drive::Pool;
use super::error::{AddError, StaleMember, UpdateError};
use super::event::Event;
use super::groups::replace;
use super::ids::{GroupId, GroupIndex, MemberId, WaiterId};
use super::labels::{LabelSet, Labels, TooManyLabelSets};
use super::member::{Member, MemberUpdate};
use super::member_state::{MemberHealth, MemberState, Status};
use super::stats::MemberFigures;
use super::times::ServiceTimes;
use crate::health::SlowStart;
use crate::limit::{Cost, LimitSet, Unit};
use crate::random::mix;
use crate::time::Tick;
use crate::util::slab::Handle;
use core::mem;

impl<T> Pool<T> {
    /// The set of these labels, which members have and requests need; their meaning is the caller's.
    ///
    /// # Errors
    /// [`TooManyLabelSets`] where the pool keeps 65,536 different sets already.
    pub fn labels(
        &mut self,
        labels: impl IntoIterator<Item = u32>,
    ) -> Result<Labels, TooManyLabelSets> {
        let set = self.label_sets.intern(labels).ok_or(TooManyLabelSets)?;
        Ok(Labels::new(self.config.id, set))
    }

    /// Adds a group, whose members share these limits besides their own.
    pub fn add_group(&mut self, limits: LimitSet) -> GroupId {
        if limits.counts_classes() {
            self.split_lanes_by_class();
            self.hand_over();
        }
        GroupId::new(self.config.id, self.shared.add_group(limits))
    }

    /// Adds a member, behind the others in the order of policies that take turns.
    ///
    /// # Errors
    /// [`AddError`] where the member's group is of another pool, or the pool has had four billion members.
    pub fn add(&mut self, now: Tick, member: Member<T>) -> Result<MemberId, AddError> {
        self.advance(now);
        let now = self.clock.now;
        let group = self.group_index(member.group);
        let group = group.map_err(AddError::NoSuchGroup)?;
        let labels = member.labels.within(self.config.id);
        let labels = labels.ok_or(AddError::ForeignLabels)?;
        if member.limits.counts_classes() {
            self.split_lanes_by_class();
        }
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
            block: Cost::default(),
            health: MemberHealth::new(&self.config, &member.settings, now, seed),
            settings: member.settings.into_box(),
            probe_seed: seed,
            slow_start,
            pass: pass_floor.copied().unwrap_or(0),
            depth: None,
            granted_since_depth: 0,
            granted_since_probe: 0,
            latency: self.times.member_latency(),
            service: ServiceTimes::default(),
            backlog: Backlog::default(),
            labels,
            identity: 0,
            figures: MemberFigures::starting_at(now),
            payload: member.payload,
        };
        self.members.has_settings |= state.settings.is_some();
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
            for waiter in self.queue.waiters_in(lane) {
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

    /// Changes a member, all at once and without losing its state, and returns a payload that was replaced.
    ///
    /// # Errors
    /// [`UpdateError`] where the member was removed, or the group is of another pool; nothing is changed then.
    pub fn update(
        &mut self,
        now: Tick,
        member: MemberId,
        update: MemberUpdate<T>,
    ) -> Result<Option<T>, UpdateError> {
        self.advance(now);
        let group = update.group.map(|group| self.group_index(group));
        let group = group.transpose().map_err(UpdateError::NoSuchGroup)?;
        let labels = update.labels.map(|labels| labels.within(self.config.id));
        if labels == Some(None) {
            return Err(UpdateError::ForeignLabels);
        }
        let (handle, state) = self.members.current_mut(member)?;
        state.weight = update.weight.unwrap_or(state.weight);
        state.max_leases = update.max_leases.unwrap_or(state.max_leases);
        let replaced = update
            .payload
            .map(|new| mem::replace(&mut state.payload, new));
        let mut settings = state.settings.as_deref().copied().unwrap_or_default();
        let labels = labels.flatten().unwrap_or(state.labels);
        let tier = update.tier.unwrap_or(state.tier);
        if (tier, labels) != (state.tier, state.labels) {
            self.enroll_anew(handle, tier, labels);
        }
        if let Some(limits) = update.limits {
            self.replace_limits(handle, limits);
        }
        if let Some(group) = group {
            self.move_to_group(handle, group);
        }
        if update.breaker.is_some() || update.probes.is_some() {
            settings.breaker = update.breaker.unwrap_or(settings.breaker);
            settings.probes = update.probes.unwrap_or(settings.probes);
            self.apply_settings(handle, settings);
        }
        self.reweigh(handle);
        self.refresh(handle);
        self.hand_over();
        Ok(replaced)
    }

    /// Moves a member to the lanes and tier that it has from now on.
    fn enroll_anew(&mut self, handle: Handle, tier: u8, labels: LabelSet) {
        let slot = handle.slot();
        if let Some(state) = self.members.get(handle) {
            self.lanes.withdraw(slot, state);
        }
        let floor = self.members.pass_floors.get(&tier).copied().unwrap_or(0);
        if let Some(state) = self.members.get_mut(handle) {
            if mem::replace(&mut state.tier, tier) != tier {
                state.pass = floor;
            }
            state.labels = labels;
        }
        let (lanes, members, ctx) = self.indexing();
        if let Some(state) = members.get(handle) {
            lanes.enroll(slot, state, &ctx);
        }
    }

    /// Moves a member to another group, and its leases to that group's limits.
    fn move_to_group(&mut self, handle: Handle, group: Option<GroupIndex>) {
        let now = self.clock.now;
        let Some(state) = self.members.get_mut(handle) else {
            return;
        };
        let old = mem::replace(&mut state.group, group);
        if old == group {
            return;
        }
        if let Some(old) = old {
            self.shared.leave(old, handle.slot());
        }
        if let Some(group) = group {
            self.shared.join(group, handle.slot());
        }
        for lease in self.leases.iter_mut().filter(|it| it.member == handle) {
            let cost = lease.cost;
            if let Some(booked) = lease.booked.group.take() {
                self.shared.settle_group(now, booked, cost, cost);
            }
            let booked =
                group.and_then(|new| self.shared.charge_group(new, now, lease.class, cost));
            lease.booked.group = booked;
            if lease.booked.member.has_arrived()
                && let Some(booked) = &mut lease.booked.group
            {
                self.shared.arrive_group(now, booked, cost);
            }
        }
        self.reindex_held_back(old);
    }

    /// The index of a group of this pool; the id if it is of another.
    fn group_index(&self, group: Option<GroupId>) -> Result<Option<GroupIndex>, GroupId> {
        let Some(id) = group else {
            return Ok(None);
        };
        let index = id.within(self.config.id);
        let index = index.filter(|index| self.shared.group(*index).is_some());
        index.map(Some).ok_or(id)
    }

    /// Replaces a member's limits. Leases held on it count in them as if granted now; what its earlier limits know of leases that
    /// have ended counts as if they had ended now. O(leases).
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
        let (handle, _) = self.members.current_mut(member)?;
        self.replace_limits(handle, limits);
        self.reindex(handle.slot());
        self.hand_over();
        Ok(())
    }

    /// Replaces the limits of a group, as [`set_limits`](Self::set_limits) does those of a member. O(leases and members of the
    /// group).
    ///
    /// # Errors
    /// The id, where it is of another pool.
    pub fn set_group_limits(
        &mut self,
        now: Tick,
        group: GroupId,
        limits: LimitSet,
    ) -> Result<(), GroupId> {
        self.advance(now);
        let Some(index) = self.group_index(Some(group))? else {
            return Ok(());
        };
        if limits.counts_classes() {
            self.split_lanes_by_class();
        }
        let now = self.clock.now;
        self.shared
            .replace_group(index, limits, now, &mut self.leases);
        for slot in self.shared.members_of(index) {
            self.reindex(slot);
        }
        self.hand_over();
        Ok(())
    }

    /// Replaces the limits of the pool as a whole, as [`set_limits`](Self::set_limits) does those of a member. O(leases).
    pub fn set_pool_limits(&mut self, now: Tick, limits: LimitSet) {
        self.advance(now);
        if limits.counts_classes() {
            self.split_lanes_by_class();
        }
        let now = self.clock.now;
        self.shared.replace_pool(limits, now, &mut self.leases);
        self.lanes.flag_awaited();
        self.hand_over();
    }

    fn replace_limits(&mut self, handle: Handle, limits: LimitSet) {
        let now = self.clock.now;
        if limits.counts_classes() {
            self.split_lanes_by_class();
        }
        let Some(state) = self.members.get_mut(handle) else {
            return;
        };
        replace(&mut state.limits, limits, now, &mut self.leases, |lease| {
            (lease.member == handle).then_some((&mut lease.booked.member, lease.cost))
        });
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
        if let Some(log) = &mut self.charges {
            log.record_observation(now, state.identity, unit, remaining, reset);
        }
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
