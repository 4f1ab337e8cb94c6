//! Leases of pools in other processes, behind the same handle as those of this one.

use core::time::Duration;
use leasehold_core::pool::Release;
use leasehold_core::time::Tick;

/// A lease of a pool in another process, as the client of that pool holds it. No method waits for the other process.
pub trait RemoteLease: Send + Sync {
    /// The tick of the client's clock, which a release's outcome goes by.
    fn now(&self) -> Tick;

    /// How long the lease may be counted on; `None` if no longer. The client renews it by itself.
    fn left(&self) -> Option<Duration>;

    /// Tells the other process that the call has arrived.
    fn tell_arrived(&self);

    /// Tells the other process how the lease ends, whether it has expired or not.
    fn tell_released(&self, release: Release);
}
