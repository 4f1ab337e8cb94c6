//! A deadline that moves often and is rarely reached.
//!
//! Invariant: its timer is set again only when it fires or the deadline comes nearer, so that moving it costs nothing.

use crate::clock::now;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use tokio::time::{Instant, Sleep, sleep_until};

/// A timer for such a deadline.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Is ready once the deadline is over.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(context));
            if now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}
