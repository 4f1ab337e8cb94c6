//! The pool with real threads and the real clock.

use super::*;
use crate::{PoolEvent, TooManyNames};
use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU32, Ordering};
use core::task::{Context, Poll, Waker};
use leasehold_core::balance::Policy;
use leasehold_core::health::{BreakerConfig, ProbeConfig};
use leasehold_core::limit::{Anchor, Concurrency, LimitSet, SlidingLog, Unit};
use leasehold_core::pool::{
    Cause, Eligibility, FlowConfig, HealthChange, Member, MemberUpdate, Outcome, ProbeResult,
};
use std::sync::mpsc;
use std::task::Wake;
use std::thread;

/// A timeout that no passing test reaches.
const LONG: Duration = Duration::from_secs(30);

fn pool(members: u32) -> SyncPool<u32> {
    let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
    for name in 0..members {
        let member = Member::new(name).max_leases(NonZeroU32::MIN);
        pool.add(member).expect("a small pool takes members");
    }
    pool
}

fn wait_until_queued(pool: &SyncPool<u32>, count: u32) {
    while pool.stats().waiting.waiting < count {
        thread::yield_now();
    }
}

#[test]
fn a_lease_is_released_on_drop_and_on_panic() {
    let pool = pool(1);
    drop(pool.acquire().unwrap());
    let theirs = pool.clone();
    let panicked = thread::spawn(move || {
        let _lease = theirs.acquire().unwrap();
        panic!("a worker that dies");
    });
    assert!(panicked.join().is_err());
    assert!(pool.try_acquire().is_ok());
    let total = pool.stats().total;
    assert_eq!((total.unknown, total.failed), (2, 1));
}

#[test]
fn waiters_are_served_in_order_of_arrival() {
    let pool = pool(1);
    let lease = pool.acquire().unwrap();
    let (served, order) = mpsc::channel();
    thread::scope(|scope| {
        for name in 0..5 {
            let (pool, served) = (&pool, served.clone());
            scope.spawn(move || {
                let _lease = pool.acquire().unwrap();
                served.send(name).unwrap();
            });
            wait_until_queued(pool, name + 1);
        }
        drop(lease);
    });
    drop(served);
    assert_eq!(order.iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

#[test]
fn one_timekeeper_lets_every_waiter_time_out() {
    let pool = pool(1);
    let _held = pool.acquire().unwrap();
    thread::scope(|scope| {
        for name in 0..8u64 {
            let timeout = Duration::from_millis(20 + 10 * (7 - name));
            let pool = &pool;
            scope.spawn(move || {
                let refused = pool.acquire_timeout(timeout).unwrap_err();
                assert_eq!(refused, AcquireError::TimedOut { cause: Cause::Full });
            });
        }
    });
    assert_eq!(pool.stats().waiting.timed_out, 8);
}

#[test]
fn a_window_that_opens_wakes_its_waiters() {
    let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
    let window = Duration::from_millis(50);
    let limit = SlidingLog::new(NonZeroU32::MIN, window, Anchor::Completion).unwrap();
    pool.add(Member::new("key").limit(limit)).unwrap();
    let served = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                pool.acquire_timeout(LONG).unwrap();
                served.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(served.into_inner(), 4);
    assert!(pool.stats().waited.max().unwrap() >= window * 2);
}

#[test]
fn a_deadline_before_any_window_opens_is_refused_at_once() {
    let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
    let limit = SlidingLog::new(NonZeroU32::MIN, LONG, Anchor::Grant).unwrap();
    pool.add(Member::new("key").limit(limit)).unwrap();
    drop(pool.acquire().unwrap());
    let refused = pool.acquire_timeout(LONG / 2).unwrap_err();
    assert!(
        matches!(refused, AcquireError::DeadlineTooSoon { wait, .. } if wait > LONG / 2),
        "{refused:?}"
    );
}

#[test]
fn close_wakes_all_waiters_and_keeps_held_leases_valid() {
    let pool = pool(1);
    let held = pool.acquire().unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(pool.acquire().unwrap_err(), AcquireError::Closed));
        }
        wait_until_queued(&pool, 4);
        pool.close();
    });
    assert_eq!(pool.acquire().unwrap_err(), AcquireError::Closed);
    assert_eq!(held.release(Outcome::Ok), Ok(()));
}

#[test]
fn a_forgotten_lease_is_granted_again_after_its_expiry() {
    let ttl = Duration::from_millis(30);
    let pool = SyncPool::new(
        PoolConfig::builder(Policy::Fifo)
            .lease_ttl(ttl)
            .build()
            .unwrap(),
    );
    pool.add(Member::new(0).max_leases(NonZeroU32::MIN))
        .unwrap();
    core::mem::forget(pool.acquire().unwrap());
    let late = pool.acquire_timeout(LONG).unwrap();
    assert!(late.waited() >= ttl);
    assert_eq!(pool.stats().total.expired, 1);
}

#[test]
fn a_member_added_later_serves_queued_requests() {
    let pool = pool(0);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| *pool.acquire().unwrap());
        wait_until_queued(&pool, 1);
        pool.add(Member::new(7)).unwrap();
        assert_eq!(waiter.join().unwrap(), 7);
    });
}

#[test]
fn a_request_cancelled_in_time_is_refused_and_the_next_is_served() {
    for _ in 0..200 {
        let pool = pool(1);
        let held = pool.acquire().unwrap();
        let pending = pool.enqueue(Request::new()).unwrap();
        let cancel_handle = pending.cancel_handle();
        let next = pool.enqueue(Request::new()).unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| pending.wait().map(drop));
            let cancel = scope.spawn(|| cancel_handle.cancel());
            drop(held);
            let expected = match cancel.join().unwrap() {
                true => Err(AcquireError::Cancelled),
                false => Ok(()),
            };
            assert_eq!(waiter.join().unwrap(), expected);
            assert!(next.wait().is_ok());
        });
        assert!(!cancel_handle.cancel());
    }
}

#[test]
fn a_dropped_request_releases_its_grant_or_leaves_the_queue() {
    let pool = pool(1);
    let granted = pool.enqueue(Request::new()).unwrap();
    let waiting = pool.enqueue(Request::new()).unwrap();
    let last = pool.enqueue(Request::new()).unwrap();
    drop(waiting);
    drop(granted);
    // It was granted to the last one meanwhile.
    drop(last);
    assert!(pool.try_acquire().is_ok());
    let stats = pool.stats();
    assert_eq!((stats.total.not_sent, stats.waiting.cancelled), (2, 1));
}

struct CountingWaker(AtomicU32);

impl Wake for CountingWaker {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_task_and_a_thread_share_one_queue_and_the_task_is_woken_once() {
    let pool = pool(1);
    let held = pool.acquire().unwrap();
    let mut task = pool.enqueue(Request::new()).unwrap();
    let wakes = std::sync::Arc::new(CountingWaker(AtomicU32::new(0)));
    let waker = Waker::from(std::sync::Arc::clone(&wakes));
    assert!(task.poll(&Context::from_waker(&waker)).0.is_pending());
    thread::scope(|scope| {
        let thread = scope.spawn(|| pool.acquire().map(drop));
        wait_until_queued(&pool, 2);
        drop(held);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        let (Poll::Ready(Ok(lease)), None) = task.poll(&Context::from_waker(&waker)) else {
            panic!("the lease was granted to the task");
        };
        drop(lease);
        assert!(thread.join().unwrap().is_ok());
    });
    let (again, _) = task.poll(&Context::from_waker(&waker));
    assert!(matches!(again, Poll::Ready(Err(AcquireError::Cancelled))));
}

#[test]
fn a_timekeeper_task_is_told_to_poll_again_at_its_deadline() {
    let clock = std::sync::Arc::new(core::sync::atomic::AtomicU64::new(0));
    let nanos = std::sync::Arc::clone(&clock);
    let told = Clock::told_by(move || Tick::from_nanos(nanos.load(Ordering::SeqCst)));
    let pool: SyncPool<u32> = SyncPool::with_clock(PoolConfig::new(Policy::Fifo), told);
    let deadline = Tick::from_nanos(10);
    let mut pending = pool.enqueue(Request::new().deadline(deadline)).unwrap();
    let context = Context::from_waker(Waker::noop());
    let (answer, wake_at) = pending.poll(&context);
    assert!(answer.is_pending());
    assert_eq!(wake_at, Some(deadline));
    clock.store(10, Ordering::SeqCst);
    let (answer, _) = pending.poll(&context);
    let Poll::Ready(Err(refused)) = answer else {
        panic!("the deadline has come");
    };
    let cause = Cause::NoMember;
    assert_eq!(refused, AcquireError::TimedOut { cause });
}

#[test]
fn a_subscription_receives_probes_and_health_changes() {
    let probes = ProbeConfig::builder(Duration::from_millis(10), Duration::from_millis(5));
    let probes = probes.rise(NonZeroU32::MIN).fall(NonZeroU32::MIN);
    let config = PoolConfig::builder(Policy::Fifo).health(probes.build().unwrap());
    let pool = SyncPool::new(config.build().unwrap());
    let mut events = pool.events(NonZeroUsize::MIN.saturating_add(7));
    pool.add(Member::new(7)).unwrap();
    let mut down = false;
    while !down {
        match events.wait_timeout(LONG).unwrap() {
            PoolEvent::Probe { probe, payload, .. } => {
                assert_eq!(*payload, 7);
                // An answer that is late on a busy machine counts as failed too.
                let _ = pool.answer_probe(probe, ProbeResult::Down);
            }
            PoolEvent::Changed { change, .. } => down = change == HealthChange::Down,
            other @ (PoolEvent::Expired { .. }
            | PoolEvent::Drained { .. }
            | PoolEvent::Removed { .. }
            | PoolEvent::Missed { .. }) => panic!("{other:?}"),
        }
    }
    let refused = pool.try_acquire().unwrap_err();
    assert_eq!(refused.cause(), Some(Cause::Unhealthy));
    pool.close();
    while events.wait().is_some() {}
}

#[test]
fn a_full_inbox_keeps_the_latest_events_and_counts_the_missed_ones() {
    let pool = pool(3);
    let mut events = pool.events(NonZeroUsize::MIN);
    let members = pool.members();
    for (member, _) in &members {
        pool.drain(*member).unwrap();
    }
    assert!(matches!(
        events.take(),
        Some(PoolEvent::Missed { count: 2 })
    ));
    let last = members.last().unwrap().0;
    assert!(matches!(events.take(), Some(PoolEvent::Drained { member }) if member == last));
    assert!(events.wait_timeout(Duration::from_millis(1)).is_none());
}

#[test]
fn every_command_reaches_the_core() {
    let pool = pool(2);
    let [(first, _), (second, _)] = pool.members()[..] else {
        panic!("the pool has two members");
    };
    pool.set_weight(first, 0).unwrap();
    assert_eq!(pool.acquire().unwrap().member(), second);
    pool.set_weight(first, 1).unwrap();
    pool.disable(second).unwrap();
    let lease = pool.acquire().unwrap();
    assert_eq!(lease.renew(), Ok(None));
    let reasons = pool.explain(&Request::new());
    assert_eq!(reasons[0].to_string(), "holds its maximum of leases");
    let reasons = reasons.iter().map(|one| (one.member, one.eligibility));
    let expected = [(first, Eligibility::Full), (second, Eligibility::Disabled)];
    assert!(reasons.eq(expected));
    assert_eq!(pool.estimate(&Request::new()).unwrap().ahead, 0);
    assert!(pool.remove(first).unwrap().is_none());
    assert!(pool.remove(first).is_err());
    pool.observe(second, Unit::Requests, 0, LONG).unwrap();
    pool.enable(second).unwrap();
    assert!(pool.acquire_timeout(LONG / 2).is_err());
    pool.set_limits(second, LimitSet::new()).unwrap();
    let pending = pool.enqueue(Request::new().pin(second)).unwrap();
    assert_eq!(*pending.wait().unwrap(), 1);
    assert_eq!(*pool.remove(second).unwrap().unwrap(), 1);
    drop(lease);
    assert!(pool.members().is_empty());
}

#[test]
fn clones_share_the_names_of_classes_and_labels() {
    let pool = pool(1);
    let clone = pool.clone();
    let class = pool.class("gpt-4o").unwrap();
    assert_eq!(clone.class("gpt-4o"), Ok(class));
    assert_eq!(clone.class_name(class).as_deref(), Some("gpt-4o"));
    let labels = clone.labels(["vision", "cheap"]).unwrap();
    assert_eq!(pool.labels(["vision", "cheap"]), Ok(labels));
    assert_eq!(pool.label_names(labels).len(), 2);
}

#[test]
fn the_member_of_a_name_is_the_one_that_was_added_last() {
    let pool = pool(1);
    let (unnamed, _) = pool.members()[0];
    let old = pool.add_named("acme", Member::new(1)).unwrap();
    assert_eq!(pool.member("acme"), Some(old));
    pool.remove(unnamed).unwrap();
    // It takes the place of the member that left, before the old one's.
    let new = pool.add_named("acme", Member::new(2)).unwrap();
    assert!(new < old);
    assert_eq!(pool.member("acme"), Some(new));
    pool.remove(new).unwrap();
    assert_eq!(pool.member("acme"), Some(old));
}

#[test]
fn a_refusal_is_described_by_the_names_of_what_was_asked_for() {
    let pool = pool(0);
    let acme = pool.add_named("acme", Member::new(0)).unwrap();
    let labels = pool.labels(["vision", "cheap"]).unwrap();
    let request = Request::new()
        .class(pool.class("gpt-4o").unwrap())
        .labels(labels)
        .flow(pool.flow("alice").unwrap())
        .pin(acme);
    let told =
        "the pool is closed (class gpt-4o, label vision, label cheap, caller alice, only acme)";
    assert_eq!(pool.describe(AcquireError::Closed, &request), told);
    let unnamed = Request::new().class(7).flow(9);
    for request in [Request::new(), unnamed] {
        let told = pool.describe(AcquireError::Closed, &request);
        assert_eq!(told, "the pool is closed");
    }
}

#[test]
fn a_set_of_labels_without_room_is_refused_and_the_others_stay_known() {
    let pool = pool(0);
    let names: Vec<String> = (0..400).map(|label| label.to_string()).collect();
    let mut pairs = names
        .iter()
        .flat_map(|one| names.iter().map(move |other| [one, other]));
    let first = pool.labels(["0"]).unwrap();
    let refused = pairs.find_map(|pair| pool.labels(pair).err()).unwrap();
    assert_eq!(refused, TooManyNames::of("sets of labels"));
    assert_eq!(pool.labels(["0"]), Ok(first));
}

#[test]
fn members_change_while_they_serve() {
    let breaker = BreakerConfig::builder(LONG, LONG).build().unwrap();
    let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
    let member = Member::new(1).max_leases(NonZeroU32::MIN).breaker(breaker);
    let member = pool.add_named("acme", member).unwrap();
    let held = pool.acquire().unwrap();
    assert!(pool.try_acquire().is_err());
    let update = MemberUpdate::new().payload(2).max_leases(None);
    assert_eq!(pool.update(member, update).unwrap().as_deref(), Some(&1));
    assert_eq!((*held, *pool.try_acquire().unwrap()), (1, 2));
    pool.trip_breaker(member, LONG).unwrap();
    let why = pool.explain(&Request::new());
    assert_eq!(why[0].to_string(), "acme: its breaker is open");
    pool.reset_breaker(member).unwrap();
    assert!(pool.try_acquire().is_ok());
    let labels = pool.labels(["vision"]).unwrap();
    pool.update(member, MemberUpdate::new().labels(labels))
        .unwrap();
    assert!(pool.enqueue(Request::new().labels(labels)).is_ok());
    assert_eq!(pool.member("acme"), Some(member));
    drop(held);
    pool.remove(member).unwrap();
    assert_eq!(pool.member_name(member), None);
    assert!(pool.update(member, MemberUpdate::new().payload(3)).is_err());
}

#[test]
fn a_call_that_has_arrived_starts_its_window() {
    let short = Duration::from_millis(50);
    let log = SlidingLog::new(NonZeroU32::MIN, short, Anchor::Completion).unwrap();
    let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
    pool.add(Member::new(()).limit(log)).unwrap();
    let streaming = pool.acquire().unwrap();
    assert!(matches!(
        pool.try_acquire().unwrap_err().cause(),
        Some(Cause::AwaitingCompletion)
    ));
    streaming.arrived().unwrap();
    let next = pool.acquire_timeout(LONG).unwrap();
    assert!(next.fence() > streaming.fence());
}

#[test]
fn a_caller_has_limits_a_place_and_a_name() {
    let pool = pool(2);
    let alice = pool.flow("alice").unwrap();
    let one_at_once = Concurrency::new(NonZeroU32::MIN);
    let limits = LimitSet::new().with(Unit::Requests, one_at_once);
    pool.set_flow(alice, &FlowConfig::new().limits(limits).max_waiters(1));
    let request = Request::new().flow(alice);
    let held = pool.enqueue(request).unwrap().wait().unwrap();
    let queued = pool.enqueue(request).unwrap();
    assert_eq!(queued.place().unwrap().ahead, 0);
    let refused = pool.enqueue(request).unwrap_err();
    assert!(matches!(refused, AcquireError::FlowQueueFull { .. }));
    let text = pool.describe(refused, &request);
    assert!(text.contains("caller alice"), "{text}");
    // Others go ahead.
    assert!(pool.try_acquire().is_ok());
    let flows = pool.stats().flows;
    assert_eq!((flows[0].held, flows[0].waiting), (1, 1));
    drop(held);
    assert!(queued.wait().is_ok());
    pool.reset_flow(alice);
    assert!(pool.enqueue(request).is_ok());
}

#[test]
fn a_request_goes_to_a_member_with_the_named_labels() {
    let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
    let vision = pool.labels(["vision"]).unwrap();
    pool.add(Member::new("text only")).unwrap();
    pool.add(Member::new("with vision").labels(vision)).unwrap();
    for _ in 0..3 {
        let lease = pool.enqueue(Request::new().labels(vision)).unwrap();
        assert_eq!(*lease.wait().unwrap(), "with vision");
    }
}

#[test]
fn a_request_that_was_polled_can_be_waited_for() {
    let pool = pool(1);
    let held = pool.acquire().unwrap();
    let mut pending = pool.enqueue(Request::new()).unwrap();
    let context = Context::from_waker(Waker::noop());
    assert!(pending.poll(&context).0.is_pending());
    let (served, answer) = mpsc::channel();
    thread::spawn(move || served.send(pending.wait().is_ok()).unwrap());
    // The release must find the thread asleep; if it comes too early, the test passes without testing that.
    thread::sleep(Duration::from_millis(20));
    drop(held);
    assert_eq!(answer.recv_timeout(LONG), Ok(true));
}

/// Uses the pool in its `Drop`.
struct UsesPool(SyncPool<Self>);

impl Drop for UsesPool {
    fn drop(&mut self) {
        let _ = self.0.stats();
    }
}

#[test]
fn a_payload_may_use_the_pool_in_its_drop() {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
        let add = || pool.add(Member::new(UsesPool(pool.clone()))).unwrap();
        // Payloads are dropped with the last lease, out of a full inbox, and with the inbox.
        for capacity in [None, Some(1), Some(2)] {
            let events = capacity.map(|room| pool.events(NonZeroUsize::new(room).unwrap()));
            let [one, other] = [add(), add()];
            let leases = [one, other].map(|member| {
                let pending = pool.enqueue(Request::new().pin(member)).unwrap();
                pending.wait().unwrap()
            });
            for member in [one, other] {
                assert!(pool.remove(member).unwrap().is_none());
            }
            for lease in leases {
                lease.release(Outcome::Ok).unwrap();
            }
            drop(events);
        }
        done.send(()).unwrap();
    });
    assert_eq!(ended.recv_timeout(LONG), Ok(()));
}
