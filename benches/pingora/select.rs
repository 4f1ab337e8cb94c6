//! Cost of a choice and of a change of members, compared with pingora in the same run.
//!
//! `pick/<policy>/<members>` measures pingora's `LoadBalancer::select`, which keeps no state, and our `choose`,
//! `chosen` and `update`, which counts calls. `member/ring` removes one of our 1,000 members of 160 points and
//! adds it again; pingora rebuilds its ring, as it does for each of the two changes.

#[path = "../picks.rs"]
mod picks;

use core::hint::black_box;
use core::task::{Context, Poll, Waker};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use leasehold_core::balance::Policy;
use picks::Picks;
use pingora_load_balancing::discovery::Static;
use pingora_load_balancing::selection::{
    BackendIter, BackendSelection, Consistent, Random, RoundRobin,
};
use pingora_load_balancing::{Backend, Backends, LoadBalancer};
use std::collections::BTreeSet;
use std::pin::pin;

fn backends(members: u32, heaviest: u32) -> BTreeSet<Backend> {
    (0..members)
        .map(|member| {
            let address = format!("10.0.{}.{}:80", member / 250, member % 250 + 1);
            let weight = 1 + member as usize % heaviest as usize;
            Backend::new_with_weight(&address, weight).expect("the address is valid")
        })
        .collect()
}

fn theirs<S>(members: u32, heaviest: u32) -> LoadBalancer<S>
where
    S: BackendSelection + Send + Sync + 'static,
    S::Iter: BackendIter,
{
    let backends = Backends::new(Static::new(backends(members, heaviest)));
    let balancer = LoadBalancer::from_backends(backends);
    let updated = pin!(balancer.update()).poll(&mut Context::from_waker(Waker::noop()));
    assert!(
        matches!(updated, Poll::Ready(Ok(()))),
        "static discovery never waits"
    );
    assert!(balancer.select(b"key", 16).is_some());
    balancer
}

/// Measures both with the same number and weights of members.
fn compare<S>(c: &mut Criterion, name: &str, policy: Policy, heaviest: u32)
where
    S: BackendSelection + Send + Sync + 'static,
    S::Iter: BackendIter,
{
    for members in [10, 100, 1_000] {
        let mut group = c.benchmark_group(format!("pick/{name}/{members}"));
        let mut ours = Picks::new(policy, members, heaviest);
        group.bench_function("leasehold", |b| b.iter(|| black_box(ours.pick())));
        let theirs = theirs::<S>(members, heaviest);
        let mut key = 1u64;
        group.bench_function("pingora", |b| {
            b.iter(|| {
                key = key.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                black_box(theirs.select(&key.to_le_bytes(), 16))
            });
        });
        group.finish();
    }
}

fn pick(c: &mut Criterion) {
    compare::<RoundRobin>(c, "round_robin", Policy::RoundRobin, 1);
    compare::<RoundRobin>(c, "weighted", Policy::WeightedRoundRobin, 4);
    compare::<Random>(c, "random", Policy::Random, 4);
    compare::<Consistent>(c, "ring", Policy::RING, 1);
    compare::<Consistent>(c, "rendezvous", Policy::RENDEZVOUS, 1);
    compare::<Consistent>(c, "maglev", Policy::MAGLEV, 1);
}

fn member(c: &mut Criterion) {
    let mut group = c.benchmark_group("member/ring");
    let mut ours = Picks::new(Policy::RING, 1_000, 1);
    let mut id = 0;
    group.bench_function(BenchmarkId::from_parameter("leasehold"), |b| {
        b.iter(|| {
            id = (id + 7) % 1_000;
            ours.remove(id);
            ours.insert(id);
        });
    });
    let backends = backends(1_000, 1);
    group.bench_function(BenchmarkId::from_parameter("pingora"), |b| {
        b.iter(|| Consistent::build(black_box(&backends)));
    });
    group.finish();
}

criterion_group!(benches, pick, member);
criterion_main!(benches);
