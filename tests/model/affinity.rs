//! An affinity table against a plain list ordered by last use.

use arbitrary::Arbitrary;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::affinity::{Affinity, Session};
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;

/// An affinity table and the operations on it.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// Capacity in sessions: one plus this modulo 6.
    pub capacity: u8,
    /// Time to live in ticks: one plus this modulo 32.
    pub ttl: u8,
    /// Operations in order.
    pub ops: Vec<Op>,
}

/// One operation. Keys are modulo 10, values modulo 4.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Op {
    /// Looks up a key, and refuses one value.
    #[proptest(weight = 6)]
    Lookup(u8, u8),
    /// Assigns a value to a key.
    #[proptest(weight = 6)]
    Assign(u8, u8),
    /// Removes a key.
    Remove(u8),
    /// Advances the clock by this many ticks, modulo 16.
    #[proptest(weight = 4)]
    Advance(u8),
    /// Turns the clock back by this many ticks.
    Back(u8),
    /// Advances the clock by this many ticks.
    Leap(u64),
    /// Serializes all sessions and restores them in a table of another capacity.
    Restart(u8),
    /// Rebases the machine to a clock this many ticks ahead of the oracle's.
    Rebase(u8),
}

/// A table under test beside its oracle, whose clock shows `offset` ticks less.
struct Run {
    ttl: u64,
    capacity: usize,
    machine: Affinity<u8>,
    /// Sessions, the least recently used first.
    oracle: Vec<Session<u8>>,
    now: u64,
    latest: u64,
    offset: u64,
}

fn table(capacity: usize, ttl: u64) -> Affinity<u8> {
    let capacity = NonZeroU32::new(capacity as u32).expect("above zero");
    Affinity::new(capacity, Duration::from_nanos(ttl)).expect("above zero")
}

/// Runs a case.
///
/// # Panics
/// If machine and oracle differ.
pub fn run(case: &Case) {
    let capacity = usize::from(case.capacity % 6) + 1;
    let ttl = u64::from(case.ttl % 32) + 1;
    let mut run = Run {
        ttl,
        capacity,
        machine: table(capacity, ttl),
        oracle: Vec::new(),
        now: 0,
        latest: 0,
        offset: 0,
    };
    for op in &case.ops {
        run.apply(*op);
        run.compare(*op);
    }
}

impl Run {
    fn apply(&mut self, op: Op) {
        if matches!(op, Op::Lookup(..) | Op::Assign(..) | Op::Restart(_)) {
            self.latest = self.latest.max(self.now);
            let (latest, ttl) = (self.latest, self.ttl);
            self.oracle
                .retain(|session| latest - session.last_used.as_nanos() < ttl);
        }
        match op {
            Op::Lookup(key, unwanted) => self.lookup(u64::from(key % 10), unwanted % 4),
            Op::Assign(key, value) => self.assign(u64::from(key % 10), value % 4),
            Op::Remove(key) => {
                let key = u64::from(key % 10);
                let value = self.take(key).map(|session| session.value);
                assert_eq!(self.machine.remove(key), value, "{op:?}");
            }
            Op::Advance(span) => self.now = self.now.saturating_add(u64::from(span % 16)),
            Op::Back(span) => self.now = self.now.saturating_sub(span.into()),
            Op::Leap(span) => self.now = self.now.saturating_add(span),
            Op::Restart(capacity) => self.restart(usize::from(capacity % 6) + 1),
            Op::Rebase(ahead) => {
                if self.offset == 0 && self.latest.max(self.now) < u64::MAX / 2 {
                    let to = Tick::from_nanos(self.now + u64::from(ahead));
                    self.machine.rebase(self.tick(), to);
                    self.offset = ahead.into();
                }
            }
        }
        self.now = self.now.min(u64::MAX - 255);
    }

    fn lookup(&mut self, key: u64, unwanted: u8) {
        let tick = self.tick();
        let found = self.machine.lookup(tick, key, |value| value != unwanted);
        let session = self.take(key).filter(|session| session.value != unwanted);
        assert_eq!(found, session.map(|session| session.value), "{key}");
        let last_used = Tick::from_nanos(self.latest);
        let used = session.map(|session| Session {
            last_used,
            ..session
        });
        self.oracle.extend(used);
    }

    fn assign(&mut self, key: u64, value: u8) {
        let evicted = self.machine.assign(self.tick(), key, value);
        self.take(key);
        let full = self.oracle.len() == self.capacity;
        let oldest = full.then(|| self.oracle.remove(0).key);
        assert_eq!(evicted.map(|session| session.key), oldest, "{key}");
        self.oracle.push(Session {
            key,
            value,
            last_used: Tick::from_nanos(self.latest),
        });
    }

    fn restart(&mut self, capacity: usize) {
        self.capacity = capacity;
        let saved: Vec<_> = self.machine.sessions().collect();
        let saved = serde_json::to_string(&saved).expect("sessions can be serialized");
        self.machine = table(capacity, self.ttl);
        let saved = serde_json::from_str(&saved).expect("sessions can be deserialized");
        let now = Tick::from_nanos(self.latest + self.offset);
        self.machine.restore(now, saved);
        let excess = self.oracle.len().saturating_sub(capacity);
        self.oracle.drain(..excess);
    }

    /// Removes a session from the oracle.
    fn take(&mut self, key: u64) -> Option<Session<u8>> {
        let at = self.oracle.iter().position(|session| session.key == key)?;
        Some(self.oracle.remove(at))
    }

    /// Returns the time on the machine's clock.
    fn tick(&self) -> Tick {
        Tick::from_nanos(self.now + self.offset)
    }

    fn compare(&self, op: Op) {
        let sessions: Vec<_> = self
            .machine
            .sessions()
            .map(|session| Session {
                last_used: Tick::from_nanos(session.last_used.as_nanos() - self.offset),
                ..session
            })
            .collect();
        assert_eq!(sessions, self.oracle, "after {op:?} at {}", self.now);
        assert_eq!(self.machine.len(), self.oracle.len());
        assert!(self.machine.len() <= self.capacity);
    }
}
