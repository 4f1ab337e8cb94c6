//! What 10,000 classes that wait at once cost, on 100 members: time for a release and the grant that follows, and memory.
//!
//! Where nothing is counted by class, all share a lane; where a limit is, each class has a lane of its own.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::balance::Policy;
use leasehold_core::limit::{Anchor, LimitSet, SlidingLog, Unit};
use leasehold_core::pool::{Acquired, Event, LeaseId, Member, Outcome, Pool, PoolConfig, Request};
use leasehold_core::time::Tick;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::collections::VecDeque;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MEMBERS: u32 = 100;

/// A pool whose members are all leased.
fn busy_pool(by_class: bool) -> (Pool<()>, VecDeque<LeaseId>) {
    let mut pool = Pool::new(PoolConfig::new(Policy::LeastUsed));
    let mut held = VecDeque::new();
    let hour = Duration::from_secs(3_600);
    for _ in 0..MEMBERS {
        let limit =
            SlidingLog::new(NonZeroU32::MAX, hour, Anchor::Completion).expect("it is in range");
        let limits = match by_class {
            true => LimitSet::new().with_each_class(Unit::Requests, limit),
            false => LimitSet::new().with(Unit::Requests, limit),
        };
        let member = Member::new(()).max_leases(NonZeroU32::MIN).limits(limits);
        pool.add(Tick::ZERO, member).expect("there is room");
        if let Ok(Acquired::Granted(grant)) = pool.acquire(Tick::ZERO, Request::new()) {
            held.push_back(grant.lease);
        }
    }
    (pool, held)
}

/// Releases a lease, which grants it to a waiter, and queues another request of a class.
fn step(pool: &mut Pool<()>, held: &mut VecDeque<LeaseId>, now: Tick, class: u32) {
    let lease = held.pop_front().expect("all members are leased");
    pool.release(now, lease, Outcome::Ok).expect("it is held");
    while let Some(event) = pool.poll_event() {
        if let Event::Granted { grant, .. } = event {
            held.push_back(grant.lease);
        }
    }
    match pool.acquire(now, Request::new().class(class)) {
        Ok(Acquired::Granted(grant)) => held.push_back(grant.lease),
        Ok(Acquired::Waiting(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

fn main() {
    let is_test = std::env::args().any(|argument| argument == "--test");
    let steps: u32 = if is_test { 100 } else { 5_000 };
    println!("a release with its grant, and a request that waits, on {MEMBERS} members");
    println!(
        "{:>9} {:>12} {:>14} {:>16}",
        "classes", "by class", "time", "memory"
    );
    for by_class in [false, true] {
        for classes in [1, 64, 1_000, 10_000] {
            let (mut pool, mut held) = busy_pool(by_class);
            let region = Region::new(ALLOCATOR);
            for class in 0..classes {
                let answer = pool.acquire(Tick::ZERO, Request::new().class(class));
                assert!(
                    matches!(answer, Ok(Acquired::Waiting(_))),
                    "{class}: {answer:?}"
                );
            }
            let change = region.change();
            let bytes = change
                .bytes_allocated
                .saturating_sub(change.bytes_deallocated);
            let begun = Instant::now();
            for number in 0..steps {
                let now = Tick::from_nanos(u64::from(number) * 1_000);
                step(&mut pool, &mut held, now, number % classes);
            }
            let each = begun.elapsed() / steps;
            let by = if by_class { "yes" } else { "no" };
            println!(
                "{classes:>9} {by:>12} {each:>14.1?} {:>12} KiB",
                bytes / 1_024
            );
        }
    }
    let mut pool = Pool::new(PoolConfig::new(Policy::Fifo));
    for _ in 0..10_000 {
        pool.add(Tick::ZERO, Member::new(()))
            .expect("there is room");
    }
    for number in 0..30_000 {
        let now = Tick::from_nanos(number * 1_000);
        if let Ok(Acquired::Granted(grant)) = pool.acquire(now, Request::new()) {
            let later = Tick::from_nanos(number * 1_000 + 500);
            pool.release(later, grant.lease, Outcome::Ok)
                .expect("it is held");
        }
    }
    let begun = Instant::now();
    let all = pool.stats();
    let whole = begun.elapsed();
    let begun = Instant::now();
    let changed = pool.stats_since(all.sequence.saturating_sub(200));
    println!(
        "figures of 10,000 members: {whole:.1?}; of the {} that changed: {:.1?}",
        changed.members.len(),
        begun.elapsed()
    );
}
