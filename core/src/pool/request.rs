//! Requests for leases.

use super::ids::MemberId;
use crate::limit::Cost;
use crate::time::Tick;

/// A set of up to 64 labels: what a member can do, or a request needs. Their meaning is the caller's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct Labels(u64);

impl Labels {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// The set of the labels whose bits are one.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits of the labels in this set.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether all of `needed` are in this set.
    #[must_use]
    pub const fn contains(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }
}

/// A request for a lease.
///
/// Requests of one class with the same labels share a lane. No request overtakes another inside a lane:
/// the order is by priority, then fair between flows, then by arrival, and a cheap request does not pass
/// a costly one.
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
    /// One request of class 0, flow 0 and priority 128, for any member, without a deadline.
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

    /// Times out at `deadline`. A member that is ready at once is leased even after the deadline.
    #[must_use]
    pub const fn deadline(mut self, deadline: Tick) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Counts against the limits of this class, such as a model.
    #[must_use]
    pub const fn class(mut self, class: u32) -> Self {
        self.class = class;
        self
    }

    /// The expected cost. The real cost may be given at the [release](super::Release::cost).
    #[must_use]
    pub const fn cost(mut self, cost: Cost) -> Self {
        self.cost = cost;
        self
    }

    /// The priority in the queue, 0 (highest) to 255; 128 by default. A steady load of a high priority
    /// starves the lower ones.
    #[must_use]
    pub const fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// The flow it belongs to, such as a job. Flows of one priority are served one request each in turn,
    /// however many requests each has queued.
    #[must_use]
    pub const fn flow(mut self, flow: u64) -> Self {
        self.flow = flow;
        self
    }

    /// Restricts it to members that have all of these labels.
    #[must_use]
    pub const fn labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// The key that hash policies go by, such as a client's address; see
    /// [`stable_hash`](crate::balance::stable_hash). Without a key they draw one at random.
    #[must_use]
    pub const fn key(mut self, key: u64) -> Self {
        self.key = Some(key);
        self
    }

    /// Prefers the member that served this session last, where the pool has
    /// [affinity](super::PoolConfigBuilder::affinity). A member at its limit is passed over once and keeps the
    /// session. One that is gone, or of a higher tier than another that is ready, loses it.
    #[must_use]
    pub const fn session(mut self, session: u64) -> Self {
        self.session = Some(session);
        self
    }

    /// Restricts it to this member, whatever its labels.
    #[must_use]
    pub const fn pin(mut self, member: MemberId) -> Self {
        self.pin = Some(member);
        self
    }
}
