//! Round robin: members in the order of their slots, once a round.
//!
//! Invariant: a ready member is in `owed` if its turn of the round before this one is still to come, in `due`
//! if only that of this round is, and in `done` otherwise; `served` is at most the round.

use super::member::Availability;
use crate::util::bits::BitSet;
use alloc::vec::Vec;
use core::mem;

/// Round robin in the order of slots. O(log64 n) a turn; 16 bytes and 3 bits for each slot.
///
/// While all are ready, their turns never differ by more than 1. A member that was busy in its turn is owed it
/// until the end of the next round, before all others, so that a request too large for it costs it nothing. A
/// member that was out, or busy for a whole round after the one in which that began, is owed nothing, and
/// takes part in this round if its place in the order is still to come. A call given to a member out of turn is its turn if one is due,
/// and doesn't count otherwise.
#[derive(Clone, Debug)]
pub(super) struct RoundRobin {
    owed: BitSet,
    due: BitSet,
    done: BitSet,
    round: u64,
    /// Turns by slot.
    turns: Vec<Turn>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    /// Latest round whose turn the member has had.
    served: u64,
    /// Round in which the member was last updated to busy.
    busy_since: u64,
}

impl RoundRobin {
    pub(super) fn new() -> Self {
        Self {
            owed: BitSet::new(),
            due: BitSet::new(),
            done: BitSet::new(),
            round: 1,
            turns: Vec::new(),
        }
    }

    /// Adds a member, which is out, and takes part from the next round on.
    pub(super) fn insert(&mut self, id: u32) {
        let slots = (id as usize).saturating_add(1);
        if self.turns.len() < slots {
            self.turns.resize(slots, Turn::default());
        }
        self.turns[id as usize].served = self.round;
    }

    /// Applies a change of availability.
    pub(super) fn update(&mut self, id: u32, before: Availability, after: Availability) {
        if let Some(turn) = self.turns.get_mut(id as usize) {
            let is_back = match (before, after) {
                (Availability::Out, Availability::Ready | Availability::Busy) => true,
                (Availability::Busy, Availability::Ready) => {
                    self.round.saturating_sub(turn.busy_since) > 1
                }
                (Availability::Ready, _) | (_, Availability::Out | Availability::Busy) => false,
            };
            if is_back {
                let is_passed = self.due.first().is_none_or(|next| id < next);
                let latest = self.round.saturating_sub(u64::from(!is_passed));
                turn.served = latest.max(turn.served);
            }
            if after == Availability::Busy {
                turn.busy_since = self.round;
            }
        }
        self.place(id, after == Availability::Ready);
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
        if let Some(turn) = self.turns.get_mut(id as usize) {
            turn.served = turn.served.saturating_add(1).clamp(before, self.round);
            self.place(id, ready);
        }
    }

    /// Puts a member in the set where it belongs.
    fn place(&mut self, id: u32, ready: bool) {
        for set in [&mut self.owed, &mut self.due, &mut self.done] {
            set.remove(id);
        }
        let Some(turn) = self.turns.get(id as usize).filter(|_| ready) else {
            return;
        };
        match self.round.saturating_sub(turn.served) {
            0 => self.done.insert(id),
            1 => self.due.insert(id),
            _ => self.owed.insert(id),
        }
    }
}
