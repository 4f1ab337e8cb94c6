//! The limits that members share: those of groups, and the pool's own.
//!
//! Invariant: a group lists the slots of exactly the members that are in it.

use super::ids::GroupIndex;
use super::leases::{Lease, Leases};
use crate::limit::{Booking, Cost, LimitSet, Wait};
use crate::time::Tick;
use alloc::vec::Vec;
use core::mem;

#[derive(Clone, Debug)]
pub(super) struct SharedLimits {
    pool: LimitSet,
    groups: Vec<Group>,
}

#[derive(Clone, Debug)]
struct Group {
    limits: LimitSet,
    /// Slots of its members.
    members: Vec<u32>,
    /// Whether a limit may hold back one of its members.
    holds_back: bool,
}

impl SharedLimits {
    pub(super) fn new(pool: LimitSet) -> Self {
        Self {
            pool,
            groups: Vec::new(),
        }
    }

    /// Whether what one member takes or gives back can change when others are ready.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.pool.is_empty() && self.groups.is_empty()
    }

    #[inline]
    pub(super) fn has_groups(&self) -> bool {
        !self.groups.is_empty()
    }

    #[inline]
    pub(super) fn pool(&self) -> &LimitSet {
        &self.pool
    }

    #[inline]
    pub(super) fn group(&self, group: GroupIndex) -> Option<&LimitSet> {
        self.groups.get(group.0 as usize).map(|group| &group.limits)
    }

    fn group_mut(&mut self, group: GroupIndex) -> Option<&mut Group> {
        self.groups.get_mut(group.0 as usize)
    }

    pub(super) fn add_group(&mut self, limits: LimitSet) -> GroupIndex {
        let index = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
        self.groups.push(Group {
            limits,
            members: Vec::new(),
            holds_back: false,
        });
        GroupIndex(index)
    }

    /// Replaces the limits of a group. Leases count in them as if granted now; what the earlier ones know of others, as if it had
    /// ended now.
    pub(super) fn replace_group(
        &mut self,
        index: GroupIndex,
        limits: LimitSet,
        now: Tick,
        leases: &mut Leases,
    ) {
        let Some(group) = self.group_mut(index) else {
            return;
        };
        replace(&mut group.limits, limits, now, leases, |lease| {
            let (of, booking) = lease.booked.group.as_mut()?;
            (*of == index).then_some((booking, lease.cost))
        });
    }

    /// Replaces the limits of the pool, as [`replace_group`](Self::replace_group) does those of a group.
    pub(super) fn replace_pool(&mut self, limits: LimitSet, now: Tick, leases: &mut Leases) {
        // A pool without limits has booked nothing.
        if self.pool.is_empty() {
            for lease in leases.iter_mut() {
                let mut booking = self.pool.charge(now, lease.class, lease.cost);
                if lease.booked.member.has_arrived() {
                    self.pool.arrive(now, &mut booking, lease.cost);
                }
                lease.booked.pool = Some(booking);
            }
        }
        replace(&mut self.pool, limits, now, leases, |lease| {
            let booking = lease.booked.pool.as_mut()?;
            Some((booking, lease.cost))
        });
        if self.pool.is_empty() {
            for lease in leases.iter_mut() {
                lease.booked.pool = None;
            }
        }
    }

    /// Returns the slots of a group's members. O(members of the group).
    pub(super) fn members_of(&self, group: GroupIndex) -> Vec<u32> {
        let group = self.groups.get(group.0 as usize);
        group.map(|group| group.members.clone()).unwrap_or_default()
    }

    /// Enters a member in its group; returns whether there is such a group.
    pub(super) fn join(&mut self, group: GroupIndex, slot: u32) -> bool {
        let group = self.group_mut(group);
        group.is_some_and(|group| {
            group.members.push(slot);
            true
        })
    }

    pub(super) fn leave(&mut self, group: GroupIndex, slot: u32) {
        if let Some(group) = self.group_mut(group) {
            group.members.retain(|other| *other != slot);
        }
    }

    /// When the pool's own limits admit a cost.
    #[inline]
    pub(super) fn earliest(&self, now: Tick, class: u32, cost: Cost) -> Wait {
        self.pool.earliest(now, class, cost)
    }

    /// Books a cost with the pool's own limits, if there are any.
    #[inline]
    pub(super) fn charge_pool(&mut self, now: Tick, class: u32, cost: Cost) -> Option<Booking> {
        (!self.pool.is_empty()).then(|| self.pool.charge(now, class, cost))
    }

    pub(super) fn charge_group(
        &mut self,
        group: GroupIndex,
        now: Tick,
        class: u32,
        cost: Cost,
    ) -> Option<(GroupIndex, Booking)> {
        let limits = &mut self.group_mut(group)?.limits;
        Some((group, limits.charge(now, class, cost)))
    }

    pub(super) fn arrive_pool(&mut self, now: Tick, booking: &mut Booking, cost: Cost) {
        self.pool.arrive(now, booking, cost);
    }

    pub(super) fn arrive_group(
        &mut self,
        now: Tick,
        (group, booking): &mut (GroupIndex, Booking),
        cost: Cost,
    ) {
        if let Some(group) = self.group_mut(*group) {
            group.limits.arrive(now, booking, cost);
        }
    }

    pub(super) fn settle_pool(
        &mut self,
        now: Tick,
        booking: Booking,
        reserved: Cost,
        actual: Cost,
    ) {
        self.pool.settle(now, booking, reserved, actual);
    }

    pub(super) fn settle_group(
        &mut self,
        now: Tick,
        (group, booking): (GroupIndex, Booking),
        reserved: Cost,
        actual: Cost,
    ) {
        if let Some(group) = self.group_mut(group) {
            group.limits.settle(now, booking, reserved, actual);
        }
    }

    /// Notes that a limit holds back a member of a group.
    pub(super) fn hold_back(&mut self, group: GroupIndex) {
        if let Some(group) = self.group_mut(group) {
            group.holds_back = true;
        }
    }

    /// The slots of a group's members, if a limit may have held one of them back until now.
    pub(super) fn take_held_back(&mut self, group: GroupIndex) -> Vec<u32> {
        if let Some(group) = self.group_mut(group)
            && mem::take(&mut group.holds_back)
        {
            return group.members.clone();
        }
        Vec::new()
    }

    #[cfg(feature = "serde")]
    pub(super) fn groups(&self) -> impl Iterator<Item = &LimitSet> {
        self.groups.iter().map(|group| &group.limits)
    }
}

/// Replaces limits, and books the leases that they had booked with the new ones.
pub(super) fn replace(
    limits: &mut LimitSet,
    new: LimitSet,
    now: Tick,
    leases: &mut Leases,
    booked: impl Fn(&mut Lease) -> Option<(&mut Booking, Cost)>,
) {
    let earlier = mem::replace(limits, new);
    for (booking, cost) in leases.iter_mut().filter_map(booked) {
        *booking = limits.book_again(now, *booking, cost);
    }
    limits.take_over(now, &earlier);
}
