//! Hierarchical bit set: a set of small numbers whose least is found in O(levels).
//!
//! Invariant: bit `i` of a level above the lowest is set exactly if word `i` of the level below is not
//! zero, and the highest level has one word.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "shifts by less than 64 and sums of parts of one u32"
)]

use alloc::vec;
use alloc::vec::Vec;

/// Tree of bits with 64 children a node.
///
/// Every operation touches one word a level: at most four levels below 2^24, six in all. Memory is 1.02
/// bits for each number up to the greatest ever in the set.
#[derive(Clone, Debug)]
pub(crate) struct BitSet {
    /// Levels from the lowest to the highest.
    levels: Vec<Vec<u64>>,
}

impl BitSet {
    pub(crate) fn new() -> Self {
        Self {
            levels: vec![vec![0]],
        }
    }

    pub(crate) fn insert(&mut self, id: u32) {
        self.make_room(id);
        let mut at = id as usize;
        for level in &mut self.levels {
            let word = &mut level[at / 64];
            let was_empty = *word == 0;
            *word |= 1 << (at % 64);
            if !was_empty {
                return;
            }
            at /= 64;
        }
    }

    pub(crate) fn remove(&mut self, id: u32) {
        let mut at = id as usize;
        for level in &mut self.levels {
            let Some(word) = level.get_mut(at / 64) else {
                return;
            };
            *word &= !(1 << (at % 64));
            if *word != 0 {
                return;
            }
            at /= 64;
        }
    }

    pub(crate) fn contains(&self, id: u32) -> bool {
        let at = id as usize;
        let word = self.levels.first().and_then(|level| level.get(at / 64));
        word.is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// Returns the least number in the set.
    pub(crate) fn first(&self) -> Option<u32> {
        let mut at = 0;
        for level in self.levels.iter().rev() {
            let word = *level.get(at)?;
            if word == 0 {
                return None;
            }
            at = at * 64 + word.trailing_zeros() as usize;
        }
        u32::try_from(at).ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.levels.last().is_none_or(|top| top[0] == 0)
    }

    fn make_room(&mut self, id: u32) {
        let mut words = id as usize / 64 + 1;
        for level in &mut self.levels {
            if level.len() >= words {
                return;
            }
            level.resize(words, 0);
            words = words.div_ceil(64);
        }
        while let Some(top) = self.levels.last()
            && top.len() > 1
        {
            let mut above = vec![0u64; top.len().div_ceil(64)];
            for (at, word) in top.iter().enumerate() {
                above[at / 64] |= u64::from(*word != 0) << (at % 64);
            }
            self.levels.push(above);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    #[test]
    fn a_bit_set_agrees_with_a_sorted_set_at_every_size() {
        let mut state = 1u64;
        for largest in [1, 63, 64, 65, 4_095, 4_096, 4_097, 300_000] {
            let (mut bits, mut oracle) = (BitSet::new(), BTreeSet::new());
            for _ in 0..3_000 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let id = (state >> 33) as u32 % (largest + 1);
                if state >> 63 == 0 {
                    bits.insert(id);
                    oracle.insert(id);
                } else if let Some(first) = bits.first() {
                    bits.remove(first);
                    oracle.remove(&first);
                }
                assert_eq!(bits.first(), oracle.first().copied());
                assert_eq!(bits.is_empty(), oracle.is_empty());
            }
        }
    }
}
