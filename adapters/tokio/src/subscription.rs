//! A subscription to a pool's events, awaited.

use crate::clock::{Epoch, Timer};
use core::future::poll_fn;
use leasehold_sync::{self as sync, PoolEvent};

/// Events of a pool since the subscription was [made](crate::TokioPool::events).
///
/// While one is awaited the pool's timers run, so that leases expire and probes begin on time even when no
/// request is queued.
///
/// ```
/// use core::num::NonZeroUsize;
/// use leasehold_tokio::{Member, Policy, PoolConfig, PoolEvent, TokioPool};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = TokioPool::new(PoolConfig::new(Policy::Fifo));
/// let member = pool.blocking().add(Member::new("127.0.0.1:8001"))?;
/// let mut events = pool.events(NonZeroUsize::MIN);
/// pool.blocking().drain(member)?;
/// assert!(matches!(events.next().await, Some(PoolEvent::Drained { .. })));
/// pool.blocking().close();
/// assert!(events.next().await.is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Subscription<T> {
    events: sync::Subscription<T>,
    epoch: Epoch,
}

impl<T> Subscription<T> {
    pub(crate) fn new(events: sync::Subscription<T>, epoch: Epoch) -> Self {
        Self { events, epoch }
    }

    /// Waits for the next event; `None` once the pool is closed and all events were taken.
    ///
    /// Dropping the future before it is ready loses no event, and hands the role of timekeeper over.
    pub async fn next(&mut self) -> Option<PoolEvent<T>> {
        let mut timer = Timer::new(self.epoch);
        let polled = PauseOnDrop(&mut self.events);
        poll_fn(|context| timer.poll(context, |context| polled.0.poll(context))).await
    }

    /// Takes the next event without waiting.
    pub fn take(&mut self) -> Option<PoolEvent<T>> {
        self.events.take()
    }
}

struct PauseOnDrop<'a, T>(&'a mut sync::Subscription<T>);

impl<T> Drop for PauseOnDrop<'_, T> {
    fn drop(&mut self) {
        self.0.pause();
    }
}
