//! Selection by key: which keys move, how evenly they are spread, and the bound of loads.

use super::{Bench, unbounded};
use core::num::NonZeroU16;
use leasehold_core::balance::{
    Availability::{Out, Ready},
    LoadFactor, Policy, TableSize,
};
use proptest::prelude::*;
use std::collections::VecDeque;

const BY_KEY: [Policy; 3] = [Policy::RENDEZVOUS, Policy::RING, Policy::MAGLEV];

/// Share of the keys of each member.
fn shares(map: &[u32], members: usize) -> Vec<f64> {
    let mut shares = vec![0.0; members];
    for id in map {
        shares[*id as usize] += 1.0 / map.len() as f64;
    }
    shares
}

/// Share of the keys that moved.
fn moved(before: &[u32], after: &[u32]) -> f64 {
    let moved = before.iter().zip(after).filter(|(a, b)| a != b);
    moved.count() as f64 / before.len() as f64
}

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn loads_stay_within_the_bound_while_all_are_ready(
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
                prop_assert!(u64::from(bench.loads[id as usize].load) <= ceiling);
            } else {
                bench.release(leases.swap_remove(key as usize % leases.len()));
            }
        }
    }

    #[test]
    fn keys_depend_on_the_set_of_members_only(
        weights in prop::collection::vec(1..4u32, 2..60),
        order in any::<prop::sample::Index>(),
        which in 0..3usize,
    ) {
        let policy = unbounded(BY_KEY[which]);
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

/// Share of the keys that move with the removal of one member, the mean of some removals: all of them, and
/// those of other members. In units of 1/n.
fn moved_by_removal(policy: Policy, members: usize, keys: u64, removals: usize) -> (f64, f64) {
    let mut bench = Bench::new(policy, &vec![1; members]);
    let before = bench.map(keys);
    let own_shares = shares(&before, members);
    let (mut all, mut own) = (0.0, 0.0);
    for id in (0..removals).map(|nth| nth * members / removals) {
        bench.balancer.remove(id as u32);
        let after = bench.map(keys);
        assert!(!after.contains(&(id as u32)));
        all += moved(&before, &after);
        own += own_shares[id];
        bench.insert(id as u32);
        assert_eq!(bench.map(100), before[..100]);
    }
    let scale = members as f64 / removals as f64;
    (all * scale, (all - own) * scale)
}

#[test]
fn removing_a_member_moves_its_keys_and_few_others() {
    // One share for each time that a group can be divided by sixteen.
    let levels = |members: usize| (members as f64).log(16.0);
    let rendezvous = [10, 17, 33, 100, 528, 10_000].map(|members| {
        let removals = members.min(100);
        (Policy::RENDEZVOUS, members, removals, levels(members))
    });
    let ring = [10, 100, 1_000].map(|members| (Policy::RING, members, 8, 0.0));
    let maglev = [(10, 0.1), (100, 1.0), (655, 6.0)];
    let maglev = maglev.map(|(members, most)| (Policy::MAGLEV, members, 8, most));
    for (policy, members, removals, most) in rendezvous.into_iter().chain(ring).chain(maglev) {
        let (_, others) = moved_by_removal(unbounded(policy), members, 50_000, removals);
        println!("{policy}, {members}: {others:.2}/n more than its own");
        assert!(others <= most + 1e-9, "{policy}, {members}: {others}");
    }
}

#[test]
fn rendezvous_and_ring_move_the_stated_share_of_keys() {
    for (policy, members, least, most) in [
        (Policy::RENDEZVOUS, 10, 1.0, 1.2),
        (Policy::RENDEZVOUS, 100, 1.8, 2.1),
        (Policy::RENDEZVOUS, 1_000, 2.4, 2.8),
        (Policy::RING, 100, 0.9, 1.1),
        (Policy::RING, 1_000, 0.9, 1.1),
    ] {
        // Without leases, the bound of loads makes no difference.
        for policy in [policy, unbounded(policy)] {
            let (all, _) = moved_by_removal(policy, members, 50_000, 20.min(members));
            println!("{policy:?}, {members}: {all:.2}/n");
            assert!((least..most).contains(&all), "{policy:?}, {members}: {all}");
        }
    }
}

/// Share of leases that go to another member without one member, the mean of some, in units of 1/n. Each
/// member holds 10 leases of keys of their own.
fn moved_leases(policy: Policy, members: usize) -> f64 {
    let assign = |without: Option<u32>| {
        let mut bench = Bench::new(policy, &vec![1; members]);
        if let Some(id) = without {
            bench.balancer.remove(id);
        }
        let keys = 0..10 * members as u64;
        keys.map(|key| bench.lease(Some(key))).collect::<Vec<_>>()
    };
    let before = assign(None);
    let removals = (0..10).map(|nth| (nth * members / 10) as u32);
    let moved = removals.map(|id| moved(&before, &assign(Some(id))));
    moved.sum::<f64>() * members as f64 / 10.0
}

#[test]
fn a_bound_of_loads_moves_more_keys_among_loaded_members() {
    for (policy, members, free, bounded) in [
        (Policy::RENDEZVOUS, 100, 2.2, 8.0),
        (Policy::RENDEZVOUS, 1_000, 2.8, 12.0),
        (Policy::RING, 100, 1.1, 6.0),
        (Policy::RING, 1_000, 1.2, 8.0),
    ] {
        let found = moved_leases(unbounded(policy), members);
        assert!(found < free, "{policy}, {members}: {found}");
        let found = moved_leases(policy, members);
        println!("{policy}, {members}: {found:.1}/n");
        assert!(
            found > free && found < bounded,
            "{policy}, {members}: {found}"
        );
    }
}

#[test]
fn only_the_keys_of_an_absent_member_move_and_they_return() {
    for policy in BY_KEY {
        let mut bench = Bench::new(unbounded(policy), &[1; 20]);
        let before = bench.map(5_000);
        bench.update(4, Out);
        let without = bench.map(5_000);
        for (one, other) in before.iter().zip(&without) {
            assert!(one == other || *one == 4);
        }
        let shares = shares(&without, 20);
        assert!(shares.iter().all(|share| *share < 0.09), "{shares:?}");
        bench.update(4, Ready);
        assert_eq!(bench.map(5_000), before);
    }
}

#[test]
fn keys_stay_with_their_members_while_half_of_all_are_out() {
    for policy in BY_KEY {
        let mut bench = Bench::new(policy, &[1; 10]);
        let mut free = Bench::new(unbounded(policy), &[1; 10]);
        for id in 0..5 {
            bench.loads[id as usize].load = 7;
            bench.update(id, Out);
            free.update(id, Out);
        }
        let mut leases = VecDeque::new();
        let mut own = 0;
        for key in 0..2_000 {
            if leases.len() == 100 {
                bench.release(leases.pop_front().expect("there are 100"));
            }
            let id = bench.lease(Some(key));
            own += u32::from(free.balancer.choose(Some(key)) == Some(id));
            leases.push_back(id);
        }
        assert!(own > 1_700, "{policy}: {own} of 2000");
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
        println!("{policy}, {members}: {found:.3}");
        assert!(found <= deviation, "{policy}, {members}: {found}");
    }
}

#[test]
fn the_placement_of_keys_stays_the_same_between_versions() {
    for (policy, expected) in [
        (
            Policy::RENDEZVOUS,
            [4, 0, 4, 4, 2, 4, 4, 2, 3, 1, 3, 2, 4, 2, 4, 4],
        ),
        (
            Policy::RING,
            [2, 0, 4, 2, 2, 2, 4, 4, 1, 0, 3, 1, 3, 3, 2, 4],
        ),
        (
            Policy::MAGLEV,
            [3, 4, 1, 3, 2, 3, 4, 4, 4, 4, 0, 2, 4, 4, 4, 2],
        ),
    ] {
        let mut bench = Bench::new(unbounded(policy), &[1, 2, 3, 4, 5]);
        assert_eq!(bench.map(16), expected, "{policy}");
    }
}
