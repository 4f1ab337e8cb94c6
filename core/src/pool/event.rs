//! Answers and events of a pool.

use super::eligibility::Cause;
use super::ids::{LeaseId, MemberId, ProbeId, WaiterId};
use crate::time::Tick;
use core::time::Duration;

/// A lease that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The lease, to be released.
    pub lease: LeaseId,
    /// The member it is on.
    pub member: MemberId,
    /// A number above that of every grant before it, in this pool and in those that it was restored from. A store
    /// that remembers the highest it has seen can refuse a holder whose lease has passed on to another.
    pub fence: u64,
    /// Time from request to grant.
    pub waited: Duration,
    /// The tick at which the lease expires; `None` where leases don't.
    pub expires: Option<Tick>,
}

/// A lease that is held; one that was restored has its old fence, and another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldLease {
    /// The lease.
    pub lease: LeaseId,
    /// The member it is on.
    pub member: MemberId,
    /// The number of its grant.
    pub fence: u64,
    /// The tick at which it expires; `None` where it doesn't.
    pub expires: Option<Tick>,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// A lease.
    Granted(Grant),
    /// A place in the queue. An event that names this waiter follows.
    Waiting(WaiterId),
}

/// The estimate for a request that might come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Requests in its lane that would be served before it.
    pub ahead: u32,
    /// The expected wait; `None` where nothing tells. It comes from the rate at which its lane was served of late
    /// and from the first tick at which a member is ready.
    pub wait: Option<Duration>,
    /// The cause of the wait of its lane's head; `None` where it would be granted at once.
    pub cause: Option<Cause>,
    /// The member that it would be granted now; policies that draw lots may draw another for the request itself.
    pub member: Option<MemberId>,
}

/// The place of a queued request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Requests in its lane that are served before it if no other comes. Those that a limit of their own flow holds
    /// back don't count.
    pub ahead: u32,
    /// The expected wait from now on; `None` where nothing tells. It comes from the rate at which its lane was
    /// served of late, and from the ticks at which its flow's limits open or a member is ready.
    pub wait: Option<Duration>,
}

/// A change of a member's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthChange {
    /// Its probes succeed again.
    Up,
    /// Its probes fail.
    Down,
    /// It failed more often than the other members.
    Ejected {
        /// The tick at which it may serve again.
        until: Tick,
    },
    /// Its breaker has opened.
    BreakerOpen {
        /// The tick at which the breaker lets a call through.
        until: Tick,
    },
    /// Its breaker lets probes through.
    BreakerHalfOpen,
    /// Its breaker has closed.
    BreakerClosed,
}

/// Something that no command asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<T> {
    /// A queued request has its lease.
    Granted {
        /// The request.
        waiter: WaiterId,
        /// Its lease.
        grant: Grant,
    },
    /// A queued request reached its deadline.
    TimedOut {
        /// The request.
        waiter: WaiterId,
        /// What it waited for at its deadline.
        cause: Cause,
    },
    /// A request was queued when the pool was closed.
    Closed {
        /// The request.
        waiter: WaiterId,
    },
    /// A request was pinned to a member that was removed.
    PinnedMemberRemoved {
        /// The request.
        waiter: WaiterId,
    },
    /// A lease expired.
    Expired {
        /// The lease.
        lease: LeaseId,
        /// The member it was on.
        member: MemberId,
    },
    /// The last lease on a draining member has ended.
    Drained {
        /// The member.
        member: MemberId,
    },
    /// The last lease on a removed member has ended.
    Removed {
        /// The member.
        member: MemberId,
        /// Its payload.
        payload: T,
    },
    /// A member is to be probed, and [`Pool::handle_probe`](super::Pool::handle_probe) told the result.
    Probe {
        /// The member.
        member: MemberId,
        /// The probe.
        probe: ProbeId,
    },
    /// A member's health has changed.
    Changed {
        /// The member.
        member: MemberId,
        /// The change.
        change: HealthChange,
    },
}
