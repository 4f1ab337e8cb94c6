//! The weight of a member that was added or has recovered, while it grows back to its full value.
//!
//! Invariant: a member whose full weight is above zero never weighs zero.

use crate::time::{ClockOffset, Tick, saturating_nanos};
use core::num::{NonZeroU32, NonZeroU64, NonZeroU128};
use core::time::Duration;

/// How a member's weight comes back.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_core::health::{SlowStart, SlowStartConfig};
/// use leasehold_core::time::Tick;
///
/// let steps = NonZeroU32::new(10).unwrap();
/// let config = SlowStartConfig::new(Duration::from_secs(10), steps)?;
/// let at = |secs: u64| Tick::from_nanos(secs * 1_000_000_000);
///
/// let mut start = SlowStart::default();
/// assert_eq!(start.weight_at(&config, at(0), 5), 5 * SlowStart::SCALE);
/// start.begin(at(100));
/// assert_eq!(start.weight_at(&config, at(100), 5), 8);
/// assert_eq!(start.weight_at(&config, at(105), 5), 40);
/// assert_eq!(start.next_change(&config, at(105)), Some(at(106)));
/// assert_eq!(start.weight_at(&config, at(110), 5), 80);
/// # Ok::<(), leasehold_core::health::SlowStartConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowStartConfig {
    duration: NonZeroU64,
    steps: NonZeroU32,
}

/// A slow start of no length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a slow start needs a length above zero")]
pub struct SlowStartConfigError;

impl SlowStartConfig {
    /// A ramp of `duration` in `steps` equal steps.
    ///
    /// # Errors
    /// Where it has no length.
    pub fn new(duration: Duration, steps: NonZeroU32) -> Result<Self, SlowStartConfigError> {
        let duration = NonZeroU64::new(saturating_nanos(duration)).ok_or(SlowStartConfigError)?;
        Ok(Self { duration, steps })
    }
}

/// Where one member is on the ramp; 16 bytes. See [`SlowStartConfig`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SlowStart {
    since: Option<Tick>,
}

impl SlowStart {
    /// What a weight of one becomes at full height, so that it has steps to climb too.
    pub const SCALE: u32 = 16;

    /// Begins the ramp.
    pub fn begin(&mut self, now: Tick) {
        self.since = Some(now);
    }

    /// Goes to full height at once.
    pub fn finish(&mut self) {
        self.since = None;
    }

    /// The weight at `now` of a member whose weight is `full`, [`SCALE`](Self::SCALE) times as large.
    ///
    /// Of S steps, after i S-ths of the duration it is i S-ths, and never less than one S-th. It is zero
    /// only if `full` is, and at most `u32::MAX`.
    #[must_use]
    pub fn weight_at(&self, config: &SlowStartConfig, now: Tick, full: u32) -> u32 {
        let scaled = u64::from(full).saturating_mul(Self::SCALE.into());
        let weight = u128::from(scaled).saturating_mul(self.height(config, now).into());
        let weight = weight / NonZeroU128::from(config.steps);
        let least = u32::from(full > 0);
        u32::try_from(weight).unwrap_or(u32::MAX).max(least)
    }

    /// The first tick after `now` at which the ramp is higher; `None` from its end on.
    #[must_use]
    pub fn next_change(&self, config: &SlowStartConfig, now: Tick) -> Option<Tick> {
        let since = self.since?;
        let height = self.height(config, now);
        if height >= config.steps.get() {
            return None;
        }
        let next = u128::from(height).saturating_add(1);
        let nanos = u128::from(config.duration.get()).saturating_mul(next);
        since.checked_add_nanos(nanos.div_ceil(config.steps.get().into()) as u64)
    }

    /// Moves the ramp to another clock, which shows `to` when this one shows `from`.
    pub fn rebase(&mut self, from: Tick, to: Tick) {
        self.since = self.since.map(|since| ClockOffset { from, to }.tick(since));
    }

    /// From 1 to the number of steps.
    fn height(&self, config: &SlowStartConfig, now: Tick) -> u32 {
        let steps = config.steps.get();
        let Some(since) = self.since else {
            return steps;
        };
        let passed = u128::from(saturating_nanos(now.since(since)));
        let height = passed.saturating_mul(steps.into()) / NonZeroU128::from(config.duration);
        u32::try_from(height).unwrap_or(steps).clamp(1, steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn tick(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    fn number(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    #[test]
    fn a_ramp_is_climbed_in_its_steps_and_starves_nobody() {
        let config = SlowStartConfig::new(Duration::from_nanos(25), number(10)).unwrap();
        let mut start = SlowStart::default();
        start.begin(tick(1_000));
        let (mut now, mut weights) = (tick(1_000), Vec::new());
        loop {
            weights.push(start.weight_at(&config, now, 1));
            let Some(next) = start.next_change(&config, now) else {
                break;
            };
            let before = tick(next.as_nanos() - 1);
            assert_eq!(
                start.weight_at(&config, before, 1),
                *weights.last().unwrap()
            );
            now = next;
        }
        assert_eq!(weights, [1, 3, 4, 6, 8, 9, 11, 12, 14, 16]);
        assert_eq!(now, tick(1_025));
        let many = SlowStartConfig::new(Duration::from_nanos(25), NonZeroU32::MAX).unwrap();
        assert_eq!(start.weight_at(&many, tick(1_000), 1), 1);
        assert_eq!(start.weight_at(&many, tick(1_000), 0), 0);
        assert_eq!(start.weight_at(&many, tick(2_000), u32::MAX), u32::MAX);
    }
}
