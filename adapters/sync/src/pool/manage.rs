//! Commands that manage a pool: its members, what is known of their upstreams, its groups and its flows.

use super::SyncPool;
use crate::sync::{Arc, lock};
use core::time::Duration;
use leasehold_core::limit::{LimitSet, Unit};
use leasehold_core::pool::{
    AddError, BreakerError, FlowConfig, GroupId, Member, MemberCondition, MemberId, MemberUpdate,
    ProbeId, ProbeResult, StaleMember, StaleProbe, UpdateError,
};

impl<T> SyncPool<T> {
    /// Adds a member.
    ///
    /// # Errors
    /// The pool has had four billion members at once, or the member's group is of another pool.
    pub fn add(&self, member: Member<T>) -> Result<MemberId, AddError> {
        self.add_as(None, member)
    }

    /// Adds a member under a name, by which hash policies know it, and which people see.
    ///
    /// # Errors
    /// As for [`add`](Self::add).
    pub fn add_named(&self, name: &str, member: Member<T>) -> Result<MemberId, AddError> {
        self.add_as(Some(name), member.name(name))
    }

    /// Removes a member; leases on it stay valid. Returns its payload if no lease is held on it.
    ///
    /// # Errors
    /// The member was removed before.
    pub fn remove(&self, member: MemberId) -> Result<Option<Arc<T>>, StaleMember> {
        self.shared.under_lock(|state, now| {
            let removed = state.pool.remove(now, member)?;
            self.shared.names.forget_member(member);
            Ok(removed)
        })
    }

    /// Changes a member, all at once and without losing its state, and returns a payload that was replaced.
    ///
    /// # Errors
    /// The member was removed, or a group or labels are of another pool; nothing is changed then.
    pub fn update(
        &self,
        member: MemberId,
        update: MemberUpdate<T>,
    ) -> Result<Option<Arc<T>>, UpdateError> {
        let mut kept = None;
        let update = update.map(|payload| keep(payload, &mut kept));
        self.shared
            .under_lock(|state, now| state.pool.update(now, member, update))
    }

    /// The members and their payloads. O(members), under the lock.
    #[must_use]
    pub fn members(&self) -> Vec<(MemberId, Arc<T>)> {
        let state = lock(&self.shared.state);
        let members = state.pool.members();
        members
            .map(|(member, payload)| (member, Arc::clone(payload)))
            .collect()
    }

    /// The members that were not removed, with their payloads and conditions. O(members), under the lock.
    #[must_use]
    pub fn conditions(&self) -> Vec<(MemberId, Arc<T>, MemberCondition)> {
        self.shared.under_lock(|state, now| {
            state.pool.handle_timeout(now);
            let members = state.pool.conditions();
            members
                .map(|(member, payload, condition)| (member, Arc::clone(payload), condition))
                .collect()
        })
    }

    /// Grants no more leases on a member; [`PoolEvent::Drained`](crate::PoolEvent::Drained) follows its last one.
    ///
    /// # Errors
    /// The member was removed.
    pub fn drain(&self, member: MemberId) -> Result<(), StaleMember> {
        self.shared
            .under_lock(|state, now| state.pool.drain(now, member))
    }

    /// Grants no more leases on a member until it is enabled.
    ///
    /// # Errors
    /// The member was removed.
    pub fn disable(&self, member: MemberId) -> Result<(), StaleMember> {
        self.shared
            .under_lock(|state, now| state.pool.disable(now, member))
    }

    /// Grants leases on a member again.
    ///
    /// # Errors
    /// The member was removed.
    pub fn enable(&self, member: MemberId) -> Result<(), StaleMember> {
        self.shared
            .under_lock(|state, now| state.pool.enable(now, member))
    }

    /// Sets a member's weight, its share of the requests; 0 drains it.
    ///
    /// # Errors
    /// The member was removed.
    pub fn set_weight(&self, member: MemberId, weight: u16) -> Result<(), StaleMember> {
        self.shared
            .under_lock(|state, now| state.pool.set_weight(now, member, weight))
    }

    /// Replaces a member's limits; leases that are held on it count in the new ones, and what was used stays used.
    ///
    /// # Errors
    /// The member was removed.
    pub fn set_limits(&self, member: MemberId, limits: LimitSet) -> Result<(), StaleMember> {
        self.shared
            .under_lock(|state, now| state.pool.set_limits(now, member, limits))
    }

    /// Replaces the limits of a group, as those of a member are; what was used stays used.
    ///
    /// # Errors
    /// The group is of another pool.
    pub fn set_group_limits(&self, group: GroupId, limits: LimitSet) -> Result<(), GroupId> {
        self.shared
            .under_lock(|state, now| state.pool.set_group_limits(now, group, limits))
    }

    /// Replaces the limits of the pool as a whole; what was used stays used.
    pub fn set_pool_limits(&self, limits: LimitSet) {
        self.shared
            .under_lock(|state, now| state.pool.set_pool_limits(now, limits));
    }

    /// Opens a member's breaker for a time, at an operator's command.
    ///
    /// # Errors
    /// The member was removed or has no breaker.
    pub fn trip_breaker(&self, member: MemberId, open: Duration) -> Result<(), BreakerError> {
        self.shared.under_lock(|state, now| {
            let until = now.saturating_add(open);
            state.pool.trip_breaker(now, member, until)
        })
    }

    /// Closes a member's breaker, at an operator's command, because the member serves again.
    ///
    /// # Errors
    /// The member was removed or has no breaker.
    pub fn reset_breaker(&self, member: MemberId) -> Result<(), BreakerError> {
        self.shared
            .under_lock(|state, now| state.pool.reset_breaker(now, member))
    }

    /// Records that a member's upstream reports `remaining` units until its quota resets, `reset` from now.
    ///
    /// # Errors
    /// The member was removed.
    pub fn observe(
        &self,
        member: MemberId,
        unit: Unit,
        remaining: u32,
        reset: Duration,
    ) -> Result<(), StaleMember> {
        self.shared.under_lock(|state, now| {
            let reset = now.saturating_add(reset);
            state.pool.observe(now, member, unit, remaining, reset)
        })
    }

    /// Records the depth of a member's own queue: its jobs waiting or running.
    ///
    /// # Errors
    /// The member was removed.
    pub fn observe_depth(&self, member: MemberId, depth: u32) -> Result<(), StaleMember> {
        self.shared
            .under_lock(|state, now| state.pool.observe_depth(now, member, depth))
    }

    /// Answers a probe that [`PoolEvent::Probe`](crate::PoolEvent::Probe) has asked for.
    ///
    /// # Errors
    /// The probe has timed out, or its member was removed.
    pub fn answer_probe(&self, probe: ProbeId, answer: ProbeResult) -> Result<(), StaleProbe> {
        self.shared
            .under_lock(|state, now| state.pool.handle_probe(now, probe, answer))
    }

    /// Makes a group, whose members share these limits besides their own.
    #[must_use]
    pub fn add_group(&self, limits: LimitSet) -> GroupId {
        self.shared
            .under_lock(|state, _| state.pool.add_group(limits))
    }

    /// Configures a flow: its weight, limits and bound on queued requests.
    pub fn set_flow(&self, flow: u64, config: &FlowConfig) {
        self.shared
            .under_lock(|state, now| state.pool.set_flow(now, flow, config));
    }

    /// Removes a flow's own settings, so that those of the pool apply to it again.
    pub fn reset_flow(&self, flow: u64) {
        self.shared
            .under_lock(|state, now| state.pool.reset_flow(now, flow));
    }

    /// Adds a member and its name in one step. Otherwise a removal in between would leave the name behind.
    fn add_as(&self, name: Option<&str>, member: Member<T>) -> Result<MemberId, AddError> {
        let mut kept = None;
        let member = member.map(|payload| keep(payload, &mut kept));
        self.shared.under_lock(|state, now| {
            let id = state.pool.add(now, member)?;
            if let Some(name) = name {
                self.shared.names.set_member(id, name);
            }
            Ok(id)
        })
    }
}

/// Shares a payload, so that a command that refuses it does not drop it under the lock: its `Drop` may use the pool.
fn keep<T>(payload: T, kept: &mut Option<Arc<T>>) -> Arc<T> {
    Arc::clone(kept.insert(Arc::new(payload)))
}
