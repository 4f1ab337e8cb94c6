//! Futures that are dropped at each point where they wait lose no lease or admission, and strand no waiter.
//!
//! Each scenario polls its future n times, lets something happen after each poll, and drops it, for every n
//! until it completes. The future never sees what happens after its last poll.

#[cfg(feature = "http")]
mod body;

use super::*;
use crate::{LeaseLayer, Leased, RateLimit, RateLimitLayer};
use ::core::convert::Infallible;
use ::core::task::Context;
use ::tower::{Layer, Service, ServiceExt, service_fn};
use leasehold_core::limit::{Concurrency, Limiter};
use tokio::task::JoinHandle;
use tokio::time::advance;

/// More polls than any future here needs.
const MAX_POLLS: u32 = 64;

/// Runs a scenario for every number of polls until it returns that its future completed; returns that number.
async fn at_every_point(mut scenario: impl AsyncFnMut(u32) -> bool) -> u32 {
    for polls in 0..MAX_POLLS {
        if scenario(polls).await {
            return polls;
        }
    }
    panic!("the future never completes");
}

/// Advances the clock in steps of at most 1 s, and lets all tasks run after each.
async fn pass(mut span: Duration) {
    settle().await;
    while !span.is_zero() {
        let step = span.min(SECOND);
        advance(step).await;
        settle().await;
        span -= step;
    }
}

/// Queues a task for a lease, which returns when it was granted.
async fn waiter(pool: &TokioPool<u32>, start: Instant) -> JoinHandle<Duration> {
    let pool = pool.clone();
    let waiter = tokio::spawn(async move {
        let _lease = pool.acquire().await.expect("the pool stays open");
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
    let released = total.ok + total.failed + total.throttled + total.unknown + total.not_sent;
    let ended = released + total.expired;
    assert_eq!(total.granted, ended);
}

/// Position of the future that is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// First in the queue and timekeeper, with a waiter behind it.
    First,
    /// Between two waiters.
    Middle,
    /// Between two waiters, with a subscriber as timekeeper.
    Subscribed,
}

const POSITIONS: [Position; 3] = [Position::First, Position::Middle, Position::Subscribed];

/// The tasks that come before the future that is dropped.
struct Others {
    /// The waiter before it in the queue.
    before: Option<JoinHandle<Duration>>,
    subscriber: Option<JoinHandle<bool>>,
}

impl Others {
    async fn spawn(pool: &TokioPool<u32>, position: Position, start: Instant) -> Self {
        let mut events = pool.events(SOME);
        let subscriber = (position == Position::Subscribed)
            .then(|| tokio::spawn(async move { events.next().await.is_none() }));
        let before = match position {
            Position::First => None,
            Position::Middle | Position::Subscribed => Some(waiter(pool, start).await),
        };
        Self { before, subscriber }
    }

    /// Closes the pool of a subscriber, which must end then.
    async fn close(self, pool: &TokioPool<u32>) {
        if let Some(subscriber) = self.subscriber {
            pool.blocking().close();
            assert!(subscriber.await.unwrap());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_acquisition_that_waits_for_a_window() {
    let timeouts = [30, 60, 90, 150].map(|secs| Some(secs * SECOND));
    for position in POSITIONS {
        for timeout in timeouts.into_iter().chain([None]) {
            // Time between the last poll and the drop.
            for neglect in [Duration::ZERO, 25 * SECOND] {
                at_every_point(async |polls| {
                    drop_while_a_window_is_full(position, timeout, neglect, polls).await
                })
                .await;
            }
        }
    }
}

async fn drop_while_a_window_is_full(
    position: Position,
    timeout: Option<Duration>,
    neglect: Duration,
    polls: u32,
) -> bool {
    let pool = key(1);
    let start = Instant::now();
    drop(pool.acquire().await.unwrap());
    let mut others = Others::spawn(&pool, position, start).await;
    let mut future = Box::pin(match timeout {
        None => pool.acquire(),
        Some(timeout) => pool.acquire_timeout(timeout),
    });
    let mut done = poll_times(&mut future, polls.min(1), async |_| ()).await;
    let behind = waiter(&pool, start).await;
    if done.is_none() && polls > 1 {
        let between = async |_| pass(10 * SECOND).await;
        done = poll_times(&mut future, polls - 1, between).await;
    }
    if done.is_none() {
        pass(neglect).await;
    }
    drop(future);
    let dropped = start.elapsed();
    let is_done = done.is_some();
    let is_served = done.is_some_and(|answer| answer.is_ok());

    let opens = match others.before.take() {
        None => MINUTE,
        Some(before) => {
            assert_eq!(before.await.unwrap(), MINUTE);
            2 * MINUTE
        }
    };
    let behind = behind.await.unwrap();
    let case = format!("{position:?}, {timeout:?}, {polls} polls: {behind:?}");
    match is_served {
        true => assert_eq!(behind, opens + MINUTE, "{case}"),
        false => assert!(behind >= opens && behind <= opens.max(dropped), "{case}"),
    }
    assert_nothing_is_lost(&pool);
    pass(MINUTE).await;
    assert!(pool.try_acquire().is_ok());
    others.close(&pool).await;
    is_done
}

#[tokio::test(start_paused = true)]
async fn an_acquisition_that_waits_for_a_release() {
    for position in POSITIONS {
        let polls = at_every_point(async |polls| {
            let pool = pool(1);
            let start = Instant::now();
            let mut held = Some(pool.acquire().await.unwrap());
            let mut others = Others::spawn(&pool, position, start).await;
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
            if let Some(before) = others.before.take() {
                assert_eq!(before.await.unwrap(), dropped);
            }
            assert_nothing_is_lost(&pool);
            assert!(pool.try_acquire().is_ok());
            others.close(&pool).await;
            is_done
        });
        assert_eq!(polls.await, 5);
    }
}

#[tokio::test(start_paused = true)]
async fn a_timekeeper_hands_its_deadlines_over() {
    let polls = at_every_point(async |polls| {
        let pool = pool(1);
        let _held = pool.acquire().await.unwrap();
        let start = Instant::now();
        let mut timekeeper = Box::pin(pool.acquire_timeout(5 * SECOND));
        let first = poll_times(&mut timekeeper, polls.min(1), async |_| ()).await;
        assert!(first.is_none());
        let mut others = JoinSet::new();
        for secs in [3, 6, 9] {
            let pool = pool.clone();
            others.spawn(async move {
                let timeout = secs * SECOND;
                let refused = pool.acquire_timeout(timeout).await.unwrap_err();
                assert_eq!(refused, TIMED_OUT);
                assert!(start.elapsed() - timeout <= Duration::from_millis(1));
            });
        }
        settle().await;
        let rest = poll_times(timekeeper, polls.saturating_sub(1), async |_| {
            pass(SECOND).await
        });
        let done = rest.await;
        others.join_all().await;
        done.is_some()
    });
    assert_eq!(polls.await, 7);
}

/// A service that is ready at its third poll.
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

/// Polls a call, drops it, and checks that a waiter behind it is served at once; returns its answer if it was ready.
///
/// The call waits for the only member, whose lease is released after the second poll.
async fn drop_under_a_lease<F: Future>(
    pool: &TokioPool<u32>,
    position: Position,
    polls: u32,
    call: F,
) -> Option<F::Output> {
    let start = Instant::now();
    let mut held = Some(pool.acquire().await.unwrap());
    let mut others = Others::spawn(pool, position, start).await;
    let mut call = Box::pin(call);
    let first = poll_times(&mut call, polls.min(1), async |_| ()).await;
    assert!(first.is_none());
    let behind = waiter(pool, start).await;
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
    if let Some(before) = others.before.take() {
        assert!(before.await.unwrap() <= dropped);
    }
    assert_nothing_is_lost(pool);
    assert!(pool.try_acquire().is_ok());
    others.close(pool).await;
    done
}

#[tokio::test(start_paused = true)]
async fn a_call_under_a_lease() {
    for position in POSITIONS {
        let mut outcomes = Vec::new();
        let polls = at_every_point(async |polls| {
            let pool = pool(1);
            let layer = LeaseLayer::new(pool.clone(), |_: &u32| Request::new());
            let service = layer
                .abandoned(Outcome::Failed)
                .layer(SlowlyReady(service_fn(several_awaits_at), 0));
            let done = drop_under_a_lease(&pool, position, polls, service.oneshot(7)).await;
            let total = pool.blocking().stats().total;
            outcomes.push((total.not_sent, total.failed));
            done.inspect(|answer| assert_eq!(*answer, Ok(7))).is_some()
        });
        let polls = polls.await;
        assert!(polls >= 9, "{polls}");
        // Dropped in the queue, before the inner service was ready, during the call, and served.
        outcomes.dedup();
        assert_eq!(outcomes, [(0, 0), (1, 0), (0, 1), (0, 0)], "{position:?}");
    }
}

/// Queues a task for an admission, which returns when it was admitted.
async fn admission<S>(service: &RateLimit<S>, start: Instant) -> JoinHandle<Duration>
where
    S: Service<u32, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let mut service = service.clone();
    let waiter = tokio::spawn(async move {
        service.ready().await.expect("the service is admitted");
        start.elapsed()
    });
    settle().await;
    waiter
}

/// A limit of a rate-limit scenario, in which all its units are completed 30 s after the start.
#[derive(Clone)]
struct Limit {
    limiter: Limiter,
    units: u32,
    /// When the units are available again, after the start.
    opens: Duration,
    /// How long a unit counts after its completion.
    window: Duration,
}

#[tokio::test(start_paused = true)]
async fn a_call_under_a_rate_limit() {
    let window = Limit {
        limiter: per_minute(2).into(),
        units: 2,
        opens: 90 * SECOND,
        window: MINUTE,
    };
    let concurrency = Limit {
        limiter: Concurrency::new(NonZeroU32::MIN).into(),
        units: 1,
        opens: 30 * SECOND,
        window: Duration::ZERO,
    };
    for limit in [window, concurrency] {
        for queued_before in [0, 1, 2] {
            let polls = at_every_point(async |polls| {
                drop_under_a_rate_limit(&limit, queued_before, polls).await
            });
            let polls = polls.await;
            assert!(polls > 10, "{polls}");
        }
    }
}

async fn drop_under_a_rate_limit(limit: &Limit, queued_before: u32, polls: u32) -> bool {
    let start = Instant::now();
    let layer = RateLimitLayer::new(limit.limiter.clone());
    let service = layer.layer(SlowlyReady(service_fn(several_awaits::<u32>), 0));
    for _ in 0..limit.units {
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
    let between = async |_| pass(5 * SECOND).await;
    let done = poll_times(call, polls.saturating_sub(3), between).await;
    drop(ours);
    let ended = start.elapsed().max(limit.opens);
    for ahead in ahead {
        assert!(ahead.await.unwrap() <= ended);
    }
    for behind in behind {
        let admitted = behind.await.unwrap();
        assert!(admitted >= limit.opens, "{polls} polls: {admitted:?}");
        assert!(
            admitted <= ended + limit.window,
            "{polls} polls: {admitted:?}"
        );
    }
    pass(2 * MINUTE).await;
    assert_eq!(layer.available_and_waiting(), (limit.units, 0));
    done.is_some()
}

#[tokio::test(start_paused = true)]
async fn an_unused_admission_passes_to_the_next_service_at_once() {
    let layer = RateLimitLayer::new(per_minute(1));
    let service = layer.layer(service_fn(several_awaits::<u32>));
    let start = Instant::now();
    let mut ready = service.clone();
    ready.ready().await.unwrap();
    let waiting = [
        admission(&service, start).await,
        admission(&service, start).await,
    ];
    let last = admission(&service, start).await;
    waiting[0].abort();
    last.abort();
    pass(SECOND).await;
    drop(ready);
    let [_, next] = waiting;
    assert_eq!(next.await.unwrap(), SECOND);
    assert_eq!(layer.available_and_waiting(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_waits_for_an_event() {
    for is_alone in [true, false] {
        let polls = at_every_point(async |polls| {
            let config = PoolConfig::builder(Policy::Fifo)
                .lease_ttl(5 * SECOND)
                .build()
                .unwrap();
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
            let received = rest.await;
            let dropped = start.elapsed();
            if let Some(waiting) = waiting {
                let served = waiting.await.unwrap();
                assert!(served <= dropped.max(5 * SECOND) + Duration::from_millis(1));
            }
            let is_received = received.is_some();
            let event = match received {
                Some(event) => event,
                None => events.next().await,
            };
            assert!(
                matches!(event, Some(PoolEvent::Expired { .. })),
                "{event:?}"
            );
            assert!(events.take().is_none());
            assert!(pool.try_acquire().is_ok());
            assert_nothing_is_lost(&pool);
            is_received
        });
        assert_eq!(polls.await, 7);
    }
}

/// Polls a future once here, then awaits it in another task.
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
async fn a_future_that_moves_to_another_task_wakes_that_task() {
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

/// Waits for a grant; returns the time at which it came.
async fn served_at<R, E: ::core::fmt::Debug>(
    future: impl Future<Output = Result<R, E>>,
    start: Instant,
) -> Duration {
    drop(future.await.expect("the future succeeds"));
    start.elapsed()
}
