//! Members by key, none of them loaded far above its share.
//!
//! Invariant: readiness and load move a key only for as long as its first member can't take it.

use super::least_of::{Rank, in_order, load_by_weight};
use super::policy::{LoadFactor, TableSize};
use super::{
    Availability, Member, hash_ring::HashRing, maglev::Maglev, rendezvous::RendezvousTree,
};
use crate::random::{GOLDEN, mix};
use crate::util::bits::BitSet;
use crate::util::heap::IndexedHeap;
use alloc::vec::Vec;
use core::num::NonZeroU16;

/// How many members are looked at for one key before the least loaded is taken.
const ATTEMPTS: u64 = 16;

/// The first member of a key's order that is ready and below its bound, `ceil(factor * (total load + 1) *
/// weight / total weight)`; after 16, the ready one with the least load for its weight, which is below
/// its bound if none is busy. The totals are of those that are ready or busy.
///
/// The order is that of all members, whatever they are. The least loaded is wanted so seldom that members are
/// filed in a heap where they stood once and never after where they stand: the choice that wants it pays
/// for what has changed since the last one, O(log n) for each change. Source: V. Mirrokni, M. Thorup, M. Zadimoghaddam,
/// "Consistent Hashing with Bounded Loads", 2018.
#[derive(Clone, Debug)]
pub(super) struct ConsistentHash {
    table: Table,
    bound: LoadFactor,
    /// By member.
    identities: Vec<u64>,
    /// Each member that is ready, at its place in the order of loads by weight or before it, and others.
    loads: IndexedHeap<Rank>,
    /// Those of them at no load, which is as low as can be: most, as a rule, and looked up much sooner.
    lowest: BitSet,
    /// Those that are ready and without load, which are below any bound: this is known sooner than what else
    /// is known of a member.
    idle: BitSet,
    /// Of all members that have a weight and aren't out.
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
            lowest: BitSet::new(),
            idle: BitSet::new(),
            load: 0,
            weight: 0,
        }
    }

    /// Learns where a member that comes in belongs.
    pub(super) fn insert(&mut self, id: u32, identity: u64) {
        let slots = (id as usize).saturating_add(1);
        if self.identities.len() < slots {
            self.identities.resize(slots, 0);
        }
        if let Some(known) = self.identities.get_mut(id as usize) {
            *known = identity;
        }
    }

    /// Takes note of a change from `before` to `after`; a weight of 0 is not there.
    pub(super) fn update(&mut self, id: u32, before: &Member, after: &Member) {
        if before.weight() != after.weight() {
            let (from, to) = (before.weight(), after.weight());
            match &mut self.table {
                Table::Rendezvous(trie) => {
                    let identity = self.identities.get(id as usize).copied();
                    trie.set_weight(identity.unwrap_or(0), id, from, to);
                }
                Table::Ring(ring) => ring.set_weight(&self.identities, id, from, to),
                Table::Maglev(maglev) => maglev.forget(),
            }
        }
        if before.availability() != Availability::Out {
            self.load = self.load.saturating_sub(before.load.into());
            self.weight = self.weight.saturating_sub(before.weight().into());
        }
        if after.could_be_chosen() && after.load == 0 {
            self.idle.insert(id);
        } else {
            self.idle.remove(id);
        }
        match after.availability() {
            Availability::Out => {
                self.unfile(id);
                return;
            }
            Availability::Ready | Availability::Busy => {
                self.load = self.load.saturating_add(after.load.into());
                self.weight = self.weight.saturating_add(after.weight().into());
            }
        }
        let load = load_by_weight(after.load, after.weight());
        let is_lower = || {
            let filed = self.loads.key(id);
            filed.is_none_or(|filed| in_order(load, u64::MAX) < filed)
        };
        if after.stamp < before.stamp
            || after.could_be_chosen() && !self.lowest.contains(id) && is_lower()
        {
            self.file(id, load, after.stamp);
        }
    }

    fn file(&mut self, id: u32, load: u64, stamp: u64) {
        self.loads.set(id, in_order(load, stamp));
        if load == 0 {
            self.lowest.insert(id);
        } else {
            self.lowest.remove(id);
        }
    }

    fn unfile(&mut self, id: u32) {
        self.loads.remove(id);
        self.lowest.remove(id);
    }

    /// The member that is ready with the least load for its weight, the longest idle of several.
    fn least_loaded(&mut self, members: &[Option<Member>]) -> Option<u32> {
        loop {
            let (filed, id) = self.loads.peek()?;
            let member = members.get(id as usize).and_then(Option::as_ref);
            let Some(member) = member.filter(|member| member.could_be_chosen()) else {
                self.unfile(id);
                continue;
            };
            let load = load_by_weight(member.load, member.weight());
            if filed == in_order(load, member.stamp) {
                return Some(id);
            }
            self.file(id, load, member.stamp);
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
                Table::Rendezvous(trie) => trie.choose(salted),
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
                && member.could_be_chosen()
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
        let share = u128::from(self.load.saturating_add(1)).saturating_mul(member.weight().into());
        load.saturating_mul(1_000) < share.saturating_mul(self.bound.permille().into())
    }
}
