//! Limits restored from damaged snapshots.
//!
//! Invariant: whatever is restored keeps its own promise from then on.

use crate::limits;
use arbitrary::Arbitrary;
use core::time::Duration;
use leasehold_core::limit::{Cost, Limit, LimitSet, Limiter, Unit, Wait};
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;

/// A used limit, edits of its snapshot, and its use after the restart.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// The limit.
    pub setup: limits::Setup,
    /// Pauses and costs before the snapshot.
    pub before: Vec<(u8, u8)>,
    /// Places in the snapshot and the characters put there.
    pub edits: Vec<(u16, Character)>,
    /// Pauses and costs after the restart.
    pub after: Vec<(u8, u8)>,
    /// Bytes read as a snapshot.
    pub raw: Vec<u8>,
}

/// A replacement for a character.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Character {
    /// A digit, modulo 10.
    #[proptest(weight = 6)]
    Digit(u8),
    /// Any byte.
    Byte(u8),
    /// The character is removed.
    None,
}

/// Restores a limit and a limit set from edited snapshots and raw bytes, and uses them if that succeeds.
///
/// # Panics
/// If a restored one breaks its promise.
pub fn run(case: &Case) {
    let mut machine = case.setup.machine();
    let mut limits = LimitSet::new().with_each_class(Unit::Tokens, machine.clone());
    let mut now = 0;
    for (pause, cost) in &case.before {
        now += u64::from(pause % 16);
        let (tick, cost) = (Tick::from_nanos(now), u32::from(cost % 8));
        // Both answers are fine; only the state matters.
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

/// Replaces characters of a snapshot.
pub(crate) fn edit(mut snapshot: Vec<u8>, edits: &[(u16, Character)]) -> Vec<u8> {
    for (place, character) in edits {
        // Digits replace digits, so that most edited snapshots can be read.
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

/// Uses a restored set, which must not panic, and whose refusals must name later ticks.
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
