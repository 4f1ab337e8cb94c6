//! The blocking pool: who holds the lock, who sleeps, and who keeps time.
//!
//! Invariant: whenever the lock is free and the core has a deadline that somebody waits for, exactly
//! one of the waiting threads is the timekeeper, and it sleeps no longer than until that deadline.

use crate::clock::Clock;
use crate::parker::{Fate, Parker, Woken};
use crate::sync::{Arc, Mutex, MutexGuard, lock};
use core::fmt;
use core::ops::Deref;
use core::time::Duration;
use leasehold_core::pool::{
    self, Acquired, AddError, Config, Event, Grant, LeaseId, Member, MemberId, Outcome, Pool,
    Request, StaleMember, WaiterId,
};
use leasehold_core::stats::Stats;
use leasehold_core::time::Tick;
use std::collections::BTreeMap;

/// Why no lease was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// The pool was closed before or while the request waited.
    #[error("the pool is closed")]
    Closed,
    /// As many requests wait as may.
    #[error("the queue is full")]
    QueueFull,
    /// Nothing is free, and the request was not to wait.
    #[error("nothing is free now")]
    NothingFree,
    /// The request waited for as long as it was to.
    #[error("nothing became free in time")]
    TimedOut,
    /// Every member that could serve is at its limit for longer than the request was to wait.
    #[error("every member is at its limit for another {wait:?}")]
    DeadlineTooSoon {
        /// How long until the first of them could serve.
        wait: Duration,
    },
    /// The request costs more than any limit ever admits.
    #[error("the request costs more than any limit admits")]
    NeverFits,
    /// The member it is pinned to was removed, before or while it waited.
    #[error("the member that the request names was removed")]
    StalePin,
    /// There are as many kinds of request as the pool keeps lanes for.
    #[error("the pool has no lane left for another class or set of labels")]
    TooManyLanes,
}

/// A lease that was released after it had expired; somebody else may have had its permit since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease expired before it was released")]
pub struct LeaseExpired;

/// A lease pool that threads share. Clones are the same pool.
///
/// ```
/// use core::num::NonZeroU32;
/// use leasehold_sync::SyncPool;
/// use leasehold_sync::core::balance::Policy;
/// use leasehold_sync::core::pool::{Config, Member, Outcome};
///
/// let pool = SyncPool::new(Config::new(Policy::Fifo));
/// pool.add(Member::new("127.0.0.1:8001").max_leases(NonZeroU32::MIN))?;
/// let lease = pool.acquire()?;
/// assert_eq!(*lease, "127.0.0.1:8001");
/// assert!(pool.try_acquire().is_err());
/// lease.release(Outcome::Ok)?;
/// assert!(pool.try_acquire().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SyncPool<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    clock: Clock,
    state: Mutex<State<T>>,
}

struct State<T> {
    pool: Pool<Arc<T>>,
    parked: BTreeMap<WaiterId, Arc<Parker<T>>>,
    keeper: Option<Keeper>,
}

/// The waiting thread that keeps time for all.
#[derive(Clone, Copy)]
struct Keeper {
    waiter: WaiterId,
    /// When it will wake by itself.
    alarm: Option<Tick>,
}

/// Mail to be delivered once the lock is free, so that who wakes doesn't run into it.
type Mail<T> = Vec<(Arc<Parker<T>>, Option<Fate<T>>)>;

impl<T> SyncPool<T> {
    /// A pool without members; its clock starts now.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            shared: Arc::new(Shared {
                clock: Clock::start(),
                state: Mutex::new(State {
                    pool: Pool::new(config),
                    parked: BTreeMap::new(),
                    keeper: None,
                }),
            }),
        }
    }

    /// Waits for a lease for as long as it takes.
    ///
    /// # Errors
    /// Where the pool is closed, or its queue full.
    pub fn acquire(&self) -> Result<Lease<T>, AcquireError> {
        self.acquire_by(|_| Request::new())
    }

    /// Waits for a lease, but no longer than `timeout`; and not at all if it is plain that none can be
    /// had by then.
    ///
    /// # Errors
    /// Where there is none in time, the pool is closed, or its queue full.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Lease<T>, AcquireError> {
        self.acquire_by(|now| Request::new().deadline(now.saturating_add(timeout)))
    }

    /// Takes a lease if there is one now and nobody waits for it.
    ///
    /// # Errors
    /// Where there is none, or the pool is closed.
    pub fn try_acquire(&self) -> Result<Lease<T>, AcquireError> {
        self.acquire_by(|now| Request::new().deadline(now))
    }

    /// Adds a member.
    ///
    /// # Errors
    /// Where the pool has had four billion members at once.
    pub fn add(&self, member: Member<T>) -> Result<MemberId, AddError> {
        let member = member.map(Arc::new);
        self.shared.command(|pool, now| pool.add(now, member))
    }

    /// Takes a member out; leases that are held on it stay good until they are released.
    ///
    /// # Errors
    /// Where it was removed before.
    pub fn remove(&self, member: MemberId) -> Result<(), StaleMember> {
        let removed = self.shared.command(|pool, now| pool.remove(now, member));
        removed.map(drop)
    }

    /// Grants no more leases on a member.
    ///
    /// # Errors
    /// Where it was removed.
    pub fn disable(&self, member: MemberId) -> Result<(), StaleMember> {
        self.shared.command(|pool, now| pool.disable(now, member))
    }

    /// Grants leases on a member again.
    ///
    /// # Errors
    /// Where it was removed.
    pub fn enable(&self, member: MemberId) -> Result<(), StaleMember> {
        self.shared.command(|pool, now| pool.enable(now, member))
    }

    /// Refuses every request from now on, and wakes those that wait. Leases that are held stay good.
    pub fn close(&self) {
        self.shared.command(Pool::close);
    }

    /// The figures so far. O(members), under the lock.
    #[must_use]
    pub fn stats(&self) -> Stats {
        lock(&self.shared.state).pool.stats()
    }

    fn acquire_by(&self, request: impl FnOnce(Tick) -> Request) -> Result<Lease<T>, AcquireError> {
        let shared = &self.shared;
        let mut state = lock(&shared.state);
        let now = shared.clock.now();
        let answer = state.pool.acquire(now, request(now));
        let (waiter, parker) = match answer {
            Ok(Acquired::Granted(grant)) => {
                let payload = state.pool.payload(grant.member).map(Arc::clone);
                shared.unlock(state);
                // A member outlives the leases on it.
                let payload = payload.ok_or(AcquireError::NothingFree)?;
                return Ok(self.lease(grant, payload));
            }
            Ok(Acquired::Waiting(waiter)) => {
                let parker = Arc::new(Parker::new());
                state.parked.insert(waiter, Arc::clone(&parker));
                state.volunteer(waiter);
                (waiter, parker)
            }
            Err(refused) => {
                shared.unlock(state);
                return Err(refusal(refused, now));
            }
        };
        loop {
            let alarm = state.alarm_of(waiter);
            shared.unlock(state);
            match parker.park(alarm, &shared.clock) {
                Woken::Decided(Fate::Granted(grant, payload)) => {
                    return Ok(self.lease(grant, payload));
                }
                Woken::Decided(Fate::TimedOut) => return Err(AcquireError::TimedOut),
                Woken::Decided(Fate::Closed) => return Err(AcquireError::Closed),
                Woken::Decided(Fate::PinRemoved) => return Err(AcquireError::StalePin),
                Woken::Nudged => {
                    state = lock(&shared.state);
                    state.keep_time(waiter, shared.clock.now());
                }
            }
        }
    }

    fn lease(&self, grant: Grant, payload: Arc<T>) -> Lease<T> {
        Lease {
            shared: Arc::clone(&self.shared),
            payload,
            grant,
            held: true,
        }
    }
}

impl<T> Shared<T> {
    fn command<R>(&self, command: impl FnOnce(&mut Pool<Arc<T>>, Tick) -> R) -> R {
        let mut state = lock(&self.state);
        let now = self.clock.now();
        let answer = command(&mut state.pool, now);
        self.unlock(state);
        answer
    }

    /// Frees the lock and then tells everyone whose request the last command decided.
    fn unlock(&self, mut state: MutexGuard<'_, State<T>>) {
        let mail = state.sort_mail();
        drop(state);
        for (parker, fate) in mail {
            match fate {
                Some(fate) => parker.decide(fate),
                None => parker.nudge(),
            }
        }
    }
}

impl<T> State<T> {
    fn sort_mail(&mut self) -> Mail<T> {
        let mut mail = Mail::new();
        while let Some(event) = self.pool.poll_event() {
            let (waiter, fate) = match event {
                Event::Granted { waiter, grant } => {
                    let payload = self.pool.payload(grant.member).map(Arc::clone);
                    let fate = payload.map(|payload| Fate::Granted(grant, payload));
                    // A member outlives the leases on it.
                    (waiter, fate.unwrap_or(Fate::TimedOut))
                }
                Event::TimedOut { waiter } => (waiter, Fate::TimedOut),
                Event::Closed { waiter } => (waiter, Fate::Closed),
                Event::PinRemoved { waiter } => (waiter, Fate::PinRemoved),
                Event::Expired { .. }
                | Event::Drained { .. }
                | Event::Removed { .. }
                | Event::Probe { .. }
                | Event::Changed { .. } => continue,
            };
            if self.keeper.is_some_and(|keeper| keeper.waiter == waiter) {
                self.keeper = None;
            }
            if let Some(parker) = self.parked.remove(&waiter) {
                mail.push((parker, Some(fate)));
            }
        }
        let Some(due) = self.pool.poll_timeout() else {
            return mail;
        };
        let heir = self.parked.last_key_value().map(|(waiter, _)| *waiter);
        let keeper = self.keeper.map(|keeper| keeper.waiter).or(heir);
        if let Some(waiter) = keeper
            && self.alarm_of(waiter).is_none_or(|alarm| alarm > due)
            && let Some(parker) = self.parked.get(&waiter)
        {
            mail.push((Arc::clone(parker), None));
            self.keeper = Some(Keeper {
                waiter,
                alarm: Some(due),
            });
        }
        mail
    }

    /// Makes a thread that is about to sleep the timekeeper, if there is none.
    fn volunteer(&mut self, waiter: WaiterId) {
        let alarm = self.pool.poll_timeout();
        self.keeper.get_or_insert(Keeper { waiter, alarm });
    }

    fn alarm_of(&self, waiter: WaiterId) -> Option<Tick> {
        let keeper = self.keeper.filter(|keeper| keeper.waiter == waiter)?;
        keeper.alarm
    }

    /// Lets the core do what is due, if this is the timekeeper, and sets its next alarm.
    fn keep_time(&mut self, waiter: WaiterId, now: Tick) {
        if self.keeper.is_some_and(|keeper| keeper.waiter == waiter) {
            self.pool.handle_timeout(now);
            let alarm = self.pool.poll_timeout();
            self.keeper = Some(Keeper { waiter, alarm });
        }
    }
}

fn refusal(error: pool::AcquireError, now: Tick) -> AcquireError {
    match error {
        pool::AcquireError::Closed => AcquireError::Closed,
        pool::AcquireError::QueueFull => AcquireError::QueueFull,
        pool::AcquireError::NothingFree => AcquireError::NothingFree,
        pool::AcquireError::DeadlineTooSoon { at } => AcquireError::DeadlineTooSoon {
            wait: at.since(now),
        },
        pool::AcquireError::NeverFits => AcquireError::NeverFits,
        pool::AcquireError::StalePin => AcquireError::StalePin,
        pool::AcquireError::TooManyLanes => AcquireError::TooManyLanes,
    }
}

impl<T> Clone for SyncPool<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> fmt::Debug for SyncPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncPool").finish_non_exhaustive()
    }
}

/// A lease on a member, which it dereferences to. Dropped without [`release`](Self::release) it counts
/// as served, or as failed where the thread panics.
pub struct Lease<T> {
    shared: Arc<Shared<T>>,
    payload: Arc<T>,
    grant: Grant,
    held: bool,
}

impl<T> Lease<T> {
    /// The member it is on.
    #[must_use]
    pub fn member(&self) -> MemberId {
        self.grant.member
    }

    /// How long the request waited.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.grant.waited
    }

    /// Gives the lease back.
    ///
    /// # Errors
    /// Where it has expired.
    pub fn release(self, outcome: Outcome) -> Result<(), LeaseExpired> {
        self.give_back(|_| outcome)
    }

    /// Gives the lease back after the upstream turned the call away; its member rests for `pause`.
    ///
    /// # Errors
    /// Where it has expired.
    pub fn release_throttled(self, pause: Duration) -> Result<(), LeaseExpired> {
        self.give_back(|now| Outcome::Throttled {
            until: now.saturating_add(pause),
        })
    }

    fn give_back(mut self, outcome: impl FnOnce(Tick) -> Outcome) -> Result<(), LeaseExpired> {
        self.held = false;
        self.end(outcome)
    }

    fn end(&self, outcome: impl FnOnce(Tick) -> Outcome) -> Result<(), LeaseExpired> {
        let lease: LeaseId = self.grant.lease;
        let released = self
            .shared
            .command(|pool, now| pool.release(now, lease, outcome(now)));
        released.map_err(|_| LeaseExpired)
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        if self.held {
            let outcome = if std::thread::panicking() {
                Outcome::Failed
            } else {
                Outcome::Ok
            };
            // An expired lease has been taken back already.
            let _ = self.end(|_| outcome);
        }
    }
}

impl<T> Deref for Lease<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.payload
    }
}

impl<T> fmt::Debug for Lease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("grant", &self.grant)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use core::num::NonZeroU32;
    use core::sync::atomic::{AtomicU32, Ordering};
    use leasehold_core::balance::Policy;
    use leasehold_core::limit::{Anchor, SlidingLog};
    use std::sync::mpsc;
    use std::thread;

    const LONG: Duration = Duration::from_secs(30);

    fn pool(members: u32) -> SyncPool<u32> {
        let pool = SyncPool::new(Config::new(Policy::Fifo));
        for name in 0..members {
            let member = Member::new(name).max_leases(NonZeroU32::MIN);
            pool.add(member).expect("a small pool takes members");
        }
        pool
    }

    fn wait_until_parked(pool: &SyncPool<u32>, count: u32) {
        while pool.stats().waiting.waiting < count {
            thread::yield_now();
        }
    }

    #[test]
    fn a_lease_goes_back_on_drop_and_on_panic() {
        let pool = pool(1);
        drop(pool.acquire().unwrap());
        let theirs = pool.clone();
        let panicked = thread::spawn(move || {
            let _lease = theirs.acquire().unwrap();
            panic!("a worker that dies");
        });
        assert!(panicked.join().is_err());
        assert!(pool.try_acquire().is_ok());
        let total = pool.stats().total;
        assert_eq!((total.ok, total.failed), (2, 1));
    }

    #[test]
    fn those_who_wait_are_served_in_order() {
        let pool = pool(1);
        let lease = pool.acquire().unwrap();
        let (served, order) = mpsc::channel();
        thread::scope(|scope| {
            for name in 0..5 {
                let (pool, served) = (&pool, served.clone());
                scope.spawn(move || {
                    let _lease = pool.acquire().unwrap();
                    served.send(name).unwrap();
                });
                wait_until_parked(pool, name + 1);
            }
            drop(lease);
        });
        drop(served);
        assert_eq!(order.iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn one_keeper_of_time_lets_every_waiter_time_out() {
        let pool = pool(1);
        let _held = pool.acquire().unwrap();
        thread::scope(|scope| {
            for name in 0..8u64 {
                let timeout = Duration::from_millis(20 + 10 * (7 - name));
                let pool = &pool;
                scope.spawn(move || {
                    let refused = pool.acquire_timeout(timeout).unwrap_err();
                    assert_eq!(refused, AcquireError::TimedOut);
                });
            }
        });
        assert_eq!(pool.stats().waiting.timed_out, 8);
    }

    #[test]
    fn a_window_that_opens_wakes_who_waits_for_it() {
        let pool = SyncPool::new(Config::new(Policy::Fifo));
        let window = Duration::from_millis(50);
        let limit = SlidingLog::new(NonZeroU32::MIN, window, Anchor::Completion).unwrap();
        pool.add(Member::new("key").limit(limit)).unwrap();
        let ends = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    pool.acquire_timeout(LONG).unwrap();
                    ends.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(ends.into_inner(), 4);
        assert!(pool.stats().waiting.longest >= window * 2);
    }

    #[test]
    fn a_deadline_before_any_window_opens_is_refused_at_once() {
        let pool = SyncPool::new(Config::new(Policy::Fifo));
        let limit = SlidingLog::new(NonZeroU32::MIN, LONG, Anchor::Grant).unwrap();
        pool.add(Member::new("key").limit(limit)).unwrap();
        drop(pool.acquire().unwrap());
        let refused = pool.acquire_timeout(LONG / 2).unwrap_err();
        assert!(
            matches!(refused, AcquireError::DeadlineTooSoon { wait } if wait > LONG / 2),
            "{refused:?}"
        );
    }

    #[test]
    fn close_wakes_all_and_leaves_held_leases_good() {
        let pool = pool(1);
        let held = pool.acquire().unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(pool.acquire().unwrap_err(), AcquireError::Closed));
            }
            wait_until_parked(&pool, 4);
            pool.close();
        });
        assert_eq!(pool.acquire().unwrap_err(), AcquireError::Closed);
        assert_eq!(held.release(Outcome::Ok), Ok(()));
    }

    #[test]
    fn a_forgotten_lease_comes_back_at_its_expiry() {
        let ttl = Duration::from_millis(30);
        let pool = SyncPool::new(Config::new(Policy::Fifo).lease_ttl(ttl).unwrap());
        pool.add(Member::new(0).max_leases(NonZeroU32::MIN))
            .unwrap();
        core::mem::forget(pool.acquire().unwrap());
        let late = pool.acquire_timeout(LONG).unwrap();
        assert!(late.waited() >= ttl);
        assert_eq!(pool.stats().total.expired, 1);
    }

    #[test]
    fn a_member_added_later_serves_who_waits_already() {
        let pool = pool(0);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| *pool.acquire().unwrap());
            wait_until_parked(&pool, 1);
            pool.add(Member::new(7)).unwrap();
            assert_eq!(waiter.join().unwrap(), 7);
        });
    }
}

/// What loom explores: every interleaving of the lock, the mail, the parked threads and the clock, which a
/// test sets and then rings for those that sleep until then.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use core::num::NonZeroU32;
    use leasehold_core::balance::Policy;
    use leasehold_core::limit::{Anchor, SlidingLog};
    use loom::thread;

    const TEN: Duration = Duration::from_nanos(10);

    fn pool() -> SyncPool<u32> {
        let pool = SyncPool::new(Config::new(Policy::Fifo));
        let member = Member::new(0).max_leases(NonZeroU32::MIN);
        pool.add(member).expect("a small pool takes members");
        pool
    }

    /// Whether a thread of its own got a lease, by a deadline if there is one.
    fn wait(pool: &SyncPool<u32>, deadline: Option<u64>) -> thread::JoinHandle<bool> {
        let pool = pool.clone();
        thread::spawn(move || {
            let request = Request::new();
            let request = match deadline {
                Some(deadline) => request.deadline(Tick::from_nanos(deadline)),
                None => request,
            };
            pool.acquire_by(|_| request).is_ok()
        })
    }

    /// Lets time pass: whoever sleeps until then wakes.
    fn set_clock(pool: &SyncPool<u32>, nanos: u64) {
        let now = Tick::from_nanos(nanos);
        pool.shared.clock.set(now);
        let parked: Vec<_> = lock(&pool.shared.state).parked.values().cloned().collect();
        parked.iter().for_each(|parker| parker.ring(now));
    }

    #[test]
    fn two_acquirers_share_one_permit() {
        loom::model(|| {
            let pool = pool();
            let other = wait(&pool, None);
            drop(pool.acquire().unwrap());
            assert!(other.join().unwrap());
            assert_eq!(pool.stats().total.ok, 2);
        });
    }

    #[test]
    fn close_never_strands_a_waiter() {
        loom::model(|| {
            let pool = pool();
            let held = pool.acquire().unwrap();
            let waiter = wait(&pool, None);
            pool.close();
            drop(held);
            assert!(!waiter.join().unwrap());
        });
    }

    #[test]
    fn a_release_against_a_close_decides_a_waiter_once() {
        loom::model(|| {
            let pool = pool();
            let held = pool.acquire().unwrap();
            let waiter = wait(&pool, None);
            let closer = pool.clone();
            let closer = thread::spawn(move || closer.close());
            drop(held);
            closer.join().unwrap();
            let served = waiter.join().unwrap();
            assert_eq!(pool.stats().total.ok, 1 + u64::from(served));
        });
    }

    #[test]
    fn a_release_against_a_timeout_serves_or_refuses_and_loses_no_permit() {
        loom::model(|| {
            let pool = pool();
            let held = pool.acquire().unwrap();
            let waiter = wait(&pool, Some(10));
            let clock = pool.clone();
            let clock = thread::spawn(move || set_clock(&clock, 10));
            drop(held);
            clock.join().unwrap();
            let served = waiter.join().unwrap();
            assert!(pool.try_acquire().is_ok());
            assert_eq!(pool.stats().total.ok, 2 + u64::from(served));
        });
    }

    #[test]
    fn a_window_that_opens_wakes_who_waits_for_it() {
        loom::model(|| {
            let pool = SyncPool::new(Config::new(Policy::Fifo));
            let log = SlidingLog::new(NonZeroU32::MIN, TEN, Anchor::Completion).unwrap();
            pool.add(Member::new(0).limit(log)).unwrap();
            let held = pool.acquire().unwrap();
            let waiter = wait(&pool, None);
            // The release is what sets the time that the waiter has to wake at.
            drop(held);
            set_clock(&pool, 10);
            assert!(waiter.join().unwrap());
        });
    }

    #[test]
    fn a_window_that_opens_before_the_alarm_wakes_who_waits_for_it() {
        loom::model(|| {
            let pool = SyncPool::new(Config::new(Policy::Fifo));
            let log = SlidingLog::new(NonZeroU32::MIN, TEN, Anchor::Completion).unwrap();
            pool.add(Member::new(0).limit(log)).unwrap();
            let held = pool.acquire().unwrap();
            let waiter = wait(&pool, Some(20));
            drop(held);
            set_clock(&pool, 10);
            assert!(waiter.join().unwrap());
        });
    }

    #[test]
    fn an_earlier_deadline_does_not_wait_for_a_later_one() {
        loom::model(|| {
            let pool = pool();
            let held = pool.acquire().unwrap();
            let late = wait(&pool, Some(20));
            let soon = wait(&pool, Some(10));
            set_clock(&pool, 10);
            assert!(!soon.join().unwrap());
            drop(held);
            assert!(late.join().unwrap());
        });
    }

    #[test]
    fn a_timekeeper_that_leaves_strands_nobody() {
        loom::model(|| {
            let pool = pool();
            let held = pool.acquire().unwrap();
            let first = wait(&pool, Some(10));
            let second = wait(&pool, Some(20));
            set_clock(&pool, 10);
            assert!(!first.join().unwrap());
            set_clock(&pool, 20);
            assert!(!second.join().unwrap());
            drop(held);
        });
    }

    #[test]
    fn a_timekeeper_that_is_served_strands_nobody() {
        loom::model(|| {
            let pool = pool();
            let held = pool.acquire().unwrap();
            let one = wait(&pool, None);
            let other = wait(&pool, Some(10));
            drop(held);
            set_clock(&pool, 10);
            assert!(one.join().unwrap());
            // It is served or refused, but it doesn't wait for ever.
            let _ = other.join().unwrap();
            assert!(pool.try_acquire().is_ok());
        });
    }
}
