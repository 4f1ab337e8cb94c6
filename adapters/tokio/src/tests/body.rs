//! Leases over response bodies: how each ends, and that no member serves more bodies than it has leases.

use super::*;
use crate::{BodyEnd, LeaseBodyLayer, LeaseLayer, Leased, LeasedBody, Member, Release};
use ::core::convert::Infallible;
use ::core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use ::core::task::Context;
use ::tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Bytes, Frame, SizeHint};
use leasehold_core::balance::HalfLife;
use leasehold_core::limit::{Cost, LimitSpecs};
use leasehold_core::pool::stats::LeaseCounts;
use std::collections::VecDeque;
use tokio::sync::Semaphore;

mod sockets;

/// What a scripted body does when it is polled.
#[derive(Clone, Copy, Debug)]
enum Step {
    Data,
    Trailers,
    Fail,
    Panic,
    /// Waits once.
    Pend,
}

/// A body that follows a script, and may count itself as being served.
struct Script {
    steps: VecDeque<Step>,
    knows_end: bool,
    busy: Option<Busy>,
}

impl Script {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            knows_end: false,
            busy: None,
        }
    }

    /// A body that says when it has ended.
    fn that_knows_its_end(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            knows_end: true,
            ..Self::new(steps)
        }
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: ::core::pin::Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        match self.steps.pop_front() {
            None => Poll::Ready(None),
            Some(Step::Data) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"data"))))),
            Some(Step::Trailers) => Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::new())))),
            Some(Step::Fail) => Poll::Ready(Some(Err("the upstream broke off"))),
            Some(Step::Panic) => panic!("a body that dies"),
            Some(Step::Pend) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.knows_end && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let data = self.steps.iter().filter(|step| matches!(step, Step::Data));
        let mut hint = SizeHint::new();
        hint.set_lower(4 * data.count() as u64);
        hint
    }
}

/// Counts itself as long as it is there, and the most of its kind that were there at once.
struct Busy(Arc<(AtomicU32, AtomicU32)>);

impl Busy {
    fn new(counts: &Arc<(AtomicU32, AtomicU32)>) -> Self {
        let now = counts.0.fetch_add(1, Ordering::SeqCst) + 1;
        counts.1.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(counts))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn any<R>(_: &R) -> Request {
    Request::new()
}

fn total(pool: &TokioPool<u32>) -> LeaseCounts {
    pool.blocking().stats().total
}

fn is_leased(pool: &TokioPool<u32>) -> bool {
    pool.blocking().stats().members[0].in_flight == 1
}

async fn leased(pool: &TokioPool<u32>, body: Script) -> LeasedBody<Script, u32> {
    let lease = pool.acquire().await.unwrap();
    LeasedBody::new(body, lease, Outcome::Ok)
}

#[tokio::test]
async fn a_lease_lasts_until_its_body_was_read() {
    let pool = pool(1);
    let mut body = leased(&pool, Script::new([Step::Data, Step::Pend, Step::Data])).await;
    for left in [4, 0] {
        body.frame().await.unwrap().unwrap();
        assert!(is_leased(&pool) && body.lease().is_some());
        assert_eq!(body.size_hint().lower(), left);
        assert!(!body.is_end_stream());
    }
    assert!(body.frame().await.is_none());
    assert!(!is_leased(&pool) && body.lease().is_none());
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(body.frame().await.is_none());
    drop(body);
    assert_eq!((total(&pool).ok, total(&pool).granted), (1, 1));
}

#[tokio::test]
async fn a_body_that_says_it_has_ended_need_not_be_polled_again() {
    let pool = pool(1);
    let script = Script::that_knows_its_end([Step::Data, Step::Data]);
    let mut body = leased(&pool, script).await;
    body.frame().await.unwrap().unwrap();
    assert!(is_leased(&pool) && !body.is_end_stream());
    body.frame().await.unwrap().unwrap();
    assert!(!is_leased(&pool) && body.is_end_stream());
    assert!(body.frame().await.is_none());
    let mut body = leased(&pool, Script::new([Step::Data, Step::Trailers])).await;
    body.frame().await.unwrap().unwrap();
    assert!(is_leased(&pool));
    assert!(body.frame().await.unwrap().unwrap().is_trailers());
    assert!(!is_leased(&pool));
    let lease = pool.acquire().await.unwrap();
    let empty = LeasedBody::new(Empty::<Bytes>::new(), lease, Outcome::Ok);
    assert!(!is_leased(&pool) && empty.is_end_stream());
    assert_eq!(total(&pool).ok, 3);
}

#[tokio::test]
async fn a_body_that_turns_out_to_have_ended_was_not_abandoned() {
    /// A body whose end becomes known without a frame, as HTTP/2's does.
    struct Late(Arc<AtomicBool>);
    impl Body for Late {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: ::core::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }

        fn is_end_stream(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }
    let pool = pool(1);
    let ended = Arc::new(AtomicBool::new(false));
    let lease = pool.acquire().await.unwrap();
    let body = LeasedBody::new(Late(Arc::clone(&ended)), lease, Outcome::Ok);
    ended.store(true, Ordering::SeqCst);
    drop(body);
    assert_eq!((total(&pool).ok, total(&pool).unknown), (1, 0));
}

#[tokio::test]
async fn a_body_that_fails_or_is_left_is_gone_before_its_member_serves_another() {
    struct StillLeased(TokioPool<u32>, Step);
    impl Drop for StillLeased {
        fn drop(&mut self) {
            assert!(is_leased(&self.0), "{:?}", self.1);
        }
    }
    impl Body for StillLeased {
        type Data = Bytes;
        type Error = ();

        fn poll_frame(
            self: ::core::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
            Poll::Ready(match self.1 {
                Step::Fail => Some(Err(())),
                Step::Data => Some(Ok(Frame::data(Bytes::new()))),
                Step::Trailers | Step::Panic | Step::Pend => None,
            })
        }
    }
    let pool = pool(1);
    for step in [Step::Fail, Step::Data, Step::Trailers] {
        let lease = pool.acquire().await.unwrap();
        let mut body = LeasedBody::new(StillLeased(pool.clone(), step), lease, Outcome::Ok);
        let frame = body.frame().await;
        let is_over = !matches!(frame, Some(Ok(_)));
        assert_eq!(is_leased(&pool), !is_over);
        assert!(!is_over || body.frame().await.is_none());
        drop(body);
        assert!(!is_leased(&pool));
    }
    let total = total(&pool);
    assert_eq!((total.failed, total.unknown, total.ok), (1, 1, 1));
}

#[tokio::test]
async fn a_body_that_panics_or_whose_reader_does_is_failed() {
    let pool = pool(1);
    for (step, dies) in [(Step::Panic, false), (Step::Data, true)] {
        let body = leased(&pool, Script::new([step, Step::Data])).await;
        let body = body.abandoned(Outcome::Ok);
        let task = tokio::spawn(async move {
            let mut body = body;
            body.frame().await.unwrap().unwrap();
            assert!(!dies, "a reader that dies");
        });
        assert!(task.await.unwrap_err().is_panic());
    }
    assert_eq!((total(&pool).failed, total(&pool).ok), (2, 0));
    assert!(pool.try_acquire().is_ok());
}

/// A service whose request is the script of its answer's body.
async fn follow(leased: Leased<u32, Vec<Step>>) -> Result<Response<Script>, &'static str> {
    match leased.request.is_empty() {
        true => Err("the upstream is down"),
        false => Ok(Response::new(Script::new(leased.request))),
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_under_the_layer_ends_as_its_answer_or_body_does() {
    let pool = pool(1);
    let layer = LeaseLayer::new(pool.clone(), any).abandoned(Outcome::NotSent);
    let theirs = pool.clone();
    let classified =
        layer.clone().classify(
            move |answer: &Result<Response<Script>, &str>| match answer {
                Ok(_) => Outcome::Throttled {
                    until: theirs.blocking().now().saturating_add(MINUTE),
                }
                .into(),
                Err(_) => Release::from(Outcome::Unknown),
            },
        );
    let plain = layer.hold_body().layer(service_fn(follow));
    let data = vec![Step::Data, Step::Pend, Step::Data];
    let body = plain.clone().oneshot(data.clone()).await.unwrap();
    assert!(is_leased(&pool));
    body.into_body().collect().await.unwrap();
    assert_eq!(total(&pool).ok, 1);
    let body = plain.clone().oneshot(vec![Step::Data, Step::Fail]).await;
    body.unwrap().into_body().collect().await.unwrap_err();
    assert_eq!(total(&pool).failed, 1);
    drop(plain.clone().oneshot(data.clone()).await.unwrap());
    assert_eq!(total(&pool).not_sent, 1);
    plain.oneshot(vec![]).await.unwrap_err();
    assert_eq!(total(&pool).failed, 2);

    let classified = classified.hold_body().layer(service_fn(follow));
    classified.clone().oneshot(vec![]).await.unwrap_err();
    assert_eq!(total(&pool).unknown, 1);
    let body = classified.clone().oneshot(data.clone()).await.unwrap();
    assert_eq!(total(&pool).throttled, 0);
    body.into_body().collect().await.unwrap();
    assert_eq!(total(&pool).throttled, 1);
    let start = Instant::now();
    drop(classified.oneshot(data).await.unwrap());
    assert_eq!(start.elapsed(), MINUTE);
    assert_nothing_is_held(&pool);
}

fn assert_nothing_is_held(pool: &TokioPool<u32>) {
    let stats = pool.blocking().stats();
    assert_eq!(stats.waiting.waiting, 0);
    assert!(stats.members.iter().all(|member| member.in_flight == 0));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_body_settles_what_it_used() {
    let pool = TokioPool::new(PoolConfig::new(Policy::Fifo));
    let limits: LimitSpecs = "100 tokens/d".parse().unwrap();
    let member = Member::new(0).limits(limits.limits());
    pool.blocking().add(member).unwrap();
    let tokens = |tokens| Cost {
        requests: 1,
        tokens,
    };
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    // A step is a token.
    let used = move |body: &Script, end: BodyEnd, release: Release| {
        log.lock().unwrap().push((end, release));
        release.cost(tokens(10 - body.steps.len() as u32))
    };
    let layer = LeaseLayer::new(pool.clone(), move |_: &Vec<Step>| {
        Request::new().cost(tokens(100))
    });
    let layer = layer.abandoned(Outcome::Ok).hold_body();
    let service = layer.classify_end(used).layer(service_fn(follow));
    let ask = |cost: u32| {
        let request = Request::new().cost(tokens(cost));
        let pending = pool
            .blocking()
            .enqueue(request.deadline(pool.blocking().now()));
        pending.map(|_| ())
    };
    for (fails_after, read) in [(10, 10), (3, 4), (10, 4)] {
        pass_a_day().await;
        let mut steps = vec![Step::Data; 10];
        if let Some(step) = steps.get_mut(fails_after) {
            *step = Step::Fail;
        }
        let mut body = service.clone().oneshot(steps).await.unwrap().into_body();
        for _ in 0..read {
            let _ = body.frame().await.unwrap();
        }
        if read == 10 {
            assert!(body.frame().await.is_none());
        }
        drop(body);
        assert!(ask(101 - read).is_err());
        assert!(ask(100 - read).is_ok());
    }
    let [ok, failed] = [Outcome::Ok, Outcome::Failed].map(Release::from);
    let ends = [
        (BodyEnd::Complete, ok),
        (BodyEnd::Failed, failed),
        (BodyEnd::Abandoned, ok),
    ];
    assert_eq!(*seen.lock().unwrap(), ends);
}

async fn pass_a_day() {
    sleep(MINUTE * 60 * 24).await;
}

/// Which of two members gets the calls: 0 sends its headers at once and its body in 10 s, 1 both after 2 s.
async fn preferred_member(
    arrange: impl Fn(LeaseBodyLayer<u32, fn(&()) -> Request>) -> LeaseBodyLayer<u32, fn(&()) -> Request>,
) -> u32 {
    let policy = Policy::PeakEwma(HalfLife::try_from(MINUTE).unwrap());
    let pool = TokioPool::new(PoolConfig::new(policy));
    for name in 0..2 {
        pool.blocking().add(Member::new(name)).unwrap();
    }
    let layer = LeaseLayer::new(pool.clone(), any::<()> as fn(&()) -> Request);
    let service =
        arrange(layer.hold_body()).layer(service_fn(|leased: Leased<u32, ()>| async move {
            if *leased.member == 1 {
                sleep(2 * SECOND).await;
            }
            Ok::<_, Infallible>(Response::new(Script::new([Step::Data])))
        }));
    for _ in 0..8 {
        let answer = service.clone().oneshot(()).await.unwrap();
        let slow = pool.blocking().stats().members[0].in_flight == 1;
        if slow {
            sleep(10 * SECOND).await;
        }
        answer.into_body().collect().await.unwrap();
    }
    let before: Vec<u64> = granted(&pool);
    drop(service.oneshot(()).await.unwrap());
    let after = granted(&pool);
    (0..2)
        .find(|member| before[*member as usize] != after[*member as usize])
        .unwrap()
}

fn granted(pool: &TokioPool<u32>) -> Vec<u64> {
    let members = pool.blocking().stats().members;
    members.iter().map(|member| member.counts.granted).collect()
}

#[tokio::test(start_paused = true)]
async fn the_latency_lasts_until_the_end_or_as_configured_until_the_headers() {
    assert_eq!(preferred_member(|layer| layer).await, 1);
    let preferred = preferred_member(LeaseBodyLayer::latency_until_headers).await;
    assert_eq!(preferred, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_bodies_never_exceed_the_leases_however_they_end() {
    const MEMBERS: u32 = 4;
    const LEASES: u32 = 8;
    let pool = TokioPool::new(PoolConfig::new(Policy::LeastConnections));
    let mut counts = Vec::new();
    for name in 0..MEMBERS {
        let leases = NonZeroU32::new(LEASES).unwrap();
        let member = Member::new(name).max_leases(leases);
        pool.blocking().add(member).unwrap();
        counts.push(Arc::new((AtomicU32::new(0), AtomicU32::new(0))));
    }
    let serve = counts.clone();
    let service = ServiceBuilder::new()
        .layer(LeaseLayer::new(pool.clone(), any).hold_body())
        .service_fn(move |leased: Leased<u32, u32>| {
            let busy = Busy::new(&serve[*leased.member as usize]);
            async move {
                let last = [Step::Data, Step::Trailers, Step::Fail][leased.request as usize % 3];
                let steps = [Step::Data, Step::Pend, Step::Data, Step::Pend, last];
                let mut script = Script::new(steps);
                script.busy = Some(busy);
                Ok::<_, Infallible>(Response::new(script))
            }
        });
    let start = Arc::new(Semaphore::new(0));
    let mut tasks = JoinSet::new();
    for name in 0..1000 {
        let (service, start) = (service.clone(), Arc::clone(&start));
        tasks.spawn(async move {
            let _started = start.acquire().await.unwrap();
            let mut body = service.oneshot(name).await.unwrap().into_body();
            // Each fourth reader leaves after a frame.
            let frames = if name % 4 == 0 { 1 } else { usize::MAX };
            for _ in 0..frames {
                match body.frame().await {
                    Some(Ok(_)) => yield_now().await,
                    Some(Err(_)) | None => break,
                }
            }
        });
    }
    start.add_permits(1000);
    tasks.join_all().await;
    for count in counts {
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        let most = count.1.load(Ordering::SeqCst);
        assert!((2..=LEASES).contains(&most), "{most} at once");
    }
    assert_nothing_is_held(&pool);
    let total = total(&pool);
    assert_eq!((total.ok, total.failed, total.unknown), (500, 250, 250));
    assert_eq!(total.granted, 1000);
}
