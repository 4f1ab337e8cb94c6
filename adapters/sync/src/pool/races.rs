//! Races between threads. Under loom each test runs every interleaving of the lock, the slots, the parked threads
//! and the clock, which the test sets before it wakes the threads that are due. Without loom each test is
//! 1,000 runs with real threads.

use super::*;
use crate::PoolEvent;
#[cfg(loom)]
use crate::sync::lock;
use core::num::NonZeroU32;
use leasehold_core::balance::Policy;
use leasehold_core::limit::{Anchor, SlidingLog};
use leasehold_core::pool::{Member, Outcome};
#[cfg(loom)]
use loom::{model, thread};
#[cfg(not(loom))]
use std::thread;

const TEN: Duration = Duration::from_nanos(10);

/// Runs a race 1,000 times; one that takes too long has stranded a thread.
#[cfg(not(loom))]
fn model(race: impl Fn() + Send + 'static) {
    let (done, ended) = std::sync::mpsc::channel();
    let races = thread::spawn(move || {
        (0..1_000).for_each(|_| race());
        done.send(()).expect("the test waits");
    });
    let ended = ended.recv_timeout(Duration::from_secs(120));
    if ended.is_err() && races.is_finished() {
        races.join().expect("a race has failed");
    }
    ended.expect("a thread is stranded");
}

fn empty_pool(config: PoolConfig) -> SyncPool<u32> {
    SyncPool::with_clock(config, Clock::stopped())
}

fn pool() -> SyncPool<u32> {
    let pool = empty_pool(PoolConfig::new(Policy::Fifo));
    let member = Member::new(0).max_leases(NonZeroU32::MIN);
    pool.add(member).expect("a small pool takes members");
    pool
}

/// Waits for a lease in another thread, until a deadline in ns if there is one; whether it got one.
fn spawn_waiter(pool: &SyncPool<u32>, deadline: Option<u64>) -> thread::JoinHandle<bool> {
    let pool = pool.clone();
    thread::spawn(move || {
        let request = Request::new();
        let request = match deadline {
            Some(deadline) => request.deadline(Tick::from_nanos(deadline)),
            None => request,
        };
        pool.enqueue(request).and_then(PendingLease::wait).is_ok()
    })
}

/// Sets the clock, and wakes the threads that are due.
fn set_clock(pool: &SyncPool<u32>, nanos: u64) {
    let now = Tick::from_nanos(nanos);
    pool.shared.clock.set(now);
    #[cfg(loom)]
    {
        let parked: Vec<_> = lock(&pool.shared.state).parked().cloned().collect();
        parked.iter().for_each(|parker| parker.wake_if_due(now));
    }
}

#[test]
fn two_acquirers_share_one_permit() {
    model(|| {
        let pool = pool();
        let other = spawn_waiter(&pool, None);
        drop(pool.acquire().unwrap());
        assert!(other.join().unwrap());
        assert_eq!(pool.stats().total.unknown, 2);
    });
}

#[test]
fn close_never_strands_a_waiter() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let waiter = spawn_waiter(&pool, None);
        pool.close();
        drop(held);
        assert!(!waiter.join().unwrap());
    });
}

#[test]
fn a_release_against_a_close_decides_a_waiter_once() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let waiter = spawn_waiter(&pool, None);
        let closer = pool.clone();
        let closer = thread::spawn(move || closer.close());
        drop(held);
        closer.join().unwrap();
        let served = waiter.join().unwrap();
        assert_eq!(pool.stats().total.unknown, 1 + u64::from(served));
    });
}

#[test]
fn a_release_against_a_timeout_serves_or_refuses_and_loses_no_permit() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let waiter = spawn_waiter(&pool, Some(10));
        let clock = pool.clone();
        let clock = thread::spawn(move || set_clock(&clock, 10));
        drop(held);
        clock.join().unwrap();
        let served = waiter.join().unwrap();
        assert!(pool.try_acquire().is_ok());
        assert_eq!(pool.stats().total.unknown, 2 + u64::from(served));
    });
}

#[test]
fn a_window_that_opens_wakes_its_waiter() {
    model(|| {
        let pool = empty_pool(PoolConfig::new(Policy::Fifo));
        let log = SlidingLog::new(NonZeroU32::MIN, TEN, Anchor::Completion).unwrap();
        pool.add(Member::new(0).limit(log)).unwrap();
        let held = pool.acquire().unwrap();
        let waiter = spawn_waiter(&pool, None);
        // The release is what sets the waiter's wake-up time.
        drop(held);
        set_clock(&pool, 10);
        assert!(waiter.join().unwrap());
    });
}

#[test]
fn a_window_that_opens_before_the_wake_up_time_wakes_its_waiter() {
    model(|| {
        let pool = empty_pool(PoolConfig::new(Policy::Fifo));
        let log = SlidingLog::new(NonZeroU32::MIN, TEN, Anchor::Completion).unwrap();
        pool.add(Member::new(0).limit(log)).unwrap();
        let held = pool.acquire().unwrap();
        let waiter = spawn_waiter(&pool, Some(20));
        drop(held);
        set_clock(&pool, 10);
        assert!(waiter.join().unwrap());
    });
}

#[test]
fn an_earlier_deadline_does_not_wait_for_a_later_one() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let late = spawn_waiter(&pool, Some(20));
        let soon = spawn_waiter(&pool, Some(10));
        set_clock(&pool, 10);
        assert!(!soon.join().unwrap());
        drop(held);
        assert!(late.join().unwrap());
    });
}

#[test]
fn a_timekeeper_that_times_out_hands_over() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let first = spawn_waiter(&pool, Some(10));
        let second = spawn_waiter(&pool, Some(20));
        set_clock(&pool, 10);
        assert!(!first.join().unwrap());
        set_clock(&pool, 20);
        assert!(!second.join().unwrap());
        drop(held);
    });
}

#[test]
fn a_timekeeper_that_is_served_hands_over() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let one = spawn_waiter(&pool, None);
        let other = spawn_waiter(&pool, Some(10));
        drop(held);
        set_clock(&pool, 10);
        assert!(one.join().unwrap());
        // Served or refused, but not stranded.
        let _ = other.join().unwrap();
        assert!(pool.try_acquire().is_ok());
    });
}

#[test]
fn a_release_against_a_cancel_serves_or_cancels_and_loses_no_permit() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let pending = pool.enqueue(Request::new()).unwrap();
        let cancel_handle = pending.cancel_handle();
        let waiter = thread::spawn(move || pending.wait().is_ok());
        let cancel = thread::spawn(move || cancel_handle.cancel());
        drop(held);
        let (served, cancelled) = (waiter.join().unwrap(), cancel.join().unwrap());
        assert_ne!(served, cancelled);
        assert!(pool.try_acquire().is_ok());
        assert_eq!(pool.stats().waiting.cancelled, u64::from(cancelled));
    });
}

#[test]
fn a_request_dropped_as_it_is_granted_releases_the_lease() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let pending = pool.enqueue(Request::new()).unwrap();
        let dropper = thread::spawn(move || drop(pending));
        drop(held);
        dropper.join().unwrap();
        assert!(pool.try_acquire().is_ok());
        let stats = pool.stats();
        assert_eq!(stats.waiting.cancelled + stats.total.not_sent, 1);
    });
}

#[test]
fn a_release_against_an_expiry_ends_the_lease_once_and_serves_the_next() {
    model(|| {
        let config = PoolConfig::builder(Policy::Fifo)
            .lease_ttl(TEN)
            .build()
            .unwrap();
        let pool = empty_pool(config);
        let member = Member::new(0).max_leases(NonZeroU32::MIN);
        pool.add(member).unwrap();
        let held = pool.acquire().unwrap();
        let waiter = spawn_waiter(&pool, None);
        let clock = pool.clone();
        let clock = thread::spawn(move || set_clock(&clock, 10));
        let released = held.release(Outcome::Failed).is_ok();
        clock.join().unwrap();
        assert!(waiter.join().unwrap());
        let total = pool.stats().total;
        assert_eq!(total.failed, u64::from(released));
        assert_eq!(total.granted, total.unknown + total.failed + total.expired);
    });
}

#[test]
fn a_timekeeper_that_is_cancelled_hands_over() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let first = pool.enqueue(Request::new()).unwrap();
        let cancel_handle = first.cancel_handle();
        let second = spawn_waiter(&pool, Some(10));
        let first = thread::spawn(move || first.wait().is_ok());
        assert!(cancel_handle.cancel());
        set_clock(&pool, 10);
        assert!(!first.join().unwrap());
        assert!(!second.join().unwrap());
        drop(held);
    });
}

#[test]
fn a_timekeeper_that_is_dropped_hands_over() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let first = pool.enqueue(Request::new()).unwrap();
        let second = spawn_waiter(&pool, Some(10));
        drop(first);
        set_clock(&pool, 10);
        assert!(!second.join().unwrap());
        assert_eq!(pool.stats().waiting.cancelled, 1);
        drop(held);
    });
}

#[test]
fn a_subscriber_sees_an_expiry_with_no_waiter() {
    model(|| {
        let config = PoolConfig::builder(Policy::Fifo)
            .lease_ttl(TEN)
            .build()
            .unwrap();
        let pool = empty_pool(config);
        pool.add(Member::new(0)).unwrap();
        let mut events = pool.events(NonZeroUsize::MIN);
        let subscriber = thread::spawn(move || events.wait());
        let _ = pool.acquire().unwrap().detach();
        set_clock(&pool, 10);
        let event = subscriber.join().unwrap();
        assert!(matches!(event, Some(PoolEvent::Expired { .. })));
    });
}

#[test]
fn close_never_strands_a_subscriber() {
    model(|| {
        let pool = pool();
        let mut events = pool.events(NonZeroUsize::MIN);
        let subscriber = thread::spawn(move || events.wait().is_none());
        pool.close();
        assert!(subscriber.join().unwrap());
    });
}

#[test]
fn a_subscriber_that_times_out_hands_over_timekeeping() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let mut events = pool.events(NonZeroUsize::MIN);
        let subscriber = thread::spawn(move || {
            let nothing = events.wait_until(Some(Tick::from_nanos(10))).is_none();
            (nothing, events)
        });
        let waiter = spawn_waiter(&pool, Some(20));
        set_clock(&pool, 10);
        set_clock(&pool, 30);
        let (nothing, events) = subscriber.join().unwrap();
        assert!(nothing);
        assert!(!waiter.join().unwrap());
        drop((held, events));
    });
}

#[test]
fn a_subscriber_that_took_an_event_hands_over_timekeeping() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let mut events = pool.events(NonZeroUsize::MIN);
        let subscriber = thread::spawn(move || {
            let received = events.wait().is_some();
            (received, events)
        });
        let waiter = spawn_waiter(&pool, Some(10));
        let other = pool.add(Member::new(1).weight(0)).unwrap();
        pool.drain(other).unwrap();
        let (received, events) = subscriber.join().unwrap();
        assert!(received);
        set_clock(&pool, 10);
        assert!(!waiter.join().unwrap());
        drop((held, events));
    });
}

#[test]
fn a_request_dropped_as_its_window_opens_releases_the_lease() {
    model(|| {
        let pool = empty_pool(PoolConfig::new(Policy::Fifo));
        let log = SlidingLog::new(NonZeroU32::MIN, TEN, Anchor::Grant).unwrap();
        pool.add(Member::new(0).limit(log)).unwrap();
        drop(pool.acquire().unwrap());
        let first = pool.enqueue(Request::new()).unwrap();
        let second = spawn_waiter(&pool, None);
        let clock = pool.clone();
        let clock = thread::spawn(move || set_clock(&clock, 10));
        drop(first);
        clock.join().unwrap();
        assert!(second.join().unwrap());
    });
}
