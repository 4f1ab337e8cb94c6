//! A request for leases: what is asked of the pool, the wait, and what the holder is told.

use super::undelivered::Undelivered;
use super::{Reply, Session, bad_request};
use crate::backend::Backend;
use crate::backend_pool::BackendPool;
use crate::trace::WaitSpan;
use crate::waiting::{Waiter, cancelled};
use core::time::Duration;
use http::StatusCode;
use leasehold_core::balance::stable_hash;
use leasehold_core::limit::Cost;
use leasehold_protocol::Refusal;
use leasehold_protocol::lease::{
    GrantedLease, GrantedLeases, LeaseCost, LeaseRequest, MAX_LEASES, RenewedLease, millis_left,
};
use leasehold_sync::{AcquireError, HeldLease, Lease, Outcome, Request, Tick, TooManyNames};
use std::sync::Arc;

/// Bytes of a name or an idempotency key.
const MAX_NAME: usize = 255;

/// Leases that were granted, and are in the state file.
pub(super) struct Granted {
    pub(super) leases: GrantedLeases,
    pub(super) undelivered: Undelivered,
}

impl Session<'_> {
    /// Answers a request by itself: by one lease, or by a list where a count was asked for.
    pub(super) async fn acquire_one(&self, asked: LeaseRequest) -> Result<Reply, Refusal> {
        let has_count = asked.count.is_some();
        let Granted {
            leases,
            undelivered,
        } = self.acquire(asked).await?;
        let reply = match (has_count, leases.leases.first()) {
            (false, Some(only)) => Reply::of(only),
            (true, _) | (false, None) => Reply::of(&leases),
        };
        Ok(Reply {
            undelivered: Some(undelivered),
            ..reply
        })
    }

    /// Waits for a lease, and takes as many more as are free then; all are in the state file before this returns.
    pub(super) async fn acquire(&self, asked: LeaseRequest) -> Result<Granted, Refusal> {
        check(&asked)?;
        let begun = self.pool(asked.pool.as_deref())?.pool().blocking().now();
        let mut pool = Arc::clone(self.pool(asked.pool.as_deref())?);
        if let Some(again) = self.again(&pool, &asked) {
            return Ok(again);
        }
        let wait = WaitSpan::begin(self.parent, &pool.settings().name);
        let first = loop {
            let request = self.request(&pool, &asked, begun)?;
            let waiting = self.shared.waiting();
            let ask = || pool.pool().acquire_with(request);
            let waiting = waiting.outcome(ask, || self.waiter(&pool));
            let waited = tokio::select! {
                waited = waiting => waited,
                () = self.drain.begun() => return Err(closing()),
            };
            let Some(waited) = waited else {
                wait.refused(Refusal::CANCELLED);
                return Err(cancelled());
            };
            match waited {
                Ok(lease) => break (lease, request),
                Err(AcquireError::Closed) => {
                    pool = self.shared.successor(&pool).await.ok_or_else(closing)?;
                }
                Err(refused) => {
                    let refusal = pool.refusal(&refused, &request);
                    wait.refused(refusal.code);
                    return Err(refusal);
                }
            }
        };
        wait.granted(first.0.name());
        let (first, request) = first;
        // Another request with the same key may have been granted meanwhile.
        if let Some(again) = self.again(&pool, &asked) {
            let _ = first.release(Outcome::NotSent);
            return Ok(again);
        }
        let mut leases = vec![first];
        let sync = pool.pool().blocking();
        let count = usize::from(asked.count.unwrap_or(1));
        while leases.len() < count
            && let Ok(Ok(more)) = sync
                .enqueue(request.deadline(sync.now()))
                .map(leasehold_sync::PendingLease::wait)
        {
            leases.push(more);
        }
        self.lend(&pool, leases, asked.idempotency_key.as_deref())
    }

    /// The request in words, for an operator.
    fn waiter(&self, pool: &BackendPool) -> Waiter {
        Waiter {
            pool: pool.settings().name.clone(),
            request: "a lease".to_owned(),
            client: None,
            caller: self.holder().map(str::to_owned),
        }
    }

    /// Returns the leases that an earlier request with the same key has, if their answer was lost.
    fn again(&self, pool: &Arc<BackendPool>, asked: &LeaseRequest) -> Option<Granted> {
        let key = asked.idempotency_key.as_deref()?;
        let sync = pool.pool().blocking();
        let held = pool.lent().of_key(sync, self.holder(), key);
        let members = sync.members();
        let told = |one: &HeldLease| {
            let (_, backend) = members.iter().find(|(member, _)| *member == one.member)?;
            Some(self.told(pool, backend, one.fence, one.expires, Duration::ZERO))
        };
        let leases: Vec<_> = held.iter().filter_map(told).collect();
        (!leases.is_empty()).then(|| Granted {
            leases: GrantedLeases { leases },
            undelivered: Undelivered::new(Arc::clone(pool), Vec::new()),
        })
    }

    /// Leaves leases to their holder.
    fn lend(
        &self,
        pool: &Arc<BackendPool>,
        leases: Vec<Lease<Backend>>,
        key: Option<&str>,
    ) -> Result<Granted, Refusal> {
        if let Err(error) = pool.flush_charges() {
            for lease in leases {
                // One that has expired meanwhile was taken back already.
                let _ = lease.release(Outcome::NotSent);
            }
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Err(Refusal::new(status, "no_state", error.to_string()));
        }
        let told = leases.iter().map(|lease| {
            self.told(
                pool,
                lease.payload(),
                lease.fence(),
                lease.expires(),
                lease.waited(),
            )
        });
        let told = told.collect();
        let ids = leases.into_iter().filter_map(|lease| {
            let fence = lease.fence();
            Some((fence, lease.detach()?))
        });
        let ids: Vec<_> = ids.collect();
        let sync = pool.pool().blocking();
        pool.lent().note(sync, &ids, self.holder(), key);
        let fences = ids.into_iter().map(|(fence, _)| fence).collect();
        Ok(Granted {
            leases: GrantedLeases { leases: told },
            undelivered: Undelivered::new(Arc::clone(pool), fences),
        })
    }

    /// Words a lease for its holder.
    fn told(
        &self,
        pool: &BackendPool,
        backend: &Backend,
        fence: u64,
        expires: Option<Tick>,
        waited: Duration,
    ) -> GrantedLease {
        let now = pool.pool().blocking().now();
        let left = expires.map_or(Duration::ZERO, |expires| expires.since(now));
        let RenewedLease {
            expires_in_ms,
            renew_in_ms,
        } = RenewedLease::of(left);
        let service = backend.service().filter(|service| service.has_key);
        let secret = service.filter(|_| self.identity.is_proven);
        GrantedLease {
            lease: format!("{}-{fence}", pool.settings().name),
            fence,
            member: backend.name().to_owned(),
            url: backend.url().to_string(),
            secret: secret.map(|service| service.endpoint.key().clone()),
            expires_in_ms,
            renew_in_ms,
            waited_ms: millis_left(waited),
        }
    }

    /// Returns what is asked of a pool.
    fn request(
        &self,
        pool: &BackendPool,
        asked: &LeaseRequest,
        begun: Tick,
    ) -> Result<Request, Refusal> {
        let (sync, settings) = (pool.pool().blocking(), pool.settings());
        let caller = self.identity.caller.as_deref();
        let flow = match (caller, &asked.flow) {
            (Some(caller), _) => caller.flow,
            (None, Some(name)) => stable_hash(format!("flow {name}").as_bytes()),
            (None, None) => self.identity.flow,
        };
        let told = asked.wait_ms.map(Duration::from_millis);
        let wait = told.map_or(settings.max_wait, |told| told.min(settings.max_wait));
        // A caller's own priority is the best that it may ask for.
        let own = caller.map_or(0, |caller| caller.settings.priority);
        let priority = asked.priority.unwrap_or(128).max(own);
        let mut request = Request::new()
            .cost(asked.cost.map_or(Cost::REQUEST, LeaseCost::into))
            .flow(flow)
            .priority(priority)
            .deadline(begun.saturating_add(wait))
            .ttl(self.lease_ttl);
        if let Some(class) = &asked.class {
            request = request.class(pool.pool().class(class).map_err(|full| too_many(&full))?);
        }
        if settings.policy.uses_key() {
            request = request.key(flow);
        }
        if let Some(labels) = self.labels(pool, asked)? {
            request = request.labels(labels);
        }
        let avoid = asked.avoid.iter().filter_map(|name| sync.member(name));
        let avoid: Vec<_> = avoid.collect();
        if !avoid.is_empty()
            && let Some(other) = sync.alternative(&request, &avoid)
        {
            request = request.pin(other);
        }
        Ok(request)
    }

    /// Returns the labels that a member needs: those that are asked for, or that of the class where it is a model.
    fn labels(
        &self,
        pool: &BackendPool,
        asked: &LeaseRequest,
    ) -> Result<Option<leasehold_sync::Labels>, Refusal> {
        let no_member = |what: String| {
            let text = format!("no member of this pool {what}");
            Refusal::new(StatusCode::NOT_FOUND, "no_member", text)
        };
        if asked.labels.is_empty() {
            let class = asked.class.as_deref().unwrap_or_default();
            let labels = pool.labels_for(class);
            return labels.map_err(|_| no_member(format!("serves {class:?}")));
        }
        let members = &pool.settings().members;
        let has = |label: &String| members.iter().any(|one| one.labels.contains(label));
        if let Some(unknown) = asked.labels.iter().find(|label| !has(label)) {
            return Err(no_member(format!("has the label {unknown:?}")));
        }
        let labels = pool.pool().labels(&asked.labels);
        labels.map(Some).map_err(|full| too_many(&full))
    }
}

/// Checks what the types don't.
fn check(asked: &LeaseRequest) -> Result<(), Refusal> {
    let named = [&asked.class, &asked.flow, &asked.idempotency_key].into_iter();
    let mut names = named.flatten().chain(&asked.labels).chain(&asked.avoid);
    if names.any(|name| name.is_empty() || name.len() > MAX_NAME) {
        return Err(bad_request(format!("a name has 1 to {MAX_NAME} bytes")));
    }
    let lists = [asked.labels.len(), asked.avoid.len()];
    let counts = asked.count.map(usize::from).unwrap_or(1);
    if counts == 0 || counts > MAX_LEASES || lists.iter().any(|length| *length > MAX_LEASES) {
        let text = format!("count is 1 to {MAX_LEASES}, and so long are lists at most");
        return Err(bad_request(text));
    }
    Ok(())
}

fn too_many(full: &TooManyNames) -> Refusal {
    bad_request(full.to_string())
}

/// Refuses a request because the gateway ends, or the pool was taken away.
fn closing() -> Refusal {
    let text = "the gateway is ending, or the pool was taken away; ask again";
    let status = StatusCode::SERVICE_UNAVAILABLE;
    Refusal::new(status, "closing", text).with_wait(Some(Duration::from_secs(1)))
}
