//! The stable hash of names and keys.

use crate::random::mix;

/// Hashes a name or key, equally on every machine and in every version.
///
/// 64-bit FNV-1a, then the finaliser of SplitMix64, so that every bit depends on every byte.
#[must_use]
pub const fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut at = 0usize;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at = at.saturating_add(1);
    }
    mix(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_stay_the_same_between_versions() {
        let expected = [
            ("", 0xf52a_15e9_a9b5_e89b),
            ("a", 0x02c0_bdbf_4814_20f8),
            ("foobar", 0x404d_a9e3_b740_78c2),
            ("http://127.0.0.1:8001", 0x173e_48b1_ba2d_0785),
        ];
        for (name, hash) in expected {
            assert_eq!(stable_hash(name.as_bytes()), hash, "{name:?}");
        }
    }
}
