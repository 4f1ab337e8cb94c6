//! A limiter for each key, in bounded memory.
//!
//! Invariant: a key is evicted only when its state decides like a new one, and no key is added to the shard at an
//! earlier tick afterwards; a shard holds at most its share of the capacity. Both are decided under the shard's
//! lock.
//!
//! # Mutations that loom catches
//! Evicting a key without checking that it is idle fails `a_key_in_use_is_never_evicted`; looking a key up and
//! taking its units under two separate locks fails `two_threads_on_a_new_key_share_its_limit`; adding a key at
//! a stale clock's tick fails `a_stale_clock_adds_an_evicted_key_no_earlier_than_its_eviction`.

use crate::clock::Clock;
use crate::sync::{CachePadded, Mutex, lock};
use core::borrow::Borrow;
use core::fmt;
use core::hash::{BuildHasher, Hash};
use core::num::NonZeroUsize;
use hashbrown::HashTable;
use leasehold_core::limit::{GcraWord, Limit, Wait};
use leasehold_core::time::Tick;
use std::hash::RandomState;

/// Keys per shard, at least, before there is more than one shard.
const SHARD_KEYS: usize = 256;
const MAX_SHARDS: usize = 64;
/// Table slots that adding a key scans for idle keys. More than one, so that idle keys become fewer.
const SCANNED_SLOTS: usize = 4;

/// The limit of each key: the state kept for a key, and how it decides.
pub trait KeyRule {
    /// The state of one key.
    type State;

    /// The state of a new key.
    fn fresh(&self) -> Self::State;

    /// Takes `cost` units, or changes nothing and returns when to ask again.
    ///
    /// # Errors
    /// The [`Wait`] until the cost could be admitted.
    fn try_acquire(&self, state: &mut Self::State, now: Tick, cost: u32) -> Result<(), Wait>;

    /// A tick before which the state is not idle, and at which it may be; `<= now` if it is idle now. An idle
    /// state decides like a fresh one.
    fn idle_from(&self, state: &Self::State, now: Tick) -> Tick;
}

impl KeyRule for GcraWord {
    type State = u64;

    fn fresh(&self) -> u64 {
        0
    }

    #[inline]
    fn try_acquire(&self, word: &mut u64, now: Tick, cost: u32) -> Result<(), Wait> {
        *word = self.admit(*word, now, cost)?;
        Ok(())
    }

    #[inline]
    fn idle_from(&self, word: &u64, _now: Tick) -> Tick {
        self.idle_at(*word)
    }
}

/// A limiter to copy for each key; any that counts from the grant.
#[derive(Clone, Debug)]
pub struct PerKey<L>(pub L);

impl<L: Limit + Clone> KeyRule for PerKey<L> {
    type State = L;

    fn fresh(&self) -> L {
        self.0.clone()
    }

    fn try_acquire(&self, limit: &mut L, now: Tick, cost: u32) -> Result<(), Wait> {
        limit.try_acquire(now, cost).map(drop)
    }

    fn idle_from(&self, limit: &L, now: Tick) -> Tick {
        if limit.is_idle(now) {
            now
        } else {
            limit.next_change(now).unwrap_or(Tick::MAX)
        }
    }
}

/// Why a key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyedError {
    /// The key is at its limit.
    #[error("the key is at its limit")]
    AtLimit(Wait),
    /// The key is new, its shard is full and no key there is idle. Ask again later, or raise the capacity.
    #[error("the limiter is full of keys in use")]
    TooManyKeys,
}

/// A limiter per key, such as a client's address. Idle keys are evicted for new ones.
///
/// Memory is bounded by `capacity` and never shrinks. Keys are spread by hash over at most 64 shards, each with a
/// lock and an equal share of the capacity; one shard can be full while others have a few percent left. O(1),
/// except that adding a key to a full shard is O(keys of the shard).
///
/// ```
/// use core::num::{NonZeroU32, NonZeroUsize};
/// use core::time::Duration;
/// use leasehold_sync::KeyedLimiter;
/// use leasehold_sync::limit::GcraWord;
///
/// let three = NonZeroU32::new(3).unwrap();
/// let rate = GcraWord::new(three, Duration::from_secs(60), three)?;
/// let limiter: KeyedLimiter<String> = KeyedLimiter::new(rate, NonZeroUsize::new(100_000).unwrap());
/// assert!(limiter.try_acquire("10.0.0.1", 3).is_ok());
/// assert!(limiter.try_acquire("10.0.0.1", 1).is_err());
/// assert!(limiter.try_acquire("10.0.0.2", 1).is_ok());
/// # Ok::<(), leasehold_sync::limit::LimitConfigError>(())
/// ```
pub struct KeyedLimiter<K, R: KeyRule = GcraWord, S = RandomState> {
    rule: R,
    hasher: S,
    /// Shards by hash; their number is a power of two.
    shards: Box<[Shard<K, R::State>]>,
    /// Most keys in a shard.
    shard_capacity: usize,
    clock: Clock,
}

type Shard<K, V> = CachePadded<Mutex<Keys<K, V>>>;

struct Keys<K, V> {
    table: HashTable<(K, V)>,
    /// Table slot that was scanned last.
    cursor: usize,
    /// Tick before which no key is idle, found by the last full scan.
    full_until: Tick,
    /// Tick of the latest eviction.
    evicted_at: Tick,
}

impl<K: Eq + Hash, R: KeyRule> KeyedLimiter<K, R> {
    /// Makes a limiter of at most `capacity` keys; its clock starts now.
    #[must_use]
    pub fn new(rule: R, capacity: NonZeroUsize) -> Self {
        Self::with_clock(rule, capacity, RandomState::new(), Clock::start())
    }
}

impl<K: Eq + Hash, R: KeyRule, S: BuildHasher> KeyedLimiter<K, R, S> {
    /// Makes a limiter with this hasher and clock. Without a secret seed in the hasher, clients that choose
    /// their keys can fill one shard.
    #[must_use]
    pub fn with_clock(rule: R, capacity: NonZeroUsize, hasher: S, clock: Clock) -> Self {
        let shards = (capacity.get() / SHARD_KEYS).clamp(1, MAX_SHARDS);
        let shards = 1 << shards.ilog2();
        let shard = |_| {
            CachePadded(Mutex::new(Keys {
                table: HashTable::new(),
                cursor: 0,
                full_until: Tick::ZERO,
                evicted_at: Tick::ZERO,
            }))
        };
        Self {
            rule,
            hasher,
            shards: (0..shards).map(shard).collect(),
            shard_capacity: capacity.get() / shards,
            clock,
        }
    }

    /// The current tick of the limiter's clock.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.clock.now()
    }

    /// The number of keys held, idle ones included. O(shards).
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(&shard.0).table.len())
            .sum()
    }

    /// Whether no key is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes `cost` units of a key's limit, or changes nothing.
    ///
    /// # Errors
    /// The key is at its limit, or it is new and there is no room for it.
    #[inline]
    pub fn try_acquire<Q>(&self, key: &Q, cost: u32) -> Result<(), KeyedError>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        self.try_acquire_at(self.clock.now(), key, cost)
    }

    /// [`try_acquire`](Self::try_acquire) at a tick of the limiter's clock.
    ///
    /// # Errors
    /// The errors of [`try_acquire`](Self::try_acquire).
    #[inline]
    pub fn try_acquire_at<Q>(&self, now: Tick, key: &Q, cost: u32) -> Result<(), KeyedError>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        self.try_acquire_and(now, key, cost, |_| ()).0
    }

    /// [`try_acquire_at`](Self::try_acquire_at) that also reads the key's state afterwards, under the same lock.
    ///
    /// The state is that of before if the units were refused, and `None` if the key is new and was refused.
    #[inline]
    pub fn try_acquire_and<Q, A>(
        &self,
        now: Tick,
        key: &Q,
        cost: u32,
        read: impl FnOnce(&R::State) -> A,
    ) -> (Result<(), KeyedError>, Option<A>)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let hash = self.hasher.hash_one(key);
        // Bits 32 and up: the table uses the lowest and the highest ones.
        let shard = (hash >> 32) as usize & (self.shards.len() - 1);
        let mut keys = lock(&self.shards[shard].0);
        if let Some((_, state)) = keys
            .table
            .find_mut(hash, |(other, _)| other.borrow() == key)
        {
            let answer = self.rule.try_acquire(state, now, cost);
            return (answer.map_err(KeyedError::AtLimit), Some(read(state)));
        }
        match self.try_add(&mut keys, hash, now, key, cost) {
            Ok(state) => (Ok(()), Some(read(state))),
            Err(error) => (Err(error), None),
        }
    }

    /// Takes the units of a new key, and keeps its state if they are admitted.
    fn try_add<'k, Q>(
        &self,
        keys: &'k mut Keys<K, R::State>,
        hash: u64,
        now: Tick,
        key: &Q,
        cost: u32,
    ) -> Result<&'k R::State, KeyedError>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        // The key may have been evicted at a later tick, by a thread whose clock was ahead.
        let now = now.max(keys.evicted_at);
        let mut state = self.rule.fresh();
        let answer = self.rule.try_acquire(&mut state, now, cost);
        answer.map_err(KeyedError::AtLimit)?;
        keys.evict_idle(&self.rule, now, SCANNED_SLOTS);
        if keys.table.len() >= self.shard_capacity {
            self.make_room(keys, now)?;
        }
        let hash_of = |(key, _): &(K, R::State)| self.hasher.hash_one(key.borrow());
        let added = keys
            .table
            .insert_unique(hash, (key.to_owned(), state), hash_of);
        Ok(&added.into_mut().1)
    }

    #[cold]
    fn make_room(&self, keys: &mut Keys<K, R::State>, now: Tick) -> Result<(), KeyedError> {
        if keys.full_until <= now {
            let next_idle = keys.evict_idle(&self.rule, now, keys.table.num_buckets());
            if keys.table.len() < self.shard_capacity {
                return Ok(());
            }
            keys.full_until = next_idle;
        }
        Err(KeyedError::TooManyKeys)
    }
}

impl<K, V> Keys<K, V> {
    /// Evicts the idle keys in the next `slots` table slots; returns when the first of the others may be idle.
    fn evict_idle<R: KeyRule<State = V>>(&mut self, rule: &R, now: Tick, slots: usize) -> Tick {
        let mut next_idle = Tick::MAX;
        let all = self.table.num_buckets();
        for _ in 0..slots.min(all) {
            self.cursor = (self.cursor + 1) % all;
            if let Ok(entry) = self.table.get_bucket_entry(self.cursor) {
                let idle_from = rule.idle_from(&entry.get().1, now);
                if idle_from <= now {
                    entry.remove();
                    self.evicted_at = self.evicted_at.max(now);
                } else {
                    next_idle = next_idle.min(idle_from);
                }
            }
        }
        next_idle
    }
}

impl<K, R: KeyRule, S> fmt::Debug for KeyedLimiter<K, R, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys may be secrets.
        f.debug_struct("KeyedLimiter")
            .field("shards", &self.shards.len())
            .field("shard_capacity", &self.shard_capacity)
            .finish_non_exhaustive()
    }
}
