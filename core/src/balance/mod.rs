//! Which of the members that could serve a request does.
//!
//! Invariant: what is chosen is in, ready, and of a weight above zero.

mod consistent_hash;
mod fixed_log2;
mod hash;
mod hash_ring;
mod least_of;
mod maglev;
mod peak_ewma;
mod policy;
mod rendezvous;
mod round_robin;
mod sampler;
mod weight_queue;
mod weighted_round_robin;

pub use hash::stable_hash;
pub use peak_ewma::PeakEwma;
pub use policy::{HalfLife, LoadFactor, Policy, PolicyConfigError, TableSize};

use crate::random::SplitMix64;
use crate::util::heap::IndexedHeap;
use alloc::boxed::Box;
use alloc::vec::Vec;
use consistent_hash::ConsistentHash;
use core::hint::black_box;
use core::num::NonZeroU32;
use least_of::{Rank, measure, rank};
use round_robin::RoundRobin;
use sampler::WeightedSampler;
use weighted_round_robin::WeightedRoundRobin;

/// The greatest weight; a greater one counts as this.
pub const MAX_WEIGHT: u32 = 1 << 20;

/// The pass of one call at a weight of 1.
const PASS: u64 = 1 << 32;

/// Choices that are prefetched together: about as many waits for memory as a processor can have at once.
const AHEAD: usize = 16;

/// What a policy knows of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberLoad {
    /// Leases held now, and what else should count as one.
    pub load: u32,
    /// Calls so far, each counted as [`pass`] of the member's weight at that time.
    pub pass: u64,
    /// The place of its latest grant, release or arrival in the order of all of them, so that of several
    /// members that are equal the longest idle is chosen. No two members may have the same.
    pub stamp: u64,
    /// The work ahead of the next call, in any unit, divided by weight.
    pub work: u64,
    /// [`PeakEwma::key`].
    pub latency: Option<u64>,
}

/// Whether a member could be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Availability {
    /// It could be chosen now.
    Ready,
    /// It couldn't, and will be ready again by itself or for another request: it is full, at a limit, or
    /// too small for this one. It keeps its share.
    Busy,
    /// It couldn't, and nobody knows when it will be: it is disabled, down or drained. The others share
    /// what would be its.
    #[default]
    Out,
}

/// What one call adds to the pass of a member: 2^32 by its weight, so that one of twice the weight
/// comes to the same pass in twice the calls; within 1 part in 4,096 at [`MAX_WEIGHT`], and in 2^32 by
/// the weight below. A `u64` has room for 2^32 calls of each unit of weight.
#[must_use]
pub const fn pass(weight: u32) -> u64 {
    let weight = if weight > MAX_WEIGHT {
        MAX_WEIGHT
    } else {
        weight
    };
    match PASS.checked_div(weight as u64) {
        Some(pass) => pass,
        None => PASS,
    }
}

/// Chooses among members by a [`Policy`].
///
/// Members are named by small dense numbers, such as the slots of a slab. What a policy knows of one is
/// told by [`place`](Self::place) whenever that changes. A choice that turns out not to fit is placed as
/// busy, and another made; it keeps its turn for when it is ready again. Commands on members that
/// aren't in do nothing.
///
/// ```
/// use leasehold_core::balance::{Availability, Balancer, Policy, MemberLoad, stable_hash};
///
/// let mut balancer = Balancer::new(Policy::RoundRobin, 1);
/// for (id, name) in (0..).zip(["a", "b", "c"]) {
///     balancer.insert(id, stable_hash(name.as_bytes()), 1);
///     balancer.place(id, &MemberLoad::default(), Availability::Ready);
/// }
/// let mut next = || {
///     let id = balancer.choose(None)?;
///     balancer.chosen(id);
///     Some(id)
/// };
/// assert_eq!([next(), next(), next(), next()], [Some(0), Some(1), Some(2), Some(0)]);
/// ```
#[derive(Clone, Debug)]
pub struct Balancer {
    policy: Policy,
    members: Vec<Option<Member>>,
    /// By member, what one policy goes by besides; none under the others.
    measures: Vec<u64>,
    len: u32,
    ready: u32,
    order: Order,
}

/// Of a member_load, what every policy goes by. Four to a cache line: one that comes up by chance is as a rule
/// in none yet, and the more there are to a line the sooner it was.
#[derive(Clone, Copy, Debug, Default)]
struct Member {
    stamp: u64,
    load: u32,
    state: PackedState,
}

/// A weight of at most [`MAX_WEIGHT`] and an availability in one word that is never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PackedState(NonZeroU32);

/// What a policy keeps of the members that could be chosen.
#[derive(Clone, Debug)]
enum Order {
    LeastOf(IndexedHeap<Rank>),
    RoundRobin(RoundRobin),
    WeightedRoundRobin(Box<WeightedRoundRobin>),
    One(WeightedSampler),
    BetterOfTwo(WeightedSampler),
    ConsistentHash(Box<ConsistentHash>, SplitMix64),
}

impl Member {
    fn could_be_chosen(&self) -> bool {
        self.availability() == Availability::Ready
    }

    /// Without weight it is out.
    fn availability(&self) -> Availability {
        match self.weight() {
            0 => Availability::Out,
            _ => self.state.availability(),
        }
    }

    fn weight(&self) -> u32 {
        self.state.weight()
    }
}

impl PackedState {
    /// Bits below those of the availability: a one, and the weight.
    const AVAILABILITY: u32 = 24;

    fn new(weight: u32, availability: Availability) -> Self {
        let place = match availability {
            Availability::Out => 0u32,
            Availability::Busy => 1,
            Availability::Ready => 2,
        };
        Self(NonZeroU32::MIN | place << Self::AVAILABILITY | weight.min(MAX_WEIGHT) << 1)
    }

    fn weight(self) -> u32 {
        (self.0.get() >> 1) & ((1 << (Self::AVAILABILITY - 1)) - 1)
    }

    fn availability(self) -> Availability {
        match self.0.get() >> Self::AVAILABILITY {
            1 => Availability::Busy,
            2 => Availability::Ready,
            _ => Availability::Out,
        }
    }
}

impl Default for PackedState {
    fn default() -> Self {
        Self::new(0, Availability::Out)
    }
}

impl Balancer {
    /// One without members. Two of the same policy and seed choose the same.
    #[must_use]
    pub fn new(policy: Policy, seed: u64) -> Self {
        let hashed = |hashed| Order::ConsistentHash(Box::new(hashed), SplitMix64(seed));
        let order = match policy {
            Policy::Fifo
            | Policy::LeastConnections
            | Policy::LeastUsed
            | Policy::LeastQueue
            | Policy::PeakEwma(_) => Order::LeastOf(IndexedHeap::new()),
            Policy::RoundRobin => Order::RoundRobin(RoundRobin::new()),
            Policy::WeightedRoundRobin => {
                Order::WeightedRoundRobin(Box::new(WeightedRoundRobin::new()))
            }
            Policy::Random => Order::One(WeightedSampler::new(seed)),
            Policy::PowerOfTwoChoices => Order::BetterOfTwo(WeightedSampler::new(seed)),
            Policy::Rendezvous(bound) => hashed(ConsistentHash::rendezvous(bound)),
            Policy::Ring { points, bound } => hashed(ConsistentHash::ring(points, bound)),
            Policy::Maglev { table, bound } => hashed(ConsistentHash::maglev(table, bound)),
        };
        Self {
            policy,
            members: Vec::new(),
            measures: Vec::new(),
            len: 0,
            ready: 0,
            order,
        }
    }

    /// What it chooses by.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        self.policy
    }

    /// How many members are in.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether no member is in.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many members could be chosen.
    #[must_use]
    pub const fn ready(&self) -> u32 {
        self.ready
    }

    /// Lets a member in, out as yet; instead of the one that has its number, if any.
    ///
    /// `identity` says where a hash policy puts it: a [`stable_hash`] of its name. Two members may have
    /// the same. O(log n); on a ring, O(points of the member).
    pub fn insert(&mut self, id: u32, identity: u64, weight: u32) {
        self.remove(id);
        let slots = (id as usize).saturating_add(1);
        if self.members.len() < slots {
            self.members.resize(slots, None);
        }
        if measure(self.policy, &MemberLoad::default()).is_some() {
            self.measures.resize(self.members.len(), 0);
            self.measures[id as usize] = 0;
        }
        self.members[id as usize] = Some(Member::default());
        self.len = self.len.saturating_add(1);
        match &mut self.order {
            Order::RoundRobin(round_robin) => round_robin.insert(id),
            Order::WeightedRoundRobin(fair) => fair.insert(id, weight.min(MAX_WEIGHT)),
            Order::ConsistentHash(hashed, _) => hashed.insert(id, identity),
            Order::LeastOf(_) | Order::One(_) | Order::BetterOfTwo(_) => {}
        }
        self.set_weight(id, weight);
    }

    /// Takes a member out. As cheap as [`insert`](Self::insert).
    pub fn remove(&mut self, id: u32) {
        if self.change(id, |member| member.state = PackedState::default()) {
            self.members[id as usize] = None;
            self.len = self.len.saturating_sub(1);
        }
    }

    /// Gives a member another weight; 0 means that it is never chosen.
    pub fn set_weight(&mut self, id: u32, weight: u32) {
        self.change(id, |member| {
            member.state = PackedState::new(weight, member.state.availability());
        });
    }

    /// Says how a member stands and whether it could be chosen. O(log n); O(1) where the policy doesn't
    /// go by the member_load and the rest is as it was.
    pub fn place(&mut self, id: u32, member_load: &MemberLoad, availability: Availability) {
        if let Order::RoundRobin(_) | Order::WeightedRoundRobin(_) | Order::One(_) = self.order
            && let Some(Some(member)) = self.members.get(id as usize)
            && member.state.availability() == availability
        {
            return;
        }
        if let Some(measure) = measure(self.policy, member_load)
            && let Some(known) = self.measures.get_mut(id as usize)
        {
            *known = measure;
        }
        self.change(id, |member| {
            member.load = member_load.load;
            member.stamp = member_load.stamp;
            member.state = PackedState::new(member.weight(), availability);
        });
    }

    /// Whose turn it is; `None` if nobody is ready. Nothing changes but the state of the generator of a
    /// policy that draws.
    ///
    /// A hash policy goes by `key`, or by a number drawn if there is none; the others don't look at it.
    pub fn choose(&mut self, key: Option<u64>) -> Option<u32> {
        let id = match &mut self.order {
            Order::LeastOf(heap) => heap.peek().map(|(_, id)| id),
            Order::RoundRobin(round_robin) => round_robin.choose(),
            Order::WeightedRoundRobin(fair) => fair.choose(),
            Order::One(sampler) => sampler.draw(),
            Order::BetterOfTwo(sampler) => {
                let (one, other) = (sampler.draw()?, sampler.draw()?);
                Some(self.better(one, other))
            }
            Order::ConsistentHash(hashed, random) => {
                if self.ready == 0 {
                    return None;
                }
                let key = key.unwrap_or_else(|| random.next());
                hashed.choose(key, &self.members)
            }
        };
        // What comes next needs it, and to ask for it here hides some of the wait for its memory.
        let chosen = id.and_then(|id| self.members.get(id as usize)?.as_ref());
        black_box(chosen.map(|member| member.stamp));
        id
    }

    /// Shows who will be chosen next if nothing changes, under a policy that draws; once for several choices.
    /// Of many members, those who come up by chance are in no cache, and of looks at several the waits for
    /// memory overlap. Each costs what the choice will.
    #[cold]
    pub(crate) fn prefetch_next(&mut self, look: impl FnMut(u32)) {
        let choices: Option<[Option<u32>; AHEAD]> = match &mut self.order {
            Order::One(sampler) => sampler.prefetch_next().map(|drawn| drawn.map(|[one]| one)),
            Order::BetterOfTwo(sampler) => sampler.prefetch_next().map(|drawn| {
                for id in drawn.into_iter().flatten().flatten() {
                    black_box(self.rank_of(id));
                }
                drawn.map(|[one, other]| Some(self.better(one?, other?)))
            }),
            Order::LeastOf(_)
            | Order::RoundRobin(_)
            | Order::WeightedRoundRobin(_)
            | Order::ConsistentHash(..) => None,
        };
        choices.into_iter().flatten().flatten().for_each(look);
    }

    /// The one of two that ranks first.
    fn better(&self, one: u32, other: u32) -> u32 {
        if self.rank_of(other) < self.rank_of(one) {
            other
        } else {
            one
        }
    }

    fn rank_of(&self, id: u32) -> Option<Rank> {
        let member = self.members.get(id as usize)?.as_ref()?;
        Some(rank(self.policy, member, 0))
    }

    /// Says that a member was given out, whether it was chosen here or otherwise. To be told before its
    /// new member_load is.
    pub fn chosen(&mut self, id: u32) {
        let Some(Some(member)) = self.members.get(id as usize) else {
            return;
        };
        match &mut self.order {
            Order::RoundRobin(round_robin) => round_robin.chosen(id, member.could_be_chosen()),
            Order::WeightedRoundRobin(fair) => fair.chosen(id),
            Order::LeastOf(_)
            | Order::One(_)
            | Order::BetterOfTwo(_)
            | Order::ConsistentHash(..) => {}
        }
    }

    /// Changes a member and puts it where it then belongs; whether it is in.
    fn change(&mut self, id: u32, change: impl FnOnce(&mut Member)) -> bool {
        let Some(Some(member)) = self.members.get_mut(id as usize) else {
            return false;
        };
        let before = *member;
        change(member);
        let (was_ready, ready) = (before.could_be_chosen(), member.could_be_chosen());
        match (was_ready, ready) {
            (false, true) => self.ready = self.ready.saturating_add(1),
            (true, false) => self.ready = self.ready.saturating_sub(1),
            (true, true) | (false, false) => {}
        }
        match &mut self.order {
            Order::LeastOf(heap) if ready => {
                let measure = self.measures.get(id as usize).copied();
                heap.set(id, rank(self.policy, member, measure.unwrap_or(0)));
            }
            Order::LeastOf(heap) => drop(heap.remove(id)),
            Order::RoundRobin(round_robin) => {
                if was_ready != ready {
                    round_robin.set_ready(id, ready);
                }
            }
            Order::WeightedRoundRobin(fair) => {
                let availability = member.availability();
                if before.availability() != availability || before.weight() != member.weight() {
                    fair.update(id, member.weight(), availability);
                }
            }
            Order::One(sampler) | Order::BetterOfTwo(sampler) => {
                sampler.set(id, if ready { member.weight() } else { 0 });
            }
            Order::ConsistentHash(hashed, _) => hashed.update(id, &before, member),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_foreseen_is_what_is_chosen_while_nothing_changes() {
        for (policy, weights) in [
            (Policy::Random, [1, 1, 1, 1]),
            (Policy::Random, [0, 1, 2, 100]),
            (Policy::PowerOfTwoChoices, [1, 1, 1, 1]),
            (Policy::PowerOfTwoChoices, [0, 1, 2, 100]),
        ] {
            let mut balancer = Balancer::new(policy, 1);
            for (id, weight) in (0..1_000).zip(weights.into_iter().cycle()) {
                balancer.insert(id, 0, weight);
                let member_load = MemberLoad {
                    load: id % 7,
                    stamp: id.into(),
                    ..MemberLoad::default()
                };
                balancer.place(id, &member_load, Availability::Ready);
            }
            let prefetch_next = |balancer: &mut Balancer| {
                let mut prefetched = Vec::new();
                balancer.prefetch_next(|id| prefetched.push(id));
                prefetched
            };
            for _ in 0..3 {
                let prefetched = prefetch_next(&mut balancer);
                assert_eq!(prefetched.len(), AHEAD);
                for id in prefetched {
                    assert!(prefetch_next(&mut balancer).is_empty());
                    assert_eq!(balancer.choose(None), Some(id));
                }
            }
        }
    }
}
