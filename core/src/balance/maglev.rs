//! Maglev hashing: a lookup table whose places members take in turn, each in its own permutation.
//!
//! Invariant: the table is empty, and refilled before the next lookup, or up to date.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "a table has less than 2^24 places, and steps stay below twice that"
)]

use super::member::Member;
use super::parameters::TableSize;
use crate::random::{GOLDEN, mix};
use alloc::collections::BinaryHeap;
use alloc::collections::binary_heap::PeekMut;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;

const FREE: u32 = u32::MAX;
/// Fraction bits of a turn's time, so that unequal times differ by at least 1.
const FRACTION: u32 = 40;

/// A Maglev table. Finding a key is O(1).
///
/// The first lookup after a change refills the table of `m` places in O(m log m): a few milliseconds for 65,537
/// places of 4 bytes. The k-th turn of a member of weight `w` comes at `k / w`; simultaneous turns go in
/// order of identity. Equal members differ by at most 1 place. If members outnumber places, some have none.
/// Removing one of n members moves its own keys and some others: at 65,537 places, 0.02/n of all keys for
/// n = 10, 0.5/n for 100 and 5/n for 655. Source: D. Eisenbud et al., "Maglev: A Fast and Reliable Software
/// Network Load Balancer", 2016.
#[derive(Clone, Debug)]
pub(super) struct Maglev {
    size: u32,
    /// Member ids by place; empty while out of date.
    places: Vec<u32>,
}

impl Maglev {
    pub(super) fn new(size: TableSize) -> Self {
        Self {
            size: size.places(),
            places: Vec::new(),
        }
    }

    /// Marks the table as out of date.
    pub(super) fn invalidate(&mut self) {
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
                let weight = member.as_ref().map(|member| member.weight);
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
            // Terminates: the size is prime, so that the steps reach every place, and one is free.
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

/// A member's permutation of the places, and its position in it.
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
