//! The pool and the layers under tokio, in virtual time unless threads take part.

#[cfg(feature = "http")]
mod body;
mod dropped;
#[cfg(feature = "http")]
mod headers;
mod tower;

use crate::TokioPool;
use ::core::future::{Future, poll_fn};
use ::core::num::{NonZeroU32, NonZeroUsize};
use ::core::pin::pin;
use ::core::task::Poll;
use ::core::time::Duration;
use leasehold_core::balance::Policy;
use leasehold_core::health::ProbeConfig;
use leasehold_core::limit::{Anchor, SlidingLog};
use leasehold_core::pool::{
    Cause, HealthChange, Member, Outcome, PoolConfig, ProbeResult, Request,
};
use leasehold_sync::{AcquireError, PoolEvent};
use std::sync::{Arc, Mutex};
use tokio::task::{JoinSet, coop, yield_now};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const SOME: NonZeroUsize = NonZeroUsize::MIN.saturating_add(15);

/// The refusal of a request that waited for a leased member in vain.
const TIMED_OUT: AcquireError = AcquireError::TimedOut { cause: Cause::Full };

fn pool(members: u32) -> TokioPool<u32> {
    let pool = TokioPool::new(PoolConfig::new(Policy::Fifo));
    for name in 0..members {
        let member = Member::new(name).max_leases(NonZeroU32::MIN);
        pool.blocking()
            .add(member)
            .expect("a small pool takes members");
    }
    pool
}

fn per_minute(limit: u32) -> SlidingLog {
    let limit = NonZeroU32::new(limit).expect("a limit is above zero");
    SlidingLog::new(limit, MINUTE, Anchor::Completion).expect("a minute is a window")
}

fn key(limit: u32) -> TokioPool<u32> {
    let pool = TokioPool::new(PoolConfig::new(Policy::Fifo));
    let member = Member::new(0).limit(per_minute(limit));
    pool.blocking()
        .add(member)
        .expect("a small pool takes members");
    pool
}

/// Polls a future at most `times` times, with `between` after each; returns its output if it is ready.
async fn poll_times<F: Future>(
    future: F,
    times: u32,
    mut between: impl AsyncFnMut(u32),
) -> Option<F::Output> {
    let mut future = pin!(future);
    for turn in 0..times {
        let polled = poll_fn(|context| Poll::Ready(future.as_mut().poll(context)));
        if let Poll::Ready(output) = polled.await {
            return Some(output);
        }
        between(turn).await;
    }
    None
}

/// Lets every other task run until it waits.
async fn settle() {
    for _ in 0..8 {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn tasks_are_served_in_order() {
    let pool = pool(1);
    let held = pool.acquire().await.unwrap();
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for name in 0..50 {
        let (pool, served) = (pool.clone(), Arc::clone(&served));
        tasks.spawn(async move {
            let lease = pool.acquire().await.unwrap();
            served.lock().unwrap().push(name);
            sleep(SECOND).await;
            drop(lease);
        });
    }
    settle().await;
    drop(held);
    let start = Instant::now();
    tasks.join_all().await;
    assert_eq!(*served.lock().unwrap(), (0..50).collect::<Vec<_>>());
    assert_eq!(start.elapsed(), 50 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn each_request_times_out_at_its_deadline_exactly() {
    let pool = pool(1);
    let _held = pool.acquire().await.unwrap();
    let mut tasks = JoinSet::new();
    for name in 0..8 {
        let pool = pool.clone();
        tasks.spawn(async move {
            let (start, wait) = (Instant::now(), SECOND * (1 + (name * 5) % 8));
            let refused = pool.acquire_timeout(wait).await.unwrap_err();
            assert_eq!(refused, TIMED_OUT);
            assert_eq!(start.elapsed(), wait);
        });
    }
    tasks.join_all().await;
    assert_eq!(pool.blocking().stats().waiting.timed_out, 8);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_counts_from_the_first_poll() {
    let pool = pool(1);
    let _held = pool.acquire().await.unwrap();
    let later = pool.acquire_timeout(SECOND);
    sleep(MINUTE).await;
    let start = Instant::now();
    assert_eq!(later.await.unwrap_err(), TIMED_OUT);
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_before_the_window_opens_is_refused_at_once() {
    let pool = key(1);
    drop(pool.acquire().await.unwrap());
    let start = Instant::now();
    let refused = pool.acquire_timeout(MINUTE - SECOND).await.unwrap_err();
    let AcquireError::DeadlineTooSoon { wait, cause } = refused else {
        panic!("{refused}");
    };
    assert_eq!((wait, cause.is_exhaustion()), (MINUTE, true));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_window_that_opens_wakes_its_waiters_exactly_then() {
    let pool = key(2);
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..6 {
        let pool = pool.clone();
        tasks.spawn(async move {
            let lease = pool.acquire().await.unwrap();
            let granted = start.elapsed();
            sleep(SECOND).await;
            drop(lease);
            granted
        });
    }
    let mut granted = tasks.join_all().await;
    granted.sort();
    let window = MINUTE + SECOND;
    let expected = [0, 0, 1, 1, 2, 2].map(|windows| window * windows);
    assert_eq!(granted, expected);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_moves_the_opening_moves_the_wake_up_time() {
    let pool = key(1);
    let held = pool.acquire().await.unwrap();
    let theirs = pool.clone();
    let start = Instant::now();
    let waiter = tokio::spawn(async move {
        let _lease = theirs.acquire_timeout(3 * MINUTE).await.unwrap();
        start.elapsed()
    });
    sleep(SECOND).await;
    drop(held);
    assert_eq!(waiter.await.unwrap(), MINUTE + SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_lease_is_granted_again_at_its_expiry() {
    let config = PoolConfig::builder(Policy::Fifo)
        .lease_ttl(MINUTE)
        .build()
        .unwrap();
    let pool = TokioPool::new(config);
    let member = Member::new(0).max_leases(NonZeroU32::MIN);
    pool.blocking().add(member).unwrap();
    ::core::mem::forget(pool.acquire().await.unwrap());
    let start = Instant::now();
    let lease = pool.acquire().await.unwrap();
    assert_eq!(start.elapsed(), MINUTE);
    assert_eq!(lease.waited(), MINUTE);
    assert_eq!(pool.blocking().stats().total.expired, 1);
}

#[tokio::test(start_paused = true)]
async fn close_wakes_all_waiters_and_keeps_held_leases_valid() {
    let pool = pool(1);
    let held = pool.acquire().await.unwrap();
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let pool = pool.clone();
        tasks.spawn(async move { pool.acquire().await.unwrap_err() });
    }
    let theirs = pool.clone();
    let subscriber = tokio::spawn(async move { theirs.events(SOME).next().await.is_none() });
    settle().await;
    pool.blocking().close();
    assert_eq!(tasks.join_all().await, [AcquireError::Closed; 4]);
    assert!(subscriber.await.unwrap());
    assert_eq!(held.release(Outcome::Ok), Ok(()));
    assert_eq!(pool.acquire().await.unwrap_err(), AcquireError::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_request_keeps_its_pin_and_deadline() {
    let pool = pool(2);
    let (second, _) = pool.blocking().members()[1];
    let pinned = Request::new().pin(second);
    let lease = pool.acquire_with(pinned).await.unwrap();
    assert_eq!(lease.member(), second);
    let now = pool.blocking().now();
    let (start, deadline) = (Instant::now(), now.saturating_add(SECOND));
    let refused = pool.acquire_with(pinned.deadline(deadline)).await;
    assert_eq!(refused.unwrap_err(), TIMED_OUT);
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_receives_probes_when_due_and_health_changes() {
    let probes = ProbeConfig::builder(MINUTE, SECOND).jitter(0);
    let probes = probes.rise(NonZeroU32::MIN).fall(NonZeroU32::MIN);
    let config = PoolConfig::builder(Policy::Fifo).health(probes.build().unwrap());
    let pool = TokioPool::new(config.build().unwrap());
    pool.blocking().add(Member::new(7)).unwrap();
    let mut events = pool.events(SOME);
    let mut probed = Vec::new();
    let mut changes = Vec::new();
    while changes.len() < 2 {
        match events.next().await.unwrap() {
            PoolEvent::Probe { probe, payload, .. } => {
                assert_eq!(*payload, 7);
                probed.push(Instant::now());
                // The second is not answered, and counts as failed at its timeout.
                if probed.len() != 2 {
                    let up = ProbeResult::Up {
                        depth: None,
                        latency: None,
                    };
                    pool.blocking().answer_probe(probe, up).unwrap();
                }
            }
            PoolEvent::Changed { change, .. } => changes.push(change),
            other @ (PoolEvent::Expired { .. }
            | PoolEvent::Drained { .. }
            | PoolEvent::Removed { .. }
            | PoolEvent::Missed { .. }) => panic!("{other:?}"),
        }
    }
    assert_eq!(changes, [HealthChange::Down, HealthChange::Up]);
    let gaps: Vec<_> = probed.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        gaps.iter()
            .all(|gap| *gap >= MINUTE && *gap <= MINUTE + SECOND),
        "{gaps:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_paused_subscription_hands_over_timekeeping() {
    let pool = key(1);
    let mut events = pool.events(SOME);
    drop(pool.acquire().await.unwrap());
    let theirs = pool.clone();
    let start = Instant::now();
    let waiter = tokio::spawn(async move {
        let _lease = theirs.acquire().await.unwrap();
        start.elapsed()
    });
    settle().await;
    assert!(timeout(SECOND, events.next()).await.is_err());
    assert_eq!(waiter.await.unwrap(), MINUTE);
}

#[tokio::test]
async fn a_task_that_is_always_served_at_once_lets_others_run() {
    let pool = pool(1);
    let busy = tokio::spawn(async move {
        loop {
            drop(pool.acquire().await);
        }
    });
    yield_now().await;
    busy.abort();
    assert!(busy.await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn a_grant_to_a_dropped_task_without_budget_is_released_as_not_sent() {
    let pool = pool(1);
    let mut acquire = pool.acquire();
    poll_fn(|context| {
        while let Poll::Ready(budget) = coop::poll_proceed(context) {
            budget.made_progress();
        }
        assert!(pin!(&mut acquire).poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    assert!(pool.try_acquire().is_err());
    drop(acquire);
    assert!(pool.try_acquire().is_ok());
    assert_eq!(pool.blocking().stats().total.not_sent, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_and_tasks_share_one_pool_and_no_lease_is_lost() {
    const EACH: u64 = 300;
    let pool = pool(3);
    let busy: Arc<[Mutex<()>; 3]> = Arc::default();
    let serve = |member: u32, busy: &[Mutex<()>; 3]| {
        let exclusive = busy[member as usize].try_lock();
        drop(exclusive.expect("a member serves one call at a time"));
    };
    let mut threads = Vec::new();
    let mut tasks = JoinSet::new();
    for name in 0..4 {
        let (theirs, busy_one) = (pool.clone(), Arc::clone(&busy));
        threads.push(std::thread::spawn(move || {
            for _ in 0..EACH {
                serve(*theirs.blocking().acquire().unwrap(), &busy_one);
            }
        }));
        let (theirs, busy_one) = (pool.clone(), Arc::clone(&busy));
        tasks.spawn(async move {
            for round in 0..EACH {
                let lease = theirs.acquire().await.unwrap();
                if (round + name) % 3 == 0 {
                    yield_now().await;
                }
                serve(*lease, &busy_one);
            }
        });
        let theirs = pool.clone();
        tasks.spawn(async move {
            for round in 0..EACH as u32 {
                let lease = poll_times(theirs.acquire(), round % 3, async |_| yield_now().await);
                drop(lease.await);
            }
        });
    }
    tasks.join_all().await;
    for thread in threads {
        thread.join().unwrap();
    }
    let stats = pool.blocking().stats();
    assert_eq!(stats.waiting.waiting, 0);
    assert!(stats.members.iter().all(|member| member.in_flight == 0));
    let total = stats.total;
    assert_eq!(total.granted, total.unknown + total.not_sent);
    assert!(total.unknown >= 8 * EACH);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_opens_for_tasks_and_threads() {
    const WINDOW: Duration = Duration::from_millis(40);
    let pool = TokioPool::new(PoolConfig::new(Policy::Fifo));
    let limit = SlidingLog::new(NonZeroU32::MIN, WINDOW, Anchor::Grant).unwrap();
    pool.blocking().add(Member::new(0).limit(limit)).unwrap();
    let start = Instant::now();
    let mut all = JoinSet::new();
    for _ in 0..3 {
        let theirs = pool.clone();
        all.spawn(async move { drop(theirs.acquire().await.unwrap()) });
        let theirs = pool.clone();
        all.spawn_blocking(move || drop(theirs.blocking().acquire().unwrap()));
    }
    all.join_all().await;
    assert!(start.elapsed() >= WINDOW * 5);
    assert_eq!(pool.blocking().stats().total.unknown, 6);
}

#[tokio::test]
async fn tasks_and_threads_share_the_names_of_classes_and_labels() {
    let pool = pool(1);
    let class = pool.class("gpt-4o").unwrap();
    assert_eq!(pool.blocking().class("gpt-4o"), Ok(class));
    let labels = pool.labels(["vision"]).unwrap();
    assert_eq!(pool.blocking().labels(["vision"]), Ok(labels));
}

#[test]
fn futures_are_send_if_their_payload_is() {
    fn is_send_and_sync<S: Send + Sync>(_: &S) {}
    fn is_send<S: Send + Unpin>(_: &S) {}
    let pool = pool(0);
    is_send_and_sync(&pool);
    is_send(&pool.acquire());
    is_send_and_sync(&pool.events(SOME));
}
