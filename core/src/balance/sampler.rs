//! Draws by weight.
//!
//! Invariant: each sum is that of the 16 below it, the highest level has one, and a slot that can't be
//! drawn weighs nothing.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "places stay below twice a vector's length, sums below 2^32 weights of 2^20"
)]

use crate::random::SplitMix64;
use alloc::vec;
use alloc::vec::Vec;
use core::array;

/// Two cache lines of sums.
const WIDTH: usize = 16;

/// How often a slot is drawn by itself.
const ATTEMPTS: u32 = 8;
/// What is worth that: a share of 1 in so many of being taken.
const WORTH: u64 = 4;

/// Slots drawn in proportion to weight, each draw independent. 4.6 bytes a slot.
///
/// A slot drawn like any other is taken with a chance of its weight by the greatest, which is O(1) where
/// weights are much alike and most slots have one. Otherwise the sums lead to it, in O(log16 n). Source of
/// the former: J. von Neumann, "Various Techniques Used in Connection With Random Digits", 1951.
#[derive(Clone, Debug)]
pub(super) struct WeightedSampler {
    weights: Vec<u32>,
    /// Of the greatest weight there ever was, rounded up.
    greatest_log2: u32,
    /// The lowest level first: the sums of 16 weights each, then of 16 sums.
    sums: Vec<Vec<u64>>,
    random: SplitMix64,
    /// How many of the next draws were prefetched.
    prefetched: usize,
}

impl WeightedSampler {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            weights: Vec::new(),
            greatest_log2: 0,
            sums: vec![vec![0]],
            random: SplitMix64(seed),
            prefetched: 0,
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

    pub(super) fn draw(&mut self) -> Option<u32> {
        self.prefetched = self.prefetched.saturating_sub(1);
        let mut random = self.random.clone();
        let drawn = self.draw_by(&mut random);
        self.random = random;
        drawn
    }

    /// What the next choices of so many draws each will draw if no weight changes, unless some were prefetched
    /// that are yet to come.
    pub(super) fn prefetch_next<const DRAWS: usize, const CHOICES: usize>(
        &mut self,
    ) -> Option<[[Option<u32>; DRAWS]; CHOICES]> {
        if self.prefetched > 0 {
            return None;
        }
        self.prefetched = DRAWS * CHOICES;
        let mut random = self.random.clone();
        let mut draw = |_| self.draw_by(&mut random);
        Some(array::from_fn(|_| array::from_fn(&mut draw)))
    }

    fn draw_by(&self, random: &mut SplitMix64) -> Option<u32> {
        let (top, below_top) = self.sums.split_last()?;
        let total = *top.first()?;
        if total == 0 {
            return None;
        }
        let tickets = (self.weights.len() as u64) << self.greatest_log2;
        if tickets <= total.saturating_mul(WORTH) {
            for _ in 0..ATTEMPTS {
                let ticket = below(random, tickets);
                let slot = ticket >> self.greatest_log2;
                let weight = self.weights.get(slot as usize).copied().unwrap_or(0);
                if ticket & ((1 << self.greatest_log2) - 1) < weight.into() {
                    return u32::try_from(slot).ok();
                }
            }
        }
        let mut target = below(random, total);
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

/// The place below `at` that has the target, which becomes what is left of it. It looks at all there are,
/// since where to stop can't be prefetched, and a wrong guess costs more.
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
