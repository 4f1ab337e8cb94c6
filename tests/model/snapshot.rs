//! Limits restored from what is not, or not quite, a snapshot.

use crate::limits;
use arbitrary::Arbitrary;
use core::time::Duration;
use leasehold_core::limit::{Limit, Limiter};
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

/// Restores a limit from an edited snapshot. If it can be, it keeps its own promise from then on.
///
/// # Panics
/// Where it doesn't.
pub fn run(case: &Case) {
    let mut machine = case.setup.machine();
    let mut now = 0;
    for (pause, cost) in &case.before {
        now += u64::from(pause % 16);
        // Whether it fits makes no difference here.
        let _ = machine.try_acquire(Tick::from_nanos(now), u32::from(cost % 8));
    }
    let mut saved = serde_json::to_vec(&machine).expect("a limit can be saved");
    for (place, character) in &case.edits {
        // Digits take the places of digits, so that most of what comes of it can be read.
        let digits = matches!(character, Character::Digit(_));
        let places = (0..saved.len()).filter(|at| !digits || saved[*at].is_ascii_digit());
        let places: Vec<_> = places.collect();
        let Some(place) = usize::from(*place).checked_rem(places.len()) else {
            break;
        };
        let place = places[place];
        match character {
            Character::Digit(digit) => saved[place] = b'0' + digit % 10,
            Character::Byte(byte) => saved[place] = *byte,
            Character::None => drop(saved.remove(place)),
        }
    }
    let Ok(mut machine) = serde_json::from_slice::<Limiter>(&saved) else {
        return;
    };
    let mut admitted = Vec::new();
    for (pause, cost) in &case.after {
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
