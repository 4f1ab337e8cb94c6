//! Weighted round robin by earliest eligible virtual deadline first (EEVDF).
//!
//! Invariant: a ready member is in the queue of its weight. A queue that isn't empty is in `eligible`, by the
//! deadline of its first member, if that member is eligible, and in `upcoming`, by its eligible time,
//! otherwise. `weight` is that of the members that aren't out and of those in `leaving`.

use super::member::Availability;
use super::weight_queue::{Position, WeightQueue};
use crate::util::heap::IndexedHeap;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::num::NonZeroU64;

/// Virtual time of the start: above 0 by more than any turn, so that turns before it can be expressed.
const BEGINNING: u128 = 1 << 84;

/// Selects the eligible member with the earliest virtual deadline.
///
/// The turns of a member of weight `w` follow each other, each from its eligible time to its deadline `1 / w`
/// later. Virtual time passes by `1 / W` a call, with `W` the weight of all members that aren't out. If no ready
/// member is eligible, it jumps to the first that will be; this happens only where busy members don't take
/// their turns, or a member went out while it was owed part of a call.
///
/// # Bounds
/// Without busy members, calls out of turn and changes of weight, a member's calls since it came (back) are less
/// than 1 off `w *` the virtual time passed since, over every prefix. Two rules hold that over absences:
/// - A member that was out rejoins at the current virtual time, or at the end of a turn it has had already.
///   What it was owed is forfeited.
/// - A member that goes out after it was served early is counted in `W` until its turn has ended (Linux's
///   delayed dequeue). Otherwise its call would be taken from the others' turns.
///
/// A busy member is counted in `W`. One that is ready again within `1 / w` keeps its turn, or is owed one if that
/// has ended: its calls since are less than 2 above `w *` the virtual time. One that was busy for longer is
/// served next if its turn has begun, in place of the turn that begins then: less than 1 above. Each such
/// return may delay the others by one call. A call given to a member before it is eligible, and out
/// of turn, moves its next turn to `1 / w` from then, and no virtual time passes.
///
/// Members of equal weight have deadlines in the order of their eligible times. So they share a queue, and
/// only the first members of the queues are compared; ties go to the lower number. Times are rounded down to
/// 2^-64, by division of the whole count of turns, so that the order is exact while nothing changes.
///
/// O(log n) a turn, amortised; O(log of the number of weights) while members stay ready. 128 bytes a member
/// and 160 a weight. Sources: I. Stoica, H. Abdel-Wahab, "Earliest Eligible Virtual Deadline First", 1995; R.
/// Tijdeman, "The Chairman Assignment Problem", 1980.
#[derive(Clone, Debug)]
pub(super) struct WeightedRoundRobin {
    now: VirtualTime,
    /// The `W` above.
    weight: u64,
    /// Schedules by member.
    schedules: Vec<Schedule>,
    /// Index in `queues` by weight.
    queue_by_weight: BTreeMap<u32, u32>,
    queues: Vec<WeightQueue>,
    /// Indices of queues of no weight.
    vacant: Vec<u32>,
    /// First members of queues by deadline.
    eligible: IndexedHeap<(u128, u32)>,
    /// First members of queues by eligible time.
    upcoming: IndexedHeap<(u128, u32)>,
    /// Members that went out during a turn they had had, by the end of that turn.
    leaving: IndexedHeap<u128>,
}

/// The current turn of a member, and its place.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    eligible_at: VirtualTime,
    deadline: VirtualTime,
    /// Whether the call of this turn, which was missed, takes the place of the next turn's.
    missed: bool,
    /// Virtual time at which the member was last updated to busy.
    busy_since: u128,
    weight: u32,
    /// Index of the queue of that weight, if the weight is above 0.
    queue: u32,
    availability: Availability,
    position: Position,
}

impl Schedule {
    fn move_to(&mut self, at: VirtualTime) {
        self.eligible_at = at;
        self.deadline = at.next();
    }

    /// Comes back from out: owed nothing.
    fn rejoin(&mut self, now: u128) {
        self.missed = false;
        if self.eligible_at.at < now {
            self.move_to(VirtualTime::new(now, self.weight.into()));
        }
    }

    /// Comes back from busy: owed one turn at most, or only the next call after more than a turn's time.
    fn resume(&mut self, now: u128) {
        let begun = if self.missed {
            self.deadline.at
        } else {
            self.eligible_at.at
        };
        let (turn, _) = turn_length(self.eligible_at.divisor);
        let turn_ago = now.saturating_sub(turn);
        // A call of the other one of two equal members passes exactly a turn, to within the rounding.
        let long = turn.saturating_add(turn >> 16);
        let was_long = now.saturating_sub(self.busy_since) > long;
        let earliest = if was_long { now } else { turn_ago };
        if begun < earliest {
            self.missed = was_long;
            self.move_to(VirtualTime::new(turn_ago, self.weight.into()));
        }
    }

    /// Changes the weight, keeping the part of a call between the turn and now.
    fn set_weight(&mut self, now: u128, weight: u32) {
        let scale = |span: u128| {
            let span = span.saturating_mul(self.weight.into());
            span.checked_div(weight.into()).unwrap_or(span)
        };
        let at = self.eligible_at.at;
        let at = if at >= now {
            now.saturating_add(scale(at.saturating_sub(now)))
        } else {
            now.saturating_sub(scale(now.saturating_sub(at)))
        };
        self.weight = weight;
        self.move_to(VirtualTime::new(at, weight.into()));
    }

    /// Takes a call before the turn: the next turn is a whole turn from now, or the one that it was.
    fn serve_early(&mut self, now: u128) {
        let turn_from_now = VirtualTime::new(now, self.weight.into()).next();
        let at = turn_from_now.at.max(self.eligible_at.at);
        self.move_to(VirtualTime::new(at, self.weight.into()));
    }

    /// Ends the current turn with a call.
    fn serve(&mut self) {
        let end = self.deadline;
        self.move_to(if self.missed { end.next() } else { end });
        self.missed = false;
    }
}

/// A virtual time that advances by whole turns: always `origin + floor(2^64 * turns / divisor)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct VirtualTime {
    at: u128,
    /// Remainder of the rounding, in units of `2^-64 / divisor`.
    rest: u64,
    divisor: NonZeroU64,
}

impl VirtualTime {
    fn new(at: u128, divisor: u64) -> Self {
        Self {
            at,
            rest: 0,
            divisor: NonZeroU64::new(divisor).unwrap_or(NonZeroU64::MIN),
        }
    }

    fn next(self) -> Self {
        let (mut step, mut rest) = turn_length(self.divisor);
        // Both are below the divisor, and that is below 2^53.
        rest = rest.saturating_add(self.rest);
        if rest >= self.divisor.get() {
            rest = rest.saturating_sub(self.divisor.get());
            step = step.saturating_add(1);
        }
        Self {
            at: self.at.saturating_add(step),
            rest,
            divisor: self.divisor,
        }
    }
}

/// Returns quotient and remainder of `2^64 / divisor`.
fn turn_length(divisor: NonZeroU64) -> (u128, u64) {
    let step = u128::from(u64::MAX / divisor);
    let rest = (u64::MAX % divisor).saturating_add(1);
    if rest == divisor.get() {
        (step.saturating_add(1), 0)
    } else {
        (step, rest)
    }
}

impl WeightedRoundRobin {
    pub(super) fn new() -> Self {
        Self {
            now: VirtualTime::new(BEGINNING, 1),
            weight: 0,
            schedules: Vec::new(),
            queue_by_weight: BTreeMap::new(),
            queues: Vec::new(),
            vacant: Vec::new(),
            eligible: IndexedHeap::new(),
            upcoming: IndexedHeap::new(),
            leaving: IndexedHeap::new(),
        }
    }

    /// Adds a member, which is out, with a turn that begins now.
    pub(super) fn insert(&mut self, id: u32, weight: u32) {
        if let Some(before) = self.schedules.get(id as usize).copied() {
            if before.availability != Availability::Out || self.leaving.remove(id) {
                self.weight = self.weight.saturating_sub(before.weight.into());
            }
            self.release_queue(before.weight);
        }
        let now = VirtualTime::new(self.now.at, weight.into());
        let mut schedule = Schedule {
            eligible_at: now,
            deadline: now.next(),
            missed: false,
            busy_since: now.at,
            weight: 0,
            queue: 0,
            availability: Availability::Out,
            position: Position::Absent,
        };
        let slots = (id as usize).saturating_add(1);
        if self.schedules.len() < slots {
            self.schedules.resize(slots, schedule);
        }
        schedule.queue = self.claim_queue(weight);
        schedule.weight = weight;
        self.schedules[id as usize] = schedule;
    }

    /// Applies a change of weight or availability. The part of a call that a member is owed or ahead stays
    /// the same under another weight; at weight 0, which means out, it keeps its last weight.
    pub(super) fn update(&mut self, id: u32, weight: u32, availability: Availability) {
        self.leave_queue(id);
        let now = self.now.at;
        let Some(schedule) = self.schedules.get_mut(id as usize) else {
            return;
        };
        let (before, old_weight) = (schedule.availability, schedule.weight);
        let was_counted = before != Availability::Out || self.leaving.remove(id);
        if was_counted {
            self.weight = self.weight.saturating_sub(old_weight.into());
        }
        if weight > 0 && weight != old_weight {
            schedule.set_weight(now, weight);
        }
        schedule.availability = availability;
        match (before, availability) {
            (Availability::Out, Availability::Ready) => schedule.rejoin(now),
            (Availability::Out, Availability::Busy) => {
                schedule.rejoin(now);
                schedule.busy_since = now;
            }
            (Availability::Ready, Availability::Busy) => schedule.busy_since = now,
            (Availability::Busy, Availability::Ready) => schedule.resume(now),
            (Availability::Ready, Availability::Ready)
            | (Availability::Busy, Availability::Busy)
            | (_, Availability::Out) => {}
        }
        let (weight, eligible_at) = (schedule.weight, schedule.eligible_at.at);
        let is_leaving = availability == Availability::Out && was_counted && eligible_at > now;
        if is_leaving {
            self.leaving.set(id, eligible_at);
        }
        if is_leaving || availability != Availability::Out {
            self.weight = self.weight.saturating_add(weight.into());
        }
        if weight != old_weight {
            self.release_queue(old_weight);
            let queue = self.claim_queue(weight);
            self.schedules[id as usize].queue = queue;
        }
        self.enter_queue(id);
    }

    pub(super) fn choose(&self) -> Option<u32> {
        let next = self.eligible.peek().or_else(|| self.upcoming.peek());
        next.map(|((_, id), _)| id)
    }

    pub(super) fn chosen(&mut self, id: u32) {
        let is_next = self.choose() == Some(id);
        let now = self.now.at;
        self.take_from_queue(id);
        let Some(schedule) = self.schedules.get_mut(id as usize) else {
            return;
        };
        let (weight, eligible_at) = (schedule.weight, schedule.eligible_at.at);
        if weight == 0 {
            return;
        }
        let is_early = eligible_at > now && !is_next;
        if is_early {
            schedule.serve_early(now);
        } else {
            schedule.serve();
        }
        if self.leaving.key(id).is_some() {
            self.leaving.set(id, schedule.eligible_at.at);
        }
        if !is_early {
            self.pass_time(eligible_at, weight);
        }
        self.enter_queue(id);
        while let Some(((at, _), queue)) = self.upcoming.peek()
            && at <= self.now.at
        {
            self.place_queue(queue);
        }
    }

    /// Advances virtual time by one call of a member, after a jump to its eligible time if that is later.
    fn pass_time(&mut self, eligible_at: u128, weight: u32) {
        if eligible_at > self.now.at {
            self.now.at = eligible_at;
            self.now.rest = 0;
            self.drop_left();
        }
        let weight = self.weight.max(weight.into());
        if self.now.divisor.get() != weight {
            self.now = VirtualTime::new(self.now.at, weight);
        }
        self.now = self.now.next();
        self.drop_left();
    }

    /// Stops counting the members that went out and whose turns have ended.
    fn drop_left(&mut self) {
        while let Some((end, id)) = self.leaving.peek()
            && end <= self.now.at
            && let Some(schedule) = self.schedules.get(id as usize)
        {
            self.weight = self.weight.saturating_sub(schedule.weight.into());
            self.leaving.remove(id);
        }
    }

    /// Returns the queue for a weight, counting one more member of it.
    fn claim_queue(&mut self, weight: u32) -> u32 {
        if weight == 0 {
            return 0;
        }
        let index = *self.queue_by_weight.entry(weight).or_insert_with(|| {
            self.vacant.pop().unwrap_or_else(|| {
                self.queues.push(WeightQueue::new());
                // There are no more queues than members.
                self.queues.len().saturating_sub(1) as u32
            })
        });
        if let Some(queue) = self.queues.get_mut(index as usize) {
            queue.members = queue.members.saturating_add(1);
        }
        index
    }

    /// Counts one member less of a weight, and drops its queue with the last.
    fn release_queue(&mut self, weight: u32) {
        let Some(index) = self.queue_by_weight.get(&weight).copied() else {
            return;
        };
        if let Some(queue) = self.queues.get_mut(index as usize) {
            queue.members = queue.members.saturating_sub(1);
            if queue.members == 0 {
                *queue = WeightQueue::new();
                self.queue_by_weight.remove(&weight);
                self.vacant.push(index);
            }
        }
    }

    /// Adds a member to its queue if it is ready.
    fn enter_queue(&mut self, id: u32) {
        let Some(schedule) = self.schedules.get_mut(id as usize) else {
            return;
        };
        if schedule.availability == Availability::Ready {
            let index = schedule.queue;
            if let Some(queue) = self.queues.get_mut(index as usize) {
                let at = schedule.eligible_at;
                schedule.position = queue.push((at.at, at.rest, id));
            }
            self.place_queue(index);
        }
    }

    /// Removes a member from its queue.
    fn leave_queue(&mut self, id: u32) {
        if self.take_from_queue(id)
            && let Some(schedule) = self.schedules.get(id as usize)
        {
            self.place_queue(schedule.queue);
        }
    }

    /// Removes a member from its queue without placing the queue anew; returns whether it was in.
    fn take_from_queue(&mut self, id: u32) -> bool {
        let Some(schedule) = self.schedules.get_mut(id as usize) else {
            return false;
        };
        let position = core::mem::replace(&mut schedule.position, Position::Absent);
        let key = (schedule.eligible_at.at, schedule.eligible_at.rest, id);
        let index = schedule.queue;
        if let Some(queue) = self.queues.get_mut(index as usize) {
            let schedules = &self.schedules;
            queue.remove(key, position, |(at, rest, id)| {
                schedules.get(id as usize).is_some_and(|schedule| {
                    schedule.position == Position::Queued
                        && schedule.queue == index
                        && (schedule.eligible_at.at, schedule.eligible_at.rest) == (at, rest)
                })
            });
        }
        position != Position::Absent
    }

    /// Puts a queue where its first member belongs.
    fn place_queue(&mut self, index: u32) {
        let first = self
            .queues
            .get(index as usize)
            .and_then(WeightQueue::first)
            .and_then(|(_, _, id)| Some((id, self.schedules.get(id as usize)?)));
        let Some((id, schedule)) = first else {
            self.eligible.remove(index);
            self.upcoming.remove(index);
            return;
        };
        if schedule.eligible_at.at <= self.now.at {
            self.eligible.set(index, (schedule.deadline.at, id));
            self.upcoming.remove(index);
        } else {
            self.upcoming.set(index, (schedule.eligible_at.at, id));
            self.eligible.remove(index);
        }
    }
}
