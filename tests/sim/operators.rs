//! Those who add members, take them out of service and back.

use super::{Happening, Place, World};
use crate::settings::{
    CALL_TIMEOUT, IN_RANGE, MEMBERS, NEAREST, TOKENS, WINDOW, count, group, has_token_limit,
    labels, log, max_leases, of_member, span, tick, weight,
};
use crate::upstream::SEC;
use leasehold_core::limit::{Anchor, BucketedWindow, LimitSet, Unit};
use leasehold_core::pool::{Labels, Member};

impl World {
    pub(super) fn add(&mut self, at: usize) {
        let mut limits = if at.is_multiple_of(2) {
            let window = BucketedWindow::new(
                count(of_member(at)),
                span(WINDOW),
                count(10),
                Anchor::Completion,
            );
            LimitSet::new().with(Unit::Requests, window.expect(IN_RANGE))
        } else {
            LimitSet::new().with(Unit::Requests, log(of_member(at)))
        };
        if has_token_limit(at) {
            limits = limits.with_each_class(Unit::Tokens, log(TOKENS));
        }
        let mut member = Member::new(at)
            .name(&at.to_string())
            .weight(weight(at))
            .max_leases(count(max_leases(at)))
            .tier(u8::from(at >= NEAREST))
            .labels(Labels::from_bits(labels(at)))
            .limits(limits);
        if let Some(group) = group(at) {
            member = member.group(self.groups[group]);
        }
        let added = self.pool.add(tick(self.now), member);
        let member = added.expect("the group is known");
        self.names.insert(member, at);
        let known = &mut self.members[at];
        known.place = Place::In(member);
        known.enabled = true;
        known.draining = false;
        known.weight = weight(at);
        known.granted = 0;
        known.rests_until = 0;
        known.down = false;
        (known.bad_probes, known.good_probes) = (0, 0);
        (known.open_until, known.ejected_until) = (0, 0);
        known.half_open = false;
        known.epoch += 1;
        known.trying = 0;
        known.excused = known.excused.max(self.now);
    }

    pub(super) fn operate(&mut self) {
        let gap = self.rng.u64(5 * SEC..30 * SEC);
        self.after(gap, Happening::Operate);
        let at = self.rng.usize(..MEMBERS);
        let now = tick(self.now);
        let Place::In(member) = self.members[at].place else {
            return;
        };
        let known = &mut self.members[at];
        if core::mem::replace(&mut known.busy, true) {
            return;
        }
        let act = self.rng.u32(..5);
        self.note((at, "is managed", act));
        let known = &mut self.members[at];
        match act {
            0 => {
                known.enabled = false;
                self.pool.disable(now, member).expect("it is in");
            }
            1 => {
                known.enabled = false;
                known.draining = true;
                self.pool.drain(now, member).expect("it is in");
            }
            2 => {
                known.place = Place::Leaving(member);
                if let Some(payload) = self.pool.remove(now, member).expect("it is in") {
                    assert_eq!((payload, known.live), (at, 0));
                    known.place = Place::Out;
                }
            }
            act => {
                known.weight = if act == 3 { 0 } else { self.rng.u16(1..=8) };
                self.pool
                    .set_weight(now, member, known.weight)
                    .expect("it is in");
            }
        }
        let lasts = self.rng.u64(5 * SEC..40 * SEC);
        self.after(lasts, Happening::Restore(at));
    }

    /// A member that was removed is added again only when no window remembers it, as its limits begin
    /// anew.
    pub(super) fn restore(&mut self, at: usize) {
        let now = tick(self.now);
        match self.members[at].place {
            Place::Leaving(_) => {
                self.after(WINDOW, Happening::Restore(at));
                return;
            }
            Place::Out if self.members[at].last_grant + CALL_TIMEOUT + WINDOW > self.now => {
                self.after(WINDOW, Happening::Restore(at));
                return;
            }
            Place::Out => self.add(at),
            Place::In(member) => {
                let known = &mut self.members[at];
                known.enabled = true;
                known.draining = false;
                known.weight = weight(at);
                known.excused = known.excused.max(self.now);
                self.pool.enable(now, member).expect("it is in");
                let weighed = self.pool.set_weight(now, member, weight(at));
                weighed.expect("it is in");
            }
        }
        self.members[at].busy = false;
        self.note((at, "is restored"));
    }
}
