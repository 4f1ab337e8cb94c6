//! The queued requests, and the order in which they are served.
//!
//! Invariant: a waiter is in exactly one flow queue, that of its lane and flow, in order of arrival; a lane's
//! `turns` hold each flow that has a queue there, at the turn of that queue's head; `deadlines` holds
//! exactly the waiters that have one.

use super::request::Request;
use crate::time::Tick;
use crate::util::heap::IndexedHeap;
use crate::util::slab::{Handle, Slab};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::num::NonZeroU32;

/// The order of waiters: by priority, then by the turn of the flow, then by arrival.
///
/// The flows of one priority form a ring, and a flow goes to its end when one of its requests is served:
/// deficit round robin with a quantum of one request, each of which costs one, so that no deficit is ever
/// carried. Source: Shreedhar and Varghese, "Efficient Fair Queuing Using Deficit Round Robin", 1996.
///
/// Places in the ring are numbers. A flow that waits in several lanes has one place in all of them, and a flow
/// whose lanes can't be served keeps its place without holding up the others. A new flow joins at the end, so
/// leaving and rejoining gains nothing, and newcomers starve no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    priority: u8,
    place: u64,
    arrival: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) since: Tick,
    pub(super) request: Request,
    pub(super) lane: u32,
    flow: Handle,
    arrival: u64,
    previous: Option<Handle>,
    next: Option<Handle>,
}

/// A flow at one priority, over all lanes.
#[derive(Clone, Debug)]
struct Flow {
    name: (u8, u64),
    /// Its place in the ring.
    place: u64,
    /// The lanes in which it has a queue.
    lanes: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct FlowQueue {
    head: Handle,
    tail: Handle,
    len: u32,
}

#[derive(Clone, Debug)]
struct LaneQueue {
    turns: IndexedHeap<Turn>,
    /// The flows' queues, by the slot of the flow.
    queues: BTreeMap<u32, FlowQueue>,
    len: u32,
}

/// The queue. Operations cost O(log n) in flows and waiters, for each lane that the flow waits in.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    waiters: Slab<Waiter>,
    deadlines: IndexedHeap<(Tick, u64)>,
    arrivals: u64,
    flows: Slab<Flow>,
    names: BTreeMap<(u8, u64), Handle>,
    /// The place behind the last flow of every ring.
    ring_end: u64,
    lanes: Vec<LaneQueue>,
}

impl Queue {
    /// An empty queue, whose handles will be of this generation or later.
    pub(super) fn starting_at_generation(generation: NonZeroU32) -> Self {
        Self {
            waiters: Slab::starting_at_generation(generation),
            deadlines: IndexedHeap::new(),
            arrivals: 0,
            flows: Slab::new(),
            names: BTreeMap::new(),
            ring_end: 0,
            lanes: Vec::new(),
        }
    }

    /// A generation above that of each handle so far.
    #[cfg(feature = "serde")]
    pub(super) fn next_generation(&self) -> NonZeroU32 {
        self.waiters.next_generation()
    }

    #[inline]
    pub(super) fn len(&self) -> u32 {
        self.waiters.len()
    }

    /// Waiters in a lane.
    #[inline]
    pub(super) fn len_of(&self, lane: u32) -> u32 {
        self.lanes.get(lane as usize).map_or(0, |lane| lane.len)
    }

    #[inline]
    pub(super) fn next_deadline(&self) -> Option<Tick> {
        self.deadlines.peek().map(|((deadline, _), _)| deadline)
    }

    pub(super) fn waiter(&self, handle: Handle) -> Option<&Waiter> {
        self.waiters.get(handle)
    }

    /// The head of a lane, and its turn among the heads of all lanes.
    #[inline]
    pub(super) fn next(&self, lane: u32) -> Option<(Turn, Handle)> {
        let lane = self.lanes.get(lane as usize)?;
        let (turn, flow) = lane.turns.peek()?;
        lane.queues.get(&flow).map(|queue| (turn, queue.head))
    }

    /// The turn that a request would have if it came now.
    pub(super) fn turn_of(&self, request: &Request) -> Turn {
        let name = (request.priority, request.flow);
        let known = self.names.get(&name).and_then(|flow| self.flows.get(*flow));
        Turn {
            priority: request.priority,
            place: known.map_or(self.ring_end, |flow| flow.place),
            arrival: self.arrivals,
        }
    }

    /// Waiters that would be served before a request if it came now and no other did. O(flows).
    pub(super) fn ahead_of(&self, lane: u32, request: &Request) -> u32 {
        let Some(lane_queue) = self.lanes.get(lane as usize) else {
            return 0;
        };
        let own = self.names.get(&(request.priority, request.flow));
        let own = own.and_then(|flow| lane_queue.queues.get(&flow.slot()));
        let own = own.map_or(0, |queue| queue.len);
        let mut ahead = 0u32;
        for (slot, queue) in &lane_queue.queues {
            let flow = self.flows.handle_at(*slot);
            let Some(flow) = flow.and_then(|flow| self.flows.get(flow)) else {
                continue;
            };
            let before = match flow.name.0.cmp(&request.priority) {
                Ordering::Less => queue.len,
                Ordering::Equal if flow.name.1 == request.flow => own,
                // One for each turn that the request's own flow needs.
                Ordering::Equal => queue.len.min(own.saturating_add(1)),
                Ordering::Greater => 0,
            };
            ahead = ahead.saturating_add(before);
        }
        ahead
    }

    pub(super) fn push(&mut self, lane: u32, since: Tick, request: Request) -> Option<Handle> {
        let name = (request.priority, request.flow);
        let flow = match self.names.get(&name) {
            Some(flow) => *flow,
            None => {
                let flow = self.flows.insert(Flow {
                    name,
                    place: self.ring_end,
                    lanes: Vec::new(),
                })?;
                self.ring_end = self.ring_end.saturating_add(1);
                self.names.insert(name, flow);
                flow
            }
        };
        let arrival = self.arrivals;
        self.arrivals = arrival.saturating_add(1);
        let previous = self.tail(lane, flow);
        let handle = self.waiters.insert(Waiter {
            since,
            request,
            lane,
            flow,
            arrival,
            previous,
            next: None,
        });
        let Some(handle) = handle else {
            self.forget_idle(flow);
            return None;
        };
        if let Some(deadline) = request.deadline {
            self.deadlines.set(handle.slot(), (deadline, arrival));
        }
        while self.lanes.len() <= lane as usize {
            self.lanes.push(LaneQueue {
                turns: IndexedHeap::new(),
                queues: BTreeMap::new(),
                len: 0,
            });
        }
        let lane_queue = self.lanes.get_mut(lane as usize)?;
        lane_queue.len = lane_queue.len.saturating_add(1);
        match previous.and_then(|previous| self.waiters.get_mut(previous)) {
            Some(previous) => {
                previous.next = Some(handle);
                if let Some(queue) = lane_queue.queues.get_mut(&flow.slot()) {
                    queue.tail = handle;
                    queue.len = queue.len.saturating_add(1);
                }
            }
            None => {
                let queue = FlowQueue {
                    head: handle,
                    tail: handle,
                    len: 1,
                };
                lane_queue.queues.insert(flow.slot(), queue);
                if let Some(flow) = self.flows.get_mut(flow) {
                    flow.lanes.push(lane);
                }
                self.set_turn(lane, flow);
            }
        }
        Some(handle)
    }

    /// The lanes in which a flow waits, by its priority and number.
    pub(super) fn lanes_of(&self, request: &Request) -> &[u32] {
        let flow = self.names.get(&(request.priority, request.flow));
        let flow = flow.and_then(|flow| self.flows.get(*flow));
        flow.map_or(&[], |flow| &flow.lanes)
    }

    /// Removes the head of a lane, because it is served; its flow goes to the end of the ring.
    pub(super) fn pop(&mut self, lane: u32) -> Option<(Handle, Waiter)> {
        let (_, handle) = self.next(lane)?;
        let flow = self.waiters.get(handle)?.flow;
        let served = self.flows.get_mut(flow)?;
        served.place = self.ring_end;
        self.ring_end = self.ring_end.saturating_add(1);
        let waiter = self.remove(handle)?;
        let mut others = 0;
        while let Some(other) = self.flows.get(flow).and_then(|flow| flow.lanes.get(others)) {
            self.set_turn(*other, flow);
            others = others.saturating_add(1);
        }
        Some((handle, waiter))
    }

    /// Removes the waiter with the first deadline, if that is due.
    pub(super) fn pop_due(&mut self, now: Tick) -> Option<(Handle, Waiter)> {
        let ((deadline, _), slot) = self.deadlines.peek()?;
        let handle = self.waiters.handle_at(slot).filter(|_| deadline <= now)?;
        self.remove(handle).map(|waiter| (handle, waiter))
    }

    pub(super) fn remove(&mut self, handle: Handle) -> Option<Waiter> {
        let waiter = self.waiters.remove(handle)?;
        self.deadlines.remove(handle.slot());
        if let Some(previous) = waiter.previous.and_then(|at| self.waiters.get_mut(at)) {
            previous.next = waiter.next;
        }
        if let Some(next) = waiter.next.and_then(|at| self.waiters.get_mut(at)) {
            next.previous = waiter.previous;
        }
        let lane_queue = self.lanes.get_mut(waiter.lane as usize)?;
        lane_queue.len = lane_queue.len.saturating_sub(1);
        let slot = waiter.flow.slot();
        if let Some(queue) = lane_queue.queues.get_mut(&slot) {
            queue.len = queue.len.saturating_sub(1);
            queue.head = waiter
                .next
                .filter(|_| waiter.previous.is_none())
                .unwrap_or(queue.head);
            queue.tail = waiter
                .previous
                .filter(|_| waiter.next.is_none())
                .unwrap_or(queue.tail);
        }
        match (waiter.previous, waiter.next) {
            (None, None) => {
                lane_queue.queues.remove(&slot);
                lane_queue.turns.remove(slot);
                if let Some(flow) = self.flows.get_mut(waiter.flow) {
                    flow.lanes.retain(|lane| *lane != waiter.lane);
                }
                self.forget_idle(waiter.flow);
            }
            (None, Some(_)) => self.set_turn(waiter.lane, waiter.flow),
            (Some(_), Some(_) | None) => {}
        }
        Some(waiter)
    }

    /// Removes all waiters, in order of arrival. O(n log n).
    pub(super) fn drain(&mut self) -> Vec<(Handle, Waiter)> {
        let mut all: Vec<_> = self.waiters.iter().map(|(handle, _)| handle).collect();
        all.sort_by_key(|handle| self.waiters.get(*handle).map(|waiter| waiter.arrival));
        all.into_iter()
            .filter_map(|handle| self.remove(handle).map(|waiter| (handle, waiter)))
            .collect()
    }

    fn tail(&self, lane: u32, flow: Handle) -> Option<Handle> {
        let lane = self.lanes.get(lane as usize)?;
        lane.queues.get(&flow.slot()).map(|queue| queue.tail)
    }

    /// Sets a flow's turn in a lane to that of its head.
    fn set_turn(&mut self, lane: u32, flow: Handle) {
        let Some(lane_queue) = self.lanes.get_mut(lane as usize) else {
            return;
        };
        let queue = lane_queue.queues.get(&flow.slot());
        let head = queue.and_then(|queue| self.waiters.get(queue.head));
        if let (Some(head), Some(known)) = (head, self.flows.get(flow)) {
            let turn = Turn {
                priority: known.name.0,
                place: known.place,
                arrival: head.arrival,
            };
            lane_queue.turns.set(flow.slot(), turn);
        }
    }

    fn forget_idle(&mut self, flow: Handle) {
        let idle = |flow: &&Flow| flow.lanes.is_empty();
        if let Some(name) = self.flows.get(flow).filter(idle).map(|flow| flow.name) {
            self.names.remove(&name);
            self.flows.remove(flow);
        }
    }
}
