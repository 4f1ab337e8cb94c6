//! Hash ring: a key goes to the member of the next point.
//!
//! Invariant: the points are in order, none is left of its own place (`point * capacity / 2^32`), and
//! there is no gap between a point's own place and its actual one.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "places stay within a vector's length and one"
)]

use crate::random::{GOLDEN, mix};
use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU16;

const MIN_CAPACITY: usize = 16;
/// Points of a member at most; weight beyond that adds none.
const MAX_POINTS: u32 = 1 << 16;
const NO_MEMBER: u32 = u32::MAX;

/// A ring of 32-bit points in an ordered linear probing table, where each point is near the place that its
/// value maps to.
///
/// The number of points by weight is ketama's; their placement is this crate's own (a [`mix`] of the
/// member's identity and the point's number), and matches no other implementation. Equal points are in order
/// of identity, and those of members of equal identity in an order by another hash.
///
/// Finding a key is O(1) on average, adding or removing a member of `p` points O(p) on average, and O(all
/// points) when the table grows by a quarter or halves. A place takes 8 bytes, and 20 to 75 % of the places
/// are taken in a table above 16. Removing one of n equal members moves its own keys, 1/n of all, and no
/// others. With 160 points a member, the standard deviation of the shares is about 8 %. Sources: D. Karger et
/// al., "Consistent Hashing and Random Trees", 1997; O. Amble, D. Knuth, "Ordered Hash Tables", 1974.
#[derive(Clone, Debug)]
pub(super) struct HashRing {
    points_per_weight: NonZeroU16,
    /// `capacity` places, then overflow of the last ones.
    slots: Vec<Slot>,
    capacity: usize,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    point: u32,
    member: u32,
}

const GAP: Slot = Slot {
    point: 0,
    member: NO_MEMBER,
};

impl HashRing {
    pub(super) fn new(points_per_weight: NonZeroU16) -> Self {
        Self {
            points_per_weight,
            slots: vec![GAP; MIN_CAPACITY],
            capacity: MIN_CAPACITY,
            len: 0,
        }
    }

    /// Changes the weight of a member; `identities` is by member.
    pub(super) fn set_weight(&mut self, identities: &[u64], id: u32, before: u32, after: u32) {
        let (from, to) = (self.points(before), self.points(after));
        self.resize(self.len + (to as usize).saturating_sub(from as usize));
        let identity = identities.get(id as usize).copied().unwrap_or(0);
        let seed = mix(identity ^ GOLDEN);
        let slot = |nth: u32| Slot {
            point: point(mix(seed.wrapping_add(u64::from(nth).wrapping_mul(GOLDEN)))),
            member: id,
        };
        (from..to).for_each(|nth| self.insert(slot(nth), identities));
        (to..from).for_each(|nth| self.remove(slot(nth), identities));
        self.resize(self.len);
    }

    /// Returns the place of the first point at or after `key`, wrapping around at the end.
    pub(super) fn place_of(&self, key: u64) -> usize {
        let wanted = point(key);
        let points = self.slots.iter().enumerate();
        for (place, slot) in points.skip(self.own_place(wanted)) {
            if slot.point >= wanted && slot.member != NO_MEMBER {
                return place;
            }
        }
        self.next_taken(0)
    }

    /// Returns the place of the point after the one at `place`, wrapping around at the end.
    pub(super) fn after(&self, place: usize) -> usize {
        let next = self.next_taken(place + 1);
        if next < self.slots.len() {
            next
        } else {
            self.next_taken(0)
        }
    }

    pub(super) fn member_at(&self, place: usize) -> Option<u32> {
        let member = self.slots.get(place)?.member;
        (member != NO_MEMBER).then_some(member)
    }

    fn points(&self, weight: u32) -> u32 {
        weight
            .saturating_mul(self.points_per_weight.get().into())
            .min(MAX_POINTS)
    }

    fn own_place(&self, point: u32) -> usize {
        ((u128::from(point) * self.capacity as u128) >> 32) as usize
    }

    fn next_taken(&self, from: usize) -> usize {
        let mut slots = self.slots.iter().skip(from);
        let taken = slots.position(|slot| slot.member != NO_MEMBER);
        from + taken.unwrap_or(self.slots.len())
    }

    fn next_gap(&self, from: usize) -> usize {
        let mut slots = self.slots.iter().skip(from);
        from + slots
            .position(|slot| slot.member == NO_MEMBER)
            .unwrap_or(self.slots.len().saturating_sub(from))
    }

    /// Returns the place where `slot` is, or would be inserted.
    fn search(&self, slot: Slot, identities: &[u64]) -> usize {
        let mut place = self.own_place(slot.point);
        while let Some(there) = self.slots.get(place)
            && there.member != NO_MEMBER
            && is_before(*there, slot, identities)
        {
            place += 1;
        }
        place
    }

    fn insert(&mut self, slot: Slot, identities: &[u64]) {
        let place = self.search(slot, identities);
        let gap = self.next_gap(place);
        if gap == self.slots.len() {
            self.slots.push(GAP);
        }
        self.slots.copy_within(place..gap, place + 1);
        self.slots[place] = slot;
        self.len += 1;
    }

    fn remove(&mut self, slot: Slot, identities: &[u64]) {
        let place = self.search(slot, identities);
        if self.member_at(place) != Some(slot.member) {
            return;
        }
        let mut end = place + 1;
        while let Some(there) = self.slots.get(end)
            && there.member != NO_MEMBER
            && self.own_place(there.point) < end
        {
            end += 1;
        }
        self.slots.copy_within(place + 1..end, place);
        self.slots[end - 1] = GAP;
        self.len -= 1;
    }

    /// Grows or shrinks the table to fit `len` points.
    fn resize(&mut self, len: usize) {
        let mut capacity = self.capacity;
        while len * 4 > capacity * 3 {
            capacity += capacity / 4;
        }
        while capacity > MIN_CAPACITY && len * 5 < capacity {
            capacity = (capacity / 2).max(MIN_CAPACITY);
        }
        if capacity == self.capacity {
            return;
        }
        self.capacity = capacity;
        let before = core::mem::replace(&mut self.slots, vec![GAP; capacity]);
        let mut end = 0;
        for slot in before {
            if slot.member == NO_MEMBER {
                continue;
            }
            let place = self.own_place(slot.point).max(end);
            if place == self.slots.len() {
                self.slots.push(GAP);
            }
            self.slots[place] = slot;
            end = place + 1;
        }
    }
}

/// Returns the position of a hash on the ring: its upper half.
fn point(hash: u64) -> u32 {
    (hash >> 32) as u32
}

fn is_before(a: Slot, b: Slot, identities: &[u64]) -> bool {
    if a.point != b.point {
        return a.point < b.point;
    }
    let rank = |slot: Slot| {
        let identity = identities.get(slot.member as usize).copied();
        let tie = mix(u64::from(slot.point) << 32 | u64::from(slot.member));
        (identity, tie, slot.member)
    };
    rank(a) < rank(b)
}
