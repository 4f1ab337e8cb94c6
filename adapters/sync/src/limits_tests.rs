//! Races between threads on the limiters. Under loom each test runs every interleaving; without loom it is 300
//! runs with real threads, each of which asks more often.

use crate::clock::Clock;
use crate::{AtomicGcra, AtomicWindow, KeyedError, KeyedLimiter, SyncLimiter};
use core::num::{NonZeroU32, NonZeroUsize};
use core::time::Duration;
use leasehold_core::limit::{Anchor, Concurrency, GcraWord, SlidingLog, Wait};
use leasehold_core::time::Tick;
#[cfg(loom)]
use loom::{model, sync::Arc, thread};
#[cfg(not(loom))]
use std::{sync::Arc, thread};

/// Calls by each thread.
const CALLS: u64 = if cfg!(loom) { 1 } else { 200 };

const SECOND: u64 = 1_000_000_000;

#[cfg(not(loom))]
fn model(race: impl Fn()) {
    (0..300).for_each(|_| race());
}

fn count(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).expect("the count is above zero")
}

fn seconds(tick: u64) -> Tick {
    Tick::from_nanos(tick * SECOND)
}

fn span(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Calls a limiter from one thread per start, each a second later per call; returns the admitted ticks, sorted.
fn race<L: Send + Sync + 'static>(
    limiter: &Arc<L>,
    starts: &[u64],
    ask: fn(&L, Tick) -> Option<Tick>,
) -> Vec<Tick> {
    let work = move |start: u64, limiter: &L| -> Vec<Tick> {
        let ticks = (0..CALLS).map(|step| seconds(start + step));
        ticks.filter_map(|tick| ask(limiter, tick)).collect()
    };
    let (first, others) = starts.split_first().expect("there is at least one thread");
    let others: Vec<_> = others
        .iter()
        .map(|start| {
            let (limiter, start) = (Arc::clone(limiter), *start);
            thread::spawn(move || work(start, &limiter))
        })
        .collect();
    let mut admitted = work(*first, limiter);
    for other in others {
        admitted.extend(other.join().expect("no thread fails"));
    }
    admitted.sort();
    admitted
}

/// The most admissions in any window of this length.
fn most(admitted: &[Tick], window: Duration) -> usize {
    let in_window = |start: &Tick| {
        let within = |tick: &&Tick| *tick >= start && tick.since(*start) < window;
        admitted.iter().filter(within).count()
    };
    admitted.iter().map(in_window).max().unwrap_or(0)
}

fn gcra(limit: u32, burst: u32) -> Arc<AtomicGcra> {
    let rate = GcraWord::new(count(limit), span(10), count(burst));
    let rate = rate.expect("the rate is valid");
    Arc::new(AtomicGcra::with_clock(rate, Clock::stopped()))
}

#[test]
fn racing_threads_never_take_a_unit_twice() {
    model(|| {
        let admitted = race(&gcra(1, 2), &[50, 50, 50], take);
        let rate = GcraWord::new(count(1), span(10), count(2)).unwrap();
        assert!(most(&admitted, span(1)) <= 2, "{admitted:?}");
        assert!(
            admitted.len() as u64 <= rate.worst_case(span(CALLS)),
            "{admitted:?}"
        );
        assert!(admitted.len() >= 2, "{admitted:?}");
    });
}

#[test]
fn clocks_that_disagree_take_no_more_than_one_clock_would() {
    model(|| {
        let admitted = race(&gcra(1, 2), &[50, 40], take);
        let rate = GcraWord::new(count(1), span(10), count(2)).unwrap();
        for length in 1..60 {
            let worst = rate.worst_case(span(length));
            assert!(
                most(&admitted, span(length)) as u64 <= worst,
                "{admitted:?}"
            );
        }
    });
}

fn take(limiter: &AtomicGcra, now: Tick) -> Option<Tick> {
    limiter.try_acquire_at(now, 1).ok().map(|()| now)
}

fn window(limit: u32, buckets: u32) -> Arc<AtomicWindow> {
    let window = span(10 * u64::from(buckets));
    let window = AtomicWindow::with_clock(count(limit), window, count(buckets), Clock::stopped());
    Arc::new(window.expect("the window is valid"))
}

fn take_one(window: &AtomicWindow, now: Tick) -> Option<Tick> {
    window.try_acquire_at(now, 1).ok()
}

#[test]
fn a_window_never_holds_more_than_the_limit() {
    model(|| {
        let limiter = window(1, 1);
        // This unit has left the window at 25 s and 29 s, and not at 19 s.
        let before = limiter.try_acquire_at(seconds(5), 1);
        let mut admitted = race(&limiter, &[25, 19, 29], take_one);
        admitted.push(before.unwrap());
        admitted.sort();
        assert!(most(&admitted, span(10)) <= 1, "{admitted:?}");
        assert_all_available_later(&limiter, 1);
    });
}

/// Asserts that the whole limit is available long after all calls.
fn assert_all_available_later(window: &AtomicWindow, limit: u32) {
    let later = seconds(10_000);
    assert_eq!(window.try_acquire_at(later, limit), Ok(later));
}

#[test]
fn concurrent_bookings_are_all_given_back() {
    model(|| {
        let limiter = window(2, 1);
        let admitted = race(&limiter, &[5, 6], take_one);
        assert!(most(&admitted, span(10)) <= 2, "{admitted:?}");
        assert_all_available_later(&limiter, 2);
    });
}

#[test]
fn a_stale_clock_books_no_earlier_than_the_sweep_that_made_room() {
    model(|| {
        let limiter = window(1, 1);
        limiter.try_acquire_at(seconds(5), 1).unwrap();
        let admitted = race(&limiter, &[12, 25], take_one);
        assert!(
            admitted.iter().all(|tick| *tick >= seconds(20)),
            "{admitted:?}"
        );
        assert!(most(&admitted, span(10)) <= 1, "{admitted:?}");
    });
}

#[test]
fn an_overwritten_bucket_leaves_the_total() {
    model(|| {
        let limiter = window(3, 1);
        limiter.try_acquire_at(seconds(5), 2).unwrap();
        let other = Arc::clone(&limiter);
        let stale = thread::spawn(move || other.try_acquire_at(seconds(12), 2));
        limiter.try_acquire_at(seconds(25), 1).unwrap();
        let stale = stale.join().unwrap();
        assert!(stale.is_err() || stale == Ok(seconds(20)), "{stale:?}");
        assert_all_available_later(&limiter, 3);
    });
}

#[test]
fn a_refund_against_an_admission_keeps_the_count_of_units() {
    model(|| {
        let limiter = window(2, 1);
        let booked = limiter.try_acquire_at(seconds(5), 1).unwrap();
        let other = Arc::clone(&limiter);
        let refund = thread::spawn(move || other.refund(booked, 1));
        limiter.try_acquire_at(seconds(6), 1).unwrap();
        refund.join().unwrap();
        assert!(limiter.try_acquire_at(seconds(7), 1).is_ok());
        assert!(limiter.try_acquire_at(seconds(8), 1).is_err());
        assert_all_available_later(&limiter, 2);
    });
}

#[test]
fn a_settlement_clears_blocked_until() {
    model(|| {
        let limiter = SyncLimiter::with_clock(Concurrency::new(count(1)), Clock::stopped());
        let limiter = Arc::new(limiter);
        let booked = limiter.try_acquire(1).unwrap();
        let other = Arc::clone(&limiter);
        let call = thread::spawn(move || other.try_acquire(1).is_ok());
        limiter.settle(booked, 1, 1);
        let taken = call.join().unwrap();
        assert_eq!(limiter.try_acquire(1).is_ok(), !taken);
        assert_eq!(limiter.try_acquire(1), Err(Wait::ForSettlement));
    });
}

#[test]
fn blocked_until_never_outlives_the_wait_for_one_unit() {
    model(|| {
        let log = SlidingLog::new(count(2), span(10), Anchor::Grant).unwrap();
        let limiter = Arc::new(SyncLimiter::with_clock(log, Clock::stopped()));
        limiter.try_acquire_at(seconds(0), 1).unwrap();
        let other = Arc::clone(&limiter);
        let call = thread::spawn(move || {
            assert!(other.try_acquire_at(seconds(1), 2).is_err());
            other.try_acquire_at(seconds(2), 1).is_ok()
        });
        let here = limiter.try_acquire_at(seconds(2), 1).is_ok();
        let there = call.join().unwrap();
        assert!(here != there, "{here} {there}");
        let until = Err(Wait::Until(seconds(10)));
        assert_eq!(limiter.try_acquire_at(seconds(3), 1), until);
        assert!(limiter.try_acquire_at(seconds(10), 1).is_ok());
    });
}

#[test]
fn blocked_until_is_exact_to_the_tick_and_applies_to_one_unit() {
    model(|| {
        let log = SlidingLog::new(count(1), span(10), Anchor::Grant).unwrap();
        let limiter = SyncLimiter::with_clock(log, Clock::stopped());
        limiter.try_acquire_at(seconds(0), 1).unwrap();
        let until = Err(Wait::Until(seconds(10)));
        assert_eq!(limiter.try_acquire_at(seconds(1), 1), until);
        assert_eq!(limiter.try_acquire_at(seconds(1), 2), Err(Wait::Never));
        assert_eq!(limiter.try_acquire_at(seconds(1), 0), Ok(seconds(1)));
        let before = Tick::from_nanos(10 * SECOND - 1);
        assert_eq!(limiter.try_acquire_at(before, 1), until);
        assert_eq!(limiter.try_acquire_at(seconds(10), 1), Ok(seconds(10)));
    });
}

/// Unseeded: loom needs the same hashes in every run.
type Hasher = core::hash::BuildHasherDefault<std::hash::DefaultHasher>;

fn keyed(capacity: usize) -> Arc<KeyedLimiter<u32, GcraWord, Hasher>> {
    let rate = GcraWord::new(count(1), span(10), count(1)).unwrap();
    let capacity = NonZeroUsize::new(capacity).unwrap();
    let limiter = KeyedLimiter::with_clock(rate, capacity, Hasher::default(), Clock::stopped());
    Arc::new(limiter)
}

#[test]
fn a_key_in_use_is_never_evicted() {
    model(|| {
        let limiter = keyed(1);
        limiter.try_acquire_at(seconds(0), &1, 1).unwrap();
        let other = Arc::clone(&limiter);
        let new_key = thread::spawn(move || other.try_acquire_at(seconds(10), &2, 1));
        // The key is idle now: it is evicted, or in use again.
        let again = limiter.try_acquire_at(seconds(10), &1, 1);
        let new_key = new_key.join().unwrap();
        match (again, new_key) {
            (Ok(()), Err(KeyedError::TooManyKeys)) => {
                let twice = limiter.try_acquire_at(seconds(19), &1, 1);
                assert!(matches!(twice, Err(KeyedError::AtLimit(_))));
            }
            (Err(KeyedError::TooManyKeys), Ok(())) => {
                let twice = limiter.try_acquire_at(seconds(19), &2, 1);
                assert!(matches!(twice, Err(KeyedError::AtLimit(_))));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(limiter.len(), 1);
    });
}

#[test]
fn two_threads_on_a_new_key_share_its_limit() {
    model(|| {
        let limiter = keyed(4);
        let admitted = race(&limiter, &[0, 5], |limiter, now| {
            limiter.try_acquire_at(now, &7, 1).ok().map(|()| now)
        });
        assert!(most(&admitted, span(10)) <= 1, "{admitted:?}");
        assert_eq!(limiter.len(), 1);
    });
}

#[test]
fn a_new_key_is_refused_while_all_others_are_in_use_and_added_when_one_is_idle() {
    model(|| {
        let limiter = keyed(2);
        limiter.try_acquire_at(seconds(0), &1, 1).unwrap();
        limiter.try_acquire_at(seconds(3), &2, 1).unwrap();
        for now in [3, 5, 9] {
            let refused = limiter.try_acquire_at(seconds(now), &3, 1);
            assert_eq!(refused, Err(KeyedError::TooManyKeys), "{now}");
        }
        limiter.try_acquire_at(seconds(10), &3, 1).unwrap();
        let still = limiter.try_acquire_at(seconds(12), &2, 1);
        assert!(
            matches!(still, Err(KeyedError::AtLimit(Wait::Until(tick))) if tick == seconds(13))
        );
        assert_eq!(limiter.len(), 2);
    });
}

#[test]
fn a_stale_clock_gains_nothing_by_an_eviction() {
    model(|| {
        let limiter = keyed(1);
        limiter.try_acquire_at(seconds(5), &1, 1).unwrap();
        let other = Arc::clone(&limiter);
        let new_key = thread::spawn(move || other.try_acquire_at(seconds(20), &2, 1));
        let stale = limiter.try_acquire_at(seconds(12), &1, 1);
        new_key.join().unwrap().unwrap();
        // The call at 5 s counts for 10 s, and the later key has the only place.
        assert!(stale.is_err(), "{stale:?}");
        let late = limiter.try_acquire_at(seconds(12), &1, 1);
        assert_eq!(late, Err(KeyedError::TooManyKeys));
        // The first key is added again when the second is idle, and no key at an earlier tick.
        limiter.try_acquire_at(seconds(30), &1, 1).unwrap();
        assert!(limiter.try_acquire_at(seconds(12), &2, 1).is_err());
    });
}

#[test]
fn a_stale_clock_adds_an_evicted_key_no_earlier_than_its_eviction() {
    model(|| {
        let limiter = keyed(2);
        limiter.try_acquire_at(seconds(5), &1, 1).unwrap();
        // Adding a key evicts idle ones.
        limiter.try_acquire_at(seconds(20), &2, 1).unwrap();
        let stale = limiter.try_acquire_at(seconds(12), &1, 1);
        let again = limiter.try_acquire_at(seconds(24), &1, 1);
        assert!(stale.is_err() || again.is_err(), "{stale:?} {again:?}");
    });
}
