//! Cost of sharing four permits between threads, beside `notify_all` and a crossbeam channel.
//!
//! `acquire_release/<threads>/<pool>` is one acquire and release, by all threads at once. `hand_over` is the time
//! from a release in one thread to the return of `acquire` in another, which is asleep (`parked`) or still spins
//! (`spinning`), while the first one goes on running.
//!
//! First, and with `-- --test` too, a table is printed: voluntary context switches per lease, and the CPU time of
//! idle waiters. It is an error if either is above its bound.

use core::hint::black_box;
use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use crossbeam_channel::{Receiver, Sender, bounded};
use leasehold_core::balance::Policy;
use leasehold_core::limit::{Anchor, SlidingLog};
use leasehold_core::pool::{Member, PoolConfig};
use leasehold_core::time::Tick;
use leasehold_sync::{Clock, Lease, SyncPool};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::collections::VecDeque;
use std::sync::{Barrier, Condvar, Mutex};
use std::thread;

const PERMITS: u32 = 4;

/// A pool of permits; dropping a lease returns its permit.
trait Permits: Sync {
    const NAME: &'static str;
    type Lease<'a>
    where
        Self: 'a;

    fn new(permits: u32) -> Self;

    fn lease(&self) -> Self::Lease<'_>;
}

/// The baseline: a queue of permits, and a `notify_all` for each that is returned.
struct NotifyAll {
    free: Mutex<VecDeque<u32>>,
    returned: Condvar,
}

impl Permits for NotifyAll {
    const NAME: &'static str = "notify_all";
    type Lease<'a> = NotifyAllLease<'a>;

    fn new(permits: u32) -> Self {
        Self {
            free: Mutex::new((0..permits).collect()),
            returned: Condvar::new(),
        }
    }

    fn lease(&self) -> NotifyAllLease<'_> {
        let free = self.free.lock().expect("no thread panics");
        let wait = self.returned.wait_while(free, |free| free.is_empty());
        let permit = wait.expect("no thread panics").pop_front();
        NotifyAllLease(self, permit)
    }
}

struct NotifyAllLease<'a>(&'a NotifyAll, Option<u32>);

impl Drop for NotifyAllLease<'_> {
    fn drop(&mut self) {
        self.0.free.lock().expect("no thread panics").extend(self.1);
        self.0.returned.notify_all();
    }
}

/// A bounded channel of permits.
struct Channel(Sender<u32>, Receiver<u32>);

impl Permits for Channel {
    const NAME: &'static str = "crossbeam_channel";
    type Lease<'a> = ChannelLease<'a>;

    fn new(permits: u32) -> Self {
        let (put, take) = bounded(permits as usize);
        (0..permits).for_each(|permit| put.send(permit).expect("the channel has room"));
        Self(put, take)
    }

    fn lease(&self) -> ChannelLease<'_> {
        ChannelLease(&self.0, self.1.recv().expect("the channel is open"))
    }
}

struct ChannelLease<'a>(&'a Sender<u32>, u32);

impl Drop for ChannelLease<'_> {
    fn drop(&mut self) {
        self.0.send(self.1).expect("the channel is open");
    }
}

impl Permits for SyncPool<u32> {
    const NAME: &'static str = "leasehold";
    type Lease<'a> = Lease<u32>;

    fn new(permits: u32) -> Self {
        let pool = Self::new(PoolConfig::new(Policy::Fifo));
        for permit in 0..permits {
            let member = Member::new(permit).max_leases(NonZeroU32::MIN);
            pool.add(member).expect("a small pool takes members");
        }
        pool
    }

    fn lease(&self) -> Lease<u32> {
        self.acquire().expect("the pool is open")
    }
}

/// The time that `threads` threads take for `leases` leases together, each held for one `call`.
fn share<P: Permits>(permits: &P, threads: usize, leases: u64, call: impl Fn() + Sync) -> Duration {
    let (ready, done) = (Barrier::new(threads + 1), Barrier::new(threads + 1));
    let each = leases.div_ceil(threads as u64);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                ready.wait();
                for _ in 0..each {
                    let lease = permits.lease();
                    call();
                    drop(black_box(lease));
                }
                done.wait();
            });
        }
        ready.wait();
        let clock = Clock::start();
        done.wait();
        clock.now().since(Tick::ZERO)
    })
}

fn acquire_release(c: &mut Criterion) {
    for threads in [1, 2, 8, 64] {
        let mut group = c.benchmark_group(format!("acquire_release/{threads}"));
        group.sample_size(20);
        bench::<SyncPool<u32>>(&mut group, threads);
        bench::<Channel>(&mut group, threads);
        bench::<NotifyAll>(&mut group, threads);
        group.finish();
    }

    fn bench<P: Permits>(
        group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
        threads: usize,
    ) {
        let permits = P::new(PERMITS);
        group.bench_function(BenchmarkId::from_parameter(P::NAME), |b| {
            b.iter_custom(|leases| share(&permits, threads, leases, || ()));
        });
    }
}

/// Time from a release in one thread to the return of `lease` in the other, added up over `times` turns.
///
/// Each thread holds the permit for `pause`, while the other waits for it. After its release it goes on running,
/// and asks again only when the other has the permit.
fn hand_over<P: Permits>(times: u64, pause: Duration) -> Duration {
    let pool = P::new(1);
    let (clock, ready) = (Clock::start(), Barrier::new(2));
    let now = || clock.now().as_nanos();
    let (taken, released, total) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let take_turns = |first: u64| {
        for turn in (first..=times).step_by(2) {
            // Wait until the other thread has taken the permit of the turn before.
            while taken.load(Ordering::Acquire) + 1 < turn {
                thread::yield_now();
            }
            let lease = pool.lease();
            if turn > 0 {
                total.fetch_add(now() - released.load(Ordering::Acquire), Ordering::Relaxed);
            } else {
                ready.wait();
            }
            taken.store(turn, Ordering::Release);
            spin(pause);
            released.store(now(), Ordering::Release);
            drop(lease);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            ready.wait();
            take_turns(1);
        });
        take_turns(0);
    });
    Duration::from_nanos(total.into_inner())
}

fn spin(pause: Duration) {
    let clock = Clock::start();
    while clock.now().since(Tick::ZERO) < pause {
        core::hint::spin_loop();
    }
}

fn hand_overs(c: &mut Criterion) {
    let pauses = [
        ("parked", Duration::from_micros(200)),
        ("spinning", Duration::from_micros(2)),
    ];
    for (name, pause) in pauses {
        let mut group = c.benchmark_group(format!("hand_over/{name}"));
        group.sample_size(20);
        group.bench_function(<SyncPool<u32>>::NAME, |b| {
            b.iter_custom(|times| hand_over::<SyncPool<u32>>(times, pause));
        });
        group.bench_function(Channel::NAME, |b| {
            b.iter_custom(|times| hand_over::<Channel>(times, pause));
        });
        group.finish();
    }
}

fn usage() -> Usage {
    getrusage(UsageWho::RUSAGE_SELF).expect("a process may read its own usage")
}

fn cpu(usage: &Usage) -> Duration {
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.unsigned_abs())
}

/// Voluntary context switches per lease, less the one of its holder, which sleeps while it holds the lease.
fn switches<P: Permits>(threads: usize, leases: u64) -> f64 {
    let permits = P::new(PERMITS);
    let before = usage().voluntary_context_switches();
    let call = || thread::sleep(Duration::from_micros(200));
    share(&permits, threads, leases, call);
    let after = usage().voluntary_context_switches();
    (after - before) as f64 / leases as f64 - 1.0
}

/// Share of one CPU that `waiters` threads use while they wait for a window to open.
fn idle_waiters(waiters: usize) -> f64 {
    const SPAN: Duration = Duration::from_secs(5);
    let pool = SyncPool::<u32>::new(PoolConfig::new(Policy::Fifo));
    let hour = Duration::from_secs(3_600);
    let log = SlidingLog::new(NonZeroU32::MIN, hour, Anchor::Grant).expect("an hour is a window");
    let key = pool.add(Member::new(0).limit(log));
    key.expect("a small pool takes members");
    drop(pool.acquire().expect("the first call is within the limit"));
    thread::scope(|scope| {
        for _ in 0..waiters {
            scope.spawn(|| pool.acquire().expect_err("the window opens in an hour"));
        }
        while (pool.stats().waiting.waiting as usize) < waiters {
            thread::yield_now();
        }
        let before = cpu(&usage());
        thread::sleep(SPAN);
        let used = cpu(&usage()) - before;
        pool.close();
        used.as_secs_f64() / SPAN.as_secs_f64()
    })
}

fn promises(_: &mut Criterion) {
    const LEASES: u64 = 6_400;
    println!("voluntary context switches per lease, 64 threads on {PERMITS} permits:");
    let ours = switches::<SyncPool<u32>>(64, LEASES);
    let channel = switches::<Channel>(64, LEASES);
    let notify_all = switches::<NotifyAll>(64, LEASES);
    println!("  leasehold {ours:.2}, crossbeam_channel {channel:.2}, notify_all {notify_all:.2}");
    let idle = idle_waiters(1_000);
    println!(
        "CPU time of 1,000 idle waiters: {:.3} % of one core",
        idle * 100.0
    );
    assert!(
        ours <= 1.2,
        "a hand-over wakes more than one thread: {ours:.2} switches per lease"
    );
    assert!(
        idle < 0.005,
        "idle waiters use CPU time: {idle:.4} of a core"
    );
}

criterion_group!(benches, promises, acquire_release, hand_overs);
criterion_main!(benches);
