//! Cost of limiters that threads share, beside governor in the same run.
//!
//! `<case>/<threads>/<limiter>` is the time of one decision in each thread, while all threads decide at once. Both
//! libraries read quanta's clock, governor's default; `std_clock` reads the one of `std`, our default; `given` gets
//! the time as an argument, which leaves the decision alone. `admit` has a limit that is never reached, `refuse`
//! one that is used up, and `keyed` takes 100,000 keys in random order.
//!
//! First, and with `-- --test` too, ten million keys go through a limiter of 100,000; it is an error if its memory
//! grows with them.

use core::hint::black_box;
use core::num::{NonZeroU32, NonZeroUsize};
use core::time::Duration;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use governor::clock::FakeRelativeClock;
use governor::{Quota, RateLimiter};
use leasehold_core::limit::{Anchor, GcraWord, SlidingLog};
use leasehold_core::time::Tick;
use leasehold_sync::{AtomicGcra, AtomicWindow, Clock, KeyedError, KeyedLimiter, SyncLimiter};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::hash::RandomState;
use std::sync::Barrier;
use std::thread;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const KEYS: u64 = 100_000;
const HOUR: Duration = Duration::from_secs(3_600);

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn count(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).expect("the count is above zero")
}

/// One unit per ns, which no caller uses up, or one unit per hour.
fn rate(admits: bool) -> GcraWord {
    let rate = if admits {
        GcraWord::new(
            count(1_000_000_000),
            Duration::from_secs(1),
            count(1_000_000),
        )
    } else {
        GcraWord::new(count(1), HOUR, count(1))
    };
    rate.expect("the rate is valid")
}

fn quota(admits: bool) -> Quota {
    if admits {
        Quota::per_second(count(1_000_000_000)).allow_burst(count(1_000_000))
    } else {
        Quota::per_hour(count(1))
    }
}

/// The time in which each of `threads` threads makes `decisions` decisions; `ask` gets the decision's number.
fn measure(threads: u64, decisions: u64, ask: impl Fn(u64) -> bool + Sync) -> Duration {
    let (ready, done) = (
        Barrier::new(threads as usize + 1),
        Barrier::new(threads as usize + 1),
    );
    thread::scope(|scope| {
        for thread in 0..threads {
            let (ready, done, ask) = (&ready, &done, &ask);
            scope.spawn(move || {
                ready.wait();
                let own = thread * decisions..(thread + 1) * decisions;
                let admitted = own.filter(|decision| black_box(ask(*decision))).count();
                black_box(admitted);
                done.wait();
            });
        }
        ready.wait();
        let clock = Clock::start();
        done.wait();
        clock.now().since(Tick::ZERO)
    })
}

fn bench(group: &mut Group<'_>, name: &str, threads: u64, ask: impl Fn(u64) -> bool + Sync) {
    group.bench_function(BenchmarkId::from_parameter(name), |b| {
        b.iter_custom(|decisions| measure(threads, decisions, &ask));
    });
}

fn direct(c: &mut Criterion) {
    for (name, admits) in [("admit", true), ("refuse", false)] {
        for threads in [1, 2] {
            let mut group = c.benchmark_group(format!("{name}/{threads}"));
            let ours = AtomicGcra::with_clock(rate(admits), Clock::start_counter());
            let theirs = RateLimiter::direct(quota(admits));
            let by_std = AtomicGcra::with_clock(rate(admits), Clock::start());
            assert!(ours.try_acquire(1).is_ok() && theirs.check().is_ok());
            assert!(by_std.try_acquire(1).is_ok());
            bench(&mut group, "leasehold", threads, |_| {
                ours.try_acquire(1).is_ok()
            });
            bench(&mut group, "governor", threads, |_| theirs.check().is_ok());
            bench(&mut group, "leasehold_std_clock", threads, |_| {
                by_std.try_acquire(1).is_ok()
            });
            let given = AtomicGcra::with_clock(rate(admits), Clock::start());
            let now = Tick::from_nanos(1_000_000);
            given
                .try_acquire_at(now, 1)
                .expect("the first unit is admitted");
            bench(&mut group, "leasehold_given", threads, |_| {
                given.try_acquire_at(now, 1).is_ok()
            });
            let clock = FakeRelativeClock::default();
            let given = RateLimiter::direct_with_clock(quota(admits), clock);
            bench(&mut group, "governor_given", threads, |_| {
                given.check().is_ok()
            });
            group.finish();
        }
    }
}

/// Refusals of an exact log at its limit.
fn locked(c: &mut Criterion) {
    for threads in [1, 2] {
        let mut group = c.benchmark_group(format!("refuse_exact/{threads}"));
        let log = || SlidingLog::new(count(3), HOUR, Anchor::Grant).expect("the window is valid");
        let ours = SyncLimiter::with_clock(log(), Clock::start_counter());
        let mutex = std::sync::Mutex::new(log());
        let clock = Clock::start_counter();
        let six = count(6);
        let window = AtomicWindow::with_clock(count(3), HOUR, six, Clock::start_counter());
        let window = window.expect("the window is valid");
        let theirs = RateLimiter::direct(quota(false));
        for _ in 0..3 {
            let _ = (ours.try_acquire(1), window.try_acquire(1), theirs.check());
        }
        bench(&mut group, "leasehold", threads, |_| {
            ours.try_acquire(1).is_ok()
        });
        bench(&mut group, "governor", threads, |_| theirs.check().is_ok());
        bench(&mut group, "leasehold_atomic_window", threads, |_| {
            window.try_acquire(1).is_ok()
        });
        bench(&mut group, "mutex", threads, |_| {
            use leasehold_core::limit::Limit;
            let mut log = mutex.lock().expect("no thread panics");
            log.try_acquire(clock.now(), 1).is_ok()
        });
        group.finish();
    }
}

fn keyed(c: &mut Criterion) {
    let mut random = fastrand::Rng::with_seed(1);
    let order: Vec<u64> = (0..1 << 20).map(|_| random.u64(..KEYS)).collect();
    let key = |decision: u64| &order[decision as usize % order.len()];
    let capacity = NonZeroUsize::MIN.saturating_add(2 * KEYS as usize);
    for threads in [1, 2] {
        let mut group = c.benchmark_group(format!("keyed/{threads}"));
        // No key is ever idle: each is used again before it would be, or is at its limit.
        let (each, burst) = (count(100), count(1_000_000));
        let rate = GcraWord::new(each, Duration::from_secs(1), burst).expect("the rate is valid");
        let ours: KeyedLimiter<u64> =
            KeyedLimiter::with_clock(rate, capacity, RandomState::new(), Clock::start_counter());
        let theirs = RateLimiter::dashmap(Quota::per_second(each).allow_burst(burst));
        for key in 0..KEYS {
            ours.try_acquire(&key, 1).expect("the key is new");
            theirs.check_key(&key).expect("the key is new");
        }
        bench(&mut group, "leasehold", threads, |decision| {
            ours.try_acquire(key(decision), 1).is_ok()
        });
        bench(&mut group, "governor", threads, |decision| {
            theirs.check_key(key(decision)).is_ok()
        });
        group.finish();
    }
}

/// Adds ten million keys, each of which is in use for 1 ms.
fn soak(_: &mut Criterion) {
    const ALL: u64 = 10_000_000;
    let capacity = NonZeroUsize::MIN.saturating_add(KEYS as usize - 1);
    let rate =
        GcraWord::new(count(1), Duration::from_millis(1), count(1)).expect("the rate is valid");
    let limiter: KeyedLimiter<u64> = KeyedLimiter::new(rate, capacity);
    let region = Region::new(ALLOCATOR);
    let bytes = || {
        let change = region.change();
        change.bytes_allocated - change.bytes_deallocated
    };
    let (mut early, mut refused) = (0, 0u64);
    for key in 0..ALL {
        // 50,000 keys are in use at a time.
        let now = Tick::from_nanos(key * 20);
        match limiter.try_acquire_at(now, &key, 1) {
            Ok(()) => {}
            Err(KeyedError::TooManyKeys) => refused += 1,
            Err(KeyedError::AtLimit(wait)) => panic!("new key {key} must wait {wait:?}"),
        }
        if key == ALL / 10 {
            early = bytes();
        }
    }
    let (late, held) = (bytes(), limiter.len());
    println!(
        "keyed soak: {ALL} keys, {refused} refused, {held} of {KEYS} held; {early} bytes after a tenth, {late} at the end"
    );
    assert!(held as u64 <= KEYS && refused == 0);
    assert!(
        late <= early,
        "memory grows with the keys: {early} to {late}"
    );
}

criterion_group!(benches, soak, direct, locked, keyed);
criterion_main!(benches);
