//! How calls and leases are shared among members.

use super::{Bench, unbounded};
use leasehold_core::balance::{
    Availability::{Busy, Out, Ready},
    Policy,
};
use proptest::prelude::*;

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn weighted_round_robin_stays_within_one_call_of_the_exact_share(
        weights in prop::collection::vec(prop_oneof![1..10u32, 1..1_000u32, 1..=(1u32 << 20)], 1..20),
    ) {
        let mut bench = Bench::new(Policy::WeightedRoundRobin, &weights);
        let total: i128 = weights.iter().map(|weight| i128::from(*weight)).sum();
        for turn in 1..=400i128 {
            bench.call(None);
            for (calls, weight) in bench.calls.iter().zip(&weights) {
                let stray = i128::from(*calls) * total - turn * i128::from(*weight);
                prop_assert!(stray.abs() < total, "{:?} after {turn}", bench.calls);
            }
        }
    }

    #[test]
    fn round_robin_calls_differ_by_at_most_one(members in 1..200usize, turns in 0..1_000u32) {
        let mut bench = Bench::new(Policy::RoundRobin, &vec![1; members]);
        for _ in 0..turns {
            bench.call(None);
            prop_assert!(bench.spread() <= 1);
        }
    }
}

#[test]
fn weighted_round_robin_interleaves_as_evenly_as_possible() {
    let mut bench = Bench::new(Policy::WeightedRoundRobin, &[5, 1, 1]);
    let order: Vec<u32> = (0..70).map(|_| bench.call(None)).collect();
    // Runs of member 0 of 2 and 3, where nginx's smooth algorithm has runs of 1, 2 and 4.
    for round in order.chunks(7) {
        assert_eq!(round, [0, 1, 0, 0, 2, 0, 0]);
    }
    let mut bench = Bench::new(Policy::WeightedRoundRobin, &[1, 2, 1]);
    let order: Vec<u32> = (0..200).map(|_| bench.call(None)).collect();
    for twenty in order.windows(20) {
        let count = |id| twenty.iter().filter(|one| **one == id).count();
        assert_eq!([count(0), count(1), count(2)], [5, 10, 5]);
    }
}

#[test]
fn a_flapping_member_leaves_the_others_with_equal_shares() {
    for policy in [
        Policy::Fifo,
        Policy::RoundRobin,
        Policy::WeightedRoundRobin,
        Policy::LeastConnections,
        Policy::LeastUsed,
    ] {
        for (away, gone) in [
            (1, Busy),
            (7, Busy),
            (15, Busy),
            (1, Out),
            (7, Out),
            (15, Out),
        ] {
            let mut bench = Bench::new(policy, &[1; 10]);
            for turn in 0..15_000u32 {
                if turn % 15 == 0 {
                    bench.update(3, gone);
                }
                if turn % 15 == away % 15 {
                    bench.update(3, Ready);
                }
                bench.call(None);
            }
            let others = || (0..10).filter(|id| *id != 3).map(|id| bench.calls[id]);
            let (most, least) = (others().max().unwrap(), others().min().unwrap());
            let calls = &bench.calls;
            assert!(
                most * 100 <= least * 101,
                "{policy} {away} {gone:?}: {calls:?}"
            );
            assert!(calls[3] <= most + 1, "{policy} {away} {gone:?}: {calls:?}");
        }
    }
}

#[test]
fn a_member_added_and_removed_repeatedly_leaves_the_others_with_equal_shares() {
    for policy in [Policy::RoundRobin, Policy::WeightedRoundRobin] {
        let mut bench = Bench::new(policy, &[1; 10]);
        for turn in 0..15_000u32 {
            match turn % 30 {
                0 => bench.balancer.remove(3),
                15 => bench.insert(3),
                _ => {}
            }
            bench.call(None);
        }
        let others = || (0..10).filter(|id| *id != 3).map(|id| bench.calls[id]);
        let (most, least) = (others().max().unwrap(), others().min().unwrap());
        assert!(most * 100 <= least * 101, "{policy}: {:?}", bench.calls);
    }
}

#[test]
fn a_member_busy_after_each_call_keeps_its_share() {
    let mut bench = Bench::new(Policy::WeightedRoundRobin, &[1; 6]);
    let mut ready_at = [0u64; 6];
    for tick in (0..6_000).step_by(3) {
        for id in 0..6 {
            if ready_at[id as usize] == tick {
                bench.update(id, Ready);
            }
        }
        let id = bench.call(None);
        // At most 3 of the 6 calls of a round.
        ready_at[id as usize] = (tick + 4 + u64::from(id)).next_multiple_of(3);
        bench.update(id, Busy);
    }
    assert!(bench.spread() <= 1, "{:?}", bench.calls);
}

#[test]
fn calls_by_name_leave_the_shares_of_the_others_equal() {
    for policy in [Policy::RoundRobin, Policy::WeightedRoundRobin] {
        let mut bench = Bench::new(policy, &[1; 5]);
        for _ in 0..1_000 {
            for _ in 0..50 {
                bench.balancer.chosen(2);
            }
            bench.call(None);
        }
        let others = || [0, 1, 3, 4].map(|id: usize| bench.calls[id]);
        let (most, least) = (others().into_iter().max(), others().into_iter().min());
        assert!(most.unwrap() - least.unwrap() <= 1, "{:?}", bench.calls);
        bench.calls = vec![0; 5];
        for _ in 0..10 {
            bench.call(None);
        }
        assert!(bench.calls[2] >= 1, "{policy}: {:?}", bench.calls);
    }
}

#[test]
fn calls_are_shared_by_weight() {
    let weights = [1, 2, 3, 4];
    for (policy, slack) in [
        (Policy::WeightedRoundRobin, 0.001),
        (Policy::Random, 0.01),
        (Policy::LeastUsed, 0.001),
        (unbounded(Policy::RENDEZVOUS), 0.01),
        (unbounded(Policy::RING), 0.04),
        (unbounded(Policy::MAGLEV), 0.01),
    ] {
        let mut bench = Bench::new(policy, &weights);
        for key in 0..20_000 {
            bench.call(Some(key));
        }
        for (calls, weight) in bench.calls.iter().zip(weights) {
            let stray = *calls as f64 / 20_000.0 - f64::from(weight) / 10.0;
            assert!(stray.abs() < slack, "{policy}: {:?}", bench.calls);
        }
    }
}

#[test]
fn leases_are_shared_by_weight() {
    let weights = [1, 2, 3, 4];
    let mut bench = Bench::new(Policy::LeastConnections, &weights);
    for _ in 0..100 {
        bench.lease(None);
    }
    assert_eq!(bench.calls, [10, 20, 30, 40]);
    let mut bench = Bench::new(Policy::PowerOfTwoChoices, &weights);
    for _ in 0..10_000 {
        bench.lease(None);
    }
    for (calls, weight) in bench.calls.iter().zip(weights) {
        let stray = calls.abs_diff(1_000 * u64::from(weight));
        assert!(stray <= 10, "{:?}", bench.calls);
    }
}

#[test]
fn nearly_equal_weights_are_told_apart() {
    let weights = [16 * 40_000, 16 * 30_000];
    let mut bench = Bench::new(Policy::LeastUsed, &weights);
    for _ in 0..70_000 {
        bench.call(None);
    }
    assert!(bench.calls[0].abs_diff(40_000) <= 10, "{:?}", bench.calls);
}

#[test]
fn two_choices_are_far_more_even_than_one() {
    let most = |policy| {
        let mut bench = Bench::new(policy, &[1; 1_000]);
        for _ in 0..1_000 {
            bench.lease(None);
        }
        bench.calls.iter().max().copied().unwrap()
    };
    assert!(most(Policy::PowerOfTwoChoices) <= 4);
    assert!(most(Policy::Random) >= 5);
}
