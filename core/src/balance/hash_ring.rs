//! Many points of each member on a ring; a key goes to the next.
//!
//! Invariant: the points are in order, none is left of its own place (`point * capacity / 2^32`), and
//! there is no gap between a point's own place and where it is.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "places stay within a vector's length and one"
)]

use crate::random::{GOLDEN, mix};
use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU16;

const MIN_CAPACITY: usize = 16;
/// Of one member: above it, more weight makes no difference.
const MAX_POINTS: u32 = 1 << 16;
const NOBODY: u32 = u32::MAX;

/// A ring of points in the manner of ketama, found by ordered linear probing: an array in which each
/// point is near the place that its value says.
///
/// A key is found in O(1) on average. A member of `p` points comes and goes in O(p) on average, and
/// O(points of all) when the array grows by a quarter or halves. 8 bytes a place; 20 to 75 places in 100
/// are taken, in a ring of 16 and more. Points are drawn by a hash of the member's identity; equal ones are
/// in order of identity, and those of members of equal identity in an order drawn anew for each.
/// Removing one of n equal members moves its own keys, 1/n of all, and no others. With 160 points a
/// unit of weight a member's share strays from its due by about 8 in 100. Sources: D. Karger et al.,
/// "Consistent Hashing and Random Trees", 1997; O. Amble, D. Knuth, "Ordered Hash Tables", 1974.
#[derive(Clone, Debug)]
pub(super) struct HashRing {
    points_per_weight: NonZeroU16,
    /// The places, and a tail for what the last of them have no room for.
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
    member: NOBODY,
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

    /// Gives a member another weight, of those whose identities these are by member.
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

    /// Where the first point at or after `key` is, around the end if need be.
    pub(super) fn place_of(&self, key: u64) -> usize {
        let wanted = point(key);
        let points = self.slots.iter().enumerate();
        for (place, slot) in points.skip(self.own_place(wanted)) {
            if slot.point >= wanted && slot.member != NOBODY {
                return place;
            }
        }
        self.next_taken(0)
    }

    /// Where the point after the one at `place` is.
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
        (member != NOBODY).then_some(member)
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
        let gap = slots.position(|slot| slot.member != NOBODY);
        from + gap.unwrap_or(self.slots.len())
    }

    fn next_gap(&self, from: usize) -> usize {
        let mut slots = self.slots.iter().skip(from);
        from + slots
            .position(|slot| slot.member == NOBODY)
            .unwrap_or(self.slots.len().saturating_sub(from))
    }

    /// Where `slot` is or belongs.
    fn search(&self, slot: Slot, identities: &[u64]) -> usize {
        let mut place = self.own_place(slot.point);
        while let Some(there) = self.slots.get(place)
            && there.member != NOBODY
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
            && there.member != NOBODY
            && self.own_place(there.point) < end
        {
            end += 1;
        }
        self.slots.copy_within(place + 1..end, place);
        self.slots[end - 1] = GAP;
        self.len -= 1;
    }

    /// Makes the array fit for `len` points.
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
            if slot.member == NOBODY {
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

/// Where a hash is on the ring: its upper half, as ketama's are.
fn point(hash: u64) -> u32 {
    (hash >> 32) as u32
}

fn is_before(a: Slot, b: Slot, identities: &[u64]) -> bool {
    if a.point != b.point {
        return a.point < b.point;
    }
    let rank = |slot: Slot| {
        let identity = identities.get(slot.member as usize).copied();
        let draw = mix(u64::from(slot.point) << 32 | u64::from(slot.member));
        (identity, draw, slot.member)
    };
    rank(a) < rank(b)
}
