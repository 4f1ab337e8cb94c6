//! The members that can serve one kind of request, and when.
//!
//! Invariant: a member that could serve the `wanted` cost now is in its tier's balancer as ready. One
//! that is in there may yet refuse, because what it shares with others was used up or because it was
//! last looked at for a lower cost; then it is looked at again and put where it belongs. Those that are
//! not ready for the wanted cost but might be for a lower one are in `deferred`.

use super::{Labels, Request};
use crate::balance::{Availability, Balancer, MemberLoad, Policy};
use crate::limit::{Cost, Wait};
use crate::time::Tick;
use crate::util::bits::BitSet;
use crate::util::heap::IndexedHeap;
use crate::util::slab::Handle;
use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

/// What kind of request a lane is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) class: u32,
    pub(super) labels: Labels,
    pub(super) pin: Option<Handle>,
}

impl Kind {
    pub(super) fn of(request: &Request) -> Self {
        Self {
            class: request.class,
            labels: match request.pin {
                Some(_) => Labels::NONE,
                None => request.labels,
            },
            pin: request.pin.map(|member| member.0),
        }
    }
}

/// When a member could serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    Now,
    /// At this tick, if nothing happens until then.
    At(Tick),
    /// As soon as somebody releases.
    AnyTime,
    /// As soon as it is well again.
    Recovered,
    /// Never for what is wanted, but perhaps for less.
    ForLess,
    /// Not before an operator or a probe changes that.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Absent,
    Ready,
    Resting,
    Occupied,
    Out,
}

#[derive(Clone, Debug)]
enum Members {
    /// A request that is pinned has nothing to choose.
    One { slot: u32, opening: Opening },
    Many {
        /// The nearest first. At most 256.
        tiers: Vec<(u8, Balancer)>,
        /// By slot.
        places: Vec<Place>,
        resting: IndexedHeap<Tick>,
        occupied: BitSet,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub(super) kind: Kind,
    members: Members,
    pub(super) wanted: Cost,
    /// Whether no other cost was ever wanted.
    pub(super) is_uniform: bool,
    deferred: BitSet,
    /// Why the pool's own limits held back a request that a member could have served.
    pub(super) gate: Option<Wait>,
    /// Whether it is in the pool's list of those that may be served.
    pub(super) flagged: bool,
    /// When it was last asked for anything, in the order of all commands.
    pub(super) used: u64,
    /// When it was last served while somebody waited, and the mean time between two such grants.
    pub(super) served: Option<Tick>,
    pub(super) pace: Option<Duration>,
}

impl Lane {
    pub(super) fn new(kind: Kind) -> Self {
        let members = match kind.pin {
            Some(pin) => Members::One {
                slot: pin.slot(),
                opening: Opening::Unknown,
            },
            None => Members::Many {
                tiers: Vec::new(),
                places: Vec::new(),
                resting: IndexedHeap::new(),
                occupied: BitSet::new(),
            },
        };
        Self {
            kind,
            members,
            wanted: Cost::REQUEST,
            is_uniform: true,
            deferred: BitSet::new(),
            gate: None,
            flagged: false,
            used: 0,
            served: None,
            pace: None,
        }
    }

    /// A lane for another class, in which everybody's turn is as in this one.
    pub(super) fn for_class(&self, class: u32) -> Self {
        let kind = Kind { class, ..self.kind };
        Self {
            members: self.members.clone(),
            ..Self::new(kind)
        }
    }

    /// Takes a member in.
    pub(super) fn insert(
        &mut self,
        slot: u32,
        tier: u8,
        identity: u64,
        weight: u32,
        new: impl FnOnce() -> (Policy, u64),
    ) {
        let Members::Many { tiers, places, .. } = &mut self.members else {
            return;
        };
        let wanted = (slot as usize).saturating_add(1);
        if places.len() < wanted {
            places.resize(wanted, Place::Absent);
        }
        if let Some(place) = places.get_mut(slot as usize) {
            *place = Place::Out;
        }
        let at = match tiers.binary_search_by_key(&tier, |(tier, _)| *tier) {
            Ok(at) => at,
            Err(at) => {
                let (policy, seed) = new();
                tiers.insert(at, (tier, Balancer::new(policy, seed)));
                at
            }
        };
        if let Some((_, balancer)) = tiers.get_mut(at) {
            balancer.insert(slot, identity, weight);
        }
    }

    pub(super) fn remove(&mut self, slot: u32, tier: u8) {
        self.set(slot, tier, &MemberLoad::default(), Opening::Unknown);
        self.deferred.remove(slot);
        match &mut self.members {
            Members::One { .. } => {}
            Members::Many { tiers, places, .. } => {
                if let Some(place) = places.get_mut(slot as usize) {
                    *place = Place::Absent;
                }
                if let Some(balancer) = tier_mut(tiers, tier) {
                    balancer.remove(slot);
                }
            }
        }
    }

    pub(super) fn contains(&self, slot: u32) -> bool {
        match &self.members {
            Members::One { slot: one, .. } => *one == slot,
            Members::Many { places, .. } => places
                .get(slot as usize)
                .is_some_and(|place| *place != Place::Absent),
        }
    }

    pub(super) fn set_weight(&mut self, slot: u32, tier: u8, weight: u32) {
        if let Members::Many { tiers, .. } = &mut self.members
            && let Some(balancer) = tier_mut(tiers, tier)
        {
            balancer.set_weight(slot, weight);
        }
    }

    /// Puts a member where it belongs.
    pub(super) fn set(&mut self, slot: u32, tier: u8, member_load: &MemberLoad, opening: Opening) {
        let (tiers, places, resting, occupied) = match &mut self.members {
            Members::One { opening: one, .. } => {
                *one = opening;
                return;
            }
            Members::Many {
                tiers,
                places,
                resting,
                occupied,
            } => (tiers, places, resting, occupied),
        };
        let Some(place) = places.get_mut(slot as usize) else {
            return;
        };
        let new = match opening {
            Opening::Now => Place::Ready,
            Opening::At(_) => Place::Resting,
            Opening::AnyTime | Opening::Recovered => Place::Occupied,
            Opening::ForLess | Opening::Unknown => Place::Out,
        };
        let old = mem::replace(place, new);
        if let Some(balancer) = tier_mut(tiers, tier) {
            let availability = match opening {
                Opening::Now => Availability::Ready,
                Opening::At(_) | Opening::AnyTime | Opening::ForLess => Availability::Busy,
                Opening::Recovered | Opening::Unknown => Availability::Out,
            };
            balancer.update(slot, member_load, availability);
        }
        match opening {
            Opening::At(tick) => resting.set(slot, tick),
            Opening::Now
            | Opening::AnyTime
            | Opening::Recovered
            | Opening::ForLess
            | Opening::Unknown => {
                if old == Place::Resting {
                    resting.remove(slot);
                }
            }
        }
        match (old == Place::Occupied, new == Place::Occupied) {
            (true, false) => occupied.remove(slot),
            (false, true) => occupied.insert(slot),
            (true, true) | (false, false) => {}
        }
    }

    /// The member whose turn it is among those that are ready in the nearest tier that has any.
    pub(super) fn choose(&mut self, key: Option<u64>) -> Option<u32> {
        match &mut self.members {
            Members::One { slot, opening } => (*opening == Opening::Now).then_some(*slot),
            Members::Many { tiers, .. } => tiers
                .iter_mut()
                .find_map(|(_, balancer)| balancer.choose(key)),
        }
    }

    /// Whether a member is ready and no nearer tier has one that is.
    pub(super) fn may_choose(&self, slot: u32, tier: u8) -> bool {
        match &self.members {
            Members::One { .. } => false,
            Members::Many { tiers, places, .. } => {
                let place = places.get(slot as usize);
                let nearer = || tiers.iter().take_while(|(other, _)| *other < tier);
                place == Some(&Place::Ready) && nearer().all(|(_, balancer)| balancer.ready() == 0)
            }
        }
    }

    /// Notes that a member was given out.
    pub(super) fn chosen(&mut self, slot: u32, tier: u8) {
        if let Members::Many { tiers, .. } = &mut self.members
            && let Some(balancer) = tier_mut(tiers, tier)
        {
            balancer.chosen(slot);
        }
    }

    /// The first member that is known to open, and when.
    pub(super) fn next_opening(&self) -> Option<(Tick, u32)> {
        match &self.members {
            Members::One { slot, opening } => match opening {
                Opening::At(tick) => Some((*tick, *slot)),
                Opening::Now
                | Opening::AnyTime
                | Opening::Recovered
                | Opening::ForLess
                | Opening::Unknown => None,
            },
            Members::Many { resting, .. } => resting.peek(),
        }
    }

    /// A member that a release or a recovery could open at any time.
    pub(super) fn occupied(&self) -> Option<u32> {
        match &self.members {
            Members::One { slot, opening } => {
                matches!(opening, Opening::AnyTime | Opening::Recovered).then_some(*slot)
            }
            Members::Many { occupied, .. } => occupied.first(),
        }
    }

    /// Notes that a member isn't ready for the wanted cost and might be for another.
    pub(super) fn defer(&mut self, slot: u32) {
        self.deferred.insert(slot);
    }

    /// Changes the wanted cost; whether there are members to be looked at again.
    pub(super) fn aim(&mut self, cost: Cost) -> bool {
        let old = mem::replace(&mut self.wanted, cost);
        self.is_uniform = false;
        !cost.covers(old)
    }

    /// Takes one of those that weren't ready for what was wanted before.
    pub(super) fn pop_deferred(&mut self) -> Option<u32> {
        let slot = self.deferred.first()?;
        self.deferred.remove(slot);
        Some(slot)
    }
}

fn tier_mut(tiers: &mut [(u8, Balancer)], tier: u8) -> Option<&mut Balancer> {
    let at = tiers.binary_search_by_key(&tier, |(tier, _)| *tier).ok()?;
    tiers.get_mut(at).map(|(_, balancer)| balancer)
}
