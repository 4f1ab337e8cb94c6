//! Tokio's clock, read in this file only, and a timer that polls a task at a tick.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use leasehold_core::time::Tick;
use leasehold_sync::Clock;
use tokio::time::{Instant, Sleep, sleep_until};

/// Wake-up time for ticks beyond the range of [`Instant`].
const FAR_OFF: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// The instant of a tick.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch {
    instant: Instant,
    tick: Tick,
}

impl Epoch {
    /// The clock that shows `tick` now.
    pub(crate) fn start(tick: Tick) -> Self {
        let instant = Instant::now();
        Self { instant, tick }
    }

    pub(crate) fn now(self) -> Tick {
        self.tick_of(Instant::now())
    }

    /// The tick of an instant; that of the epoch for one before it.
    pub(crate) fn tick_of(self, instant: Instant) -> Tick {
        let since = instant.saturating_duration_since(self.instant);
        self.tick.saturating_add(since)
    }

    pub(crate) fn clock(self) -> Clock {
        Clock::told_by(move || self.now())
    }

    /// Waits until a tick.
    #[cfg(feature = "remote")]
    pub(crate) async fn sleep_until(self, tick: Tick) {
        sleep_until(self.instant(tick)).await;
    }

    fn instant(self, tick: Tick) -> Instant {
        let instant = self.instant.checked_add(tick.since(self.tick));
        instant.unwrap_or_else(|| Instant::now() + FAR_OFF)
    }
}

/// Wakes a task at the tick at which it must poll again; holds a tokio timer only while there is such a tick.
#[derive(Debug)]
pub(crate) struct Timer {
    epoch: Epoch,
    sleep: Option<(Tick, Pin<Box<Sleep>>)>,
}

impl Timer {
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self { epoch, sleep: None }
    }

    /// Polls `poll`, and again at the tick that it returns with `Pending`.
    pub(crate) fn poll<R>(
        &mut self,
        context: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> (Poll<R>, Option<Tick>),
    ) -> Poll<R> {
        loop {
            match poll(context) {
                (Poll::Pending, Some(tick)) => ready!(self.poll_tick(tick, context)),
                (answer, _) => {
                    self.sleep = None;
                    return answer;
                }
            }
        }
    }

    fn poll_tick(&mut self, tick: Tick, context: &mut Context<'_>) -> Poll<()> {
        let instant = self.epoch.instant(tick);
        let (set_to, sleep) = self
            .sleep
            .get_or_insert_with(|| (tick, Box::pin(sleep_until(instant))));
        if *set_to != tick {
            *set_to = tick;
            sleep.as_mut().reset(instant);
        }
        ready!(sleep.as_mut().poll(context));
        self.sleep = None;
        Poll::Ready(())
    }
}
