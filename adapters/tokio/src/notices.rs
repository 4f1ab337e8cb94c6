//! News of a pool, awaited.

use crate::clock::{Alarm, Ticks};
use core::future::poll_fn;
use leasehold_sync::{self as sync, Notice};

/// The notices of a pool from when this was [made](crate::TokioPool::notices) on.
///
/// While one is awaited, the pool's time is kept, so that leases expire and probes begin when they are due
/// even if nobody waits for a lease.
///
/// ```
/// use core::num::NonZeroUsize;
/// use leasehold_tokio::TokioPool;
/// use leasehold_tokio::core::balance::Policy;
/// use leasehold_tokio::core::pool::{Config, Member};
/// use leasehold_tokio::sync::Notice;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = TokioPool::new(Config::new(Policy::Fifo));
/// let member = pool.blocking().add(Member::new("127.0.0.1:8001"))?;
/// let mut notices = pool.notices(NonZeroUsize::MIN);
/// pool.blocking().drain(member)?;
/// assert!(matches!(notices.next().await, Some(Notice::Drained { .. })));
/// pool.blocking().close();
/// assert!(notices.next().await.is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Notices<T> {
    notices: sync::Notices<T>,
    ticks: Ticks,
}

impl<T> Notices<T> {
    pub(crate) fn new(notices: sync::Notices<T>, ticks: Ticks) -> Self {
        Self { notices, ticks }
    }

    /// Waits for the next notice; `None` once the pool is closed and all were taken.
    ///
    /// Dropped before it is ready, it has taken nothing, and keeps the pool's time no longer.
    pub async fn next(&mut self) -> Option<Notice<T>> {
        let mut alarm = Alarm::new(self.ticks);
        let listening = Listening(&mut self.notices);
        poll_fn(|context| alarm.poll(context, |context| listening.0.poll(context))).await
    }

    /// The next notice if there is one.
    pub fn take(&mut self) -> Option<Notice<T>> {
        self.notices.take()
    }
}

/// Rests when it is dropped.
struct Listening<'a, T>(&'a mut sync::Notices<T>);

impl<T> Drop for Listening<'_, T> {
    fn drop(&mut self) {
        self.0.rest();
    }
}
