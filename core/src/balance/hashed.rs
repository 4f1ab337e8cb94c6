//! Members by key, none of them loaded far above its share.
//!
//! Invariant: readiness and load move a key only for as long as its first member can't take it.

use super::policy::{LoadFactor, TableSize};
use super::ranked::{Rank, in_order, load_by_weight};
use super::{Availability, Member, maglev::Maglev, mix, ring::Ring, trie::Trie};
use crate::heap::IndexedHeap;
use core::num::NonZeroU16;

/// How many members are looked at for one key before the least loaded is taken.
const ATTEMPTS: u64 = 16;

/// What tells consecutive salts apart: 2^64 by the golden ratio.
pub(super) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The first member of a key's order that is ready and below its bound, `ceil(factor * (total load + 1) *
/// weight / total weight)`; after 16, the ready one with the least load for its weight, which is below
/// its bound if none is busy. The totals are of those that are ready or busy.
///
/// The order is that of all members, whatever they are. Source: V. Mirrokni, M. Thorup, M. Zadimoghaddam,
/// "Consistent Hashing with Bounded Loads", 2018.
#[derive(Clone, Debug)]
pub(super) struct Hashed {
    table: Table,
    bound: LoadFactor,
    /// The members that are ready.
    loads: IndexedHeap<Rank>,
    /// Of all members that have a weight and aren't out.
    load: u64,
    weight: u64,
}

#[derive(Clone, Debug)]
enum Table {
    Rendezvous(Trie),
    Ring(Ring),
    Maglev(Maglev),
}

impl Hashed {
    pub(super) fn rendezvous(bound: LoadFactor) -> Self {
        Self::new(Table::Rendezvous(Trie::new()), bound)
    }

    pub(super) fn ring(points: NonZeroU16, bound: LoadFactor) -> Self {
        Self::new(Table::Ring(Ring::new(points)), bound)
    }

    pub(super) fn maglev(size: TableSize, bound: LoadFactor) -> Self {
        Self::new(Table::Maglev(Maglev::new(size)), bound)
    }

    fn new(table: Table, bound: LoadFactor) -> Self {
        Self {
            table,
            bound,
            loads: IndexedHeap::new(),
            load: 0,
            weight: 0,
        }
    }

    /// Takes note of a change from `before` to `after`; a weight of 0 is not there.
    pub(super) fn update(&mut self, id: u32, before: &Member, after: &Member) {
        if before.weight != after.weight {
            let (identity, from, to) = (after.identity, before.weight, after.weight);
            match &mut self.table {
                Table::Rendezvous(trie) => trie.set_weight(identity, id, from, to),
                Table::Ring(ring) => ring.set_weight(identity, id, from, to),
                Table::Maglev(maglev) => maglev.forget(),
            }
        }
        if before.availability() != Availability::Out {
            self.load = self.load.saturating_sub(before.standing.load.into());
            self.weight = self.weight.saturating_sub(before.weight.into());
        }
        if after.availability() != Availability::Out {
            self.load = self.load.saturating_add(after.standing.load.into());
            self.weight = self.weight.saturating_add(after.weight.into());
        }
        if after.could_be_chosen() {
            let load = load_by_weight(after.standing.load, after.weight);
            self.loads.set(id, in_order(load, after.standing.stamp));
        } else {
            self.loads.remove(id);
        }
    }

    pub(super) fn choose(&mut self, key: u64, members: &[Option<Member>]) -> Option<u32> {
        let (_, least_loaded) = self.loads.peek()?;
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
                Table::Maglev(maglev) => maglev.choose(salted, members),
            };
            let id = id?;
            if let Some(Some(member)) = members.get(id as usize)
                && member.could_be_chosen()
                && self.has_room(member)
            {
                return Some(id);
            }
        }
        Some(least_loaded)
    }

    fn has_room(&self, member: &Member) -> bool {
        if self.bound == LoadFactor::UNBOUNDED {
            return true;
        }
        // load < factor * (total load + 1) * weight / total weight, without dividing.
        let load = u128::from(member.standing.load).saturating_mul(self.weight.into());
        let share = u128::from(self.load.saturating_add(1)).saturating_mul(member.weight.into());
        load.saturating_mul(1_000) < share.saturating_mul(self.bound.permille().into())
    }
}
