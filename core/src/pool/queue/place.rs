//! Places in line: the waiters of a lane that are served before a request, if no other comes.
//!
//! Invariant: the order is that of the queue's turns, were all requests of the lane served one after another.

use super::{Flow, FlowQueue, Queue};
use crate::limit::Cost;
use crate::pool::request::Request;
use crate::util::slab::Handle;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::num::NonZeroU16;

impl Queue {
    /// Waiters in its lane that would be served before a request if it came now and no other did. Those that a limit
    /// of their own flow holds back don't count. O(those waiters, and flows).
    pub(in crate::pool) fn ahead_of(
        &self,
        lane: u32,
        request: &Request,
        weight: NonZeroU16,
    ) -> u32 {
        let known = self.names.get(&(request.flow, request.priority)).copied();
        let flow = known.and_then(|flow| self.flows.get(flow));
        let queue = known.and_then(|known| self.queue(lane, known.slot()));
        let mut own = Line {
            priority: request.priority,
            base: flow.map_or_else(|| self.virtual_time(request.priority), |flow| flow.base),
            place: flow.map_or(self.last_place, |flow| flow.place),
            weight,
            tags: Vec::new(),
        };
        self.extend(&mut own, queue.map(|queue| queue.head), None);
        self.push_tag(&mut own, request.cost);
        self.ahead(lane, known, &own)
    }

    /// Waiters in its lane that will be served before a waiter, if no other comes. O(those, and flows).
    pub(in crate::pool) fn ahead_of_waiter(&self, handle: Handle) -> Option<u32> {
        let waiter = self.waiters.get(handle)?;
        let head = self.queue(waiter.lane, waiter.flow.slot())?.head;
        let mut own = self.flows.get(waiter.flow)?.line();
        self.extend(&mut own, Some(head), waiter.next);
        Some(self.ahead(waiter.lane, Some(waiter.flow), &own))
    }

    /// Adds the tags of waiters of a flow queue, from `at` to before `end`.
    fn extend(&self, line: &mut Line, mut at: Option<Handle>, end: Option<Handle>) {
        while let Some(waiter) = at.filter(|_| at != end).and_then(|at| self.waiters.get(at)) {
            self.push_tag(line, waiter.request.cost);
            at = waiter.next;
        }
    }

    /// Adds the tag of a flow's next request.
    fn push_tag(&self, line: &mut Line, cost: Cost) {
        let time = self.virtual_time(line.priority);
        let served = line.tags.last().map_or(line.base, |last| time.max(*last));
        let stride = self.stride(cost, line.weight);
        line.tags.push(served.saturating_add(stride));
    }

    /// The waiters in a lane that are served before the last request of a flow.
    fn ahead(&self, lane: u32, known: Option<Handle>, own: &Line) -> u32 {
        let before_last = own.tags.len().saturating_sub(1);
        let mut ahead = u32::try_from(before_last).unwrap_or(u32::MAX);
        let Some(lane) = self.lanes.get(lane as usize) else {
            return ahead;
        };
        for (slot, queue) in &lane.queues {
            let is_other = known.is_none_or(|own| own.slot() != *slot) && !queue.is_parked;
            let Some(flow) = self.flows.at(*slot).filter(|_| is_other) else {
                continue;
            };
            let before = match flow.priority.cmp(&own.priority) {
                Ordering::Less => queue.len,
                Ordering::Equal => self.served_before(queue, flow, own),
                Ordering::Greater => 0,
            };
            ahead = ahead.saturating_add(before);
        }
        ahead
    }

    /// Waiters of a flow queue that are served before the last request of another flow of the same priority.
    fn served_before(&self, queue: &FlowQueue, flow: &Flow, own: &Line) -> u32 {
        let (mut line, mut before) = (flow.line(), 0u32);
        let mut at = Some(queue.head);
        while let Some(waiter) = at.and_then(|at| self.waiters.get(at)) {
            self.push_tag(&mut line, waiter.request.cost);
            if !line.is_before(own) {
                break;
            }
            before = before.saturating_add(1);
            at = waiter.next;
        }
        before
    }
}

impl Flow {
    fn line(&self) -> Line {
        Line {
            priority: self.priority,
            base: self.base,
            place: self.place,
            weight: self.weight,
            tags: Vec::new(),
        }
    }
}

/// The first requests of a flow, by the tags that they will have when they are served.
#[derive(Debug)]
struct Line {
    priority: u8,
    base: u128,
    place: u64,
    weight: NonZeroU16,
    tags: Vec<u128>,
}

impl Line {
    /// Whether its last request is served before that of another flow: by their tags or, if these are equal, by which
    /// flow was served, or joined, longer ago.
    fn is_before(&self, other: &Self) -> bool {
        for (own, other) in self.tags.iter().rev().zip(other.tags.iter().rev()) {
            if own != other {
                return own < other;
            }
        }
        // A flow in its first place comes before one that was served in the meantime.
        match self.tags.len().cmp(&other.tags.len()) {
            Ordering::Less => true,
            Ordering::Equal => self.place < other.place,
            Ordering::Greater => false,
        }
    }
}
