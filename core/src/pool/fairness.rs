//! Fairness between flows: their settings, their places in the queue, and the requests that their limits hold back.
//!
//! Invariant: after each command, a flow queue is parked if and only if the flow's limits hold back its head.

use super::drive::Pool;
use super::eligibility::Eligibility;
use super::error::StaleWaiter;
use super::event::Place;
use super::flows::FlowConfig;
use super::ids::WaiterId;
use super::request::Request;
use crate::limit::{Booking, Wait};
use crate::time::Tick;
use crate::util::slab::Handle;
use core::num::NonZeroU16;

impl<T> Pool<T> {
    /// Configures a flow, in place of what the pool's settings say of each. Leases that it holds count in its limits
    /// as if granted now; leases that have ended don't count. O(leases, and its requests in the queue).
    pub fn set_flow(&mut self, now: Tick, flow: u64, config: &FlowConfig) {
        self.change_flow(now, flow, Some(config));
    }

    /// Removes a flow's own settings, so that those of the pool apply to it again. Its leases count as under
    /// [`set_flow`](Self::set_flow).
    pub fn reset_flow(&mut self, now: Tick, flow: u64) {
        self.change_flow(now, flow, None);
    }

    fn change_flow(&mut self, now: Tick, flow: u64, config: Option<&FlowConfig>) {
        self.advance(now);
        let now = self.clock.now;
        self.flows.set(flow, config);
        for lease in self.leases.iter_mut().filter(|lease| lease.flow == flow) {
            lease.booked.flow = self.flows.rebook(now, flow, lease.class, lease.cost);
            if let (Some(at), true) = (lease.booked.flow, lease.booked.member.has_arrived()) {
                let booking = Booking::new(at, 0, lease.class);
                self.flows.arrive(now, flow, booking, lease.cost);
            }
        }
        if self.flows.counts_classes() {
            self.split_lanes_by_class();
        }
        self.queue.set_weight(flow, self.flows.weight(flow));
        for lane in self.queue.lanes_of_flow(flow) {
            self.lanes.flag(lane);
        }
        self.rejudge_flow(flow);
        self.hand_over();
    }

    /// A queued request's place in line, and its expected wait. O(requests ahead of it).
    ///
    /// # Errors
    /// [`StaleWaiter`] where the request no longer waits.
    pub fn place(&mut self, now: Tick, waiter: WaiterId) -> Result<Place, StaleWaiter> {
        self.advance(now);
        let now = self.clock.now;
        let handle = waiter.within(self.config.id).ok_or(StaleWaiter)?;
        let ahead = self.queue.ahead_of_waiter(handle).ok_or(StaleWaiter)?;
        let lane = self.queue.waiter(handle).ok_or(StaleWaiter)?.lane;
        let lane = self.lanes.get(lane);
        let opens = [
            lane.and_then(|lane| lane.ready_at()),
            self.queue.parked_until(handle),
        ];
        let opens = opens.into_iter().flatten().max();
        let gap = lane.and_then(|lane| lane.mean_gap());
        let queued = gap.map(|gap| gap.saturating_mul(ahead.saturating_add(1)));
        Ok(Place {
            ahead,
            wait: queued.max(opens.map(|tick| tick.since(now))),
        })
    }

    #[inline]
    pub(super) fn flow_weight(&self, request: &Request) -> NonZeroU16 {
        self.flows.weight(request.flow)
    }

    /// The reason for which the limits of its own flow hold a request back.
    #[inline]
    pub(super) fn held_back_by_flow(&self, request: &Request) -> Option<Eligibility> {
        if self.flows.is_empty() {
            return None;
        }
        let as_of = self.clock.as_of;
        let (flow, class, cost) = (request.flow, request.class, request.cost);
        match self.flows.earliest(as_of, flow, class, cost) {
            Wait::Until(at) if at <= as_of => None,
            Wait::Until(at) => Some(Eligibility::FlowAtLimit { until: Some(at) }),
            Wait::ForSettlement => Some(Eligibility::FlowAtLimit { until: None }),
            Wait::Never => Some(Eligibility::NeverFits),
        }
    }

    /// Whether the flow of a request has queued as many as it may.
    pub(super) fn is_flow_queue_full(&self, request: &Request) -> bool {
        let flow = request.flow;
        !self.flows.is_empty() && self.queue.len_of_flow(flow) >= self.flows.max_waiters(flow)
    }

    /// Judges the heads of a flow's queues again, because its limits or its heads have changed.
    #[inline]
    pub(super) fn rejudge_flow(&mut self, flow: u64) {
        if !self.flows.is_empty() {
            self.rejudge_heads(flow);
        }
    }

    fn rejudge_heads(&mut self, flow: u64) {
        for head in self.queue.heads_of(flow) {
            self.judge_head(head);
        }
    }

    /// Parks a head that its flow's limits hold back, or lets it go on.
    pub(super) fn judge_head(&mut self, head: Handle) {
        let as_of = self.clock.as_of;
        let Some(waiter) = self.queue.waiter(head) else {
            return;
        };
        let (lane, request) = (waiter.lane, waiter.request);
        let (flow, class, cost) = (request.flow, request.class, request.cost);
        let wait = self.flows.earliest(as_of, flow, class, cost);
        if self.queue.judge_head(head, as_of, wait) {
            self.lanes.flag(lane);
        }
    }

    /// Gives each class lanes of its own from now on, because something is counted by class. Queued requests move
    /// to them in order of arrival. O(waiters * members) once, and nothing later.
    pub(super) fn split_lanes_by_class(&mut self) {
        if core::mem::replace(&mut self.by_class, true) {
            return;
        }
        for handle in self.queue.by_arrival() {
            let Some(waiter) = self.queue.waiter(handle).filter(|it| it.request.class > 0) else {
                continue;
            };
            let (old, request) = (waiter.lane, waiter.request);
            let Ok(key) = self.lane_key(&request) else {
                continue;
            };
            let known = self.lanes.touch(&key);
            let Some(lane) = known.or_else(|| self.insert_lane(key)) else {
                continue;
            };
            self.queue.move_to(handle, lane);
            if self.queue.len_of(lane) == 1 {
                self.lanes.set_awaited(lane, true);
            }
            self.lanes.flag(lane);
            self.waiter_left(old);
            self.rejudge_flow(request.flow);
        }
    }
}
