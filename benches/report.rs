//! One simulated hour of each algorithm under the same load: admissions, breaches of the limit, waits; then memory.
//!
//! Requests queue in order of arrival, and each is admitted as soon as the algorithm allows. The optimum counts the
//! admissions that the exact sliding window allows, found by brute force without the library; an algorithm above it
//! breaks the limit. Exits with an error if one of ours breaks a promise. All loads are drawn from one seed.

mod peers;

use better_bucket::{BucketConfig, BucketCore};
use core::num::NonZeroU32;
use core::time::Duration;
use governor::clock::FakeRelativeClock;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use leasehold_core::limit::{
    Anchor, BucketedWindow, FixedWindow, Gcra, Limit, Pacing, SlidingCounter, SlidingLog,
    TokenBucket, Wait,
};
use leasehold_core::time::Tick;
use peers::{Counter, MutexLog};
use ratelimit::{Ratelimiter, TryWaitError};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::process::ExitCode;
use std::sync::Arc;
use throttle_net::{Limiter, ManualClock, SlidingWindowLog};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SECOND: u64 = 1_000_000_000;
const WINDOW: u64 = 60 * SECOND;
const HOUR: u64 = 3_600 * SECOND;
const SEED: u64 = 7;

/// Decides a request at a nanosecond; a refusal names the one at which to ask again.
type Ask = Box<dyn FnMut(u64) -> Result<(), u64>>;

struct Row {
    name: &'static str,
    ask: Ask,
    /// The most units it states for a window.
    worst_case: Option<u64>,
    promise: Promise,
    bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Promise {
    /// Admits each request at the tick the exact window allows.
    Exact,
    /// Never above the limit in any window.
    Limit,
    /// No promise for windows.
    Nothing,
}

fn count(limit: u32) -> NonZeroU32 {
    NonZeroU32::new(limit).expect("a limit above zero")
}

/// Bytes of a value, heap included, that `make` builds and `fill` uses up to its limit.
fn bytes<T>(make: impl FnOnce() -> T, fill: impl FnOnce(&mut T)) -> usize {
    let region = Region::new(ALLOCATOR);
    let mut value = make();
    fill(&mut value);
    let change = region.change();
    size_of::<T>() + change.bytes_allocated - change.bytes_deallocated
}

fn ours<L: Limit + 'static>(
    name: &'static str,
    promise: Promise,
    limit: u32,
    make: impl Fn() -> L,
) -> Row {
    let mut machine = make();
    let worst_case = machine.worst_case(Duration::from_nanos(WINDOW));
    let bytes = bytes(make, |machine| {
        for nanos in 0..limit.into() {
            let _ = machine.try_acquire(Tick::from_nanos(nanos), 1);
        }
    });
    let ask = move |now| {
        let asked = machine.try_acquire(Tick::from_nanos(now), 1);
        asked.map(drop).map_err(|wait| match wait {
            Wait::Until(tick) => tick.as_nanos(),
            Wait::ForSettlement | Wait::Never => panic!("one unit fits eventually"),
        })
    };
    Row {
        name,
        ask: Box::new(ask),
        worst_case: Some(worst_case),
        promise,
        bytes,
    }
}

fn all_of_ours(limit: u32) -> Vec<Row> {
    let (units, one, window) = (count(limit), count(1), Duration::from_nanos(WINDOW));
    vec![
        ours("sliding log (exact)", Promise::Exact, limit, || {
            SlidingLog::new(units, window, Anchor::Grant).expect("a sound limit")
        }),
        ours(
            "bucketed window, 6 buckets",
            Promise::Limit,
            limit,
            move || {
                BucketedWindow::<[u32; 7]>::inline(units, window, Anchor::Grant)
                    .expect("a sound limit")
            },
        ),
        ours(
            "bucketed window, 60 buckets",
            Promise::Limit,
            limit,
            move || {
                BucketedWindow::<[u32; 61]>::inline(units, window, Anchor::Grant)
                    .expect("a sound limit")
            },
        ),
        ours("uniform pacing", Promise::Limit, limit, || {
            Pacing::new(units, window).expect("a sound limit")
        }),
        ours("GCRA, burst 1", Promise::Limit, limit, || {
            Gcra::new(units, window, one).expect("a sound limit")
        }),
        ours("GCRA, burst = limit", Promise::Nothing, limit, || {
            Gcra::new(units, window, units).expect("a sound limit")
        }),
        ours(
            "token bucket, burst = limit",
            Promise::Nothing,
            limit,
            || TokenBucket::new(units, window, units).expect("a sound limit"),
        ),
        ours("sliding counter", Promise::Nothing, limit, || {
            SlidingCounter::new(units, window).expect("a sound limit")
        }),
        ours("fixed window", Promise::Nothing, limit, || {
            FixedWindow::new(units, window).expect("a sound limit")
        }),
    ]
}

fn quota(limit: u32) -> Quota {
    Quota::with_period(Duration::from_nanos(WINDOW) / limit)
        .expect("the window has a length")
        .allow_burst(count(limit))
}

fn after(now: u64, wait: Duration) -> u64 {
    now + wait.as_nanos() as u64
}

fn governor(limit: u32) -> Row {
    let clock = FakeRelativeClock::default();
    let direct = RateLimiter::direct_with_clock(quota(limit), clock.clone());
    let mut shown = 0;
    let ask = move |now: u64| {
        clock.advance(Duration::from_nanos(now - shown));
        shown = now;
        let refused = |until: governor::NotUntil<_>| after(now, until.wait_time_from(now.into()));
        direct.check().map_err(refused)
    };
    peer("governor", ask, || RateLimiter::direct(quota(limit)))
}

fn ratelimit(limit: u32) -> Row {
    let clock = Counter::default();
    let of_clock = |clock| {
        ratelimit::Builder::with_clock(limit.into(), clock)
            .period(Duration::from_nanos(WINDOW))
            .initial_available(limit.into())
            .build()
            .expect("a sound limit")
    };
    let bucket = of_clock(clock.clone());
    let ask = move |now| {
        clock.set(now);
        bucket.try_wait().map_err(|refusal| {
            let TryWaitError::Insufficient(wait) = refusal else {
                panic!("one unit fits eventually");
            };
            after(now, wait)
        })
    };
    peer("ratelimit", ask, || {
        Ratelimiter::builder(limit.into())
            .build()
            .expect("a sound limit")
    })
}

fn better_bucket(limit: u32) -> Row {
    let window = Duration::from_nanos(WINDOW);
    let config = BucketConfig::new(limit, limit, window, limit).expect("a sound limit");
    let bucket = BucketCore::new(config, Duration::ZERO);
    let ask = move |now| {
        let decision = bucket.acquire_at(1, Duration::from_nanos(now));
        match decision.retry_after() {
            Some(wait) => Err(after(now, wait)),
            None => Ok(()),
        }
    };
    peer("better-bucket", ask, || {
        BucketCore::new(config, Duration::ZERO)
    })
}

fn throttle_net(limit: u32) -> Row {
    let window = Duration::from_nanos(WINDOW);
    let clock = Arc::new(ManualClock::new());
    let log = SlidingWindowLog::new(limit, window).with_clock(clock.clone());
    let ask = move |now| {
        clock.advance_to(Duration::from_nanos(now));
        let decision = Limiter::acquire_cost(&log, 1);
        if decision.is_acquired() {
            return Ok(());
        }
        let wait = decision.retry_after();
        Err(after(now, wait.expect("one unit fits eventually")))
    };
    let mut row = peer("throttle-net, exact log", ask, || ());
    row.bytes = bytes(
        || SlidingWindowLog::new(limit, window),
        |log| while log.try_acquire() {},
    );
    row
}

fn peer<T>(
    name: &'static str,
    ask: impl FnMut(u64) -> Result<(), u64> + 'static,
    make: impl FnOnce() -> T,
) -> Row {
    Row {
        name,
        ask: Box::new(ask),
        worst_case: None,
        promise: Promise::Nothing,
        bytes: bytes(make, |_| ()),
    }
}

/// Six buckets of ten seconds, with a bug: new calls go to the oldest bucket, which is dropped next.
#[derive(Default)]
struct BucketCounter {
    buckets: [u32; 6],
    shifted: u64,
}

impl BucketCounter {
    const WIDTH: u64 = WINDOW / 6;

    fn ask(&mut self, now: u64, limit: u32) -> Result<(), u64> {
        let steps = (now - self.shifted) / Self::WIDTH;
        self.shifted += steps * Self::WIDTH;
        for _ in 0..steps.min(6) {
            self.buckets.rotate_left(1);
            self.buckets[5] = 0;
        }
        if self.buckets.iter().sum::<u32>() >= limit {
            return Err(self.shifted + Self::WIDTH);
        }
        self.buckets[0] += 1;
        Ok(())
    }
}

fn bucket_counter(limit: u32) -> Row {
    let mut counter = BucketCounter::default();
    let ask = move |now| counter.ask(now, limit);
    let name = "bucket counter of the earlier system";
    peer(name, ask, BucketCounter::default)
}

/// The admission of each request, in order of arrival.
fn serve(arrivals: &[u64], ask: &mut Ask) -> Vec<u64> {
    let mut now = 0;
    let mut admitted = Vec::with_capacity(arrivals.len());
    for arrival in arrivals {
        now = now.max(*arrival);
        while let Err(again) = ask(now) {
            assert!(again > now, "a refusal names a later time");
            now = again;
        }
        admitted.push(now);
    }
    admitted
}

/// The earliest admissions that the exact window allows. Each request is tried at every time at which an admission
/// leaves the window.
fn optimum(arrivals: &[u64], limit: u32) -> Vec<u64> {
    let mut admitted: Vec<u64> = Vec::with_capacity(arrivals.len());
    for arrival in arrivals {
        let first = admitted.last().map_or(*arrival, |last| *arrival.max(last));
        let leaving = admitted.iter().map(|time| time + WINDOW);
        let times = core::iter::once(first).chain(leaving.filter(|time| *time > first));
        let fits = |time: &u64| {
            let counts = admitted.iter().rev().take_while(|t| **t + WINDOW > *time);
            counts.count() < limit as usize
        };
        let earliest = times.into_iter().find(fits);
        admitted.push(earliest.expect("the last leaves at some time"));
    }
    admitted
}

fn largest_in_a_window(admitted: &[u64]) -> usize {
    let from = |(index, start): (usize, &u64)| {
        let rest = admitted[index..].iter();
        rest.take_while(|time| **time < start + WINDOW).count()
    };
    admitted.iter().enumerate().map(from).max().unwrap_or(0)
}

fn within_the_hour(admitted: &[u64]) -> usize {
    admitted.iter().filter(|time| **time < HOUR).count()
}

/// Evenly spaced requests, 5 % above the limit.
fn steady(limit: u32) -> Vec<u64> {
    let gap = WINDOW * 20 / 21 / u64::from(limit);
    (0..).map(|i| i * gap).take_while(|t| *t < HOUR).collect()
}

/// Bursts of up to four limits within a second, one to six windows apart: about 70 % of the limit.
fn bursts(limit: u32) -> Vec<u64> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut arrivals = Vec::new();
    let mut start = 0;
    loop {
        start += random.u64(WINDOW..6 * WINDOW);
        if start + SECOND >= HOUR {
            break;
        }
        let size = random.u32(limit..=4 * limit);
        arrivals.extend((0..size).map(|_| start + random.u64(0..SECOND)));
    }
    arrivals.sort_unstable();
    arrivals
}

/// Every eight windows, seven limits in the last nanosecond of an aligned window. The pause before lets bursts fill up.
fn worst_aligned(limit: u32) -> Vec<u64> {
    let at = |burst: u64| (1 + 8 * burst) * WINDOW - 1;
    let times = (0..).map(at).take_while(|time| *time < HOUR);
    times
        .flat_map(|time| core::iter::repeat_n(time, 7 * limit as usize))
        .collect()
}

fn seconds(nanos: u128) -> String {
    format!("{:.1} s", nanos as f64 / SECOND as f64)
}

/// Prints the rows of one load and counts broken promises.
fn table(load: &str, arrivals: &[u64], limit: u32) -> usize {
    println!("\n{load}: {} requests.\n", arrivals.len());
    println!(
        "| Algorithm | Admitted | Of the optimum | Most in any 60 s | Mean wait | p99 wait | Bytes per key |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let best = optimum(arrivals, limit);
    let mut rows = all_of_ours(limit);
    let peers = [governor, ratelimit, better_bucket, throttle_net];
    rows.extend(peers.map(|peer| peer(limit)));
    rows.push(bucket_counter(limit));
    let mut broken = 0;
    for mut row in rows {
        let admitted = serve(arrivals, &mut row.ask);
        let most = largest_in_a_window(&admitted);
        let mut waits: Vec<u64> = admitted.iter().zip(arrivals).map(|(t, a)| t - a).collect();
        waits.sort_unstable();
        let sum: u128 = waits.iter().map(|wait| u128::from(*wait)).sum();
        let rank = (waits.len() * 99).div_ceil(100) - 1;
        let done = within_the_hour(&admitted);
        let over = if most > limit as usize {
            format!("**{most}**")
        } else {
            most.to_string()
        };
        println!(
            "| {} | {done} | {:.1} % | {over} | {} | {} | {} |",
            row.name,
            100.0 * done as f64 / within_the_hour(&best) as f64,
            seconds(sum / waits.len() as u128),
            seconds(waits[rank].into()),
            row.bytes,
        );
        let kept = match row.promise {
            Promise::Exact => admitted == best && most <= limit as usize,
            Promise::Limit => most <= limit as usize,
            Promise::Nothing => true,
        };
        let stated = row.worst_case.is_none_or(|worst| most as u64 <= worst);
        if !kept || !stated {
            eprintln!("{}: {most} in a window at a limit of {limit}", row.name);
            broken += 1;
        }
    }
    broken
}

/// Bytes per key in a table of many keys.
fn governor_keyed(limit: u32) -> usize {
    const KEYS: usize = 100_000;
    let fill = |keyed: &mut DefaultKeyedRateLimiter<u64>| {
        for key in 0..KEYS as u64 {
            let _ = keyed.check_key_n(&key, count(limit));
        }
    };
    bytes(|| RateLimiter::keyed(quota(limit)), fill) / KEYS
}

fn memory() {
    const LIMITS: [u32; 3] = [3, 100, 10_000];
    println!("\n## Bytes per key with its limit used up\n");
    println!("| Algorithm | 3 | 100 | 10,000 |");
    println!("|---|---:|---:|---:|");
    let line = |name: &str, bytes: [usize; 3]| {
        println!("| {name} | {} | {} | {} |", bytes[0], bytes[1], bytes[2]);
    };
    let tables = LIMITS.map(all_of_ours);
    for (index, row) in tables[0].iter().enumerate() {
        let column = |table: usize| tables[table][index].bytes;
        line(row.name, [column(0), column(1), column(2)]);
    }
    line("governor", LIMITS.map(|limit| governor(limit).bytes));
    line("governor, keyed, 100,000 keys", LIMITS.map(governor_keyed));
    line("ratelimit", LIMITS.map(|limit| ratelimit(limit).bytes));
    line(
        "better-bucket",
        LIMITS.map(|limit| better_bucket(limit).bytes),
    );
    line(
        "throttle-net, exact log",
        LIMITS.map(|limit| throttle_net(limit).bytes),
    );
    let log = |limit: u32| {
        let fill = |log: &mut MutexLog| {
            for now in 0..u64::from(limit) {
                log.try_acquire(now);
            }
        };
        bytes(|| MutexLog::new(limit, Duration::from_nanos(WINDOW)), fill)
    };
    line("`Mutex<VecDeque<u64>>`", LIMITS.map(log));
}

fn main() -> ExitCode {
    let mut broken = 0;
    for limit in [3, 100] {
        println!("\n## {limit} per 60 s, for an hour");
        broken += table("Steady, 5 % above the limit", &steady(limit), limit);
        broken += table("Bursts of up to four limits", &bursts(limit), limit);
        broken += table("Worst aligned", &worst_aligned(limit), limit);
    }
    memory();
    if broken > 0 {
        eprintln!("{broken} promises broken");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
