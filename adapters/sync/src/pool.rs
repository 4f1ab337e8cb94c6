//! The pool that threads and tasks share: a lock around the core's, and who is called once it is free.
//!
//! Invariant: no guard is held while anybody is woken, sleeps or does I/O.

use crate::clock::Clock;
use crate::events::Subscription;
use crate::lease::Lease;
use crate::parker::Parker;
use crate::pending::PendingLease;
use crate::state::{ParkKey, State};
use crate::sync::{Arc, Mutex, lock};
use core::fmt;
use core::num::NonZeroUsize;
use core::time::Duration;
use leasehold_core::limit::{LimitSet, Unit};
use leasehold_core::pool::stats::Stats;
use leasehold_core::pool::{
    self, Acquired, AddError, Eligibility, Estimate, GroupId, Member, MemberId, Pool, PoolConfig,
    ProbeId, ProbeResult, Request, StaleMember, StaleProbe,
};
use leasehold_core::time::Tick;

/// Why no lease was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// The pool was closed before or while the request waited.
    #[error("the pool is closed")]
    Closed,
    /// As many requests wait as may.
    #[error("the queue is full")]
    QueueFull,
    /// Nothing is free, and the request was not to wait.
    #[error("nothing is free now")]
    NothingFree,
    /// The request waited for as long as it was to.
    #[error("nothing became free in time")]
    TimedOut,
    /// Every member that could serve is at its limit for longer than the request was to wait.
    #[error("every member is at its limit for another {wait:?}")]
    DeadlineTooSoon {
        /// How long until the first of them could serve.
        wait: Duration,
    },
    /// The request costs more than any limit ever admits.
    #[error("the request costs more than any limit admits")]
    NeverFits,
    /// The member it is pinned to was removed, before or while it waited.
    #[error("the member that the request names was removed")]
    PinnedMemberRemoved,
    /// There are as many kinds of request as the pool keeps lanes for.
    #[error("the pool has no lane left for another class or set of labels")]
    TooManyLanes,
    /// The request was taken back while it waited.
    #[error("the request was cancelled")]
    Cancelled,
}

/// A lease pool that threads and tasks share. Clones are the same pool.
///
/// ```
/// use core::num::NonZeroU32;
/// use leasehold_sync::SyncPool;
/// use leasehold_sync::core::balance::Policy;
/// use leasehold_sync::core::pool::{PoolConfig, Member, Outcome};
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

pub(crate) struct Shared<T> {
    pub(crate) clock: Clock,
    pub(crate) state: Mutex<State<T>>,
}

impl<T> SyncPool<T> {
    /// A pool without members; its clock starts now.
    #[must_use]
    pub fn new(config: PoolConfig) -> Self {
        Self::with_clock(config, Clock::start())
    }

    /// A pool without members that goes by this clock.
    #[must_use]
    pub fn with_clock(config: PoolConfig, clock: Clock) -> Self {
        Self::from_core(Pool::new(config), clock)
    }

    /// A pool that was made elsewhere, such as one restored from a snapshot, whose ticks are those of the
    /// clock. Leases that were granted there end at their deadlines; requests that wait there are granted
    /// nothing.
    #[must_use]
    pub fn from_core(pool: Pool<Arc<T>>, clock: Clock) -> Self {
        let state = Mutex::new(State::new(pool));
        Self {
            shared: Arc::new(Shared { clock, state }),
        }
    }

    /// The present on the pool's clock.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.shared.clock.now()
    }

    /// Waits for a lease for as long as it takes.
    ///
    /// # Errors
    /// Where the pool is closed, or its queue full.
    pub fn acquire(&self) -> Result<Lease<T>, AcquireError> {
        self.enqueue(Request::new())?.wait()
    }

    /// Waits for a lease, but no longer than `timeout`; and not at all if it is plain that none can be
    /// had by then.
    ///
    /// # Errors
    /// Where there is none in time, the pool is closed, or its queue full.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Lease<T>, AcquireError> {
        self.enqueue_by(|now| Request::new().deadline(now.saturating_add(timeout)))?
            .wait()
    }

    /// Takes a lease if there is one now and nobody waits for it.
    ///
    /// # Errors
    /// Where there is none, or the pool is closed.
    pub fn try_acquire(&self) -> Result<Lease<T>, AcquireError> {
        self.enqueue_by(|now| Request::new().deadline(now))?.wait()
    }

    /// Takes a lease or a place in line. The request's deadline is a tick of [`now`](Self::now)'s.
    ///
    /// # Errors
    /// Where the request is refused at once.
    pub fn enqueue(&self, request: Request) -> Result<PendingLease<T>, AcquireError> {
        self.enqueue_by(|_| request)
    }

    /// What a request would meet if it came now.
    ///
    /// # Errors
    /// Where the request would be refused whatever its deadline.
    pub fn estimate(&self, request: &Request) -> Result<Estimate, AcquireError> {
        self.shared.under_lock(|state, now| {
            let estimate = state.pool.estimate(now, request);
            estimate.map_err(|refused| refusal(refused, now))
        })
    }

    /// Whether each member could serve the request, and if not, why not. O(members), under the lock.
    #[must_use]
    pub fn explain(&self, request: &Request) -> Vec<(MemberId, Eligibility)> {
        self.shared.under_lock(|state, now| {
            state.pool.handle_timeout(now);
            state.pool.explain(request).collect()
        })
    }

    /// Adds a member.
    ///
    /// # Errors
    /// Where the pool has had four billion members at once, or the member's group is of another pool.
    pub fn add(&self, member: Member<T>) -> Result<MemberId, AddError> {
        let member = member.map(Arc::new);
        self.shared
            .under_lock(|state, now| state.pool.add(now, member))
    }

    /// Makes a group of members that will share these limits besides their own.
    #[must_use]
    pub fn add_group(&self, limits: LimitSet) -> GroupId {
        self.shared
            .under_lock(|state, _| state.pool.add_group(limits))
    }

    /// Takes a member out; leases that are held on it stay good until they are released. What it carries
    /// comes back at once if there are none.
    ///
    /// # Errors
    /// Where it was removed before.
    pub fn remove(&self, member: MemberId) -> Result<Option<Arc<T>>, StaleMember> {
        self.shared
            .under_lock(|state, now| state.pool.remove(now, member))
    }

    /// Grants no more leases on a member; a [`PoolEvent`](crate::PoolEvent) tells when none is held on it.
    ///
    /// # Errors
    /// Where it was removed.
    pub fn drain(&self, member: MemberId) -> Result<(), StaleMember> {
        self.shared
            .under_lock(|state, now| state.pool.drain(now, member))
    }

    /// Grants no more leases on a member.
    ///
    /// # Errors
    /// Where it was removed.
    pub fn disable(&self, member: MemberId) -> Result<(), StaleMember> {
        self.shared
            .under_lock(|state, now| state.pool.disable(now, member))
    }

    /// Grants leases on a member again.
    ///
    /// # Errors
    /// Where it was removed.
    pub fn enable(&self, member: MemberId) -> Result<(), StaleMember> {
        self.shared
            .under_lock(|state, now| state.pool.enable(now, member))
    }

    /// Gives a member another share of the calls; 0 drains it.
    ///
    /// # Errors
    /// Where it was removed.
    pub fn set_weight(&self, member: MemberId, weight: u16) -> Result<(), StaleMember> {
        self.shared
            .under_lock(|state, now| state.pool.set_weight(now, member, weight))
    }

    /// Gives a member other limits, in which what is held on it counts.
    ///
    /// # Errors
    /// Where it was removed.
    pub fn set_limits(&self, member: MemberId, limits: LimitSet) -> Result<(), StaleMember> {
        self.shared
            .under_lock(|state, now| state.pool.set_limits(now, member, limits))
    }

    /// Learns that a member's upstream will serve only `remaining` more of a unit for as long as `reset`
    /// from now.
    ///
    /// # Errors
    /// Where it was removed.
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

    /// Learns how many jobs a member has in line or at work.
    ///
    /// # Errors
    /// Where it was removed.
    pub fn observe_depth(&self, member: MemberId, depth: u32) -> Result<(), StaleMember> {
        self.shared
            .under_lock(|state, now| state.pool.observe_depth(now, member, depth))
    }

    /// Takes the answer to a probe that a [`PoolEvent`](crate::PoolEvent) has asked for.
    ///
    /// # Errors
    /// Where the probe is over or its member gone.
    pub fn answer_probe(&self, probe: ProbeId, answer: ProbeResult) -> Result<(), StaleProbe> {
        self.shared
            .under_lock(|state, now| state.pool.handle_probe(now, probe, answer))
    }

    /// The members there are. O(members), under the lock.
    #[must_use]
    pub fn members(&self) -> Vec<(MemberId, Arc<T>)> {
        let state = lock(&self.shared.state);
        let members = state.pool.members();
        members
            .map(|(member, payload)| (member, Arc::clone(payload)))
            .collect()
    }

    /// What happens from now on that no command asks for. At most `capacity` events are kept until they
    /// are taken; of more, the latest.
    #[must_use]
    pub fn events(&self, capacity: NonZeroUsize) -> Subscription<T> {
        Subscription::new(&self.shared, capacity)
    }

    /// Refuses every request from now on, and wakes those that wait. Leases that are held stay good.
    pub fn close(&self) {
        self.shared.under_lock(|state, now| {
            state.closed = true;
            state.pool.close(now);
        });
    }

    /// The figures so far. O(members), under the lock.
    #[must_use]
    pub fn stats(&self) -> Stats {
        lock(&self.shared.state).pool.stats()
    }

    fn enqueue_by(
        &self,
        request: impl FnOnce(Tick) -> Request,
    ) -> Result<PendingLease<T>, AcquireError> {
        let shared = &self.shared;
        shared.under_lock(|state, now| match state.pool.acquire(now, request(now)) {
            Ok(Acquired::Granted(grant)) => {
                // A member outlives the leases on it.
                let payload = state.pool.payload(grant.member).map(Arc::clone);
                let payload = payload.ok_or(AcquireError::NothingFree)?;
                let lease = Lease::new(Arc::clone(shared), payload, grant);
                Ok(PendingLease::granted(lease))
            }
            Ok(Acquired::Waiting(waiter)) => {
                let parker = Arc::new(Parker::new(state.nobody_waits()));
                let alarm = state.park(ParkKey::Waiter(waiter), &parker);
                Ok(PendingLease::waiting(shared, waiter, parker, alarm))
            }
            Err(refused) => Err(refusal(refused, now)),
        })
    }
}

#[cfg(feature = "serde")]
impl<T> SyncPool<T> {
    /// All that is to survive a restart, and the tick it is of, for [`Pool::restore`]. O(n log n), under the
    /// lock.
    #[must_use]
    pub fn snapshot(&self) -> (pool::PoolSnapshot<Arc<T>>, Tick) {
        self.shared.under_lock(|state, now| {
            state.pool.handle_timeout(now);
            (state.pool.snapshot(), now)
        })
    }
}

impl<T> Shared<T> {
    /// Gives a command, and calls those whom it concerns once the lock is free.
    pub(crate) fn under_lock<R>(&self, command: impl FnOnce(&mut State<T>, Tick) -> R) -> R {
        let mut state = lock(&self.state);
        let answer = command(&mut state, self.clock.now());
        let afterwards = state.deliver();
        drop(state);
        for parker in &afterwards.calls {
            parker.call();
        }
        answer
    }
}

fn refusal(error: pool::AcquireError, now: Tick) -> AcquireError {
    match error {
        pool::AcquireError::Closed => AcquireError::Closed,
        pool::AcquireError::QueueFull { .. } => AcquireError::QueueFull,
        pool::AcquireError::NotReady { .. } => AcquireError::NothingFree,
        pool::AcquireError::DeadlineTooSoon { at, .. } => AcquireError::DeadlineTooSoon {
            wait: at.since(now),
        },
        pool::AcquireError::NeverFits => AcquireError::NeverFits,
        pool::AcquireError::PinnedMemberRemoved => AcquireError::PinnedMemberRemoved,
        pool::AcquireError::TooManyLanes => AcquireError::TooManyLanes,
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
