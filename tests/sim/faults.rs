//! What goes wrong with upstreams, and when it is mended.

use super::{Happening, Known, World};
use crate::settings::{MEMBERS, RECOVERY};
use crate::upstream::{Fault, SEC};

impl World {
    pub(super) fn strike(&mut self) {
        let gap = self.rng.u64(5 * SEC..20 * SEC);
        self.after(gap, Happening::Strike);
        let at = self.rng.usize(..MEMBERS);
        let faulty = |known: &&Known| known.upstream.fault.is_some();
        if self.members[at].upstream.fault.is_some()
            || self.members.iter().filter(faulty).count() >= 8
        {
            return;
        }
        let (fault, lasts) = match self.rng.u32(..4) {
            0 => (Fault::Crash, self.rng.u64(20 * SEC..60 * SEC)),
            1 => (Fault::Slow, self.rng.u64(20 * SEC..60 * SEC)),
            2 => (Fault::Flap { down: false }, 60 * SEC),
            _ => (Fault::Storm, self.rng.u64(10 * SEC..30 * SEC)),
        };
        self.members[at].upstream.fault = Some(fault);
        self.note((at, "breaks"));
        if matches!(fault, Fault::Flap { .. }) {
            self.after(SEC, Happening::Flap(at));
        }
        self.after(lasts, Happening::Mend(at));
    }

    pub(super) fn flap(&mut self, at: usize) {
        if let Some(Fault::Flap { down }) = &mut self.members[at].upstream.fault {
            *down = !*down;
            let gap = self.rng.u64(SEC..5 * SEC);
            self.after(gap, Happening::Flap(at));
        }
    }

    pub(super) fn mend(&mut self, at: usize) {
        let known = &mut self.members[at];
        known.upstream.fault = None;
        known.up_by = known.up_by.max(self.now + RECOVERY);
        known.excused = known.excused.max(known.up_by);
        self.note((at, "is mended"));
    }

    pub(super) fn outage(&mut self) {
        for at in 0..MEMBERS {
            if at % 4 < 3 && self.members[at].upstream.fault.is_none() {
                self.members[at].upstream.fault = Some(Fault::Crash);
                self.after(60 * SEC, Happening::Mend(at));
            }
        }
    }
}
