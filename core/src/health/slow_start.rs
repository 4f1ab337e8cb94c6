//! Slow start: the weight of a new or recovered member grows to its full value in steps.
//!
//! Invariant: a member whose full weight is above zero never has weight zero.

use crate::time::{ClockOffset, Tick, saturating_nanos};
use core::num::{NonZeroU32, NonZeroU64, NonZeroU128};
use core::time::Duration;

/// Duration and number of steps of a slow start.
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

/// Error of a slow start of zero length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the duration of a slow start must be above zero")]
pub struct SlowStartConfigError;

impl SlowStartConfig {
    /// Creates a ramp of `duration` in `steps` equal steps.
    ///
    /// # Errors
    /// Where `duration` is zero.
    pub fn new(duration: Duration, steps: NonZeroU32) -> Result<Self, SlowStartConfigError> {
        let duration = NonZeroU64::new(saturating_nanos(duration)).ok_or(SlowStartConfigError)?;
        Ok(Self { duration, steps })
    }

    /// Returns the length of the ramp.
    #[must_use]
    pub const fn duration(&self) -> Duration {
        Duration::from_nanos(self.duration.get())
    }

    /// Returns the number of steps.
    #[must_use]
    pub const fn steps(&self) -> NonZeroU32 {
        self.steps
    }
}

/// Slow start of one member; 16 bytes. See [`SlowStartConfig`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SlowStart {
    /// Begin of the ramp; `None` at full weight.
    since: Option<Tick>,
}

impl SlowStart {
    /// Factor applied to weights, so that a weight of one can be ramped too.
    pub const SCALE: u32 = 16;

    /// Begins the ramp.
    pub fn begin(&mut self, now: Tick) {
        self.since = Some(now);
    }

    /// Ends the ramp at once.
    pub fn finish(&mut self) {
        self.since = None;
    }

    /// Returns the weight at `now` of a member of weight `full`, multiplied by [`SCALE`](Self::SCALE).
    ///
    /// With `S` steps, the weight is `i / S` of the full one after `i / S` of the duration, and at least
    /// `1 / S`. It is zero only if `full` is, and at most `u32::MAX`.
    #[must_use]
    pub fn weight_at(&self, config: &SlowStartConfig, now: Tick, full: u32) -> u32 {
        let scaled = u64::from(full).saturating_mul(Self::SCALE.into());
        let weight = u128::from(scaled).saturating_mul(self.step(config, now).into());
        let weight = weight / NonZeroU128::from(config.steps);
        let least = u32::from(full > 0);
        u32::try_from(weight).unwrap_or(u32::MAX).max(least)
    }

    /// Returns the first tick after `now` at which the weight grows; `None` once it is full.
    #[must_use]
    pub fn next_change(&self, config: &SlowStartConfig, now: Tick) -> Option<Tick> {
        let since = self.since?;
        let step = self.step(config, now);
        if step >= config.steps.get() {
            return None;
        }
        let next = u128::from(step).saturating_add(1);
        let nanos = u128::from(config.duration.get()).saturating_mul(next);
        since.checked_add_nanos(nanos.div_ceil(config.steps.get().into()) as u64)
    }

    /// Moves the ramp to another clock, which shows `to` when this one shows `from`.
    pub fn rebase(&mut self, from: Tick, to: Tick) {
        self.since = self.since.map(|since| ClockOffset { from, to }.tick(since));
    }

    /// Returns the step reached, from 1 to the number of steps.
    fn step(&self, config: &SlowStartConfig, now: Tick) -> u32 {
        let steps = config.steps.get();
        let Some(since) = self.since else {
            return steps;
        };
        let passed = u128::from(saturating_nanos(now.since(since)));
        let step = passed.saturating_mul(steps.into()) / NonZeroU128::from(config.duration);
        u32::try_from(step).unwrap_or(steps).clamp(1, steps)
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
    fn the_weight_grows_step_by_step_and_is_never_zero() {
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
