//! The calls of a run over time, in slots.
//!
//! Invariant: there are at most 240 slots, so that each is a visible column and memory does not grow.

use core::time::Duration;

/// Slots at most.
const SLOTS: usize = 240;
/// The first width of a slot.
const FIRST_WIDTH: Duration = Duration::from_millis(100);

/// The calls that ended in a slot of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimeSlot {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    pub(crate) throttled: u64,
    /// The most calls in flight.
    pub(crate) in_flight: u64,
}

/// Slots of one width, from the start of the run on; it doubles where there would be too many.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    pub(crate) width: Duration,
    pub(crate) slots: Vec<TimeSlot>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            width: FIRST_WIDTH,
            slots: Vec::new(),
        }
    }
}

impl Timeline {
    /// The slot of a time since the start.
    pub(crate) fn slot(&mut self, at: Duration) -> &mut TimeSlot {
        let index = |width: Duration| {
            let index = at.as_nanos().checked_div(width.as_nanos()).unwrap_or(0);
            usize::try_from(index).unwrap_or(usize::MAX)
        };
        while index(self.width) >= SLOTS {
            self.double();
        }
        let index = index(self.width);
        if self.slots.len() <= index {
            self.slots
                .resize(index.saturating_add(1), TimeSlot::default());
        }
        &mut self.slots[index]
    }

    /// Joins each two slots.
    fn double(&mut self) {
        let pairs = self.slots.chunks(2);
        let join = |pair: &[TimeSlot]| {
            let sum = |of: fn(&TimeSlot) -> u64| pair.iter().map(of).fold(0, u64::saturating_add);
            TimeSlot {
                ok: sum(|slot| slot.ok),
                failed: sum(|slot| slot.failed),
                throttled: sum(|slot| slot.throttled),
                in_flight: pair.iter().map(|slot| slot.in_flight).max().unwrap_or(0),
            }
        };
        self.slots = pairs.map(join).collect();
        self.width = self.width.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_timeline_keeps_every_count_in_few_slots(times in prop::collection::vec(0_u64..10_000_000, 1..200)) {
            let mut timeline = Timeline::default();
            for at in &times {
                let slot = timeline.slot(Duration::from_millis(*at));
                slot.ok += 1;
            }
            prop_assert!(timeline.slots.len() <= SLOTS);
            for (index, slot) in timeline.slots.iter().enumerate() {
                let width = timeline.width.as_millis() as u64;
                let begin = index as u64 * width;
                let within = times.iter().filter(|at| (begin..begin + width).contains(*at));
                prop_assert_eq!(slot.ok, within.count() as u64);
            }
        }
    }
}
