//! A balancer under load, shared by the benchmarks of selection.

use leasehold_core::balance::{Availability, Balancer, MemberLoad, Policy, pass, stable_hash};

/// A balancer whose members are all ready, and the loads that a pool would report to it.
pub(crate) struct Picks {
    balancer: Balancer,
    loads: Vec<MemberLoad>,
    weights: Vec<u32>,
    sequence: u64,
    random: u64,
}

impl Picks {
    /// Creates members of weights from 1 to `heaviest` in turn.
    pub(crate) fn new(policy: Policy, members: u32, heaviest: u32) -> Self {
        let mut picks = Self {
            balancer: Balancer::new(policy, 1),
            loads: vec![MemberLoad::default(); members as usize],
            weights: (0..members).map(|id| 1 + id % heaviest).collect(),
            sequence: 0,
            random: 1,
        };
        for id in 0..members {
            picks.insert(id);
        }
        // The first choice fills the table of Maglev.
        picks.pick();
        picks
    }

    /// Adds a member.
    pub(crate) fn insert(&mut self, id: u32) {
        let name = stable_hash(&id.to_le_bytes());
        self.balancer.insert(id, name, self.weights[id as usize]);
        self.update(id);
    }

    /// Removes a member.
    pub(crate) fn remove(&mut self, id: u32) {
        self.balancer.remove(id);
    }

    /// Chooses a member and records it: `choose`, `chosen`, `update`.
    pub(crate) fn pick(&mut self) -> Option<u32> {
        let key = self.random();
        let id = self.balancer.choose(Some(key))?;
        self.balancer.chosen(id);
        self.update(id);
        Some(id)
    }

    fn update(&mut self, id: u32) {
        self.sequence += 1;
        let drawn = self.random();
        let load = &mut self.loads[id as usize];
        load.last_used_seq = self.sequence;
        load.pass += pass(self.weights[id as usize]);
        load.work = drawn % 1_000;
        load.latency = Some((20 << 18) + drawn % (3 << 18));
        self.balancer.update(id, load, Availability::Ready);
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}
