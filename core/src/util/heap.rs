//! Indexed heap: a priority queue whose entries can be re-keyed and removed by id.
//!
//! Invariant: `positions[id]` is the index of `id` in `entries`, and no entry is less than its parent.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "positions are below a vector's length, so `position * ARITY + 1` cannot wrap"
)]

use alloc::vec::Vec;

/// Children of a node. Four of them lie in one or two cache lines, and halve the depth of a binary heap.
const ARITY: usize = 4;
const ABSENT: u32 = u32::MAX;

/// Min-heap of keys by small dense ids, each id in it at most once.
///
/// `set` and `remove` cost O(log n), `peek` O(1). Memory is 4 bytes for each id up to the greatest ever
/// used, plus one entry for each id in the heap.
#[derive(Clone, Debug)]
pub(crate) struct IndexedHeap<K> {
    entries: Vec<(K, u32)>,
    positions: Vec<u32>,
}

impl<K: Ord + Copy> IndexedHeap<K> {
    pub(crate) fn new() -> Self {
        Self {
            entries: Vec::new(),
            positions: Vec::new(),
        }
    }

    /// Returns the key of `id`, if it is in the heap.
    pub(crate) fn key(&self, id: u32) -> Option<K> {
        let at = self.position(id)?;
        self.entries.get(at).map(|(key, _)| *key)
    }

    pub(crate) fn peek(&self) -> Option<(K, u32)> {
        self.entries.first().copied()
    }

    /// Inserts `id` with `key`, or changes its key.
    pub(crate) fn set(&mut self, id: u32, key: K) {
        let wanted = id as usize + 1;
        if self.positions.len() < wanted {
            self.positions.resize(wanted, ABSENT);
        }
        match self.position(id) {
            // A timer is mostly set to what it is already.
            Some(at) if self.entries[at].0 == key => {}
            Some(at) => {
                self.entries[at].0 = key;
                self.settle(at);
            }
            None => {
                let at = self.entries.len();
                self.entries.push((key, id));
                self.positions[id as usize] = at as u32;
                self.sift_up(at);
            }
        }
    }

    /// Removes `id`; returns whether it was in the heap.
    pub(crate) fn remove(&mut self, id: u32) -> bool {
        let Some(at) = self.position(id) else {
            return false;
        };
        self.entries.swap_remove(at);
        self.positions[id as usize] = ABSENT;
        if at < self.entries.len() {
            self.positions[self.entries[at].1 as usize] = at as u32;
            self.settle(at);
        }
        true
    }

    fn position(&self, id: u32) -> Option<usize> {
        let at = *self.positions.get(id as usize)?;
        (at != ABSENT).then_some(at as usize)
    }

    fn settle(&mut self, at: usize) {
        let at = self.sift_up(at);
        self.sift_down(at);
    }

    fn sift_up(&mut self, mut at: usize) -> usize {
        let moving = self.entries[at];
        while at > 0 {
            let parent = (at - 1) / ARITY;
            if !is_less(&moving, &self.entries[parent]) {
                break;
            }
            self.put(at, self.entries[parent]);
            at = parent;
        }
        self.put(at, moving);
        at
    }

    fn sift_down(&mut self, mut at: usize) {
        let moving = self.entries[at];
        loop {
            let first = at * ARITY + 1;
            let end = (first + ARITY).min(self.entries.len());
            let Some(least) = self.least_of(first, end) else {
                break;
            };
            if !is_less(&self.entries[least], &moving) {
                break;
            }
            self.put(at, self.entries[least]);
            at = least;
        }
        self.put(at, moving);
    }

    fn least_of(&self, first: usize, end: usize) -> Option<usize> {
        let lesser = |a: usize, b: usize| {
            if is_less(&self.entries[b], &self.entries[a]) {
                b
            } else {
                a
            }
        };
        if end.saturating_sub(first) == ARITY {
            // A tree of comparisons: the first two do not depend on each other.
            return Some(lesser(
                lesser(first, first + 1),
                lesser(first + 2, first + 3),
            ));
        }
        (first..end).reduce(lesser)
    }

    fn put(&mut self, at: usize, entry: (K, u32)) {
        self.entries[at] = entry;
        self.positions[entry.1 as usize] = at as u32;
    }
}

/// Compares without a branch, because the outcome is unpredictable.
fn is_less<K: Ord>(a: &(K, u32), b: &(K, u32)) -> bool {
    (a.0 < b.0) | ((a.0 == b.0) & (a.1 < b.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;

    #[test]
    fn a_heap_agrees_with_a_sorted_map_over_a_long_mixed_run() {
        let mut heap = IndexedHeap::new();
        let mut oracle = BTreeMap::new();
        let mut state = 1u64;
        for _ in 0..20_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let id = (state >> 33) as u32 % 97;
            let key = (state >> 40) as u32 % 50;
            if state >> 62 == 0 {
                assert_eq!(heap.remove(id), oracle.remove(&id).is_some());
            } else {
                heap.set(id, key);
                oracle.insert(id, key);
            }
            let least = oracle.iter().map(|(id, key)| (*key, *id)).min();
            assert_eq!(heap.peek(), least);
        }
    }
}
