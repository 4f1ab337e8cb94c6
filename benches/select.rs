//! What a choice costs at any number of members, and what it costs to add and remove one.
//!
//! `pick/<policy>/<members>` is `choose`, `chosen` and `place`. `member/<policy>` removes one of 1,000 and
//! adds it again; under Maglev, the next choice makes the table anew, and is measured with it.
//! `benches/pingora` has the same beside pingora.

mod picks;

use core::hint::black_box;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use leasehold_core::balance::Policy;
use picks::Picks;

const POLICIES: [(&str, Policy); 12] = [
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

fn pick(c: &mut Criterion) {
    for (name, policy) in POLICIES {
        let mut group = c.benchmark_group(format!("pick/{name}"));
        for members in [10, 1_000, 100_000] {
            let mut picks = Picks::new(policy, members, 4);
            group.bench_function(BenchmarkId::from_parameter(members), |b| {
                b.iter(|| black_box(picks.pick()));
            });
        }
        group.finish();
    }
}

fn member(c: &mut Criterion) {
    let mut group = c.benchmark_group("member");
    for (name, policy) in POLICIES {
        let mut picks = Picks::new(policy, 1_000, 1);
        let mut id = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                id = (id + 7) % 1_000;
                picks.remove(id);
                picks.insert(id);
                black_box(picks.pick())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, pick, member);
criterion_main!(benches);
