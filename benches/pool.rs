//! What a lease costs at any number of members: acquire and release under every policy, with a limit on
//! every member; and how much of that is memory's.

mod policies;

use core::hint::black_box;
use core::num::NonZeroU32;
use core::time::Duration;
use criterion::measurement::{Measurement, WallTime};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use leasehold_core::balance::{LoadFactor, Policy, TableSize};
use leasehold_core::limit::{Anchor, SlidingLog};
use leasehold_core::pool::{Acquired, Member, Outcome, Pool, PoolConfig, Request};
use leasehold_core::time::Tick;

/// Each member takes 1,000 calls a second, one at a time.
fn pool(policy: Policy, members: u32) -> Pool<u32> {
    let mut pool = Pool::new(PoolConfig::new(policy));
    let limit = NonZeroU32::MIN.saturating_add(999);
    for name in 0..members {
        let log = SlidingLog::new(limit, Duration::from_secs(1), Anchor::Completion)
            .expect("the window has a length");
        let member = Member::new(name).max_leases(NonZeroU32::MIN).limit(log);
        pool.add(Tick::ZERO, member)
            .expect("a small pool takes members");
    }
    pool
}

/// Takes a lease and gives it back half a millisecond later: how long leases were held takes the less memory the
/// shorter that was, and nobody holds one for no time.
fn lease(pool: &mut Pool<u32>, now: u64) {
    let acquired = pool.acquire(Tick::from_nanos(now), Request::new().key(now));
    let Ok(Acquired::Granted(grant)) = black_box(acquired) else {
        panic!("a member is free");
    };
    let later = Tick::from_nanos(now + 500_000);
    black_box(pool.release(later, grant.lease, Outcome::Ok)).expect("it was granted just now");
}

fn acquire_and_release(c: &mut Criterion) {
    for (name, policy) in policies::ALL {
        measure(c, name, |_| policy);
    }
    measure(c, "maglev_hundredfold", hundredfold);
}

fn measure(c: &mut Criterion, name: &str, policy: impl Fn(u32) -> Policy) {
    let mut group = c.benchmark_group(format!("acquire_release/{name}"));
    for members in [10, 1_000, 100_000] {
        let mut pool = pool(policy(members), members);
        // The first request of its kind looks at all members, for seconds where each has 160 points on a
        // ring. Criterion would take that for the time of every one and measure one at a time.
        lease(&mut pool, 0);
        let mut now = 0u64;
        group.bench_function(BenchmarkId::from_parameter(members), |b| {
            b.iter(|| {
                // Slow enough that ten members never reach their limits.
                now += 1_000_000;
                lease(&mut pool, now);
            });
        });
    }
    group.finish();
}

/// Maglev with the table that so many members want: a hundred places each. In the usual one, a third of 100,000
/// members has no place.
fn hundredfold(members: u32) -> Policy {
    let mut sizes = (100 * members..).filter_map(|places| TableSize::new(places).ok());
    Policy::Maglev {
        table: sizes.next().expect("a prime is never far"),
        bound: LoadFactor::DEFAULT,
    }
}

/// Cache lines that a lease looks at of its member.
const LINES: usize = 3;
/// Places on a ring for each member of 160 points: about what a ring takes that grows by quarters.
const PLACES: usize = 256;
/// Leases and steps by which the work of a lease is measured.
const MEASURED: u32 = 1_000_000;

fn step(state: u64) -> u64 {
    (state ^ (state >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb) | 1
}

/// How many steps that wait for each other take as long as a lease among ten members.
fn steps_of_a_lease() -> u64 {
    let mut pool = pool(Policy::MAGLEV, 10);
    let begun = WallTime.start();
    (1..=u64::from(MEASURED)).for_each(|nth| lease(&mut pool, nth * 1_000_000));
    let leases = WallTime.end(begun);
    let begun = WallTime.start();
    black_box((0..MEASURED).fold(1, |state, _| step(state)));
    let steps = WallTime.end(begun).max(Duration::from_nanos(1));
    (leases.as_nanos() / steps.as_nanos()) as u64
}

/// As much work as a lease, and one look at a member that comes up by chance and wasn't foreseen: what a choice by
/// key grows by if it waits for memory once. And the same where a place on a ring, or in a table as large, has to say
/// first which member it is, so that it waits twice.
fn look_at_one_by_chance(c: &mut Criterion) {
    #[derive(Clone)]
    #[repr(align(64))]
    struct Line([u64; 8]);

    fn below(state: u64, end: usize) -> usize {
        ((u128::from(state) * end as u128) >> 64) as usize
    }

    let steps = steps_of_a_lease();
    for (name, places_of_one) in [("one_look", 0), ("two_looks", PLACES)] {
        let mut group = c.benchmark_group(name);
        for members in [10, 1_000, 100_000] {
            let mut memory = vec![[const { Line([1; 8]) }; LINES]; members];
            let places: Vec<u64> = (0..(places_of_one * members) as u64).map(step).collect();
            let mut state = 1u64;
            group.bench_function(BenchmarkId::from_parameter(members), |b| {
                b.iter(|| {
                    state = (0..steps).fold(state, |state, _| step(state));
                    let place = places.get(below(state, places.len())).copied();
                    let member = below(state ^ place.unwrap_or(0), members);
                    for Line(words) in &mut memory[member] {
                        words[1] = words[1].wrapping_add(1);
                        state ^= words[0];
                    }
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, acquire_and_release, look_at_one_by_chance);
criterion_main!(benches);
