//! Members in the order of their places, most of which come at its end.
//!
//! Invariant: `queue` is in order and has each member at most once whose member_load is [`Position::Queued`]; what
//! else is in it has left, and is never its first. `aside` holds exactly those whose member_load says so.

use alloc::collections::{BTreeSet, VecDeque};

/// Where a member stands, and its number: no two are the same.
pub(super) type Place = (u128, u64, u32);

/// Where a line keeps a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// It isn't in.
    Nowhere,
    /// It came at the end.
    Queued,
    /// It came somewhere else.
    Aside,
}

/// Who left a queue but for its first place is taken out when that comes up, or when as many have left as are
/// there. O(1) amortised to enter at the end and to leave the beginning or the queue, O(log n) otherwise.
#[derive(Clone, Debug)]
pub(super) struct WeightQueue {
    queue: VecDeque<Place>,
    aside: BTreeSet<Place>,
    /// How many of those in the queue have not left.
    queued: usize,
    /// How many could stand here.
    pub(super) members: u32,
}

impl WeightQueue {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            aside: BTreeSet::new(),
            queued: 0,
            members: 0,
        }
    }

    pub(super) fn first(&self) -> Option<Place> {
        let (queued, aside) = (self.queue.front(), self.aside.first());
        match (queued, aside) {
            (Some(queued), Some(aside)) => Some(*queued.min(aside)),
            (one, other) => one.or(other).copied(),
        }
    }

    pub(super) fn enter(&mut self, place: Place) -> Position {
        if self.queue.back().is_none_or(|last| *last < place) {
            self.queue.push_back(place);
            self.queued = self.queued.saturating_add(1);
            Position::Queued
        } else {
            self.aside.insert(place);
            Position::Aside
        }
    }

    /// Takes out who stood at `place`; `is_queued` tells of others whether they still stand in the queue.
    pub(super) fn leave(
        &mut self,
        place: Place,
        member_load: Position,
        is_queued: impl Fn(Place) -> bool,
    ) {
        match member_load {
            Position::Nowhere => {}
            Position::Aside => drop(self.aside.remove(&place)),
            Position::Queued => {
                self.queued = self.queued.saturating_sub(1);
                if self.queue.back() == Some(&place) {
                    self.queue.pop_back();
                }
                if self.queue.front() == Some(&place) {
                    self.queue.pop_front();
                }
                while let Some(first) = self.queue.front()
                    && !is_queued(*first)
                {
                    self.queue.pop_front();
                }
                if self.queue.len() > self.queued.saturating_mul(2) {
                    self.queue.retain(|place| is_queued(*place));
                }
            }
        }
    }
}
