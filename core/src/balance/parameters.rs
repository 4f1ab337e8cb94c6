//! Parameters of policies: load factor, half-life and table size.
//!
//! Invariant: a value that exists is in range.

use core::time::Duration;

/// Reason why a parameter of a policy was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyConfigError {
    /// A load factor is below 1, so that not all leases would have a member.
    #[error("a load factor must be at least 1000 permille")]
    FactorBelowOne,
    /// A half-life is not from 1 ms to 1 day.
    #[error("a half-life must be from 1 millisecond to 1 day")]
    HalfLifeOutOfRange,
    /// A table size is no prime in range, so that a member's steps might not reach every place.
    #[error("the size of a Maglev table must be a prime from 3 to 16777213")]
    TableNotPrime,
}

/// Bound of a member's load under a hash policy, in permille of its share of all leases.
///
/// Source: V. Mirrokni, M. Thorup, M. Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2018.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "u32", into = "u32"))]
pub struct LoadFactor(u32);

impl LoadFactor {
    /// 1.25 times the share.
    pub const DEFAULT: Self = Self(1_250);

    /// No bound: a key keeps its member at any load.
    pub const UNBOUNDED: Self = Self(u32::MAX);

    /// A bound in permille of the share; `u32::MAX` is no bound.
    ///
    /// # Errors
    /// [`FactorBelowOne`](PolicyConfigError::FactorBelowOne) below 1,000.
    pub const fn from_permille(permille: u32) -> Result<Self, PolicyConfigError> {
        if permille < 1_000 {
            return Err(PolicyConfigError::FactorBelowOne);
        }
        Ok(Self(permille))
    }

    /// The bound in permille.
    #[must_use]
    pub const fn permille(self) -> u32 {
        self.0
    }
}

impl Default for LoadFactor {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TryFrom<u32> for LoadFactor {
    type Error = PolicyConfigError;

    fn try_from(permille: u32) -> Result<Self, PolicyConfigError> {
        Self::from_permille(permille)
    }
}

impl From<LoadFactor> for u32 {
    fn from(factor: LoadFactor) -> Self {
        factor.0
    }
}

/// Time after which a measured latency counts for half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "Duration", into = "Duration"))]
pub struct HalfLife(u64);

impl HalfLife {
    /// 7 seconds.
    pub const DEFAULT: Self = Self(7_000_000_000);

    /// A half-life from 1 ms to 1 day.
    ///
    /// # Errors
    /// [`HalfLifeOutOfRange`](PolicyConfigError::HalfLifeOutOfRange) outside of that range.
    pub const fn new(half_life: Duration) -> Result<Self, PolicyConfigError> {
        let nanos = half_life.as_nanos();
        if nanos < 1_000_000 || nanos > 86_400_000_000_000 {
            return Err(PolicyConfigError::HalfLifeOutOfRange);
        }
        Ok(Self(nanos as u64))
    }

    /// The half-life in nanoseconds.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
}

impl Default for HalfLife {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TryFrom<Duration> for HalfLife {
    type Error = PolicyConfigError;

    fn try_from(half_life: Duration) -> Result<Self, PolicyConfigError> {
        Self::new(half_life)
    }
}

impl From<HalfLife> for Duration {
    fn from(half_life: HalfLife) -> Self {
        Self::from_nanos(half_life.0)
    }
}

/// Number of places in a Maglev table: a prime. At 100 places a member or more, the shares of equal
/// members differ by at most 1 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "u32", into = "u32"))]
pub struct TableSize(u32);

impl TableSize {
    /// 65,537 places.
    pub const DEFAULT: Self = Self(65_537);

    /// A table with a prime number of places from 3 to 16,777,213.
    ///
    /// # Errors
    /// [`TableNotPrime`](PolicyConfigError::TableNotPrime) for any other number.
    pub const fn new(places: u32) -> Result<Self, PolicyConfigError> {
        if places < 3 || places > 16_777_213 || places.is_multiple_of(2) {
            return Err(PolicyConfigError::TableNotPrime);
        }
        let mut divisor = 3u32;
        while divisor.saturating_mul(divisor) <= places {
            if places.is_multiple_of(divisor) {
                return Err(PolicyConfigError::TableNotPrime);
            }
            divisor = divisor.saturating_add(2);
        }
        Ok(Self(places))
    }

    /// The number of places.
    #[must_use]
    pub const fn places(self) -> u32 {
        self.0
    }
}

impl Default for TableSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TryFrom<u32> for TableSize {
    type Error = PolicyConfigError;

    fn try_from(places: u32) -> Result<Self, PolicyConfigError> {
        Self::new(places)
    }
}

impl From<TableSize> for u32 {
    fn from(size: TableSize) -> Self {
        size.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_out_of_range_are_refused() {
        assert_eq!(
            LoadFactor::from_permille(999),
            Err(PolicyConfigError::FactorBelowOne)
        );
        assert_eq!(
            HalfLife::new(Duration::from_micros(999)),
            Err(PolicyConfigError::HalfLifeOutOfRange)
        );
        for places in [0, 1, 2, 9, 65_535, 65_539 * 3, u32::MAX] {
            assert_eq!(
                TableSize::new(places),
                Err(PolicyConfigError::TableNotPrime)
            );
        }
        for places in [3, 5, 7, 251, 65_537, 16_777_213] {
            assert_eq!(TableSize::new(places).map(TableSize::places), Ok(places));
        }
    }
}
