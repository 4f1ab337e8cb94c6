//! Members one after the other, once a round.
//!
//! Invariant: a ready member is in `owed` if the round before this one still owes it a turn, in `due` if
//! only this one does, and in `done` otherwise; a member's `served` is at most the round.

use crate::util::bits::BitSet;
use alloc::vec::Vec;
use core::mem;

/// Round robin in the order of slots. O(log64 n) a turn; 8 bytes and 3 bits for each slot.
///
/// While all are ready, their turns never differ by more than 1. A member that wasn't ready in a round
/// is owed that turn until the end of the next one, before all others, so that a request too large for it
/// costs it nothing; older ones are forgotten. A call that was given to a member out of turn is its turn if one is due,
/// and doesn't count otherwise.
#[derive(Clone, Debug)]
pub(super) struct RoundRobin {
    owed: BitSet,
    due: BitSet,
    done: BitSet,
    round: u64,
    /// The latest round whose turn the member has had.
    served: Vec<u64>,
}

impl RoundRobin {
    pub(super) fn new() -> Self {
        Self {
            owed: BitSet::new(),
            due: BitSet::new(),
            done: BitSet::new(),
            round: 1,
            served: Vec::new(),
        }
    }

    /// Lets a member take part from the next round on.
    pub(super) fn insert(&mut self, id: u32) {
        let slots = (id as usize).saturating_add(1);
        if self.served.len() < slots {
            self.served.resize(slots, 0);
        }
        self.served[id as usize] = self.round;
    }

    pub(super) fn set_ready(&mut self, id: u32, ready: bool) {
        for set in [&mut self.owed, &mut self.due, &mut self.done] {
            set.remove(id);
        }
        let Some(served) = self.served.get(id as usize).filter(|_| ready) else {
            return;
        };
        match self.round.saturating_sub(*served) {
            0 => self.done.insert(id),
            1 => self.due.insert(id),
            _ => self.owed.insert(id),
        }
    }

    pub(super) fn choose(&self) -> Option<u32> {
        let in_turn = [&self.owed, &self.due, &self.done];
        in_turn.into_iter().find_map(BitSet::first)
    }

    pub(super) fn chosen(&mut self, id: u32, ready: bool) {
        if self.owed.is_empty() && self.due.is_empty() && !self.done.is_empty() {
            self.round = self.round.saturating_add(1);
            mem::swap(&mut self.due, &mut self.done);
        }
        let before = self.round.saturating_sub(1);
        if let Some(served) = self.served.get_mut(id as usize) {
            *served = served.saturating_add(1).clamp(before, self.round);
            self.set_ready(id, ready);
        }
    }
}
