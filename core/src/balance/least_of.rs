//! Policies that choose the member of least rank.
//!
//! Invariant: a member's rank changes only when the member itself does, so that a heap of ranks always
//! has the choice on top.

use super::fixed_log2::log2;
use super::policy::Policy;
use super::{MAX_WEIGHT, Member, MemberLoad};

/// The order among members that are ready; the least is chosen.
pub(super) type Rank = u128;

/// Bits behind the point of a load by weight.
const LOAD_FRACTION: u32 = 40;
/// Loads from here on are the same to a policy.
const MAX_LOAD: u32 = (1 << (u64::BITS - LOAD_FRACTION)) - 1;
/// What comes after every expected latency.
const UNKNOWN: u64 = 1 << 63;

/// `load / weight`, in an order that no rounding changes: with weights up to 2^20, two fractions that
/// differ do so by 2^-40 or more, which is one unit here.
pub(super) fn load_by_weight(load: u32, weight: u32) -> u64 {
    let load = u64::from(load.min(MAX_LOAD)) << LOAD_FRACTION;
    load.checked_div(u64::from(weight)).unwrap_or(load)
}

/// What a policy goes by besides the load, if there is such a thing.
pub(super) fn measure(policy: Policy, member_load: &MemberLoad) -> Option<u64> {
    match policy {
        Policy::LeastUsed => Some(member_load.pass),
        Policy::LeastQueue => Some(member_load.work),
        // What is above the greatest latency is the same, and nothing is unknown.
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

/// The rank of a member of this [`measure`] under a policy that has one. Under the others, by load.
pub(super) fn rank(policy: Policy, member: &Member, measure: u64) -> Rank {
    let first = match policy {
        Policy::Fifo => u64::from(member.load > 0),
        Policy::LeastUsed | Policy::LeastQueue => measure,
        Policy::PeakEwma(_) => expected_latency(member, measure),
        Policy::LeastConnections
        | Policy::RoundRobin
        | Policy::WeightedRoundRobin
        | Policy::Random
        | Policy::PowerOfTwoChoices
        | Policy::Rendezvous(_)
        | Policy::Ring { .. }
        | Policy::Maglev { .. } => load_by_weight(member.load, member.weight()),
    };
    in_order(first, member.stamp)
}

/// By `first`, and then by `second`.
pub(super) fn in_order(first: u64, second: u64) -> Rank {
    u128::from(first) << 64 | u128::from(second)
}

/// The logarithm of the latency that the next call can expect, as if nobody's had decayed: those of
/// all members decay alike, so that their order stays as time goes by. Who has never been measured
/// comes first while idle, so that it will be, and last while its first call is under way, so that
/// nothing piles up on it.
fn expected_latency(member: &Member, measure: u64) -> u64 {
    match measure.checked_sub(1) {
        Some(key) => key
            .saturating_add(log2(u64::from(member.load).saturating_add(1)))
            .saturating_add(log2(u64::from(MAX_WEIGHT)))
            .saturating_sub(log2(u64::from(member.weight())))
            .clamp(1, UNKNOWN - 1),
        None if member.load == 0 => 0,
        None => UNKNOWN | load_by_weight(member.load, member.weight()) >> 1,
    }
}
