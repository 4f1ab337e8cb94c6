//! What holders tell of their leases: that a call has arrived, goes on or has ended.

use super::Session;
use crate::backend::Backend;
use crate::backend_pool::BackendPool;
use crate::lock;
use http::StatusCode;
use leasehold_protocol::lease::{Done, LeaseRelease, RenewedLease};
use leasehold_protocol::{Refusal, Rests};
use leasehold_sync::{LeaseExpired, LeaseId, SyncPool};
use std::sync::Arc;

impl Session<'_> {
    /// Tells that the call of a lease has arrived.
    pub(super) fn arrived(&self, lease: &str) -> Result<Done, Refusal> {
        self.with(lease, |sync, id| sync.arrived_held(id))?;
        Ok(Done {})
    }

    /// Moves the expiry of a lease.
    pub(super) fn renew(&self, lease: &str) -> Result<RenewedLease, Refusal> {
        let (pool, left) = self.with(lease, |sync, id| sync.renew_held(id))?;
        if let Err(error) = pool.flush_charges() {
            // The holder goes by the expiry before.
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Err(Refusal::new(status, "no_state", error.to_string()));
        }
        Ok(RenewedLease::of(left.unwrap_or_default()))
    }

    /// Ends a lease.
    pub(super) fn release(&self, lease: &str, told: &LeaseRelease) -> Result<Done, Refusal> {
        let (_, fence) = self.find(lease)?;
        let (pool, ()) = self.with(lease, |sync, id| {
            let backend = sync.held_payload(id).ok_or(LeaseExpired)?;
            let release = match backend.service() {
                Some(service) => told.to_release(sync.now(), &mut lock(&service.rests)),
                None => told.to_release(sync.now(), &mut Rests::new(fence)),
            };
            sync.release_held(id, release)
        })?;
        pool.lent().forget(fence);
        Ok(Done {})
    }

    /// Does something with a lease that the caller holds.
    fn with<R>(
        &self,
        lease: &str,
        act: impl Fn(&SyncPool<Backend>, LeaseId) -> Result<R, LeaseExpired>,
    ) -> Result<(&Arc<BackendPool>, R), Refusal> {
        let (pool, fence) = self.find(lease)?;
        let sync = pool.pool().blocking();
        let done = pool
            .lent()
            .with(sync, fence, self.holder(), |id| act(sync, id));
        match done {
            Ok(done) => Ok((pool, done)),
            Err(LeaseExpired) => Err(gone()),
        }
    }

    /// Finds the pool and the fence of a lease.
    fn find(&self, lease: &str) -> Result<(&Arc<BackendPool>, u64), Refusal> {
        let parts = lease.rsplit_once('-');
        let found = parts.and_then(|(pool, fence)| {
            let pool = self.table.pool_named(pool)?;
            Some((pool, fence.parse().ok()?))
        });
        found.ok_or_else(gone)
    }
}

/// Refuses what is asked of a lease that is not held.
fn gone() -> Refusal {
    let text =
        "the lease has ended or expired, and its member may have been leased again; lease anew";
    Refusal::new(StatusCode::GONE, "lease_expired", text)
}
