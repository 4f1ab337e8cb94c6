//! Selection policies against an oracle that follows the statement of each policy.

mod hashing;
mod oracle;
pub mod turns;

use arbitrary::Arbitrary;
use core::num::NonZeroU16;
use core::time::Duration;
use leasehold_core::balance::{
    Availability, Balancer, HalfLife, LoadFactor, MemberLoad, PeakEwma, Policy, TableSize,
};
use leasehold_core::time::Tick;
use oracle::{Member, Oracle};
use proptest_derive::Arbitrary as Strategy;

const SLOTS: u32 = 40;

/// A policy, and operations on its balancer.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// The policy.
    pub kind: Kind,
    /// Seed of the random generator.
    pub seed: u8,
    /// Operations in order.
    pub ops: Vec<Op>,
}

/// A policy, with parameters small enough that a short run reaches its edges.
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
    /// [`Policy::Rendezvous`], with a load factor of 1 and a number of hundredths, or none at 255.
    Rendezvous(u8),
    /// [`Policy::Ring`], with up to 4 points, and a load factor.
    Ring(u8, u8),
    /// [`Policy::Maglev`], with one of 4 table sizes, and a load factor.
    Maglev(u8, u8),
}

/// An operation; members by number modulo 40, weights modulo 5.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Op {
    /// Adds a ready member under one of 64 names.
    #[proptest(weight = 4)]
    Insert(u8, u8, u8),
    /// Adds 17 members, all of one name or each of its own.
    Fill(u8, bool),
    /// Removes a member.
    #[proptest(weight = 2)]
    Remove(u8),
    /// Changes the weight of a member.
    #[proptest(weight = 2)]
    SetWeight(u8, u8),
    /// Updates the load and availability of a member.
    #[proptest(weight = 6)]
    Update {
        /// The member.
        id: u8,
        /// Its load; 255 is `u32::MAX`.
        load: u8,
        /// Its calls, work and latency.
        figure: u8,
        /// Ready if odd, out or busy otherwise.
        availability: u8,
    },
    /// Chooses a member and adds 1 to its load.
    #[proptest(weight = 12)]
    Take(Option<u8>),
    /// Chooses a member and updates it to busy.
    #[proptest(weight = 3)]
    Refuse(Option<u8>),
    /// Gives a call to a member by number.
    #[proptest(weight = 2)]
    Name(u8),
    /// Replaces the balancer by a copy.
    Copy,
}

impl Kind {
    fn policy(self) -> Policy {
        const IN_RANGE: &str = "the parameters are in range";
        let bound = |above: u8| match above {
            u8::MAX => LoadFactor::UNBOUNDED,
            _ => LoadFactor::from_permille(1_000 + 10 * u32::from(above)).expect(IN_RANGE),
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
                table: TableSize::new([3, 7, 31, 101][usize::from(table % 4)]).expect(IN_RANGE),
                bound: bound(above),
            },
        }
    }
}

fn half_life() -> HalfLife {
    HalfLife::new(Duration::from_secs(1)).expect("a second is in range")
}

/// A balancer and its oracle.
struct Pair {
    machine: Balancer,
    oracle: Oracle,
    sequence: u64,
}

impl Pair {
    fn insert(&mut self, id: u32, name: u8, weight: u32) {
        self.machine.insert(id, name.into(), weight);
        self.oracle.insert(id, name.into(), weight);
        self.update(id, 0, 0, Availability::Ready);
    }

    fn update(&mut self, id: u32, load: u32, figure: u8, availability: Availability) {
        self.sequence += 1;
        let latency = (figure > 0).then(|| 1_000 * u64::from(figure / 32 + 1));
        let mut known = PeakEwma::new(half_life(), Tick::ZERO);
        if let Some(latency) = latency {
            known.observe(Tick::ZERO, Duration::from_nanos(latency));
        }
        let load = MemberLoad {
            load,
            pass: (figure / 32).into(),
            last_used_seq: self.sequence,
            work: (figure / 32).into(),
            latency: known.key(),
        };
        self.machine.update(id, &load, availability);
        self.oracle.change(id, |member| {
            (member.load, member.latency) = (load, latency);
            member.availability = availability;
        });
    }

    /// Updates a member's load by a difference, and its availability.
    fn add_load(&mut self, id: u32, more: u32, availability: Availability) {
        let Some(member) = self.oracle.member(id).copied() else {
            return;
        };
        let load = MemberLoad {
            load: member.load.load.saturating_add(more),
            ..member.load
        };
        self.machine.update(id, &load, availability);
        self.oracle.change(id, |member| {
            (member.load, member.availability) = (load, availability);
        });
    }

    fn choose(&mut self, key: Option<u8>) -> Option<u32> {
        let key = key.map(u64::from);
        let (ours, theirs) = (self.machine.choose(key), self.oracle.choose(key));
        if ours == theirs {
            return ours;
        }
        // Fixed-point logarithms don't tell latencies apart that differ by less than this.
        let latency = |id: Option<u32>| {
            let member = self.oracle.ready().find(|member| Some(member.id) == id);
            member.map(Member::expected_latency)
        };
        match (latency(ours), latency(theirs)) {
            (Some(one), Some(other))
                if matches!(self.oracle.policy(), Policy::PeakEwma(_))
                    && (one / other - 1.0).abs() < 1e-4 => {}
            _ => panic!("the balancer chose {ours:?}, the oracle {theirs:?}"),
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
        oracle: Oracle::new(policy, case.seed.into()),
        sequence: 0,
    };
    // Bounded, because the oracle sorts all turns of a Maglev table for each choice.
    for op in case.ops.iter().take(200) {
        step(&mut pair, *op);
        pair.choose(None);
        assert_eq!(pair.machine.len() as usize, pair.oracle.len());
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
            pair.oracle.remove(slot(id));
        }
        Op::SetWeight(id, w) => {
            pair.machine.set_weight(slot(id), weight(w));
            pair.oracle
                .change(slot(id), |member| member.weight = weight(w));
        }
        Op::Update {
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
            let load = match load {
                u8::MAX => u32::MAX,
                _ => load.into(),
            };
            pair.update(slot(id), load, figure, availability);
        }
        Op::Take(key) => {
            if let Some(id) = pair.choose(key) {
                pair.chosen(id);
                pair.add_load(id, 1, Availability::Ready);
            }
        }
        Op::Refuse(key) => {
            if let Some(id) = pair.choose(key) {
                pair.add_load(id, 0, Availability::Busy);
            }
        }
        Op::Name(id) => pair.chosen(slot(id)),
        Op::Copy => pair.machine = pair.machine.clone(),
    }
}
