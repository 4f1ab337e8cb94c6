//! Selection policies against a plain list of members that is looked through for each choice, by the
//! statement of each policy.

use arbitrary::Arbitrary;
use core::num::NonZeroU16;
use core::time::Duration;
use leasehold_core::balance::{
    Availability, Balancer, HalfLife, LoadFactor, MemberLoad, PeakEwma, Policy, TableSize,
};
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;

const SLOTS: u32 = 40;
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A policy and what is done with it.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// Which policy.
    pub kind: Kind,
    /// The seed of what is drawn.
    pub seed: u8,
    /// What is done, in order.
    pub ops: Vec<Op>,
}

/// Which policy, with numbers small enough that a short run reaches its edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Arbitrary, Strategy)]
pub enum Kind {
    /// [`Policy::Fifo`].
    Fifo,
    /// [`Policy::RoundRobin`].
    RoundRobin,
    /// [`Policy::WeightedRoundRobin`].
    WeightedRoundRobin,
    /// [`Policy::Random`].
    Random,
    /// [`Policy::LeastConnections`].
    LeastConnections,
    /// [`Policy::LeastUsed`].
    LeastUsed,
    /// [`Policy::LeastQueue`].
    LeastQueue,
    /// [`Policy::PowerOfTwoChoices`].
    PowerOfTwoChoices,
    /// [`Policy::PeakEwma`].
    PeakEwma,
    /// [`Policy::Rendezvous`], with a factor of so many hundredths above 1.
    Rendezvous(u8),
    /// [`Policy::Ring`], with up to 4 points, and the same.
    Ring(u8, u8),
    /// [`Policy::Maglev`], with one of a few tables, and the same.
    Maglev(u8, u8),
}

/// One operation; members by number modulo 40, weights modulo 5.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Op {
    /// Lets a member in, ready, under one of 64 names.
    #[proptest(weight = 4)]
    Insert(u8, u8, u8),
    /// Lets 17 members in, all of one name or each of another.
    Fill(u8, bool),
    /// Takes a member out.
    #[proptest(weight = 2)]
    Remove(u8),
    /// Gives a member another weight.
    #[proptest(weight = 2)]
    SetWeight(u8, u8),
    /// Tells how a member stands.
    #[proptest(weight = 6)]
    Place {
        /// Which one.
        id: u8,
        /// Its load; 255 is 4 billion.
        load: u8,
        /// Its calls, its work, or what its latest call took.
        figure: u8,
        /// Whether it could be chosen: if odd; else it is out or busy.
        availability: u8,
    },
    /// Gives the next out, with a load of one more.
    #[proptest(weight = 12)]
    Take(Option<u8>),
    /// Asks for the next, and says that it doesn't fit.
    #[proptest(weight = 3)]
    Refuse(Option<u8>),
    /// Gives a member out that somebody named.
    #[proptest(weight = 2)]
    Name(u8),
    /// Goes on with a copy.
    Copy,
}

impl Kind {
    fn policy(self) -> Policy {
        const GOOD: &str = "the numbers are in range";
        let bound = |above: u8| match above {
            u8::MAX => LoadFactor::UNBOUNDED,
            _ => LoadFactor::from_permille(1_000 + 10 * u32::from(above)).expect(GOOD),
        };
        match self {
            Self::Fifo => Policy::Fifo,
            Self::RoundRobin => Policy::RoundRobin,
            Self::WeightedRoundRobin => Policy::WeightedRoundRobin,
            Self::Random => Policy::Random,
            Self::LeastConnections => Policy::LeastConnections,
            Self::LeastUsed => Policy::LeastUsed,
            Self::LeastQueue => Policy::LeastQueue,
            Self::PowerOfTwoChoices => Policy::PowerOfTwoChoices,
            Self::PeakEwma => Policy::PeakEwma(half_life()),
            Self::Rendezvous(above) => Policy::Rendezvous(bound(above)),
            Self::Ring(points, above) => Policy::Ring {
                points: NonZeroU16::MIN.saturating_add((points % 4).into()),
                bound: bound(above),
            },
            Self::Maglev(table, above) => Policy::Maglev {
                table: TableSize::new([3, 7, 31, 101][usize::from(table % 4)]).expect(GOOD),
                bound: bound(above),
            },
        }
    }
}

fn half_life() -> HalfLife {
    HalfLife::new(Duration::from_secs(1)).expect("a second is in range")
}

/// What is known of one member.
#[derive(Clone, Copy, Debug)]
struct Member {
    id: u32,
    identity: u64,
    weight: u32,
    availability: Availability,
    member_load: MemberLoad,
    /// What its latency was observed to be, in nanoseconds at the epoch; as the member_load's key says.
    latency: Option<u64>,
    /// Round robin: the latest round whose turn it had.
    served: u64,
    /// Weighted round robin: when its turns began to count, how many it had since, and at what weight.
    origin: u128,
    turns: u128,
    pace: u32,
}

/// A policy by its statement.
#[derive(Clone, Debug)]
struct Oracle {
    policy: Policy,
    members: Vec<Member>,
    random: u64,
    /// Draws: the numbers that members ever had, and the greatest weight that one could be drawn with.
    slots: u32,
    greatest: u32,
    round: u64,
    /// Virtual time: when it began to count, how many turns since, each of which part.
    origin: u128,
    turns: u128,
    rate: u128,
}

impl Member {
    fn could_be_chosen(&self) -> bool {
        self.availability == Availability::Ready && self.weight > 0
    }

    fn has_share(&self) -> bool {
        self.availability != Availability::Out && self.weight > 0
    }

    fn start(&self) -> u128 {
        self.origin + (self.turns << 64) / u128::from(self.pace.max(1))
    }

    /// Among those of its weight: by when its turn begins, as a fraction.
    fn place(&self) -> (u128, u128, u32) {
        let rest = (self.turns << 64) % u128::from(self.pace.max(1));
        (self.start(), rest, self.id)
    }

    fn deadline(&self) -> u128 {
        self.origin + ((self.turns + 1) << 64) / u128::from(self.pace.max(1))
    }

    /// Load by weight, to be compared as fractions.
    fn is_less_loaded_than(&self, other: &Self) -> bool {
        let capped = |load: u32| u64::from(load.min((1 << 24) - 1));
        let one = capped(self.member_load.load) * u64::from(other.weight);
        let two = capped(other.member_load.load) * u64::from(self.weight);
        (one, self.member_load.stamp) < (two, other.member_load.stamp)
    }

    fn expected_latency(&self) -> f64 {
        let load = f64::from(self.member_load.load);
        match self.latency {
            Some(latency) => latency as f64 * (load + 1.0) / f64::from(self.weight),
            None if self.member_load.load == 0 => 0.0,
            None => 1e30 * (1.0 + load / f64::from(self.weight)),
        }
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Who has the least `-log2(draw / 2^64) / weight`; the logarithm goes straight between 256 steps.
fn race<T: Copy>(entries: impl Iterator<Item = (u64, u64, T)>) -> Option<T> {
    let mut best: Option<(f64, T)> = None;
    for (draw, weight, who) in entries {
        let zeros = draw.max(1).leading_zeros();
        let mantissa = (draw.max(1) << zeros) as f64 / 2f64.powi(63);
        let step = ((mantissa - 1.0) * 256.0).floor().min(255.0);
        let (from, to) = (1.0 + step / 256.0, 1.0 + (step + 1.0) / 256.0);
        let between = (mantissa - from) * 256.0;
        let log = from.log2() + (to.log2() - from.log2()) * between;
        let time = (f64::from(zeros) + 1.0 - log) / weight as f64;
        if best.is_none_or(|(least, _)| time < least) {
            best = Some((time, who));
        }
    }
    best.map(|(_, who)| who)
}

/// Rendezvous hashing among `members`, all of whose hashed names agree in what `path` says.
fn rendezvous(members: &[Member], path: u64, depth: u32, key: u64) -> Option<u32> {
    let spot = |member: &Member| mix(member.identity ^ GOLDEN);
    let first = members.first()?;
    if members.iter().all(|one| one.identity == first.identity) {
        return race((0u64..).zip(members).map(|(nth, member)| {
            let draw = mix(key ^ spot(member).wrapping_add(nth.wrapping_mul(GOLDEN)));
            (draw, member.weight.into(), member.id)
        }));
    }
    let below = |nibble: u64| -> Vec<Member> {
        let of = |member: &&Member| spot(member) >> (60 - 4 * depth) & 15 == nibble;
        members.iter().filter(of).copied().collect()
    };
    let salt = mix(key ^ mix(path));
    let groups = (0..16).map(|nibble| {
        let weight = below(nibble).iter().map(|one| u64::from(one.weight)).sum();
        let draw = mix(salt.wrapping_add((nibble + 1).wrapping_mul(GOLDEN)));
        (draw, weight, nibble)
    });
    let nibble = race(groups.filter(|(_, weight, _)| *weight > 0))?;
    rendezvous(&below(nibble), path << 4 | nibble, depth + 1, key)
}

impl Oracle {
    fn member(&mut self, id: u32) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.id == id)
    }

    fn ready(&self) -> impl Iterator<Item = &Member> {
        self.members
            .iter()
            .filter(|member| member.could_be_chosen())
    }

    fn weight_of_ready(&self) -> u128 {
        self.ready().map(|member| u128::from(member.weight)).sum()
    }

    fn sharers(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.has_share())
    }

    fn now(&self) -> u128 {
        self.origin + (self.turns << 64) / self.rate
    }

    fn insert(&mut self, id: u32, identity: u64, weight: u32) {
        self.members.retain(|member| member.id != id);
        self.members.push(Member {
            id,
            identity,
            weight,
            availability: Availability::Out,
            member_load: MemberLoad::default(),
            latency: None,
            served: self.round,
            origin: self.now(),
            turns: 0,
            pace: weight,
        });
        self.members.sort_by_key(|member| member.id);
        self.slots = self.slots.max(id + 1);
    }

    /// Changes a member; in weighted round robin, it keeps the part of a turn that it is before or behind,
    /// and one that comes back is owed no more than one turn.
    fn change(&mut self, id: u32, change: impl FnOnce(&mut Member)) {
        let now = self.now();
        let Some(member) = self.member(id) else {
            return;
        };
        let before = *member;
        change(member);
        if member.weight > 0 && member.weight != member.pace {
            let (old, new) = (u128::from(member.pace), u128::from(member.weight));
            let start = member.start();
            member.origin = if start >= now {
                now + (start - now) * old / new
            } else {
                now.saturating_sub((now - start) * old / new)
            };
            (member.turns, member.pace) = (0, member.weight);
        }
        if member.could_be_chosen() && !before.could_be_chosen() {
            let earliest = now.saturating_sub((1 << 64) / u128::from(member.weight));
            if member.start() < earliest {
                (member.origin, member.turns) = (earliest, 0);
            }
        }
        if member.could_be_chosen() {
            let weight = member.weight;
            self.greatest = self.greatest.max(weight);
        }
    }

    fn draw(&mut self) -> Option<Member> {
        let total = self.weight_of_ready() as u64;
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
            // Of 2^64 numbers, as many fall into each share but for the lowest few.
            if product as u64 >= ((1u128 << 64) % u128::from(values)) as u64 {
                return (product >> 64) as u64;
            }
        }
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(GOLDEN);
        mix(self.random)
    }

    fn choose(&mut self, key: Option<u64>) -> Option<u32> {
        let least = |rank: fn(&Member) -> (u64, u64)| {
            let ranks = self.ready().map(|member| (rank(member), member.id));
            ranks.min().map(|(_, id)| id)
        };
        match self.policy {
            Policy::Fifo => {
                least(|one| (u64::from(one.member_load.load > 0), one.member_load.stamp))
            }
            Policy::LeastUsed => least(|one| (one.member_load.pass, one.member_load.stamp)),
            Policy::LeastQueue => least(|one| (one.member_load.work, one.member_load.stamp)),
            Policy::LeastConnections => self.least_loaded(),
            Policy::RoundRobin => {
                // Who is owed two turns, then who is owed one, then who isn't.
                let next = |member: &&Member| (self.round - member.served).min(2);
                let first = self.ready().min_by_key(|one| (2 - next(one), one.id));
                first.map(|member| member.id)
            }
            Policy::WeightedRoundRobin => {
                let now = self.now();
                // Of those of one weight, whose turn begins first.
                let is_first = |one: &&Member| {
                    let mut peers = self.ready().filter(|other| other.pace == one.pace);
                    peers.all(|other| one.place() <= other.place())
                };
                let firsts = || self.ready().filter(is_first);
                let begun = firsts().filter(|member| member.start() <= now);
                let first = begun.min_by_key(|member| (member.deadline(), member.id));
                let next = || firsts().min_by_key(|member| (member.start(), member.id));
                first.or_else(next).map(|member| member.id)
            }
            Policy::Random => self.draw().map(|member| member.id),
            Policy::PowerOfTwoChoices => {
                let (one, other) = (self.draw()?, self.draw()?);
                let other_is_less = other.is_less_loaded_than(&one);
                Some(if other_is_less { other.id } else { one.id })
            }
            Policy::PeakEwma(_) => {
                let compare = |a: &&Member, b: &&Member| {
                    let by_latency = a.expected_latency().total_cmp(&b.expected_latency());
                    by_latency.then(a.member_load.stamp.cmp(&b.member_load.stamp))
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

    fn by_key(&mut self, key: Option<u64>, bound: LoadFactor) -> Option<u32> {
        self.ready().next()?;
        let key = mix(match key {
            Some(key) => key,
            None => self.random(),
        });
        let load: u128 = self
            .sharers()
            .map(|one| u128::from(one.member_load.load))
            .sum();
        let weight: u128 = self.sharers().map(|one| u128::from(one.weight)).sum();
        let order: Vec<u32> = (0..16).map_while(|nth| self.in_order(key, nth)).collect();
        for id in order {
            let member = *self.member(id)?;
            let share = (load + 1) * u128::from(member.weight) * u128::from(bound.permille());
            let ceiling = share.div_ceil(1_000 * weight);
            let has_room =
                u128::from(member.member_load.load) < ceiling || bound == LoadFactor::UNBOUNDED;
            if member.could_be_chosen() && has_room {
                return Some(id);
            }
        }
        self.least_loaded()
    }

    /// The member that a key comes to at its n-th attempt.
    fn in_order(&self, key: u64, nth: u64) -> Option<u32> {
        let salted = match nth {
            0 => key,
            _ => mix(key.wrapping_add(nth.wrapping_mul(GOLDEN))),
        };
        let weighted = self.members.iter().filter(|member| member.weight > 0);
        match self.policy {
            Policy::Rendezvous(_) => {
                let members: Vec<Member> = weighted.copied().collect();
                rendezvous(&members, 1, 0, salted)
            }
            Policy::Ring { points, .. } => {
                let mut ring = Vec::new();
                for member in weighted {
                    let mut state = mix(member.identity ^ GOLDEN);
                    for _ in 0..member.weight * u32::from(points.get()) {
                        let point = mix(state) >> 32;
                        state = state.wrapping_add(GOLDEN);
                        let tie = mix(point << 32 | u64::from(member.id));
                        ring.push((point, member.identity, tie, member.id));
                    }
                }
                ring.sort_unstable();
                let first = ring.iter().position(|(point, ..)| *point >= key >> 32);
                let at = (first.unwrap_or(0) + nth as usize).checked_rem(ring.len())?;
                ring.get(at).map(|(_, _, _, id)| *id)
            }
            Policy::Maglev { table, .. } => {
                let members: Vec<&Member> = weighted.collect();
                let places = maglev(&members, u64::from(table.places()));
                let at = (u128::from(salted) * places.len() as u128) >> 64;
                places.get(at as usize).copied()
            }
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

    fn chosen(&mut self, id: u32) {
        let is_next = !matches!(self.policy, Policy::Random | Policy::PowerOfTwoChoices)
            && !self.policy.uses_key()
            && self.choose(None) == Some(id);
        let over = self.ready().next().is_some() && self.ready().all(|m| m.served >= self.round);
        let now = self.now();
        let shared: u128 = self.sharers().map(|one| u128::from(one.weight)).sum();
        let Some(member) = self.member(id) else {
            return;
        };
        let weight = u128::from(member.pace);
        let start = member.start();
        if weight > 0 && start > now && !is_next {
            member.origin = start.max(now + (1 << 64) / weight);
            member.turns = 0;
        } else if weight > 0 {
            member.turns += 1;
            let rate = shared.max(weight);
            if start > now || rate != self.rate {
                (self.origin, self.turns, self.rate) = (start.max(now), 0, rate);
            }
            self.turns += 1;
        }
        self.round += u64::from(over);
        let round = self.round;
        if let Some(member) = self.member(id) {
            member.served = (member.served + 1).clamp(round - 1, round);
        }
    }
}

/// The table as its paper has it, where the k-th turn of a member comes at `k / weight`.
fn maglev(members: &[&Member], size: u64) -> Vec<u32> {
    let mut members = members.to_vec();
    members.sort_by_key(|member| (member.identity, member.id));
    let mut turns: Vec<(u64, usize)> = (0..members.len())
        .flat_map(|at| (1..=size).map(move |turn| (turn, at)))
        .collect();
    turns.sort_by(|(one, a), (other, b)| {
        let (left, right) = (
            one * u64::from(members[*b].weight),
            other * u64::from(members[*a].weight),
        );
        left.cmp(&right).then(a.cmp(b))
    });
    let mut places = vec![None; size as usize];
    for (_, at) in turns.into_iter().take(size as usize) {
        let first = mix(members[at].identity ^ GOLDEN);
        let skip = mix(first.wrapping_add(GOLDEN)) % (size - 1) + 1;
        let wanted = (0..size).map(|nth| ((first % size + nth * skip) % size) as usize);
        let free = wanted.into_iter().find(|place| places[*place].is_none());
        places[free.expect("a prime's steps reach every place")] = Some(members[at].id);
    }
    places.into_iter().flatten().collect()
}

struct Pair {
    machine: Balancer,
    oracle: Oracle,
    stamp: u64,
}

impl Pair {
    fn insert(&mut self, id: u32, name: u8, weight: u32) {
        self.machine.insert(id, name.into(), weight);
        self.oracle.insert(id, name.into(), weight);
        self.place(id, 0, 0, Availability::Ready);
    }

    fn place(&mut self, id: u32, load: u32, figure: u8, availability: Availability) {
        self.stamp += 1;
        let latency = (figure > 0).then(|| 1_000 * u64::from(figure / 32 + 1));
        let mut known = PeakEwma::new(half_life(), Tick::ZERO);
        if let Some(latency) = latency {
            known.observe(Tick::ZERO, Duration::from_nanos(latency));
        }
        let member_load = MemberLoad {
            load,
            pass: (figure / 32).into(),
            stamp: self.stamp,
            work: (figure / 32).into(),
            latency: known.key(),
        };
        self.machine.place(id, &member_load, availability);
        self.oracle.change(id, |member| {
            (member.member_load, member.latency) = (member_load, latency);
            member.availability = availability;
        });
    }

    /// Places a member anew as it stands, but for a difference in load and availability.
    fn place_again(&mut self, id: u32, more: u32, availability: Availability) {
        let Some(member) = self.oracle.member(id).copied() else {
            return;
        };
        let member_load = MemberLoad {
            load: member.member_load.load.saturating_add(more),
            ..member.member_load
        };
        self.machine.place(id, &member_load, availability);
        self.oracle.change(id, |member| {
            (member.member_load, member.availability) = (member_load, availability);
        });
    }

    fn choose(&mut self, key: Option<u8>) -> Option<u32> {
        let key = key.map(u64::from);
        let (ours, theirs) = (self.machine.choose(key), self.oracle.choose(key));
        if ours == theirs {
            return ours;
        }
        // Logarithms in whole numbers can't tell latencies apart that differ by less than this.
        let latency = |id: Option<u32>| {
            let member = self.oracle.ready().find(|member| Some(member.id) == id);
            member.map(Member::expected_latency)
        };
        match (latency(ours), latency(theirs)) {
            (Some(one), Some(other))
                if matches!(self.oracle.policy, Policy::PeakEwma(_))
                    && (one / other - 1.0).abs() < 1e-4 => {}
            _ => panic!("{ours:?} was chosen where {theirs:?} is next"),
        }
        ours
    }

    fn chosen(&mut self, id: u32) {
        self.machine.chosen(id);
        self.oracle.chosen(id);
    }
}

/// Holds a policy to its oracle: the same choice and the same counts after each operation.
///
/// # Panics
/// Where they differ.
pub fn run(case: &Case) {
    let policy = case.kind.policy();
    let mut pair = Pair {
        machine: Balancer::new(policy, case.seed.into()),
        oracle: Oracle {
            policy,
            members: Vec::new(),
            random: case.seed.into(),
            slots: 0,
            greatest: 0,
            round: 1,
            origin: 1 << 84,
            turns: 0,
            rate: 1,
        },
        stamp: 0,
    };
    // Looking through all turns of a Maglev table for each choice takes its time.
    for op in case.ops.iter().take(200) {
        step(&mut pair, *op);
        pair.choose(None);
        assert_eq!(pair.machine.len() as usize, pair.oracle.members.len());
        assert_eq!(pair.machine.ready() as usize, pair.oracle.ready().count());
    }
}

fn step(pair: &mut Pair, op: Op) {
    let slot = |id: u8| u32::from(id) % SLOTS;
    let weight = |weight: u8| u32::from(weight % 5);
    match op {
        Op::Insert(id, name, w) => pair.insert(slot(id), name % 64, weight(w)),
        Op::Fill(from, alike) => {
            for nth in 0..17 {
                let name = if alike { from } else { nth };
                pair.insert(slot(from.wrapping_add(nth)), name, 1 + weight(nth));
            }
        }
        Op::Remove(id) => {
            pair.machine.remove(slot(id));
            let slot = slot(id);
            pair.oracle.members.retain(|member| member.id != slot);
        }
        Op::SetWeight(id, w) => {
            pair.machine.set_weight(slot(id), weight(w));
            pair.oracle
                .change(slot(id), |member| member.weight = weight(w));
        }
        Op::Place {
            id,
            load,
            figure,
            availability,
        } => {
            let availability = match availability % 4 {
                0 => Availability::Out,
                2 => Availability::Busy,
                _ => Availability::Ready,
            };
            let load = if load == u8::MAX {
                u32::MAX
            } else {
                load.into()
            };
            pair.place(slot(id), load, figure, availability);
        }
        Op::Take(key) => {
            if let Some(id) = pair.choose(key) {
                pair.chosen(id);
                pair.place_again(id, 1, Availability::Ready);
            }
        }
        Op::Refuse(key) => {
            if let Some(id) = pair.choose(key) {
                pair.place_again(id, 0, Availability::Busy);
            }
        }
        Op::Name(id) => pair.chosen(slot(id)),
        Op::Copy => pair.machine = pair.machine.clone(),
    }
}
