//! A deadline that moves often and is rarely reached.
//!
//! Invariant: its timer is set again only when it fires or the deadline comes nearer, so that moving it costs nothing.

use crate::clock::{now, poll_time};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep_until};

/// A timer for such a deadline.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    sleep: Option<Pin<Box<Sleep>>>,
    /// The task that the timer wakes, and when.
    wakes: Option<(Waker, Instant)>,
}

impl Patience {
    /// Is ready once the deadline is over.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let task = context.waker();
        // A timer that runs and knows its task need not be told of it again.
        if let Some((known, at)) = &self.wakes
            && *at <= deadline
            && poll_time() < *at
            && known.will_wake(task)
        {
            return Poll::Pending;
        }
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(context).is_ready() {
            if now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        // Without budget, tokio has woken the task at once and not told the timer.
        let is_told = coop::has_budget_remaining();
        self.wakes = is_told.then(|| (task.clone(), sleep.deadline()));
        Poll::Pending
    }
}
