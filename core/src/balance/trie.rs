//! Rendezvous hashing over a tree of the members, so that a choice needn't look at all.
//!
//! Invariant: the shape follows from the set of members alone: up to 16 are a leaf, more are divided by
//! the next four bits of their hashed identities, until no bits are left.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "at most 2^32 members of weight 2^20, and a depth of 16"
)]

use super::hashed::GOLDEN;
use super::log::{FINE, fine_log2};
use super::mix;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Children of a node, and members of a leaf.
const WIDTH: usize = 16;
/// Nodes above a leaf: four bits of 64 each.
const DEPTH: u32 = 16;

/// Weighted rendezvous hashing. At each node a key chooses among up to 16 children by the weight of
/// all that is below them, and in the leaf among members.
///
/// O(log n) to choose, add, remove and weigh; 24 bytes a member and some 200 for every 16. Up to 16
/// members it is plain rendezvous hashing: removing one of n moves its own keys, 1/n of all, and no
/// others. Of more, it moves up to one more such share for each level: less than `(1 + log16 n) / n`.
/// Sources: D. Thaler, C. Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998; W. Wang,
/// C. Ravishankar, "Hash-Based Virtual Hierarchies for Scalable Location Service", 2009; the weights
/// are those of J. Resch, "New Hashing Algorithms for Data Storage", 2015.
#[derive(Clone, Debug)]
pub(super) struct Trie {
    root: Node,
}

#[derive(Clone, Debug)]
enum Node {
    /// In order of place and then of id.
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
    /// The hashed identity.
    spot: u64,
    id: u32,
    weight: u32,
}

impl Trie {
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
        // A one and the bits on the way here.
        let mut path = 1u64;
        loop {
            match node {
                Node::Leaf(entries) => return choose_entry(entries, key),
                Node::Inner(inner) => {
                    let salt = mix(key ^ mix(path));
                    let mut race = Race::new();
                    for (nibble, weight) in (1u64..).zip(inner.weights) {
                        if weight > 0 {
                            let draw = mix(salt.wrapping_add(nibble.wrapping_mul(GOLDEN)));
                            race.enter(draw, weight, nibble - 1);
                        }
                    }
                    let nibble = race.winner()?;
                    path = path << 4 | nibble;
                    node = inner.children.get(nibble as usize)?;
                }
            }
        }
    }
}

fn choose_entry(entries: &[Entry], key: u64) -> Option<u32> {
    let mut race = Race::new();
    let mut twins = 0u64;
    let mut last = None;
    for entry in entries {
        // Members of the same identity need something to tell them apart.
        twins = if last == Some(entry.spot) {
            twins + 1
        } else {
            0
        };
        last = Some(entry.spot);
        let spot = entry.spot.wrapping_add(twins.wrapping_mul(GOLDEN));
        race.enter(mix(key ^ spot), entry.weight.into(), entry.id.into());
    }
    race.winner().and_then(|id| u32::try_from(id).ok())
}

/// Finds the least `-log2(draw / 2^64) / weight`, the first of several.
struct Race {
    /// Minus the logarithm, the weight, and whose they are.
    best: Option<(u64, u64, u64)>,
}

impl Race {
    fn new() -> Self {
        Self { best: None }
    }

    fn enter(&mut self, draw: u64, weight: u64, who: u64) {
        if let Some((least, its_weight, _)) = self.best {
            let is_less = |time: u64| {
                u128::from(time) * u128::from(its_weight) < u128::from(least) * u128::from(weight)
            };
            // -log2(x) is at least (1 - x) / ln 2, and that is more than 1.4375 (1 - x).
            let distance = !draw >> (64 - FINE);
            if !is_less(distance + (distance >> 2) + (distance >> 3) + (distance >> 4))
                || !is_less(time(draw))
            {
                return;
            }
        }
        self.best = Some((time(draw), weight, who));
    }

    fn winner(self) -> Option<u64> {
        self.best.map(|(_, _, who)| who)
    }
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
    /// Gives `entry` its weight, which was `before`; 0 is not there.
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
                if entries.len() > WIDTH && depth < DEPTH {
                    let mut inner = Inner::new();
                    for entry in entries.drain(..) {
                        inner.set(entry, 0, depth);
                    }
                    *self = Self::Inner(Box::new(inner));
                }
            }
            Self::Inner(inner) => {
                inner.set(entry, before, depth);
                if inner.len as usize <= WIDTH {
                    let mut entries = Vec::with_capacity(WIDTH);
                    for child in &mut inner.children {
                        // A child has no more than all, and is a leaf.
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
