//! The selection policies: their statements, their traits and their names.
//!
//! Invariant: every policy that can be named can be built, and one exhaustive match decides its traits.

use super::parameters::{HalfLife, LoadFactor, TableSize};
use core::fmt;
use core::num::NonZeroU16;
use core::str::FromStr;

/// Selection rule among the members that could take a lease now.
///
/// | policy | name | by weight | cost of a choice |
/// |---|---|---|---|
/// | [`Fifo`](Self::Fifo) | `fifo` | no | O(log n) |
/// | [`RoundRobin`](Self::RoundRobin) | `round_robin` | no | O(log64 n) |
/// | [`WeightedRoundRobin`](Self::WeightedRoundRobin) | `weighted_round_robin` | yes | O(log n) |
/// | [`Random`](Self::Random) | `random` | yes | O(log16 n) |
/// | [`LeastConnections`](Self::LeastConnections) | `least_connections` | yes | O(log n) |
/// | [`LeastUsed`](Self::LeastUsed) | `least_used` | yes | O(log n) |
/// | [`LeastQueue`](Self::LeastQueue) | `least_queue` | yes | O(log n) |
/// | [`PowerOfTwoChoices`](Self::PowerOfTwoChoices) | `power_of_two_choices` | yes | O(log16 n) |
/// | [`PeakEwma`](Self::PeakEwma) | `peak_ewma` | yes | O(log n) |
/// | [`Rendezvous`](Self::Rendezvous) | `rendezvous`, `ip_hash` without a bound of load | yes | O(log16 n) |
/// | [`Ring`](Self::Ring) | `ring` | yes | O(1) on average |
/// | [`Maglev`](Self::Maglev) | `maglev` | yes | O(1) |
///
/// A weight of 0 takes a member out of every policy. A policy is displayed as its name, without its
/// parameters, and parsed from it with the default ones.
///
/// ```
/// use leasehold_core::balance::Policy;
///
/// assert_eq!("least_used".parse(), Ok(Policy::LeastUsed));
/// assert_eq!(Policy::PEAK_EWMA.to_string(), "peak_ewma");
/// let error = "fastest".parse::<Policy>().unwrap_err();
/// assert!(error.to_string().starts_with("unknown policy; expected one of fifo, round_robin, "));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Policy {
    /// Longest idle first: members are taken from the front of a queue and put back at its end.
    ///
    /// A member that still holds leases comes after all that hold none. Among those that hold some, the
    /// one whose last grant or release is the longest ago comes first.
    #[default]
    Fifo,
    /// One after the other, in the order of their slots.
    ///
    /// A member that was [`Out`](super::Availability::Out) takes its place in the order again, and is owed
    /// nothing: while the others stay, it is less than 1 call off its exact share over every prefix since. A
    /// member that is [`Busy`](super::Availability::Busy) in its turn is owed that turn until the end of the
    /// next round, less than 3 calls above its share since; if it stays busy for a whole round more, it comes
    /// back like one that was out.
    RoundRobin,
    /// In turn, as often as its weight says and as evenly as whole calls allow (EEVDF).
    ///
    /// While the same members are ready, each is less than 1 call off its exact share over every prefix.
    /// A member that was [`Out`](super::Availability::Out) is owed nothing when it comes back, waits for the
    /// rest of a turn that it has had, and from then on is less than 1 call off its exact share over every
    /// prefix. Its exact share of a call is its weight by that of all members that aren't out, and of those that
    /// went out ahead of their share until that is used up; and its part by weight of the calls that others
    /// leave to the rest, by going out while they are owed part of one or by staying busy.
    ///
    /// A member that was [`Busy`](super::Availability::Busy) for no longer than its turn takes is owed one
    /// turn at most, less than 2 calls above its share over every prefix since. One that was busy for longer
    /// is served next and owed nothing else, less than 1 call above. Each return from busy may delay the others
    /// by one call.
    WeightedRoundRobin,
    /// A random draw in proportion to weight.
    Random,
    /// The fewest leases for its weight.
    LeastConnections,
    /// The fewest calls for its weight so far: stride scheduling (C. Waldspurger, "Lottery and Stride
    /// Scheduling", 1995).
    ///
    /// A member that was out or busy has fewer, and is chosen until it has caught up.
    LeastUsed,
    /// The least work ahead.
    LeastQueue,
    /// The less loaded for its weight of two random draws in proportion to weight. Source: M.
    /// Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
    PowerOfTwoChoices,
    /// The least expected latency: a peak-sensitive moving average, times the leases it would hold, by
    /// weight. Source: Finagle's `PeakEwma`.
    PeakEwma(HalfLife),
    /// By key: weighted rendezvous hashing (HRW) over a tree of the members.
    ///
    /// A member that is out or busy keeps its place, so that only its own keys move. Removing one of n equal
    /// members moves its own keys, 1/n of all, and others of its groups in the tree: 1.1/n in all at 10
    /// members, 1.9/n at 100, 2.7/n at 1,000. The bound moves further keys among loaded members: 7/n to 10/n
    /// at 10 leases a member and 1.25 times the share.
    Rendezvous(LoadFactor),
    /// By key: the next point of a member on a hash ring.
    ///
    /// In the manner of ketama, with 160 points for each unit of weight by default; their placement is this
    /// crate's own and matches no other implementation. Removing one of n equal members moves its own keys and
    /// no others. The bound moves further keys among loaded members: 5/n to 7/n at 100 to 1,000 members with
    /// 10 leases each and 1.25 times the share.
    Ring {
        /// Points of a member for each unit of its weight.
        points: NonZeroU16,
        /// Bound of a member's load, as a factor of its share.
        bound: LoadFactor,
    },
    /// By key: a table whose places members take in turn.
    ///
    /// Removing one of n equal members moves its own keys and some others: at 65,537 places 1.0/n in all at
    /// 10 members, 1.5/n at 100, 6/n at 655.
    Maglev {
        /// Places in the table.
        table: TableSize,
        /// Bound of a member's load, as a factor of its share.
        bound: LoadFactor,
    },
}

/// Name of a policy, and the figures of a member or request that it needs.
struct PolicyTraits {
    name: &'static str,
    uses_weight: bool,
    uses_key: bool,
    uses_load: bool,
    uses_pass: bool,
    uses_work: bool,
}

impl Policy {
    /// Every policy with its default parameters, in the order of their definition.
    pub const ALL: [Self; 12] = [
        Self::Fifo,
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::Random,
        Self::LeastConnections,
        Self::LeastUsed,
        Self::LeastQueue,
        Self::PowerOfTwoChoices,
        Self::PEAK_EWMA,
        Self::RENDEZVOUS,
        Self::RING,
        Self::MAGLEV,
    ];

    /// [`PeakEwma`](Self::PeakEwma) with a half-life of 7 seconds, which is Finagle's decay of 10.
    pub const PEAK_EWMA: Self = Self::PeakEwma(HalfLife::DEFAULT);

    /// [`Rendezvous`](Self::Rendezvous) with no member above 1.25 times its share.
    pub const RENDEZVOUS: Self = Self::Rendezvous(LoadFactor::DEFAULT);

    /// [`Rendezvous`](Self::Rendezvous) without a bound, by the caller's address: a client keeps its member at any load, as
    /// under nginx's `ip_hash`.
    pub const IP_HASH: Self = Self::Rendezvous(LoadFactor::UNBOUNDED);

    /// [`Ring`](Self::Ring) with 160 points for each unit of weight and no member above 1.25 times its share.
    pub const RING: Self = Self::Ring {
        points: NonZeroU16::MIN.saturating_add(159),
        bound: LoadFactor::DEFAULT,
    };

    /// [`Maglev`](Self::Maglev) with 65,537 places and no member above 1.25 times its share.
    pub const MAGLEV: Self = Self::Maglev {
        table: TableSize::DEFAULT,
        bound: LoadFactor::DEFAULT,
    };

    /// The one table of traits: name, and whether weight, key, load, pass and work are used.
    const fn traits(self) -> PolicyTraits {
        let (name, [uses_weight, uses_key, uses_load, uses_pass, uses_work]) = match self {
            Self::Fifo => ("fifo", [false, false, true, false, false]),
            Self::RoundRobin => ("round_robin", [false, false, false, false, false]),
            Self::WeightedRoundRobin => {
                ("weighted_round_robin", [true, false, false, false, false])
            }
            Self::Random => ("random", [true, false, false, false, false]),
            Self::LeastConnections => ("least_connections", [true, false, true, false, false]),
            Self::LeastUsed => ("least_used", [true, false, false, true, false]),
            Self::LeastQueue => ("least_queue", [true, false, false, false, true]),
            Self::PowerOfTwoChoices => ("power_of_two_choices", [true, false, true, false, false]),
            Self::PeakEwma(_) => ("peak_ewma", [true, false, true, false, false]),
            Self::Rendezvous(LoadFactor::UNBOUNDED) => (IP_HASH, [true, true, true, false, false]),
            Self::Rendezvous(_) => ("rendezvous", [true, true, true, false, false]),
            Self::Ring { .. } => ("ring", [true, true, true, false, false]),
            Self::Maglev { .. } => ("maglev", [true, true, true, false, false]),
        };
        PolicyTraits {
            name,
            uses_weight,
            uses_key,
            uses_load,
            uses_pass,
            uses_work,
        }
    }

    /// The name in configuration files, such as `least_used`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.traits().name
    }

    /// Whether weights above 0 make a difference.
    #[must_use]
    pub const fn uses_weight(self) -> bool {
        self.traits().uses_weight
    }

    /// Whether requests with the same key go to the same member.
    #[must_use]
    pub const fn uses_key(self) -> bool {
        self.traits().uses_key
    }

    /// Whether the policy reads [`MemberLoad::load`](super::MemberLoad::load).
    #[must_use]
    pub const fn uses_load(self) -> bool {
        self.traits().uses_load
    }

    /// Whether the policy reads [`MemberLoad::pass`](super::MemberLoad::pass).
    #[must_use]
    pub const fn uses_pass(self) -> bool {
        self.traits().uses_pass
    }

    /// Whether the policy reads [`MemberLoad::work`](super::MemberLoad::work).
    #[must_use]
    pub const fn uses_work(self) -> bool {
        self.traits().uses_work
    }

    /// The half-life of [`MemberLoad::latency`](super::MemberLoad::latency), if the policy reads that.
    #[must_use]
    pub const fn half_life(self) -> Option<HalfLife> {
        match self {
            Self::PeakEwma(half_life) => Some(half_life),
            Self::Fifo
            | Self::RoundRobin
            | Self::WeightedRoundRobin
            | Self::Random
            | Self::LeastConnections
            | Self::LeastUsed
            | Self::LeastQueue
            | Self::PowerOfTwoChoices
            | Self::Rendezvous(_)
            | Self::Ring { .. }
            | Self::Maglev { .. } => None,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The name is of no policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsePolicyError(());

impl fmt::Display for ParsePolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown policy; expected one of ")?;
        for policy in Policy::ALL {
            write!(f, "{policy}, ")?;
        }
        f.write_str(IP_HASH)
    }
}

impl core::error::Error for ParsePolicyError {}

/// The name of [`Policy::IP_HASH`].
const IP_HASH: &str = "ip_hash";

impl FromStr for Policy {
    type Err = ParsePolicyError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name == IP_HASH {
            return Ok(Self::IP_HASH);
        }
        let found = Self::ALL.into_iter().find(|policy| policy.name() == name);
        found.ok_or(ParsePolicyError(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    /// Has to be extended with every new policy, and [`Policy::ALL`] with it.
    fn position(policy: Policy) -> usize {
        match policy {
            Policy::Fifo => 0,
            Policy::RoundRobin => 1,
            Policy::WeightedRoundRobin => 2,
            Policy::Random => 3,
            Policy::LeastConnections => 4,
            Policy::LeastUsed => 5,
            Policy::LeastQueue => 6,
            Policy::PowerOfTwoChoices => 7,
            Policy::PeakEwma(_) => 8,
            Policy::Rendezvous(_) => 9,
            Policy::Ring { .. } => 10,
            Policy::Maglev { .. } => 11,
        }
    }

    #[test]
    fn every_policy_is_parsed_from_the_name_that_it_is_displayed_as() {
        for (at, policy) in Policy::ALL.into_iter().enumerate() {
            assert_eq!(position(policy), at);
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert_eq!("ip_hash".parse(), Ok(Policy::IP_HASH));
        assert_eq!(Policy::IP_HASH.to_string(), "ip_hash");
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_list_of_names() {
        for name in ["", "Fifo", "fifo ", "least used"] {
            let message = name.parse::<Policy>().unwrap_err().to_string();
            for policy in Policy::ALL {
                assert!(message.contains(policy.name()), "{message}");
            }
            assert!(message.ends_with("maglev, ip_hash"), "{message}");
        }
    }
}
