//! An ordered queue of members to which most come at the end.
//!
//! Invariant: `queue` is in order and starts with a live entry. A live entry is of a member whose position is
//! [`Position::Queued`]; the others are stale. `aside` holds exactly the members at [`Position::Aside`].

use alloc::collections::{BTreeSet, VecDeque};

/// Sort key of a member: the eligible time of its turn and the remainder of that, and the unique id.
pub(super) type Key = (u128, u64, u32);

/// The part of a queue that a member is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// In neither part.
    Absent,
    /// In the FIFO part, because it came at the end.
    Queued,
    /// In the ordered set, because it came elsewhere.
    Aside,
}

/// A FIFO queue with an ordered set beside it for members that come out of order.
///
/// A member that leaves from the middle of the FIFO part becomes a stale entry (lazy deletion), which is
/// dropped at the front, or when stale entries outnumber live ones. O(1) amortised to come at the end and to
/// leave the FIFO part, O(log n) otherwise.
#[derive(Clone, Debug)]
pub(super) struct WeightQueue {
    queue: VecDeque<Key>,
    aside: BTreeSet<Key>,
    /// Number of live entries in `queue`.
    live: usize,
    /// Number of members of this weight, in the queue or not.
    pub(super) members: u32,
}

impl WeightQueue {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            aside: BTreeSet::new(),
            live: 0,
            members: 0,
        }
    }

    pub(super) fn first(&self) -> Option<Key> {
        match (self.queue.front(), self.aside.first()) {
            (Some(queued), Some(aside)) => Some(*queued.min(aside)),
            (one, other) => one.or(other).copied(),
        }
    }

    pub(super) fn push(&mut self, key: Key) -> Position {
        if self.queue.back().is_none_or(|last| *last < key) {
            self.queue.push_back(key);
            self.live = self.live.saturating_add(1);
            Position::Queued
        } else {
            self.aside.insert(key);
            Position::Aside
        }
    }

    /// Removes a member; `is_live` says whether another entry of the FIFO part is live.
    pub(super) fn remove(&mut self, key: Key, position: Position, is_live: impl Fn(Key) -> bool) {
        match position {
            Position::Absent => {}
            Position::Aside => drop(self.aside.remove(&key)),
            Position::Queued => {
                self.live = self.live.saturating_sub(1);
                if self.queue.back() == Some(&key) {
                    self.queue.pop_back();
                }
                if self.queue.front() == Some(&key) {
                    self.queue.pop_front();
                }
                while let Some(first) = self.queue.front()
                    && !is_live(*first)
                {
                    self.queue.pop_front();
                }
                if self.queue.len() > self.live.saturating_mul(2) {
                    self.queue.retain(|key| is_live(*key));
                }
            }
        }
    }
}
