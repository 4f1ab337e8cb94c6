//! Faults of upstreams: when they start and end.

use super::member::SimMember;
use super::{SimEvent, World};
use crate::schedule::SEC;
use crate::settings::{MEMBERS, RECOVERY};
use crate::upstream::Fault;

/// No new fault starts while this many upstreams are faulty.
const MAX_FAULTS: usize = 8;

impl World {
    pub(super) fn start_fault(&mut self) {
        let gap = self.rng.u64(5 * SEC..20 * SEC);
        self.after(gap, SimEvent::Fault);
        let index = self.rng.usize(..MEMBERS);
        let is_faulty = |member: &&SimMember| member.upstream.fault.is_some();
        if self.members[index].upstream.fault.is_some()
            || self.members.iter().filter(is_faulty).count() >= MAX_FAULTS
        {
            return;
        }
        let (fault, lasts) = match self.rng.u32(..4) {
            0 => (Fault::Crash, self.rng.u64(20 * SEC..60 * SEC)),
            1 => (Fault::Slow, self.rng.u64(20 * SEC..60 * SEC)),
            2 => (Fault::Flap { down: false }, 60 * SEC),
            _ => (Fault::Throttle, self.rng.u64(10 * SEC..30 * SEC)),
        };
        self.members[index].upstream.fault = Some(fault);
        self.record((index, "breaks"));
        if matches!(fault, Fault::Flap { .. }) {
            self.after(SEC, SimEvent::Flap(index));
        }
        self.after(lasts, SimEvent::FaultEnd(index));
    }

    pub(super) fn flap(&mut self, index: usize) {
        if let Some(Fault::Flap { down }) = &mut self.members[index].upstream.fault {
            *down = !*down;
            let gap = self.rng.u64(SEC..5 * SEC);
            self.after(gap, SimEvent::Flap(index));
        }
    }

    pub(super) fn end_fault(&mut self, index: usize) {
        let member = &mut self.members[index];
        member.upstream.fault = None;
        member.up_by = member.up_by.max(self.now + RECOVERY);
        member.excuse_idle_until(member.up_by);
        self.record((index, "is mended"));
    }

    pub(super) fn start_outage(&mut self) {
        for index in 0..MEMBERS {
            if index % 4 < 3 && self.members[index].upstream.fault.is_none() {
                self.members[index].upstream.fault = Some(Fault::Crash);
                self.after(60 * SEC, SimEvent::FaultEnd(index));
            }
        }
    }
}
