//! What threads can do to the limiters. Under loom each race is every interleaving; elsewhere it is many runs
//! with real threads and larger numbers.

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

/// How often each thread asks.
const ASKS: u64 = if cfg!(loom) { 1 } else { 200 };

const SECOND: u64 = 1_000_000_000;

#[cfg(not(loom))]
fn model(race: impl Fn()) {
    (0..300).for_each(|_| race());
}

fn count(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).expect("it is not zero")
}

fn seconds(tick: u64) -> Tick {
    Tick::from_nanos(tick * SECOND)
}

fn span(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What threads get that each begin at a tick of their own and go on by a second each time they ask: the ticks.
fn race<L: Send + Sync + 'static>(
    limiter: &Arc<L>,
    starts: &[u64],
    ask: fn(&L, Tick) -> Option<Tick>,
) -> Vec<Tick> {
    let work = move |start: u64, limiter: &L| -> Vec<Tick> {
        let ticks = (0..ASKS).map(|step| seconds(start + step));
        ticks.filter_map(|tick| ask(limiter, tick)).collect()
    };
    let (first, others) = starts.split_first().expect("somebody asks");
    let others: Vec<_> = others
        .iter()
        .map(|start| {
            let (limiter, start) = (Arc::clone(limiter), *start);
            thread::spawn(move || work(start, &limiter))
        })
        .collect();
    let mut got = work(*first, limiter);
    for other in others {
        got.extend(other.join().expect("no thread fails"));
    }
    got.sort();
    got
}

/// The most that is in any window.
fn most(got: &[Tick], window: Duration) -> usize {
    let in_window = |start: &Tick| {
        let within = |tick: &&Tick| *tick >= start && tick.since(*start) < window;
        got.iter().filter(within).count()
    };
    got.iter().map(in_window).max().unwrap_or(0)
}

fn gcra(limit: u32, burst: u32) -> Arc<AtomicGcra> {
    let rate = GcraWord::new(count(limit), span(10), count(burst));
    let rate = rate.expect("it is a rate");
    Arc::new(AtomicGcra::with_clock(rate, Clock::stopped()))
}

#[test]
fn threads_that_race_never_take_a_unit_twice() {
    model(|| {
        let got = race(&gcra(1, 2), &[50, 50, 50], take);
        let rate = GcraWord::new(count(1), span(10), count(2)).unwrap();
        assert!(most(&got, span(1)) <= 2, "{got:?}");
        assert!(got.len() as u64 <= rate.worst_case(span(ASKS)), "{got:?}");
        assert!(got.len() >= 2, "{got:?}");
    });
}

#[test]
fn clocks_that_disagree_take_no_more_than_one_would() {
    model(|| {
        let got = race(&gcra(1, 2), &[50, 40], take);
        let rate = GcraWord::new(count(1), span(10), count(2)).unwrap();
        for length in 1..60 {
            let worst = rate.worst_case(span(length));
            assert!(most(&got, span(length)) as u64 <= worst, "{got:?}");
        }
    });
}

fn take(limiter: &AtomicGcra, now: Tick) -> Option<Tick> {
    limiter.try_acquire_at(now, 1).ok().map(|()| now)
}

fn window(limit: u32, buckets: u32) -> Arc<AtomicWindow> {
    let window = span(10 * u64::from(buckets));
    let window = AtomicWindow::with_clock(count(limit), window, count(buckets), Clock::stopped());
    Arc::new(window.expect("it is a window"))
}

fn take_one(window: &AtomicWindow, now: Tick) -> Option<Tick> {
    window.try_acquire_at(now, 1).ok()
}

#[test]
fn a_window_never_holds_more_than_the_limit() {
    model(|| {
        let limiter = window(1, 1);
        // The bucket of this one has left when two of the others come, and not when the third does.
        let before = limiter.try_acquire_at(seconds(5), 1);
        let mut got = race(&limiter, &[25, 19, 29], take_one);
        got.push(before.unwrap());
        got.sort();
        assert!(most(&got, span(10)) <= 1, "{got:?}");
        all_comes_back(&limiter, 1);
    });
}

/// Long after everything, the whole limit is there again.
fn all_comes_back(window: &AtomicWindow, limit: u32) {
    let later = seconds(10_000);
    assert_eq!(window.try_acquire_at(later, limit), Ok(later));
}

#[test]
fn what_two_book_at_once_comes_back_in_full() {
    model(|| {
        let limiter = window(2, 1);
        let got = race(&limiter, &[5, 6], take_one);
        assert!(most(&got, span(10)) <= 2, "{got:?}");
        all_comes_back(&limiter, 2);
    });
}

#[test]
fn a_stale_clock_books_no_earlier_than_what_made_room_for_it() {
    model(|| {
        let limiter = window(1, 1);
        limiter.try_acquire_at(seconds(5), 1).unwrap();
        let got = race(&limiter, &[12, 25], take_one);
        assert!(got.iter().all(|tick| *tick >= seconds(20)), "{got:?}");
        assert!(most(&got, span(10)) <= 1, "{got:?}");
    });
}

#[test]
fn a_bucket_that_is_written_over_gives_its_room_back_and_its_time() {
    model(|| {
        let limiter = window(3, 1);
        limiter.try_acquire_at(seconds(5), 2).unwrap();
        let other = Arc::clone(&limiter);
        let stale = thread::spawn(move || other.try_acquire_at(seconds(12), 2));
        limiter.try_acquire_at(seconds(25), 1).unwrap();
        let stale = stale.join().unwrap();
        assert!(stale.is_err() || stale == Ok(seconds(20)), "{stale:?}");
        all_comes_back(&limiter, 3);
    });
}

#[test]
fn a_refund_against_an_admission_loses_no_unit_and_makes_none() {
    model(|| {
        let limiter = window(2, 1);
        let booked = limiter.try_acquire_at(seconds(5), 1).unwrap();
        let other = Arc::clone(&limiter);
        let refund = thread::spawn(move || other.refund(booked, 1));
        limiter.try_acquire_at(seconds(6), 1).unwrap();
        refund.join().unwrap();
        assert!(limiter.try_acquire_at(seconds(7), 1).is_ok());
        assert!(limiter.try_acquire_at(seconds(8), 1).is_err());
        all_comes_back(&limiter, 2);
    });
}

#[test]
fn a_settlement_takes_the_sign_down() {
    model(|| {
        let limiter = SyncLimiter::with_clock(Concurrency::new(count(1)), Clock::stopped());
        let limiter = Arc::new(limiter);
        let booked = limiter.try_acquire(1).unwrap();
        let other = Arc::clone(&limiter);
        let asks = thread::spawn(move || other.try_acquire(1).is_ok());
        limiter.settle(booked, 1, 1);
        let taken = asks.join().unwrap();
        assert_eq!(limiter.try_acquire(1).is_ok(), !taken);
        assert_eq!(limiter.try_acquire(1), Err(Wait::ForSettlement));
    });
}

#[test]
fn a_sign_never_outlives_what_it_says() {
    model(|| {
        let log = SlidingLog::new(count(2), span(10), Anchor::Grant).unwrap();
        let limiter = Arc::new(SyncLimiter::with_clock(log, Clock::stopped()));
        limiter.try_acquire_at(seconds(0), 1).unwrap();
        let other = Arc::clone(&limiter);
        let asks = thread::spawn(move || {
            assert!(other.try_acquire_at(seconds(1), 2).is_err());
            other.try_acquire_at(seconds(2), 1).is_ok()
        });
        let here = limiter.try_acquire_at(seconds(2), 1).is_ok();
        let there = asks.join().unwrap();
        assert!(here != there, "{here} {there}");
        let until = Err(Wait::Until(seconds(10)));
        assert_eq!(limiter.try_acquire_at(seconds(3), 1), until);
        assert!(limiter.try_acquire_at(seconds(10), 1).is_ok());
    });
}

#[test]
fn a_sign_is_exact_to_the_tick_and_is_not_asked_for_more_than_one_unit() {
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

/// Loom needs a hash that is the same each time.
type Hasher = core::hash::BuildHasherDefault<std::hash::DefaultHasher>;

fn keyed(capacity: usize) -> Arc<KeyedLimiter<u32, GcraWord, Hasher>> {
    let rate = GcraWord::new(count(1), span(10), count(1)).unwrap();
    let capacity = NonZeroUsize::new(capacity).unwrap();
    let limiter = KeyedLimiter::with_clock(rate, capacity, Hasher::default(), Clock::stopped());
    Arc::new(limiter)
}

#[test]
fn a_key_in_use_is_never_forgotten_for_another() {
    model(|| {
        let limiter = keyed(1);
        limiter.try_acquire_at(seconds(0), &1, 1).unwrap();
        let other = Arc::clone(&limiter);
        let newcomer = thread::spawn(move || other.try_acquire_at(seconds(10), &2, 1));
        // It is idle now, and either makes room or is in use again.
        let again = limiter.try_acquire_at(seconds(10), &1, 1);
        let newcomer = newcomer.join().unwrap();
        match (again, newcomer) {
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
fn two_that_meet_on_a_new_key_share_its_limit() {
    model(|| {
        let limiter = keyed(4);
        let got = race(&limiter, &[0, 5], |limiter, now| {
            limiter.try_acquire_at(now, &7, 1).ok().map(|()| now)
        });
        assert!(most(&got, span(10)) <= 1, "{got:?}");
        assert_eq!(limiter.len(), 1);
    });
}

#[test]
fn a_newcomer_is_told_at_once_while_all_others_count_and_let_in_when_one_does_not() {
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
fn a_stale_clock_gains_nothing_by_a_key_that_was_forgotten() {
    model(|| {
        let limiter = keyed(1);
        limiter.try_acquire_at(seconds(5), &1, 1).unwrap();
        let other = Arc::clone(&limiter);
        let newcomer = thread::spawn(move || other.try_acquire_at(seconds(20), &2, 1));
        let stale = limiter.try_acquire_at(seconds(12), &1, 1);
        newcomer.join().unwrap().unwrap();
        // Its first call was at 5, and counts for ten seconds; whoever came later has the only place.
        assert!(stale.is_err(), "{stale:?}");
        let late = limiter.try_acquire_at(seconds(12), &1, 1);
        assert_eq!(late, Err(KeyedError::TooManyKeys));
        // By the time at which the second is idle, the first is let in, and not for an earlier time.
        limiter.try_acquire_at(seconds(30), &1, 1).unwrap();
        assert!(limiter.try_acquire_at(seconds(12), &2, 1).is_err());
    });
}

#[test]
fn a_stale_clock_takes_a_forgotten_key_no_earlier_than_it_was_forgotten() {
    model(|| {
        let limiter = keyed(2);
        limiter.try_acquire_at(seconds(5), &1, 1).unwrap();
        // Idle keys are looked for by whoever is new.
        limiter.try_acquire_at(seconds(20), &2, 1).unwrap();
        let stale = limiter.try_acquire_at(seconds(12), &1, 1);
        let again = limiter.try_acquire_at(seconds(24), &1, 1);
        assert!(stale.is_err() || again.is_err(), "{stale:?} {again:?}");
    });
}
