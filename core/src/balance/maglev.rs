//! A table of places that members take turns to fill, each in an order of its own.
//!
//! Invariant: every place is taken, or the table is made anew before the next look.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "a table has less than 2^24 places, and steps stay below twice that"
)]

use super::Member;
use super::policy::TableSize;
use crate::random::{GOLDEN, mix};
use alloc::collections::BinaryHeap;
use alloc::collections::binary_heap::PeekMut;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;

const FREE: u32 = u32::MAX;
/// Bits behind the point of a turn's time: two that differ do so by one or more.
const FRACTION: u32 = 40;

/// Maglev hashing. A key is found in O(1). The table of `m` places is made when it is needed after a
/// change, in O(m log m) steps: a few milliseconds for 65,537 places. 4 bytes a place.
///
/// Members take turns by weight, the k-th of a member of weight `w` at `k / w`, those at once in order
/// of identity. While all weights are equal nobody has more than one place more than another. With more
/// members than places, some have none. Removing one of n moves its own keys and some others: 0.02/n of
/// all at 10 members in 65,537 places, 0.5/n at 100, 5/n at 655. Source: D. Eisenbud et al., "Maglev: A
/// Fast and Reliable Software Network Load Balancer", 2016.
#[derive(Clone, Debug)]
pub(super) struct Maglev {
    size: u32,
    /// Empty while out of date.
    places: Vec<u32>,
}

impl Maglev {
    pub(super) fn new(size: TableSize) -> Self {
        Self {
            size: size.places(),
            places: Vec::new(),
        }
    }

    /// Makes the table anew before the next look.
    pub(super) fn forget(&mut self) {
        self.places.clear();
    }

    pub(super) fn choose(
        &mut self,
        key: u64,
        members: &[Option<Member>],
        identities: &[u64],
    ) -> Option<u32> {
        if self.places.is_empty() {
            self.fill(members, identities);
        }
        let place = (u128::from(key) * u128::from(self.size)) >> 64;
        let id = *self.places.get(place as usize)?;
        (id != FREE).then_some(id)
    }

    fn fill(&mut self, members: &[Option<Member>], identities: &[u64]) {
        let mut rows: Vec<Row> = (0u32..)
            .zip(members.iter().zip(identities))
            .filter_map(|(id, (member, identity))| {
                let weight = member.as_ref().map(Member::weight);
                let weight = weight.filter(|weight| *weight > 0)?;
                Some(Row::new(id, *identity, weight, self.size))
            })
            .collect();
        rows.sort_unstable_by_key(|row| (row.identity, row.id));
        let mut turns: BinaryHeap<Reverse<(u64, usize)>> = rows
            .iter()
            .enumerate()
            .map(|(at, row)| Reverse((row.time(1), at)))
            .collect();
        self.places = vec![FREE; self.size as usize];
        for _ in 0..self.size {
            let Some(mut turn) = turns.peek_mut() else {
                return;
            };
            let Reverse((_, at)) = *turn;
            let Some(row) = rows.get_mut(at) else {
                PeekMut::pop(turn);
                continue;
            };
            // A prime's steps reach every place, and one is free.
            while self.places[row.place as usize] != FREE {
                row.place += row.skip;
                if row.place >= self.size {
                    row.place -= self.size;
                }
            }
            self.places[row.place as usize] = row.id;
            row.turns += 1;
            *turn = Reverse((row.time(row.turns + 1), at));
        }
    }
}

/// A member and how far it has got.
struct Row {
    identity: u64,
    id: u32,
    weight: u32,
    place: u32,
    skip: u32,
    turns: u32,
}

impl Row {
    fn new(id: u32, identity: u64, weight: u32, size: u32) -> Self {
        let first = mix(identity ^ GOLDEN);
        let second = mix(first.wrapping_add(GOLDEN));
        Self {
            identity,
            id,
            weight,
            place: (first % u64::from(size)) as u32,
            skip: (second % u64::from(size - 1)) as u32 + 1,
            turns: 0,
        }
    }

    fn time(&self, turn: u32) -> u64 {
        (u64::from(turn) << FRACTION) / u64::from(self.weight.max(1))
    }
}
