//! Consistent hashing with bounded loads: selection by key.
//!
//! Invariant: a key leaves its first member only while that isn't ready or has reached its bound.

use super::hash_ring::HashRing;
use super::least_of::{Rank, in_order, load_by_weight};
use super::maglev::Maglev;
use super::member::{Availability, Member};
use super::parameters::{LoadFactor, TableSize};
use super::rendezvous::RendezvousTree;
use crate::random::{GOLDEN, mix};
use crate::util::bits::BitSet;
use crate::util::heap::IndexedHeap;
use alloc::vec::Vec;
use core::num::NonZeroU16;

/// Members tried for one key before the least loaded is taken.
const ATTEMPTS: u64 = 16;

/// Selects the first member of a key's order that is ready and below its bound, `ceil(factor * (total load + 1) *
/// weight / total weight)`, with totals over the members that aren't out.
///
/// After 16 attempts it selects the ready member with the least load by weight, which is below its bound if
/// no member is busy. A key's order covers all members, ready or not. The heap of loads is lazy, because the
/// fallback is rare: an entry may be below the member's actual rank, and is corrected when it comes to the
/// top, in O(log n) for each change since. Source: V. Mirrokni, M. Thorup, M. Zadimoghaddam, "Consistent Hashing
/// with Bounded Loads", 2018.
#[derive(Clone, Debug)]
pub(super) struct ConsistentHash {
    table: Table,
    bound: LoadFactor,
    /// Identities by member.
    identities: Vec<u64>,
    /// Lazy heap of all ready members and perhaps others, each at its rank or below.
    loads: IndexedHeap<Rank>,
    /// Members in `loads` at load 0, the least there is. A cheaper lookup than the heap's.
    at_zero: BitSet,
    /// Ready members without load, which are below any bound.
    idle: BitSet,
    /// Total load and weight of the members that have a weight and aren't out.
    load: u64,
    weight: u64,
}

#[derive(Clone, Debug)]
enum Table {
    Rendezvous(RendezvousTree),
    Ring(HashRing),
    Maglev(Maglev),
}

impl ConsistentHash {
    pub(super) fn rendezvous(bound: LoadFactor) -> Self {
        Self::new(Table::Rendezvous(RendezvousTree::new()), bound)
    }

    pub(super) fn ring(points: NonZeroU16, bound: LoadFactor) -> Self {
        Self::new(Table::Ring(HashRing::new(points)), bound)
    }

    pub(super) fn maglev(size: TableSize, bound: LoadFactor) -> Self {
        Self::new(Table::Maglev(Maglev::new(size)), bound)
    }

    fn new(table: Table, bound: LoadFactor) -> Self {
        Self {
            table,
            bound,
            identities: Vec::new(),
            loads: IndexedHeap::new(),
            at_zero: BitSet::new(),
            idle: BitSet::new(),
            load: 0,
            weight: 0,
        }
    }

    /// Records the identity of a new member, whose weight is still 0.
    pub(super) fn insert(&mut self, id: u32, identity: u64) {
        let slots = (id as usize).saturating_add(1);
        if self.identities.len() < slots {
            self.identities.resize(slots, 0);
        }
        if let Some(known) = self.identities.get_mut(id as usize) {
            *known = identity;
        }
    }

    /// Applies a change of a member; one of weight 0 is not in the table.
    pub(super) fn update(&mut self, id: u32, before: &Member, after: &Member) {
        if before.weight != after.weight {
            let (from, to) = (before.weight, after.weight);
            match &mut self.table {
                Table::Rendezvous(tree) => {
                    let identity = self.identities.get(id as usize).copied();
                    tree.set_weight(identity.unwrap_or(0), id, from, to);
                }
                Table::Ring(ring) => ring.set_weight(&self.identities, id, from, to),
                Table::Maglev(maglev) => maglev.invalidate(),
            }
        }
        if before.availability() != Availability::Out {
            self.load = self.load.saturating_sub(before.load.into());
            self.weight = self.weight.saturating_sub(before.weight.into());
        }
        if after.is_ready() && after.load == 0 {
            self.idle.insert(id);
        } else {
            self.idle.remove(id);
        }
        match after.availability() {
            Availability::Out => {
                self.drop_load(id);
                return;
            }
            Availability::Ready | Availability::Busy => {
                self.load = self.load.saturating_add(after.load.into());
                self.weight = self.weight.saturating_add(after.weight.into());
            }
        }
        let load = load_by_weight(after.load, after.weight);
        let is_lower = || {
            let known = self.loads.key(id);
            known.is_none_or(|known| in_order(load, u64::MAX) < known)
        };
        if after.last_used_seq < before.last_used_seq
            || after.is_ready() && !self.at_zero.contains(id) && is_lower()
        {
            self.set_load(id, load, after.last_used_seq);
        }
    }

    pub(super) fn choose(&mut self, key: u64, members: &[Option<Member>]) -> Option<u32> {
        let key = mix(key);
        let mut place = 0;
        for attempt in 0..ATTEMPTS {
            // The first attempt goes by the key itself.
            let salted = match attempt {
                0 => key,
                _ => mix(key.wrapping_add(attempt.wrapping_mul(GOLDEN))),
            };
            let id = match &mut self.table {
                Table::Rendezvous(tree) => tree.choose(salted),
                Table::Ring(ring) => {
                    place = match attempt {
                        0 => ring.place_of(key),
                        _ => ring.after(place),
                    };
                    ring.member_at(place)
                }
                Table::Maglev(maglev) => maglev.choose(salted, members, &self.identities),
            };
            let id = id?;
            if self.idle.contains(id) {
                return Some(id);
            }
            if let Some(Some(member)) = members.get(id as usize)
                && member.is_ready()
                && self.has_room(member)
            {
                return Some(id);
            }
        }
        self.least_loaded(members)
    }

    fn has_room(&self, member: &Member) -> bool {
        if self.bound == LoadFactor::UNBOUNDED {
            return true;
        }
        // load < factor * (total load + 1) * weight / total weight, without dividing.
        let load = u128::from(member.load).saturating_mul(self.weight.into());
        let share = u128::from(self.load.saturating_add(1)).saturating_mul(member.weight.into());
        load.saturating_mul(1_000) < share.saturating_mul(self.bound.permille().into())
    }

    /// Returns the ready member with the least load by weight, the longest idle of several.
    fn least_loaded(&mut self, members: &[Option<Member>]) -> Option<u32> {
        loop {
            let (known, id) = self.loads.peek()?;
            let member = members.get(id as usize).and_then(Option::as_ref);
            let Some(member) = member.filter(|member| member.is_ready()) else {
                self.drop_load(id);
                continue;
            };
            let load = load_by_weight(member.load, member.weight);
            if known == in_order(load, member.last_used_seq) {
                return Some(id);
            }
            self.set_load(id, load, member.last_used_seq);
        }
    }

    fn set_load(&mut self, id: u32, load: u64, last_used_seq: u64) {
        self.loads.set(id, in_order(load, last_used_seq));
        if load == 0 {
            self.at_zero.insert(id);
        } else {
            self.at_zero.remove(id);
        }
    }

    fn drop_load(&mut self, id: u32) {
        self.loads.remove(id);
        self.at_zero.remove(id);
    }
}
