//! Tokio's time, read in this file only, and how a task is woken at a tick of it.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use leasehold_core::time::Tick;
use leasehold_sync::Clock;
use tokio::time::{Instant, Sleep, sleep_until};

/// How far off an alarm is set that is beyond what an [`Instant`] can tell.
const FAR_OFF: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// Counts ticks from when it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticks {
    epoch: Instant,
}

impl Ticks {
    pub(crate) fn start() -> Self {
        Self {
            epoch: Instant::now(),
        }
    }

    pub(crate) fn now(self) -> Tick {
        Tick::ZERO.saturating_add(self.epoch.elapsed())
    }

    pub(crate) fn clock(self) -> Clock {
        Clock::told_by(move || self.now())
    }

    fn instant(self, tick: Tick) -> Instant {
        let instant = self.epoch.checked_add(tick.since(Tick::ZERO));
        instant.unwrap_or_else(|| Instant::now() + FAR_OFF)
    }
}

/// Wakes a task when something has to be polled again. There is a timer only while there is a tick to
/// wake at.
#[derive(Debug)]
pub(crate) struct Alarm {
    ticks: Ticks,
    set: Option<(Tick, Pin<Box<Sleep>>)>,
}

impl Alarm {
    pub(crate) fn new(ticks: Ticks) -> Self {
        Self { ticks, set: None }
    }

    /// Polls what says at which tick it has to be polled again, and does so then.
    pub(crate) fn poll<R>(
        &mut self,
        context: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> (Poll<R>, Option<Tick>),
    ) -> Poll<R> {
        loop {
            match poll(context) {
                (Poll::Pending, Some(tick)) => ready!(self.poll_tick(tick, context)),
                (answer, _) => {
                    self.set = None;
                    return answer;
                }
            }
        }
    }

    fn poll_tick(&mut self, tick: Tick, context: &mut Context<'_>) -> Poll<()> {
        let instant = self.ticks.instant(tick);
        let (set_to, sleep) = self
            .set
            .get_or_insert_with(|| (tick, Box::pin(sleep_until(instant))));
        if *set_to != tick {
            *set_to = tick;
            sleep.as_mut().reset(instant);
        }
        ready!(sleep.as_mut().poll(context));
        self.set = None;
        Poll::Ready(())
    }
}
