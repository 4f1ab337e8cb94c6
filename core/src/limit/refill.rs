//! The arithmetic that token bucket and GCRA share: a burst that refills at a steady rate.
//!
//! Invariant: the state of such a limiter is the `missing` part of the burst, in parts of [`RateRatio`]. It is
//! above the capacity only where more was charged or settled than was free.

use super::admission::{LimitConfigError, Wait};
use super::rate_ratio::RateRatio;
use crate::time::{Tick, saturating_nanos};
use core::num::NonZeroU32;
use core::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Refill {
    pub(super) ratio: RateRatio,
    pub(super) burst: NonZeroU32,
}

impl Refill {
    /// A burst that refills at `limit` units per `window`.
    pub(super) fn new(
        limit: NonZeroU32,
        window: Duration,
        burst: NonZeroU32,
    ) -> Result<Self, LimitConfigError> {
        Ok(Self {
            ratio: RateRatio::new(limit, window)?,
            burst,
        })
    }

    /// The parts of a whole burst. Limiters keep them, so that a decision needs no multiplication for it.
    pub(super) fn capacity(&self) -> u128 {
        self.ratio.cost(self.burst.get())
    }

    /// When `cost` units fit, if `missing` parts of the `capacity` are missing at `now`.
    #[inline]
    pub(super) fn earliest(&self, now: Tick, capacity: u128, missing: u128, cost: u32) -> Wait {
        if cost == 0 {
            return Wait::Until(now);
        }
        if cost > self.burst.get() {
            return Wait::Never;
        }
        let excess = missing.saturating_add(self.ratio.cost(cost));
        let nanos = self.ratio.nanos(excess.saturating_sub(capacity));
        let then = nanos.and_then(|nanos| now.checked_add_nanos(nanos));
        then.map_or(Wait::Never, Wait::Until)
    }

    /// The whole units that fit.
    pub(super) fn available(&self, capacity: u128, missing: u128) -> u32 {
        let units = self.ratio.units(capacity.saturating_sub(missing));
        u32::try_from(units).unwrap_or(u32::MAX)
    }

    /// The missing part after a settlement. Unused units are credited only if `refunds`.
    pub(super) fn settle(&self, missing: u128, refunds: bool, reserved: u32, actual: u32) -> u128 {
        match actual.checked_sub(reserved) {
            Some(more) => missing.saturating_add(self.ratio.cost(more)),
            None if refunds => {
                missing.saturating_sub(self.ratio.cost(reserved.saturating_sub(actual)))
            }
            None => missing,
        }
    }

    /// The missing part of `next`, which replaces this configuration, in parts of its own rate.
    ///
    /// The free units never grow by the change. If the rate rises and the burst shrinks, the missing part stays;
    /// otherwise a span could hold the larger burst and the larger rate.
    pub(super) fn carry_over(&self, missing: u128, next: &Self) -> u128 {
        let (from, to) = (self.ratio.per_unit.get(), next.ratio.per_unit.get());
        let missing = match missing.checked_mul(to.into()) {
            Some(product) => product.div_ceil(from.into()),
            None => missing.div_ceil(from.into()).saturating_mul(to.into()),
        };
        let difference = next.ratio.cost(next.burst.get().abs_diff(self.burst.get()));
        if next.burst >= self.burst {
            missing.saturating_add(difference)
        } else if self.ratio.is_slower_than(next.ratio) {
            missing
        } else {
            missing.saturating_sub(difference)
        }
    }

    /// The burst, and the units that flow in between the first and the last nanosecond of a half-open span.
    pub(super) fn worst_case(&self, span: Duration) -> u64 {
        let Some(between) = saturating_nanos(span).checked_sub(1) else {
            return 0;
        };
        let ratio = self.ratio;
        let units = if self.burst == NonZeroU32::MIN {
            // A burst of one keeps no fraction of the next unit, so that each unit takes whole nanoseconds.
            let each = ratio.per_unit.get().div_ceil(ratio.per_nano.get().into());
            between.checked_div(each).unwrap_or(0).into()
        } else {
            ratio.units(ratio.worth(between))
        };
        let units = units.saturating_add(self.burst.get().into());
        u64::try_from(units).unwrap_or(u64::MAX)
    }
}
