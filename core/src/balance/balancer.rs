//! The balancer: members in the order of a policy.
//!
//! Invariant: the selected member is in the balancer, ready, and of a weight above 0.

use super::consistent_hash::ConsistentHash;
use super::least_of::{Rank, figure, rank};
use super::member::{Availability, MAX_WEIGHT, Member, MemberLoad};
use super::policy::Policy;
use super::round_robin::RoundRobin;
use super::sampler::WeightedSampler;
use super::weighted_round_robin::WeightedRoundRobin;
use crate::random::SplitMix64;
use crate::util::heap::IndexedHeap;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Selection among members by a [`Policy`].
///
/// Members are named by small dense numbers, such as the slots of a slab. Changes of a member are reported
/// by [`update`](Self::update). A choice that turns out not to fit is updated to busy, and another made; it
/// keeps its turn for when it is ready again. Commands on unknown members do nothing.
///
/// ```
/// use leasehold_core::balance::{Availability, Balancer, Policy, MemberLoad, stable_hash};
///
/// let mut balancer = Balancer::new(Policy::RoundRobin, 1);
/// for (id, name) in (0..).zip(["a", "b", "c"]) {
///     balancer.insert(id, stable_hash(name.as_bytes()), 1);
///     balancer.update(id, &MemberLoad::default(), Availability::Ready);
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
    /// Figures that the policy ranks by besides the load, by member; empty if it has none.
    figures: Vec<u64>,
    len: u32,
    ready: u32,
    order: Order,
}

/// State of a policy over the members.
#[derive(Clone, Debug)]
enum Order {
    LeastOf(IndexedHeap<Rank>),
    RoundRobin(RoundRobin),
    WeightedRoundRobin(Box<WeightedRoundRobin>),
    Random(WeightedSampler),
    TwoChoices(WeightedSampler),
    ConsistentHash(Box<ConsistentHash>, SplitMix64),
}

impl Balancer {
    /// Creates a balancer without members. Equal policies and seeds choose the same.
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
            Policy::Random => Order::Random(WeightedSampler::new(seed)),
            Policy::PowerOfTwoChoices => Order::TwoChoices(WeightedSampler::new(seed)),
            Policy::Rendezvous(bound) => hashed(ConsistentHash::rendezvous(bound)),
            Policy::Ring { points, bound } => hashed(ConsistentHash::ring(points, bound)),
            Policy::Maglev { table, bound } => hashed(ConsistentHash::maglev(table, bound)),
        };
        Self {
            policy,
            members: Vec::new(),
            figures: Vec::new(),
            len: 0,
            ready: 0,
            order,
        }
    }

    /// The policy that members are selected by.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        self.policy
    }

    /// Number of members.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are no members.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of members that could be chosen.
    #[must_use]
    pub const fn ready(&self) -> u32 {
        self.ready
    }

    /// Adds a member, out until it is updated; replaces the one of the same number, if any.
    ///
    /// `identity` places it under a hash policy: a [`stable_hash`](super::stable_hash) of its name. Two members may have the same.
    /// O(log n); on a ring, O(points of the member).
    pub fn insert(&mut self, id: u32, identity: u64, weight: u32) {
        self.remove(id);
        let slots = (id as usize).saturating_add(1);
        if self.members.len() < slots {
            self.members.resize(slots, None);
        }
        if figure(self.policy, &MemberLoad::default()).is_some() {
            self.figures.resize(self.members.len(), 0);
            self.figures[id as usize] = 0;
        }
        self.members[id as usize] = Some(Member::default());
        self.len = self.len.saturating_add(1);
        match &mut self.order {
            Order::RoundRobin(round_robin) => round_robin.insert(id),
            Order::WeightedRoundRobin(weighted) => weighted.insert(id, weight.min(MAX_WEIGHT)),
            Order::ConsistentHash(hashed, _) => hashed.insert(id, identity),
            Order::LeastOf(_) | Order::Random(_) | Order::TwoChoices(_) => {}
        }
        self.set_weight(id, weight);
    }

    /// Removes a member, at the cost of [`insert`](Self::insert).
    pub fn remove(&mut self, id: u32) {
        if self.change(id, |member| {
            (member.weight, member.availability) = (0, Availability::Out);
        }) {
            self.members[id as usize] = None;
            self.len = self.len.saturating_sub(1);
        }
    }

    /// Changes the weight of a member; one of weight 0 is never chosen.
    pub fn set_weight(&mut self, id: u32, weight: u32) {
        self.change(id, |member| member.weight = weight.min(MAX_WEIGHT));
    }

    /// Updates the load and availability of a member. O(log n); O(1) if the policy doesn't read the load and
    /// the availability stays.
    pub fn update(&mut self, id: u32, member_load: &MemberLoad, availability: Availability) {
        if let Order::RoundRobin(_) | Order::WeightedRoundRobin(_) | Order::Random(_) = self.order
            && let Some(Some(member)) = self.members.get(id as usize)
            && member.availability == availability
        {
            return;
        }
        if let Some(figure) = figure(self.policy, member_load)
            && let Some(known) = self.figures.get_mut(id as usize)
        {
            *known = figure;
        }
        self.change(id, |member| {
            member.load = member_load.load;
            member.last_used_seq = member_load.last_used_seq;
            member.availability = availability;
        });
    }

    /// Returns the ready member whose turn it is, if any. Changes nothing but the state of the random
    /// generator, if the policy draws.
    ///
    /// A hash policy uses `key`, or a random number if there is none; the others ignore it.
    pub fn choose(&mut self, key: Option<u64>) -> Option<u32> {
        match &mut self.order {
            Order::LeastOf(heap) => heap.peek().map(|(_, id)| id),
            Order::RoundRobin(round_robin) => round_robin.choose(),
            Order::WeightedRoundRobin(weighted) => weighted.choose(),
            Order::Random(sampler) => sampler.draw(),
            Order::TwoChoices(sampler) => {
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
        }
    }

    /// Returns the one of two members that ranks first.
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

    /// Records that a member was given a call, chosen here or not. To be called before the
    /// [`update`](Self::update) of its load.
    pub fn chosen(&mut self, id: u32) {
        let Some(Some(member)) = self.members.get(id as usize) else {
            return;
        };
        match &mut self.order {
            Order::RoundRobin(round_robin) => round_robin.chosen(id, member.is_ready()),
            Order::WeightedRoundRobin(weighted) => weighted.chosen(id),
            Order::LeastOf(_)
            | Order::Random(_)
            | Order::TwoChoices(_)
            | Order::ConsistentHash(..) => {}
        }
    }

    /// Changes a member and moves it to its new place in the order; returns whether it is in.
    fn change(&mut self, id: u32, change: impl FnOnce(&mut Member)) -> bool {
        let Some(Some(member)) = self.members.get_mut(id as usize) else {
            return false;
        };
        let before = *member;
        change(member);
        let (was_ready, ready) = (before.is_ready(), member.is_ready());
        match (was_ready, ready) {
            (false, true) => self.ready = self.ready.saturating_add(1),
            (true, false) => self.ready = self.ready.saturating_sub(1),
            (true, true) | (false, false) => {}
        }
        match &mut self.order {
            Order::LeastOf(heap) if ready => {
                let figure = self.figures.get(id as usize).copied();
                heap.set(id, rank(self.policy, member, figure.unwrap_or(0)));
            }
            Order::LeastOf(heap) => drop(heap.remove(id)),
            Order::RoundRobin(round_robin) => {
                let (before, after) = (before.availability(), member.availability());
                if before != after {
                    round_robin.update(id, before, after);
                }
            }
            Order::WeightedRoundRobin(weighted) => {
                let availability = member.availability();
                if before.availability() != availability || before.weight != member.weight {
                    weighted.update(id, member.weight, availability);
                }
            }
            Order::Random(sampler) | Order::TwoChoices(sampler) => {
                sampler.set(id, if ready { member.weight } else { 0 });
            }
            Order::ConsistentHash(hashed, _) => hashed.update(id, &before, member),
        }
        true
    }
}
