//! Refusals that tell when to come back: exact in errors, in whole seconds in headers.

use super::*;
use crate::limit::{Concurrency, Cost, LimitSpec, LimitSpecs};
use crate::{PolicyNameError, Quota, RateLimitError, RateLimitHeadersLayer, RateLimitLayer, Tick};
use ::core::convert::Infallible;
use ::tower::{Layer, Service, ServiceExt, service_fn};
use http::{Response, StatusCode};
use leasehold_core::health::BreakerConfig;
use leasehold_core::limit::Limit;
use tokio::sync::Notify;
use tokio::time::advance;

const NANO: Duration = Duration::from_nanos(1);

fn layer(spec: &str) -> RateLimitLayer {
    let spec: LimitSpec = spec.parse().expect("the limit is written well");
    RateLimitLayer::from_spec(&spec).expect("a limit from text can be built")
}

async fn ok<R>(_: R) -> Result<Response<String>, Infallible> {
    Ok(Response::new("served".into()))
}

/// A header of a response, or nothing.
fn header<'a, B>(response: &'a Response<B>, name: &str) -> &'a str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

fn seconds(text: &str) -> Duration {
    Duration::from_secs(text.parse().unwrap())
}

/// The wait of a refused call; `None` if it is served.
async fn refused<S>(service: &S) -> Option<Quota>
where
    S: Service<(), Error = RateLimitError<Infallible>> + Clone,
{
    match service.clone().oneshot(()).await {
        Ok(_) => None,
        Err(RateLimitError::Refused(quota)) => Some(quota),
        Err(RateLimitError::NeverFits | RateLimitError::Inner(_)) => panic!("not refused"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_served_at_the_told_tick_and_refused_one_before() {
    let specs = [
        "2/3s",
        "2/3s from grant",
        "2/3s bucketed 3",
        "2/3s bucketed 3 from grant",
        "2/3s sliding counter",
        "2/3s fixed",
        "2/3s token bucket",
        "2/3s gcra",
        "2/3s paced",
        "7/1111ms gcra burst 2",
    ];
    for spec in specs {
        let layer = layer(spec).refuse();
        let service = layer.layer(service_fn(ok::<()>));
        let mut waits = 0;
        for turn in 0..40 {
            let Some(quota) = refused(&service).await else {
                advance(Duration::from_millis(turn * 13)).await;
                continue;
            };
            assert_eq!(quota.remaining, 0);
            let wait = quota.reset.expect("no call is in flight");
            assert!(!wait.is_zero());
            advance(wait - NANO).await;
            let last = refused(&service).await.expect("it is one tick too early");
            assert_eq!(last.reset, Some(NANO), "{spec}");
            assert_eq!(layer.quota(), last);
            advance(NANO).await;
            assert_eq!(refused(&service).await, None, "{spec}");
            waits += 1;
        }
        assert!(waits > 3, "{spec}: {waits}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_tells_no_tick_while_that_depends_on_a_call() {
    let done = Arc::new(Notify::new());
    let theirs = Arc::clone(&done);
    let layers = [
        RateLimitLayer::new(per_minute(1)),
        RateLimitLayer::new(Concurrency::new(NonZeroU32::MIN)),
    ];
    for layer in layers {
        let theirs = Arc::clone(&theirs);
        let service = layer.refuse().layer(service_fn(move |()| {
            let done = Arc::clone(&theirs);
            async move {
                done.notified().await;
                Ok::<_, Infallible>(())
            }
        }));
        let call = tokio::spawn(service.clone().oneshot(()));
        settle().await;
        let error = service.clone().oneshot(()).await.unwrap_err();
        let told = "the limit is used up; try again when a call in flight has completed";
        assert_eq!(error.to_string(), told);
        let quota = refused(&service).await.unwrap();
        assert_eq!((quota.limit, quota.remaining, quota.reset), (1, 0, None));
        done.notify_one();
        call.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusing_service_is_always_ready_and_its_refused_calls_cost_nothing() {
    let waiting = layer("1/min from grant");
    let refusing = waiting.clone().refuse();
    let headers = refusing.clone().with_headers();
    let headers = headers.layer(service_fn(ok::<()>));
    let refusing = refusing.layer(service_fn(ok::<()>));
    let waiting = waiting.layer(service_fn(ok::<()>));
    assert_eq!(refused(&refusing).await, None);
    for _ in 0..3 {
        let mut service = refusing.clone();
        service.ready().await.unwrap();
        let error = service.call(()).await.unwrap_err();
        assert_eq!(error.to_string(), "the limit is used up; try again in 60s");
    }
    let start = Instant::now();
    let waiter = tokio::spawn(waiting.oneshot(()));
    settle().await;
    advance(MINUTE).await;
    // Due, and not overtaken.
    assert_eq!(
        refused(&refusing).await.unwrap().reset,
        Some(Duration::ZERO)
    );
    let response = headers.oneshot(()).await.unwrap();
    assert_eq!(header(&response, "ratelimit"), r#""default";r=0;t=0"#);
    assert_eq!(header(&response, "retry-after"), "1");
    waiter.await.unwrap().unwrap();
    assert_eq!(start.elapsed(), MINUTE);
    assert_eq!(refused(&refusing).await.unwrap().reset, Some(MINUTE));
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_is_told_whole_seconds_after_which_it_is_served() {
    for spec in ["2/3s from grant", "3/2500ms fixed", "1/999ms from grant"] {
        let limit = layer(spec).refuse();
        let service = limit.clone().with_headers().layer(service_fn(ok::<()>));
        let mut told = 0;
        for turn in 0..20 {
            let response = service.clone().oneshot(()).await.unwrap();
            if response.status() == StatusCode::OK {
                assert_eq!(response.body(), "served");
                assert_eq!(header(&response, "retry-after"), "");
                advance(Duration::from_millis(turn * 37)).await;
                continue;
            }
            let exact = limit.retry_after().unwrap();
            let wait = seconds(header(&response, "retry-after"));
            assert!(
                wait >= exact && wait < exact + SECOND,
                "{wait:?}: {exact:?}"
            );
            let effective = header(&response, "ratelimit").split("t=").nth(1).unwrap();
            assert_eq!(seconds(effective), wait);
            let line = format!("too many requests; try again in {} s\n", wait.as_secs());
            assert_eq!(*response.body(), line);
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            advance(wait).await;
            let again = service.clone().oneshot(()).await.unwrap();
            assert_eq!(again.status(), StatusCode::OK);
            told += 1;
        }
        assert!(told > 3, "{spec}: {told}");
    }
}

#[test]
fn a_limit_that_is_partly_used_is_told_in_full() {
    let mut limit = SlidingLog::new(NonZeroU32::MIN, MINUTE, Anchor::Grant).unwrap();
    limit.try_acquire(Tick::ZERO, 1).unwrap();
    let quota = RateLimitLayer::new(limit).quota();
    assert_eq!((quota.limit, quota.remaining, quota.window), (1, 0, None));
}

/// The two headers of the next answer.
async fn fields(layer: RateLimitHeadersLayer) -> [String; 2] {
    let service = layer.layer(service_fn(ok::<()>));
    let response = service.oneshot(()).await.unwrap();
    ["ratelimit-policy", "ratelimit"].map(|name| header(&response, name).into())
}

#[tokio::test(start_paused = true)]
async fn the_headers_tell_limit_window_remainder_and_reset() {
    let cases = [
        (
            "3/min from grant",
            r#""default";q=3;w=60"#,
            r#""default";r=2;t=60"#,
        ),
        ("3/1500ms", r#""default";q=3;w=2"#, r#""default";r=2;t=2"#),
        (
            "500/min token bucket burst 20",
            r#""default";q=500;w=60"#,
            r#""default";r=19;t=1"#,
        ),
        (
            "5 concurrent",
            r#""default";q=5;qu="concurrent-requests""#,
            r#""default";r=5"#,
        ),
    ];
    for (spec, policy, limit) in cases {
        assert_eq!(fields(layer(spec).with_headers()).await, [policy, limit]);
        assert_eq!(
            fields(layer(spec).refuse().with_headers()).await,
            [policy, limit]
        );
    }
    let unknown_window = RateLimitLayer::new(per_minute(3)).with_headers();
    let told = fields(unknown_window).await;
    assert_eq!(told, [r#""default";q=3"#, r#""default";r=2;t=60"#]);
}

#[tokio::test(start_paused = true)]
async fn stacked_limits_add_up_and_the_inner_refusal_keeps_its_status() {
    let burst = layer("1/s from grant").refuse().with_headers();
    let daily = layer("10/d from grant").refuse().with_headers();
    let inner = burst.name("burst").unwrap().on_refusal(|quota: &Quota| {
        let mut response = Response::new(format!("{} left", quota.remaining));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    });
    let service = daily
        .name("daily")
        .unwrap()
        .layer(inner.layer(service_fn(ok::<()>)));
    assert_eq!(service.clone().oneshot(()).await.unwrap().status(), 200);
    let response = service.oneshot(()).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &**response.body()),
        (503, "0 left")
    );
    assert_eq!(header(&response, "retry-after"), "1");
    let all = |name| {
        let all = response.headers().get_all(name).iter();
        all.map(|value| value.to_str().unwrap()).collect::<Vec<_>>()
    };
    let policies = [r#""burst";q=1;w=1"#, r#""daily";q=10;w=86400"#];
    assert_eq!(all("ratelimit-policy"), policies);
    let limits = [r#""burst";r=0;t=1"#, r#""daily";r=8;t=86400"#];
    assert_eq!(all("ratelimit"), limits);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_layer_tells_what_remains_and_passes_errors_on() {
    let layer = layer("1/min from grant").with_headers();
    let service = layer.layer(service_fn(|fails: bool| async move {
        match fails {
            true => Err("the upstream is down"),
            false => Ok(Response::new(String::new())),
        }
    }));
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..3 {
        let service = service.clone();
        tasks.spawn(async move {
            let response = service.oneshot(false).await.unwrap();
            header(&response, "ratelimit").to_owned()
        });
    }
    assert_eq!(tasks.join_all().await, [r#""default";r=0;t=60"#; 3]);
    assert_eq!(start.elapsed(), 2 * MINUTE);
    assert_eq!(
        service.oneshot(true).await.unwrap_err(),
        "the upstream is down"
    );
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_never_admits_another_request_answers_without_a_time() {
    let mut limit = SlidingLog::new(NonZeroU32::MIN, MINUTE, Anchor::Grant).unwrap();
    limit.try_acquire(Tick::MAX, 1).unwrap();
    for limit in [
        RateLimitLayer::new(limit.clone()),
        RateLimitLayer::new(limit).refuse(),
    ] {
        let plain = limit.layer(service_fn(ok::<()>));
        let error = plain.oneshot(()).await.unwrap_err();
        assert_eq!(error, RateLimitError::NeverFits);
        let service = limit.with_headers().layer(service_fn(ok::<()>));
        let response = service.oneshot(()).await.unwrap();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(header(&response, "retry-after"), "");
        assert_eq!(response.body(), "too many requests; try again later\n");
    }
}

#[tokio::test]
async fn a_policy_is_named_in_plain_ascii() {
    let layer = layer("1/s").with_headers();
    let named = |name: &str| layer.clone().name(name).map(|_| ());
    assert_eq!(named("per-minute (all callers)"), Ok(()));
    assert_eq!(named(&"x".repeat(64)), Ok(()));
    for name in ["", &"x".repeat(65)] {
        assert_eq!(named(name), Err(PolicyNameError::Length));
    }
    for name in ["a\"b", "a\\b", "a\nb", "ä", "\u{7f}"] {
        assert_eq!(named(name), Err(PolicyNameError::Character));
    }
}

fn answer(pool: &TokioPool<u32>, refused: &AcquireError) -> (u16, String) {
    let response: Response<String> = pool.refusal_response(refused);
    assert_eq!(*response.body(), format!("{refused}\n"));
    let retry_after = header(&response, "retry-after").to_owned();
    (response.status().as_u16(), retry_after)
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_pool_is_a_429_or_a_503_that_tells_when_to_come_back() {
    let pool = key(1);
    drop(pool.acquire().await.unwrap());
    advance(Duration::from_millis(500)).await;
    let refused = pool.try_acquire().unwrap_err();
    assert!(matches!(
        refused,
        AcquireError::NotReady {
            cause: Cause::AtLimit { .. }
        }
    ));
    assert_eq!(pool.retry_after(&refused), Some(MINUTE - SECOND / 2));
    assert_eq!(answer(&pool, &refused), (429, "60".into()));
    let refused = pool.acquire_timeout(SECOND).await.unwrap_err();
    assert_eq!(answer(&pool, &refused), (429, "60".into()));
    advance(MINUTE - SECOND / 2 - NANO).await;
    let refused = pool.try_acquire().unwrap_err();
    assert_eq!(pool.retry_after(&refused), Some(NANO));
    assert_eq!(answer(&pool, &refused), (429, "1".into()));
    advance(NANO).await;
    assert!(pool.try_acquire().is_ok());
    let full = super::pool(1);
    let _held = full.acquire().await.unwrap();
    assert_eq!(
        answer(&full, &full.try_acquire().unwrap_err()),
        (429, String::new())
    );
    let late = full.acquire_timeout(SECOND).await.unwrap_err();
    assert_eq!(late, TIMED_OUT);
    assert_eq!(answer(&full, &late), (429, String::new()));
    let (member, _) = full.blocking().members()[0];
    full.blocking().disable(member).unwrap();
    let late = full.acquire_timeout(SECOND).await.unwrap_err();
    assert_eq!(answer(&full, &late), (503, String::new()));
    full.blocking().close();
    assert_eq!(
        answer(&full, &full.try_acquire().unwrap_err()),
        (503, String::new())
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waited_for_a_limit_in_vain_is_told_when_it_opens() {
    let pool = TokioPool::new(PoolConfig::new(Policy::Fifo));
    let specs: LimitSpecs = "10 tokens/min from grant".parse().unwrap();
    let member = Member::new(0).limits(specs.limits());
    pool.blocking().add(member).unwrap();
    let eight = Request::new().cost(Cost {
        requests: 1,
        tokens: 8,
    });
    // Its cost is an estimate, so that no wait for it is certain.
    let _held = pool.acquire_with(eight).await.unwrap();
    let deadline = pool.blocking().now().saturating_add(SECOND);
    let late = pool.acquire_with(eight.deadline(deadline)).await;
    let late = late.unwrap_err();
    assert!(matches!(late, AcquireError::TimedOut { .. }), "{late}");
    assert_eq!(pool.retry_after(&late), Some(MINUTE - SECOND));
    assert_eq!(answer(&pool, &late), (429, "59".into()));
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_is_a_503_until_it_lets_a_call_through() {
    let breaker = BreakerConfig::builder(MINUTE, MINUTE).consecutive_failures(NonZeroU32::MIN);
    let config = PoolConfig::builder(Policy::Fifo).breaker(breaker.build().unwrap());
    let pool = TokioPool::new(config.build().unwrap());
    pool.blocking().add(Member::new(0)).unwrap();
    let lease = pool.acquire().await.unwrap();
    lease.release(Outcome::Failed).unwrap();
    let refused = pool.try_acquire().unwrap_err();
    let wait = pool.retry_after(&refused).unwrap();
    let (status, told) = answer(&pool, &refused);
    assert_eq!(status, 503);
    assert!(seconds(&told) >= wait && seconds(&told) < wait + SECOND);
    advance(wait - NANO).await;
    assert!(pool.try_acquire().is_err());
    advance(NANO).await;
    assert!(pool.try_acquire().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_tells_when_a_place_is_free() {
    let config = PoolConfig::builder(Policy::Fifo).max_waiters(1);
    let pool = TokioPool::new(config.build().unwrap());
    pool.blocking()
        .add(Member::new(0).limit(per_minute(1)))
        .unwrap();
    drop(pool.acquire().await.unwrap());
    let theirs = pool.clone();
    let waiter = tokio::spawn(async move { theirs.acquire().await.map(|_| ()) });
    settle().await;
    let refused = pool.acquire().await.unwrap_err();
    assert!(matches!(refused, AcquireError::QueueFull { .. }));
    assert_eq!(answer(&pool, &refused), (429, "60".into()));
    advance(MINUTE).await;
    waiter.await.unwrap().unwrap();
    assert!(poll_times(pool.acquire(), 1, async |_| ()).await.is_none());
    assert_eq!(pool.blocking().stats().waiting.waiting, 0);
}
