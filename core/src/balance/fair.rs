//! Members in turn, as often as their weights say.
//!
//! Invariant: a ready member is in `begun` with the deadline of its next turn if that has begun, and in
//! `pending` with its start otherwise; no other is in either.

use super::Availability;
use crate::heap::IndexedHeap;
use alloc::vec::Vec;
use core::num::NonZeroU64;

/// Far enough from zero that what a member is behind has room before it: a turn, at any weight.
const BEGINNING: u128 = 1 << 84;

/// Weighted round robin: of the members whose turn has begun, the one whose turn must end first.
///
/// Virtual time goes on by `1 / (weight of all that aren't out)` a turn, so that a member of weight `w` is
/// due every `1 / w`. While all are ready, no member strays from its exact share by as much as 1 over
/// any prefix. One that is busy for less than its turn takes loses nothing. If nobody's turn has begun,
/// as where the others take the turns of one that stays busy, virtual time jumps to the first that
/// does. A member that comes back is owed one missed turn at most, however long it was busy or out; one
/// that was given a call before its turn had begun waits for a whole turn from then. Times are rounded
/// down to 2^-64, by division of the whole count of turns, so that while nothing changes the order is
/// the exact one.
///
/// O(log n) a turn, amortised; 80 bytes a member. Sources: R. Tijdeman, "The Chairman Assignment
/// Problem", 1980; I. Stoica, H. Abdel-Wahab, "Earliest Eligible Virtual Deadline First", 1995.
#[derive(Clone, Debug)]
pub(super) struct Fair {
    time: Pace,
    /// The weight of all that aren't out.
    weight: u64,
    turns: Vec<Turn>,
    begun: IndexedHeap<u128>,
    pending: IndexedHeap<u128>,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    start: Pace,
    weight: u32,
    availability: Availability,
}

/// A time that goes on by one part at a time: always `origin + floor(2^64 * parts / divisor)`.
#[derive(Clone, Copy, Debug)]
struct Pace {
    at: u128,
    /// What was rounded down, in units of 2^-64 / divisor.
    rest: u64,
    divisor: NonZeroU64,
}

impl Pace {
    fn from(at: u128, divisor: u64) -> Self {
        Self {
            at,
            rest: 0,
            divisor: NonZeroU64::new(divisor).unwrap_or(NonZeroU64::MIN),
        }
    }

    fn next(self) -> Self {
        let (mut step, mut rest) = divide(self.divisor);
        // Both are below the divisor, and that below 2^53.
        rest = rest.saturating_add(self.rest);
        if rest >= self.divisor.get() {
            rest = rest.saturating_sub(self.divisor.get());
            step = step.saturating_add(1);
        }
        Self {
            at: self.at.saturating_add(step),
            rest,
            divisor: self.divisor,
        }
    }
}

/// 2^64 by `divisor`, and what is left.
fn divide(divisor: NonZeroU64) -> (u128, u64) {
    let step = u128::from(u64::MAX / divisor);
    let rest = (u64::MAX % divisor).saturating_add(1);
    if rest == divisor.get() {
        (step.saturating_add(1), 0)
    } else {
        (step, rest)
    }
}

impl Fair {
    pub(super) fn new() -> Self {
        Self {
            time: Pace::from(BEGINNING, 1),
            weight: 0,
            turns: Vec::new(),
            begun: IndexedHeap::new(),
            pending: IndexedHeap::new(),
        }
    }

    /// Lets a member in, out as yet, whose first turn begins now.
    pub(super) fn insert(&mut self, id: u32, weight: u32) {
        let turn = Turn {
            start: Pace::from(self.time.at, weight.into()),
            weight,
            availability: Availability::Out,
        };
        let slots = (id as usize).saturating_add(1);
        if self.turns.len() < slots {
            self.turns.resize(slots, turn);
        }
        self.turns[id as usize] = turn;
    }

    /// Takes note of a change of weight or availability. A member that has part of a turn behind or
    /// before it keeps that part; without weight, which is to be out, it keeps the one it had.
    pub(super) fn update(&mut self, id: u32, weight: u32, availability: Availability) {
        let now = self.time.at;
        let Some(turn) = self.turns.get_mut(id as usize) else {
            return;
        };
        if turn.availability != Availability::Out {
            self.weight = self.weight.saturating_sub(turn.weight.into());
        }
        if weight > 0 && turn.weight != weight {
            let scale = |span: u128| {
                let span = span.saturating_mul(turn.weight.into());
                span.checked_div(weight.into()).unwrap_or(span)
            };
            let at = if turn.start.at >= now {
                now.saturating_add(scale(turn.start.at.saturating_sub(now)))
            } else {
                now.saturating_sub(scale(now.saturating_sub(turn.start.at)))
            };
            turn.start = Pace::from(at, weight.into());
            turn.weight = weight;
        }
        if availability != Availability::Out {
            self.weight = self.weight.saturating_add(weight.into());
        }
        let returns = turn.availability != availability && availability == Availability::Ready;
        let earliest = now.saturating_sub(divide(turn.start.divisor).0);
        if returns && turn.start.at < earliest {
            turn.start = Pace::from(earliest, weight.into());
        }
        turn.availability = availability;
        self.line_up(id);
    }

    pub(super) fn choose(&self) -> Option<u32> {
        let next = self.begun.peek().or_else(|| self.pending.peek());
        next.map(|(_, id)| id)
    }

    pub(super) fn chosen(&mut self, id: u32) {
        let is_next = self.choose() == Some(id);
        let Some(turn) = self.turns.get_mut(id as usize).filter(|t| t.weight > 0) else {
            return;
        };
        if turn.start.at > self.time.at && !is_next {
            let at = Pace::from(self.time.at, turn.weight.into()).next().at;
            turn.start = Pace::from(at.max(turn.start.at), turn.weight.into());
        } else {
            let weight = self.weight.max(turn.weight.into());
            if turn.start.at > self.time.at {
                self.time = Pace::from(turn.start.at, weight);
            } else if self.time.divisor.get() != weight {
                self.time = Pace::from(self.time.at, weight);
            }
            self.time = self.time.next();
            turn.start = turn.start.next();
        }
        self.line_up(id);
        while let Some((start, id)) = self.pending.peek()
            && start <= self.time.at
        {
            self.line_up(id);
        }
    }

    /// Puts a member where it belongs.
    fn line_up(&mut self, id: u32) {
        let Some(turn) = self.turns.get(id as usize).copied() else {
            return;
        };
        let ready = turn.availability == Availability::Ready;
        let begun = turn.start.at <= self.time.at;
        if ready && begun {
            self.begun.set(id, turn.start.next().at);
        } else {
            self.begun.remove(id);
        }
        if ready && !begun {
            self.pending.set(id, turn.start.at);
        } else {
            self.pending.remove(id);
        }
    }
}
