//! Panic threshold: the share of healthy members below which health is ignored.
//!
//! Invariant: a threshold is at most 1,000 permille.

/// Share of healthy members below which health is ignored, because the healthy ones would be overloaded.
///
/// ```
/// use leasehold_core::health::PanicThreshold;
///
/// let half = PanicThreshold::new(500)?;
/// assert!(half.in_panic(4, 10));
/// assert!(!half.in_panic(5, 10));
/// # Ok::<(), leasehold_core::health::PanicThresholdError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PanicThreshold(u16);

/// Error of a panic threshold above 1,000 permille.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a panic threshold must be at most 1000 permille")]
pub struct PanicThresholdError;

impl PanicThreshold {
    /// Threshold at which health is never ignored: 0 permille.
    pub const NEVER: Self = Self(0);

    /// Creates a threshold of `permille`.
    ///
    /// # Errors
    /// Where `permille` is above 1,000.
    pub const fn new(permille: u16) -> Result<Self, PanicThresholdError> {
        if permille > 1_000 {
            return Err(PanicThresholdError);
        }
        Ok(Self(permille))
    }

    /// Returns the threshold in permille.
    #[must_use]
    pub const fn permille(self) -> u16 {
        self.0
    }

    /// Returns whether the share of `healthy` in `total` members is below the threshold.
    ///
    /// A share equal to the threshold is enough, and so are zero of zero members.
    #[must_use]
    pub fn in_panic(self, healthy: u32, total: u32) -> bool {
        u64::from(healthy).saturating_mul(1_000) < u64::from(total).saturating_mul(self.0.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_equal_to_the_threshold_is_no_panic() {
        let third = PanicThreshold::new(333).unwrap();
        assert!(third.in_panic(332, 1_000) && !third.in_panic(333, 1_000));
        assert!(!PanicThreshold::NEVER.in_panic(0, 10));
        assert!(PanicThreshold::new(1_001).is_err());
        let all = PanicThreshold::new(1_000).unwrap();
        assert!(all.in_panic(u32::MAX - 1, u32::MAX) && !all.in_panic(0, 0));
    }
}
