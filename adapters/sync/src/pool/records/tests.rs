//! Pools that go on where others have ended.

use super::*;
use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use leasehold_core::balance::Policy;
use leasehold_core::limit::{Anchor, SlidingLog};
use leasehold_core::pool::{Member, Outcome};

const WINDOW: Duration = Duration::from_secs(60);

/// A clock that is set in seconds.
#[derive(Clone, Default)]
struct Seconds(std::sync::Arc<AtomicU64>);

impl Seconds {
    fn clock(&self) -> Clock {
        let seconds = self.clone();
        Clock::told_by(move || {
            Tick::ZERO.saturating_add(Duration::from_secs(seconds.0.load(Ordering::Relaxed)))
        })
    }

    fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::Relaxed);
    }
}

/// A pool of members with a limit of 3 calls in 60 s each.
fn pool(seconds: &Seconds, members: [&'static str; 2]) -> SyncPool<&'static str> {
    let config = PoolConfig::builder(Policy::RoundRobin).log_charges(0);
    let config = config.build().expect("no setting contradicts another");
    let pool = SyncPool::with_clock(config, seconds.clock());
    for name in members {
        let three = NonZeroU32::MIN.saturating_add(2);
        let limit = SlidingLog::new(three, WINDOW, Anchor::Completion).expect("a window");
        pool.add_named(name, Member::new(name).limit(limit))
            .expect("room");
    }
    pool
}

fn free(pool: &SyncPool<&'static str>) -> Vec<&'static str> {
    let mut free = Vec::new();
    while let Ok(lease) = pool.try_acquire() {
        free.push(*lease);
        lease.release(Outcome::Ok).expect("it is held");
    }
    free.sort_unstable();
    free
}

#[test]
fn charges_of_an_earlier_process_count_in_the_limits_of_the_next() {
    let seconds = Seconds::default();
    seconds.set(1_000);
    let earlier = pool(&seconds, ["a", "b"]);
    for _ in 0..4 {
        earlier.try_acquire().unwrap().release(Outcome::Ok).unwrap();
    }
    let charges = earlier.take_charges();
    seconds.set(1_030);
    let next = pool(&seconds, ["b", "c"]);
    next.replay(&charges).unwrap();
    assert_eq!(free(&next), ["b", "c", "c", "c"]);
    let member = next.member("b").unwrap();
    assert_eq!(next.member_name(member).as_deref(), Some("b"));
    seconds.set(1_060);
    assert_eq!(free(&next), ["b", "b"]);
}

#[test]
fn a_successor_keeps_members_limits_and_names() {
    let seconds = Seconds::default();
    let old = pool(&seconds, ["a", "b"]);
    let held = old.try_acquire().unwrap();
    let gone = old.member("b").unwrap();
    old.remove(gone).unwrap();
    seconds.set(10);
    let new = old
        .successor(PoolConfig::new(Policy::LeastUsed), seconds.clock())
        .unwrap();
    let member = new.member("a").unwrap();
    assert_eq!(new.member_name(member).as_deref(), Some("a"));
    assert_eq!(new.member("b"), None);
    assert_eq!(free(&new), ["a", "a"]);
    held.release(Outcome::Ok).unwrap();
    seconds.set(70);
    assert_eq!(free(&new), ["a", "a", "a"]);
}
