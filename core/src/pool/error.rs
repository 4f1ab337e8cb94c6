//! Why a pool refuses a command.

use super::eligibility::Cause;
use super::ids::GroupId;
use crate::time::Tick;

/// Why a request was refused at once. [`Pool::explain`](super::Pool::explain) tells it member by member.
///
/// A request without a deadline is never refused for want of a ready member: it waits, even where no
/// member can serve at the time, because one may be added, enabled or recover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// The pool is closed.
    #[error("the pool is closed")]
    Closed,
    /// The queue holds [`max_waiters`](super::PoolConfigBuilder::max_waiters) requests.
    #[error("the queue is full; {cause}")]
    QueueFull {
        /// The cause of the wait of the lane's head.
        cause: Cause,
    },
    /// The request's flow has queued [`max_waiters`](super::FlowConfig::max_waiters) requests.
    #[error("the caller has queued as many requests as it may; {cause}")]
    FlowQueueFull {
        /// The cause of the wait of the flow's requests.
        cause: Cause,
    },
    /// The deadline has come, and no member is ready.
    #[error("no member is ready now; {cause}")]
    NotReady {
        /// The reason of the member that can serve soonest.
        cause: Cause,
    },
    /// No member will be ready before the deadline, as far as is known. That may still change if a member is
    /// added or enabled, or a lease given back unused. A request is not refused for this while leases
    /// are held whose cost is an estimate, or while a member may recover at any time.
    #[error("no member is ready before the deadline; {cause}")]
    DeadlineTooSoon {
        /// The first tick at which a member is ready, if nothing else happens.
        at: Tick,
        /// The reason of that member.
        cause: Cause,
    },
    /// The cost is above what any member's limits, the flow's or the pool's own, ever admit.
    #[error("the request costs more than any limit admits")]
    NeverFits,
    /// The member that the request is pinned to was removed, or is of another pool.
    #[error("the member that the request is pinned to was removed")]
    PinnedMemberRemoved,
    /// The request's labels are of another pool.
    #[error("the request's labels are of another pool")]
    ForeignLabels,
    /// Requests wait in [`max_lanes`](super::PoolConfigBuilder::max_lanes) lanes.
    #[error("the pool has no lane left for another class or set of labels")]
    TooManyLanes,
}

impl AcquireError {
    /// The dominant cause, where members are what the request lacks.
    #[must_use]
    pub const fn cause(&self) -> Option<Cause> {
        match *self {
            Self::QueueFull { cause }
            | Self::FlowQueueFull { cause }
            | Self::NotReady { cause }
            | Self::DeadlineTooSoon { cause, .. } => Some(cause),
            Self::Closed
            | Self::NeverFits
            | Self::PinnedMemberRemoved
            | Self::ForeignLabels
            | Self::TooManyLanes => None,
        }
    }
}

/// A lease that was released before, has expired, or is of another pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease has ended, or is of another pool")]
pub struct StaleLease;

/// A request that was granted, timed out or cancelled, or is of another pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request no longer waits, or is of another pool")]
pub struct StaleWaiter;

/// A member that was removed, or is of another pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the member was removed, or is of another pool")]
pub struct StaleMember;

/// A probe that was answered or given up, whose member was removed, or which is of another pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the probe is over, or is of another pool")]
pub struct StaleProbe;

/// Why a breaker was neither tripped nor reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BreakerError {
    /// The member was removed, or is of another pool.
    #[error(transparent)]
    StaleMember(#[from] StaleMember),
    /// Neither the pool nor the member has a breaker.
    #[error("the member has no breaker")]
    NoBreaker,
}

/// Why a member was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// The member was removed, or is of another pool.
    #[error(transparent)]
    StaleMember(#[from] StaleMember),
    /// The group is of another pool.
    #[error("the member's group is not in this pool: {0:?}")]
    NoSuchGroup(GroupId),
    /// The labels are of another pool.
    #[error("the member's labels are of another pool")]
    ForeignLabels,
}

/// Why a member was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// Four billion members are in the pool, or have been.
    #[error("the pool can hold no more members")]
    TooManyMembers,
    /// The group is of another pool.
    #[error("the member's group is not in this pool: {0:?}")]
    NoSuchGroup(GroupId),
    /// The labels are of another pool.
    #[error("the member's labels are of another pool")]
    ForeignLabels,
}
