//! A balancer in use: what both benchmarks of selection measure.

use leasehold_core::balance::{Availability, Balancer, MemberLoad, Policy, pass, stable_hash};

/// Members that are all ready, of weights from 1 up in turn, and what a pool would tell of them.
pub(crate) struct Picks {
    balancer: Balancer,
    standings: Vec<MemberLoad>,
    weights: Vec<u32>,
    stamp: u64,
    random: u64,
}

impl Picks {
    /// So many members of weights from 1 to `heaviest`.
    pub(crate) fn new(policy: Policy, members: u32, heaviest: u32) -> Self {
        let mut picks = Self {
            balancer: Balancer::new(policy, 1),
            standings: vec![MemberLoad::default(); members as usize],
            weights: (0..members).map(|id| 1 + id % heaviest).collect(),
            stamp: 0,
            random: 1,
        };
        for id in 0..members {
            picks.insert(id);
        }
        // The table of Maglev is made by the first choice.
        picks.pick();
        picks
    }

    /// Lets a member in.
    pub(crate) fn insert(&mut self, id: u32) {
        let name = stable_hash(&id.to_le_bytes());
        self.balancer.insert(id, name, self.weights[id as usize]);
        self.place(id);
    }

    /// Takes a member out.
    pub(crate) fn remove(&mut self, id: u32) {
        self.balancer.remove(id);
    }

    /// One choice, given out and told back: `choose`, `chosen`, `place`.
    pub(crate) fn pick(&mut self) -> Option<u32> {
        let key = self.random();
        let id = self.balancer.choose(Some(key))?;
        self.balancer.chosen(id);
        self.place(id);
        Some(id)
    }

    fn place(&mut self, id: u32) {
        self.stamp += 1;
        let drawn = self.random();
        let member_load = &mut self.standings[id as usize];
        member_load.stamp = self.stamp;
        member_load.pass += pass(self.weights[id as usize]);
        member_load.work = drawn % 1_000;
        member_load.latency = Some((20 << 18) + drawn % (3 << 18));
        self.balancer.place(id, member_load, Availability::Ready);
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}
