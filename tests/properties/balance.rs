//! What the selection policies promise.

use core::num::NonZeroU16;
use core::time::Duration;
use leasehold_core::balance::{
    Availability::{self, Busy, Out, Ready},
    Balancer, HalfLife, LoadFactor, MemberLoad, PeakEwma, Policy, TableSize, pass, stable_hash,
};
use leasehold_core::time::Tick;
use leasehold_tests::balance::{Case, run};
use proptest::prelude::*;

const ALL: [Policy; 12] = [
    Policy::Fifo,
    Policy::RoundRobin,
    Policy::WeightedRoundRobin,
    Policy::Random,
    Policy::LeastConnections,
    Policy::LeastUsed,
    Policy::LeastQueue,
    Policy::PowerOfTwoChoices,
    Policy::PEAK_EWMA,
    Policy::RENDEZVOUS,
    Policy::RING,
    Policy::MAGLEV,
];

/// A balancer and the figures that a pool would tell it.
#[derive(Clone)]
struct Bench {
    balancer: Balancer,
    weights: Vec<u32>,
    standings: Vec<MemberLoad>,
    calls: Vec<u64>,
    stamp: u64,
}

impl Bench {
    fn new(policy: Policy, weights: &[u32]) -> Self {
        let mut bench = Self {
            balancer: Balancer::new(policy, 7),
            weights: weights.to_vec(),
            standings: vec![MemberLoad::default(); weights.len()],
            calls: vec![0; weights.len()],
            stamp: 0,
        };
        for id in 0..weights.len() as u32 {
            bench.insert(id);
        }
        bench
    }

    fn insert(&mut self, id: u32) {
        let identity = stable_hash(format!("10.0.0.1:{id}").as_bytes());
        self.balancer
            .insert(id, identity, self.weights[id as usize]);
        self.place(id, Ready);
    }

    fn place(&mut self, id: u32, availability: Availability) {
        self.stamp += 1;
        self.standings[id as usize].stamp = self.stamp;
        self.balancer
            .place(id, &self.standings[id as usize], availability);
    }

    /// Gives one call out and gets its lease back at once.
    fn call(&mut self, key: Option<u64>) -> u32 {
        let id = self.lease(key);
        self.release(id);
        id
    }

    fn lease(&mut self, key: Option<u64>) -> u32 {
        let id = self.balancer.choose(key).expect("somebody is ready");
        self.balancer.chosen(id);
        self.calls[id as usize] += 1;
        let member_load = &mut self.standings[id as usize];
        member_load.load += 1;
        member_load.work += 1;
        member_load.pass += pass(self.weights[id as usize]);
        self.place(id, Ready);
        id
    }

    fn release(&mut self, id: u32) {
        self.standings[id as usize].load -= 1;
        self.standings[id as usize].work -= 1;
        self.place(id, Ready);
    }

    /// Where each of so many keys goes.
    fn map(&mut self, keys: u64) -> Vec<u32> {
        (0..keys)
            .map(|key| self.balancer.choose(Some(key)).expect("somebody is ready"))
            .collect()
    }
}

fn shares(map: &[u32], members: usize) -> Vec<f64> {
    let mut shares = vec![0.0; members];
    for id in map {
        shares[*id as usize] += 1.0 / map.len() as f64;
    }
    shares
}

/// The share of keys that moved.
fn moved(before: &[u32], after: &[u32]) -> f64 {
    let moved = before.iter().zip(after).filter(|(a, b)| a != b);
    moved.count() as f64 / before.len() as f64
}

fn unbounded(policy: Policy) -> Policy {
    let bound = LoadFactor::UNBOUNDED;
    match policy {
        Policy::Rendezvous(_) => Policy::Rendezvous(bound),
        Policy::Ring { points, .. } => Policy::Ring { points, bound },
        Policy::Maglev { table, .. } => Policy::Maglev { table, bound },
        Policy::Fifo
        | Policy::RoundRobin
        | Policy::WeightedRoundRobin
        | Policy::Random
        | Policy::LeastConnections
        | Policy::LeastUsed
        | Policy::LeastQueue
        | Policy::PowerOfTwoChoices
        | Policy::PeakEwma(_) => policy,
    }
}

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn every_policy_chooses_as_its_statement_says(case: Case) {
        run(&case);
    }

    #[test]
    fn by_weight_nobody_strays_from_the_exact_share_by_as_much_as_one(
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
    fn round_robin_never_differs_by_more_than_one(members in 1..200usize, turns in 0..1_000u32) {
        let mut bench = Bench::new(Policy::RoundRobin, &vec![1; members]);
        for _ in 0..turns {
            bench.call(None);
            let (most, least) = (bench.calls.iter().max(), bench.calls.iter().min());
            prop_assert!(most.unwrap() - least.unwrap() <= 1);
        }
    }

    #[test]
    fn nobody_is_loaded_above_the_bound_while_all_are_ready(
        weights in prop::collection::vec(1..5u32, 1..12),
        which in 0..3usize,
        permille in 1_000..1_500u32,
        steps in prop::collection::vec((any::<bool>(), 0..6u64), 0..150),
    ) {
        let bound = LoadFactor::from_permille(permille).unwrap();
        let points = NonZeroU16::new(8).unwrap();
        let table = TableSize::new(101).unwrap();
        let policies = [
            Policy::Rendezvous(bound),
            Policy::Ring { points, bound },
            Policy::Maglev { table, bound },
        ];
        let mut bench = Bench::new(policies[which], &weights);
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut leases = Vec::new();
        for (lease, key) in steps {
            if lease || leases.is_empty() {
                let id = bench.lease(Some(key));
                leases.push(id);
                let ceiling = (u64::from(permille)
                    * leases.len() as u64
                    * u64::from(weights[id as usize]))
                .div_ceil(1_000 * total);
                prop_assert!(u64::from(bench.standings[id as usize].load) <= ceiling);
            } else {
                bench.release(leases.swap_remove(key as usize % leases.len()));
            }
        }
    }

    #[test]
    fn keys_go_by_who_is_in_and_not_by_how_it_came_to_be(
        weights in prop::collection::vec(1..4u32, 2..60),
        order in any::<prop::sample::Index>(),
        which in 9..12usize,
    ) {
        let policy = unbounded(ALL[which]);
        let mut one = Bench::new(policy, &weights);
        let mut other = Bench::new(policy, &weights);
        let start = order.index(weights.len()) as u32;
        let ids = (start..weights.len() as u32).chain(0..start);
        for id in ids.clone() {
            other.balancer.remove(id);
        }
        for id in ids {
            other.insert(id);
            other.balancer.set_weight(id, 5);
            other.balancer.set_weight(id, weights[id as usize]);
        }
        prop_assert_eq!(one.map(50), other.map(50));
    }
}

#[test]
fn five_to_one_to_one_is_as_smooth_as_can_be() {
    let mut bench = Bench::new(Policy::WeightedRoundRobin, &[5, 1, 1]);
    let order: Vec<u32> = (0..70).map(|_| bench.call(None)).collect();
    // Runs of 1 + 2 + 2 and so of 2 and 3, where a a b a c a a has runs of 1 and 4.
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
fn one_that_flaps_leaves_the_others_alike() {
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
                    bench.place(3, gone);
                }
                if turn % 15 == away % 15 {
                    bench.place(3, Ready);
                }
                bench.call(None);
            }
            let others = || (0..10).filter(|id| *id != 3).map(|id| bench.calls[id]);
            let (most, least) = (others().max().unwrap(), others().min().unwrap());
            assert!(
                most * 100 <= least * 101,
                "{policy:?} {away} {gone:?}: {:?}",
                bench.calls
            );
            assert!(
                bench.calls[3] <= most + 1,
                "{policy:?} {away} {gone:?}: {:?}",
                bench.calls
            );
        }
    }
}

#[test]
fn one_that_rests_after_each_call_keeps_its_share() {
    let mut bench = Bench::new(Policy::WeightedRoundRobin, &[1; 6]);
    let mut rests = [0u64; 6];
    for tick in (0..6_000).step_by(3) {
        for id in 0..6 {
            if rests[id as usize] == tick {
                bench.place(id, Ready);
            }
        }
        let id = bench.call(None);
        // Whom nobody calls before it is back needs no more than its turn.
        rests[id as usize] = (tick + 4 + u64::from(id)).next_multiple_of(3);
        bench.place(id, Busy);
    }
    let (most, least) = (bench.calls.iter().max(), bench.calls.iter().min());
    assert!(most.unwrap() - least.unwrap() <= 1, "{:?}", bench.calls);
}

#[test]
fn one_that_was_busy_for_long_is_owed_one_turn_and_no_more() {
    for weights in [[1, 1, 1, 1], [5, 1, 2, 3], [1, 40, 3, 2]] {
        let mut bench = Bench::new(Policy::WeightedRoundRobin, &weights);
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        for _ in 0..50 {
            bench.place(0, Busy);
            for _ in 0..997 {
                bench.call(None);
            }
            bench.place(0, Ready);
            let before = bench.calls[0];
            for turn in 1..=total * 3 {
                bench.call(None);
                let share = turn * u64::from(weights[0]);
                let calls = bench.calls[0] - before;
                assert!(calls * total < share + 3 * total, "{calls} of {turn}");
            }
        }
    }
}

#[test]
fn keys_stay_with_their_members_while_half_of_all_are_out() {
    for policy in [Policy::RENDEZVOUS, Policy::RING, Policy::MAGLEV] {
        let mut bench = Bench::new(policy, &[1; 10]);
        let mut free = Bench::new(unbounded(policy), &[1; 10]);
        for id in 0..5 {
            bench.standings[id as usize].load = 7;
            bench.place(id, Out);
            free.place(id, Out);
        }
        let mut leases = std::collections::VecDeque::new();
        let mut own = 0;
        for key in 0..2_000 {
            if leases.len() == 100 {
                bench.release(leases.pop_front().expect("it has a hundred"));
            }
            let id = bench.lease(Some(key));
            own += u32::from(free.balancer.choose(Some(key)) == Some(id));
            leases.push_back(id);
        }
        assert!(own > 1_700, "{policy:?}: {own} of 2000");
    }
}

#[test]
fn weights_near_each_other_come_out_as_they_are() {
    let weights = [16 * 40_000, 16 * 30_000];
    let mut bench = Bench::new(Policy::LeastUsed, &weights);
    for _ in 0..70_000 {
        bench.call(None);
    }
    assert!(bench.calls[0].abs_diff(40_000) <= 10, "{:?}", bench.calls);
}

#[test]
fn one_that_is_added_and_removed_again_leaves_the_others_alike() {
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
        assert!(most * 100 <= least * 101, "{policy:?}: {:?}", bench.calls);
    }
}

#[test]
fn one_that_a_request_was_too_large_for_neither_loses_nor_gains_a_turn() {
    for policy in ALL {
        let mut bench = Bench::new(policy, &[1, 3, 2, 1, 1]);
        for key in 0..60 {
            let before = bench.clone();
            let first = bench.balancer.choose(Some(key)).unwrap();
            let member_load = bench.standings[first as usize];
            bench.balancer.place(first, &member_load, Busy);
            assert_ne!(bench.balancer.choose(Some(key)), Some(first));
            bench.balancer.place(first, &member_load, Ready);
            if !matches!(policy, Policy::Random | Policy::PowerOfTwoChoices) {
                assert_eq!(bench.balancer.choose(Some(key)), Some(first));
                bench = before;
            }
            bench.call(Some(key));
        }
    }
    // And where another took the call, it is next.
    for policy in [Policy::Fifo, Policy::RoundRobin, Policy::WeightedRoundRobin] {
        let mut bench = Bench::new(policy, &[1; 7]);
        for _ in 0..60 {
            let first = bench.balancer.choose(None).unwrap();
            let member_load = bench.standings[first as usize];
            bench.balancer.place(first, &member_load, Busy);
            bench.call(None);
            bench.balancer.place(first, &member_load, Ready);
            assert_eq!(bench.balancer.choose(None), Some(first), "{policy:?}");
            bench.call(None);
        }
        let (most, least) = (bench.calls.iter().max(), bench.calls.iter().min());
        let even = most.unwrap() - least.unwrap() <= 1;
        assert!(even || policy == Policy::Fifo, "{policy:?}");
    }
}

#[test]
fn calls_by_name_cost_the_others_nothing_and_starve_nobody() {
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
        assert!(bench.calls[2] >= 1, "{policy:?}: {:?}", bench.calls);
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
            assert!(stray.abs() < slack, "{policy:?}: {:?}", bench.calls);
        }
    }
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
        assert!(
            calls.abs_diff(1_000 * u64::from(weight)) <= 10,
            "{:?}",
            bench.calls
        );
    }
}

#[test]
fn a_weight_of_nothing_gets_nothing() {
    for policy in ALL {
        let mut bench = Bench::new(policy, &[1, 0, 2]);
        for key in 0..100 {
            bench.call(Some(key));
        }
        assert_eq!(bench.calls[1], 0, "{policy:?}");
        bench.balancer.set_weight(0, 0);
        bench.balancer.set_weight(2, 0);
        assert_eq!(bench.balancer.choose(Some(1)), None);
        assert_eq!(bench.balancer.ready(), 0);
        bench.balancer.set_weight(1, 1);
        assert_eq!(bench.balancer.choose(Some(1)), Some(1));
    }
}

#[test]
fn two_of_the_same_name_both_work() {
    for policy in ALL.into_iter().map(unbounded) {
        let mut bench = Bench::new(policy, &[1, 1]);
        for id in [0, 1] {
            bench.balancer.insert(id, 5, 1);
            bench.place(id, Ready);
        }
        for key in 0..1_000 {
            bench.call(Some(key));
        }
        let least = bench.calls.iter().min().unwrap();
        assert!(*least > 350, "{policy:?}: {:?}", bench.calls);
        bench.balancer.remove(0);
        assert_eq!(bench.balancer.choose(Some(1)), Some(1));
    }
}

#[test]
fn the_same_seed_chooses_the_same() {
    for policy in [Policy::Random, Policy::PowerOfTwoChoices, Policy::RING] {
        let choices = |seed| {
            let mut bench = Bench::new(policy, &[1; 9]);
            let mut balancer = Balancer::new(policy, seed);
            core::mem::swap(&mut bench.balancer, &mut balancer);
            (0..9).for_each(|id| bench.insert(id));
            (0..50).map(|_| bench.call(None)).collect::<Vec<_>>()
        };
        assert_eq!(choices(1), choices(1));
        assert_ne!(choices(1), choices(2));
    }
}

#[test]
fn the_better_of_two_is_far_more_even_than_one() {
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

/// How much more than its own keys the removal of one member moves, in units of 1/n; the mean of so many.
fn disruption(policy: Policy, members: usize, keys: u64, removals: usize) -> f64 {
    let mut bench = Bench::new(unbounded(policy), &vec![1; members]);
    let before = bench.map(keys);
    let gone: Vec<usize> = (0..removals).map(|nth| nth * members / removals).collect();
    let mut sum = 0.0;
    for id in &gone {
        bench.balancer.remove(*id as u32);
        let after = bench.map(keys);
        assert!(!after.contains(&(*id as u32)));
        sum += moved(&before, &after) - shares(&before, members)[*id];
        bench.insert(*id as u32);
        assert_eq!(bench.map(100), before[..100]);
    }
    sum / gone.len() as f64 * members as f64
}

#[test]
fn removing_one_moves_its_keys_and_few_others() {
    // One for each time that a group can be divided by sixteen, at any number.
    let levels = |members: usize| (members as f64).log(16.0);
    let rendezvous = [10, 17, 33, 100, 528, 10_000].map(|members| {
        let removals = members.min(100);
        (Policy::RENDEZVOUS, members, removals, levels(members))
    });
    let ring = [10, 100, 1_000].map(|members| (Policy::RING, members, 8, 0.0));
    let maglev = [(10, 0.1), (100, 1.0), (655, 6.0)];
    let maglev = maglev.map(|(members, most)| (Policy::MAGLEV, members, 8, most));
    for (policy, members, removals, most) in rendezvous.into_iter().chain(ring).chain(maglev) {
        let others = disruption(policy, members, 50_000, removals);
        println!("{policy:?}, {members}: {others:.2}/n more than its own");
        assert!(others <= most + 1e-9, "{policy:?}, {members}: {others}");
    }
}

#[test]
fn keys_are_spread_as_evenly_as_stated() {
    for (policy, members, deviation) in [
        (Policy::RENDEZVOUS, 10, 0.03),
        (Policy::RENDEZVOUS, 100, 0.06),
        (Policy::RENDEZVOUS, 1_000, 0.15),
        (Policy::RING, 10, 0.15),
        (Policy::RING, 100, 0.15),
        (Policy::MAGLEV, 10, 0.03),
        (Policy::MAGLEV, 100, 0.06),
    ] {
        let mut bench = Bench::new(unbounded(policy), &vec![1; members]);
        let shares = shares(&bench.map(100_000), members);
        let even = 1.0 / members as f64;
        let variance = shares.iter().map(|share| (share / even - 1.0).powi(2));
        let found = (variance.sum::<f64>() / members as f64).sqrt();
        println!("{policy:?}, {members}: {found:.3}");
        assert!(found <= deviation, "{policy:?}, {members}: {found}");
    }
}

#[test]
fn one_that_is_away_gets_its_own_keys_back_and_the_others_keep_theirs() {
    for policy in [Policy::RENDEZVOUS, Policy::RING, Policy::MAGLEV] {
        let mut bench = Bench::new(unbounded(policy), &[1; 20]);
        let before = bench.map(5_000);
        bench.place(4, Out);
        let without = bench.map(5_000);
        for (one, other) in before.iter().zip(&without) {
            assert!(one == other || *one == 4);
        }
        let shares = shares(&without, 20);
        assert!(shares.iter().all(|share| *share < 0.09), "{shares:?}");
        bench.place(4, Ready);
        assert_eq!(bench.map(5_000), before);
    }
}

#[test]
fn a_peak_counts_at_once_and_is_forgotten_by_halves() {
    let half_life = HalfLife::new(Duration::from_secs(1)).unwrap();
    let mut balancer = Balancer::new(Policy::PeakEwma(half_life), 1);
    let mut latencies = [PeakEwma::new(half_life, Tick::ZERO); 2];
    let at = |millis: u64| Tick::from_nanos(millis * 1_000_000);
    let observe = |latency: &mut PeakEwma, now, millis| {
        latency.observe(at(now), Duration::from_millis(millis));
    };
    observe(&mut latencies[0], 0, 10);
    observe(&mut latencies[1], 0, 15);
    for id in [0, 1] {
        balancer.insert(id, id.into(), 1);
    }
    let mut first = |latencies: &[PeakEwma; 2]| {
        for (id, latency) in (0..).zip(latencies) {
            let member_load = MemberLoad {
                stamp: id.into(),
                latency: latency.key(),
                ..MemberLoad::default()
            };
            balancer.place(id, &member_load, Ready);
        }
        balancer.choose(None)
    };
    assert_eq!(first(&latencies), Some(0));
    observe(&mut latencies[0], 10, 100);
    assert_eq!(first(&latencies), Some(1));
    // A half-life later it is what it was, but for the peak: 50 + 10 / 2.
    observe(&mut latencies[0], 1_010, 10);
    let estimate = latencies[0].estimate(at(1_010)).unwrap().as_micros();
    assert!((54_990..=55_000).contains(&estimate), "{estimate}");
    observe(&mut latencies[1], 1_010, 56);
    assert_eq!(first(&latencies), Some(0));
}
