//! News of a pool, awaited.

use crate::clock::{Alarm, Ticks};
use core::future::poll_fn;
use leasehold_sync::{self as sync, PoolEvent};

/// The events of a pool from when this was [made](crate::TokioPool::events) on.
///
/// While one is awaited, the pool's time is kept, so that leases expire and probes begin when they are due
/// even if nobody waits for a lease.
///
/// ```
/// use core::num::NonZeroUsize;
/// use leasehold_tokio::TokioPool;
/// use leasehold_tokio::core::balance::Policy;
/// use leasehold_tokio::core::pool::{PoolConfig, Member};
/// use leasehold_tokio::sync::PoolEvent;
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
    ticks: Ticks,
}

impl<T> Subscription<T> {
    pub(crate) fn new(events: sync::Subscription<T>, ticks: Ticks) -> Self {
        Self { events, ticks }
    }

    /// Waits for the next event; `None` once the pool is closed and all were taken.
    ///
    /// Dropped before it is ready, it has taken nothing, and keeps the pool's time no longer.
    pub async fn next(&mut self) -> Option<PoolEvent<T>> {
        let mut alarm = Alarm::new(self.ticks);
        let listening = Listening(&mut self.events);
        poll_fn(|context| alarm.poll(context, |context| listening.0.poll(context))).await
    }

    /// The next event if there is one.
    pub fn take(&mut self) -> Option<PoolEvent<T>> {
        self.events.take()
    }
}

/// Rests when it is dropped.
struct Listening<'a, T>(&'a mut sync::Subscription<T>);

impl<T> Drop for Listening<'_, T> {
    fn drop(&mut self) {
        self.0.rest();
    }
}
