//! Hierarchical rendezvous hashing (HRW): a tree of members, so that a choice is O(log n).
//!
//! Invariant: the choice follows from the set of members alone. A group of members is divided by the next four
//! bits of their hashed identities for as long as these differ. How many members a leaf keeps undivided until
//! it is looked at is a matter of speed.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "at most 2^32 members of weight 2^20, and a depth of 16"
)]

use super::fixed_log2::{FINE, fine_log2};
use crate::random::{GOLDEN, mix};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hint::select_unpredictable;

/// Parts of a group at most.
const WIDTH: usize = 16;
/// Levels at most: four bits of a hashed identity each.
const DEPTH: u32 = 16;

/// Weighted hierarchical rendezvous hashing: in each group, a key chooses among up to 16 parts by their
/// weights, and goes on in that part.
///
/// O(log16 n) to choose, add, remove and weigh; 24 bytes a member and about 100 bytes for every 16. Plain HRW
/// moves 1/n of the keys with one of n equal members, but costs O(n) a choice. Here the weights of all groups
/// around the member change too, and each such level moves up to as many keys again: less than
/// `(1 + log16 n) / n` of all on average. Sources: D. Thaler, C. Ravishankar, "Using Name-Based Mappings to
/// Increase Hit Rates", 1998; W. Wang, C. Ravishankar, "Hash-Based Virtual Hierarchies for Scalable Location
/// Service", 2009; weights by J. Resch, "New Hashing Algorithms for Data Storage", 2015.
#[derive(Clone, Debug)]
pub(super) struct RendezvousTree {
    root: Node,
}

#[derive(Clone, Debug)]
enum Node {
    /// Members in order of hashed identity and then of id.
    Leaf(Vec<Entry>),
    Inner(Box<Inner>),
}

#[derive(Clone, Debug)]
struct Inner {
    len: u32,
    weights: [u64; WIDTH],
    children: [Node; WIDTH],
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Hashed identity.
    spot: u64,
    id: u32,
    weight: u32,
}

impl RendezvousTree {
    pub(super) fn new() -> Self {
        Self {
            root: Node::Leaf(Vec::new()),
        }
    }

    pub(super) fn set_weight(&mut self, identity: u64, id: u32, before: u32, after: u32) {
        let entry = Entry {
            spot: mix(identity ^ GOLDEN),
            id,
            weight: after,
        };
        self.root.set(entry, before, 0);
    }

    pub(super) fn choose(&self, key: u64) -> Option<u32> {
        let mut node = &self.root;
        let mut group = Group {
            key,
            path: 1,
            depth: 0,
        };
        loop {
            match node {
                Node::Leaf(entries) => return group.choose_entry(entries),
                Node::Inner(inner) => {
                    let mut draws = [0; WIDTH];
                    let salt = group.salt();
                    let parts = draws.iter_mut().zip(inner.weights);
                    for (nibble, (drawn, weight)) in (0u64..).zip(parts) {
                        *drawn = select_unpredictable(weight > 0, draw(salt, nibble), 0);
                    }
                    let nibble = race(&mut draws, |nibble| inner.weights[nibble]);
                    group.go_on(nibble as u64);
                    node = inner.children.get(nibble)?;
                }
            }
        }
    }
}

/// The group of members that a key has come to.
struct Group {
    key: u64,
    /// A one and the bits of the parts chosen so far.
    path: u64,
    depth: u32,
}

impl Group {
    fn go_on(&mut self, nibble: u64) {
        self.path = self.path << 4 | nibble;
        self.depth += 1;
    }

    fn salt(&self) -> u64 {
        mix(self.key ^ mix(self.path))
    }

    fn choose_entry(&mut self, mut entries: &[Entry]) -> Option<u32> {
        while let [first, .., last] = entries
            && first.spot != last.spot
        {
            let (mut draws, mut weights) = ([0; WIDTH], [0; WIDTH]);
            let (mut nibbles, mut ends) = ([0u8; WIDTH], [0u8; WIDTH]);
            let (mut parts, mut nibble, mut weight) = (0, WIDTH, 0);
            for (end, entry) in (1u8..).zip(entries) {
                // Without a branch, which could not be predicted.
                let next = entry.nibble(self.depth);
                let is_new = next != nibble;
                parts += usize::from(is_new);
                nibble = next;
                weight = u64::from(entry.weight) + select_unpredictable(is_new, 0, weight);
                nibbles[parts - 1] = nibble as u8;
                weights[parts - 1] = weight;
                ends[parts - 1] = end;
            }
            let salt = self.salt();
            for (drawn, nibble) in draws.iter_mut().zip(nibbles).take(parts) {
                *drawn = draw(salt, nibble.into());
            }
            let part = race(&mut draws[..parts], |part| weights[part]);
            let start = part.checked_sub(1).map_or(0, |before| ends[before]);
            entries = &entries[start.into()..ends[part].into()];
            self.go_on(nibbles[part].into());
        }
        match entries {
            [only] => Some(only.id),
            twins => self.choose_twin(twins),
        }
    }

    /// Chooses among members of equal identity.
    #[cold]
    fn choose_twin(&self, twins: &[Entry]) -> Option<u32> {
        let mut best: Option<(Finish, u32)> = None;
        for (nth, entry) in (0u64..).zip(twins) {
            let spot = entry.spot.wrapping_add(nth.wrapping_mul(GOLDEN));
            let finish = Finish {
                time: time(mix(self.key ^ spot)),
                weight: entry.weight.into(),
            };
            if best.is_none_or(|(best, _)| finish.is_before(best)) {
                best = Some((finish, entry.id));
            }
        }
        best.map(|(_, id)| id)
    }
}

/// Returns the draw of a part of a group: a hash of the key, the group and the part.
fn draw(salt: u64, nibble: u64) -> u64 {
    mix(salt.wrapping_add((nibble + 1).wrapping_mul(GOLDEN)))
}

/// Returns the size above which a leaf is divided; parts are merged again at half of it. The top levels
/// divide sooner, because every key passes them; below, small leaves would cost cache misses.
fn max_leaf(depth: u32) -> usize {
    if depth < 2 { 16 } else { 32 }
}

/// Finishing time `time / weight` of a part in a race.
#[derive(Clone, Copy)]
struct Finish {
    time: u64,
    weight: u64,
}

impl Finish {
    #[inline(always)]
    fn is_before(self, other: Self) -> bool {
        let (time, weight) = (u128::from(self.time), u128::from(self.weight));
        time * u128::from(other.weight) < u128::from(other.time) * weight
    }
}

/// Returns the place of the least `-log2(draw / 2^64) / weight`; of several, that of the highest draw and then
/// the first.
///
/// The highest draw wins outright if no weight is greater than its own. Otherwise a linear lower bound of the
/// logarithm rules out most of the others.
#[inline(always)]
fn race(draws: &mut [u64], weight: impl Fn(usize) -> u64) -> usize {
    let (mut highest, mut winner, mut heaviest) = (0, 0, 0);
    for (place, draw) in draws.iter().enumerate() {
        let is_higher = *draw > highest;
        highest = select_unpredictable(is_higher, *draw, highest);
        winner = select_unpredictable(is_higher, place, winner);
        heaviest = weight(place).max(heaviest);
    }
    if weight(winner) == heaviest {
        return winner;
    }
    let mut least = Finish {
        time: time(highest),
        weight: weight(winner),
    };
    draws[winner] = 0;
    for (place, draw) in draws.iter().enumerate() {
        let weight = weight(place);
        // -log2(x) is at least (1 - x) / ln 2, and that is more than 1.4375 (1 - x).
        let distance = !draw >> (64 - FINE);
        let bound = Finish {
            time: distance + (distance >> 2) + (distance >> 3) + (distance >> 4),
            weight,
        };
        if bound.is_before(least) {
            let finish = Finish {
                time: time(*draw),
                weight,
            };
            if finish.is_before(least) {
                (winner, least) = (place, finish);
            }
        }
    }
    winner
}

fn time(draw: u64) -> u64 {
    (64 << FINE) - fine_log2(draw)
}

impl Entry {
    fn nibble(&self, depth: u32) -> usize {
        (self.spot >> (60 - 4 * depth)) as usize % WIDTH
    }

    fn order(&self) -> (u64, u32) {
        (self.spot, self.id)
    }
}

impl Node {
    /// Replaces the weight `before` of an entry by its own; an entry of weight 0 is removed.
    fn set(&mut self, entry: Entry, before: u32, depth: u32) {
        match self {
            Self::Leaf(entries) => {
                let place = entries.binary_search_by_key(&entry.order(), Entry::order);
                match place {
                    Ok(at) if entry.weight == 0 => drop(entries.remove(at)),
                    Ok(at) => entries[at] = entry,
                    Err(at) if entry.weight > 0 => entries.insert(at, entry),
                    Err(_) => {}
                }
                if entries.len() > max_leaf(depth) && depth < DEPTH {
                    let mut inner = Inner::new();
                    for entry in entries.drain(..) {
                        inner.set(entry, 0, depth);
                    }
                    *self = Self::Inner(Box::new(inner));
                }
            }
            Self::Inner(inner) => {
                inner.set(entry, before, depth);
                if inner.len as usize <= max_leaf(depth) / 2 {
                    let mut entries = Vec::with_capacity(max_leaf(depth));
                    for child in &mut inner.children {
                        // Half a leaf's size in total, so that every child is a leaf.
                        if let Self::Leaf(some) = child {
                            entries.append(some);
                        }
                    }
                    *self = Self::Leaf(entries);
                }
            }
        }
    }
}

impl Inner {
    fn new() -> Self {
        Self {
            len: 0,
            weights: [0; WIDTH],
            children: [const { Node::Leaf(Vec::new()) }; WIDTH],
        }
    }

    fn set(&mut self, entry: Entry, before: u32, depth: u32) {
        let nibble = entry.nibble(depth);
        self.len = self.len + u32::from(entry.weight > 0) - u32::from(before > 0);
        self.weights[nibble] = self.weights[nibble] + u64::from(entry.weight) - u64::from(before);
        self.children[nibble].set(entry, before, depth + 1);
    }
}
