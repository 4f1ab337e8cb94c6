//! Pools restored from damaged snapshots, and on another clock.

use crate::pool;
use crate::snapshot::{Character, edit};
use arbitrary::Arbitrary;
use leasehold_core::pool::{Acquired, Event, Grant, LeaseId, Outcome, Pool, PoolSnapshot, Request};
use leasehold_core::time::Tick;
use proptest_derive::Arbitrary as Strategy;

/// A pool that has been used, the damage to its snapshot, and its use afterwards.
#[derive(Clone, Debug, Arbitrary, Strategy)]
pub struct Case {
    /// The pool; its operations are ignored.
    pub pool: pool::Case,
    /// Its use before.
    pub before: Vec<Use>,
    /// Places in the snapshot and the characters that replace what is there.
    pub edits: Vec<(u16, Character)>,
    /// Ticks by which the other clock is ahead.
    pub ahead: u32,
    /// Its use afterwards.
    pub after: Vec<Use>,
    /// Bytes that are read as a snapshot.
    pub raw: Vec<u8>,
}

/// A use of a pool.
#[derive(Clone, Copy, Debug, Arbitrary, Strategy)]
pub enum Use {
    /// Asks for a lease, with a key.
    #[proptest(weight = 4)]
    Acquire(u8),
    /// Releases the oldest lease.
    #[proptest(weight = 3)]
    Release(pool::End),
    /// Lets time pass.
    Advance(u8),
    /// Calls `handle_timeout` at the tick of `poll_timeout`.
    FollowTimeout,
}

/// Compares a pool restored on another clock with the same on its own clock; and restores pools from damaged
/// snapshots, which then neither panic nor return a timeout that has passed.
///
/// # Panics
/// Where one does.
pub fn run(case: &Case) {
    let mut user = User::new(pool::pool(&case.pool), 0);
    for what in &case.before {
        user.apply(*what);
    }
    let saved = serde_json::to_vec(&user.pool.snapshot()).expect("a pool can be saved");
    let restore = |snapshot: PoolSnapshot<usize>, ahead: u64| {
        let (from, to) = (user.now, user.now.saturating_add(ahead));
        let config = pool::config(&case.pool);
        Pool::restore(
            config,
            snapshot,
            Tick::from_nanos(from),
            Tick::from_nanos(to),
        )
    };
    let read = |bytes: &[u8]| serde_json::from_slice::<PoolSnapshot<usize>>(bytes);
    let ahead = u64::from(case.ahead);
    let mut both = [0, ahead].map(|ahead| {
        let snapshot = read(&saved).expect("it was saved just now");
        let pool = restore(snapshot, ahead).expect("it was saved just now");
        User::new(pool, user.now + ahead)
    });
    for what in &case.after {
        let [here, there] = &mut both;
        here.apply(*what);
        there.apply(*what);
        assert_eq!(
            here.seen,
            there
                .seen
                .iter()
                .map(|seen| seen.earlier(ahead))
                .collect::<Vec<_>>()
        );
    }
    for snapshot in [edit(saved.clone(), &case.edits), case.raw.clone()] {
        if let Some(Ok(pool)) = read(&snapshot)
            .ok()
            .map(|snapshot| restore(snapshot, ahead))
        {
            let mut user = User::new(pool, user.now + ahead);
            for what in &case.after {
                user.apply(*what);
            }
        }
    }
}

/// What a caller of a pool sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    member: Option<usize>,
    at: Option<u64>,
}

impl Seen {
    /// The same on a clock that is behind.
    fn earlier(self, ticks: u64) -> Self {
        Self {
            at: self.at.map(|at| at - ticks),
            ..self
        }
    }
}

struct User {
    pool: Pool<usize>,
    now: u64,
    leases: Vec<LeaseId>,
    seen: Vec<Seen>,
}

impl User {
    fn new(pool: Pool<usize>, now: u64) -> Self {
        Self {
            pool,
            now,
            leases: Vec::new(),
            seen: Vec::new(),
        }
    }

    fn apply(&mut self, what: Use) {
        let now = Tick::from_nanos(self.now);
        match what {
            Use::Acquire(key) => {
                let request = Request::new().key(key.into()).session((key % 4).into());
                // Refusals are as good as grants here.
                if let Ok(Acquired::Granted(grant)) = self.pool.acquire(now, request) {
                    self.grant(grant);
                }
            }
            Use::Release(end) => {
                if !self.leases.is_empty() {
                    let lease = self.leases.remove(0);
                    let outcome = match end {
                        pool::End::Ok => Outcome::Ok,
                        pool::End::Failed => Outcome::Failed,
                        pool::End::Throttled(pause) => Outcome::Throttled {
                            until: Tick::from_nanos(self.now + u64::from(pause)),
                        },
                        pool::End::NotSent => Outcome::NotSent,
                        pool::End::Unknown => Outcome::Unknown,
                    };
                    // It may have expired.
                    let _ = self.pool.release(now, lease, outcome);
                }
            }
            Use::Advance(ticks) => self.now = self.now.saturating_add(ticks.into()),
            Use::FollowTimeout => {
                if let Some(due) = self.pool.poll_timeout() {
                    self.now = self.now.max(due.as_nanos());
                    self.pool.handle_timeout(Tick::from_nanos(self.now));
                    let next = self.pool.poll_timeout();
                    assert!(
                        next.is_none_or(|next| next.as_nanos() > self.now),
                        "{next:?} at {}",
                        self.now
                    );
                }
            }
        }
        while let Some(event) = self.pool.poll_event() {
            match event {
                Event::Granted { grant, .. } => self.grant(grant),
                Event::Expired { member, .. }
                | Event::Probe { member, .. }
                | Event::Changed { member, .. } => self.see(self.pool.payload(member).copied()),
                Event::TimedOut { .. }
                | Event::Closed { .. }
                | Event::PinnedMemberRemoved { .. }
                | Event::Drained { .. }
                | Event::Removed { .. } => {}
            }
        }
        let next = self.pool.poll_timeout();
        self.seen.push(Seen {
            member: None,
            at: next.map(Tick::as_nanos),
        });
    }

    fn grant(&mut self, grant: Grant) {
        self.leases.push(grant.lease);
        self.see(self.pool.payload(grant.member).copied());
    }

    fn see(&mut self, member: Option<usize>) {
        self.seen.push(Seen { member, at: None });
    }
}
