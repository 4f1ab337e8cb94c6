//! How long calls take, by class.

use crate::time::saturating_nanos;
use alloc::vec::Vec;
use core::time::Duration;

/// Classes that are told apart; calls of further ones count as those of the last.
const MAX_CLASSES: usize = 16;

/// Moving averages of the time that calls took: each new one counts for an eighth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub(super) struct ServiceTimes(Vec<(u32, u64)>);

impl ServiceTimes {
    pub(super) fn observe(&mut self, class: u32, took: Duration) {
        let took = saturating_nanos(took);
        let room = self.0.len() < MAX_CLASSES;
        let known = self.0.iter().position(|(known, _)| *known == class);
        match known {
            None if room => self.0.push((class, took)),
            known => {
                let at = known.unwrap_or(MAX_CLASSES.saturating_sub(1));
                if let Some((_, mean)) = self.0.get_mut(at) {
                    *mean = mean.saturating_sub(*mean >> 3).saturating_add(took >> 3);
                }
            }
        }
    }

    /// Nanoseconds; `None` before the first call of the class.
    pub(super) fn mean(&self, class: u32) -> Option<u64> {
        let known = self.0.iter().find(|(known, _)| *known == class);
        let known = known.or_else(|| self.0.get(MAX_CLASSES.saturating_sub(1)));
        known.map(|(_, mean)| *mean)
    }
}
