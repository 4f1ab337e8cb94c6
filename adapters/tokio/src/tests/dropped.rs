//! Futures dropped at each point where they wait, in turn: nothing is lost, and nobody else is stranded.
//!
//! Each scenario polls its future n times, lets something happen after each poll, and drops it, for every n
//! until it completes. What happens after the last poll is what the future never looks at.

use super::*;
use crate::{LeaseLayer, Leased, RateLimit, RateLimitLayer};
use ::core::convert::Infallible;
use ::core::task::Context;
use ::tower::{Layer, Service, ServiceExt, service_fn};
use leasehold_core::limit::{Concurrency, Limiter};
use tokio::task::JoinHandle;
use tokio::time::advance;

/// More polls than any future here needs.
const MOST: u32 = 64;

/// Runs a scenario for every number of polls until it says that its future was completed, and answers how
/// many that took.
async fn at_every_point(mut scenario: impl AsyncFnMut(u32) -> bool) -> u32 {
    for polls in 0..MOST {
        if scenario(polls).await {
            return polls;
        }
    }
    panic!("it is never completed");
}

/// Lets time pass, a second at a time at most, and everybody run.
async fn pass(mut span: Duration) {
    settle().await;
    while !span.is_zero() {
        let step = span.min(SECOND);
        advance(step).await;
        settle().await;
        span -= step;
    }
}

/// Somebody who waits for a lease, and answers when it came. It is in line by the time this is ready.
async fn waiter(pool: &TokioPool<u32>, start: Instant) -> JoinHandle<Duration> {
    let pool = pool.clone();
    let waiter = tokio::spawn(async move {
        let _lease = pool.acquire().await.expect("it is never closed");
        start.elapsed()
    });
    settle().await;
    waiter
}

fn assert_nothing_is_lost(pool: &TokioPool<u32>) {
    let stats = pool.blocking().stats();
    assert_eq!(stats.waiting.waiting, 0);
    assert!(stats.members.iter().all(|member| member.in_flight == 0));
    let total = stats.total;
    let ended = total.ok + total.failed + total.throttled + total.not_sent + total.expired;
    assert_eq!(total.granted, ended);
}

/// Where the future that is dropped stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It keeps time, and somebody waits behind it.
    First,
    /// Somebody is before it, and somebody behind.
    Middle,
    /// As the middle, and a listener keeps time.
    Listened,
}

const PLACES: [Place; 3] = [Place::First, Place::Middle, Place::Listened];

#[tokio::test(start_paused = true)]
async fn an_acquisition_that_waits_for_a_window() {
    let impatient = [30, 60, 90, 150].map(|secs| Some(secs * SECOND));
    for place in PLACES {
        for patience in impatient.into_iter().chain([None]) {
            // How long it isn't looked after before it is dropped.
            for neglect in [Duration::ZERO, 25 * SECOND] {
                at_every_point(async |polls| {
                    let pool = key(1);
                    let start = Instant::now();
                    drop(pool.acquire().await.unwrap());
                    let mut events = pool.events(SOME);
                    let listener = (place == Place::Listened)
                        .then(|| tokio::spawn(async move { events.next().await.is_none() }));
                    let before = match place {
                        Place::First => None,
                        Place::Middle | Place::Listened => Some(waiter(&pool, start).await),
                    };
                    let mut future = Box::pin(match patience {
                        None => pool.acquire(),
                        Some(patience) => pool.acquire_timeout(patience),
                    });
                    let mut done = poll_times(&mut future, polls.min(1), async |_| ()).await;
                    let behind = waiter(&pool, start).await;
                    if done.is_none() && polls > 1 {
                        let rest = async |_| pass(10 * SECOND).await;
                        done = poll_times(&mut future, polls - 1, rest).await;
                    }
                    if done.is_none() {
                        pass(neglect).await;
                    }
                    drop(future);
                    let dropped = start.elapsed();
                    let is_done = done.is_some();
                    let is_served = done.is_some_and(|answer| answer.is_ok());

                    let opens = match before {
                        None => MINUTE,
                        Some(before) => {
                            assert_eq!(before.await.unwrap(), MINUTE);
                            2 * MINUTE
                        }
                    };
                    let behind = behind.await.unwrap();
                    let case = format!("{place:?}, {patience:?}, {polls} polls: {behind:?}");
                    match is_served {
                        true => assert_eq!(behind, opens + MINUTE, "{case}"),
                        false => assert!(behind >= opens && behind <= opens.max(dropped), "{case}"),
                    }
                    assert_nothing_is_lost(&pool);
                    pass(MINUTE).await;
                    assert!(pool.try_acquire().is_ok());
                    if let Some(listener) = listener {
                        pool.blocking().close();
                        assert!(listener.await.unwrap());
                    }
                    is_done
                })
                .await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_acquisition_that_waits_for_a_release() {
    for place in PLACES {
        let polls = at_every_point(async |polls| {
            let pool = pool(1);
            let start = Instant::now();
            let mut held = Some(pool.acquire().await.unwrap());
            let mut events = pool.events(SOME);
            let listener = (place == Place::Listened)
                .then(|| tokio::spawn(async move { events.next().await.is_none() }));
            let before = match place {
                Place::First => None,
                Place::Middle | Place::Listened => Some(waiter(&pool, start).await),
            };
            let mut future = Box::pin(pool.acquire());
            let first = poll_times(&mut future, polls.min(1), async |_| ()).await;
            assert!(first.is_none());
            let behind = waiter(&pool, start).await;
            let rest = poll_times(future, polls.saturating_sub(1), async |turn| {
                pass(SECOND).await;
                if turn == 2 {
                    drop(held.take());
                    settle().await;
                }
            });
            let done = rest.await;
            let is_done = done.is_some();
            drop((done, held));
            let dropped = start.elapsed();
            assert_eq!(behind.await.unwrap(), dropped);
            if let Some(before) = before {
                assert_eq!(before.await.unwrap(), dropped);
            }
            assert_nothing_is_lost(&pool);
            assert!(pool.try_acquire().is_ok());
            if let Some(listener) = listener {
                pool.blocking().close();
                assert!(listener.await.unwrap());
            }
            is_done
        });
        assert_eq!(polls.await, 5);
    }
}

#[tokio::test(start_paused = true)]
async fn the_timekeeper_s_deadline_passes_to_who_is_left() {
    let polls = at_every_point(async |polls| {
        let pool = pool(1);
        let _held = pool.acquire().await.unwrap();
        let start = Instant::now();
        let mut keeper = Box::pin(pool.acquire_timeout(5 * SECOND));
        let first = poll_times(&mut keeper, polls.min(1), async |_| ()).await;
        assert!(first.is_none());
        let mut others = JoinSet::new();
        for patience in [3, 6, 9] {
            let pool = pool.clone();
            others.spawn(async move {
                let patience = patience * SECOND;
                let refused = pool.acquire_timeout(patience).await.unwrap_err();
                assert_eq!(refused, AcquireError::TimedOut);
                assert!(start.elapsed() - patience <= Duration::from_millis(1));
            });
        }
        settle().await;
        let rest = poll_times(keeper, polls.saturating_sub(1), async |_| {
            pass(SECOND).await
        });
        let done = rest.await;
        others.join_all().await;
        done.is_some()
    });
    assert_eq!(polls.await, 7);
}

/// Is ready at its third poll.
#[derive(Clone)]
struct SlowlyReady<S>(S, u32);

impl<R, S: Service<R>> Service<R> for SlowlyReady<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.1 += 1;
        if self.1 < 3 {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.1 = 0;
        self.0.call(request)
    }
}

async fn several_awaits<R>(request: R) -> Result<R, Infallible> {
    yield_now().await;
    sleep(SECOND).await;
    yield_now().await;
    sleep(SECOND).await;
    Ok(request)
}

async fn several_awaits_at(leased: Leased<u32, u32>) -> Result<u32, Infallible> {
    several_awaits(leased.request + *leased.member).await
}

#[tokio::test(start_paused = true)]
async fn a_call_under_a_lease() {
    for place in PLACES {
        let mut dropped_as = Vec::new();
        let polls = at_every_point(async |polls| {
            let pool = pool(1);
            let start = Instant::now();
            let layer = LeaseLayer::new(pool.clone(), |_: &u32| Request::new());
            let mut service = layer
                .abandoned(Outcome::Failed)
                .layer(SlowlyReady(service_fn(several_awaits_at), 0));
            let mut held = Some(pool.acquire().await.unwrap());
            let mut events = pool.events(SOME);
            let listener = (place == Place::Listened)
                .then(|| tokio::spawn(async move { events.next().await.is_none() }));
            let before = match place {
                Place::First => None,
                Place::Middle | Place::Listened => Some(waiter(&pool, start).await),
            };
            service.ready().await.unwrap();
            let mut call = Box::pin(service.call(7));
            let first = poll_times(&mut call, polls.min(1), async |_| ()).await;
            assert!(first.is_none());
            let behind = waiter(&pool, start).await;
            let rest = poll_times(call, polls.saturating_sub(1), async |turn| {
                pass(SECOND / 2).await;
                if turn == 1 {
                    drop(held.take());
                    settle().await;
                }
            });
            let done = rest.await;
            drop(held);
            let dropped = start.elapsed();
            assert_eq!(behind.await.unwrap(), dropped);
            if let Some(before) = before {
                assert!(before.await.unwrap() <= dropped);
            }
            assert_nothing_is_lost(&pool);
            assert!(pool.try_acquire().is_ok());
            let total = pool.blocking().stats().total;
            dropped_as.push((total.not_sent, total.failed));
            if let Some(listener) = listener {
                pool.blocking().close();
                assert!(listener.await.unwrap());
            }
            done.inspect(|answer| assert_eq!(*answer, Ok(7))).is_some()
        });
        let polls = polls.await;
        assert!(polls >= 9, "{polls}");
        // In line, granted and not ready, called, and served.
        dropped_as.dedup();
        assert_eq!(dropped_as, [(0, 0), (1, 0), (0, 1), (0, 0)], "{place:?}");
    }
}

/// Somebody who waits for admission, and answers when it came.
async fn admission<S>(service: &RateLimit<S>, start: Instant) -> JoinHandle<Duration>
where
    S: Service<u32, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let mut service = service.clone();
    let waiter = tokio::spawn(async move {
        service.ready().await.expect("it is admitted");
        start.elapsed()
    });
    settle().await;
    waiter
}

#[tokio::test(start_paused = true)]
async fn a_call_under_a_rate_limit() {
    let limits: [(Limiter, u32); 2] = [
        (per_minute(2).into(), 2),
        (Concurrency::new(NonZeroU32::MIN).into(), 1),
    ];
    for (limit, most) in limits {
        let is_window = most == 2;
        for queued_before in [0, 1, 2] {
            let polls = at_every_point(async |polls| {
                let start = Instant::now();
                let layer = RateLimitLayer::new(limit.clone());
                let service = layer.layer(SlowlyReady(service_fn(several_awaits::<u32>), 0));
                // What is admitted now completes after 30 s.
                for _ in 0..most {
                    let mut service = service.clone();
                    tokio::spawn(async move {
                        service.ready().await.unwrap();
                        sleep(28 * SECOND).await;
                        service.call(0).await.unwrap();
                    });
                }
                settle().await;
                let mut ahead = Vec::new();
                for _ in 0..queued_before {
                    ahead.push(admission(&service, start).await);
                }
                let mut ours = service.clone();
                let call = async {
                    ours.ready().await.unwrap();
                    yield_now().await;
                    ours.call(1).await.unwrap();
                };
                let mut call = Box::pin(call);
                let first = poll_times(&mut call, polls.min(3), async |_| ()).await;
                assert!(first.is_none());
                let behind = [
                    admission(&service, start).await,
                    admission(&service, start).await,
                ];
                let rest = poll_times(call, polls.saturating_sub(3), async |_| {
                    pass(5 * SECOND).await;
                });
                let done = rest.await;
                let is_done = done.is_some();
                drop(ours);
                let ended = start.elapsed();
                let opens = match is_window {
                    true => 90 * SECOND,
                    false => 30 * SECOND,
                };
                for ahead in ahead {
                    assert!(ahead.await.unwrap() <= ended.max(opens));
                }
                let next_window = match is_window {
                    true => MINUTE,
                    false => Duration::ZERO,
                };
                for behind in behind {
                    let admitted = behind.await.unwrap();
                    assert!(admitted >= opens, "{admitted:?}");
                    assert!(
                        admitted <= ended.max(opens) + next_window,
                        "{polls}: {admitted:?}"
                    );
                }
                pass(2 * MINUTE).await;
                assert_eq!(layer.idle_capacity(), (most, 0));
                is_done
            });
            let polls = polls.await;
            assert!(polls > 10, "{polls}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_admission_that_was_not_used_is_the_next_one_s_at_once() {
    let layer = RateLimitLayer::new(per_minute(1));
    let service = layer.layer(service_fn(several_awaits::<u32>));
    let start = Instant::now();
    let mut ready = service.clone();
    ready.ready().await.unwrap();
    let waiting = [
        admission(&service, start).await,
        admission(&service, start).await,
    ];
    let leaves = admission(&service, start).await;
    waiting[0].abort();
    leaves.abort();
    pass(SECOND).await;
    drop(ready);
    let [_, next] = waiting;
    assert_eq!(next.await.unwrap(), SECOND);
    assert_eq!(layer.idle_capacity(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_notice() {
    for is_alone in [true, false] {
        let polls = at_every_point(async |polls| {
            let config = PoolConfig::new(Policy::Fifo).lease_ttl(5 * SECOND).unwrap();
            let pool = TokioPool::new(config);
            let member = Member::new(0).max_leases(NonZeroU32::MIN);
            pool.blocking().add(member).unwrap();
            let start = Instant::now();
            let mut events = pool.events(SOME);
            ::core::mem::forget(pool.acquire().await.unwrap());
            let mut next = Box::pin(events.next());
            let first = poll_times(&mut next, polls.min(1), async |_| ()).await;
            assert!(first.is_none());
            let waiting = match is_alone {
                true => None,
                false => Some(waiter(&pool, start).await),
            };
            let rest = poll_times(next, polls.saturating_sub(1), async |_| pass(SECOND).await);
            let told = rest.await;
            let dropped = start.elapsed();
            if let Some(waiting) = waiting {
                let served = waiting.await.unwrap();
                assert!(served <= dropped.max(5 * SECOND) + Duration::from_millis(1));
            }
            let is_told = told.is_some();
            let again = match told {
                Some(told) => told,
                None => events.next().await,
            };
            assert!(
                matches!(again, Some(PoolEvent::Expired { .. })),
                "{again:?}"
            );
            assert!(events.take().is_none());
            assert!(pool.try_acquire().is_ok());
            assert_nothing_is_lost(&pool);
            is_told
        });
        assert_eq!(polls.await, 7);
    }
}

/// Polls a future once here, then awaits it in a task of its own.
async fn moved<F: Future<Output: Send + 'static> + Send + 'static>(
    future: F,
) -> JoinHandle<F::Output> {
    let mut future = Box::pin(future);
    let early = poll_times(&mut future, 1, async |_| settle().await).await;
    assert!(early.is_none());
    let task = tokio::spawn(future);
    settle().await;
    task
}

#[tokio::test(start_paused = true)]
async fn a_future_that_moves_wakes_the_task_that_has_it() {
    let start = Instant::now();
    let (keys, backends) = (key(1), pool(1));
    let held = backends.acquire().await.unwrap();
    drop(keys.acquire().await.unwrap());
    let layer = RateLimitLayer::new(Concurrency::new(NonZeroU32::MIN));
    let service = layer.layer(service_fn(several_awaits::<u32>));
    let mut ready = service.clone();
    ready.ready().await.unwrap();

    let mut events = backends.events(SOME);
    let tasks = [
        moved(served_at(keys.acquire(), start)).await,
        moved(served_at(backends.acquire(), start)).await,
        moved(served_at(service.oneshot(1), start)).await,
        moved(async move {
            assert!(events.next().await.is_none());
            start.elapsed()
        })
        .await,
    ];
    pass(SECOND).await;
    drop(held);
    drop(ready);
    pass(SECOND).await;
    backends.blocking().close();
    let mut ends = Vec::new();
    for task in tasks {
        ends.push(task.await.unwrap());
    }
    assert_eq!(ends, [60, 1, 3, 2].map(|secs| secs * SECOND));
}

/// Waits for what is granted, and answers when it was.
async fn served_at<R, E: ::core::fmt::Debug>(
    future: impl Future<Output = Result<R, E>>,
    start: Instant,
) -> Duration {
    drop(future.await.expect("it is served"));
    start.elapsed()
}
