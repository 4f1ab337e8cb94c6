//! The bare core in a loop, in virtual time: the driving order of its machines, in one screen.
//!
//! Plays an hour of one key with 3 calls per 60 s, each of which takes 2 s.

use core::error::Error;
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::balance::Policy;
use leasehold_core::limit::{Anchor, SlidingLog};
use leasehold_core::pool::{Acquired, Event, Grant, Member, Outcome, Pool, PoolConfig, Request};
use leasehold_core::time::{Tick, earliest};
use std::collections::VecDeque;

const WINDOW: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn Error>> {
    let end = Tick::ZERO.saturating_add(Duration::from_secs(3600));
    let three = NonZeroU32::MIN.saturating_add(2);
    let limit = SlidingLog::new(three, WINDOW, Anchor::Completion)?;
    let mut pool = Pool::new(PoolConfig::new(Policy::Fifo));
    pool.add(Tick::ZERO, Member::new("sk-1").limit(limit))?;

    let mut now = Tick::ZERO;
    let mut queued = 0;
    let mut calls: VecDeque<(Tick, Grant)> = VecDeque::new();
    let mut sent = Vec::new();
    while now < end {
        let mut granted = Vec::new();
        pool.handle_timeout(now);
        while let Some((_, grant)) = calls.front().filter(|(done, _)| *done <= now) {
            pool.release(now, grant.lease, Outcome::Ok)?;
            calls.pop_front();
        }
        while let Some(event) = pool.poll_event() {
            if let Event::Granted { grant, .. } = event {
                queued -= 1;
                granted.push(grant);
            }
        }
        while queued < 5 {
            match pool.acquire(now, Request::new())? {
                Acquired::Granted(grant) => granted.push(grant),
                Acquired::Waiting(_) => queued += 1,
            }
        }
        for grant in granted {
            sent.push(now);
            calls.push_back((now.saturating_add(CALL), grant));
        }
        let done = calls.front().map(|(done, _)| *done);
        now = earliest(pool.poll_timeout(), done).unwrap_or(end);
    }

    // 3 calls of 2 s, then 60 s from their completion: 59 times in an hour.
    assert_eq!(sent.len(), 3 * 59);
    for four in sent.windows(4) {
        assert!(four[3].since(four[0]) >= WINDOW, "{four:?}");
    }
    println!("{} calls in an hour, never 4 in 60 s", sent.len());
    Ok(())
}
