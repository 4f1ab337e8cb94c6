//! Limits restored from what is not, or not quite, a snapshot.

use crate::limits;
use arbitrary::Arbitrary;
use core::time::Duration;
use leasehold_core::limit::{Cost, Limit, LimitSet, Limiter, Unit, Wait};
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;

/// A limit that has been used, what is done to its snapshot, and how it is used then.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// The limit.
    pub setup: limits::Setup,
    /// At which ticks after each other how much is asked for before.
    pub before: Vec<(u8, u8)>,
    /// Which characters of the snapshot are replaced by which.
    pub edits: Vec<(u16, Character)>,
    /// At which ticks after each other how much is asked for afterwards.
    pub after: Vec<(u8, u8)>,
    /// What is taken for a snapshot as it is.
    pub raw: Vec<u8>,
}

/// What numbers and names are made of.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Character {
    /// A digit, modulo 10.
    #[proptest(weight = 6)]
    Digit(u8),
    /// Any byte.
    Byte(u8),
    /// None: it is left out.
    None,
}

/// Restores a limit, and a limit set of it, from edited snapshots and from raw bytes. What can be
/// restored keeps its own promises from then on.
///
/// # Panics
/// Where it doesn't.
pub fn run(case: &Case) {
    let mut machine = case.setup.machine();
    let mut limits = LimitSet::new().with_each_class(Unit::Tokens, machine.clone());
    let mut now = 0;
    for (pause, cost) in &case.before {
        now += u64::from(pause % 16);
        let (tick, cost) = (Tick::from_nanos(now), u32::from(cost % 8));
        // Whether it fits makes no difference here.
        let _ = machine.try_acquire(tick, cost);
        let _ = limits.try_acquire(tick, 0, tokens(cost));
    }
    let limit = serde_json::to_vec(&machine).expect("a limit can be saved");
    let set = serde_json::to_vec(&limits).expect("a limit set can be saved");
    for snapshot in [
        edit(limit, &case.edits),
        edit(set, &case.edits),
        case.raw.clone(),
    ] {
        if let Ok(machine) = serde_json::from_slice(&snapshot) {
            use_limit(machine, now, &case.after);
        }
        if let Ok(limits) = serde_json::from_slice(&snapshot) {
            use_limit_set(limits, now, &case.after);
        }
    }
}

/// Replaces characters of a text.
pub(crate) fn edit(mut snapshot: Vec<u8>, edits: &[(u16, Character)]) -> Vec<u8> {
    for (place, character) in edits {
        // Digits take the places of digits, so that most of what comes of it can be read.
        let digits = matches!(character, Character::Digit(_));
        let places = (0..snapshot.len()).filter(|at| !digits || snapshot[*at].is_ascii_digit());
        let places: Vec<_> = places.collect();
        let Some(place) = usize::from(*place).checked_rem(places.len()) else {
            break;
        };
        let place = places[place];
        match character {
            Character::Digit(digit) => snapshot[place] = b'0' + digit % 10,
            Character::Byte(byte) => snapshot[place] = *byte,
            Character::None => drop(snapshot.remove(place)),
        }
    }
    snapshot
}

fn tokens(tokens: u32) -> Cost {
    Cost {
        requests: 1,
        tokens,
    }
}

fn use_limit(mut machine: Limiter, mut now: u64, asks: &[(u8, u8)]) {
    let mut admitted = Vec::new();
    for (pause, cost) in asks {
        now = now.saturating_add(u64::from(*pause));
        let cost = u32::from(cost % 8);
        let tick = Tick::from_nanos(now);
        if let Ok(booked) = machine.try_acquire(tick, cost) {
            machine.settle(tick, booked, cost, cost);
            admitted.push((booked.as_nanos(), u64::from(cost)));
        }
        let _ = (machine.available(tick), machine.next_change(tick));
    }
    for (index, (first, _)) in admitted.iter().enumerate() {
        let mut units = 0u64;
        for (last, cost) in &admitted[index..] {
            units += cost;
            let span = Duration::from_nanos((last - first).saturating_add(1));
            assert!(
                units <= machine.worst_case(span),
                "{units} in {span:?} by {machine:?}"
            );
        }
    }
}

/// Uses a restored set, which neither panics nor refuses without a later tick at which it admits.
fn use_limit_set(mut limits: LimitSet, mut now: u64, asks: &[(u8, u8)]) {
    for (pause, cost) in asks {
        now = now.saturating_add(u64::from(*pause));
        let (tick, cost) = (Tick::from_nanos(now), tokens(u32::from(*cost)));
        match limits.try_acquire(tick, 0, cost) {
            Ok(booked) => limits.settle(tick, booked, cost, cost),
            Err(Wait::Until(at)) => assert!(at > tick, "{at:?} at {tick:?}"),
            Err(Wait::ForSettlement | Wait::Never) => {}
        }
    }
}
