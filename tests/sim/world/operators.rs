//! Operators: they add members, take them out of service and restore them.

use super::member::Membership;
use super::{SimEvent, World};
use crate::schedule::SEC;
use crate::settings::{
    CALL_TIMEOUT, IN_RANGE, MEMBERS, TIER_0, TOKEN_LIMIT, WINDOW, count, group, has_token_limit,
    labels, log, max_leases, request_limit, span, tick, weight,
};
use leasehold_core::limit::{Anchor, BucketedWindow, LimitSet, Unit};
use leasehold_core::pool::{Labels, Member, Pool};

impl World {
    pub(super) fn add_member(&mut self, index: usize) {
        let mut limits = if index.is_multiple_of(2) {
            let window = BucketedWindow::new(
                count(request_limit(index)),
                span(WINDOW),
                count(10),
                Anchor::Completion,
            );
            LimitSet::new().with(Unit::Requests, window.expect(IN_RANGE))
        } else {
            LimitSet::new().with(Unit::Requests, log(request_limit(index)))
        };
        if has_token_limit(index) {
            limits = limits.with_each_class(Unit::Tokens, log(TOKEN_LIMIT));
        }
        let label_set = label_set(&mut self.pool, labels(index));
        let mut member = Member::new(index)
            .name(&index.to_string())
            .weight(weight(index))
            .max_leases(count(max_leases(index)))
            .tier(u8::from(index >= TIER_0))
            .labels(label_set)
            .limits(limits);
        if let Some(group) = group(index) {
            member = member.group(self.groups[group]);
        }
        let added = self.pool.add(tick(self.now), member);
        let member = added.expect("the group is known");
        self.indices.insert(member, index);
        self.members[index].reset(index, member, self.now);
    }

    pub(super) fn operate(&mut self) {
        let gap = self.rng.u64(5 * SEC..30 * SEC);
        self.after(gap, SimEvent::Operate);
        let index = self.rng.usize(..MEMBERS);
        let now = tick(self.now);
        let Membership::Present(id) = self.members[index].membership else {
            return;
        };
        if self.members[index].is_operated {
            return;
        }
        let action = self.rng.u32(..5);
        self.record((index, "is managed", action));
        let member = &mut self.members[index];
        member.is_operated = true;
        match action {
            0 => {
                member.enabled = false;
                self.pool.disable(now, id).expect("it is present");
            }
            1 => {
                member.enabled = false;
                member.draining = true;
                self.pool.drain(now, id).expect("it is present");
            }
            2 => {
                member.membership = Membership::Leaving(id);
                if let Some(payload) = self.pool.remove(now, id).expect("it is present") {
                    assert_eq!((payload, member.in_flight), (index, 0));
                    member.membership = Membership::Absent;
                }
            }
            action => {
                let is_stopped = action == 3;
                member.weight = if is_stopped { 0 } else { self.rng.u16(1..=8) };
                let weighted = self.pool.set_weight(now, id, member.weight);
                weighted.expect("it is present");
            }
        }
        let lasts = self.rng.u64(5 * SEC..40 * SEC);
        self.after(lasts, SimEvent::Restore(index));
    }

    /// Undoes a change. A removed member is added again only once no upstream's window can remember it,
    /// because its limits begin anew.
    pub(super) fn restore(&mut self, index: usize) {
        let now = tick(self.now);
        let member = &mut self.members[index];
        let forgotten = member.last_grant + CALL_TIMEOUT + WINDOW;
        match member.membership {
            Membership::Leaving(_) => {
                self.after(WINDOW, SimEvent::Restore(index));
                return;
            }
            Membership::Absent if forgotten > self.now => {
                self.after(WINDOW, SimEvent::Restore(index));
                return;
            }
            Membership::Absent => self.add_member(index),
            Membership::Present(id) => {
                member.enabled = true;
                member.draining = false;
                member.weight = weight(index);
                member.excuse_idle_until(self.now);
                self.pool.enable(now, id).expect("it is present");
                let weighted = self.pool.set_weight(now, id, weight(index));
                weighted.expect("it is present");
            }
        }
        self.members[index].is_operated = false;
        self.record((index, "is restored"));
    }
}

/// The set of the labels whose bits are one.
pub(super) fn label_set(pool: &mut Pool<usize>, bits: u64) -> Labels {
    let labels = (0..64).filter(|bit| bits >> bit & 1 == 1);
    pool.labels(labels).expect("there are few sets")
}
