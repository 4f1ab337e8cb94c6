//! Which policies there are, what each may be told, and what each needs to know.
//!
//! Invariant: a policy that can be named can be built. What it is told was parsed.

use core::num::NonZeroU16;
use core::time::Duration;

/// How a member is chosen among those that could take a lease now.
///
/// | policy | weight | costs |
/// |---|---|---|
/// | fifo, round robin | no | O(log n); round robin O(log64 n) |
/// | the others | yes | O(log n); the ring a constant on average |
///
/// A weight of 0 takes a member out of every policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Policy {
    /// Longest idle first: a queue from which members are taken and into which they are put back.
    /// A member that still holds leases comes after those that hold none; among them, the one whose
    /// last grant or release is longest ago.
    #[default]
    Fifo,
    /// One after the other, in the order of their slots. A member that isn't ready when its turn comes
    /// is passed over, and keeps one missed turn for when it is.
    RoundRobin,
    /// In turn, as often as its weight says and as evenly as can be.
    WeightedRoundRobin,
    /// By chance, in proportion to weight.
    Random,
    /// The fewest leases for its weight.
    LeastConnections,
    /// The fewest calls for its weight so far.
    LeastUsed,
    /// The least work ahead.
    LeastQueue,
    /// The less loaded for its weight of two drawn by chance in proportion to weight. Source: M.
    /// Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
    PowerOfTwoChoices,
    /// The least expected latency: the peak-sensitive average of what was measured, times the leases it
    /// would hold, by weight. Source: Finagle's `PeakEwma`.
    PeakEwma(HalfLife),
    /// By key: weighted rendezvous hashing over a tree of the members.
    Rendezvous(LoadFactor),
    /// By key: the next of many points of each member on a ring.
    Ring {
        /// How many points a member has for each unit of its weight.
        points: NonZeroU16,
        /// How far above the average a member may be loaded.
        bound: LoadFactor,
    },
    /// By key: a table that all members take turns to fill.
    Maglev {
        /// How many places the table has.
        table: TableSize,
        /// How far above the average a member may be loaded.
        bound: LoadFactor,
    },
}

impl Policy {
    /// [`PeakEwma`](Self::PeakEwma) with a half-life of 7 seconds, which is Finagle's decay of 10.
    pub const PEAK_EWMA: Self = Self::PeakEwma(HalfLife::DEFAULT);

    /// [`Rendezvous`](Self::Rendezvous) with no member above 1.25 times its share.
    pub const RENDEZVOUS: Self = Self::Rendezvous(LoadFactor::DEFAULT);

    /// [`Ring`](Self::Ring) with 160 points, as ketama has, and no member above 1.25 times its share.
    pub const RING: Self = Self::Ring {
        points: NonZeroU16::MIN.saturating_add(159),
        bound: LoadFactor::DEFAULT,
    };

    /// [`Maglev`](Self::Maglev) with 65,537 places and no member above 1.25 times its share.
    pub const MAGLEV: Self = Self::Maglev {
        table: TableSize::DEFAULT,
        bound: LoadFactor::DEFAULT,
    };

    /// Whether requests with the same key go to the same member.
    #[must_use]
    pub const fn uses_key(self) -> bool {
        matches!(
            self,
            Self::Rendezvous(_) | Self::Ring { .. } | Self::Maglev { .. }
        )
    }

    /// Whether members are drawn, whatever the request.
    pub(crate) const fn draws(self) -> bool {
        matches!(self, Self::Random | Self::PowerOfTwoChoices)
    }

    /// Whether [`MemberLoad::load`](super::MemberLoad::load) plays a part.
    #[must_use]
    pub const fn uses_load(self) -> bool {
        matches!(
            self,
            Self::Fifo | Self::LeastConnections | Self::PowerOfTwoChoices | Self::PeakEwma(_)
        ) || self.uses_key()
    }

    /// Whether [`MemberLoad::pass`](super::MemberLoad::pass) plays a part.
    #[must_use]
    pub const fn uses_pass(self) -> bool {
        matches!(self, Self::LeastUsed)
    }

    /// Whether [`MemberLoad::work`](super::MemberLoad::work) plays a part.
    #[must_use]
    pub const fn uses_work(self) -> bool {
        matches!(self, Self::LeastQueue)
    }

    /// The half-life of the latencies in [`MemberLoad::latency`](super::MemberLoad::latency), if they play
    /// a part.
    #[must_use]
    pub const fn half_life(self) -> Option<HalfLife> {
        if let Self::PeakEwma(half_life) = self {
            Some(half_life)
        } else {
            None
        }
    }
}

/// Why what a policy was told was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyConfigError {
    /// Not everybody can be below the average.
    #[error("a load factor must be at least 1000 permille")]
    FactorBelowOne,
    /// A latency would be forgotten before the next is known.
    #[error("a half-life must be from 1 millisecond to 1 day")]
    HalfLifeOutOfRange,
    /// The table's size is no prime, so that a member's steps through it might not reach every place.
    #[error("the size of a Maglev table must be a prime from 3 to 16777213")]
    TableNotPrime,
}

/// How far above its share of all leases a member may be loaded under a hash policy, in permille.
///
/// Source: V. Mirrokni, M. Thorup, M. Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2018.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "u32", into = "u32"))]
pub struct LoadFactor(u32);

impl LoadFactor {
    /// 1.25 times its share.
    pub const DEFAULT: Self = Self(1_250);

    /// No bound: a key keeps its member however loaded it is.
    pub const UNBOUNDED: Self = Self(u32::MAX);

    /// So many thousandths of its share; `u32::MAX` is no bound.
    ///
    /// # Errors
    /// Below 1,000.
    pub const fn from_permille(permille: u32) -> Result<Self, PolicyConfigError> {
        if permille < 1_000 {
            return Err(PolicyConfigError::FactorBelowOne);
        }
        Ok(Self(permille))
    }

    /// The factor in thousandths.
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

/// After how long a measured latency counts for half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "Duration", into = "Duration"))]
pub struct HalfLife(u64);

impl HalfLife {
    /// 7 seconds.
    pub const DEFAULT: Self = Self(7_000_000_000);

    /// A half-life from 1 millisecond to 1 day.
    ///
    /// # Errors
    /// Where it is outside of that.
    pub const fn new(half_life: Duration) -> Result<Self, PolicyConfigError> {
        let nanos = half_life.as_nanos();
        if nanos < 1_000_000 || nanos > 86_400_000_000_000 {
            return Err(PolicyConfigError::HalfLifeOutOfRange);
        }
        Ok(Self(nanos as u64))
    }

    /// Nanoseconds.
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

/// How many places a Maglev table has: a prime. A hundred times the members or more keeps their shares
/// within a percent of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "u32", into = "u32"))]
pub struct TableSize(u32);

impl TableSize {
    /// 65,537 places.
    pub const DEFAULT: Self = Self(65_537);

    /// So many places.
    ///
    /// # Errors
    /// Where that is no prime, or not from 3 to 16,777,213.
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

    /// How many places.
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
    fn what_no_policy_could_use_is_refused() {
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
