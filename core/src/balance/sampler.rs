//! Random draws in proportion to weight.
//!
//! Invariant: each sum is that of the 16 values below it, the highest level has one sum, and a slot that
//! can't be drawn has weight 0.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "places stay below twice a vector's length, sums below 2^32 weights of 2^20"
)]

use crate::random::SplitMix64;
use alloc::vec;
use alloc::vec::Vec;

/// Values under one sum: two cache lines.
const WIDTH: usize = 16;

/// Rejections before a draw descends the sums.
const ATTEMPTS: u32 = 8;
/// Rejection sampling is used while at least 1 in `MAX_TICKETS_PER_WEIGHT` tickets is accepted.
const MAX_TICKETS_PER_WEIGHT: u64 = 4;

/// Independent draws of slots in proportion to weight. 4.6 bytes a slot.
///
/// Rejection sampling draws a slot uniformly and accepts it with probability `weight / greatest weight`:
/// O(1) while weights are alike and most slots have one (J. von Neumann, "Various Techniques Used in
/// Connection With Random Digits", 1951). Otherwise a draw descends a tree of sums in O(log16 n).
#[derive(Clone, Debug)]
pub(super) struct WeightedSampler {
    weights: Vec<u32>,
    /// Binary logarithm of the greatest weight ever set, rounded up.
    greatest_log2: u32,
    /// Levels of sums from the lowest up: sums of 16 weights, then of 16 sums.
    sums: Vec<Vec<u64>>,
    random: SplitMix64,
}

impl WeightedSampler {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            weights: Vec::new(),
            greatest_log2: 0,
            sums: vec![vec![0]],
            random: SplitMix64(seed),
        }
    }

    pub(super) fn set(&mut self, id: u32, weight: u32) {
        let mut at = id as usize;
        if at >= self.weights.len() {
            self.make_room(at + 1);
        }
        let before = core::mem::replace(&mut self.weights[at], weight);
        if before == weight {
            return;
        }
        let log2 = u32::BITS - weight.saturating_sub(1).leading_zeros();
        self.greatest_log2 = self.greatest_log2.max(log2);
        for level in &mut self.sums {
            at /= WIDTH;
            level[at] = level[at] + u64::from(weight) - u64::from(before);
        }
    }

    /// Draws a slot; `None` if all weigh nothing.
    pub(super) fn draw(&mut self) -> Option<u32> {
        let (top, below_top) = self.sums.split_last()?;
        let total = *top.first()?;
        if total == 0 {
            return None;
        }
        let tickets = (self.weights.len() as u64) << self.greatest_log2;
        if tickets <= total.saturating_mul(MAX_TICKETS_PER_WEIGHT) {
            for _ in 0..ATTEMPTS {
                let ticket = below(&mut self.random, tickets);
                let slot = ticket >> self.greatest_log2;
                let weight = self.weights.get(slot as usize).copied().unwrap_or(0);
                if ticket & ((1 << self.greatest_log2) - 1) < weight.into() {
                    return u32::try_from(slot).ok();
                }
            }
        }
        let mut target = below(&mut self.random, total);
        let mut at = 0;
        for level in below_top.iter().rev() {
            at = descend(level, at, &mut target);
        }
        u32::try_from(descend(&self.weights, at, &mut target)).ok()
    }

    fn make_room(&mut self, slots: usize) {
        self.weights.resize(slots, 0);
        let mut len = slots;
        for level in &mut self.sums {
            len = len.div_ceil(WIDTH);
            level.resize(level.len().max(len), 0);
        }
        while let Some(top) = self.sums.last()
            && top.len() > 1
        {
            let above = top.chunks(WIDTH).map(|some| some.iter().sum()).collect();
            self.sums.push(above);
        }
    }
}

/// Returns the place, among the values under sum `at`, whose cumulated range contains `target`, and reduces
/// `target` to its offset in that range. Reads all values: an early exit costs more in mispredicted branches.
fn descend<V: Copy + Into<u64>>(level: &[V], at: usize, target: &mut u64) -> usize {
    let first = at * WIDTH;
    let (mut place, mut sum, mut before) = (first, 0, 0);
    for value in level.iter().skip(first).take(WIDTH) {
        sum += (*value).into();
        let is_past = sum <= *target;
        place += usize::from(is_past);
        before = if is_past { sum } else { before };
    }
    *target -= before;
    place
}

/// Returns an unbiased uniform number in `0..values`, for `values > 0`. A draw is repeated with probability
/// `values / 2^64`. Source: D. Lemire, "Fast Random Integer Generation in an Interval", 2019.
fn below(random: &mut SplitMix64, values: u64) -> u64 {
    loop {
        let product = u128::from(random.next()) * u128::from(values);
        let low = product as u64;
        if low >= values || low >= values.wrapping_neg() % values {
            return (product >> 64) as u64;
        }
    }
}
