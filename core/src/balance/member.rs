//! A member as policies see it: weight, load and availability.

/// The greatest weight; a greater one counts as this.
pub const MAX_WEIGHT: u32 = 1 << 20;

/// Stride of one call at a weight of 1.
const PASS: u64 = 1 << 32;

/// Load of a member, as far as policies read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberLoad {
    /// Leases held now, and failures that count as one.
    pub load: u32,
    /// Sum of the [`pass`] of each call so far, by the member's weight at that time.
    pub pass: u64,
    /// Sequence number of the latest grant, release or arrival, unique among members. Of equal members the
    /// one with the least, the longest idle, is chosen.
    pub last_used_seq: u64,
    /// Work ahead of the next call, divided by weight, in any unit.
    pub work: u64,
    /// [`PeakEwma::key`](super::PeakEwma::key).
    pub latency: Option<u64>,
}

/// Whether a member could be chosen, and whether it keeps its share if not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Availability {
    /// The member could be chosen now.
    Ready,
    /// The member can't be chosen, and will be ready again by itself or for another request: it is full, at
    /// a limit, or too small for this request. It keeps its share.
    Busy,
    /// The member can't be chosen for an unknown time: it is disabled, unhealthy or drained. The others take
    /// its share.
    #[default]
    Out,
}

/// Returns the stride of one call of a member: 2^32 by its weight.
///
/// A member of twice the weight comes to the same pass in twice the calls, to within 1 part in 4,096 at
/// [`MAX_WEIGHT`] and `weight` parts in 2^32 in general. A `u64` has room for 2^32 calls of each unit of
/// weight. Source: C. Waldspurger, W. Weihl, "Stride Scheduling", 1995.
#[must_use]
pub const fn pass(weight: u32) -> u64 {
    let weight = if weight > MAX_WEIGHT {
        MAX_WEIGHT
    } else {
        weight
    };
    match PASS.checked_div(weight as u64) {
        Some(pass) => pass,
        None => PASS,
    }
}

/// The part of a member that a balancer keeps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Member {
    pub(super) last_used_seq: u64,
    pub(super) load: u32,
    pub(super) weight: u32,
    pub(super) availability: Availability,
}

impl Member {
    pub(super) fn is_ready(&self) -> bool {
        self.availability() == Availability::Ready
    }

    /// A member without weight is out.
    pub(super) fn availability(&self) -> Availability {
        match self.weight {
            0 => Availability::Out,
            _ => self.availability,
        }
    }
}
