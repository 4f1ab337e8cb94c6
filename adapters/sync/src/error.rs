//! Why a pool granted no lease.

use core::time::Duration;
use leasehold_core::pool;
use leasehold_core::time::Tick;

/// Why no lease was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// The pool was closed before or while the request waited.
    #[error("the pool is closed")]
    Closed,
    /// The queue holds `max_waiters` requests.
    #[error("the queue is full")]
    QueueFull,
    /// No member is free, and the request must not wait.
    #[error("no member is free now")]
    NothingFree,
    /// The request's deadline passed while it waited.
    #[error("no member became free in time")]
    TimedOut,
    /// Every member that could serve is at its limit until after the deadline.
    #[error("every member is at its limit for another {wait:?}")]
    DeadlineTooSoon {
        /// Time until the first of them could serve.
        wait: Duration,
    },
    /// The request costs more than any limit ever admits.
    #[error("the request costs more than any limit admits")]
    NeverFits,
    /// The member that the request is pinned to was removed, before or while it waited.
    #[error("the member that the request is pinned to was removed")]
    PinnedMemberRemoved,
    /// The pool keeps `max_lanes` lanes, and all have waiters.
    #[error("the pool has no lane left for another class or set of labels")]
    TooManyLanes,
    /// The request was cancelled while it waited.
    #[error("the request was cancelled")]
    Cancelled,
}

impl AcquireError {
    pub(crate) fn from_core(error: pool::AcquireError, now: Tick) -> Self {
        match error {
            pool::AcquireError::Closed => Self::Closed,
            pool::AcquireError::QueueFull => Self::QueueFull,
            pool::AcquireError::NothingFree => Self::NothingFree,
            pool::AcquireError::DeadlineTooSoon { at } => Self::DeadlineTooSoon {
                wait: at.since(now),
            },
            pool::AcquireError::NeverFits => Self::NeverFits,
            pool::AcquireError::PinnedMemberRemoved => Self::PinnedMemberRemoved,
            pool::AcquireError::TooManyLanes => Self::TooManyLanes,
        }
    }
}
