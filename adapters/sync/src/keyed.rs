//! A limiter for each key, in bounded memory.
//!
//! Invariant: a key is forgotten only when what is remembered of it decides as nothing would, and from then on
//! nobody is new at an earlier time; and a shard never holds more keys than its share. Both are decided
//! under the shard's lock.
//!
//! # What loom finds
//! Forgetting a key without looking whether it still counts fails
//! `a_key_in_use_is_never_forgotten_for_another`; looking up a key and taking from it under two locks in turn
//! fails `two_that_meet_on_a_new_key_share_its_limit`; taking a newcomer's clock at its word fails
//! `a_stale_clock_takes_a_forgotten_key_no_earlier_than_it_was_forgotten`.

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

/// Keys that a shard has at least, if there are as many.
const SHARD_KEYS: usize = 256;
const MAX_SHARDS: usize = 64;
/// How many keys a newcomer looks at in search of idle ones: more than one, so that idle ones become fewer.
const LOOKS: usize = 4;

/// What each key is limited by.
pub trait Rule {
    /// What is remembered of a key.
    type State;

    /// What is remembered of a key that was never seen.
    fn fresh(&self) -> Self::State;

    /// Takes `cost` units, or changes nothing and says when to ask again.
    ///
    /// # Errors
    /// The [`Wait`] until it could be admitted.
    fn try_acquire(&self, state: &mut Self::State, now: Tick, cost: u32) -> Result<(), Wait>;

    /// A tick before which it doesn't decide as a fresh one does, and at which it may; `now` or earlier where
    /// it does now.
    fn idle_from(&self, state: &Self::State, now: Tick) -> Tick;
}

/// One word for each key.
impl Rule for GcraWord {
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

/// A copy for each key of any limiter that counts from the grant.
#[derive(Clone, Debug)]
pub struct Each<L>(pub L);

impl<L: Limit + Clone> Rule for Each<L> {
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
    /// The key is new, and every key there is room for still counts: ask again later, or make more room.
    #[error("as many other keys are in use as may be")]
    TooManyKeys,
}

/// A limiter for each key, such as a client's address. Keys that are idle make room for others.
///
/// Memory is bounded by the number of keys and never shrinks. Keys are spread over shards by their hash, each with
/// a lock and an equal share of the room; a shard can be full a few percent before all are. O(1), but O(the
/// keys of a shard) for a newcomer to one that is full.
///
/// ```
/// use core::num::{NonZeroU32, NonZeroUsize};
/// use core::time::Duration;
/// use leasehold_sync::KeyedLimiter;
/// use leasehold_sync::core::limit::GcraWord;
///
/// let three = NonZeroU32::new(3).unwrap();
/// let rate = GcraWord::new(three, Duration::from_secs(60), three)?;
/// let limiter: KeyedLimiter<String> = KeyedLimiter::new(rate, NonZeroUsize::new(100_000).unwrap());
/// assert!(limiter.try_acquire("10.0.0.1", 3).is_ok());
/// assert!(limiter.try_acquire("10.0.0.1", 1).is_err());
/// assert!(limiter.try_acquire("10.0.0.2", 1).is_ok());
/// # Ok::<(), leasehold_sync::core::limit::LimitConfigError>(())
/// ```
pub struct KeyedLimiter<K, R: Rule = GcraWord, S = RandomState> {
    rule: R,
    hasher: S,
    /// As many as a power of two.
    shards: Box<[Shard<K, R::State>]>,
    /// Keys of a shard.
    capacity: usize,
    clock: Clock,
}

type Shard<K, V> = CachePadded<Mutex<Keys<K, V>>>;

struct Keys<K, V> {
    known: HashTable<(K, V)>,
    /// The place that was looked at last.
    cursor: usize,
    /// Until when every key is known to count.
    full_until: Tick,
    /// When a key was forgotten last.
    forgotten: Tick,
}

impl<K: Eq + Hash, R: Rule> KeyedLimiter<K, R> {
    /// A limiter of at most `capacity` keys, whose clock starts now.
    #[must_use]
    pub fn new(rule: R, capacity: NonZeroUsize) -> Self {
        Self::with_clock(rule, capacity, RandomState::new(), Clock::start())
    }
}

impl<K: Eq + Hash, R: Rule, S: BuildHasher> KeyedLimiter<K, R, S> {
    /// The same with this hasher and clock. A hasher that isn't keyed lets whoever chooses the keys choose
    /// their places.
    #[must_use]
    pub fn with_clock(rule: R, capacity: NonZeroUsize, hasher: S, clock: Clock) -> Self {
        let wanted = (capacity.get() / SHARD_KEYS).clamp(1, MAX_SHARDS);
        let shards = 1 << wanted.ilog2();
        let shard = |_| {
            CachePadded(Mutex::new(Keys {
                known: HashTable::new(),
                cursor: 0,
                full_until: Tick::ZERO,
                forgotten: Tick::ZERO,
            }))
        };
        Self {
            rule,
            hasher,
            shards: (0..shards).map(shard).collect(),
            capacity: capacity.get() / shards,
            clock,
        }
    }

    /// The present on its clock.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.clock.now()
    }

    /// How many keys are held, idle or not. O(shards).
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(&shard.0).known.len())
            .sum()
    }

    /// Whether no key is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes `cost` units of a key's, or changes nothing and says when to ask again.
    ///
    /// # Errors
    /// Where the key is at its limit, or new while there is no room.
    #[inline]
    pub fn try_acquire<Q>(&self, key: &Q, cost: u32) -> Result<(), KeyedError>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        self.try_acquire_at(self.clock.now(), key, cost)
    }

    /// The same at a tick that its caller has read from the limiter's clock.
    ///
    /// # Errors
    /// As for [`try_acquire`](Self::try_acquire).
    #[inline]
    pub fn try_acquire_at<Q>(&self, now: Tick, key: &Q, cost: u32) -> Result<(), KeyedError>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let hash = self.hasher.hash_one(key);
        // The table goes by the lowest and the highest bits.
        let shard = (hash >> 32) as usize & (self.shards.len() - 1);
        let mut keys = lock(&self.shards[shard].0);
        if let Some((_, state)) = keys
            .known
            .find_mut(hash, |(known, _)| known.borrow() == key)
        {
            let asked = self.rule.try_acquire(state, now, cost);
            return asked.map_err(KeyedError::AtLimit);
        }
        // It may be one of those forgotten, for whoever's clock was ahead of this.
        let now = now.max(keys.forgotten);
        let mut state = self.rule.fresh();
        let asked = self.rule.try_acquire(&mut state, now, cost);
        asked.map_err(KeyedError::AtLimit)?;
        keys.forget_idle(&self.rule, now, LOOKS);
        if keys.known.len() >= self.capacity {
            self.make_room(&mut keys, now)?;
        }
        let hash_of = |(known, _): &(K, R::State)| self.hasher.hash_one(known.borrow());
        keys.known
            .insert_unique(hash, (key.to_owned(), state), hash_of);
        Ok(())
    }

    #[cold]
    fn make_room(&self, keys: &mut Keys<K, R::State>, now: Tick) -> Result<(), KeyedError> {
        if keys.full_until <= now {
            let next = keys.forget_idle(&self.rule, now, keys.known.num_buckets());
            if keys.known.len() < self.capacity {
                return Ok(());
            }
            keys.full_until = next;
        }
        Err(KeyedError::TooManyKeys)
    }
}

impl<K, V> Keys<K, V> {
    /// Looks at so many places for keys that are idle, and answers when the first of the others may be.
    fn forget_idle<R: Rule<State = V>>(&mut self, rule: &R, now: Tick, places: usize) -> Tick {
        let mut next = Tick::MAX;
        let all = self.known.num_buckets();
        for _ in 0..places.min(all) {
            self.cursor = (self.cursor + 1) % all;
            if let Ok(entry) = self.known.get_bucket_entry(self.cursor) {
                let idle = rule.idle_from(&entry.get().1, now);
                if idle <= now {
                    entry.remove();
                    self.forgotten = self.forgotten.max(now);
                } else {
                    next = next.min(idle);
                }
            }
        }
        next
    }
}

impl<K, R: Rule, S> fmt::Debug for KeyedLimiter<K, R, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys may be secrets.
        f.debug_struct("KeyedLimiter")
            .field("shards", &self.shards.len())
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
