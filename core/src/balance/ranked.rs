//! Policies that choose the member of least rank.
//!
//! Invariant: a member's rank changes only when the member itself does, and no two members have the
//! same, so that a heap of ranks always has the choice on top.

/// How a member is chosen among those that could take a lease now. Each decision costs O(log n).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Policy {
    /// Longest idle first: a queue from which members are taken and into which they are put back.
    /// A member that still holds leases comes after those that hold none; among them, the one whose
    /// last grant or release is longest ago.
    #[default]
    Fifo,
    /// The fewest calls first, the longest idle of several. A member that joins late counts from
    /// the calls of the member chosen last, so that it isn't flooded until it has caught up.
    LeastUsed,
}

/// What a policy knows of a member.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    /// Leases held now.
    pub(crate) in_flight: u32,
    /// Calls made, as the policy counts them.
    pub(crate) used: u64,
    /// The place in the order of grants, releases and arrivals of its latest one.
    pub(crate) stamp: u64,
}

/// The order among members that are ready; the least is chosen.
pub(crate) type Rank = (u64, u64);

impl Policy {
    pub(crate) fn rank(self, standing: Standing) -> Rank {
        match self {
            Self::Fifo => (u64::from(standing.in_flight > 0), standing.stamp),
            Self::LeastUsed => (standing.used, standing.stamp),
        }
    }
}
