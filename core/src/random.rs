//! SplitMix64: the pseudorandom generator and the bit mixer of this crate.
//!
//! Invariant: equal seeds give equal numbers.
//!
//! Source: G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number Generators", 2014.

/// Increment of the generator: the golden ratio's fraction in units of 2^-64.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Finaliser of SplitMix64: a bijection in which each output bit depends on all input bits.
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Pseudorandom generator whose whole state is its counter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct SplitMix64(pub(crate) u64);

impl SplitMix64 {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// Draws a number uniform in `0 ..= last`, to within 2^-64.
    pub(crate) fn up_to(&mut self, last: u64) -> u64 {
        let values = u128::from(last).saturating_add(1);
        (u128::from(self.next()).saturating_mul(values) >> 64) as u64
    }
}
