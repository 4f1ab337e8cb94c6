//! The members of a pool, their timers and the counts of the panic threshold.
//!
//! Invariant: `timers` holds the next timer of each member that has one, and the counts are those of the
//! members' `counted`.

use super::config::PoolConfig;
use super::error::StaleMember;
use super::ids::{MemberId, PoolId};
use super::member_state::{MemberState, Status};
use crate::time::Tick;
use crate::util::heap::IndexedHeap;
use crate::util::slab::{Handle, Slab};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::mem;
use core::num::NonZeroU32;

#[derive(Clone, Debug)]
pub(super) struct Members<T> {
    pool: PoolId,
    slab: Slab<MemberState<T>>,
    timers: IndexedHeap<Tick>,
    /// Members that could serve if they were healthy.
    enabled: u32,
    /// The healthy ones of those.
    healthy: u32,
    in_panic: bool,
    /// Whether a member has ever had settings of its own.
    pub(super) has_settings: bool,
    /// Members that ever were.
    pub(super) added: u64,
    /// The pass of the member chosen last, by tier: where new members begin, so that they are not flooded
    /// with requests. At most 256.
    pub(super) pass_floors: BTreeMap<u8, u64>,
}

impl<T> Members<T> {
    /// No members, whose handles will be of this generation or later.
    pub(super) fn starting_at_generation(pool: PoolId, generation: NonZeroU32) -> Self {
        Self {
            pool,
            slab: Slab::starting_at_generation(generation),
            timers: IndexedHeap::new(),
            enabled: 0,
            healthy: 0,
            in_panic: false,
            has_settings: false,
            added: 0,
            pass_floors: BTreeMap::new(),
        }
    }

    pub(super) fn id(&self, handle: Handle) -> MemberId {
        MemberId::new(self.pool, handle)
    }

    /// The handle and state of a member that was not removed.
    pub(super) fn current(&self, id: MemberId) -> Option<(Handle, &MemberState<T>)> {
        let handle = id.within(self.pool)?;
        let member = self.slab.get(handle)?;
        (member.status != Status::Removing).then_some((handle, member))
    }

    /// The same, to be changed.
    pub(super) fn current_mut(
        &mut self,
        id: MemberId,
    ) -> Result<(Handle, &mut MemberState<T>), StaleMember> {
        let handle = id.within(self.pool).ok_or(StaleMember)?;
        let member = self.slab.get_mut(handle).ok_or(StaleMember)?;
        if member.status == Status::Removing {
            return Err(StaleMember);
        }
        Ok((handle, member))
    }

    pub(super) fn get(&self, handle: Handle) -> Option<&MemberState<T>> {
        self.slab.get(handle)
    }

    pub(super) fn get_mut(&mut self, handle: Handle) -> Option<&mut MemberState<T>> {
        self.slab.get_mut(handle)
    }

    pub(super) fn len(&self) -> u32 {
        self.slab.len()
    }

    pub(super) fn at(&self, slot: u32) -> Option<&MemberState<T>> {
        self.slab.at(slot)
    }

    pub(super) fn handle_at(&self, slot: u32) -> Option<Handle> {
        self.slab.handle_at(slot)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Handle, &MemberState<T>)> {
        self.slab.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Handle, &mut MemberState<T>)> {
        self.slab.iter_mut()
    }

    pub(super) fn slots(&self) -> Vec<u32> {
        self.slab.iter().map(|(member, _)| member.slot()).collect()
    }

    pub(super) fn insert(&mut self, member: MemberState<T>) -> Option<Handle> {
        self.slab.insert(member)
    }

    /// Removes a member; the caller has taken it out of the lanes and groups.
    pub(super) fn remove(&mut self, handle: Handle) -> Option<MemberState<T>> {
        let gone = self.slab.remove(handle)?;
        self.timers.remove(handle.slot());
        Some(gone)
    }

    /// The member whose timer is first, if that is due.
    pub(super) fn due(&self, now: Tick) -> Option<Handle> {
        let (due, slot) = self.timers.peek()?;
        self.slab.handle_at(slot).filter(|_| due <= now)
    }

    pub(super) fn next_timer(&self) -> Option<Tick> {
        self.timers.peek().map(|(tick, _)| tick)
    }

    pub(super) fn in_panic(&self) -> bool {
        self.in_panic
    }

    /// Enters a change of a member's health in its timer and the counts; returns whether panic began or ended.
    pub(super) fn refresh(&mut self, handle: Handle, config: &PoolConfig, now: Tick) -> bool {
        let Some(member) = self.slab.get_mut(handle) else {
            return false;
        };
        let after = member.is_healthy(now);
        let before = mem::replace(&mut member.counted, after);
        match member.next_timer(config, now) {
            Some(tick) => self.timers.set(handle.slot(), tick),
            None => drop(self.timers.remove(handle.slot())),
        }
        let adjusted = |sum: u32, was: bool, is: bool| {
            sum.saturating_sub(was.into()).saturating_add(is.into())
        };
        self.enabled = adjusted(self.enabled, before.is_some(), after.is_some());
        self.healthy = adjusted(self.healthy, before == Some(true), after == Some(true));
        let threshold = config.panic_threshold;
        let in_panic = threshold.in_panic(self.healthy, self.enabled);
        mem::replace(&mut self.in_panic, in_panic) != in_panic
    }

    #[cfg(feature = "serde")]
    pub(super) fn next_generation(&self) -> NonZeroU32 {
        self.slab.next_generation()
    }
}
