//! Members in turn, as often as their weights say.
//!
//! Invariant: a ready member stands in the line of its weight. A line in which somebody stands is in `begun`
//! with the deadline of its first member's next turn if that has begun, and in `pending` with its start
//! otherwise; no other is in either.

use super::Availability;
use super::weight_queue::{Position, WeightQueue};
use crate::util::heap::IndexedHeap;
use alloc::collections::BTreeMap;
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
/// Members of one weight take as long to a turn, so that whose begins first ends first: they stand in a line,
/// and only the first of each line is compared with those of the others. Of turns that end at once, that of
/// the lower number comes first.
///
/// O(log n) a turn, amortised; O(log of the number of weights) while nobody comes back early or late. 112 bytes
/// a member and 160 a weight. Sources: R. Tijdeman, "The Chairman Assignment
/// Problem", 1980; I. Stoica, H. Abdel-Wahab, "Earliest Eligible Virtual Deadline First", 1995.
#[derive(Clone, Debug)]
pub(super) struct WeightedRoundRobin {
    time: Pace,
    /// The weight of all that aren't out.
    weight: u64,
    turns: Vec<Deadline>,
    /// By weight, the number of its line.
    numbers: BTreeMap<u32, u32>,
    lines: Vec<WeightQueue>,
    /// Numbers of lines whose weight no member has.
    vacant: Vec<u32>,
    begun: IndexedHeap<(u128, u32)>,
    pending: IndexedHeap<(u128, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct Deadline {
    start: Pace,
    end: Pace,
    weight: u32,
    /// The line of that weight, if it has any.
    line: u32,
    availability: Availability,
    member_load: Position,
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

impl WeightedRoundRobin {
    pub(super) fn new() -> Self {
        Self {
            time: Pace::from(BEGINNING, 1),
            weight: 0,
            turns: Vec::new(),
            numbers: BTreeMap::new(),
            lines: Vec::new(),
            vacant: Vec::new(),
            begun: IndexedHeap::new(),
            pending: IndexedHeap::new(),
        }
    }

    /// Lets a member in, out as yet, whose first turn begins now.
    pub(super) fn insert(&mut self, id: u32, weight: u32) {
        if let Some(before) = self.turns.get(id as usize) {
            self.give_up(before.weight);
        }
        let mut turn = Deadline {
            start: Pace::from(self.time.at, weight.into()),
            end: Pace::from(self.time.at, weight.into()).next(),
            weight: 0,
            line: 0,
            availability: Availability::Out,
            member_load: Position::Nowhere,
        };
        let slots = (id as usize).saturating_add(1);
        if self.turns.len() < slots {
            self.turns.resize(slots, turn);
        }
        turn.line = self.line_of(weight);
        turn.weight = weight;
        self.turns[id as usize] = turn;
    }

    /// Takes note of a change of weight or availability. A member that has part of a turn behind or
    /// before it keeps that part; without weight, which is to be out, it keeps the one it had.
    pub(super) fn update(&mut self, id: u32, weight: u32, availability: Availability) {
        self.leave(id);
        let now = self.time.at;
        let Some(turn) = self.turns.get_mut(id as usize) else {
            return;
        };
        if turn.availability != Availability::Out {
            self.weight = self.weight.saturating_sub(turn.weight.into());
        }
        if availability != Availability::Out {
            self.weight = self.weight.saturating_add(weight.into());
        }
        let before = turn.weight;
        let is_changed = weight > 0 && before != weight;
        let mut start = turn.start;
        if is_changed {
            let scale = |span: u128| {
                let span = span.saturating_mul(before.into());
                span.checked_div(weight.into()).unwrap_or(span)
            };
            let at = if start.at >= now {
                now.saturating_add(scale(start.at.saturating_sub(now)))
            } else {
                now.saturating_sub(scale(now.saturating_sub(start.at)))
            };
            start = Pace::from(at, weight.into());
            turn.weight = weight;
        }
        let returns = turn.availability != availability && availability == Availability::Ready;
        let earliest = now.saturating_sub(divide(start.divisor).0);
        if returns && start.at < earliest {
            start = Pace::from(earliest, weight.into());
        }
        turn.availability = availability;
        if (start.at, start.divisor) != (turn.start.at, turn.start.divisor) {
            turn.start = start;
            turn.end = start.next();
        }
        if is_changed {
            self.give_up(before);
            let line = self.line_of(weight);
            if let Some(turn) = self.turns.get_mut(id as usize) {
                turn.line = line;
            }
        }
        self.enter(id);
    }

    pub(super) fn choose(&self) -> Option<u32> {
        let next = self.begun.peek().or_else(|| self.pending.peek());
        next.map(|((_, id), _)| id)
    }

    pub(super) fn chosen(&mut self, id: u32) {
        let is_next = self.choose() == Some(id);
        let Some(turn) = self.turns.get(id as usize).filter(|t| t.weight > 0) else {
            return;
        };
        let (start, end) = if turn.start.at > self.time.at && !is_next {
            let at = Pace::from(self.time.at, turn.weight.into()).next().at;
            let start = Pace::from(at.max(turn.start.at), turn.weight.into());
            (start, start.next())
        } else {
            let weight = self.weight.max(turn.weight.into());
            if turn.start.at > self.time.at {
                self.time = Pace::from(turn.start.at, weight);
            } else if self.time.divisor.get() != weight {
                self.time = Pace::from(self.time.at, weight);
            }
            self.time = self.time.next();
            (turn.end, turn.end.next())
        };
        self.step_out(id);
        if let Some(turn) = self.turns.get_mut(id as usize) {
            (turn.start, turn.end) = (start, end);
        }
        self.enter(id);
        while let Some(((start, _), line)) = self.pending.peek()
            && start <= self.time.at
        {
            self.line_up(line);
        }
    }

    /// The line for a weight, which one more member has.
    fn line_of(&mut self, weight: u32) -> u32 {
        if weight == 0 {
            return 0;
        }
        let number = *self.numbers.entry(weight).or_insert_with(|| {
            self.vacant.pop().unwrap_or_else(|| {
                self.lines.push(WeightQueue::new());
                // There are no more lines than members.
                self.lines.len().saturating_sub(1) as u32
            })
        });
        if let Some(line) = self.lines.get_mut(number as usize) {
            line.members = line.members.saturating_add(1);
        }
        number
    }

    /// Notes that one member less has a weight.
    fn give_up(&mut self, weight: u32) {
        let Some(number) = self.numbers.get(&weight).copied() else {
            return;
        };
        if let Some(line) = self.lines.get_mut(number as usize) {
            line.members = line.members.saturating_sub(1);
            if line.members == 0 {
                *line = WeightQueue::new();
                self.numbers.remove(&weight);
                self.vacant.push(number);
            }
        }
    }

    /// Lets a member stand in its line if it is ready.
    fn enter(&mut self, id: u32) {
        let Some(turn) = self.turns.get_mut(id as usize) else {
            return;
        };
        if turn.availability == Availability::Ready {
            let number = turn.line;
            if let Some(line) = self.lines.get_mut(number as usize) {
                turn.member_load = line.enter((turn.start.at, turn.start.rest, id));
            }
            self.line_up(number);
        }
    }

    /// Takes a member out of its line.
    fn leave(&mut self, id: u32) {
        if self.step_out(id)
            && let Some(turn) = self.turns.get(id as usize)
        {
            self.line_up(turn.line);
        }
    }

    /// The same, but for what that means for the line; whether the member stood in it.
    fn step_out(&mut self, id: u32) -> bool {
        let Some(turn) = self.turns.get_mut(id as usize) else {
            return false;
        };
        let member_load = core::mem::replace(&mut turn.member_load, Position::Nowhere);
        let place = (turn.start.at, turn.start.rest, id);
        let number = turn.line;
        if let Some(line) = self.lines.get_mut(number as usize) {
            let turns = &self.turns;
            line.leave(place, member_load, |(at, rest, id)| {
                turns.get(id as usize).is_some_and(|turn| {
                    turn.member_load == Position::Queued
                        && turn.line == number
                        && (turn.start.at, turn.start.rest) == (at, rest)
                })
            });
        }
        member_load != Position::Nowhere
    }

    /// Puts a line where its first member belongs.
    fn line_up(&mut self, number: u32) {
        let first = self.lines.get(number as usize).and_then(WeightQueue::first);
        let turn = first.and_then(|(_, _, id)| Some((id, self.turns.get(id as usize)?)));
        let Some((id, turn)) = turn else {
            self.begun.remove(number);
            self.pending.remove(number);
            return;
        };
        if turn.start.at <= self.time.at {
            self.begun.set(number, (turn.end.at, id));
            self.pending.remove(number);
        } else {
            self.pending.set(number, (turn.start.at, id));
            self.begun.remove(number);
        }
    }
}
