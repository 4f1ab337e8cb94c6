//! Session affinity: which member served a session last.
//!
//! Invariant: `slots` and `order` correspond one to one; `order` is by last use; and no session has been
//! unused for its time to live as of `latest`.

use crate::time::{ClockOffset, Tick, saturating_nanos};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

/// Default time to live of a session: one hour.
pub const DEFAULT_TTL: Duration = Duration::from_secs(3_600);

/// Bounded table of sessions with a time to live and eviction of the least recently used.
///
/// Commands cost O(log n), and O(log n) more for each session that has expired since the last one. Memory
/// is that of two B-trees: 48 bytes a session with a value of 8, plus the slack of nodes at least nearly
/// half full.
///
/// A session whose value has become invalid, as when its member was removed, is dropped by
/// [`lookup`](Self::lookup) or when it expires. There is no `poll_timeout`: only
/// [`remove`](Self::remove) can still find an expired session.
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
    /// Number of uses so far.
    uses: u64,
    /// Sessions by key.
    slots: BTreeMap<u64, Slot<V>>,
    /// Keys by sequence number of last use.
    order: BTreeMap<u64, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Slot<V> {
    value: V,
    last_used: Tick,
    /// Sequence number of the last use.
    last_use: u64,
}

/// Error of a time to live of zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time to live of a session must be above zero")]
pub struct AffinityConfigError;

/// One session of an [`Affinity`] table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Session<V> {
    /// Key of the session.
    pub key: u64,
    /// Value assigned to it, such as a member.
    pub value: V,
    /// Tick of the last lookup or assignment.
    pub last_used: Tick,
}

impl<V: Copy + Eq> Affinity<V> {
    /// Creates a table of at most `capacity` sessions, each living for `ttl` after its last use.
    ///
    /// # Errors
    /// Where `ttl` is zero.
    pub fn new(capacity: NonZeroU32, ttl: Duration) -> Result<Self, AffinityConfigError> {
        Ok(Self {
            capacity,
            ttl: NonZeroU64::new(saturating_nanos(ttl)).ok_or(AffinityConfigError)?,
            latest: Tick::ZERO,
            uses: 0,
            slots: BTreeMap::new(),
            order: BTreeMap::new(),
        })
    }

    /// Returns the value of a session without counting as a use.
    #[must_use]
    pub fn peek(&self, now: Tick, key: u64) -> Option<V> {
        let slot = self.slots.get(&key)?;
        let age = saturating_nanos(self.latest.max(now).since(slot.last_used));
        (age < self.ttl.get()).then_some(slot.value)
    }

    /// Returns the value of a session and counts as a use; drops the session if `keep` refuses the value.
    pub fn lookup(&mut self, now: Tick, key: u64, keep: impl FnOnce(V) -> bool) -> Option<V> {
        self.advance(now);
        let value = self.slots.get(&key)?.value;
        if keep(value) {
            self.set(key, value);
            Some(value)
        } else {
            self.remove(key);
            None
        }
    }

    /// Assigns a value to a session, replacing any other; returns the session evicted to make room.
    pub fn assign(&mut self, now: Tick, key: u64, value: V) -> Option<Session<V>> {
        self.advance(now);
        let full = self.slots.len() >= self.capacity.get() as usize;
        let evicted = if full && !self.slots.contains_key(&key) {
            self.pop_oldest()
        } else {
            None
        };
        self.set(key, value);
        evicted
    }

    /// Removes a session and returns its value, even if it has expired since the last command.
    pub fn remove(&mut self, key: u64) -> Option<V> {
        let slot = self.slots.remove(&key)?;
        self.order.remove(&slot.last_use);
        Some(slot.value)
    }

    /// Returns the number of sessions as of the last command.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns whether there was no session as of the last command.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Returns the sessions as of the last command, the least recently used first.
    pub fn sessions(&self) -> impl Iterator<Item = Session<V>> {
        self.order.values().filter_map(|key| {
            let slot = self.slots.get(key)?;
            Some(slot.session(*key))
        })
    }

    /// Restores saved sessions, as if each had been assigned at the tick of its last use. O(n log n).
    ///
    /// Ticks after `now` count as `now`. Expired sessions are left out, and the least recently used ones
    /// above the capacity.
    pub fn restore(&mut self, now: Tick, mut sessions: Vec<Session<V>>) {
        sessions.sort_by_key(|session| session.last_used);
        for session in sessions {
            self.assign(session.last_used.min(now), session.key, session.value);
        }
        self.advance(now);
    }

    /// Moves all ticks to another clock, which shows `to` when this one shows `from`. O(n).
    pub fn rebase(&mut self, from: Tick, to: Tick) {
        let offset = ClockOffset { from, to };
        self.latest = offset.tick(self.latest);
        for slot in self.slots.values_mut() {
            slot.last_used = offset.tick(slot.last_used);
        }
    }

    fn advance(&mut self, now: Tick) {
        self.latest = self.latest.max(now);
        while let Some((_, key)) = self.order.first_key_value()
            && let Some(slot) = self.slots.get(key)
            && saturating_nanos(self.latest.since(slot.last_used)) >= self.ttl.get()
        {
            self.pop_oldest();
        }
    }

    fn pop_oldest(&mut self) -> Option<Session<V>> {
        let (_, key) = self.order.pop_first()?;
        let slot = self.slots.remove(&key)?;
        Some(slot.session(key))
    }

    fn set(&mut self, key: u64, value: V) {
        self.uses = self.uses.wrapping_add(1);
        let slot = Slot {
            value,
            last_used: self.latest,
            last_use: self.uses,
        };
        if let Some(before) = self.slots.insert(key, slot) {
            self.order.remove(&before.last_use);
        }
        self.order.insert(self.uses, key);
    }
}

impl<V: Copy> Slot<V> {
    fn session(&self, key: u64) -> Session<V> {
        Session {
            key,
            value: self.value,
            last_used: self.last_used,
        }
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
    fn a_session_expires_exactly_its_time_to_live_after_its_last_use() {
        for (now, found) in [(19, Some('a')), (20, None)] {
            let mut table = table(9, 10);
            table.assign(tick(0), 1, 'a');
            assert_eq!(table.lookup(tick(9), 1, |_| true), Some('a'));
            assert_eq!(table.lookup(tick(10), 1, |_| true), Some('a'));
            assert_eq!(table.lookup(tick(5), 1, |_| true), Some('a'));
            assert_eq!(table.lookup(tick(now), 1, |_| true), found);
        }
    }

    #[test]
    fn a_full_table_evicts_the_least_recently_used_session() {
        let mut table = table(2, 10);
        assert_eq!(table.assign(tick(0), 1, 'a'), None);
        assert_eq!(table.assign(tick(0), 2, 'b'), None);
        assert_eq!(table.assign(tick(0), 1, 'c'), None);
        let evicted = table.assign(tick(0), 3, 'd').map(|session| session.value);
        assert_eq!(evicted, Some('b'));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn restoring_keeps_the_most_recently_used_sessions_in_any_order_given() {
        let mut before = table(3, 10);
        for (at, key) in [(1, 7), (2, 8), (3, 9)] {
            before.assign(tick(at), key, 'x');
        }
        before.lookup(tick(4), 7, |_| true);
        let saved: Vec<_> = before.sessions().collect();
        let backwards = saved.iter().rev().copied().collect();
        for given in [saved.clone(), backwards] {
            let mut after = table(2, 10);
            after.restore(tick(13), given);
            let kept: Vec<_> = after.sessions().collect();
            assert_eq!(kept, saved[2..]);
            assert_eq!(kept[0].key, 7);
        }
    }

    #[test]
    fn a_time_to_live_of_zero_is_refused() {
        assert!(Affinity::<u8>::new(NonZeroU32::MIN, Duration::ZERO).is_err());
    }
}
