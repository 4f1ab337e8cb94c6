//! The pool that threads and tasks share: each method is one command of the core's pool, under the lock.

use crate::clock::Clock;
use crate::error::AcquireError;
use crate::explained::Explained;
use crate::lease::Lease;
use crate::names::{Names, TooManyNames};
use crate::parker::Parker;
use crate::pending::PendingLease;
use crate::shared::Shared;
use crate::state::{ParkKey, State};
use crate::subscription::Subscription;
use crate::sync::{Arc, Mutex, lock};
use core::fmt;
use core::num::NonZeroUsize;
use core::time::Duration;
use leasehold_core::limit::{LimitSet, Unit};
#[cfg(feature = "serde")]
use leasehold_core::pool::PoolSnapshot;
use leasehold_core::pool::stats::Stats;
use leasehold_core::pool::{
    Acquired, AddError, BreakerError, Charge, Estimate, FlowConfig, GroupId, Labels, Member,
    MemberId, MemberUpdate, Pool, PoolConfig, ProbeId, ProbeResult, Request, StaleMember,
    StaleProbe, UpdateError,
};
use leasehold_core::time::Tick;

/// A lease pool that threads and tasks share. Clones are the same pool.
///
/// ```
/// use core::num::NonZeroU32;
/// use leasehold_sync::{Member, Outcome, Policy, PoolConfig, SyncPool};
///
/// let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
/// pool.add(Member::new("127.0.0.1:8001").max_leases(NonZeroU32::MIN))?;
/// let lease = pool.acquire()?;
/// assert_eq!(*lease, "127.0.0.1:8001");
/// assert!(pool.try_acquire().is_err());
/// lease.release(Outcome::Ok)?;
/// assert!(pool.try_acquire().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SyncPool<T> {
    shared: Arc<Shared<T>>,
}

impl<T> SyncPool<T> {
    /// Makes a pool without members; its clock starts now.
    #[must_use]
    pub fn new(config: PoolConfig) -> Self {
        Self::with_clock(config, Clock::start())
    }

    /// Makes a pool without members on this clock.
    #[must_use]
    pub fn with_clock(config: PoolConfig, clock: Clock) -> Self {
        Self::from_core(Pool::new(config), clock)
    }

    /// Wraps a [`leasehold_core::pool::Pool`], such as one restored from a snapshot, whose ticks are the clock's.
    ///
    /// Leases that it holds end at their expiry; requests that it has queued are granted nothing.
    #[must_use]
    pub fn from_core(pool: Pool<Arc<T>>, clock: Clock) -> Self {
        Self {
            shared: Arc::new(Shared {
                clock,
                names: Names::default(),
                state: Mutex::new(State::new(pool)),
            }),
        }
    }

    /// The current tick of the pool's clock.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.shared.clock.now()
    }

    /// Waits for a lease without a deadline.
    ///
    /// # Errors
    /// The pool is closed or its queue full.
    pub fn acquire(&self) -> Result<Lease<T>, AcquireError> {
        self.enqueue(Request::new())?.wait()
    }

    /// Waits for a lease for at most `timeout`; refused at once if no member can serve by then.
    ///
    /// # Errors
    /// There is no lease in time, the pool is closed, or its queue full.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Lease<T>, AcquireError> {
        self.enqueue_at(|now| Request::new().deadline(now.saturating_add(timeout)))?
            .wait()
    }

    /// Takes a lease if a member is free and no request is queued before this one.
    ///
    /// # Errors
    /// There is none, or the pool is closed.
    pub fn try_acquire(&self) -> Result<Lease<T>, AcquireError> {
        self.enqueue_at(|now| Request::new().deadline(now))?.wait()
    }

    /// Takes a lease or a place in the queue. The request's deadline is a tick of [`now`](Self::now)'s clock.
    ///
    /// # Errors
    /// The request is refused at once.
    pub fn enqueue(&self, request: Request) -> Result<PendingLease<T>, AcquireError> {
        self.enqueue_at(|_| request)
    }

    /// Estimates the wait of a request that would come now.
    ///
    /// # Errors
    /// The request would be refused whatever its deadline.
    pub fn estimate(&self, request: &Request) -> Result<Estimate, AcquireError> {
        self.shared.under_lock(|state, now| {
            let estimate = state.pool.estimate(now, request);
            estimate.map_err(|refused| AcquireError::from_core(refused, now))
        })
    }

    /// Tells for each member whether it could serve the request, and if not, why. O(members), under the lock.
    #[must_use]
    pub fn explain(&self, request: &Request) -> Vec<Explained> {
        let reasons: Vec<_> = self.shared.under_lock(|state, now| {
            state.pool.handle_timeout(now);
            state.pool.explain(request).collect()
        });
        let names = &self.shared.names;
        let explained = reasons.into_iter().map(|(member, eligibility)| Explained {
            member,
            name: names.member_name(member),
            eligibility,
        });
        explained.collect()
    }

    /// A refusal for people: the error, and the names of what the request asked for.
    #[must_use]
    pub fn describe(&self, refused: AcquireError, request: &Request) -> String {
        let mut asked = Vec::new();
        if let Some(class) = self.class_name(request.class_number()) {
            asked.push(format!("class {class}"));
        }
        for label in self.label_names(request.label_set()) {
            asked.push(format!("label {label}"));
        }
        if let Some(flow) = self.flow_name(request.flow_number()) {
            asked.push(format!("caller {flow}"));
        }
        let pinned = request.pinned_to();
        if let Some(member) = pinned.and_then(|member| self.member_name(member)) {
            asked.push(format!("only {member}"));
        }
        match asked.is_empty() {
            true => refused.to_string(),
            false => format!("{refused} ({})", asked.join(", ")),
        }
    }

    /// The number of the class of this name: the same for a name for the pool's life, never 0.
    ///
    /// Names are kept until the pool is dropped, and aren't part of a snapshot: after a restore, name classes and
    /// labels in the same order first. Each call takes a lock, so that a hot path keeps the number.
    ///
    /// ```
    /// use leasehold_sync::{Member, Policy, PoolConfig, Request, SyncPool};
    ///
    /// let pool = SyncPool::new(PoolConfig::new(Policy::Fifo));
    /// pool.add(Member::new("sk-1").labels(pool.labels(["vision", "cheap"])?))?;
    /// let request = Request::new().class(pool.class("gpt-4o")?).labels(pool.labels(["vision"])?);
    /// assert_eq!(*pool.enqueue(request)?.wait()?, "sk-1");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The name is new, and the pool has named 65,536 classes.
    pub fn class(&self, name: &str) -> Result<u32, TooManyNames> {
        self.shared.names.class(name)
    }

    /// The name of a class; `None` for class 0 and others that [`class`](Self::class) didn't number.
    #[must_use]
    pub fn class_name(&self, class: u32) -> Option<std::sync::Arc<str>> {
        self.shared.names.class_name(class)
    }

    /// The set of the labels of these names, for members and requests.
    ///
    /// # Errors
    /// The pool would have to keep more than 65,536 labels, or sets of them; it then names none of the new ones.
    pub fn labels(
        &self,
        names: impl IntoIterator<Item: AsRef<str>>,
    ) -> Result<Labels, TooManyNames> {
        let numbers = self.shared.names.labels(names)?;
        let labels = self
            .shared
            .under_lock(|state, _| state.pool.labels(numbers));
        labels.map_err(|_| TooManyNames::of("sets of labels"))
    }

    /// The names of the labels in a set, in the order in which they were first named.
    #[must_use]
    pub fn label_names(&self, labels: Labels) -> Vec<std::sync::Arc<str>> {
        let state = lock(&self.shared.state);
        let numbers = state.pool.labels_in(labels).unwrap_or_default().to_vec();
        drop(state);
        self.shared.names.label_names(&numbers)
    }

    /// The number of the flow of this name: the same for a name for the pool's life, never 0.
    ///
    /// # Errors
    /// The name is new, and the pool has named 65,536 flows.
    pub fn flow(&self, name: &str) -> Result<u64, TooManyNames> {
        self.shared.names.flow(name)
    }

    /// The name of a flow; `None` for those that [`flow`](Self::flow) didn't number.
    #[must_use]
    pub fn flow_name(&self, flow: u64) -> Option<std::sync::Arc<str>> {
        self.shared.names.flow_name(flow)
    }

    /// Configures a flow: its weight, limits and bound on queued requests.
    pub fn set_flow(&self, flow: u64, config: &FlowConfig) {
        self.shared
            .under_lock(|state, now| state.pool.set_flow(now, flow, config));
    }

    /// Lets a flow be as the pool's settings say of each.
    pub fn reset_flow(&self, flow: u64) {
        self.shared
            .under_lock(|state, now| state.pool.reset_flow(now, flow));
    }

    /// Adds a member.
    ///
    /// # Errors
    /// The pool has had four billion members at once, or the member's group is of another pool.
    pub fn add(&self, member: Member<T>) -> Result<MemberId, AddError> {
        let mut kept = None;
        let member = member.map(|payload| keep(payload, &mut kept));
        self.shared
            .under_lock(|state, now| state.pool.add(now, member))
    }

    /// Adds a member under a name, by which hash policies know it, and which people see.
    ///
    /// # Errors
    /// As for [`add`](Self::add).
    pub fn add_named(&self, name: &str, member: Member<T>) -> Result<MemberId, AddError> {
        let id = self.add(member.name(name))?;
        self.shared.names.set_member(id, name);
        Ok(id)
    }

    /// The name of a member that was [added](Self::add_named) under one.
    #[must_use]
    pub fn member_name(&self, member: MemberId) -> Option<std::sync::Arc<str>> {
        self.shared.names.member_name(member)
    }

    /// The member of a name; the one added last, if several have it. O(members).
    #[must_use]
    pub fn member(&self, name: &str) -> Option<MemberId> {
        self.shared.names.member(name)
    }

    /// Makes a group, whose members share these limits besides their own.
    #[must_use]
    pub fn add_group(&self, limits: LimitSet) -> GroupId {
        self.shared
            .under_lock(|state, _| state.pool.add_group(limits))
    }

    /// Removes a member; leases on it stay valid. Returns its payload if no lease is held on it.
    ///
    /// # Errors
    /// The member was removed before.
    pub fn remove(&self, member: MemberId) -> Result<Option<Arc<T>>, StaleMember> {
        let removed = self
            .shared
            .under_lock(|state, now| state.pool.remove(now, member))?;
        self.shared.names.forget_member(member);
        Ok(removed)
    }

    /// Changes a member, all at once and without losing its state, and returns a payload that was replaced.
    ///
    /// # Errors
    /// The member was removed, or a group or labels are of another pool; nothing is changed then.
    pub fn update(
        &self,
        member: MemberId,
        update: MemberUpdate<T>,
    ) -> Result<Option<Arc<T>>, UpdateError> {
        let mut kept = None;
        let update = update.map(|payload| keep(payload, &mut kept));
        self.shared
            .under_lock(|state, now| state.pool.update(now, member, update))
    }

    /// Opens a member's breaker for a time, as an operator may.
    ///
    /// # Errors
    /// The member was removed or has no breaker.
    pub fn trip_breaker(&self, member: MemberId, open: Duration) -> Result<(), BreakerError> {
        self.shared.under_lock(|state, now| {
            let until = now.saturating_add(open);
            state.pool.trip_breaker(now, member, until)
        })
    }

    /// Closes a member's breaker, as an operator may who knows that it serves again.
    ///
    /// # Errors
    /// The member was removed or has no breaker.
    pub fn reset_breaker(&self, member: MemberId) -> Result<(), BreakerError> {
        self.shared
            .under_lock(|state, now| state.pool.reset_breaker(now, member))
    }

    /// Grants no more leases on a member; [`PoolEvent::Drained`](crate::PoolEvent::Drained) follows its last one.
    ///
    /// # Errors
    /// The member was removed.
    pub fn drain(&self, member: MemberId) -> Result<(), StaleMember> {
        self.shared
            .under_lock(|state, now| state.pool.drain(now, member))
    }

    /// Grants no more leases on a member until it is enabled.
    ///
    /// # Errors
    /// The member was removed.
    pub fn disable(&self, member: MemberId) -> Result<(), StaleMember> {
        self.shared
            .under_lock(|state, now| state.pool.disable(now, member))
    }

    /// Grants leases on a member again.
    ///
    /// # Errors
    /// The member was removed.
    pub fn enable(&self, member: MemberId) -> Result<(), StaleMember> {
        self.shared
            .under_lock(|state, now| state.pool.enable(now, member))
    }

    /// Sets a member's weight, its share of the requests; 0 drains it.
    ///
    /// # Errors
    /// The member was removed.
    pub fn set_weight(&self, member: MemberId, weight: u16) -> Result<(), StaleMember> {
        self.shared
            .under_lock(|state, now| state.pool.set_weight(now, member, weight))
    }

    /// Replaces a member's limits; leases that are held on it count in the new ones.
    ///
    /// # Errors
    /// The member was removed.
    pub fn set_limits(&self, member: MemberId, limits: LimitSet) -> Result<(), StaleMember> {
        self.shared
            .under_lock(|state, now| state.pool.set_limits(now, member, limits))
    }

    /// Records that a member's upstream reports `remaining` units until its quota resets, `reset` from now.
    ///
    /// # Errors
    /// The member was removed.
    pub fn observe(
        &self,
        member: MemberId,
        unit: Unit,
        remaining: u32,
        reset: Duration,
    ) -> Result<(), StaleMember> {
        self.shared.under_lock(|state, now| {
            let reset = now.saturating_add(reset);
            state.pool.observe(now, member, unit, remaining, reset)
        })
    }

    /// Records the depth of a member's own queue: its jobs waiting or running.
    ///
    /// # Errors
    /// The member was removed.
    pub fn observe_depth(&self, member: MemberId, depth: u32) -> Result<(), StaleMember> {
        self.shared
            .under_lock(|state, now| state.pool.observe_depth(now, member, depth))
    }

    /// Answers a probe that [`PoolEvent::Probe`](crate::PoolEvent::Probe) has asked for.
    ///
    /// # Errors
    /// The probe has timed out, or its member was removed.
    pub fn answer_probe(&self, probe: ProbeId, answer: ProbeResult) -> Result<(), StaleProbe> {
        self.shared
            .under_lock(|state, now| state.pool.handle_probe(now, probe, answer))
    }

    /// The members and their payloads. O(members), under the lock.
    #[must_use]
    pub fn members(&self) -> Vec<(MemberId, Arc<T>)> {
        let state = lock(&self.shared.state);
        let members = state.pool.members();
        members
            .map(|(member, payload)| (member, Arc::clone(payload)))
            .collect()
    }

    /// Subscribes to the pool's events from now on; the latest `capacity` events are kept until taken.
    #[must_use]
    pub fn events(&self, capacity: NonZeroUsize) -> Subscription<T> {
        Subscription::new(&self.shared, capacity)
    }

    /// Refuses every request from now on, queued ones included. Leases that are held stay valid.
    pub fn close(&self) {
        self.shared.under_lock(|state, now| {
            state.closed = true;
            state.pool.close(now);
        });
    }

    /// The pool's figures so far. O(members), under the lock.
    #[must_use]
    pub fn stats(&self) -> Stats {
        lock(&self.shared.state).pool.stats()
    }

    /// The figures so far, with those members only that have changed since the sequence of other figures; see
    /// [`Pool::stats_since`].
    #[must_use]
    pub fn stats_since(&self, sequence: u64) -> Stats {
        lock(&self.shared.state).pool.stats_since(sequence)
    }

    /// Whether a lease was granted whose call must not be sent before [`take_charges`](Self::take_charges) are written.
    #[must_use]
    pub fn charges_due(&self) -> bool {
        lock(&self.shared.state).pool.charges_due()
    }

    /// The charges since they were taken last, in order, to be written to a log; see [`Pool::take_charges`].
    #[must_use]
    pub fn take_charges(&self) -> Vec<Charge> {
        lock(&self.shared.state).pool.take_charges()
    }

    /// Enqueues a request that may depend on the tick at which it is made.
    fn enqueue_at(
        &self,
        request: impl FnOnce(Tick) -> Request,
    ) -> Result<PendingLease<T>, AcquireError> {
        let shared = &self.shared;
        shared.under_lock(|state, now| match state.pool.acquire(now, request(now)) {
            Ok(Acquired::Granted(grant)) => {
                // Always there: a member outlives the leases on it.
                let payload = state.pool.payload(grant.member).map(Arc::clone);
                let payload = payload.ok_or(AcquireError::PinnedMemberRemoved)?;
                let lease = Lease::new(Arc::clone(shared), payload, grant);
                Ok(PendingLease::granted(lease))
            }
            Ok(Acquired::Waiting(waiter)) => {
                let parker = Arc::new(Parker::new(!state.has_waiters()));
                let wake_at = state.park(ParkKey::Waiter(waiter), &parker);
                Ok(PendingLease::queued(shared, waiter, parker, wake_at))
            }
            Err(refused) => Err(AcquireError::from_core(refused, now)),
        })
    }
}

/// Shares a payload, so that a command that refuses it does not drop it under the lock: its `Drop` may use the pool.
fn keep<T>(payload: T, kept: &mut Option<Arc<T>>) -> Arc<T> {
    Arc::clone(kept.insert(Arc::new(payload)))
}

#[cfg(feature = "serde")]
impl<T> SyncPool<T> {
    /// The state that survives a restart, and its tick, for [`Pool::restore`]. O(n log n), under the lock.
    #[must_use]
    pub fn snapshot(&self) -> (PoolSnapshot<Arc<T>>, Tick) {
        self.shared.under_lock(|state, now| {
            state.pool.handle_timeout(now);
            (state.pool.snapshot(), now)
        })
    }
}

impl<T> Clone for SyncPool<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> fmt::Debug for SyncPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncPool").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod races;
#[cfg(all(test, not(loom)))]
mod tests;
