//! How long a member's calls take, as peak EWMA sees it.
//!
//! Invariant: the estimate is never below what the latest calls took, decayed since.

use super::fixed_log2::{COARSE, decay, log2};
use super::policy::HalfLife;
use crate::time::{Tick, saturating_nanos};
use core::time::Duration;

/// A member's latency: a peak raises the estimate at once, and all else fades by half in a half-life.
///
/// Every estimate fades alike, so that the order of two members doesn't change while nothing is
/// observed, and a heap of them needs no attention as time goes by. Source: Finagle's `PeakEwma`.
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
    /// Nanoseconds as of `at`; `None` until a call was observed.
    estimate: Option<u64>,
    at: Tick,
}

impl PeakEwma {
    /// One of which nothing is known yet, on a clock that shows this now. Only those of one half-life and
    /// epoch have [`key`](Self::key)s in order.
    #[must_use]
    pub const fn new(half_life: HalfLife, epoch: Tick) -> Self {
        Self {
            half_life,
            epoch,
            estimate: None,
            at: epoch,
        }
    }

    /// One of which nothing is known yet, with keys in order with those of this one.
    #[must_use]
    pub const fn another(&self) -> Self {
        Self::new(self.half_life, self.epoch)
    }

    /// Takes note of a call that ended now. Time that runs backwards stands still.
    pub fn observe(&mut self, now: Tick, took: Duration) {
        let now = now.max(self.at);
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let faded = self.faded(now).unwrap_or(0);
        let estimate = if took >= faded {
            took
        } else {
            let old = self.fade(took, now);
            faded.saturating_add(took.saturating_sub(old))
        };
        self.estimate = Some(estimate);
        self.at = now;
    }

    /// What a call is expected to take; `None` if none was observed. Off by 1 part in 2^18 and
    /// 20 ns at most for each observation that fades.
    #[must_use]
    pub fn estimate(&self, now: Tick) -> Option<Duration> {
        self.faded(now.max(self.at)).map(Duration::from_nanos)
    }

    /// What [`MemberLoad::latency`](super::MemberLoad::latency) is made of: the logarithm of the estimate
    /// as of the epoch, had it faded since at the rate it does. Off by 2^-17 at most. It only changes
    /// with [`observe`](Self::observe).
    #[must_use]
    pub fn key(&self) -> Option<u64> {
        let half_life = u128::from(self.half_life.as_nanos());
        // Since the epoch, so that it is rounded alike on any clock.
        let since = saturating_nanos(self.at.since(self.epoch));
        let halvings = (u128::from(since) << COARSE).checked_div(half_life)?;
        let halvings = u64::try_from(halvings).unwrap_or(u64::MAX);
        Some(log2(self.estimate?).saturating_add(halvings))
    }

    fn faded(&self, now: Tick) -> Option<u64> {
        Some(self.fade(self.estimate?, now))
    }

    fn fade(&self, value: u64, now: Tick) -> u64 {
        let elapsed = now.as_nanos().saturating_sub(self.at.as_nanos());
        decay(value, elapsed, self.half_life.as_nanos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_on_any_clock_that_shows_its_epoch() {
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
