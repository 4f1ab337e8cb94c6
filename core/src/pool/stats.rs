//! What a pool has done, for people and dashboards.

pub use crate::util::histogram::Histogram;

use crate::pool::MemberId;
use alloc::vec::Vec;
use core::time::Duration;

/// Leases by how they ended. `granted` is the sum of all the others and of the leases still held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LeaseCounts {
    /// Leases granted.
    pub granted: u64,
    /// Released as served.
    pub ok: u64,
    /// Released as failed.
    pub failed: u64,
    /// Released as turned away by the upstream.
    pub throttled: u64,
    /// Released without having been used.
    pub not_sent: u64,
    /// Taken back at their deadline.
    pub expired: u64,
}

impl LeaseCounts {
    /// Leases that were used or still may be: those granted but for those not sent.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.granted.saturating_sub(self.not_sent)
    }
}

/// The figures of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct MemberStats {
    /// Which one.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub member: MemberId,
    /// Leases by how they ended.
    pub counts: LeaseCounts,
    /// Leases held now.
    pub in_flight: u32,
    /// How long leases were held, added up over those that have ended.
    pub held: Duration,
    /// The same, one by one.
    pub histogram: Histogram,
}

/// Requests by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct QueueStats {
    /// In line now.
    pub waiting: u32,
    /// Refused at once: the queue was full, the deadline could not be met, or the pool was closed.
    pub refused: u64,
    /// Left the line at their deadline.
    pub timed_out: u64,
    /// Left the line by themselves, or because the pool was closed.
    pub cancelled: u64,
    /// Time from request to grant, added up over all grants.
    pub waited: Duration,
    /// The longest of these times.
    pub longest: Duration,
}

/// The figures of a pool; made in O(members).
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Stats {
    /// Over all members that ever were.
    pub total: LeaseCounts,
    /// Requests that did not get a lease at once.
    pub waiting: QueueStats,
    /// How long leases were held, over all members that ever were.
    pub held: Histogram,
    /// How long requests that were granted had waited.
    pub waited: Histogram,
    /// The members there are, in the order of their slots.
    pub members: Vec<MemberStats>,
}

impl Stats {
    /// Mean time from request to grant.
    #[must_use]
    pub fn mean_wait(&self) -> Duration {
        let grants = u32::try_from(self.total.granted).unwrap_or(u32::MAX);
        self.waiting.waited.checked_div(grants).unwrap_or_default()
    }

    /// The population variance of calls over members; 0 when every member had the same number.
    #[must_use]
    pub fn variance(&self) -> f64 {
        let calls = self.members.iter().map(|one| one.counts.calls() as f64);
        let count = self.members.len().max(1) as f64;
        let mean = calls.clone().sum::<f64>() / count;
        calls
            .map(|calls| (calls - mean) * (calls - mean))
            .sum::<f64>()
            / count
    }

    /// The fewest calls of any member over the most, from 0 to 1; 1 where there were none.
    #[must_use]
    pub fn balance_score(&self) -> f64 {
        let calls = || self.members.iter().map(|one| one.counts.calls());
        match (calls().min(), calls().max()) {
            (Some(least), Some(most)) if most > 0 => least as f64 / most as f64,
            (Some(_) | None, Some(_) | None) => 1.0,
        }
    }
}
