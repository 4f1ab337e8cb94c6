//! The queued requests, and the order in which they are served.
//!
//! Invariant: a waiter is in exactly one flow queue, that of its lane and flow, in order of arrival; a lane's
//! `turns` hold each flow queue there that is not parked, at the turn of its head; `deadlines` holds exactly
//! the waiters that have one, and `parked` the heads of parked flow queues whose tick is known.

mod place;

use super::flows::ShareBy;
use super::request::Request;
use crate::limit::{Cost, Wait};
use crate::time::{Tick, earliest};
use crate::util::heap::IndexedHeap;
use crate::util::slab::{Handle, Slab};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::num::{NonZeroU16, NonZeroU32};

/// The order of waiters: by priority, then by the tag of the flow's head, then by the flow's place in the round.
///
/// Flows of one priority share by self-clocked fair queueing: a request's tag is the virtual time at which its
/// flow was served last, or joined, plus its cost divided by the flow's weight; the virtual time of a
/// priority is the highest tag served. So while two flows wait, what they have been served, each divided
/// by its weight, differs by at most one request of each. Of equal tags, the flow that was served longest ago
/// comes first, so that flows of equal weights and costs take strict turns. Source: S. J. Golestani,
/// "A Self-Clocked Fair Queueing Scheme for Broadband Applications", 1994.
///
/// A flow joins at the present virtual time, so that leaving and rejoining gains nothing, and newcomers
/// starve no flow. A flow that waits in several lanes has one place in all of them, and a flow whose lanes
/// can't be served does not hold up the others, nor does it save up turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    priority: u8,
    tag: u128,
    /// A number above that of all flows that joined or were served before.
    place: u64,
    /// The order of requests of one flow in several lanes.
    arrival: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) since: Tick,
    pub(super) request: Request,
    pub(super) lane: u32,
    /// The tick from which it waits for no faster member, if it has waited for one.
    pub(super) postponed_until: Option<Tick>,
    flow: Handle,
    arrival: u64,
    previous: Option<Handle>,
    next: Option<Handle>,
}

/// A flow at one priority, over all lanes.
#[derive(Clone, Debug)]
struct Flow {
    number: u64,
    priority: u8,
    weight: NonZeroU16,
    /// The virtual time at which it was served last, or joined.
    base: u128,
    /// Its place among flows with equal tags.
    place: u64,
    /// The lanes in which it has a queue.
    lanes: Vec<u32>,
    waiters: u32,
}

#[derive(Clone, Copy, Debug)]
struct FlowQueue {
    head: Handle,
    tail: Handle,
    len: u32,
    /// Whether the flow's own limits hold back its head.
    is_parked: bool,
}

#[derive(Clone, Debug)]
struct LaneQueue {
    turns: IndexedHeap<Turn>,
    /// The flows' queues, by the slot of the flow.
    queues: BTreeMap<u32, FlowQueue>,
    len: u32,
}

/// The virtual time of one priority, and the flows that wait at it.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    virtual_time: u128,
    flows: u32,
}

/// The queue. Operations cost O(log n) in flows and waiters, for each lane that the flow waits in.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    share_by: ShareBy,
    waiters: Slab<Waiter>,
    deadlines: IndexedHeap<(Tick, u64)>,
    /// The ticks at which parked flow queues may go on, by the slot of the head.
    parked: IndexedHeap<Tick>,
    arrivals: u64,
    /// The place behind all flows.
    last_place: u64,
    flows: Slab<Flow>,
    /// Flows by number and priority.
    names: BTreeMap<(u64, u8), Handle>,
    rounds: BTreeMap<u8, Round>,
    lanes: Vec<LaneQueue>,
}

impl Queue {
    /// An empty queue, whose handles will be of this generation or later.
    pub(super) fn starting_at_generation(generation: NonZeroU32, share_by: ShareBy) -> Self {
        Self {
            share_by,
            waiters: Slab::starting_at_generation(generation),
            deadlines: IndexedHeap::new(),
            parked: IndexedHeap::new(),
            arrivals: 0,
            last_place: 0,
            flows: Slab::new(),
            names: BTreeMap::new(),
            rounds: BTreeMap::new(),
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

    /// Waiters of a flow, at all priorities.
    pub(super) fn len_of_flow(&self, number: u64) -> u32 {
        let flows = self.flows_of(number);
        let waiters = flows.filter_map(|flow| self.flows.get(flow).map(|flow| flow.waiters));
        waiters.fold(0, u32::saturating_add)
    }

    /// The next tick at which a deadline passes or a parked flow may go on.
    #[inline]
    pub(super) fn next_timer(&self) -> Option<Tick> {
        let deadline = self.deadlines.peek().map(|((deadline, _), _)| deadline);
        earliest(deadline, self.parked.peek().map(|(tick, _)| tick))
    }

    /// Enters the tick from which a waiter waits for no faster member, if it has none yet.
    pub(super) fn postpone(&mut self, handle: Handle, until: Tick) {
        if let Some(waiter) = self.waiters.get_mut(handle) {
            waiter.postponed_until.get_or_insert(until);
        }
    }

    pub(super) fn waiter(&self, handle: Handle) -> Option<&Waiter> {
        self.waiters.get(handle)
    }

    /// The head of a lane, and its turn among the heads of all lanes; `None` also where all flows are parked.
    #[inline]
    pub(super) fn next(&self, lane: u32) -> Option<(Turn, Handle)> {
        let lane = self.lanes.get(lane as usize)?;
        let (turn, flow) = lane.turns.peek()?;
        lane.queues.get(&flow).map(|queue| (turn, queue.head))
    }

    /// The turn that a request of a flow of this weight would have if it came now; `None` if its flow has
    /// requests ahead of it in the lane.
    pub(super) fn turn_of(&self, lane: u32, request: &Request, weight: NonZeroU16) -> Option<Turn> {
        let known = self.names.get(&(request.flow, request.priority));
        if known.is_some_and(|flow| self.queue(lane, flow.slot()).is_some()) {
            return None;
        }
        let flow = known.and_then(|flow| self.flows.get(*flow));
        let base = flow.map_or_else(|| self.virtual_time(request.priority), |flow| flow.base);
        let stride = self.stride(request.cost, weight);
        Some(Turn {
            priority: request.priority,
            tag: base.saturating_add(stride),
            place: flow.map_or(self.last_place, |flow| flow.place),
            arrival: self.arrivals,
        })
    }

    pub(super) fn push(
        &mut self,
        lane: u32,
        since: Tick,
        request: Request,
        weight: NonZeroU16,
    ) -> Option<Handle> {
        let flow = self.flow(&request, weight)?;
        let arrival = self.arrivals;
        self.arrivals = arrival.saturating_add(1);
        let handle = self.waiters.insert(Waiter {
            since,
            request,
            lane,
            postponed_until: None,
            flow,
            arrival,
            previous: None,
            next: None,
        });
        let Some(handle) = handle else {
            self.forget_idle(flow);
            return None;
        };
        if let Some(deadline) = request.deadline {
            self.deadlines.set(handle.slot(), (deadline, arrival));
        }
        if let Some(flow) = self.flows.get_mut(flow) {
            flow.waiters = flow.waiters.saturating_add(1);
        }
        self.link(lane, flow, handle);
        Some(handle)
    }

    /// The flow of a request, which joins if it is new.
    fn flow(&mut self, request: &Request, weight: NonZeroU16) -> Option<Handle> {
        let (number, priority) = (request.flow, request.priority);
        if let Some(flow) = self.names.get(&(number, priority)) {
            return Some(*flow);
        }
        let flow = self.flows.insert(Flow {
            number,
            priority,
            weight,
            base: self.virtual_time(priority),
            place: self.last_place,
            lanes: Vec::new(),
            waiters: 0,
        })?;
        self.last_place = self.last_place.saturating_add(1);
        self.names.insert((number, priority), flow);
        let round = self.rounds.entry(priority).or_default();
        round.flows = round.flows.saturating_add(1);
        Some(flow)
    }

    /// Puts a waiter at the end of its flow's queue in a lane.
    fn link(&mut self, lane: u32, flow: Handle, handle: Handle) {
        while self.lanes.len() <= lane as usize {
            self.lanes.push(LaneQueue {
                turns: IndexedHeap::new(),
                queues: BTreeMap::new(),
                len: 0,
            });
        }
        let Some(lane_queue) = self.lanes.get_mut(lane as usize) else {
            return;
        };
        lane_queue.len = lane_queue.len.saturating_add(1);
        let previous = lane_queue.queues.get_mut(&flow.slot()).map(|queue| {
            queue.len = queue.len.saturating_add(1);
            core::mem::replace(&mut queue.tail, handle)
        });
        if let Some(waiter) = self.waiters.get_mut(handle) {
            (waiter.lane, waiter.previous, waiter.next) = (lane, previous, None);
        }
        if let Some(previous) = previous.and_then(|previous| self.waiters.get_mut(previous)) {
            previous.next = Some(handle);
            return;
        }
        let queue = FlowQueue {
            head: handle,
            tail: handle,
            len: 1,
            is_parked: false,
        };
        lane_queue.queues.insert(flow.slot(), queue);
        if let Some(flow) = self.flows.get_mut(flow) {
            flow.lanes.push(lane);
        }
        self.set_turn(lane, flow);
    }

    /// The lanes in which a flow waits, at the request's priority.
    pub(super) fn lanes_of(&self, request: &Request) -> &[u32] {
        let flow = self.names.get(&(request.flow, request.priority));
        let flow = flow.and_then(|flow| self.flows.get(*flow));
        flow.map_or(&[], |flow| &flow.lanes)
    }

    /// Removes the head of a lane, because it is served; its flow's next turn counts from now.
    pub(super) fn pop(&mut self, lane: u32) -> Option<(Handle, Waiter)> {
        let (turn, handle) = self.next(lane)?;
        let flow = self.waiters.get(handle)?.flow;
        let round = self.rounds.get_mut(&turn.priority)?;
        round.virtual_time = round.virtual_time.max(turn.tag);
        let served = self.flows.get_mut(flow)?;
        (served.base, served.place) = (round.virtual_time, self.last_place);
        self.last_place = self.last_place.saturating_add(1);
        let waiter = self.remove(handle)?;
        self.set_turns(flow);
        Some((handle, waiter))
    }

    /// Removes the waiter with the first deadline, if that is due.
    pub(super) fn pop_due(&mut self, now: Tick) -> Option<(Handle, Waiter)> {
        let ((deadline, _), slot) = self.deadlines.peek()?;
        let handle = self.waiters.handle_at(slot).filter(|_| deadline <= now)?;
        self.remove(handle).map(|waiter| (handle, waiter))
    }

    pub(super) fn remove(&mut self, handle: Handle) -> Option<Waiter> {
        self.unlink(handle)?;
        let waiter = self.waiters.remove(handle)?;
        self.deadlines.remove(handle.slot());
        if let Some(flow) = self.flows.get_mut(waiter.flow) {
            flow.waiters = flow.waiters.saturating_sub(1);
        }
        self.forget_idle(waiter.flow);
        Some(waiter)
    }

    /// Moves a waiter to the end of its flow's queue in another lane, in which its flow keeps its turn.
    pub(super) fn move_to(&mut self, handle: Handle, lane: u32) {
        if let Some(flow) = self.unlink(handle) {
            self.link(lane, flow, handle);
        }
    }

    /// Takes a waiter out of its flow's queue, and returns the flow.
    fn unlink(&mut self, handle: Handle) -> Option<Handle> {
        let Waiter {
            lane,
            flow,
            previous,
            next,
            ..
        } = *self.waiters.get(handle)?;
        if let Some(previous) = previous.and_then(|at| self.waiters.get_mut(at)) {
            previous.next = next;
        }
        if let Some(next) = next.and_then(|at| self.waiters.get_mut(at)) {
            next.previous = previous;
        }
        self.parked.remove(handle.slot());
        let lane_queue = self.lanes.get_mut(lane as usize)?;
        lane_queue.len = lane_queue.len.saturating_sub(1);
        let queue = lane_queue.queues.get_mut(&flow.slot())?;
        queue.len = queue.len.saturating_sub(1);
        match (previous, next) {
            (None, None) => {
                lane_queue.queues.remove(&flow.slot());
                lane_queue.turns.remove(flow.slot());
                if let Some(flow) = self.flows.get_mut(flow) {
                    flow.lanes.retain(|other| *other != lane);
                }
            }
            (None, Some(next)) => {
                queue.head = next;
                // The flow's limits judge each head anew.
                queue.is_parked = false;
                self.set_turn(lane, flow);
            }
            (Some(previous), None) => queue.tail = previous,
            (Some(_), Some(_)) => {}
        }
        Some(flow)
    }

    /// All waiters, in order of arrival. O(n log n).
    pub(super) fn by_arrival(&self) -> Vec<Handle> {
        let mut all: Vec<_> = self.waiters.iter().map(|(handle, _)| handle).collect();
        all.sort_by_key(|handle| self.waiters.get(*handle).map(|waiter| waiter.arrival));
        all
    }

    /// The waiters in a lane, in order of arrival. O(waiters).
    pub(super) fn waiters_in(&self, lane: u32) -> Vec<Handle> {
        let mut all = self.by_arrival();
        all.retain(|handle| self.waiters.get(*handle).is_some_and(|it| it.lane == lane));
        all
    }

    /// The lanes in which a flow waits, at any priority.
    pub(super) fn lanes_of_flow(&self, number: u64) -> Vec<u32> {
        let flows = self.flows_of(number);
        let lanes = flows.filter_map(|flow| Some(&self.flows.get(flow)?.lanes));
        lanes.flatten().copied().collect()
    }

    /// The heads of a flow's queues, at all priorities and in all lanes.
    pub(super) fn heads_of(&self, number: u64) -> Vec<Handle> {
        let flows = self.flows_of(number);
        let heads = flows.flat_map(|handle| {
            let flow = self.flows.get(handle);
            let lanes = flow.map_or(&[][..], |flow| &flow.lanes).iter();
            lanes.filter_map(move |lane| Some(self.queue(*lane, handle.slot())?.head))
        });
        heads.collect()
    }

    /// Whether a waiter is at the head of its flow's queue.
    pub(super) fn is_head(&self, handle: Handle) -> bool {
        let waiter = self.waiters.get(handle);
        waiter.is_some_and(|waiter| waiter.previous.is_none())
    }

    /// Parks the flow queue of a head, or lets it go on, as its flow's limits say; returns whether that changed
    /// the queue's turn.
    pub(super) fn judge_head(&mut self, handle: Handle, as_of: Tick, wait: Wait) -> bool {
        let Some(Waiter { lane, flow, .. }) = self.waiters.get(handle).copied() else {
            return false;
        };
        let (is_parked, tick) = match wait {
            Wait::Until(at) if at <= as_of => (false, None),
            Wait::Until(at) => (true, Some(at)),
            Wait::ForSettlement | Wait::Never => (true, None),
        };
        match tick {
            Some(tick) => self.parked.set(handle.slot(), tick),
            None => drop(self.parked.remove(handle.slot())),
        }
        let lane_queue = self.lanes.get_mut(lane as usize);
        let queue = lane_queue.and_then(|lane| lane.queues.get_mut(&flow.slot()));
        let Some(queue) = queue.filter(|queue| queue.is_parked != is_parked) else {
            return false;
        };
        queue.is_parked = is_parked;
        self.set_turn(lane, flow);
        true
    }

    /// The tick at which a parked head may go on.
    pub(super) fn parked_until(&self, handle: Handle) -> Option<Tick> {
        self.parked.key(handle.slot())
    }

    /// The head whose flow's limits open first, if that is due.
    pub(super) fn parked_due(&self, now: Tick) -> Option<Handle> {
        let (tick, slot) = self.parked.peek()?;
        self.waiters.handle_at(slot).filter(|_| tick <= now)
    }

    /// Changes the weight of a flow that waits.
    pub(super) fn set_weight(&mut self, number: u64, weight: NonZeroU16) {
        let flows: Vec<_> = self.flows_of(number).collect();
        for handle in flows {
            if let Some(flow) = self.flows.get_mut(handle) {
                flow.weight = weight;
            }
            self.set_turns(handle);
        }
    }

    /// The handles of a flow, one a priority.
    fn flows_of(&self, number: u64) -> impl Iterator<Item = Handle> {
        let names = self.names.range((number, 0)..=(number, u8::MAX));
        names.map(|(_, flow)| *flow)
    }

    fn queue(&self, lane: u32, flow: u32) -> Option<&FlowQueue> {
        self.lanes.get(lane as usize)?.queues.get(&flow)
    }

    fn virtual_time(&self, priority: u8) -> u128 {
        let round = self.rounds.get(&priority);
        round.map_or(0, |round| round.virtual_time)
    }

    /// The virtual time that a cost takes.
    #[inline]
    fn stride(&self, cost: Cost, weight: NonZeroU16) -> u128 {
        let units = match self.share_by {
            ShareBy::Requests => cost.requests,
            ShareBy::Tokens => cost.tokens,
        };
        let scaled = u64::from(units.max(1)) << 32;
        scaled
            .checked_div(weight.get().into())
            .unwrap_or(scaled)
            .into()
    }

    fn set_turns(&mut self, flow: Handle) {
        let mut at = 0;
        while let Some(lane) = self.flows.get(flow).and_then(|flow| flow.lanes.get(at)) {
            self.set_turn(*lane, flow);
            at = at.saturating_add(1);
        }
    }

    /// Sets a flow's turn in a lane to that of its head.
    fn set_turn(&mut self, lane: u32, flow: Handle) {
        let Some(queue) = self.queue(lane, flow.slot()).copied() else {
            return;
        };
        let (Some(head), Some(known)) = (self.waiters.get(queue.head), self.flows.get(flow)) else {
            return;
        };
        let stride = self.stride(head.request.cost, known.weight);
        let turn = Turn {
            priority: known.priority,
            tag: known.base.saturating_add(stride),
            place: known.place,
            arrival: head.arrival,
        };
        if let Some(lane) = self.lanes.get_mut(lane as usize) {
            if queue.is_parked {
                lane.turns.remove(flow.slot());
            } else {
                lane.turns.set(flow.slot(), turn);
            }
        }
    }

    fn forget_idle(&mut self, handle: Handle) {
        let flow = self.flows.get(handle).filter(|flow| flow.waiters == 0);
        let Some((number, priority)) = flow.map(|flow| (flow.number, flow.priority)) else {
            return;
        };
        self.names.remove(&(number, priority));
        self.flows.remove(handle);
        if let Some(round) = self.rounds.get_mut(&priority) {
            round.flows = round.flows.saturating_sub(1);
            if round.flows == 0 {
                self.rounds.remove(&priority);
            }
        }
    }
}
