//! A pool under threads that do everything to it that threads can do, judged by what they saw themselves.
//!
//! It runs for `LEASEHOLD_STRESS_SECONDS`, five unless told, and prints its seed, which
//! `LEASEHOLD_STRESS_SEED` gives it again.

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
/// Leases on a member at once.
const AT_ONCE: u32 = 2;
/// Calls of a member in a window.
const LIMIT: u32 = 12;
const WINDOW: Duration = Duration::from_millis(4);
const TTL: Duration = Duration::from_millis(15);
/// After how long without an end a thread is stuck.
const PATIENCE: Duration = Duration::from_secs(20);

/// A call as the thread saw that made it.
#[derive(Clone, Copy)]
struct Call {
    member: u32,
    from: Tick,
    /// The last tick at which the lease was held for certain.
    to: Tick,
    ended: Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Ok,
    Failed,
    Throttled,
    NotSent,
    /// By expiry, whether it was forgotten or held for too long.
    Expired,
    /// In a panic, or by expiry before it.
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
    clock: Clock,
    pool: SyncPool<u32>,
    cancellers: Mutex<Vec<CancelHandle<u32>>>,
    cancels: AtomicU64,
}

struct Worker<'a> {
    world: &'a World,
    random: Rng,
    log: Log,
}

fn new_world() -> World {
    let config = PoolConfig::new(Policy::Fifo).lease_ttl(TTL);
    let pool = SyncPool::new(config.expect("a lease lives for some time"));
    let limit = NonZeroU32::new(LIMIT).expect("the limit is not zero");
    let at_once = NonZeroU32::new(AT_ONCE).expect("it takes some at once");
    for name in 0..MEMBERS {
        let log = SlidingLog::new(limit, WINDOW, Anchor::Completion);
        let log = log.expect("the window has a length");
        let member = Member::new(name).max_leases(at_once).limit(log);
        pool.add(member).expect("a small pool takes members");
    }
    World {
        clock: Clock::start(),
        pool,
        cancellers: Mutex::new(Vec::new()),
        cancels: AtomicU64::new(0),
    }
}

impl Worker<'_> {
    /// Works until the pool is closed.
    fn work(&mut self) {
        loop {
            let taken = match self.random.u8(..12) {
                0..=2 => self.world.pool.acquire(),
                3..=5 => self.in_time(),
                6 => self.world.pool.try_acquire(),
                7 => self.drop_ticket(),
                8 | 9 => self.open_to_cancel(),
                _ => {
                    self.cancel_somebody();
                    continue;
                }
            };
            match taken {
                Ok(lease) => self.hold(lease),
                Err(AcquireError::Closed) => return,
                Err(AcquireError::TimedOut) => self.log.timed_out += 1,
                Err(AcquireError::Cancelled) => self.log.cancelled += 1,
                Err(AcquireError::NothingFree | AcquireError::DeadlineTooSoon { .. }) => {
                    self.log.refused += 1;
                }
                Err(
                    refused @ (AcquireError::QueueFull
                    | AcquireError::NeverFits
                    | AcquireError::PinnedMemberRemoved
                    | AcquireError::TooManyLanes),
                ) => panic!("{refused}"),
            }
        }
    }

    fn in_time(&mut self) -> Result<Lease<u32>, AcquireError> {
        let timeout = Duration::from_micros(self.random.u64(..3_000));
        self.world.pool.acquire_timeout(timeout)
    }

    /// Leaves the line, at once or as somebody gives a lease back; the answer is that of another request.
    fn drop_ticket(&mut self) -> Result<Lease<u32>, AcquireError> {
        let pending = self.world.pool.enqueue(Request::new())?;
        self.pause();
        drop(pending);
        self.log.dropped += 1;
        self.world.pool.try_acquire()
    }

    fn open_to_cancel(&mut self) -> Result<Lease<u32>, AcquireError> {
        let pending = self.world.pool.enqueue(Request::new())?;
        let mut cancellers = self.world.cancellers.lock().expect("nobody panics in it");
        cancellers.push(pending.cancel_handle());
        drop(cancellers);
        PendingLease::wait(pending)
    }

    fn cancel_somebody(&mut self) {
        self.pause();
        let mut cancellers = self.world.cancellers.lock().expect("nobody panics in it");
        let some = cancellers.pop();
        drop(cancellers);
        if some.is_some_and(|cancel_handle| cancel_handle.cancel()) {
            self.world.cancels.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn hold(&mut self, lease: Lease<u32>) {
        let from = self.world.clock.now();
        let member = *lease;
        self.pause();
        let to = self.world.clock.now();
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
                let rest = Duration::from_micros(self.random.u64(..500));
                (Ended::Throttled, lease.release_throttled(rest).is_ok())
            }
            14..=19 => (Ended::NotSent, lease.release(Outcome::NotSent).is_ok()),
            20..=25 => {
                // It can have expired only if the machine stood still.
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

/// Works a pool for as long, closes it, and judges what happened.
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
            done.send(worker.log).expect("the judge waits");
        });
    }
    // Those who are left over when the last worker has gone would wait without end.
    drop(done);
    thread::sleep(span);
    world.pool.close();
    let mut all = Log::default();
    for _ in 0..THREADS {
        let log = ends.recv_timeout(PATIENCE);
        let mut log = log.expect("a thread is stuck, or has failed");
        all.calls.append(&mut log.calls);
        all.refused += log.refused;
        all.timed_out += log.timed_out;
        all.cancelled += log.cancelled;
        all.dropped += log.dropped;
    }
    thread::sleep(TTL);
    // A command lets what is due be done.
    assert!(matches!(
        world.pool.try_acquire(),
        Err(AcquireError::Closed)
    ));
    assert!(world.pool.explain(&Request::new()).len() == MEMBERS as usize);
    judge(
        &all,
        &world.pool.stats(),
        world.cancels.load(Ordering::Relaxed),
    );
    all.calls.len() as u64
}

fn judge(log: &Log, stats: &Stats, cancels: u64) {
    let count = |ended: Ended| log.calls.iter().filter(|call| call.ended == ended).count() as u64;
    let total = stats.total;
    // None lost: each lease ended once, as the thread says that held it.
    assert_eq!(total.ok, count(Ended::Ok));
    assert_eq!(total.throttled, count(Ended::Throttled));
    // What was granted to a pending that was dropped goes back, or expires where that takes too long.
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
        none_doubled(&calls);
        limit_kept(&calls);
    }
}

/// At no time more leases on a member than it takes. A lease that expired or may have is held for no time
/// that is certain.
fn none_doubled(calls: &[Call]) {
    let uncertain = [Ended::Expired, Ended::Panicked];
    let certain = calls.iter().filter(|call| !uncertain.contains(&call.ended));
    let edges = certain.flat_map(|call| [(call.from, 1), (call.to, -1)]);
    let mut edges: Vec<(Tick, i32)> = edges.collect();
    edges.sort();
    let mut held = 0;
    for (at, change) in edges {
        held += change;
        assert!(held <= AT_ONCE as i32, "{held} leases at {at:?}");
    }
}

/// Whether the upstream sees a call as it begins or as it ends, never more than the limit in a window.
fn limit_kept(calls: &[Call]) {
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
fn no_lease_is_lost_or_doubled_and_no_thread_stuck_whatever_threads_do() {
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
    assert!(calls > 100, "next to nothing happened");
}
