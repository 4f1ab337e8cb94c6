//! A policy by its statement: a plain list of members that is searched for each choice.

use super::hashing::{GOLDEN, maglev, mix, rendezvous, ring};
use super::turns::Turns;
use leasehold_core::balance::{Availability, LoadFactor, MemberLoad, Policy};

/// A member as policies see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) id: u32,
    pub(super) identity: u64,
    pub(super) weight: u32,
    pub(super) availability: Availability,
    pub(super) load: MemberLoad,
    /// Observed latency in nanoseconds at the epoch, of which `load` has the key.
    pub(super) latency: Option<u64>,
    /// Round robin: latest round whose turn the member had, and the one in which it last became busy.
    served: u64,
    busy_since: u64,
}

impl Member {
    fn is_ready(&self) -> bool {
        self.availability == Availability::Ready && self.weight > 0
    }

    fn is_busy(&self) -> bool {
        self.availability == Availability::Busy && self.weight > 0
    }

    fn has_share(&self) -> bool {
        self.availability != Availability::Out && self.weight > 0
    }

    /// Compares loads by weight as fractions.
    fn is_less_loaded_than(&self, other: &Self) -> bool {
        let capped = |load: u32| u64::from(load.min((1 << 24) - 1));
        let one = capped(self.load.load) * u64::from(other.weight);
        let two = capped(other.load.load) * u64::from(self.weight);
        (one, self.load.last_used_seq) < (two, other.load.last_used_seq)
    }

    pub(super) fn expected_latency(&self) -> f64 {
        let load = f64::from(self.load.load);
        match self.latency {
            Some(latency) => latency as f64 * (load + 1.0) / f64::from(self.weight),
            None if self.load.load == 0 => 0.0,
            None => 1e30 * (1.0 + load / f64::from(self.weight)),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Oracle {
    policy: Policy,
    members: Vec<Member>,
    random: u64,
    /// Random draws: slots ever used, and the greatest weight that could ever be drawn.
    slots: u32,
    greatest: u32,
    round: u64,
    turns: Turns,
}

impl Oracle {
    pub(super) fn new(policy: Policy, seed: u64) -> Self {
        Self {
            policy,
            members: Vec::new(),
            random: seed,
            slots: 0,
            greatest: 0,
            round: 1,
            turns: Turns::default(),
        }
    }

    pub(super) fn policy(&self) -> Policy {
        self.policy
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn member(&mut self, id: u32) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.id == id)
    }

    pub(super) fn ready(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.is_ready())
    }

    fn with_share(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.has_share())
    }

    pub(super) fn insert(&mut self, id: u32, identity: u64, weight: u32) {
        self.members.retain(|member| member.id != id);
        self.turns.insert(id, weight);
        self.members.push(Member {
            id,
            identity,
            weight,
            availability: Availability::Out,
            load: MemberLoad::default(),
            latency: None,
            served: self.round,
            busy_since: 0,
        });
        self.members.sort_by_key(|member| member.id);
        self.slots = self.slots.max(id + 1);
    }

    pub(super) fn remove(&mut self, id: u32) {
        self.change(id, |member| member.weight = 0);
        self.members.retain(|member| member.id != id);
    }

    pub(super) fn change(&mut self, id: u32, change: impl FnOnce(&mut Member)) {
        let round = self.round;
        let is_due = |one: &&Member| one.served + 1 == round;
        let next_due = self.ready().filter(is_due).map(|one| one.id).min();
        let Some(member) = self.member(id) else {
            return;
        };
        let before = *member;
        change(member);
        let is_back = member.has_share() && !before.has_share();
        let is_free = member.is_ready() && !before.is_ready();
        if is_back || is_free && round - before.busy_since > 1 {
            let is_passed = next_due.is_none_or(|next| id < next);
            member.served = member.served.max(round - u64::from(!is_passed));
        }
        if member.is_busy() && !before.is_busy() {
            member.busy_since = round;
        }
        let after = *member;
        self.turns.update(id, after.weight, after.availability);
        if after.is_ready() {
            self.greatest = self.greatest.max(after.weight);
        }
    }

    pub(super) fn choose(&mut self, key: Option<u64>) -> Option<u32> {
        let least = |rank: fn(&Member) -> (u64, u64)| {
            let ranks = self.ready().map(|member| (rank(member), member.id));
            ranks.min().map(|(_, id)| id)
        };
        match self.policy {
            Policy::Fifo => least(|one| (u64::from(one.load.load > 0), one.load.last_used_seq)),
            Policy::LeastUsed => least(|one| (one.load.pass, one.load.last_used_seq)),
            Policy::LeastQueue => least(|one| (one.load.work, one.load.last_used_seq)),
            Policy::LeastConnections => self.least_loaded(),
            Policy::RoundRobin => {
                // Members owed two turns, then those owed one, then the others.
                let owed = |member: &Member| (self.round - member.served).min(2);
                let first = self.ready().min_by_key(|one| (2 - owed(one), one.id));
                first.map(|member| member.id)
            }
            Policy::WeightedRoundRobin => self.turns.choose(),
            Policy::Random => self.draw().map(|member| member.id),
            Policy::PowerOfTwoChoices => {
                let (one, other) = (self.draw()?, self.draw()?);
                let other_is_less = other.is_less_loaded_than(&one);
                Some(if other_is_less { other.id } else { one.id })
            }
            Policy::PeakEwma(_) => {
                let compare = |a: &&Member, b: &&Member| {
                    let by_latency = a.expected_latency().total_cmp(&b.expected_latency());
                    by_latency.then(a.load.last_used_seq.cmp(&b.load.last_used_seq))
                };
                self.ready().min_by(compare).map(|member| member.id)
            }
            Policy::Rendezvous(bound) => self.by_key(key, bound),
            Policy::Ring { bound, .. } | Policy::Maglev { bound, .. } => self.by_key(key, bound),
        }
    }

    fn least_loaded(&self) -> Option<u32> {
        let mut least: Option<&Member> = None;
        for member in self.ready() {
            if least.is_none_or(|other| member.is_less_loaded_than(other)) {
                least = Some(member);
            }
        }
        least.map(|member| member.id)
    }

    fn draw(&mut self) -> Option<Member> {
        let total: u64 = self.ready().map(|member| u64::from(member.weight)).sum();
        if total == 0 {
            return None;
        }
        let column = u64::from(self.greatest.next_power_of_two());
        let tickets = column * u64::from(self.slots);
        if tickets <= 4 * total {
            for _ in 0..8 {
                let ticket = self.below(tickets);
                let drawn = |member: &&Member| u64::from(member.id) == ticket / column;
                let drawn = self.ready().find(drawn);
                if let Some(member) = drawn.filter(|one| ticket % column < one.weight.into()) {
                    return Some(*member);
                }
            }
        }
        let mut target = self.below(total);
        for member in self.ready() {
            match target.checked_sub(member.weight.into()) {
                Some(rest) => target = rest,
                None => return Some(*member),
            }
        }
        None
    }

    fn below(&mut self, values: u64) -> u64 {
        loop {
            let product = u128::from(self.random()) * u128::from(values);
            // Without the lowest few of 2^64 numbers, equally many map to each value.
            if product as u64 >= ((1u128 << 64) % u128::from(values)) as u64 {
                return (product >> 64) as u64;
            }
        }
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(GOLDEN);
        mix(self.random)
    }

    fn by_key(&mut self, key: Option<u64>, bound: LoadFactor) -> Option<u32> {
        self.ready().next()?;
        let key = mix(match key {
            Some(key) => key,
            None => self.random(),
        });
        let load: u128 = self.with_share().map(|one| u128::from(one.load.load)).sum();
        let weight: u128 = self.with_share().map(|one| u128::from(one.weight)).sum();
        let order: Vec<u32> = (0..16).map_while(|nth| self.in_order(key, nth)).collect();
        for id in order {
            let member = *self.member(id)?;
            let share = (load + 1) * u128::from(member.weight) * u128::from(bound.permille());
            let ceiling = share.div_ceil(1_000 * weight);
            let has_room = u128::from(member.load.load) < ceiling || bound == LoadFactor::UNBOUNDED;
            if member.is_ready() && has_room {
                return Some(id);
            }
        }
        self.least_loaded()
    }

    /// Returns the member that a key comes to at its nth attempt.
    fn in_order(&self, key: u64, nth: u64) -> Option<u32> {
        let salted = match nth {
            0 => key,
            _ => mix(key.wrapping_add(nth.wrapping_mul(GOLDEN))),
        };
        let weighted = self.members.iter().filter(|member| member.weight > 0);
        let members: Vec<Member> = weighted.copied().collect();
        match self.policy {
            Policy::Rendezvous(_) => rendezvous(&members, salted),
            Policy::Ring { points, .. } => ring(&members, points.get(), key, nth),
            Policy::Maglev { table, .. } => maglev(&members, table.places().into(), salted),
            Policy::Fifo
            | Policy::RoundRobin
            | Policy::WeightedRoundRobin
            | Policy::Random
            | Policy::LeastConnections
            | Policy::LeastUsed
            | Policy::LeastQueue
            | Policy::PowerOfTwoChoices
            | Policy::PeakEwma(_) => None,
        }
    }

    pub(super) fn chosen(&mut self, id: u32) {
        if self.member(id).is_none() {
            return;
        }
        self.turns.chosen(id);
        let over = self.ready().next().is_some() && self.ready().all(|m| m.served >= self.round);
        self.round += u64::from(over);
        let round = self.round;
        if let Some(member) = self.member(id) {
            member.served = (member.served + 1).clamp(round - 1, round);
        }
    }
}
