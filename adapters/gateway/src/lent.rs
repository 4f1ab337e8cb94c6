//! The leases of a pool that workers elsewhere hold, by their fences: whose each is, and which request it answered.
//!
//! Invariant: whether a lease is held is the pool's to say. What is known here beside it may be lost by a restart; the
//! lease itself goes on.

use crate::backend::Backend;
use crate::lock;
use leasehold_sync::{HeldLease, LeaseExpired, LeaseId, SyncPool};
use std::collections::HashMap;
use std::sync::Mutex;

/// Leases that are known before those that have ended are looked for.
const CLEAN_AT: usize = 1_024;

/// The leases of one pool.
#[derive(Debug, Default)]
pub(crate) struct Lent(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    by_fence: HashMap<u64, Known>,
    /// The fences of what a request with a key was answered with.
    by_key: HashMap<RequestKey, Vec<u64>>,
    /// The number of leases at which those that have ended are dropped.
    clean_at: usize,
}

#[derive(Debug)]
struct Known {
    lease: LeaseId,
    holder: Option<String>,
    key: Option<String>,
}

/// The idempotency key of a request, with the name of its caller.
type RequestKey = (Option<String>, String);

impl Book {
    fn forget(&mut self, fence: u64) {
        let Some(Known { holder, key, .. }) = self.by_fence.remove(&fence) else {
            return;
        };
        let key = key.map(|key| (holder, key));
        // The key may be that of a later request by now.
        if let Some(key) = key
            && let Some(fences) = self.by_key.get_mut(&key)
        {
            fences.retain(|one| *one != fence);
            if fences.is_empty() {
                self.by_key.remove(&key);
            }
        }
    }

    /// Drops the leases that have expired, once there are twice as many as after the last time.
    fn clean(&mut self, pool: &SyncPool<Backend>) {
        if self.by_fence.len() < self.clean_at.max(CLEAN_AT) {
            return;
        }
        let held: HashMap<_, _> = pool.held().into_iter().map(|one| (one.fence, ())).collect();
        self.by_fence.retain(|fence, _| held.contains_key(fence));
        self.by_key
            .retain(|_, fences| fences.iter().any(|fence| held.contains_key(fence)));
        self.clean_at = self.by_fence.len().saturating_mul(2);
    }
}

impl Lent {
    /// Notes leases that a request was granted.
    pub(crate) fn note(
        &self,
        pool: &SyncPool<Backend>,
        granted: &[(u64, LeaseId)],
        holder: Option<&str>,
        key: Option<&str>,
    ) {
        let mut book = lock(&self.0);
        book.clean(pool);
        for (fence, lease) in granted {
            let known = Known {
                lease: *lease,
                holder: holder.map(str::to_owned),
                key: key.map(str::to_owned),
            };
            book.by_fence.insert(*fence, known);
        }
        if let Some(key) = key {
            let fences = granted.iter().map(|(fence, _)| *fence).collect();
            let key = (holder.map(str::to_owned), key.to_owned());
            book.by_key.insert(key, fences);
        }
    }

    /// Returns the leases that an earlier request with the same key was granted, as far as they are held.
    pub(crate) fn of_key(
        &self,
        pool: &SyncPool<Backend>,
        holder: Option<&str>,
        key: &str,
    ) -> Vec<HeldLease> {
        let key = (holder.map(str::to_owned), key.to_owned());
        let Some(fences) = lock(&self.0).by_key.get(&key).cloned() else {
            return Vec::new();
        };
        let mut held = pool.held();
        held.retain(|one| fences.contains(&one.fence));
        held
    }

    /// Does something with a lease of a holder, whatever its id is by now.
    ///
    /// # Errors
    /// It has expired, has been released, or is another caller's.
    pub(crate) fn with<R>(
        &self,
        pool: &SyncPool<Backend>,
        fence: u64,
        holder: Option<&str>,
        act: impl Fn(LeaseId) -> Result<R, LeaseExpired>,
    ) -> Result<R, LeaseExpired> {
        let known = {
            let book = lock(&self.0);
            let known = book.by_fence.get(&fence);
            if known.is_some_and(|known| known.holder.as_deref() != holder) {
                return Err(LeaseExpired);
            }
            known.map(|known| known.lease)
        };
        if let Some(done) = known.and_then(|lease| act(lease).ok()) {
            return Ok(done);
        }
        // After a restart or a reload it has another id. Leases without an expiry are those of requests that the gateway
        // itself passes on.
        let mut held = pool.held().into_iter();
        let found = held.find(|one| one.fence == fence && one.expires.is_some());
        let Some(found) = found.filter(|found| Some(found.lease) != known) else {
            lock(&self.0).forget(fence);
            return Err(LeaseExpired);
        };
        let done = act(found.lease)?;
        if let Some(known) = lock(&self.0).by_fence.get_mut(&fence) {
            known.lease = found.lease;
        }
        Ok(done)
    }

    /// Forgets a lease that has ended.
    pub(crate) fn forget(&self, fence: u64) {
        lock(&self.0).forget(fence);
    }
}
