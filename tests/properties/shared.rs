//! Shared limiters, used by one thread, against the limiters of `core` they correspond to.

use core::num::{NonZeroU32, NonZeroUsize};
use core::time::Duration;
use leasehold_core::limit::{
    Anchor, BucketedWindow, Concurrency, Gcra, GcraWord, Limit, Limiter, SlidingLog, Wait,
};
use leasehold_core::time::Tick;
use leasehold_sync::{
    AtomicGcra, AtomicWindow, Clock, KeyRule, KeyedError, KeyedLimiter, PerKey, SyncLimiter,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::hash::RandomState;

const MILLI: u64 = 1_000_000;

fn count(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).expect("it is not zero")
}

fn tick(nanos: u64) -> Tick {
    Tick::from_nanos(nanos)
}

/// Pauses, mostly short of `longest`, each followed by a cost.
fn steps(longest: u64) -> impl Strategy<Value = Vec<(u64, u32)>> {
    let step = prop_oneof![3 => 0..longest / 8, 1 => 0..longest * 3];
    proptest::collection::vec((step, 0..6u32), 1..60)
}

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn atomic_gcra_decides_like_gcra(
        limit in 1..20u32, window in 20..400u64, burst in 1..5u32, steps in steps(100)
    ) {
        let (limit, window, burst) = (count(limit), Duration::from_nanos(window), count(burst));
        let mut oracle = Gcra::new(limit, window, burst).unwrap();
        let rate = GcraWord::new(limit, window, burst).unwrap();
        let atomic = AtomicGcra::with_clock(rate, Clock::start());
        // If no number of parts up to 16 fits, a unit's interval is rounded up to a sixteenth of a nanosecond.
        let exact = (1..=16).any(|parts| (window.as_nanos() * parts).is_multiple_of(limit.get().into()));
        let mut now = 0;
        for (step, cost) in steps {
            now += step;
            if exact {
                prop_assert_eq!(atomic.earliest(tick(now), cost), oracle.earliest(tick(now), cost));
                let expected = oracle.try_acquire(tick(now), cost).map(drop);
                prop_assert_eq!(atomic.try_acquire_at(tick(now), cost), expected);
            } else if atomic.try_acquire_at(tick(now), cost).is_ok() {
                prop_assert!(oracle.try_acquire(tick(now), cost).is_ok());
            }
        }
    }

    #[test]
    fn a_gcra_word_keeps_its_worst_case_for_calls_in_any_order(
        limit in 1..20u32, window in 20..400u64, burst in 1..5u32,
        calls in proptest::collection::vec((0..600u64, 1..3u32), 1..80)
    ) {
        let (limit, window, burst) = (count(limit), Duration::from_nanos(window), count(burst));
        let rate = GcraWord::new(limit, window, burst).unwrap();
        let mut word = 0;
        let mut admitted = Vec::new();
        for (at, cost) in calls {
            if let Ok(next) = rate.admit(word, tick(at), cost) {
                word = next;
                admitted.push((at, u64::from(cost)));
            }
        }
        for (from, _) in &admitted {
            for (to, _) in admitted.iter().filter(|(to, _)| to >= from) {
                let within = admitted.iter().filter(|(at, _)| (from..=to).contains(&at));
                let units: u64 = within.map(|(_, cost)| cost).sum();
                let worst = rate.worst_case(Duration::from_nanos(to - from + 1));
                prop_assert!(units <= worst, "{units} of {worst}");
            }
        }
    }

    #[test]
    fn an_atomic_window_decides_like_the_bucketed_one(
        limit in 1..8u32, buckets in 1..6u32, steps in steps(20 * MILLI),
        refunds in proptest::collection::vec(any::<bool>(), 60)
    ) {
        let window = Duration::from_millis(3 * u64::from(buckets));
        let (limit, buckets) = (count(limit), count(buckets));
        let mut oracle = BucketedWindow::new(limit, window, buckets, Anchor::Grant).unwrap();
        let atomic = AtomicWindow::with_clock(limit, window, buckets, Clock::start()).unwrap();
        let (mut now, mut booked) = (0, Vec::new());
        for ((step, cost), refund) in steps.into_iter().zip(refunds) {
            now += step;
            if refund && let Some((at, cost)) = booked.pop() {
                oracle.refund(tick(now), at, cost);
                atomic.refund(at, cost);
            }
            let expected = oracle.try_acquire(tick(now), cost);
            prop_assert_eq!(atomic.try_acquire_at(tick(now), cost), expected, "{}", now);
            booked.extend(expected.ok().filter(|_| cost > 0).map(|at| (at, cost)));
        }
    }

    #[test]
    fn a_sync_limiter_decides_like_the_limiter_inside_it(
        limit in 1..5u32, kind in 0..3u8, steps in steps(100),
        settles in proptest::collection::vec(0..3u8, 60)
    ) {
        let limit = count(limit);
        let log = |anchor| SlidingLog::new(limit, Duration::from_nanos(100), anchor).unwrap();
        let mut oracle: Limiter = match kind {
            0 => log(Anchor::Grant).into(),
            1 => log(Anchor::Completion).into(),
            _ => Concurrency::new(limit).into(),
        };
        let now = std::sync::Arc::new(core::sync::atomic::AtomicU64::new(0));
        let shown = std::sync::Arc::clone(&now);
        let order = core::sync::atomic::Ordering::Relaxed;
        let clock = Clock::told_by(move || tick(shown.load(order)));
        let shared = SyncLimiter::with_clock(oracle.clone(), clock);
        let mut booked = Vec::new();
        for ((step, cost), settle) in steps.into_iter().zip(settles) {
            now.fetch_add(step, order);
            let present = tick(now.load(order));
            if settle > 0 && let Some((at, cost)) = booked.pop() {
                let actual = cost * u32::from(settle - 1);
                oracle.settle(present, at, cost, actual);
                shared.settle(at, cost, actual);
            }
            let expected = oracle.try_acquire(present, cost);
            prop_assert_eq!(shared.try_acquire(cost), expected);
            booked.extend(expected.ok().map(|at| (at, cost)));
        }
    }

    #[test]
    fn a_keyed_limiter_decides_as_if_no_key_were_ever_evicted(
        capacity in 1..6usize, steps in steps(60), keys in proptest::collection::vec(0..8u8, 60)
    ) {
        let rate = GcraWord::new(count(1), Duration::from_nanos(20), count(3)).unwrap();
        let log = SlidingLog::new(count(3), Duration::from_nanos(50), Anchor::Grant).unwrap();
        evicts_only_idle_keys(rate, capacity, &steps, &keys)?;
        evicts_only_idle_keys(PerKey(log), capacity, &steps, &keys)?;
    }
}

/// A key is refused for lack of capacity only while `capacity` other keys count.
fn evicts_only_idle_keys<R: KeyRule + Clone>(
    rule: R,
    capacity: usize,
    steps: &[(u64, u32)],
    keys: &[u8],
) -> Result<(), TestCaseError> {
    let room = NonZeroUsize::new(capacity).expect("there is room for some");
    let limiter: KeyedLimiter<u8, R> =
        KeyedLimiter::with_clock(rule.clone(), room, RandomState::new(), Clock::start());
    let mut oracle: BTreeMap<u8, R::State> = BTreeMap::new();
    let mut now = 0;
    for ((step, cost), key) in steps.iter().zip(keys) {
        now += step;
        let now = tick(now);
        let answer = limiter.try_acquire_at(now, key, *cost);
        if answer == Err(KeyedError::TooManyKeys) {
            let others = oracle.iter().filter(|(other, _)| *other != key);
            let counting = others.filter(|(_, state)| rule.idle_from(state, now) > now);
            prop_assert!(counting.count() >= capacity);
            let own = oracle.get(key).map(|state| rule.idle_from(state, now));
            prop_assert!(
                own.is_none_or(|idle| idle <= now),
                "a key that counts was evicted"
            );
        } else {
            let state = oracle.entry(*key).or_insert_with(|| rule.fresh());
            let expected = rule.try_acquire(state, now, *cost);
            prop_assert_eq!(answer, expected.map_err(KeyedError::AtLimit));
        }
        prop_assert!(limiter.len() <= capacity);
    }
    Ok(())
}

#[test]
fn a_gcra_word_is_never_faster_than_its_rate() {
    for (limit, nanos) in [(997, 1_000_000_000), (3, 10), (999_983, 1_000_000_007)] {
        let window = Duration::from_nanos(nanos);
        let rate = GcraWord::new(count(limit), window, count(1)).unwrap();
        let units = rate.worst_case(window);
        assert!(units <= u64::from(limit), "{units} of {limit}");
        let slack = Duration::from_nanos(nanos + nanos / 8);
        assert!(
            rate.worst_case(slack) >= u64::from(limit),
            "{limit} in {nanos}"
        );
        assert_eq!(rate.admit(0, Tick::ZERO, 2), Err(Wait::Never));
    }
}
