//! The lease and rate-limit layers in tower stacks.

use super::*;
use crate::{LeaseError, LeaseLayer, LeaseService, Leased, RateLimitError, RateLimitLayer};
use ::core::convert::Infallible;
use ::core::sync::atomic::{AtomicU32, Ordering};
use ::core::task::Context;
use ::tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use leasehold_core::limit::Concurrency;
use leasehold_core::pool::Release;

fn any<R>(_: &R) -> Request {
    Request::new()
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_to_the_member_it_is_pinned_to() {
    let pool = pool(3);
    let members = pool.blocking().members();
    let observed = pool.clone();
    let layer = LeaseLayer::new(pool, move |name: &usize| {
        Request::new().pin(members[*name].0)
    });
    let service = layer.layer(service_fn(
        |Leased { member, request }: Leased<u32, usize>| async move {
            Ok::<_, Infallible>((*member, request))
        },
    ));
    for name in 0..3 {
        let answer = service.clone().oneshot(name).await.unwrap();
        assert_eq!(answer, (name as u32, name));
    }
    let stats = observed.blocking().stats();
    assert!(stats.members.iter().all(|member| member.counts.ok == 1));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_released_as_its_answer_is_classified() {
    let pool = pool(1);
    let inner = || {
        service_fn(|leased: Leased<u32, bool>| async move {
            match leased.request {
                true => Ok(()),
                false => Err("the upstream is down"),
            }
        })
    };
    let plain = LeaseLayer::new(pool.clone(), any).layer(inner());
    assert_eq!(plain.clone().oneshot(true).await, Ok(()));
    let failed = plain.oneshot(false).await.unwrap_err();
    assert_eq!(failed, LeaseError::Inner("the upstream is down"));
    assert_eq!(failed.to_string(), "the upstream is down");

    let theirs = pool.clone();
    let classify = move |answer: &Result<(), &str>| match answer {
        Ok(()) => Release::from(Outcome::NotSent),
        Err(_) => Outcome::Throttled {
            until: theirs.blocking().now().saturating_add(MINUTE),
        }
        .into(),
    };
    let classified = LeaseLayer::new(pool.clone(), any).classify(classify);
    let classified = classified.layer(inner());
    classified.clone().oneshot(true).await.unwrap();
    classified.clone().oneshot(false).await.unwrap_err();
    let start = Instant::now();
    classified.oneshot(true).await.unwrap();
    assert_eq!(start.elapsed(), MINUTE);

    let total = pool.blocking().stats().total;
    assert_eq!((total.ok, total.failed), (1, 1));
    assert_eq!((total.throttled, total.not_sent), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_pool_is_an_error() {
    let pool = pool(1);
    let _held = pool.acquire().await.unwrap();
    let theirs = pool.clone();
    let now = move |_: &()| Request::new().deadline(theirs.blocking().now());
    let service = LeaseLayer::new(pool, now).layer(service_fn(|_: Leased<u32, ()>| async move {
        Err::<(), _>("it must not be called")
    }));
    let refused = service.oneshot(()).await;
    let full = AcquireError::NotReady { cause: Cause::Full };
    assert_eq!(refused, Err(LeaseError::Refused(full)));
}

/// A service that is ready, or fails, at its second poll.
#[derive(Clone)]
struct Slow {
    polls: u32,
    fails: bool,
}

impl<R> Service<R> for Slow {
    type Response = R;
    type Error = &'static str;
    type Future = ::core::future::Ready<Result<R, &'static str>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        self.polls += 1;
        if self.polls == 1 {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(if self.fails {
            Err("never ready")
        } else {
            Ok(())
        })
    }

    fn call(&mut self, request: R) -> Self::Future {
        assert!(self.polls > 1, "called before it was ready");
        ::core::future::ready(Ok(request))
    }
}

#[tokio::test(start_paused = true)]
async fn an_inner_service_is_polled_until_ready_and_its_refusal_costs_nothing() {
    let pool = pool(1);
    let layer = LeaseLayer::new(pool.clone(), any);
    let (polls, limits) = (0, RateLimitLayer::new(per_minute(1)));
    let ready = Slow {
        polls,
        fails: false,
    };
    let unready = Slow { polls, fails: true };
    layer.layer(ready.clone()).oneshot(1).await.unwrap();
    let refused = layer.layer(unready.clone()).oneshot(1).await;
    assert_eq!(refused.unwrap_err(), LeaseError::Inner("never ready"));
    let total = pool.blocking().stats().total;
    assert_eq!((total.ok, total.not_sent), (1, 1));

    let refused = limits.layer(unready).oneshot(1).await;
    assert_eq!(refused.unwrap_err(), RateLimitError::Inner("never ready"));
    let start = Instant::now();
    limits.layer(ready).oneshot(1).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_counts_as_unknown_or_as_configured_and_a_panicking_one_as_failed() {
    let pool = pool(1);
    let hangs = service_fn(|leased: Leased<u32, bool>| async move {
        sleep(SECOND).await;
        assert!(leased.request, "a handler that dies");
        sleep(MINUTE).await;
        Ok::<_, Infallible>(())
    });
    let layer = LeaseLayer::new(pool.clone(), any);
    let plain = layer.layer(hangs);
    let strict = layer.abandoned(Outcome::Failed).layer(hangs);
    assert!(
        timeout(2 * SECOND, plain.clone().oneshot(true))
            .await
            .is_err()
    );
    let ended = || {
        let total = pool.blocking().stats().total;
        (total.ok, total.unknown, total.failed)
    };
    assert_eq!(ended(), (0, 1, 0));
    assert!(timeout(2 * SECOND, strict.oneshot(true)).await.is_err());
    assert_eq!(ended(), (0, 1, 1));
    let died = tokio::spawn(plain.oneshot(false)).await;
    assert!(died.unwrap_err().is_panic());
    assert_eq!(ended(), (0, 1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_ends_before_its_lease_or_admission_is_reused() {
    struct Busy(Arc<AtomicU32>);
    impl Busy {
        fn new(count: &Arc<AtomicU32>) -> Self {
            assert_eq!(
                count.fetch_add(1, Ordering::SeqCst),
                0,
                "two calls at a time"
            );
            Self(Arc::clone(count))
        }
    }
    impl Drop for Busy {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let (pool, count) = (pool(1), Arc::new(AtomicU32::new(0)));
    let one = RateLimitLayer::new(Concurrency::new(NonZeroU32::MIN));
    let leased = Arc::clone(&count);
    let leased = LeaseLayer::new(pool, any).layer(service_fn(move |_: Leased<u32, ()>| {
        let busy = Busy::new(&leased);
        async move {
            sleep(SECOND).await;
            drop(busy);
            Ok::<_, Infallible>(())
        }
    }));
    let admitted = one.layer(service_fn(move |()| {
        let busy = Busy::new(&count);
        async move {
            sleep(SECOND).await;
            drop(busy);
            Ok::<_, Infallible>(())
        }
    }));
    for limit in [1, 500, 1500] {
        let limit = Duration::from_millis(limit);
        let mut tasks = JoinSet::new();
        for _ in 0..3 {
            tasks.spawn(timeout(limit, leased.clone().oneshot(())));
        }
        while let Some(answer) = tasks.join_next().await {
            drop(answer.unwrap());
        }
        for _ in 0..3 {
            let admitted = timeout(limit, admitted.clone().oneshot(()));
            tasks.spawn(async { admitted.await.map(|_| Ok(())) });
        }
        while let Some(answer) = tasks.join_next().await {
            drop(answer.unwrap());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_admits_exactly_its_limit_in_each_window() {
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&arrivals);
    let start = Instant::now();
    let service = ServiceBuilder::new()
        .layer(RateLimitLayer::new(per_minute(3)))
        .service_fn(move |name: u64| {
            let log = Arc::clone(&log);
            async move {
                // A call takes 0 to 2 s, to the upstream and back.
                sleep(Duration::from_millis(name * 37 % 1000)).await;
                log.lock().unwrap().push(start.elapsed());
                sleep(Duration::from_millis(name * 91 % 1000)).await;
                Ok::<_, Infallible>(name)
            }
        });
    let mut tasks = JoinSet::new();
    for name in 0..30 {
        tasks.spawn(service.clone().oneshot(name));
    }
    while let Some(answer) = tasks.join_next().await {
        answer.unwrap().unwrap();
    }
    let mut arrivals = arrivals.lock().unwrap().clone();
    arrivals.sort();
    assert_eq!(arrivals.len(), 30);
    for four in arrivals.windows(4) {
        assert!(four[3] - four[0] >= MINUTE, "{four:?}");
    }
    // Nine windows after the first, each delayed by a call of at most 2 s.
    assert!(
        arrivals[29] <= 9 * (MINUTE + 2 * SECOND) + 2 * SECOND,
        "{arrivals:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_window_of_instant_calls_is_fully_used() {
    let service =
        RateLimitLayer::new(per_minute(3)).layer(service_fn(|start: Instant| async move {
            Ok::<_, Infallible>(start.elapsed())
        }));
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..9 {
        tasks.spawn(service.clone().oneshot(start));
    }
    let mut arrived: Vec<_> = tasks
        .join_all()
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    arrived.sort();
    assert_eq!(
        arrived,
        [0, 0, 0, 1, 1, 1, 2, 2, 2].map(|windows| MINUTE * windows)
    );
}

#[tokio::test(start_paused = true)]
async fn services_that_wait_for_a_rate_limit_are_served_in_order() {
    let limit = Concurrency::new(NonZeroU32::MIN);
    let served = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&served);
    let service = RateLimitLayer::new(limit).layer(service_fn(move |name: u32| {
        log.lock().unwrap().push(name);
        async {
            sleep(SECOND).await;
            Ok::<_, Infallible>(())
        }
    }));
    let mut tasks = JoinSet::new();
    for name in 0..20 {
        tasks.spawn(service.clone().oneshot(name));
        settle().await;
    }
    let start = Instant::now();
    tasks.join_all().await;
    assert_eq!(*served.lock().unwrap(), (0..20).collect::<Vec<_>>());
    assert_eq!(start.elapsed(), 20 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn no_service_overtakes_the_first_even_if_it_is_slow_to_poll_again() {
    let layer = RateLimitLayer::new(per_minute(1));
    let service = layer.layer(service_fn(|()| async { Ok::<_, Infallible>(()) }));
    service.clone().oneshot(()).await.unwrap();
    let mut first = service.clone();
    assert!(poll_times(first.ready(), 1, async |_| ()).await.is_none());
    sleep(MINUTE + SECOND).await;
    let mut second = service.clone();
    assert!(poll_times(second.ready(), 2, async |_| ()).await.is_none());
    first.ready().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn readiness_lasts_can_be_polled_twice_and_is_not_cloned() {
    let layer = RateLimitLayer::new(per_minute(1));
    let mut service = layer.layer(service_fn(|()| async { Ok::<_, Infallible>(()) }));
    service.ready().await.unwrap();
    sleep(MINUTE).await;
    service.ready().await.unwrap();
    let mut clone = service.clone();
    assert!(poll_times(clone.ready(), 2, async |_| ()).await.is_none());
    let start = Instant::now();
    service.call(()).await.unwrap();
    clone.ready().await.unwrap();
    assert_eq!(start.elapsed(), MINUTE);
}

#[tokio::test(start_paused = true)]
async fn leases_and_limits_combine_with_towers_own_layers() {
    let pool = pool(2);
    let stack: LeaseService<_, _, _> = ServiceBuilder::new()
        .layer(LeaseLayer::new(pool.clone(), any))
        .layer(RateLimitLayer::new(per_minute(4)))
        .concurrency_limit(8)
        .timeout(SECOND)
        .service(service_fn(|leased: Leased<u32, u64>| async move {
            sleep(Duration::from_millis(leased.request)).await;
            Ok::<_, BoxError>(*leased.member)
        }));
    let outer = ServiceBuilder::new()
        .buffer(16)
        .layer(RateLimitLayer::new(per_minute(4)))
        .load_shed()
        .service(stack);
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for name in 0..8 {
        tasks.spawn(outer.clone().oneshot(name * 200));
    }
    let answers = tasks.join_all().await;
    let late = answers.iter().filter(|answer| answer.is_err()).count();
    assert_eq!(late, 2, "calls of more than 1 s time out: {answers:?}");
    assert!(start.elapsed() > MINUTE && start.elapsed() < 2 * MINUTE);
    let total = pool.blocking().stats().total;
    assert_eq!((total.granted, total.ok, total.failed), (8, 6, 2));
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_exact_and_unknown_while_it_depends_on_a_call() {
    let window = RateLimitLayer::new(per_minute(1));
    assert_eq!(window.retry_after(), Some(Duration::ZERO));
    let instant = service_fn(|()| async { Ok::<_, Infallible>(()) });
    let mut service = window.layer(instant);
    service.ready().await.unwrap();
    assert_eq!(window.retry_after(), None);
    service.call(()).await.unwrap();
    sleep(SECOND).await;
    let wait = window.retry_after().unwrap();
    assert_eq!(wait, MINUTE - SECOND);
    sleep(wait).await;
    assert!(poll_times(service.ready(), 1, async |_| ()).await.is_some());
}
