//! What is asked of a pool, and what it answers.

use super::{GroupId, LeaseId, MemberId, ProbeId, WaiterId};
use crate::limit::Cost;
use crate::time::Tick;
use core::time::Duration;

/// What a member can do or a request needs: a set of up to 64 labels, whose meaning is the caller's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct Labels(u64);

impl Labels {
    /// No labels.
    pub const NONE: Self = Self(0);

    /// The set whose members are the one bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Whether all of `needed` are in this set.
    #[must_use]
    pub const fn contains(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }
}

/// What is asked of a pool.
///
/// Requests of one class with the same labels stand in one lane. In a lane, nobody overtakes: the order
/// is by priority, then fair between flows, then by arrival, and a request that costs much is not passed
/// by those that cost less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Request {
    pub(crate) class: u32,
    pub(crate) cost: Cost,
    pub(crate) priority: u8,
    pub(crate) flow: u64,
    pub(crate) labels: Labels,
    pub(crate) key: Option<u64>,
    pub(crate) session: Option<u64>,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) pin: Option<MemberId>,
    pub(crate) deadline: Option<Tick>,
}

impl Default for Request {
    fn default() -> Self {
        Self::new()
    }
}

impl Request {
    /// One request of class 0 at the middle priority, which any member may serve and which waits for as
    /// long as it takes.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            class: 0,
            cost: Cost::REQUEST,
            priority: 128,
            flow: 0,
            labels: Labels::NONE,
            key: None,
            session: None,
            pin: None,
            deadline: None,
        }
    }

    /// Gives up at `deadline`. What can be served at once is, even if the deadline has passed.
    #[must_use]
    pub const fn deadline(mut self, deadline: Tick) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// LeaseCounts against the limits of its class, such as a model.
    #[must_use]
    pub const fn class(mut self, class: u32) -> Self {
        self.class = class;
        self
    }

    /// What it is expected to cost; the real cost may be told at its release.
    #[must_use]
    pub const fn cost(mut self, cost: Cost) -> Self {
        self.cost = cost;
        self
    }

    /// Who is served first of those that wait: the least number, from 0 to 255; 128 unless told. A
    /// steady load of urgent requests keeps the others waiting without end.
    #[must_use]
    pub const fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// The flow it belongs to, such as a job. Flows of one priority are served a request each in turn,
    /// however many each has in line.
    #[must_use]
    pub const fn flow(mut self, flow: u64) -> Self {
        self.flow = flow;
        self
    }

    /// Goes only to members that have all of these labels.
    #[must_use]
    pub const fn labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// What policies that hash go by, such as a client's address; see
    /// [`stable_hash`](crate::balance::stable_hash). Without one they go by chance.
    #[must_use]
    pub const fn key(mut self, key: u64) -> Self {
        self.key = Some(key);
        self
    }

    /// Goes to the member that served this session last, where the pool keeps
    /// [affinity](super::PoolConfig::affinity). A member at its limit is passed over for once; one that is
    /// gone, or farther than another that could serve, loses the session.
    #[must_use]
    pub const fn session(mut self, session: u64) -> Self {
        self.session = Some(session);
        self
    }

    /// Goes to this member and to no other, whatever its labels.
    #[must_use]
    pub const fn pin(mut self, member: MemberId) -> Self {
        self.pin = Some(member);
        self
    }
}

/// A lease that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The lease, to be released.
    pub lease: LeaseId,
    /// The member it is on.
    pub member: MemberId,
    /// How long the request waited.
    pub waited: Duration,
    /// When the lease is taken back, if ever.
    pub expires: Option<Tick>,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// Here is a lease.
    Granted(Grant),
    /// Wait for the event that names this waiter.
    Waiting(WaiterId),
}

/// Why a request was refused at once. [`Pool::explain`](super::Pool::explain) tells it member by member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// The pool was closed.
    #[error("the pool is closed")]
    Closed,
    /// As many wait as may.
    #[error("the queue is full")]
    QueueFull,
    /// Nothing is free and the deadline has come.
    #[error("nothing is free now")]
    NothingFree,
    /// Every member that could serve is at its limit until the deadline or later. That may still change if
    /// one is added or enabled, or a lease given back unused; where leases are held whose cost was only
    /// estimated, or a member may recover, no request is refused for this.
    #[error("every member is at its limit until after the deadline")]
    DeadlineTooSoon {
        /// When the first of them could serve.
        at: Tick,
    },
    /// The request costs more than any member's limits ever admit, or the pool's own.
    #[error("the request costs more than any limit admits")]
    NeverFits,
    /// The member it is pinned to was removed.
    #[error("the member that the request names was removed")]
    PinnedMemberRemoved,
    /// There are as many kinds of request as the pool keeps lanes for.
    #[error("the pool has no lane left for another class or set of labels")]
    TooManyLanes,
}

/// What a request would meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// How many in its lane would be served before it.
    pub ahead: u32,
    /// How long it would wait, from the pace at which its lane was served of late and the first time
    /// that a member opens; `None` where nothing tells.
    pub wait: Option<Duration>,
}

/// Whether a member could serve a request, and if not, why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eligibility {
    /// It could, now.
    Ready,
    /// It could, but a nearer tier can.
    LowerTier,
    /// It could, but others wait in the lane whose turn comes first.
    InLine,
    /// It lacks a label that the request needs.
    WrongLabels,
    /// The request names another member.
    NotPinned,
    /// It was removed and has leases to give back.
    Removed,
    /// An operator has stopped it.
    Disabled,
    /// It gives its leases back and takes no more, or has no weight.
    Draining,
    /// Its probes fail.
    Unhealthy,
    /// It failed more often than the others.
    Ejected {
        /// When it may serve again.
        until: Tick,
    },
    /// Its breaker is open.
    BreakerOpen {
        /// When it lets a call try.
        until: Tick,
    },
    /// Its breaker is half-open, and as many calls try as may.
    Probing,
    /// As many leases are held on it as may be.
    Full,
    /// The upstream has turned a call away.
    Throttled {
        /// When it will serve again.
        until: Tick,
    },
    /// It is at a limit, its own, its group's or the pool's.
    AtLimit {
        /// When the request fits.
        until: Tick,
    },
    /// It is at a limit until something in flight completes.
    InFlight,
    /// The request costs more than its limits ever admit.
    NeverFits,
}

/// How the use of a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream served the call.
    Ok,
    /// The call failed, and the upstream may have seen it.
    Failed,
    /// The upstream turned the call away: its member rests until the tick, its breaker opens until then,
    /// and its limits admit no request before.
    Throttled {
        /// When the upstream said that it would serve again.
        until: Tick,
    },
    /// The caller gave up before it asked anything of the upstream: it counts against no limit, and says
    /// nothing of the member. Where the member could not be reached, that is a [failure](Self::Failed)
    /// at [no cost](Release::cost).
    NotSent,
}

/// The end of a lease, in full. An [`Outcome`] by itself means: at the cost it was requested at, with
/// the time it was held as its latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    pub(super) outcome: Outcome,
    pub(super) cost: Option<Cost>,
    pub(super) latency: Option<Duration>,
}

impl From<Outcome> for Release {
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome,
            cost: None,
            latency: None,
        }
    }
}

impl Release {
    /// What the call really cost. What was [not sent](Outcome::NotSent) costs nothing.
    #[must_use]
    pub const fn cost(mut self, cost: Cost) -> Self {
        self.cost = Some(cost);
        self
    }

    /// How long the upstream took, where the lease was held for longer than that.
    #[must_use]
    pub const fn latency(mut self, latency: Duration) -> Self {
        self.latency = Some(latency);
        self
    }
}

/// The answer to a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// The member is well.
    Up {
        /// How many jobs it has in line or at work, where it says so.
        depth: Option<u32>,
        /// How long the probe took; counts as the latency of a call does.
        latency: Option<Duration>,
    },
    /// The member is not, or didn't answer.
    Down,
}

/// How a member's condition has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthChange {
    /// Its probes succeed again.
    Up,
    /// Its probes fail.
    Down,
    /// It failed more often than the others.
    Ejected {
        /// When it may serve again.
        until: Tick,
    },
    /// Its breaker has opened.
    BreakerOpen {
        /// When it lets a call try.
        until: Tick,
    },
    /// Its breaker has closed.
    BreakerClosed,
}

/// What happened that no command asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<T> {
    /// A request that waited has its lease.
    Granted {
        /// Whose turn it was.
        waiter: WaiterId,
        /// What it has.
        grant: Grant,
    },
    /// A request reached its deadline in line.
    TimedOut {
        /// Which one.
        waiter: WaiterId,
    },
    /// A request was in line when the pool was closed.
    Closed {
        /// Which one.
        waiter: WaiterId,
    },
    /// A request was pinned to a member that was removed.
    PinnedMemberRemoved {
        /// Which one.
        waiter: WaiterId,
    },
    /// A lease was taken back at its deadline.
    Expired {
        /// Which one.
        lease: LeaseId,
        /// The member it was on.
        member: MemberId,
    },
    /// A member that drains has given its last lease back.
    Drained {
        /// Which one.
        member: MemberId,
    },
    /// A member that was removed has given its last lease back.
    Removed {
        /// Which one.
        member: MemberId,
        /// What it carried.
        payload: T,
    },
    /// A member is to be probed, and [`Pool::handle_probe`](super::Pool::handle_probe) told.
    Probe {
        /// Which one.
        member: MemberId,
        /// Names the probe.
        probe: ProbeId,
    },
    /// A member's condition has changed.
    Changed {
        /// Which one.
        member: MemberId,
        /// To what.
        condition: HealthChange,
    },
}

/// The use of a lease that has ended: it was released, or it expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease has ended")]
pub struct StaleLease;

/// A request that no longer waits: it was granted, timed out or cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request no longer waits")]
pub struct StaleWaiter;

/// A member that was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the member was removed")]
pub struct StaleMember;

/// A probe that has been answered, was given up, or whose member was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the probe is over")]
pub struct StaleProbe;

/// Why a member was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// The pool has had four billion members at once.
    #[error("the pool can hold no more members")]
    TooManyMembers,
    /// The group is of another pool.
    #[error("the member's group is not in this pool: {0:?}")]
    NoSuchGroup(GroupId),
}
