//! Which member served a client last.
//!
//! Invariant: `index` and `order` name each other's entries, one for one; `order` is by last use, so that
//! its first has been unused the longest; and none has been unused for a time to live as of `latest`.

use crate::time::{ClockOffset, Tick, saturating_nanos};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

/// How long a client is remembered where nothing else is said.
pub const DEFAULT_TTL: Duration = Duration::from_secs(3_600);

/// A table from keys to values that forgets what has not been used for a time, and if it is full, what
/// has not been used for the longest.
///
/// Commands cost O(log n), and O(log n) more for each entry that expired since the last one. Memory is
/// that of two B-trees: 48 bytes an entry with a value of 8, and the slack of their nodes, each of which is
/// nearly half full at least.
///
/// An entry whose value has no meaning any more, as when its member went, is dropped when
/// [`lookup`](Self::lookup) meets it, or with time. Nothing has to be done at a deadline, so there is no
/// `poll_timeout`: what has expired is gone for every command.
///
/// ```
/// use core::num::NonZeroU32;
/// use leasehold_core::affinity::{Affinity, DEFAULT_TTL};
/// use leasehold_core::time::Tick;
///
/// let at = |secs: u64| Tick::from_nanos(secs * 1_000_000_000);
/// let mut table = Affinity::new(NonZeroU32::new(2).unwrap(), DEFAULT_TTL)?;
/// table.assign(at(0), 1, 'a');
/// table.assign(at(0), 2, 'b');
/// assert_eq!(table.lookup(at(3_599), 1, |_| true), Some('a'));
/// assert_eq!(table.lookup(at(3_600), 2, |_| true), None);
/// assert_eq!(table.lookup(at(3_601), 1, |member| member != 'a'), None);
/// assert!(table.is_empty());
/// # Ok::<(), leasehold_core::affinity::AffinityConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Affinity<V> {
    capacity: NonZeroU32,
    ttl: NonZeroU64,
    latest: Tick,
    /// Counts uses.
    turn: u64,
    index: BTreeMap<u64, Held<V>>,
    /// Keys by the turn of their last use.
    order: BTreeMap<u64, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Held<V> {
    value: V,
    used: Tick,
    turn: u64,
}

/// A time to live of no length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an affinity needs a time to live above zero")]
pub struct AffinityConfigError;

/// What a table holds under one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Entry<V> {
    /// The key.
    pub key: u64,
    /// The value.
    pub value: V,
    /// When it was last looked up or assigned.
    pub used: Tick,
}

impl<V: Copy + Eq> Affinity<V> {
    /// A table of at most `capacity` entries, which live for `ttl` after their last use.
    ///
    /// # Errors
    /// Where `ttl` is zero.
    pub fn new(capacity: NonZeroU32, ttl: Duration) -> Result<Self, AffinityConfigError> {
        Ok(Self {
            capacity,
            ttl: NonZeroU64::new(saturating_nanos(ttl)).ok_or(AffinityConfigError)?,
            latest: Tick::ZERO,
            turn: 0,
            index: BTreeMap::new(),
            order: BTreeMap::new(),
        })
    }

    /// What is held under a key, without using it.
    #[must_use]
    pub fn holder(&self, now: Tick, key: u64) -> Option<V> {
        let held = self.index.get(&key)?;
        let age = saturating_nanos(self.latest.max(now).since(held.used));
        (age < self.ttl.get()).then_some(held.value)
    }

    /// Uses what is held under a key. If `keep` doesn't want the value, it is dropped.
    pub fn lookup(&mut self, now: Tick, key: u64, keep: impl FnOnce(V) -> bool) -> Option<V> {
        self.advance(now);
        let value = self.index.get(&key)?.value;
        if keep(value) {
            self.hold(key, value);
            Some(value)
        } else {
            self.forget(key);
            None
        }
    }

    /// Holds a value under a key, in place of any other; answers the entry that had to make room.
    pub fn assign(&mut self, now: Tick, key: u64, value: V) -> Option<Entry<V>> {
        self.advance(now);
        let full = self.index.len() >= self.capacity.get() as usize;
        let evicted = if full && !self.index.contains_key(&key) {
            self.pop_oldest()
        } else {
            None
        };
        self.hold(key, value);
        evicted
    }

    /// Drops what is held under a key, and answers it. It may have expired since the last command.
    pub fn forget(&mut self, key: u64) -> Option<V> {
        let held = self.index.remove(&key)?;
        self.order.remove(&held.turn);
        Some(held.value)
    }

    /// How many entries there were after the last command.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there were none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The entries there were after the last command, the one used longest ago first.
    pub fn entries(&self) -> impl Iterator<Item = Entry<V>> {
        self.order.values().filter_map(|key| {
            let held = self.index.get(key)?;
            Some(Entry {
                key: *key,
                value: held.value,
                used: held.used,
            })
        })
    }

    /// Takes back entries that were saved, as if each had been assigned at the tick of its last use;
    /// what has expired or is too much is left out. Ticks that have yet to come are taken as now. O(n log n).
    pub fn restore(&mut self, now: Tick, mut entries: Vec<Entry<V>>) {
        entries.sort_by_key(|entry| entry.used);
        for entry in entries {
            self.assign(entry.used.min(now), entry.key, entry.value);
        }
        self.advance(now);
    }

    /// Moves what is remembered to another clock, which shows `to` when this one shows `from`. O(n).
    pub fn rebase(&mut self, from: Tick, to: Tick) {
        let shift = ClockOffset { from, to };
        self.latest = shift.tick(self.latest);
        for held in self.index.values_mut() {
            held.used = shift.tick(held.used);
        }
    }

    fn advance(&mut self, now: Tick) {
        self.latest = self.latest.max(now);
        while let Some((_, key)) = self.order.first_key_value()
            && let Some(held) = self.index.get(key)
            && saturating_nanos(self.latest.since(held.used)) >= self.ttl.get()
        {
            self.pop_oldest();
        }
    }

    fn pop_oldest(&mut self) -> Option<Entry<V>> {
        let (_, key) = self.order.pop_first()?;
        let held = self.index.remove(&key)?;
        Some(Entry {
            key,
            value: held.value,
            used: held.used,
        })
    }

    fn hold(&mut self, key: u64, value: V) {
        self.turn = self.turn.wrapping_add(1);
        let held = Held {
            value,
            used: self.latest,
            turn: self.turn,
        };
        if let Some(before) = self.index.insert(key, held) {
            self.order.remove(&before.turn);
        }
        self.order.insert(self.turn, key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    fn table(capacity: u32, ttl: u64) -> Affinity<char> {
        let capacity = NonZeroU32::new(capacity).unwrap();
        Affinity::new(capacity, Duration::from_nanos(ttl)).unwrap()
    }

    #[test]
    fn an_entry_lives_for_its_time_after_its_last_use_exactly() {
        for (now, held) in [(19, Some('a')), (20, None)] {
            let mut table = table(9, 10);
            table.assign(tick(0), 1, 'a');
            assert_eq!(table.lookup(tick(9), 1, |_| true), Some('a'));
            assert_eq!(table.lookup(tick(10), 1, |_| true), Some('a'));
            assert_eq!(table.lookup(tick(5), 1, |_| true), Some('a'));
            assert_eq!(table.lookup(tick(now), 1, |_| true), held);
        }
    }

    #[test]
    fn a_full_table_forgets_what_was_unused_the_longest() {
        let mut table = table(2, 10);
        assert_eq!(table.assign(tick(0), 1, 'a'), None);
        assert_eq!(table.assign(tick(0), 2, 'b'), None);
        assert_eq!(table.assign(tick(0), 1, 'c'), None);
        let evicted = table.assign(tick(0), 3, 'd').map(|entry| entry.value);
        assert_eq!(evicted, Some('b'));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn restored_entries_stand_as_they_stood() {
        let mut before = table(3, 10);
        for (at, key) in [(1, 7), (2, 8), (3, 9)] {
            before.assign(tick(at), key, 'x');
        }
        before.lookup(tick(4), 7, |_| true);
        let saved: Vec<_> = before.entries().collect();
        let backwards = saved.iter().rev().copied().collect();
        for told in [saved.clone(), backwards] {
            let mut after = table(2, 10);
            after.restore(tick(13), told);
            let kept: Vec<_> = after.entries().collect();
            assert_eq!(kept, saved[2..]);
            assert_eq!(kept[0].key, 7);
        }
    }

    #[test]
    fn a_table_without_time_is_refused() {
        assert!(Affinity::<u8>::new(NonZeroU32::MIN, Duration::ZERO).is_err());
    }
}
