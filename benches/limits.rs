//! What a decision costs, admitted and refused, beside a plain log behind a lock.

use core::hint::black_box;
use core::num::NonZeroU32;
use core::time::Duration;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use leasehold_core::limit::{Anchor, BucketedWindow, Limit, SlidingLog};
use leasehold_core::time::Tick;
use std::collections::VecDeque;
use std::sync::Mutex;

const WINDOW: Duration = Duration::from_secs(1);

/// Asks at a pace that just fits, and at one where hardly any request does.
fn paces(limit: u32) -> [(&'static str, u64); 2] {
    let fitting = 1_100_000_000 / u64::from(limit);
    [("admit", fitting), ("refuse", fitting / 1_000)]
}

fn bench(
    c: &mut Criterion,
    name: &str,
    mut limit_of: impl FnMut(u32) -> Box<dyn FnMut(Tick) -> bool>,
) {
    let mut group = c.benchmark_group(format!("decision/{name}"));
    for limit in [3, 100, 10_000] {
        for (kind, step) in paces(limit) {
            let mut decide = limit_of(limit);
            let mut now = 0;
            group.bench_function(BenchmarkId::new(kind, limit), |b| {
                b.iter(|| {
                    now += step;
                    decide(black_box(Tick::from_nanos(now)))
                });
            });
        }
    }
    group.finish();
}

fn count(limit: u32) -> NonZeroU32 {
    NonZeroU32::new(limit).expect("a limit above zero")
}

fn decisions(c: &mut Criterion) {
    bench(c, "sliding_log", |limit| {
        let log = SlidingLog::new(count(limit), WINDOW, Anchor::Grant);
        let mut log = log.expect("the window has a length");
        Box::new(move |now| log.try_acquire(now, 1).is_ok())
    });
    bench(c, "bucketed_window", |limit| {
        let window = BucketedWindow::new(count(limit), WINDOW, count(10), Anchor::Grant);
        let mut window = window.expect("the buckets are even");
        Box::new(move |now| window.try_acquire(now, 1).is_ok())
    });
    bench(c, "mutex_vecdeque", |limit| {
        let log = Mutex::new(VecDeque::new());
        Box::new(move |now| {
            let Ok(mut log) = log.lock() else {
                return false;
            };
            while log
                .front()
                .is_some_and(|oldest: &Tick| now.since(*oldest) >= WINDOW)
            {
                log.pop_front();
            }
            let fits = log.len() < limit as usize;
            if fits {
                log.push_back(now);
            }
            fits
        })
    });
}

criterion_group!(benches, decisions);
criterion_main!(benches);
