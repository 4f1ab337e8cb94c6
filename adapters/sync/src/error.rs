//! Why a pool granted no lease.

use core::time::Duration;
use leasehold_core::pool::{self, Cause};
use leasehold_core::time::Tick;

/// Why no lease was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// The pool was closed before or while the request waited.
    #[error("the pool is closed")]
    Closed,
    /// The queue holds `max_waiters` requests.
    #[error("the queue is full; {cause}")]
    QueueFull {
        /// What the head of the request's lane waits for.
        cause: Cause,
    },
    /// The request's flow has queued as many requests as it may.
    #[error("the caller has queued as many requests as it may; {cause}")]
    FlowQueueFull {
        /// What the flow's requests wait for.
        cause: Cause,
    },
    /// No member is ready, and the request must not wait.
    #[error("no member is ready now; {cause}")]
    NotReady {
        /// What keeps the members from serving.
        cause: Cause,
    },
    /// The request's deadline passed while it waited.
    #[error("no member became free in time; {cause}")]
    TimedOut {
        /// What the request waited for at its deadline.
        cause: Cause,
    },
    /// No member will be ready before the deadline, as far as is known.
    #[error("no member is ready for another {wait:?}; {cause}")]
    DeadlineTooSoon {
        /// Time until the first member is ready.
        wait: Duration,
        /// What keeps that member from serving until then.
        cause: Cause,
    },
    /// The request costs more than any limit ever admits.
    #[error("the request costs more than any limit admits")]
    NeverFits,
    /// The member that the request is pinned to was removed, before or while it waited.
    #[error("the member that the request is pinned to was removed")]
    PinnedMemberRemoved,
    /// The request's labels are of another pool.
    #[error("the request's labels are of another pool")]
    ForeignLabels,
    /// The pool keeps `max_lanes` lanes, and all have waiters.
    #[error("the pool has no lane left for another class or set of labels")]
    TooManyLanes,
    /// The request was cancelled while it waited.
    #[error("the request was cancelled")]
    Cancelled,
}

impl AcquireError {
    /// The dominant cause, where members are what the request lacks. It tells a used-up limit (HTTP's 429) from
    /// members out of service (503): [`Cause::is_exhaustion`].
    #[must_use]
    pub const fn cause(&self) -> Option<Cause> {
        match *self {
            Self::QueueFull { cause }
            | Self::FlowQueueFull { cause }
            | Self::NotReady { cause }
            | Self::TimedOut { cause }
            | Self::DeadlineTooSoon { cause, .. } => Some(cause),
            Self::Closed
            | Self::NeverFits
            | Self::PinnedMemberRemoved
            | Self::ForeignLabels
            | Self::TooManyLanes
            | Self::Cancelled => None,
        }
    }

    pub(crate) fn from_core(error: pool::AcquireError, now: Tick) -> Self {
        match error {
            pool::AcquireError::Closed => Self::Closed,
            pool::AcquireError::QueueFull { cause } => Self::QueueFull { cause },
            pool::AcquireError::FlowQueueFull { cause } => Self::FlowQueueFull { cause },
            pool::AcquireError::ForeignLabels => Self::ForeignLabels,
            pool::AcquireError::NotReady { cause } => Self::NotReady { cause },
            pool::AcquireError::DeadlineTooSoon { at, cause } => Self::DeadlineTooSoon {
                wait: at.since(now),
                cause,
            },
            pool::AcquireError::NeverFits => Self::NeverFits,
            pool::AcquireError::PinnedMemberRemoved => Self::PinnedMemberRemoved,
            pool::AcquireError::TooManyLanes => Self::TooManyLanes,
        }
    }
}
