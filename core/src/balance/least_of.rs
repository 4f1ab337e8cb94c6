//! Policies that select the member of least rank.
//!
//! Invariant: a member's rank changes only when the member itself does, so that a heap of ranks stays valid
//! as time goes by.

use super::fixed_log2::log2;
use super::member::{MAX_WEIGHT, Member, MemberLoad};
use super::policy::Policy;

/// Order among ready members; the least is selected.
pub(super) type Rank = u128;

/// Fraction bits of a load by weight.
const LOAD_FRACTION: u32 = 40;
/// Greatest load that policies tell apart.
const MAX_LOAD: u32 = (1 << (u64::BITS - LOAD_FRACTION)) - 1;
/// Rank above every expected latency.
const UNKNOWN: u64 = 1 << 63;

/// Returns `load / weight` with 40 fraction bits. Rounding keeps the order: with weights up to 2^20, unequal
/// fractions differ by at least 2^-40.
pub(super) fn load_by_weight(load: u32, weight: u32) -> u64 {
    let load = u64::from(load.min(MAX_LOAD)) << LOAD_FRACTION;
    load.checked_div(u64::from(weight)).unwrap_or(load)
}

/// Returns the figure that a policy ranks by besides the load, if any.
pub(super) fn figure(policy: Policy, member_load: &MemberLoad) -> Option<u64> {
    match policy {
        Policy::LeastUsed => Some(member_load.pass),
        Policy::LeastQueue => Some(member_load.work),
        // 0 means unmeasured.
        Policy::PeakEwma(_) => Some(member_load.latency.map_or(0, |key| key.saturating_add(1))),
        Policy::Fifo
        | Policy::LeastConnections
        | Policy::RoundRobin
        | Policy::WeightedRoundRobin
        | Policy::Random
        | Policy::PowerOfTwoChoices
        | Policy::Rendezvous(_)
        | Policy::Ring { .. }
        | Policy::Maglev { .. } => None,
    }
}

/// Returns a member's rank; by load under the policies that have none of their own.
pub(super) fn rank(policy: Policy, member: &Member, figure: u64) -> Rank {
    let first = match policy {
        Policy::Fifo => u64::from(member.load > 0),
        Policy::LeastUsed | Policy::LeastQueue => figure,
        Policy::PeakEwma(_) => expected_latency(member, figure),
        Policy::LeastConnections
        | Policy::RoundRobin
        | Policy::WeightedRoundRobin
        | Policy::Random
        | Policy::PowerOfTwoChoices
        | Policy::Rendezvous(_)
        | Policy::Ring { .. }
        | Policy::Maglev { .. } => load_by_weight(member.load, member.weight),
    };
    in_order(first, member.last_used_seq)
}

/// Returns a rank by `first`, then by `second`.
pub(super) fn in_order(first: u64, second: u64) -> Rank {
    u128::from(first) << 64 | u128::from(second)
}

/// Returns the logarithm of the latency that the next call can expect, not decayed since the epoch.
///
/// All latencies decay alike, so that the order stays the same. An unmeasured member comes first while
/// idle, so that it gets measured, and last while its first call runs, so that no more calls pile up on it.
fn expected_latency(member: &Member, figure: u64) -> u64 {
    match figure.checked_sub(1) {
        Some(key) => key
            .saturating_add(log2(u64::from(member.load).saturating_add(1)))
            .saturating_add(log2(u64::from(MAX_WEIGHT)))
            .saturating_sub(log2(u64::from(member.weight)))
            .clamp(1, UNKNOWN - 1),
        None if member.load == 0 => 0,
        None => UNKNOWN | load_by_weight(member.load, member.weight) >> 1,
    }
}
