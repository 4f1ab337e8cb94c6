//! A queue in a ring of slots.
//!
//! Invariant: the number of slots is a power of two; `head` and `tail` count what has ever left and come,
//! wrapping, so that `tail - head` is how many there are and `head & (slots - 1)` is where the oldest
//! stands. As long as there never were more than [`FEW`], there are no slots: they stand in `few`, where
//! `head` is the place of the oldest, and below [`FEW`].

use alloc::boxed::Box;
use alloc::vec;
use core::fmt;

/// How many take no memory elsewhere: three calls a minute is what many keys are held to.
const FEW: usize = 3;
/// As many as there can be, which is what 32 bits can count and tests can fill.
pub(super) const MAX: usize = if cfg!(test) { 1 << 12 } else { 1 << 31 };

/// First in, first out, with no more arithmetic than a mask. What `alloc`'s queue does besides (wrapping
/// by comparison, keeping a length) costs as much as all that a limiter decides. The first few take no
/// memory elsewhere, so that an owner who is seldom asked has all in one place; what is done to them is
/// cold, so that where there are slots it takes a branch that is foreseen and no choice between addresses.
#[derive(Clone)]
pub(super) struct RingBuffer<V> {
    /// None, or more than [`FEW`].
    slots: Box<[V]>,
    few: [V; FEW],
    head: u32,
    tail: u32,
}

impl<V: Copy + Default> RingBuffer<V> {
    pub(super) fn new() -> Self {
        Self {
            slots: Box::default(),
            few: [V::default(); FEW],
            head: 0,
            tail: 0,
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.tail.wrapping_sub(self.head) as usize
    }

    /// Whether one more needs more memory. Where there are [`MAX`], there may be no more.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.len() == self.slots.len().max(FEW)
    }

    /// Where what came as the `count`th stands in `slots`; past their end where it is one of `few`.
    #[inline]
    fn place(&self, count: u32) -> usize {
        count as usize & self.slots.len().wrapping_sub(1)
    }

    #[inline]
    fn slot(&self, count: u32) -> &V {
        let place = self.place(count);
        if place < self.slots.len() {
            &self.slots[place]
        } else {
            self.few_at(count)
        }
    }

    #[inline]
    fn slot_mut(&mut self, count: u32) -> &mut V {
        let place = self.place(count);
        if place < self.slots.len() {
            &mut self.slots[place]
        } else {
            self.few_at_mut(count)
        }
    }

    #[cold]
    fn few_at(&self, count: u32) -> &V {
        &self.few[count as usize % FEW]
    }

    #[cold]
    fn few_at_mut(&mut self, count: u32) -> &mut V {
        &mut self.few[count as usize % FEW]
    }

    /// The one that is `index` places behind the oldest, if there are that many.
    #[inline]
    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut V> {
        if index >= self.len() {
            return None;
        }
        Some(self.slot_mut(self.head.wrapping_add(index as u32)))
    }

    #[inline]
    pub(super) fn front(&self) -> Option<&V> {
        if self.head == self.tail {
            return None;
        }
        Some(self.slot(self.head))
    }

    pub(super) fn back_mut(&mut self) -> Option<&mut V> {
        self.get_mut(self.len().wrapping_sub(1))
    }

    #[inline]
    pub(super) fn pop_front(&mut self) -> Option<V> {
        let oldest = *self.front()?;
        self.drop_front();
        Some(oldest)
    }

    #[inline]
    fn drop_front(&mut self) {
        self.head = self.head.wrapping_add(1);
        if self.slots.is_empty() {
            self.turn_few();
        }
    }

    /// Lets the counts begin again once the oldest is past the end of `few`.
    fn turn_few(&mut self) {
        if self.head as usize == FEW {
            self.head = 0;
            self.tail = self.tail.wrapping_sub(FEW as u32);
        }
    }

    #[inline]
    pub(super) fn push_back(&mut self, value: V) {
        if self.is_full() {
            self.grow();
        }
        *self.slot_mut(self.tail) = value;
        self.tail = self.tail.wrapping_add(1);
    }

    /// Puts a value in and takes the oldest out, of which there must be one.
    #[inline]
    pub(super) fn rotate(&mut self, value: V) {
        let place = self.place(self.tail);
        if place < self.slots.len() {
            self.slots[place] = value;
            self.head = self.head.wrapping_add(1);
            self.tail = self.tail.wrapping_add(1);
        } else {
            self.rotate_few(value);
        }
    }

    #[cold]
    fn rotate_few(&mut self, value: V) {
        *self.few_at_mut(self.tail) = value;
        self.head = self.head.wrapping_add(1);
        self.tail = self.tail.wrapping_add(1);
        self.turn_few();
    }

    /// Takes the one at `index` out. O(the distance to the nearer end).
    pub(super) fn remove(&mut self, index: usize) {
        let len = self.len();
        if index >= len {
            return;
        }
        let newer = len.wrapping_sub(index).wrapping_sub(1);
        if index <= newer {
            for to in (1..=index).rev() {
                self.shift(to.wrapping_sub(1), to);
            }
            self.drop_front();
        } else {
            for to in index..len.wrapping_sub(1) {
                self.shift(to.wrapping_add(1), to);
            }
            self.tail = self.tail.wrapping_sub(1);
        }
    }

    fn shift(&mut self, from: usize, to: usize) {
        let value = self.get_mut(from).copied();
        if let (Some(value), Some(to)) = (value, self.get_mut(to)) {
            *to = value;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = V> {
        let count = self.len();
        (0..count).map(|index| *self.slot(self.head.wrapping_add(index as u32)))
    }

    /// Puts one in before the one at `index`, or behind all. O(those behind it).
    pub(super) fn insert(&mut self, index: usize, value: V) {
        self.push_back(value);
        let last = self.len().wrapping_sub(1);
        for to in (index.saturating_add(1)..=last).rev() {
            self.shift(to.wrapping_sub(1), to);
        }
        if let Some(slot) = self.get_mut(index) {
            *slot = value;
        }
    }

    /// The place of the one whose `key` is `wanted`, or where it would have to be, if they are in the
    /// order of their keys. O(log n).
    pub(super) fn find<K: Ord>(&self, wanted: &K, key: impl Fn(V) -> K) -> Result<usize, usize> {
        let (mut least, mut most) = (0, self.len());
        while least < most {
            let middle = least.midpoint(most);
            let found = key(*self.slot(self.head.wrapping_add(middle as u32)));
            if found == *wanted {
                return Ok(middle);
            }
            if found < *wanted {
                least = middle.wrapping_add(1);
            } else {
                most = middle;
            }
        }
        Err(least)
    }

    pub(super) fn for_each_mut(&mut self, mut change: impl FnMut(&mut V)) {
        for index in 0..self.len() {
            if let Some(value) = self.get_mut(index) {
                change(value);
            }
        }
    }

    #[cold]
    fn grow(&mut self) {
        let wanted = self.len().saturating_add(1).next_power_of_two();
        let mut slots = vec![V::default(); wanted].into_boxed_slice();
        let count = self.len();
        for (slot, value) in slots.iter_mut().zip(self.iter()) {
            *slot = value;
        }
        self.slots = slots;
        self.head = 0;
        self.tail = count as u32;
    }
}

impl<V: Copy + Default> FromIterator<V> for RingBuffer<V> {
    fn from_iter<I: IntoIterator<Item = V>>(values: I) -> Self {
        let mut ring = Self::new();
        values.into_iter().for_each(|value| ring.push_back(value));
        ring
    }
}

impl<V: Copy + Default + PartialEq> PartialEq for RingBuffer<V> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<V: Copy + Default + Eq> Eq for RingBuffer<V> {}

impl<V: Copy + Default + fmt::Debug> fmt::Debug for RingBuffer<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;

    #[test]
    fn it_agrees_with_a_queue_over_many_short_mixed_runs_and_a_long_one() {
        let mut state = 1u64;
        for steps in (1..100).chain([20_000]) {
            let mut ring = RingBuffer::new();
            let mut oracle = VecDeque::new();
            for value in 0..steps {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let drawn = (state >> 33) % (value + 1);
                match state >> 60 {
                    0..=4 => {
                        ring.push_back(value);
                        oracle.push_back(value);
                    }
                    5 => {
                        if oracle.pop_front().is_some() {
                            ring.rotate(value);
                            oracle.push_back(value);
                        }
                    }
                    6 | 7 => {
                        let place = oracle.partition_point(|value| *value < drawn);
                        ring.insert(place, drawn);
                        oracle.insert(place, drawn);
                    }
                    8..=11 => assert_eq!(ring.pop_front(), oracle.pop_front()),
                    12 | 13 => {
                        let index = drawn as usize % (oracle.len() + 1);
                        ring.remove(index);
                        oracle.remove(index);
                    }
                    _ => {
                        let place = oracle.partition_point(|value| *value < drawn);
                        match ring.find(&drawn, |value| value) {
                            Ok(found) => assert_eq!(oracle.get(found), Some(&drawn)),
                            Err(missing) => assert_eq!(missing, place),
                        }
                    }
                }
                assert_eq!(ring.front(), oracle.front());
                assert_eq!(ring.back_mut(), oracle.back_mut());
            }
            assert!(ring.iter().eq(oracle.iter().copied()));
        }
    }
}
