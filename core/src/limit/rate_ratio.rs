//! A rate as a fraction in lowest terms, so that nothing is rounded.
//!
//! Invariant: time and units are compared in parts: a nanosecond is worth `per_nano` parts, a unit costs
//! `per_unit`, and `per_unit >= per_nano`.

use super::admission::{LimitConfigError, window_nanos};
use crate::time::Tick;
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "(NonZeroU32, NonZeroU64)"))]
#[cfg_attr(feature = "serde", serde(into = "(NonZeroU32, NonZeroU64)"))]
pub(super) struct RateRatio {
    pub(super) per_nano: NonZeroU32,
    pub(super) per_unit: NonZeroU64,
}

impl RateRatio {
    /// The rate of `limit` units per `window`, at most one unit a nanosecond.
    pub(super) fn new(limit: NonZeroU32, window: Duration) -> Result<Self, LimitConfigError> {
        let window = NonZeroU64::new(window_nanos(window)?).ok_or(LimitConfigError::EmptyWindow)?;
        Self::reduce(limit, window).ok_or(LimitConfigError::TooFine)
    }

    fn reduce(limit: NonZeroU32, window: NonZeroU64) -> Option<Self> {
        let divisor = greatest_common_divisor(limit.get().into(), window.get());
        let per_nano = u64::from(limit.get()).checked_div(divisor)?;
        let per_unit = window.get().checked_div(divisor)?;
        Some(Self {
            per_nano: NonZeroU32::new(u32::try_from(per_nano).ok()?)?,
            per_unit: NonZeroU64::new(per_unit).filter(|per_unit| per_unit.get() >= per_nano)?,
        })
    }

    pub(super) fn is_slower_than(self, other: Self) -> bool {
        let product = |units: Self, nanos: Self| {
            u128::from(units.per_nano.get()).saturating_mul(nanos.per_unit.get().into())
        };
        product(self, other) < product(other, self)
    }

    /// The parts that `units` cost.
    #[inline]
    pub(super) fn cost(self, units: u32) -> u128 {
        u128::from(self.per_unit.get()).saturating_mul(units.into())
    }

    /// The whole units that `parts` pay for.
    pub(super) fn units(self, parts: u128) -> u128 {
        parts.checked_div(self.per_unit.get().into()).unwrap_or(0)
    }

    /// The parts that a span is worth.
    #[inline]
    pub(super) fn worth(self, nanos: u64) -> u128 {
        u128::from(self.per_nano.get()).saturating_mul(nanos.into())
    }

    /// A point in time in parts, translated to another clock.
    pub(super) fn rebase(self, parts: u128, from: Tick, to: Tick) -> u128 {
        let (from, to) = (self.worth(from.as_nanos()), self.worth(to.as_nanos()));
        let later = parts.saturating_add(to.saturating_sub(from));
        later.saturating_sub(from.saturating_sub(to))
    }

    /// The nanoseconds, rounded up, that are worth `parts`; `None` beyond 584 years.
    #[inline]
    pub(super) fn nanos(self, parts: u128) -> Option<u64> {
        match u64::try_from(parts) {
            Ok(parts) if self.per_nano == NonZeroU32::MIN => Some(parts),
            // A division of 128 bits costs several times as much as one of 64.
            Ok(parts) => Some(parts.div_ceil(self.per_nano.get().into())),
            Err(_) => u64::try_from(parts.div_ceil(self.per_nano.get().into())).ok(),
        }
    }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while let Some(rest) = a.checked_rem(b) {
        (a, b) = (b, rest);
    }
    a
}

impl From<RateRatio> for (NonZeroU32, NonZeroU64) {
    fn from(ratio: RateRatio) -> Self {
        (ratio.per_nano, ratio.per_unit)
    }
}

impl TryFrom<(NonZeroU32, NonZeroU64)> for RateRatio {
    type Error = LimitConfigError;

    fn try_from((units, nanos): (NonZeroU32, NonZeroU64)) -> Result<Self, LimitConfigError> {
        Self::reduce(units, nanos).ok_or(LimitConfigError::TooFine)
    }
}

/// A stored number of parts, aligned to 8 bytes instead of 16 to keep limiters small.
///
/// Serialized in two halves, upper first, because not every format has 128-bit numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(from = "(u64, u64)", into = "(u64, u64)"))]
#[repr(Rust, packed(8))]
pub(super) struct Parts(pub(super) u128);

impl From<(u64, u64)> for Parts {
    fn from((upper, lower): (u64, u64)) -> Self {
        Self(u128::from(upper) << 64 | u128::from(lower))
    }
}

impl From<Parts> for (u64, u64) {
    fn from(Parts(parts): Parts) -> Self {
        ((parts >> 64) as u64, parts as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_reduced_to_lowest_terms() {
        let limit = NonZeroU32::new(40_000).unwrap();
        let ratio = RateRatio::new(limit, Duration::from_secs(60)).unwrap();
        assert_eq!((ratio.per_nano.get(), ratio.per_unit.get()), (1, 1_500_000));
        let finer = RateRatio::new(NonZeroU32::MIN.saturating_add(1), Duration::from_nanos(1));
        assert_eq!(finer, Err(LimitConfigError::TooFine));
    }
}
