//! The event queue of a discrete-event simulation, in virtual time.
//!
//! Invariant: events leave in order of time, and events of one time in the order they were added.

use std::collections::BTreeMap;

/// Virtual time, in nanoseconds.
pub(crate) type Nanos = u64;

pub(crate) const MS: Nanos = 1_000_000;
pub(crate) const SEC: Nanos = 1_000 * MS;

/// Events to come.
#[derive(Debug)]
pub(crate) struct Schedule<E> {
    events: BTreeMap<(Nanos, u64), E>,
    added: u64,
}

impl<E> Schedule<E> {
    pub(crate) const fn new() -> Self {
        Self {
            events: BTreeMap::new(),
            added: 0,
        }
    }

    pub(crate) fn add(&mut self, at: Nanos, event: E) {
        self.added += 1;
        self.events.insert((at, self.added), event);
    }

    /// The time of the next event.
    pub(crate) fn next_at(&self) -> Option<Nanos> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    /// Removes the next event.
    pub(crate) fn pop(&mut self) -> Option<(Nanos, E)> {
        self.events.pop_first().map(|((at, _), event)| (at, event))
    }
}
