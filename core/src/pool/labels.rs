//! Sets of labels, interned so that any number of labels costs a request one word.
//!
//! Invariant: each set is sorted, without repeats and in the table once; set 0 is the empty one.

use super::ids::PoolId;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// A set of labels: what a member can do, or a request needs. Made by [`Pool::labels`](super::Pool::labels).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels {
    pool: PoolId,
    set: LabelSet,
}

/// The index of a set in its pool's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub(super) struct LabelSet(u32);

/// The pool has as many different sets of labels as it can keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pool can keep no more than {MAX_SETS} different sets of labels")]
pub struct TooManyLabelSets;

/// The bound on different sets, which are kept as long as the pool.
const MAX_SETS: usize = 65_536;

impl Labels {
    /// The empty set, which is the same in every pool.
    pub const NONE: Self = Self {
        pool: PoolId::new(0),
        set: LabelSet::NONE,
    };

    pub(super) fn new(pool: PoolId, set: LabelSet) -> Self {
        match set {
            LabelSet::NONE => Self::NONE,
            set => Self { pool, set },
        }
    }

    /// The set's index, if it is of this pool.
    pub(super) fn within(self, pool: PoolId) -> Option<LabelSet> {
        (self.set == LabelSet::NONE || self.pool == pool).then_some(self.set)
    }
}

impl LabelSet {
    pub(super) const NONE: Self = Self(0);
}

#[derive(Clone, Debug)]
pub(super) struct LabelSets {
    sets: Vec<Box<[u32]>>,
    indexes: BTreeMap<Box<[u32]>, LabelSet>,
}

impl LabelSets {
    pub(super) fn new() -> Self {
        Self {
            sets: Vec::from([Box::default()]),
            indexes: BTreeMap::from([(Box::default(), LabelSet::NONE)]),
        }
    }

    /// The index of a set, which is added if it is new; `None` if there is no room. O(log n) in sets.
    pub(super) fn intern(&mut self, labels: impl IntoIterator<Item = u32>) -> Option<LabelSet> {
        let mut labels: Vec<u32> = labels.into_iter().collect();
        labels.sort_unstable();
        labels.dedup();
        if let Some(set) = self.indexes.get(labels.as_slice()) {
            return Some(*set);
        }
        if self.sets.len() >= MAX_SETS {
            return None;
        }
        let set = LabelSet(u32::try_from(self.sets.len()).ok()?);
        let labels = labels.into_boxed_slice();
        self.indexes.insert(labels.clone(), set);
        self.sets.push(labels);
        Some(set)
    }

    pub(super) fn get(&self, set: LabelSet) -> Option<&[u32]> {
        self.sets.get(set.0 as usize).map(AsRef::as_ref)
    }

    /// Whether all labels that are `needed` are in `set`. O(labels) of both.
    pub(super) fn contains(&self, set: LabelSet, needed: LabelSet) -> bool {
        if needed == LabelSet::NONE || set == needed {
            return true;
        }
        let (Some(set), Some(needed)) = (self.get(set), self.get(needed)) else {
            return false;
        };
        let mut set = set.iter();
        needed.iter().all(|label| set.any(|own| own == label))
    }

    /// All sets but the empty one, in order of their indexes.
    #[cfg(feature = "serde")]
    pub(super) fn saved(&self) -> Vec<Box<[u32]>> {
        self.sets.iter().skip(1).cloned().collect()
    }

    /// The table of saved sets; `None` where a set is not as it was saved.
    #[cfg(feature = "serde")]
    pub(super) fn restored(saved: Vec<Box<[u32]>>) -> Option<Self> {
        let mut sets = Self::new();
        for (at, labels) in saved.into_iter().enumerate() {
            let set = sets.intern(labels.iter().copied())?;
            let is_next = set.0 as usize == at.saturating_add(1);
            if !is_next || sets.get(set) != Some(labels.as_ref()) {
                return None;
            }
        }
        Some(sets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_one_index_in_any_order_and_with_repeats() {
        let mut sets = LabelSets::new();
        let both = sets.intern([700, 3]).unwrap();
        assert_eq!(sets.intern([3, 700, 3]), Some(both));
        assert_eq!(sets.intern([]), Some(LabelSet::NONE));
        assert_eq!(sets.get(both), Some([3, 700].as_slice()));
    }

    #[test]
    fn a_set_contains_its_subsets_only() {
        let mut sets = LabelSets::new();
        let mut set = |labels: &[u32]| sets.intern(labels.iter().copied()).unwrap();
        let (all, some, other) = (set(&[1, 5, 9]), set(&[1, 9]), set(&[1, 6]));
        assert!(sets.contains(all, some) && sets.contains(some, LabelSet::NONE));
        assert!(!sets.contains(some, all) && !sets.contains(all, other));
        assert!(!sets.contains(LabelSet::NONE, some));
    }

    #[test]
    fn the_table_is_bounded_and_known_sets_stay() {
        let mut sets = LabelSets::new();
        for label in 1..MAX_SETS as u32 {
            assert!(sets.intern([label]).is_some());
        }
        assert_eq!(sets.intern([0]), None);
        assert!(sets.intern([7]).is_some());
    }
}
