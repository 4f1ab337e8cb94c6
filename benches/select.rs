//! Cost of a choice by number of members, and of adding and removing a member.
//!
//! `pick/<policy>/<members>` measures `choose`, `chosen` and `update`. `member/<policy>` removes one of 1,000
//! members, adds it again and makes a choice, which under Maglev refills the table. `benches/pingora` compares
//! both with pingora.

mod picks;
mod policies;

use core::hint::black_box;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use picks::Picks;

fn pick(c: &mut Criterion) {
    for (name, policy) in policies::ALL {
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
    for (name, policy) in policies::ALL {
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
