//! What threads can do to each other. Under loom each test is every interleaving of the lock, the mail, the
//! parked threads and the clock, which the test sets and then rings for those that sleep until then;
//! elsewhere it is many runs with real threads.

use super::*;
use crate::PoolEvent;
use core::num::NonZeroU32;
use leasehold_core::balance::Policy;
use leasehold_core::limit::{Anchor, SlidingLog};
use leasehold_core::pool::Outcome;
#[cfg(loom)]
use loom::{model, thread};
#[cfg(not(loom))]
use std::thread;

const TEN: Duration = Duration::from_nanos(10);

/// Runs a race again and again; one that never ends has stranded somebody.
#[cfg(not(loom))]
fn model(race: impl Fn() + Send + 'static) {
    let (done, end) = std::sync::mpsc::channel();
    let races = thread::spawn(move || {
        (0..1_000).for_each(|_| race());
        done.send(()).expect("the test waits");
    });
    let ended = end.recv_timeout(Duration::from_secs(120));
    if ended.is_err() && races.is_finished() {
        races.join().expect("a race went wrong");
    }
    ended.expect("somebody is stranded");
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

/// Whether a thread of its own got a lease, by a deadline if there is one.
fn wait(pool: &SyncPool<u32>, deadline: Option<u64>) -> thread::JoinHandle<bool> {
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

/// Lets time pass: whoever sleeps until then wakes.
fn set_clock(pool: &SyncPool<u32>, nanos: u64) {
    let now = Tick::from_nanos(nanos);
    pool.shared.clock.set(now);
    #[cfg(loom)]
    {
        let parked: Vec<_> = lock(&pool.shared.state).parked().cloned().collect();
        parked.iter().for_each(|parker| parker.ring(now));
    }
}

#[test]
fn two_acquirers_share_one_permit() {
    model(|| {
        let pool = pool();
        let other = wait(&pool, None);
        drop(pool.acquire().unwrap());
        assert!(other.join().unwrap());
        assert_eq!(pool.stats().total.ok, 2);
    });
}

#[test]
fn close_never_strands_a_waiter() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let waiter = wait(&pool, None);
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
        let waiter = wait(&pool, None);
        let closer = pool.clone();
        let closer = thread::spawn(move || closer.close());
        drop(held);
        closer.join().unwrap();
        let served = waiter.join().unwrap();
        assert_eq!(pool.stats().total.ok, 1 + u64::from(served));
    });
}

#[test]
fn a_release_against_a_timeout_serves_or_refuses_and_loses_no_permit() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let waiter = wait(&pool, Some(10));
        let clock = pool.clone();
        let clock = thread::spawn(move || set_clock(&clock, 10));
        drop(held);
        clock.join().unwrap();
        let served = waiter.join().unwrap();
        assert!(pool.try_acquire().is_ok());
        assert_eq!(pool.stats().total.ok, 2 + u64::from(served));
    });
}

#[test]
fn a_window_that_opens_wakes_who_waits_for_it() {
    model(|| {
        let pool = empty_pool(PoolConfig::new(Policy::Fifo));
        let log = SlidingLog::new(NonZeroU32::MIN, TEN, Anchor::Completion).unwrap();
        pool.add(Member::new(0).limit(log)).unwrap();
        let held = pool.acquire().unwrap();
        let waiter = wait(&pool, None);
        // The release is what sets the time that the waiter has to wake at.
        drop(held);
        set_clock(&pool, 10);
        assert!(waiter.join().unwrap());
    });
}

#[test]
fn a_window_that_opens_before_the_alarm_wakes_who_waits_for_it() {
    model(|| {
        let pool = empty_pool(PoolConfig::new(Policy::Fifo));
        let log = SlidingLog::new(NonZeroU32::MIN, TEN, Anchor::Completion).unwrap();
        pool.add(Member::new(0).limit(log)).unwrap();
        let held = pool.acquire().unwrap();
        let waiter = wait(&pool, Some(20));
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
        let late = wait(&pool, Some(20));
        let soon = wait(&pool, Some(10));
        set_clock(&pool, 10);
        assert!(!soon.join().unwrap());
        drop(held);
        assert!(late.join().unwrap());
    });
}

#[test]
fn a_timekeeper_that_leaves_strands_nobody() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let first = wait(&pool, Some(10));
        let second = wait(&pool, Some(20));
        set_clock(&pool, 10);
        assert!(!first.join().unwrap());
        set_clock(&pool, 20);
        assert!(!second.join().unwrap());
        drop(held);
    });
}

#[test]
fn a_timekeeper_that_is_served_strands_nobody() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let one = wait(&pool, None);
        let other = wait(&pool, Some(10));
        drop(held);
        set_clock(&pool, 10);
        assert!(one.join().unwrap());
        // It is served or refused, but it doesn't wait for ever.
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
fn a_ticket_dropped_as_it_is_granted_gives_the_lease_back() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let pending = pool.enqueue(Request::new()).unwrap();
        let leaver = thread::spawn(move || drop(pending));
        drop(held);
        leaver.join().unwrap();
        assert!(pool.try_acquire().is_ok());
        let stats = pool.stats();
        assert_eq!(stats.waiting.cancelled + stats.total.not_sent, 1);
    });
}

#[test]
fn a_release_against_an_expiry_ends_the_lease_once_and_serves_the_next() {
    model(|| {
        let config = PoolConfig::new(Policy::Fifo).lease_ttl(TEN).unwrap();
        let pool = empty_pool(config);
        let member = Member::new(0).max_leases(NonZeroU32::MIN);
        pool.add(member).unwrap();
        let held = pool.acquire().unwrap();
        let waiter = wait(&pool, None);
        let clock = pool.clone();
        let clock = thread::spawn(move || set_clock(&clock, 10));
        let released = held.release(Outcome::Failed).is_ok();
        clock.join().unwrap();
        assert!(waiter.join().unwrap());
        let total = pool.stats().total;
        assert_eq!(total.failed, u64::from(released));
        assert_eq!(total.granted, total.ok + total.failed + total.expired);
    });
}

#[test]
fn a_timekeeper_that_is_cancelled_strands_nobody() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let first = pool.enqueue(Request::new()).unwrap();
        let cancel_handle = first.cancel_handle();
        let second = wait(&pool, Some(10));
        let first = thread::spawn(move || first.wait().is_ok());
        assert!(cancel_handle.cancel());
        set_clock(&pool, 10);
        assert!(!first.join().unwrap());
        assert!(!second.join().unwrap());
        drop(held);
    });
}

#[test]
fn a_timekeeper_that_is_dropped_strands_nobody() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let first = pool.enqueue(Request::new()).unwrap();
        let second = wait(&pool, Some(10));
        drop(first);
        set_clock(&pool, 10);
        assert!(!second.join().unwrap());
        assert_eq!(pool.stats().waiting.cancelled, 1);
        drop(held);
    });
}

#[test]
fn a_listener_sees_a_lease_expire_for_which_nobody_waits() {
    model(|| {
        let config = PoolConfig::new(Policy::Fifo).lease_ttl(TEN).unwrap();
        let pool = empty_pool(config);
        pool.add(Member::new(0)).unwrap();
        let mut events = pool.events(NonZeroUsize::MIN);
        let listener = thread::spawn(move || events.wait());
        pool.acquire().unwrap().forget();
        set_clock(&pool, 10);
        let event = listener.join().unwrap();
        assert!(matches!(event, Some(PoolEvent::Expired { .. })));
    });
}

#[test]
fn close_never_strands_a_listener() {
    model(|| {
        let pool = pool();
        let mut events = pool.events(NonZeroUsize::MIN);
        let listener = thread::spawn(move || events.wait().is_none());
        pool.close();
        assert!(listener.join().unwrap());
    });
}

#[test]
fn a_listener_that_keeps_time_and_leaves_strands_nobody() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let mut events = pool.events(NonZeroUsize::MIN);
        let listener = thread::spawn(move || {
            let nothing = events.wait_until(Some(Tick::from_nanos(10))).is_none();
            (nothing, events)
        });
        let waiter = wait(&pool, Some(20));
        set_clock(&pool, 10);
        set_clock(&pool, 30);
        let (nothing, events) = listener.join().unwrap();
        assert!(nothing);
        assert!(!waiter.join().unwrap());
        drop((held, events));
    });
}

#[test]
fn a_listener_that_was_told_and_does_not_come_back_strands_nobody() {
    model(|| {
        let pool = pool();
        let held = pool.acquire().unwrap();
        let mut events = pool.events(NonZeroUsize::MIN);
        let listener = thread::spawn(move || {
            let told = events.wait().is_some();
            (told, events)
        });
        let waiter = wait(&pool, Some(10));
        let other = pool.add(Member::new(1).weight(0)).unwrap();
        pool.drain(other).unwrap();
        let (told, events) = listener.join().unwrap();
        assert!(told);
        set_clock(&pool, 10);
        assert!(!waiter.join().unwrap());
        drop((held, events));
    });
}

#[test]
fn a_ticket_dropped_as_its_window_opens_gives_the_lease_back() {
    model(|| {
        let pool = empty_pool(PoolConfig::new(Policy::Fifo));
        let log = SlidingLog::new(NonZeroU32::MIN, TEN, Anchor::Grant).unwrap();
        pool.add(Member::new(0).limit(log)).unwrap();
        drop(pool.acquire().unwrap());
        let first = pool.enqueue(Request::new()).unwrap();
        let second = wait(&pool, None);
        let clock = pool.clone();
        let clock = thread::spawn(move || set_clock(&clock, 10));
        drop(first);
        clock.join().unwrap();
        assert!(second.join().unwrap());
    });
}
