//! Peak EWMA: a peak-sensitive estimate of a member's latency.
//!
//! Invariant: the estimate is never below the latency of any observed call, decayed since.

use super::fixed_log2::{COARSE, decay, log2};
use super::parameters::HalfLife;
use crate::time::{Tick, saturating_nanos};
use core::time::Duration;

/// Moving average of a member's latency that follows peaks at once and decays by half in a half-life.
///
/// All estimates decay alike, so that the order of two members doesn't change while nothing is observed,
/// and a heap of them stays valid as time goes by. Source: Finagle's `PeakEwma`.
///
/// ```
/// use core::time::Duration;
/// use leasehold_core::balance::{HalfLife, PeakEwma};
/// use leasehold_core::time::Tick;
///
/// let mut latency = PeakEwma::new(HalfLife::new(Duration::from_secs(1))?, Tick::ZERO);
/// let at = |seconds: u64| Tick::from_nanos(seconds * 1_000_000_000);
/// latency.observe(at(0), Duration::from_millis(10));
/// latency.observe(at(0), Duration::from_millis(80));
/// assert_eq!(latency.estimate(at(0)), Some(Duration::from_millis(80)));
/// assert_eq!(latency.estimate(at(2)), Some(Duration::from_millis(20)));
/// # Ok::<(), leasehold_core::balance::PolicyConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PeakEwma {
    half_life: HalfLife,
    epoch: Tick,
    /// Estimate at `at` in nanoseconds; `None` until a call was observed.
    estimate: Option<u64>,
    at: Tick,
}

impl PeakEwma {
    /// An estimator without observations. Only the [`key`](Self::key)s of estimators of equal half-life and
    /// epoch are comparable.
    #[must_use]
    pub const fn new(half_life: HalfLife, epoch: Tick) -> Self {
        Self {
            half_life,
            epoch,
            estimate: None,
            at: epoch,
        }
    }

    /// Creates an estimator without observations whose keys are comparable with this one's.
    #[must_use]
    pub const fn another(&self) -> Self {
        Self::new(self.half_life, self.epoch)
    }

    /// Records a call that ended now. Time that runs backwards is clamped.
    pub fn observe(&mut self, now: Tick, took: Duration) {
        let now = now.max(self.at);
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let decayed = self.decayed(now).unwrap_or(0);
        let estimate = if took >= decayed {
            took
        } else {
            let old = self.decay(took, now);
            decayed.saturating_add(took.saturating_sub(old))
        };
        self.estimate = Some(estimate);
        self.at = now;
    }

    /// Expected latency of a call; `None` if none was observed. Off by at most 1 part in 2^18 and 20 ns for
    /// each observation that is decayed.
    #[must_use]
    pub fn estimate(&self, now: Tick) -> Option<Duration> {
        self.decayed(now.max(self.at)).map(Duration::from_nanos)
    }

    /// Time-independent sort key for [`MemberLoad::latency`](super::MemberLoad::latency): the logarithm of the
    /// estimate extrapolated back to the epoch. Off by at most 2^-17. Only [`observe`](Self::observe) changes it.
    #[must_use]
    pub fn key(&self) -> Option<u64> {
        let half_life = u128::from(self.half_life.as_nanos());
        // Relative to the epoch, so that rounding is the same on every clock.
        let since = saturating_nanos(self.at.since(self.epoch));
        let halvings = (u128::from(since) << COARSE).checked_div(half_life)?;
        let halvings = u64::try_from(halvings).unwrap_or(u64::MAX);
        Some(log2(self.estimate?).saturating_add(halvings))
    }

    fn decayed(&self, now: Tick) -> Option<u64> {
        Some(self.decay(self.estimate?, now))
    }

    fn decay(&self, value: u64, now: Tick) -> u64 {
        let elapsed = now.as_nanos().saturating_sub(self.at.as_nanos());
        decay(value, elapsed, self.half_life.as_nanos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_depend_on_the_time_since_the_epoch_only() {
        let half_life = HalfLife::new(Duration::from_secs(1)).unwrap();
        let key = |epoch: u64, after: u64| {
            let at = |nanos: u64| Tick::from_nanos(epoch + nanos);
            let mut latency = PeakEwma::new(half_life, at(0)).another();
            latency.observe(at(after), Duration::from_nanos(100));
            latency.observe(at(2 * after), Duration::from_nanos(60));
            latency.key()
        };
        for after in (0..2_000).map(|nth| nth * 999_331) {
            for epoch in [1, 7, 3_680_270_050] {
                assert_eq!(key(epoch, after), key(0, after), "{after} {epoch}");
            }
        }
    }
}
