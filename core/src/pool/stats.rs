//! The figures of a pool, for people and dashboards.

pub use crate::util::histogram::Histogram;

use super::flows::FlowStats;
use super::ids::MemberId;
use super::outcome::{LeaseEnd, Outcome};
use crate::time::Tick;
use alloc::vec::Vec;
use core::time::Duration;

/// Leases by how they ended. `granted` is the sum of the others and of the leases still held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LeaseCounts {
    /// Leases granted.
    pub granted: u64,
    /// Leases released as served.
    pub ok: u64,
    /// Leases released as failed.
    pub failed: u64,
    /// Leases released as throttled by the upstream.
    pub throttled: u64,
    /// Leases released as sent, without a verdict.
    pub unknown: u64,
    /// Leases released unused.
    pub not_sent: u64,
    /// Leases that expired.
    pub expired: u64,
}

impl LeaseCounts {
    /// Leases that were used or still may be: those granted, less those not sent.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.granted.saturating_sub(self.not_sent)
    }

    /// Leases that have ended.
    fn ended(&self) -> u64 {
        [
            self.ok,
            self.failed,
            self.throttled,
            self.unknown,
            self.not_sent,
            self.expired,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    #[inline]
    fn record(&mut self, end: &LeaseEnd) {
        let count = match end {
            LeaseEnd::Released(release) => match release.outcome {
                Outcome::Ok => &mut self.ok,
                Outcome::Failed => &mut self.failed,
                Outcome::Throttled { .. } => &mut self.throttled,
                Outcome::Unknown => &mut self.unknown,
                Outcome::NotSent => &mut self.not_sent,
            },
            LeaseEnd::Expired => &mut self.expired,
        };
        *count = count.saturating_add(1);
    }
}

/// The figures of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct MemberStats {
    /// The member.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub member: MemberId,
    /// Leases by how they ended.
    pub counts: LeaseCounts,
    /// Leases held now.
    pub in_flight: u32,
    /// The times that leases were held.
    pub held: Histogram,
    /// Lease time: the leases held, integrated over time. Divided by the time that has passed, it is the mean number of
    /// leases held; divided by `max_leases` as well, the utilisation.
    pub leased: Duration,
    /// The time in which at least one lease was held.
    pub busy: Duration,
    /// The bound on leases at once; `None` for any number.
    pub max_leases: Option<u32>,
}

/// Requests by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct QueueStats {
    /// Requests queued now.
    pub waiting: u32,
    /// Requests granted at once.
    pub granted_at_once: u64,
    /// Requests granted after they were queued.
    pub granted_queued: u64,
    /// Requests refused at once, or because the member they were pinned to was removed.
    pub refused: u64,
    /// Requests that reached their deadline in the queue.
    pub timed_out: u64,
    /// Requests that were cancelled, or queued when the pool was closed.
    pub cancelled: u64,
}

/// The figures of a pool.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Stats {
    /// The state of the pool that the figures are of, for [`Pool::stats_since`](super::Pool::stats_since).
    pub sequence: u64,
    /// Leases, over all members that ever were.
    pub total: LeaseCounts,
    /// Requests that did not get a lease at once.
    pub waiting: QueueStats,
    /// The times that leases were held, over all members that ever were.
    pub held: Histogram,
    /// The times from request to grant.
    pub waited: Histogram,
    /// The members, by slot: all, or those that have changed.
    pub members: Vec<MemberStats>,
    /// The flows that have settings.
    pub flows: Vec<FlowStats>,
}

impl Stats {
    /// The mean time from request to grant; zero where there was no grant.
    #[must_use]
    pub fn mean_wait(&self) -> Duration {
        self.waited.mean().unwrap_or_default()
    }

    /// The population variance of calls over members; 0 when every member had the same number.
    #[must_use]
    pub fn variance(&self) -> f64 {
        variance(self.members.iter().map(|one| one.counts.calls()))
    }

    /// The fewest calls of any member over the most, from 0 to 1; 1 where there were none.
    #[must_use]
    pub fn balance_score(&self) -> f64 {
        balance_score(self.members.iter().map(|one| one.counts.calls()))
    }
}

/// The population variance of some counts; 0 where all are the same.
#[must_use]
pub fn variance(counts: impl Iterator<Item = u64> + Clone) -> f64 {
    let counts = counts.map(|count| count as f64);
    let number = counts.clone().count().max(1) as f64;
    let mean = counts.clone().sum::<f64>() / number;
    let squares = counts.map(|count| (count - mean) * (count - mean));
    squares.sum::<f64>() / number
}

/// The least of some counts over the greatest, from 0 to 1; 1 where there is none above zero.
///
/// ```
/// use leasehold_core::pool::stats::balance_score;
///
/// assert!((balance_score([8, 4, 4, 4].into_iter()) - 0.5).abs() < 1e-9);
/// ```
#[must_use]
pub fn balance_score(counts: impl Iterator<Item = u64> + Clone) -> f64 {
    match (counts.clone().min(), counts.max()) {
        (Some(least), Some(most)) if most > 0 => least as f64 / most as f64,
        (Some(_) | None, Some(_) | None) => 1.0,
    }
}

/// The figures that the pool keeps over all members.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Figures {
    pub(super) total: LeaseCounts,
    pub(super) queue: QueueStats,
    pub(super) held: Histogram,
    pub(super) waited: Histogram,
}

impl Figures {
    #[inline]
    pub(super) fn record_grant(&mut self, waited: u64, is_queued: bool) {
        let count = match is_queued {
            true => &mut self.queue.granted_queued,
            false => &mut self.queue.granted_at_once,
        };
        *count = count.saturating_add(1);
        self.total.granted = self.total.granted.saturating_add(1);
        self.waited.record_nanos(waited);
    }

    #[inline]
    pub(super) fn record_end(&mut self, end: &LeaseEnd, held: u64) {
        self.total.record(end);
        self.held.record_nanos(held);
    }

    pub(super) fn record_refusal(&mut self) {
        self.queue.refused = self.queue.refused.saturating_add(1);
    }

    pub(super) fn record_timeout(&mut self) {
        self.queue.timed_out = self.queue.timed_out.saturating_add(1);
    }

    pub(super) fn record_cancellation(&mut self) {
        self.queue.cancelled = self.queue.cancelled.saturating_add(1);
    }
}

/// The figures that a member keeps.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct MemberFigures {
    /// Leases that have ended; `granted` is theirs.
    ended: LeaseCounts,
    held: Histogram,
    /// Nanoseconds of lease time, and of time in which a lease was held, up to `measured`.
    leased: u64,
    busy: u64,
    measured: Tick,
}

impl MemberFigures {
    pub(super) fn starting_at(now: Tick) -> Self {
        Self {
            measured: now,
            ..Self::default()
        }
    }

    /// Adds the time since the last measurement, in which this number of leases was held.
    #[inline]
    pub(super) fn measure(&mut self, now: Tick, in_flight: u32) {
        let passed = now.as_nanos().saturating_sub(self.measured.as_nanos());
        self.measured = self.measured.max(now);
        if in_flight > 0 {
            self.busy = self.busy.saturating_add(passed);
            let leased = passed.saturating_mul(in_flight.into());
            self.leased = self.leased.saturating_add(leased);
        }
    }

    /// Goes on from another clock's tick.
    #[cfg(feature = "serde")]
    pub(super) fn measure_from(&mut self, now: Tick) {
        self.measured = now;
    }

    #[inline]
    pub(super) fn record_end(&mut self, end: &LeaseEnd, held: u64) {
        self.ended.record(end);
        self.held.record_nanos(held);
    }

    pub(super) fn stats(
        &self,
        member: MemberId,
        now: Tick,
        in_flight: u32,
        max_leases: u32,
    ) -> MemberStats {
        let mut measured = Self {
            ended: self.ended,
            held: Histogram::default(),
            ..*self
        };
        measured.measure(now, in_flight);
        let granted = self.ended.ended().saturating_add(in_flight.into());
        MemberStats {
            member,
            counts: LeaseCounts {
                granted,
                ..self.ended
            },
            in_flight,
            held: self.held.clone(),
            leased: Duration::from_nanos(measured.leased),
            busy: Duration::from_nanos(measured.busy),
            max_leases: Some(max_leases).filter(|max| *max < u32::MAX),
        }
    }
}
