//! A set of tasks, by their numbers.

/// A set of numbers: one bit for each up to the highest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bits {
    words: Vec<u64>,
    count: usize,
}

impl Bits {
    /// Makes an empty set with room for numbers below `bound`.
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            words: vec![0; bound.div_ceil(64)],
            count: 0,
        }
    }

    /// Adds a number.
    pub(crate) fn insert(&mut self, number: usize) {
        let at = number / 64;
        if at >= self.words.len() {
            self.words.resize(at.saturating_add(1), 0);
        }
        if let Some(word) = self.words.get_mut(at) {
            let bit = 1 << (number % 64);
            self.count = self.count.saturating_add(usize::from(*word & bit == 0));
            *word |= bit;
        }
    }

    /// The set of the new numbers of those in this one.
    pub(crate) fn renumbered(&self, new_numbers: &[Option<u32>]) -> Self {
        let mut set = Self::default();
        for (number, new) in new_numbers.iter().enumerate() {
            if let Some(new) = new.filter(|_| self.contains(number)) {
                set.insert(new as usize);
            }
        }
        set
    }

    /// Removes a number; whether it was in the set.
    pub(crate) fn remove(&mut self, number: usize) -> bool {
        let Some(word) = self.words.get_mut(number / 64) else {
            return false;
        };
        let bit = 1 << (number % 64);
        let was_in = *word & bit != 0;
        *word &= !bit;
        self.count = self.count.saturating_sub(usize::from(was_in));
        was_in
    }

    /// Whether a number is in the set.
    pub(crate) fn contains(&self, number: usize) -> bool {
        let word = self.words.get(number / 64).copied().unwrap_or(0);
        word >> (number % 64) & 1 == 1
    }

    /// The number of numbers in the set. O(1).
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// The least number in the set that is at least `from`. O(gap / 64).
    pub(crate) fn first_from(&self, from: usize) -> Option<usize> {
        let mut at = from / 64;
        let mut word = self.words.get(at).copied()? & (u64::MAX << (from % 64));
        while word == 0 {
            at = at.saturating_add(1);
            word = self.words.get(at).copied()?;
        }
        Some(
            at.saturating_mul(64)
                .saturating_add(word.trailing_zeros() as usize),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn bits_are_a_set(steps in prop::collection::vec((any::<bool>(), 0_usize..200), 0..200)) {
            let (mut bits, mut set) = (Bits::new(200), BTreeSet::new());
            for (adds, number) in steps {
                if adds {
                    bits.insert(number);
                    set.insert(number);
                } else {
                    prop_assert_eq!(bits.remove(number), set.remove(&number));
                }
                prop_assert_eq!(bits.contains(number), set.contains(&number));
                prop_assert_eq!(bits.first_from(number), set.range(number..).next().copied());
                prop_assert_eq!(bits.len(), set.len());
            }
        }
    }
}
