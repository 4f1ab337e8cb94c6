//! Stress test: threads use a pool in every way, and their own logs are checked against its figures and limits.
//!
//! It runs for `LEASEHOLD_STRESS_SECONDS`, 5 by default, and prints its seed; `LEASEHOLD_STRESS_SEED` repeats it.

use core::num::NonZeroU32;
use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use fastrand::Rng;
use leasehold_core::balance::Policy;
use leasehold_core::limit::{Anchor, SlidingLog};
use leasehold_core::pool::stats::Stats;
use leasehold_core::pool::{Member, Outcome, PoolConfig, Request};
use leasehold_core::time::Tick;
use leasehold_sync::{AcquireError, CancelHandle, Clock, Lease, PendingLease, SyncPool};
use std::panic::{catch_unwind, panic_any};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

const THREADS: u64 = 8;
const MEMBERS: u32 = 3;
/// Most leases on a member at once.
const MAX_LEASES: u32 = 2;
/// Most calls on a member in a window.
const LIMIT: u32 = 12;
const WINDOW: Duration = Duration::from_millis(4);
const TTL: Duration = Duration::from_millis(15);
/// Time after which a thread that has not ended is taken for stuck.
const PATIENCE: Duration = Duration::from_secs(20);
const POISON: &str = "no thread panics while it holds the lock";

/// A call, as logged by the thread that made it.
#[derive(Clone, Copy)]
struct Call {
    member: u32,
    /// A tick soon after the grant.
    from: Tick,
    /// A tick shortly before the end. Neither is after the lease's expiry, though a thread that stands still reads the
    /// clock later: what it does then is no call of this lease's.
    to: Tick,
    ended: Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Ok,
    Failed,
    Throttled,
    NotSent,
    /// Forgotten, or held for too long.
    Expired,
    /// Dropped in a panic, or expired before it.
    Panicked,
}

#[derive(Default)]
struct Log {
    calls: Vec<Call>,
    refused: u64,
    timed_out: u64,
    cancelled: u64,
    dropped: u64,
}

struct World {
    pool: SyncPool<u32>,
    cancel_handles: Mutex<Vec<CancelHandle<u32>>>,
    cancels: AtomicU64,
}

struct Worker<'a> {
    world: &'a World,
    random: Rng,
    log: Log,
}

fn new_world() -> World {
    let config = PoolConfig::builder(Policy::Fifo).lease_ttl(TTL);
    let pool = SyncPool::new(config.build().expect("the time to live is above zero"));
    let limit = NonZeroU32::new(LIMIT).expect("the limit is above zero");
    let max_leases = NonZeroU32::new(MAX_LEASES).expect("the limit is above zero");
    for name in 0..MEMBERS {
        let log = SlidingLog::new(limit, WINDOW, Anchor::Completion);
        let log = log.expect("the window is above zero");
        let member = Member::new(name).max_leases(max_leases).limit(log);
        pool.add(member).expect("a small pool takes members");
    }
    World {
        pool,
        cancel_handles: Mutex::new(Vec::new()),
        cancels: AtomicU64::new(0),
    }
}

impl Worker<'_> {
    /// Makes calls until the pool is closed.
    fn work(&mut self) {
        loop {
            let taken = match self.random.u8(..12) {
                0..=2 => self.world.pool.acquire(),
                3..=5 => self.acquire_timeout(),
                6 => self.world.pool.try_acquire(),
                7 => self.drop_request(),
                8 | 9 => self.acquire_cancellable(),
                _ => {
                    self.cancel_one();
                    continue;
                }
            };
            match taken {
                Ok(lease) => self.hold(lease),
                Err(AcquireError::Closed) => return,
                Err(AcquireError::TimedOut { .. }) => self.log.timed_out += 1,
                Err(AcquireError::Cancelled) => self.log.cancelled += 1,
                Err(AcquireError::NotReady { .. } | AcquireError::DeadlineTooSoon { .. }) => {
                    self.log.refused += 1;
                }
                Err(
                    refused @ (AcquireError::QueueFull { .. }
                    | AcquireError::NeverFits
                    | AcquireError::PinnedMemberRemoved
                    | AcquireError::FlowQueueFull { .. }
                    | AcquireError::ForeignLabels
                    | AcquireError::TooManyLanes),
                ) => panic!("{refused}"),
            }
        }
    }

    fn acquire_timeout(&mut self) -> Result<Lease<u32>, AcquireError> {
        let timeout = Duration::from_micros(self.random.u64(..3_000));
        self.world.pool.acquire_timeout(timeout)
    }

    /// Drops a request, at once or while leases are released; the answer is that of another request.
    fn drop_request(&mut self) -> Result<Lease<u32>, AcquireError> {
        let pending = self.world.pool.enqueue(Request::new())?;
        self.pause();
        drop(pending);
        self.log.dropped += 1;
        self.world.pool.try_acquire()
    }

    fn acquire_cancellable(&mut self) -> Result<Lease<u32>, AcquireError> {
        let pending = self.world.pool.enqueue(Request::new())?;
        let mut cancel_handles = self.world.cancel_handles.lock().expect(POISON);
        cancel_handles.push(pending.cancel_handle());
        drop(cancel_handles);
        PendingLease::wait(pending)
    }

    fn cancel_one(&mut self) {
        self.pause();
        let mut cancel_handles = self.world.cancel_handles.lock().expect(POISON);
        let cancel_handle = cancel_handles.pop();
        drop(cancel_handles);
        if cancel_handle.is_some_and(|cancel_handle| cancel_handle.cancel()) {
            self.world.cancels.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn hold(&mut self, lease: Lease<u32>) {
        let expires = lease.expires().expect("the pool's leases expire");
        let from = self.world.pool.now().min(expires);
        let member = *lease;
        self.pause();
        let to = self.world.pool.now().min(expires);
        let (ended, in_time) = match self.random.u8(..48) {
            0 => {
                core::mem::forget(lease);
                (Ended::Expired, true)
            }
            1 => {
                let panicked = catch_unwind(AssertUnwindSafe(|| {
                    let _lease = lease;
                    panic_any("a worker that dies");
                }));
                assert!(panicked.is_err());
                (Ended::Panicked, true)
            }
            2..=7 => (Ended::Failed, lease.release(Outcome::Failed).is_ok()),
            8..=13 => {
                let pause = Duration::from_micros(self.random.u64(..500));
                (Ended::Throttled, lease.release_throttled(pause).is_ok())
            }
            14..=19 => (Ended::NotSent, lease.release(Outcome::NotSent).is_ok()),
            20..=25 => {
                // It has expired only if the machine stood still.
                let renewed = lease.renew().is_ok();
                (Ended::Ok, lease.release(Outcome::Ok).is_ok() && renewed)
            }
            _ => (Ended::Ok, lease.release(Outcome::Ok).is_ok()),
        };
        let ended = if in_time { ended } else { Ended::Expired };
        self.log.calls.push(Call {
            member,
            from,
            to,
            ended,
        });
    }

    fn pause(&mut self) {
        match self.random.u8(..4) {
            0 => {}
            1 => thread::yield_now(),
            2 => (0..self.random.u32(..2_000)).for_each(|_| core::hint::spin_loop()),
            _ => thread::sleep(Duration::from_micros(self.random.u64(..200))),
        }
    }
}

/// Uses a pool for `span`, closes it, and checks what happened; returns the number of leases.
fn epoch(seed: u64, span: Duration) -> u64 {
    let world = Arc::new(new_world());
    let (done, ends) = mpsc::channel();
    for thread in 0..THREADS {
        let (world, done) = (Arc::clone(&world), done.clone());
        thread::spawn(move || {
            let mut worker = Worker {
                world: &world,
                random: Rng::with_seed(seed.wrapping_mul(THREADS).wrapping_add(thread)),
                log: Log::default(),
            };
            worker.work();
            done.send(worker.log).expect("the checker waits");
        });
    }
    // So that a worker that ends without a log is an error at once.
    drop(done);
    thread::sleep(span);
    world.pool.close();
    let mut all = Log::default();
    for _ in 0..THREADS {
        let log = ends.recv_timeout(PATIENCE);
        let mut log = log.expect("a thread is stuck or has failed");
        all.calls.append(&mut log.calls);
        all.refused += log.refused;
        all.timed_out += log.timed_out;
        all.cancelled += log.cancelled;
        all.dropped += log.dropped;
    }
    thread::sleep(TTL);
    // A command runs due timers, which ends expired leases.
    assert!(matches!(
        world.pool.try_acquire(),
        Err(AcquireError::Closed)
    ));
    assert!(world.pool.explain(&Request::new()).len() == MEMBERS as usize);
    check(
        &all,
        &world.pool.stats(),
        world.cancels.load(Ordering::Relaxed),
    );
    all.calls.len() as u64
}

fn check(log: &Log, stats: &Stats, cancels: u64) {
    let count = |ended: Ended| log.calls.iter().filter(|call| call.ended == ended).count() as u64;
    let total = stats.total;
    // Each lease ended exactly once, as its thread logged it.
    assert_eq!(total.ok, count(Ended::Ok));
    assert_eq!(total.throttled, count(Ended::Throttled));
    // Grants to dropped requests were released, or expired before that.
    let dropped = total.granted - log.calls.len() as u64;
    assert!(dropped <= log.dropped, "{dropped} of {}", log.dropped);
    let panicked = count(Ended::Panicked);
    let failed = total.failed - count(Ended::Failed);
    assert!(failed <= panicked, "{failed} of {panicked}");
    let expired = total.expired - count(Ended::Expired);
    let not_sent = total.not_sent - count(Ended::NotSent);
    assert_eq!(failed + expired + not_sent, panicked + dropped);
    assert_eq!(stats.waiting.waiting, 0);
    assert_eq!(stats.waiting.timed_out, log.timed_out);
    assert_eq!(log.cancelled, cancels);
    for member in 0..MEMBERS {
        let calls = log.calls.iter().filter(|call| call.member == member);
        let calls: Vec<Call> = calls.copied().collect();
        assert_eq!(stats.members[member as usize].in_flight, 0);
        assert_no_permit_doubled(&calls);
        assert_limit_kept(&calls);
    }
}

/// Asserts that a member never had more than `MAX_LEASES` leases.
fn assert_no_permit_doubled(calls: &[Call]) {
    let edges = calls.iter();
    let edges = edges.flat_map(|call| [(call.from, 1), (call.to, -1)]);
    let mut edges: Vec<(Tick, i32)> = edges.collect();
    edges.sort();
    let mut held = 0;
    for (at, change) in edges {
        held += change;
        assert!(held <= MAX_LEASES as i32, "{held} leases at {at:?}");
    }
}

/// Asserts that no window has more than `LIMIT` calls, counted by their begin and by their end.
fn assert_limit_kept(calls: &[Call]) {
    for arrival in [|call: &Call| call.from, |call: &Call| call.to] {
        let sent = calls.iter().filter(|call| call.ended != Ended::NotSent);
        let mut seen: Vec<Tick> = sent.map(arrival).collect();
        seen.sort();
        for window in seen.windows(LIMIT as usize + 1) {
            let span = window[LIMIT as usize].since(window[0]);
            assert!(span >= WINDOW, "{} calls in {span:?}", window.len());
        }
    }
}

#[test]
fn no_lease_is_lost_or_doubled_and_no_thread_is_stuck() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seconds = number("LEASEHOLD_STRESS_SECONDS").unwrap_or(5);
    let seed = number("LEASEHOLD_STRESS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("LEASEHOLD_STRESS_SEED={seed}");
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str() != Some("a worker that dies") {
            quiet(panic);
        }
    }));
    let mut random = Rng::with_seed(seed);
    let clock = Clock::start();
    let mut calls = 0;
    while clock.now().since(Tick::ZERO) < Duration::from_secs(seconds) {
        let span = Duration::from_millis(random.u64(1..1_000));
        calls += epoch(random.u64(..), span);
    }
    println!("{calls} leases in {seconds} s");
    assert!(calls > 100, "too few leases: {calls}");
}
