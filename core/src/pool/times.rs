//! The time that calls take: a mean by class, and the latency peak of all members.

use crate::balance::{HalfLife, PeakEwma};
use crate::time::{Tick, saturating_nanos};
use alloc::vec::Vec;
use core::time::Duration;

/// The bound on classes told apart; calls of further ones count as those of the last.
const MAX_CLASSES: usize = 16;

/// Moving averages of the time that calls took, by class: each new one counts for an eighth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub(super) struct ServiceTimes(Vec<(u32, u64)>);

impl ServiceTimes {
    #[inline]
    pub(super) fn observe(&mut self, class: u32, took: Duration) {
        let took = saturating_nanos(took);
        let has_room = self.0.len() < MAX_CLASSES;
        let known = self.0.iter().position(|(known, _)| *known == class);
        match known {
            None if has_room => self.0.push((class, took)),
            known => {
                let at = known.unwrap_or(MAX_CLASSES.saturating_sub(1));
                if let Some((_, mean)) = self.0.get_mut(at) {
                    *mean = mean.saturating_sub(*mean >> 3).saturating_add(took >> 3);
                }
            }
        }
    }

    /// The mean in nanoseconds; `None` before the first call of the class.
    #[inline]
    pub(super) fn mean(&self, class: u32) -> Option<u64> {
        let known = self.0.iter().find(|(known, _)| *known == class);
        let known = known.or_else(|| self.0.get(MAX_CLASSES.saturating_sub(1)));
        known.map(|(_, mean)| *mean)
    }

    /// The mean of a class, or that over the classes before the first call of this one; above zero.
    #[inline]
    pub(super) fn estimate(&self, class: u32) -> Option<u64> {
        let over_all = || {
            let means = self.0.iter().map(|(_, mean)| u128::from(*mean));
            let sum = means.fold(0, u128::saturating_add);
            let mean = sum.checked_div(self.0.len() as u128)?;
            u64::try_from(mean).ok()
        };
        self.mean(class).or_else(over_all).map(|mean| mean.max(1))
    }
}

/// The times over all members.
#[derive(Clone, Debug)]
pub(super) struct FleetTimes {
    pub(super) service: ServiceTimes,
    /// The latency peak, where the policy uses latency.
    pub(super) latency: Option<PeakEwma>,
}

impl FleetTimes {
    pub(super) fn new(half_life: Option<HalfLife>, epoch: Tick) -> Self {
        Self {
            service: ServiceTimes::default(),
            latency: half_life.map(|half_life| PeakEwma::new(half_life, epoch)),
        }
    }

    /// An empty estimator for a member, comparable with those of the others.
    pub(super) fn member_latency(&self) -> Option<PeakEwma> {
        self.latency.as_ref().map(PeakEwma::another)
    }

    /// Records a success; returns whether it is the first of its class.
    #[inline]
    pub(super) fn observe(&mut self, now: Tick, class: u32, took: Duration) -> bool {
        let is_first = self.service.mean(class).is_none();
        self.service.observe(class, took);
        if let Some(latency) = &mut self.latency {
            latency.observe(now, took);
        }
        is_first
    }
}
