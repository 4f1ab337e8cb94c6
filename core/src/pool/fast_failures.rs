//! Fast failures that still count as leases.
//!
//! A member that fails faster than it serves looks idle and attracts all traffic: a black hole. So a fast
//! failure counts as in flight until a success of its class would have finished.
//!
//! Invariant: `ends` holds each failure once, at the tick at which it stops counting.

use crate::time::Tick;
use crate::util::heap::IndexedHeap;
use crate::util::slab::{Handle, Slab};
use alloc::vec::Vec;
use core::time::Duration;

/// The bound on failures that count at a time; further ones don't count.
const MAX: u32 = 65_536;

/// A failed lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct FastFailure {
    pub(super) member: Handle,
    pub(super) granted: Tick,
    pub(super) class: u32,
}

impl FastFailure {
    /// The tick at which a success would have finished; the last tick while no success was seen.
    fn end(&self, usual_nanos: Option<u64>) -> Tick {
        usual_nanos.map_or(Tick::MAX, |nanos| {
            self.granted.saturating_add(Duration::from_nanos(nanos))
        })
    }
}

#[derive(Clone, Debug)]
pub(super) struct FastFailures {
    slab: Slab<FastFailure>,
    ends: IndexedHeap<(Tick, u64)>,
    /// Orders failures that end at one tick.
    sequence: u64,
}

impl FastFailures {
    pub(super) fn new() -> Self {
        Self {
            slab: Slab::new(),
            ends: IndexedHeap::new(),
            sequence: 0,
        }
    }

    /// Counts a failure, unless a success would have ended by `now`; returns whether it is counted.
    pub(super) fn add(
        &mut self,
        failure: FastFailure,
        usual_nanos: Option<u64>,
        now: Tick,
    ) -> bool {
        let end = failure.end(usual_nanos);
        if end <= now || self.slab.len() >= MAX {
            return false;
        }
        let Some(handle) = self.slab.insert(failure) else {
            return false;
        };
        self.set_end(handle.slot(), end);
        true
    }

    /// Sets the ends of a class whose first success has shown the usual time; returns the members of its failures,
    /// one for each. O(failures).
    pub(super) fn set_usual_time(&mut self, class: u32, usual_nanos: Option<u64>) -> Vec<Handle> {
        let of_class = self.slab.iter().filter(|(_, one)| one.class == class);
        let ends: Vec<_> = of_class
            .map(|(handle, failure)| (handle.slot(), failure.end(usual_nanos), failure.member))
            .collect();
        for (slot, end, _) in &ends {
            self.set_end(*slot, *end);
        }
        ends.into_iter().map(|(_, _, member)| member).collect()
    }

    /// Removes the failure that ends first, if that is due; returns its member.
    #[inline]
    pub(super) fn pop_due(&mut self, now: Tick) -> Option<Handle> {
        let ((end, _), slot) = self.ends.peek()?;
        if end > now {
            return None;
        }
        self.ends.remove(slot);
        let handle = self.slab.handle_at(slot)?;
        self.slab.remove(handle).map(|failure| failure.member)
    }

    /// The first tick at which a failure stops counting, as far as is known.
    #[inline]
    pub(super) fn next_end(&self) -> Option<Tick> {
        let end = self.ends.peek().map(|((end, _), _)| end);
        end.filter(|end| *end < Tick::MAX)
    }

    fn set_end(&mut self, slot: u32, end: Tick) {
        self.sequence = self.sequence.saturating_add(1);
        self.ends.set(slot, (end, self.sequence));
    }
}
