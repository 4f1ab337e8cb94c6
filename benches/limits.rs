//! Time per decision of the limiters, beside those of other libraries in the same run.
//!
//! - `decision/{admit,refuse}/<limit>/<algorithm>`: in virtual time, without reading a clock and without dynamic
//!   dispatch. `floor` is the loop alone.
//! - `locked/{admit,refuse}/<limit>/<algorithm>`: a limiter shared by threads, with a lock (or its equivalent) and the
//!   real clock.
//! - `flat/{admit,refuse}/<limit>`: the exact log at growing limits.
//!
//! `admit` asks at two thirds of the limit, so that every algorithm admits every request; `refuse` asks every nanosecond
//! at a used-up limit. Both are checked before they are measured.

mod peers;

use better_bucket::{BucketConfig, BucketCore};
use core::hint::black_box;
use core::num::NonZeroU32;
use core::time::Duration;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use governor::clock::{Clock, FakeRelativeClock};
use governor::nanos::Nanos;
use governor::{NotUntil, Quota, RateLimiter};
use leasehold_core::limit::{
    Anchor, BucketedWindow, Concurrency, FixedWindow, Gcra, Limit, Pacing, SlidingCounter,
    SlidingLog, TokenBucket, Wait,
};
use leasehold_core::time::Tick;
use peers::{Counter, MutexLog};
use ratelimit::{Ratelimiter, TryWaitError};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use throttle_net::{ManualClock, MultiLimiter, SlidingWindowLog, Throttle};

const LIMITS: [u32; 3] = [3, 100, 10_000];
const WINDOW: Duration = Duration::from_secs(1);
const KEYS: u64 = 100_000;

type Group<'a> = BenchmarkGroup<'a, WallTime>;

#[derive(Clone, Copy)]
enum Kind {
    Admit,
    Refuse,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Refuse => "refuse",
        }
    }

    /// Nanoseconds from one request to the next.
    fn step(self, limit: u32) -> u64 {
        match self {
            Self::Admit => WINDOW.as_nanos() as u64 * 3 / 2 / u64::from(limit) + 1,
            Self::Refuse => 1,
        }
    }
}

/// Admitted, or the nanosecond at which to ask again, if the limiter tells. It fits into two registers: a larger answer
/// goes through memory, which costs more than the decision.
type Answer = Result<(), u64>;

#[inline]
fn yes_or_no(admitted: bool) -> Answer {
    if admitted { Ok(()) } else { Err(0) }
}

#[inline]
fn answer(asked: Result<Tick, Wait>) -> Answer {
    match asked {
        Ok(_) => Ok(()),
        Err(Wait::Until(tick)) => Err(tick.as_nanos()),
        Err(Wait::ForSettlement | Wait::Never) => Err(u64::MAX),
    }
}

#[inline]
fn of_governor(asked: Result<(), NotUntil<Nanos>>) -> Answer {
    asked.map_err(|until| until.earliest_possible().as_u64())
}

#[inline]
fn of_ratelimit(asked: Result<(), TryWaitError>) -> Answer {
    asked.map_err(|refusal| match refusal {
        TryWaitError::Insufficient(wait) => wait.as_nanos() as u64,
        TryWaitError::ExceedsCapacity | _ => u64::MAX,
    })
}

fn count(limit: u32) -> NonZeroU32 {
    NonZeroU32::new(limit).expect("a limit above zero")
}

#[expect(clippy::disallowed_methods, reason = "the clock is what is measured")]
fn instant() -> Instant {
    Instant::now()
}

/// Asks `times` times and counts admissions. All calls of `decide` are here, so that it is inlined into the loop.
fn ask(times: u64, decide: &mut impl FnMut() -> Answer) -> u64 {
    let mut admitted = 0;
    for _ in 0..times {
        match decide() {
            Ok(()) => admitted += 1,
            Err(when) => {
                black_box(when);
            }
        }
    }
    admitted
}

/// Measures `decide` after a warm-up that uses up the limit or fills the log.
fn measure(
    group: &mut Group,
    name: &str,
    kind: Kind,
    limit: u32,
    mut decide: impl FnMut() -> Answer,
) {
    ask(u64::from(limit) + 1, &mut decide);
    let expected = match kind {
        Kind::Admit => 100,
        Kind::Refuse => 0,
    };
    assert_eq!(ask(100, &mut decide), expected, "{name} at {limit}");
    group.bench_function(name, |b| {
        b.iter_custom(|times| {
            let start = instant();
            black_box(ask(times, &mut decide));
            start.elapsed()
        });
    });
}

fn ours(group: &mut Group, name: &str, kind: Kind, limit: u32, mut machine: impl Limit) {
    let step = kind.step(limit);
    let mut now = 0;
    measure(group, name, kind, limit, || {
        now += step;
        let now = black_box(Tick::from_nanos(now));
        answer(black_box(&mut machine).try_acquire(now, black_box(1)))
    });
}

fn exact_log(limit: u32) -> SlidingLog {
    SlidingLog::new(count(limit), WINDOW, Anchor::Grant).expect("the window has a length")
}

fn all_of_ours(group: &mut Group, kind: Kind, limit: u32) {
    let (units, ten) = (count(limit), count(10));
    ours(group, "sliding_log", kind, limit, exact_log(limit));
    let window = BucketedWindow::new(units, WINDOW, ten, Anchor::Grant);
    let window = window.expect("the buckets are even");
    ours(group, "bucketed_window", kind, limit, window);
    let window = BucketedWindow::<[u32; 11]>::inline(units, WINDOW, Anchor::Grant);
    let window = window.expect("the buckets are even");
    ours(group, "bucketed_window_inline", kind, limit, window);
    let counter = SlidingCounter::new(units, WINDOW).expect("a sound limit");
    ours(group, "sliding_counter", kind, limit, counter);
    let window = FixedWindow::new(units, WINDOW).expect("a sound limit");
    ours(group, "fixed_window", kind, limit, window);
    let bucket = TokenBucket::new(units, WINDOW, units).expect("a sound limit");
    ours(group, "token_bucket", kind, limit, bucket);
    let gcra = Gcra::new(units, WINDOW, units).expect("a sound limit");
    ours(group, "gcra", kind, limit, gcra);
    let pacing = Pacing::new(units, WINDOW).expect("a sound limit");
    ours(group, "pacing", kind, limit, pacing);
    concurrency(group, kind, limit);
}

/// Measures a concurrency limit, where `admit` takes a slot and returns it.
fn concurrency(group: &mut Group, kind: Kind, limit: u32) {
    let mut slots = Concurrency::new(count(limit));
    let mut now = 0;
    measure(group, "concurrency", kind, limit, || {
        now += 1;
        let now = black_box(Tick::from_nanos(now));
        let taken = black_box(&mut slots).try_acquire(now, black_box(1));
        if let (Kind::Admit, Ok(booked)) = (kind, taken) {
            black_box(&mut slots).settle(now, booked, 1, 1);
        }
        answer(taken)
    });
}

fn quota(limit: u32, window: Duration) -> Quota {
    Quota::with_period(window / limit)
        .expect("the window has a length")
        .allow_burst(count(limit))
}

fn governors(group: &mut Group, kind: Kind, limit: u32) {
    let step = kind.step(limit);
    let quota = quota(limit, WINDOW);

    let clock = FakeRelativeClock::default();
    let direct = RateLimiter::direct_with_clock(quota, clock.clone());
    measure(group, "governor", kind, limit, || {
        clock.advance(black_box(Duration::from_nanos(step)));
        of_governor(direct.check())
    });

    let clock = Counter::default();
    let direct = RateLimiter::direct_with_clock(quota, clock.clone());
    let mut now = 0;
    measure(group, "governor_cheap_clock", kind, limit, || {
        now += step;
        clock.set(black_box(now));
        of_governor(direct.check())
    });

    for (name, keys) in [("governor_one_key", 1), ("governor_100k_keys", KEYS)] {
        let clock = FakeRelativeClock::default();
        let keyed = RateLimiter::dashmap_with_clock(quota, clock.clone());
        for key in 0..keys {
            let taken = keyed.check_key_n(&key, count(limit));
            assert!(matches!(taken, Ok(Ok(()))), "the burst is free");
        }
        clock.advance(Duration::from_nanos(step));
        let mut key = 0;
        measure(group, name, kind, limit, || {
            clock.advance(black_box(Duration::from_nanos(step)));
            key = if key + 1 < keys { key + 1 } else { 0 };
            of_governor(keyed.check_key(black_box(&key)))
        });
    }
}

fn other_peers(group: &mut Group, kind: Kind, limit: u32) {
    let step = kind.step(limit);
    let pause = Duration::from_nanos(step);

    let clock = Counter::default();
    let bucket = ratelimit::Builder::with_clock(limit.into(), clock.clone());
    let bucket = bucket.initial_available(limit.into()).build();
    let bucket = bucket.expect("a sound limit");
    let mut now = 0;
    measure(group, "ratelimit", kind, limit, || {
        now += step;
        clock.set(black_box(now));
        of_ratelimit(bucket.try_wait())
    });

    let config = BucketConfig::new(limit, limit, WINDOW, limit).expect("a sound limit");
    let bucket = BucketCore::new(config, Duration::ZERO);
    let mut now = Duration::ZERO;
    measure(group, "better_bucket", kind, limit, || {
        now += pause;
        match bucket
            .acquire_at(black_box(1), black_box(now))
            .retry_after()
        {
            None => Ok(()),
            Some(wait) => Err(wait.as_nanos() as u64),
        }
    });

    let clock = Arc::new(ManualClock::new());
    let log = SlidingWindowLog::new(limit, WINDOW).with_clock(clock.clone());
    measure(group, "throttle_net_log", kind, limit, || {
        clock.advance(black_box(pause));
        yes_or_no(log.try_acquire_with_cost(black_box(1)))
    });

    let clock = Arc::new(ManualClock::new());
    let budget = |units| Throttle::per_duration(units, WINDOW).with_clock(clock.clone());
    let several = MultiLimiter::builder()
        .dimension("requests", budget(limit))
        .dimension("tokens", budget(limit * 1_000))
        .build();
    measure(group, "throttle_net_two_limits", kind, limit, || {
        clock.advance(black_box(pause));
        let costs = black_box([("requests", 1), ("tokens", 1_000)]);
        yes_or_no(several.try_acquire_costs(&costs))
    });

    let log = MutexLog::new(limit, WINDOW);
    let mut now = 0;
    measure(group, "mutex_log", kind, limit, || {
        now += step;
        yes_or_no(log.try_acquire(black_box(now)))
    });
}

fn decisions(c: &mut Criterion) {
    for kind in [Kind::Admit, Kind::Refuse] {
        for limit in LIMITS {
            let mut group = c.benchmark_group(format!("decision/{}/{limit}", kind.name()));
            let step = kind.step(limit);
            let mut now = 0;
            measure(&mut group, "floor", kind, limit, || {
                now += step;
                black_box(Tick::from_nanos(now));
                yes_or_no(matches!(kind, Kind::Admit))
            });
            all_of_ours(&mut group, kind, limit);
            governors(&mut group, kind, limit);
            other_peers(&mut group, kind, limit);
            group.finish();
        }
    }
}

fn flatness(c: &mut Criterion) {
    for kind in [Kind::Admit, Kind::Refuse] {
        let mut group = c.benchmark_group(format!("flat/{}", kind.name()));
        for limit in [3, 10_000, 1_000_000] {
            ours(
                &mut group,
                &limit.to_string(),
                kind,
                limit,
                exact_log(limit),
            );
        }
        group.finish();
    }
}

fn locked<L: Limit>(group: &mut Group, name: &str, kind: Kind, limit: u32, machine: L) {
    let machine = Mutex::new(machine);
    let epoch = instant();
    measure(group, name, kind, limit, || {
        let now = Tick::ZERO.saturating_add(instant().duration_since(epoch));
        let mut machine = machine.lock().expect("no panic while locked");
        answer(machine.try_acquire(now, black_box(1)))
    });
}

/// Measures lock and clock alone.
fn locked_floor(group: &mut Group, kind: Kind, limit: u32) {
    let (admitted, epoch) = (Mutex::new(matches!(kind, Kind::Admit)), instant());
    measure(group, "floor", kind, limit, || {
        black_box(Tick::ZERO.saturating_add(instant().duration_since(epoch)));
        yes_or_no(*admitted.lock().expect("no panic while locked"))
    });
}

fn with_lock_and_clock(c: &mut Criterion) {
    for (kind, limit, window) in [
        // One unit per 12 ns, faster than any of these loops asks.
        (Kind::Admit, 100, Duration::from_nanos(1_200)),
        (Kind::Admit, 10_000, Duration::from_micros(120)),
        (Kind::Refuse, 3, Duration::from_secs(36_000)),
        (Kind::Refuse, 10_000, Duration::from_secs(36_000_000)),
    ] {
        let mut group = c.benchmark_group(format!("locked/{}/{limit}", kind.name()));
        let units = count(limit);
        locked_floor(&mut group, kind, limit);

        let log = SlidingLog::new(units, window, Anchor::Grant).expect("a sound limit");
        locked(&mut group, "sliding_log", kind, limit, log);
        let buckets = BucketedWindow::<[u32; 7]>::inline(units, window, Anchor::Grant);
        let buckets = buckets.expect("the buckets are even");
        locked(&mut group, "bucketed_window", kind, limit, buckets);
        let bucket = TokenBucket::new(units, window, units).expect("a sound limit");
        locked(&mut group, "token_bucket", kind, limit, bucket);
        let gcra = Gcra::new(units, window, units).expect("a sound limit");
        locked(&mut group, "gcra", kind, limit, gcra);

        let direct = RateLimiter::direct(quota(limit, window));
        let start = direct.clock().now();
        measure(&mut group, "governor", kind, limit, || {
            direct
                .check()
                .map_err(|until| until.wait_time_from(start).as_nanos() as u64)
        });

        let bucket = Ratelimiter::builder(limit.into()).period(window);
        let bucket = bucket.initial_available(limit.into()).build();
        let bucket = bucket.expect("a sound limit");
        measure(&mut group, "ratelimit", kind, limit, || {
            of_ratelimit(bucket.try_wait())
        });

        let log = Mutex::new(VecDeque::<Instant>::new());
        measure(&mut group, "mutex_log", kind, limit, || {
            let now = instant();
            let mut log = log.lock().expect("no panic while locked");
            while log
                .front()
                .is_some_and(|oldest| now.duration_since(*oldest) >= window)
            {
                log.pop_front();
            }
            let fits = log.len() < limit as usize;
            if fits {
                log.push_back(now);
            }
            yes_or_no(fits)
        });
        group.finish();
    }
}

fn config() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(150))
        .measurement_time(Duration::from_millis(500))
        .without_plots()
}

criterion_group! {
    name = benches;
    config = config();
    targets = decisions, flatness, with_lock_and_clock
}
criterion_main!(benches);
