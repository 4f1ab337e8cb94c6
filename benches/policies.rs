//! The policies that are measured.

use leasehold_core::balance::Policy;

/// Policies with their names in reports.
pub(crate) const ALL: [(&str, Policy); 12] = [
    ("fifo", Policy::Fifo),
    ("round_robin", Policy::RoundRobin),
    ("weighted_round_robin", Policy::WeightedRoundRobin),
    ("random", Policy::Random),
    ("least_connections", Policy::LeastConnections),
    ("least_used", Policy::LeastUsed),
    ("least_queue", Policy::LeastQueue),
    ("power_of_two", Policy::PowerOfTwoChoices),
    ("peak_ewma", Policy::PEAK_EWMA),
    ("rendezvous", Policy::RENDEZVOUS),
    ("ring", Policy::RING),
    ("maglev", Policy::MAGLEV),
];
