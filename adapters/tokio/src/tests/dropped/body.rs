//! A body that is dropped at each point where it waits gives its lease to the next waiter at once.

use super::*;
use ::core::pin::Pin;
use ::core::task::ready;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use tokio::time::Sleep;

/// A response whose body has three frames, a second apart.
async fn stream(leased: Leased<u32, ()>) -> Result<http::Response<Frames>, Infallible> {
    several_awaits(leased).await?;
    Ok(http::Response::new(Frames(3, Box::pin(sleep(SECOND)))))
}

/// As many frames as the number says, each after a second.
struct Frames(u32, Pin<Box<Sleep>>);

impl Body for Frames {
    type Data = &'static [u8];
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<&'static [u8]>, Infallible>>> {
        ready!(self.1.as_mut().poll(context));
        self.1.as_mut().reset(Instant::now() + SECOND);
        let left = self.0.checked_sub(1);
        self.0 = left.unwrap_or(0);
        Poll::Ready(left.map(|_| Ok(Frame::data(&b"frame"[..]))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_under_a_lease() {
    for position in POSITIONS {
        let mut outcomes = Vec::new();
        let polls = at_every_point(async |polls| {
            let pool = pool(1);
            let layer = LeaseLayer::new(pool.clone(), |(): &()| Request::new());
            let layer = layer.abandoned(Outcome::Failed).hold_body();
            let service = layer.layer(SlowlyReady(service_fn(stream), 0));
            let call = async {
                let response = service.oneshot(()).await.unwrap();
                response.into_body().collect().await
            };
            let done = drop_under_a_lease(&pool, position, polls, call).await;
            let total = pool.blocking().stats().total;
            outcomes.push((total.not_sent, total.failed, total.ok));
            done.is_some()
        });
        let polls = polls.await;
        assert!(polls >= 15, "{polls}");
        // Dropped in the queue, before the inner service was ready, during the call or its body, and read.
        outcomes.dedup();
        let expected = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)];
        assert_eq!(outcomes, expected, "{position:?}");
    }
}
