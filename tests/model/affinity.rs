//! An affinity table against a plain list in the order of last use.

use arbitrary::Arbitrary;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::affinity::{Affinity, Entry};
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;

/// A table and what is done with it.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// The most entries, modulo 6 and one more.
    pub capacity: u8,
    /// Ticks an entry lives, modulo 32 and one more.
    pub ttl: u8,
    /// What is done, in order.
    pub ops: Vec<Op>,
}

/// One operation. There are 10 keys and 4 values.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Op {
    /// Looks a key up, and doesn't want one of the values.
    #[proptest(weight = 6)]
    Lookup(u8, u8),
    /// Assigns a value to a key.
    #[proptest(weight = 6)]
    Assign(u8, u8),
    /// Forgets a key.
    Forget(u8),
    /// Lets at most 15 ticks pass.
    #[proptest(weight = 4)]
    Advance(u8),
    /// Turns the clock back.
    Back(u8),
    /// Lets much time pass.
    Leap(u64),
    /// Saves and restores in a table of another capacity.
    Restart(u8),
    /// Goes on by a clock that is so many ticks ahead of the oracle's.
    Rebase(u8),
}

/// Runs a case.
///
/// # Panics
/// Where machine and oracle differ.
pub fn run(case: &Case) {
    let mut capacity = usize::from(case.capacity % 6) + 1;
    let ttl = u64::from(case.ttl % 32) + 1;
    let table = |capacity: usize| {
        let capacity = NonZeroU32::new(capacity as u32).expect("it is above zero");
        Affinity::new(capacity, Duration::from_nanos(ttl)).expect("it is above zero")
    };
    let mut machine = table(capacity);
    let mut oracle: Vec<Entry<u8>> = Vec::new();
    let (mut now, mut latest, mut offset) = (0_u64, 0_u64, 0_u64);
    for op in &case.ops {
        if matches!(op, Op::Lookup(..) | Op::Assign(..) | Op::Restart(_)) {
            latest = latest.max(now);
            oracle.retain(|entry| latest - entry.used.as_nanos() < ttl);
        }
        let tick = Tick::from_nanos(now + offset);
        let used = Tick::from_nanos(latest);
        match *op {
            Op::Lookup(key, unwanted) => {
                let key = u64::from(key % 10);
                let found = machine.lookup(tick, key, |value| value != unwanted % 4);
                let at = oracle.iter().position(|entry| entry.key == key);
                let entry = at.map(|at| oracle.remove(at));
                let wanted = entry.filter(|entry| entry.value != unwanted % 4);
                assert_eq!(found, wanted.map(|entry| entry.value), "{op:?}");
                oracle.extend(wanted.map(|entry| Entry { used, ..entry }));
            }
            Op::Assign(key, value) => {
                let (key, value) = (u64::from(key % 10), value % 4);
                let evicted = machine.assign(tick, key, value).map(|entry| entry.key);
                oracle.retain(|entry| entry.key != key);
                let full = oracle.len() == capacity;
                let oldest = full.then(|| oracle.remove(0).key);
                assert_eq!(evicted, oldest, "{op:?}");
                oracle.push(Entry { key, value, used });
            }
            Op::Forget(key) => {
                let key = u64::from(key % 10);
                let at = oracle.iter().position(|entry| entry.key == key);
                let value = at.map(|at| oracle.remove(at).value);
                assert_eq!(machine.forget(key), value, "{op:?}");
            }
            Op::Advance(span) => now = now.saturating_add(u64::from(span % 16)),
            Op::Back(span) => now = now.saturating_sub(span.into()),
            Op::Leap(span) => now = now.saturating_add(span),
            Op::Restart(wanted) => {
                capacity = usize::from(wanted % 6) + 1;
                let saved: Vec<_> = machine.entries().collect();
                let saved = serde_json::to_string(&saved).expect("it can be saved");
                machine = table(capacity);
                let saved = serde_json::from_str(&saved).expect("it can be restored");
                machine.restore(Tick::from_nanos(latest + offset), saved);
                let excess = oracle.len().saturating_sub(capacity);
                oracle.drain(..excess);
            }
            Op::Rebase(ahead) => {
                if offset == 0 && latest.max(now) < u64::MAX / 2 {
                    machine.rebase(tick, Tick::from_nanos(now + u64::from(ahead)));
                    offset = ahead.into();
                }
            }
        }
        now = now.min(u64::MAX - 255);
        let entries: Vec<_> = machine
            .entries()
            .map(|entry| Entry {
                used: Tick::from_nanos(entry.used.as_nanos() - offset),
                ..entry
            })
            .collect();
        assert_eq!(entries, oracle, "after {op:?} at {now}");
        assert_eq!(machine.len(), oracle.len());
        assert!(machine.len() <= capacity);
    }
}
