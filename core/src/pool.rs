//! The lease pool: members that can serve, leases on them, and those who wait.
//!
//! Invariant: each member is in exactly one place: `ready` (could be leased now), `resting` (could be
//! at a known tick), or neither (only a release or an operator can change that). Whenever somebody
//! waits, `ready` is empty.

use crate::balance::{Policy, Rank, Standing, rank};
use crate::heap::IndexedHeap;
use crate::limit::{Limit, Limiter, Wait};
use crate::slab::{Handle, Slab};
use crate::stats::{Counts, MemberStats, Stats, Waiting};
use crate::time::{Tick, earliest};
use crate::waiters::Waiters;
use alloc::collections::VecDeque;
use core::num::NonZeroU32;
use core::time::Duration;

/// Names a member of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(Handle);

/// Names a lease of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(Handle);

/// Names a request that waits in one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(Handle);

/// How a pool behaves.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    policy: Policy,
    lease_ttl: Option<Duration>,
    max_waiters: u32,
}

impl Config {
    /// A pool that chooses by `policy`, whose leases don't expire, and in whose line any number waits.
    #[must_use]
    pub const fn new(policy: Policy) -> Self {
        Self {
            policy,
            lease_ttl: None,
            max_waiters: u32::MAX,
        }
    }

    /// Takes leases back `ttl` after their grant or last renewal, so that a holder that crashed loses
    /// them. Under a completion anchor the call counts as completed then: choose a `ttl` above the
    /// longest time a call can take.
    ///
    /// # Errors
    /// Where `ttl` is zero.
    pub const fn lease_ttl(mut self, ttl: Duration) -> Result<Self, ConfigError> {
        if ttl.is_zero() {
            return Err(ConfigError::EmptyLease);
        }
        self.lease_ttl = Some(ttl);
        Ok(self)
    }

    /// Refuses requests while `max` wait.
    #[must_use]
    pub const fn max_waiters(mut self, max: u32) -> Self {
        self.max_waiters = max;
        self
    }
}

/// Why a [`Config`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A lease would have ended as it was granted.
    #[error("a lease needs a time to live above zero")]
    EmptyLease,
}

/// A member to be added: a payload and what it can serve.
#[derive(Clone, Debug)]
pub struct Member<T> {
    payload: T,
    max_leases: u32,
    limit: Option<Limiter>,
}

impl<T> Member<T> {
    /// A member that any number of leases can be held on at once.
    pub const fn new(payload: T) -> Self {
        Self {
            payload,
            max_leases: u32::MAX,
            limit: None,
        }
    }

    /// Holds at most `max` leases on it at once.
    #[must_use]
    pub fn max_leases(mut self, max: NonZeroU32) -> Self {
        self.max_leases = max.get();
        self
    }

    /// The same member with another payload.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Member<U> {
        Member {
            payload: change(self.payload),
            max_leases: self.max_leases,
            limit: self.limit,
        }
    }

    /// Grants leases on it only as the limit allows, each at a cost of one.
    #[must_use]
    pub fn limit(mut self, limit: impl Into<Limiter>) -> Self {
        self.limit = Some(limit.into());
        self
    }
}

/// What is asked of a pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    deadline: Option<Tick>,
}

impl Request {
    /// A request that waits for as long as it takes.
    #[must_use]
    pub const fn new() -> Self {
        Self { deadline: None }
    }

    /// Gives up at `deadline`. What can be served at once is, even if the deadline has passed.
    #[must_use]
    pub const fn deadline(mut self, deadline: Tick) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

/// A lease that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The lease, to be released.
    pub lease: LeaseId,
    /// The member it is on.
    pub member: MemberId,
    /// How long the request waited.
    pub waited: Duration,
    /// When the lease is taken back, if ever.
    pub expires: Option<Tick>,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// Here is a lease.
    Granted(Grant),
    /// Wait for the event that names this waiter.
    Waiting(WaiterId),
}

/// Why a request was refused at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// The pool was closed.
    #[error("the pool is closed")]
    Closed,
    /// As many wait as may.
    #[error("the queue is full")]
    QueueFull,
    /// Nothing is free and the deadline has come.
    #[error("nothing is free now")]
    NothingFree,
    /// Every member that could serve is at its limit until the deadline or later, unless a lease is
    /// given back unused.
    #[error("every member is at its limit until after the deadline")]
    DeadlineTooSoon {
        /// When the first of them could serve.
        at: Tick,
    },
}

/// The use of a lease that has ended: it was released, or it expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease has ended")]
pub struct StaleLease;

/// A request that no longer waits: it was granted, timed out or cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request no longer waits")]
pub struct StaleWaiter;

/// A member that was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the member was removed")]
pub struct StaleMember;

/// More than four billion members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pool can hold no more members")]
pub struct TooManyMembers;

/// How the use of a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream served the call.
    Ok,
    /// The call failed, and the upstream may have seen it.
    Failed,
    /// The upstream turned the call away: its member rests until the tick.
    Throttled {
        /// When the upstream said that it would serve again.
        until: Tick,
    },
    /// The upstream never saw the call; it counts against no limit.
    NotSent,
}

/// What happened that no command asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<T> {
    /// A request that waited has its lease.
    Granted {
        /// Whose turn it was.
        waiter: WaiterId,
        /// What it has.
        grant: Grant,
    },
    /// A request reached its deadline in line.
    TimedOut {
        /// Which one.
        waiter: WaiterId,
    },
    /// A request was in line when the pool was closed.
    Closed {
        /// Which one.
        waiter: WaiterId,
    },
    /// A lease was taken back at its deadline.
    Expired {
        /// Which one.
        lease: LeaseId,
        /// The member it was on.
        member: MemberId,
    },
    /// A member that drains has given its last lease back.
    Drained {
        /// Which one.
        member: MemberId,
    },
    /// A member that was removed has given its last lease back.
    Removed {
        /// Which one.
        member: MemberId,
        /// What it carried.
        payload: T,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Enabled,
    Disabled,
    Draining,
    Removing,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    payload: T,
    max_leases: u32,
    limit: Option<Limiter>,
    state: State,
    standing: Standing,
    rests_until: Tick,
    counts: Counts,
    held: Duration,
    /// Whether it is counted in `Pool::occupied`.
    occupied: bool,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    member: Handle,
    granted: Tick,
    booked: Tick,
}

/// Where a member belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ready,
    Resting(Tick),
    /// A release can make it ready at any time.
    Occupied,
    Out,
}

/// Leases members to requests, in order of arrival and within every member's limits.
///
/// Every command costs O(log n) in members, leases and waiters, and O(log n) more for each thing that
/// became due since the last one. Commands on members, leases and waiters that are gone are errors.
///
/// ```
/// use core::num::NonZeroU32;
/// use leasehold_core::balance::Policy;
/// use leasehold_core::pool::{Acquired, Config, Event, Member, Outcome, Pool, Request};
/// use leasehold_core::time::Tick;
///
/// let mut pool = Pool::new(Config::new(Policy::Fifo));
/// let now = Tick::ZERO;
/// pool.add(now, Member::new("http://127.0.0.1:8001").max_leases(NonZeroU32::MIN))?;
///
/// let Acquired::Granted(first) = pool.acquire(now, Request::new())? else { panic!() };
/// let Acquired::Waiting(second) = pool.acquire(now, Request::new())? else { panic!() };
/// pool.release(now, first.lease, Outcome::Ok)?;
/// assert!(matches!(pool.poll_event(), Some(Event::Granted { waiter, .. }) if waiter == second));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pool<T> {
    config: Config,
    /// The latest time seen.
    now: Tick,
    /// Up to when what was due has been done; `now` but while catching up.
    as_of: Tick,
    closed: bool,
    members: Slab<Entry<T>>,
    ready: IndexedHeap<Rank>,
    resting: IndexedHeap<Tick>,
    /// How many members could be leased as soon as somebody releases.
    occupied: u32,
    leases: Slab<Lease>,
    expiries: IndexedHeap<(Tick, u64)>,
    waiters: Waiters,
    /// Counts grants, releases and arrivals; gives each its place in their order.
    sequence: u64,
    /// How often the member chosen last had been used before; where a new member begins.
    level: u64,
    events: VecDeque<Event<T>>,
    total: Counts,
    waiting: Waiting,
}

impl<T> Pool<T> {
    /// A pool without members.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            now: Tick::ZERO,
            as_of: Tick::ZERO,
            closed: false,
            members: Slab::new(),
            ready: IndexedHeap::new(),
            resting: IndexedHeap::new(),
            occupied: 0,
            leases: Slab::new(),
            expiries: IndexedHeap::new(),
            waiters: Waiters::new(),
            sequence: 0,
            level: 0,
            events: VecDeque::new(),
            total: Counts::default(),
            waiting: Waiting::default(),
        }
    }

    /// Adds a member, last in line.
    ///
    /// # Errors
    /// Where the pool has had four billion members at once.
    pub fn add(&mut self, now: Tick, member: Member<T>) -> Result<MemberId, TooManyMembers> {
        self.advance(now);
        let stamp = self.next_stamp();
        let handle = self
            .members
            .insert(Entry {
                payload: member.payload,
                max_leases: member.max_leases,
                limit: member.limit,
                state: State::Enabled,
                standing: Standing {
                    pass: self.level,
                    stamp,
                    ..Standing::default()
                },
                rests_until: Tick::ZERO,
                counts: Counts::default(),
                held: Duration::ZERO,
                occupied: false,
            })
            .ok_or(TooManyMembers)?;
        self.place(handle);
        self.serve();
        Ok(MemberId(handle))
    }

    /// Takes a member out. Its payload comes back at once if no lease is held on it; otherwise no more
    /// are granted, and an [`Event::Removed`] brings it with the last release or expiry.
    ///
    /// # Errors
    /// Where it was removed before.
    pub fn remove(&mut self, now: Tick, member: MemberId) -> Result<Option<T>, StaleMember> {
        self.advance(now);
        let entry = self.member_mut(member)?;
        entry.state = State::Removing;
        let idle = entry.standing.load == 0;
        self.place(member.0);
        let gone = if idle {
            self.members.remove(member.0)
        } else {
            None
        };
        Ok(gone.map(|entry| entry.payload))
    }

    /// Grants no more leases on a member, and tells by an [`Event::Drained`] when none is held on it.
    ///
    /// # Errors
    /// Where it was removed.
    pub fn drain(&mut self, now: Tick, member: MemberId) -> Result<(), StaleMember> {
        self.set_state(now, member, State::Draining)?;
        let idle = self.member_mut(member)?.standing.load == 0;
        if idle {
            self.events.push_back(Event::Drained { member });
        }
        Ok(())
    }

    /// Grants no more leases on a member.
    ///
    /// # Errors
    /// Where it was removed.
    pub fn disable(&mut self, now: Tick, member: MemberId) -> Result<(), StaleMember> {
        self.set_state(now, member, State::Disabled)
    }

    /// Grants leases on a member again that was disabled or drained.
    ///
    /// # Errors
    /// Where it was removed.
    pub fn enable(&mut self, now: Tick, member: MemberId) -> Result<(), StaleMember> {
        self.set_state(now, member, State::Enabled)
    }

    /// Asks for a lease: grants one if a member can serve and nobody waits, or puts the request in line.
    ///
    /// # Errors
    /// Where the request can't be served and may not or need not wait.
    pub fn acquire(&mut self, now: Tick, request: Request) -> Result<Acquired, AcquireError> {
        self.advance(now);
        let answer = self.grant_or_queue(request);
        if answer.is_err() {
            self.waiting.refused = self.waiting.refused.saturating_add(1);
        }
        answer
    }

    /// Takes a request out of the line.
    ///
    /// # Errors
    /// Where it no longer waits; an event says, or has said, what became of it.
    pub fn cancel(&mut self, now: Tick, waiter: WaiterId) -> Result<(), StaleWaiter> {
        self.advance(now);
        self.waiters.remove(waiter.0).ok_or(StaleWaiter)?;
        self.waiting.cancelled = self.waiting.cancelled.saturating_add(1);
        Ok(())
    }

    /// Gives a lease back.
    ///
    /// # Errors
    /// Where it has expired or was released before.
    pub fn release(
        &mut self,
        now: Tick,
        lease: LeaseId,
        outcome: Outcome,
    ) -> Result<(), StaleLease> {
        self.advance(now);
        self.end(lease, Ending::Released(outcome))?;
        self.serve();
        Ok(())
    }

    /// Puts off the expiry of a lease to a whole time to live from now, and tells when that is.
    ///
    /// # Errors
    /// Where it has expired or was released before.
    pub fn renew(&mut self, now: Tick, lease: LeaseId) -> Result<Option<Tick>, StaleLease> {
        self.advance(now);
        if self.leases.get(lease.0).is_none() {
            return Err(StaleLease);
        }
        Ok(self.set_expiry(lease.0))
    }

    /// Refuses every request from now on, and those that wait by an [`Event::Closed`] each. Leases that
    /// are held can still be released.
    pub fn close(&mut self, now: Tick) {
        self.advance(now);
        self.closed = true;
        while let Some((waiter, _)) = self.waiters.pop() {
            self.waiting.cancelled = self.waiting.cancelled.saturating_add(1);
            self.events.push_back(Event::Closed {
                waiter: WaiterId(waiter),
            });
        }
    }

    /// Does what is due: takes leases back, lets requests time out, opens windows and serves who waits.
    ///
    /// All of it in order of time: a request is served if a member became free before its deadline,
    /// and times out if that was at its deadline or later.
    pub fn handle_timeout(&mut self, now: Tick) {
        self.advance(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is wanted next; `None` means never. O(1).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        let expiry = self.expiries.peek().map(|((deadline, _), _)| deadline);
        let opening = self
            .resting
            .peek()
            .map(|(tick, _)| tick)
            .filter(|_| !self.waiters.is_empty());
        earliest(expiry, earliest(opening, self.waiters.next_deadline()))
    }

    /// What happened that no command asked for, oldest first.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event<T>> {
        self.events.pop_front()
    }

    /// What a member carries, as long as it or a lease on it is there.
    #[must_use]
    pub fn payload(&self, member: MemberId) -> Option<&T> {
        self.members.get(member.0).map(|entry| &entry.payload)
    }

    /// The members there are, in the order of their slots.
    pub fn members(&self) -> impl Iterator<Item = (MemberId, &T)> {
        self.members
            .iter()
            .map(|(handle, entry)| (MemberId(handle), &entry.payload))
    }

    /// The figures so far. O(members).
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            total: self.total,
            waiting: Waiting {
                waiting: self.waiters.len(),
                ..self.waiting
            },
            members: self
                .members
                .iter()
                .map(|(handle, entry)| MemberStats {
                    member: MemberId(handle),
                    counts: entry.counts,
                    in_flight: entry.standing.load,
                    held: entry.held,
                })
                .collect(),
        }
    }

    /// Does what has become due since the last command, in order of time, so that a command that comes
    /// late costs nobody their turn. What is granted is granted now, whenever it could have been.
    fn advance(&mut self, now: Tick) {
        self.now = self.now.max(now);
        while let Some(due) = self.poll_timeout().filter(|due| *due <= self.now) {
            self.as_of = self.as_of.max(due);
            self.catch_up();
        }
        self.as_of = self.now;
        self.catch_up();
    }

    /// Does what is due as of `as_of`.
    fn catch_up(&mut self) {
        while let Some(lease) = self.due_lease() {
            let Some(member) = self.leases.get(lease).map(|lease| lease.member) else {
                break;
            };
            self.events.push_back(Event::Expired {
                lease: LeaseId(lease),
                member: MemberId(member),
            });
            if self.end(LeaseId(lease), Ending::Expired).is_err() {
                break;
            }
        }
        while let Some(waiter) = self.waiters.pop_due(self.as_of) {
            self.waiting.timed_out = self.waiting.timed_out.saturating_add(1);
            self.events.push_back(Event::TimedOut {
                waiter: WaiterId(waiter),
            });
        }
        while let Some((opens, slot)) = self.resting.peek()
            && opens <= self.as_of
            && let Some(member) = self.members.handle_at(slot)
        {
            self.place(member);
        }
        self.serve();
    }

    fn due_lease(&self) -> Option<Handle> {
        let ((deadline, _), slot) = self.expiries.peek()?;
        self.leases
            .handle_at(slot)
            .filter(|_| deadline <= self.as_of)
    }

    /// Grants to those who wait while a member is ready.
    fn serve(&mut self) {
        while !self.waiters.is_empty()
            && let Some((member, booked)) = self.take_ready()
        {
            let Some((waiter, since)) = self.waiters.pop() else {
                return;
            };
            if let Some(grant) = self.grant(member, booked, since) {
                self.events.push_back(Event::Granted {
                    waiter: WaiterId(waiter),
                    grant,
                });
            }
        }
    }

    fn grant_or_queue(&mut self, request: Request) -> Result<Acquired, AcquireError> {
        if self.closed {
            return Err(AcquireError::Closed);
        }
        if let Some((member, booked)) = self.take_ready() {
            let grant = self.grant(member, booked, self.now);
            return grant.map(Acquired::Granted).ok_or(AcquireError::QueueFull);
        }
        if let Some(deadline) = request.deadline {
            if deadline <= self.now {
                return Err(AcquireError::NothingFree);
            }
            if let Some((at, _)) = self.resting.peek()
                && at >= deadline
                && self.occupied == 0
            {
                return Err(AcquireError::DeadlineTooSoon { at });
            }
        }
        if self.waiters.len() >= self.config.max_waiters {
            return Err(AcquireError::QueueFull);
        }
        self.waiters
            .push(self.now, request.deadline)
            .map(|waiter| Acquired::Waiting(WaiterId(waiter)))
            .ok_or(AcquireError::QueueFull)
    }

    /// Books one unit with the member whose turn it is.
    fn take_ready(&mut self) -> Option<(Handle, Tick)> {
        while self.leases.has_room()
            && let Some((_, slot)) = self.ready.peek()
        {
            let member = self.members.handle_at(slot)?;
            let entry = self.members.get_mut(member)?;
            let booked = match &mut entry.limit {
                Some(limit) => limit.try_acquire(self.now, 1).ok(),
                None => Some(self.now),
            };
            match booked {
                Some(booked) => return Some((member, booked)),
                None => self.place(member),
            }
        }
        None
    }

    /// Makes the lease on a member that one unit has been booked with.
    fn grant(&mut self, member: Handle, booked: Tick, since: Tick) -> Option<Grant> {
        let stamp = self.next_stamp();
        let entry = self.members.get_mut(member)?;
        let standing = &mut entry.standing;
        self.level = standing.pass;
        standing.load = standing.load.saturating_add(1);
        standing.pass = standing.pass.saturating_add(1);
        standing.stamp = stamp;
        for counts in [&mut entry.counts, &mut self.total] {
            counts.granted = counts.granted.saturating_add(1);
        }
        let lease = self.leases.insert(Lease {
            member,
            granted: self.now,
            booked,
        })?;
        self.place(member);
        let waited = self.now.since(since);
        self.waiting.waited = self.waiting.waited.saturating_add(waited);
        self.waiting.longest = self.waiting.longest.max(waited);
        Some(Grant {
            lease: LeaseId(lease),
            member: MemberId(member),
            waited,
            expires: self.set_expiry(lease),
        })
    }

    fn set_expiry(&mut self, lease: Handle) -> Option<Tick> {
        let expires = self.now.saturating_add(self.config.lease_ttl?);
        let stamp = self.next_stamp();
        self.expiries.set(lease.slot(), (expires, stamp));
        Some(expires)
    }

    fn end(&mut self, lease: LeaseId, ending: Ending) -> Result<(), StaleLease> {
        let ended = self.leases.remove(lease.0).ok_or(StaleLease)?;
        self.expiries.remove(lease.0.slot());
        let stamp = self.next_stamp();
        let entry = self.members.get_mut(ended.member).ok_or(StaleLease)?;
        let standing = &mut entry.standing;
        standing.load = standing.load.saturating_sub(1);
        standing.stamp = stamp;
        entry.held = entry.held.saturating_add(self.now.since(ended.granted));
        for counts in [&mut entry.counts, &mut self.total] {
            let counter = match ending {
                Ending::Released(Outcome::Ok) => &mut counts.ok,
                Ending::Released(Outcome::Failed) => &mut counts.failed,
                Ending::Released(Outcome::Throttled { .. }) => &mut counts.throttled,
                Ending::Released(Outcome::NotSent) => &mut counts.not_sent,
                Ending::Expired => &mut counts.expired,
            };
            *counter = counter.saturating_add(1);
        }
        if let Ending::Released(Outcome::Throttled { until }) = ending {
            entry.rests_until = entry.rests_until.max(until);
        }
        let actual = match ending {
            Ending::Released(Outcome::NotSent) => {
                standing.pass = standing.pass.saturating_sub(1);
                0
            }
            Ending::Released(Outcome::Ok | Outcome::Failed | Outcome::Throttled { .. })
            | Ending::Expired => 1,
        };
        if let Some(limit) = &mut entry.limit {
            limit.settle(self.now, ended.booked, 1, actual);
        }
        self.place(ended.member);
        self.see_off(ended.member);
        Ok(())
    }

    /// Tells of a member that was only waiting for its last lease.
    fn see_off(&mut self, handle: Handle) {
        let Some(entry) = self.members.get(handle) else {
            return;
        };
        if entry.standing.load > 0 {
            return;
        }
        let member = MemberId(handle);
        match entry.state {
            State::Enabled | State::Disabled => {}
            State::Draining => self.events.push_back(Event::Drained { member }),
            State::Removing => {
                if let Some(entry) = self.members.remove(handle) {
                    self.events.push_back(Event::Removed {
                        member,
                        payload: entry.payload,
                    });
                }
            }
        }
    }

    fn set_state(&mut self, now: Tick, member: MemberId, state: State) -> Result<(), StaleMember> {
        self.advance(now);
        self.member_mut(member)?.state = state;
        self.place(member.0);
        self.serve();
        Ok(())
    }

    fn member_mut(&mut self, member: MemberId) -> Result<&mut Entry<T>, StaleMember> {
        self.members
            .get_mut(member.0)
            .filter(|entry| entry.state != State::Removing)
            .ok_or(StaleMember)
    }

    /// Puts a member where it belongs now.
    fn place(&mut self, member: Handle) {
        let Some(entry) = self.members.get_mut(member) else {
            return;
        };
        let place = entry.belongs(self.as_of);
        let rank = rank(self.config.policy, &entry.standing, 1);
        let occupied = place == Place::Occupied;
        match (entry.occupied, occupied) {
            (false, true) => self.occupied = self.occupied.saturating_add(1),
            (true, false) => self.occupied = self.occupied.saturating_sub(1),
            (true, true) | (false, false) => {}
        }
        entry.occupied = occupied;
        let slot = member.slot();
        match place {
            Place::Ready => self.ready.set(slot, rank),
            Place::Resting(_) | Place::Occupied | Place::Out => drop(self.ready.remove(slot)),
        }
        match place {
            Place::Resting(until) => self.resting.set(slot, until),
            Place::Ready | Place::Occupied | Place::Out => drop(self.resting.remove(slot)),
        }
    }

    fn next_stamp(&mut self) -> u64 {
        self.sequence = self.sequence.saturating_add(1);
        self.sequence
    }
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    Released(Outcome),
    Expired,
}

impl<T> Entry<T> {
    fn belongs(&self, now: Tick) -> Place {
        if self.state != State::Enabled {
            return Place::Out;
        }
        if self.standing.load >= self.max_leases {
            return Place::Occupied;
        }
        let from = now.max(self.rests_until);
        let wait = match &self.limit {
            Some(limit) => limit.earliest(from, 1),
            None => Wait::Until(from),
        };
        match wait {
            Wait::Until(tick) if tick <= now => Place::Ready,
            Wait::Until(tick) => Place::Resting(tick),
            Wait::ForSettlement => Place::Occupied,
            Wait::Never => Place::Out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{Anchor, SlidingLog};

    fn tick(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    fn one_at_a_time(ttl: u64) -> Pool<()> {
        let config = Config::new(Policy::Fifo).lease_ttl(Duration::from_nanos(ttl));
        let mut pool = Pool::new(config.unwrap());
        let member = Member::new(()).max_leases(NonZeroU32::MIN);
        pool.add(tick(0), member).unwrap();
        pool
    }

    #[test]
    fn a_lease_is_gone_at_its_deadline_exactly() {
        for (now, there) in [(9, true), (10, false)] {
            let mut pool = one_at_a_time(10);
            let Ok(Acquired::Granted(grant)) = pool.acquire(tick(0), Request::new()) else {
                panic!("the member is free");
            };
            let released = pool.release(tick(now), grant.lease, Outcome::Ok);
            assert_eq!(released.is_ok(), there);
        }
    }

    #[test]
    fn a_late_call_costs_nobody_what_came_before_their_deadline() {
        for (deadline, served) in [(10, false), (11, true), (20, true)] {
            let mut pool = one_at_a_time(10);
            pool.acquire(tick(0), Request::new()).unwrap();
            let request = Request::new().deadline(tick(deadline));
            pool.acquire(tick(1), request).unwrap();
            pool.handle_timeout(tick(25));
            let events = core::iter::from_fn(|| pool.poll_event());
            let granted = events.filter(|event| matches!(event, Event::Granted { .. }));
            assert_eq!(granted.count() == 1, served, "{deadline}");
        }
    }

    #[test]
    fn many_windows_that_went_by_unseen_admit_no_more_than_one() {
        let mut pool = Pool::new(Config::new(Policy::Fifo));
        let log = SlidingLog::new(NonZeroU32::MIN, Duration::from_nanos(10), Anchor::Grant);
        pool.add(tick(0), Member::new(()).limit(log.unwrap()))
            .unwrap();
        for _ in 0..5 {
            pool.acquire(tick(0), Request::new()).unwrap();
        }
        pool.handle_timeout(tick(1_000));
        assert_eq!(pool.stats().total.granted, 2);
        assert_eq!(pool.poll_timeout(), Some(tick(1_010)));
    }
}
