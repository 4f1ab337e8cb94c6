//! Requests for leases.

use super::ids::MemberId;
use super::labels::Labels;
use crate::limit::Cost;
use crate::time::Tick;
use core::time::Duration;

/// A request for a lease.
///
/// Requests with the same labels share a lane; where a limit is counted by class, only those of one class do. No
/// request overtakes another inside a lane: the order is by priority, then fair between flows, then by arrival,
/// and a cheap request does not pass a costly one. Only a flow that is at a limit of its own is passed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub(crate) class: u32,
    pub(crate) cost: Cost,
    pub(crate) priority: u8,
    pub(crate) flow: u64,
    pub(crate) labels: Labels,
    pub(crate) key: Option<u64>,
    pub(crate) session: Option<u64>,
    pub(crate) pin: Option<MemberId>,
    pub(crate) deadline: Option<Tick>,
    pub(crate) ttl: Option<Duration>,
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
            ttl: None,
        }
    }

    /// The class that it counts as.
    #[must_use]
    pub const fn class_number(&self) -> u32 {
        self.class
    }

    /// The flow that it belongs to.
    #[must_use]
    pub const fn flow_number(&self) -> u64 {
        self.flow
    }

    /// The labels that it needs.
    #[must_use]
    pub const fn label_set(&self) -> Labels {
        self.labels
    }

    /// The member that it is restricted to.
    #[must_use]
    pub const fn pinned_to(&self) -> Option<MemberId> {
        self.pin
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

    /// The flow it belongs to, such as a job or a caller. Flows of one priority share by
    /// [weight](super::FlowConfig::weight), however many requests each has queued.
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

    /// The time from its grant or last renewal until its lease expires, in place of the
    /// [pool's](super::PoolConfigBuilder::lease_ttl). Such a lease may outlive this process: in the log of charges it
    /// stays open until it has ended or expired.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Restricts it to this member, whatever its labels.
    #[must_use]
    pub const fn pin(mut self, member: MemberId) -> Self {
        self.pin = Some(member);
        self
    }
}
