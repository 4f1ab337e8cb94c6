//! Promises of the selection policies.

mod hashing;
mod returns;
mod shares;

use core::time::Duration;
use leasehold_core::balance::{
    Availability::{self, Busy, Ready},
    Balancer, HalfLife, LoadFactor, MemberLoad, PeakEwma, Policy, pass, stable_hash,
};
use leasehold_core::time::Tick;
use leasehold_tests::balance::{Case, run};
use proptest::prelude::*;

/// A balancer, and the loads that a pool would report to it.
#[derive(Clone)]
struct Bench {
    balancer: Balancer,
    weights: Vec<u32>,
    loads: Vec<MemberLoad>,
    calls: Vec<u64>,
    sequence: u64,
}

impl Bench {
    fn new(policy: Policy, weights: &[u32]) -> Self {
        let mut bench = Self {
            balancer: Balancer::new(policy, 7),
            weights: weights.to_vec(),
            loads: vec![MemberLoad::default(); weights.len()],
            calls: vec![0; weights.len()],
            sequence: 0,
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
        self.update(id, Ready);
    }

    fn update(&mut self, id: u32, availability: Availability) {
        self.sequence += 1;
        self.loads[id as usize].last_used_seq = self.sequence;
        self.balancer
            .update(id, &self.loads[id as usize], availability);
    }

    /// Takes a lease and releases it at once.
    fn call(&mut self, key: Option<u64>) -> u32 {
        let id = self.lease(key);
        self.release(id);
        id
    }

    fn lease(&mut self, key: Option<u64>) -> u32 {
        let id = self.balancer.choose(key).expect("a member is ready");
        self.balancer.chosen(id);
        self.calls[id as usize] += 1;
        let load = &mut self.loads[id as usize];
        load.load += 1;
        load.work += 1;
        load.pass += pass(self.weights[id as usize]);
        self.update(id, Ready);
        id
    }

    fn release(&mut self, id: u32) {
        self.loads[id as usize].load -= 1;
        self.loads[id as usize].work -= 1;
        self.update(id, Ready);
    }

    /// Returns the members that the keys from 0 on map to.
    fn map(&mut self, keys: u64) -> Vec<u32> {
        (0..keys)
            .map(|key| self.balancer.choose(Some(key)).expect("a member is ready"))
            .collect()
    }

    /// Difference in calls between the most and the least used member.
    fn spread(&self) -> u64 {
        let most = self.calls.iter().copied().max().unwrap_or(0);
        most - self.calls.iter().copied().min().unwrap_or(0)
    }
}

/// The policy without a bound of loads, if it is one by key.
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
    fn every_policy_agrees_with_its_oracle(case: Case) {
        run(&case);
    }
}

#[test]
fn a_member_too_small_for_a_request_keeps_its_turn() {
    for policy in Policy::ALL {
        let mut bench = Bench::new(policy, &[1, 3, 2, 1, 1]);
        for key in 0..60 {
            let before = bench.clone();
            let first = bench.balancer.choose(Some(key)).unwrap();
            let load = bench.loads[first as usize];
            bench.balancer.update(first, &load, Busy);
            assert_ne!(bench.balancer.choose(Some(key)), Some(first));
            bench.balancer.update(first, &load, Ready);
            if !matches!(policy, Policy::Random | Policy::PowerOfTwoChoices) {
                assert_eq!(bench.balancer.choose(Some(key)), Some(first));
                bench = before;
            }
            bench.call(Some(key));
        }
    }
}

#[test]
fn a_member_passed_over_for_one_call_is_next_and_keeps_its_share() {
    for policy in [Policy::Fifo, Policy::RoundRobin, Policy::WeightedRoundRobin] {
        for members in 2..=8 {
            let mut bench = Bench::new(policy, &vec![1; members]);
            for _ in 0..60 {
                let first = bench.balancer.choose(None).unwrap();
                let load = bench.loads[first as usize];
                bench.balancer.update(first, &load, Busy);
                bench.call(None);
                bench.balancer.update(first, &load, Ready);
                assert_eq!(bench.balancer.choose(None), Some(first), "{policy}");
                bench.call(None);
            }
            let even = bench.spread() <= 1;
            assert!(
                even || policy == Policy::Fifo,
                "{policy}: {:?}",
                bench.calls
            );
        }
    }
}

#[test]
fn a_member_of_weight_zero_is_never_chosen() {
    for policy in Policy::ALL {
        let mut bench = Bench::new(policy, &[1, 0, 2]);
        for key in 0..100 {
            bench.call(Some(key));
        }
        assert_eq!(bench.calls[1], 0, "{policy}");
        bench.balancer.set_weight(0, 0);
        bench.balancer.set_weight(2, 0);
        assert_eq!(bench.balancer.choose(Some(1)), None);
        assert_eq!(bench.balancer.ready(), 0);
        bench.balancer.set_weight(1, 1);
        assert_eq!(bench.balancer.choose(Some(1)), Some(1));
    }
}

#[test]
fn members_of_equal_identity_share_the_calls() {
    for policy in Policy::ALL.into_iter().map(unbounded) {
        let mut bench = Bench::new(policy, &[1, 1]);
        for id in [0, 1] {
            bench.balancer.insert(id, 5, 1);
            bench.update(id, Ready);
        }
        for key in 0..1_000 {
            bench.call(Some(key));
        }
        let least = bench.calls.iter().min().unwrap();
        assert!(*least > 350, "{policy}: {:?}", bench.calls);
        bench.balancer.remove(0);
        assert_eq!(bench.balancer.choose(Some(1)), Some(1));
    }
}

#[test]
fn equal_seeds_choose_the_same() {
    for policy in [Policy::Random, Policy::PowerOfTwoChoices, Policy::RING] {
        let choices = |seed| {
            let mut bench = Bench::new(policy, &[1; 9]);
            bench.balancer = Balancer::new(policy, seed);
            (0..9).for_each(|id| bench.insert(id));
            (0..50).map(|_| bench.call(None)).collect::<Vec<_>>()
        };
        assert_eq!(choices(1), choices(1));
        assert_ne!(choices(1), choices(2));
    }
}

#[test]
fn a_latency_peak_counts_at_once_and_decays_by_half() {
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
            let load = MemberLoad {
                last_used_seq: id.into(),
                latency: latency.key(),
                ..MemberLoad::default()
            };
            balancer.update(id, &load, Ready);
        }
        balancer.choose(None)
    };
    assert_eq!(first(&latencies), Some(0));
    observe(&mut latencies[0], 10, 100);
    assert_eq!(first(&latencies), Some(1));
    // A half-life later, half of the peak is left: 50 + 10 / 2.
    observe(&mut latencies[0], 1_010, 10);
    let estimate = latencies[0].estimate(at(1_010)).unwrap().as_micros();
    assert!((54_990..=55_000).contains(&estimate), "{estimate}");
    observe(&mut latencies[1], 1_010, 56);
    assert_eq!(first(&latencies), Some(0));
}
