//! Draws by weight.
//!
//! Invariant: `sums[i]` is the weight of the slots `i - lowbit(i) .. i`, and a slot that can't be drawn
//! weighs nothing.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "places stay below twice a vector's length, sums below 2^32 weights of 2^20"
)]

use crate::backoff::SplitMix64;
use alloc::vec;
use alloc::vec::Vec;

/// Slots drawn in proportion to weight, each draw independent. O(log n); 12 to 24 bytes a slot.
///
/// Source: P. Fenwick, "A New Data Structure for Cumulative Frequency Tables", 1994.
#[derive(Clone, Debug)]
pub(super) struct Lottery {
    /// From 1 to a power of two.
    sums: Vec<u64>,
    weights: Vec<u32>,
    random: SplitMix64,
}

impl Lottery {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            sums: vec![0; 2],
            weights: vec![0],
            random: SplitMix64(seed),
        }
    }

    pub(super) fn set(&mut self, id: u32, weight: u32) {
        let slot = id as usize;
        if slot >= self.weights.len() {
            self.make_room(slot + 1);
        }
        let before = core::mem::replace(&mut self.weights[slot], weight);
        if before == weight {
            return;
        }
        let mut at = slot + 1;
        while let Some(sum) = self.sums.get_mut(at) {
            *sum = *sum + u64::from(weight) - u64::from(before);
            at += at & at.wrapping_neg();
        }
    }

    pub(super) fn draw(&mut self) -> Option<u32> {
        let total = *self.sums.last()?;
        if total == 0 {
            return None;
        }
        let mut target = below(&mut self.random, total);
        let mut at = 0;
        let mut step = self.weights.len();
        while step > 0 {
            if let Some(sum) = self.sums.get(at + step)
                && *sum <= target
            {
                target -= sum;
                at += step;
            }
            step /= 2;
        }
        u32::try_from(at).ok()
    }

    fn make_room(&mut self, slots: usize) {
        let (before, after) = (self.weights.len(), slots.next_power_of_two());
        let total = self.sums[before];
        self.weights.resize(after, 0);
        self.sums.resize(after + 1, 0);
        let mut at = before * 2;
        while at <= after {
            self.sums[at] = total;
            at *= 2;
        }
    }
}

/// Uniform in `0 .. values`, which is above zero; without bias. A number is drawn again with a chance of
/// `values / 2^64`. Source: D. Lemire, "Fast Random Integer Generation in an Interval", 2019.
pub(super) fn below(random: &mut SplitMix64, values: u64) -> u64 {
    loop {
        let product = u128::from(random.next()) * u128::from(values);
        let low = product as u64;
        if low >= values || low >= values.wrapping_neg() % values {
            return (product >> 64) as u64;
        }
    }
}
