//! Leases of pools in other processes, behind the same handle as those of this one.

use crate::lease::LeaseExpired;
use core::time::Duration;
use leasehold_core::pool::Release;
use leasehold_core::time::Tick;

/// A lease of a pool in another process, as the client of that pool holds it. No method waits for the other process.
pub trait RemoteLease: Send + Sync {
    /// The tick of the client's clock, which a release's outcome goes by.
    fn now(&self) -> Tick;

    /// As [`Lease::arrived`](crate::Lease::arrived).
    ///
    /// # Errors
    /// The lease has expired.
    fn arrived(&self) -> Result<(), LeaseExpired>;

    /// As [`Lease::renew`](crate::Lease::renew): the time that the lease has left by now. The client asks for more by
    /// itself.
    ///
    /// # Errors
    /// The lease has expired.
    fn renew(&self) -> Result<Option<Duration>, LeaseExpired>;

    /// As [`Lease::release`](crate::Lease::release).
    ///
    /// # Errors
    /// The lease has expired.
    fn release(self: Box<Self>, release: Release) -> Result<(), LeaseExpired>;
}
