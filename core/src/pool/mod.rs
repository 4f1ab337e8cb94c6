//! The lease pool: members that can serve, leases on them, and those who wait.
//!
//! Invariant: after each command, no lane has both somebody who waits and a member that could serve
//! whose turn it is, unless the pool's own limits forbid it.

mod config;
mod hold_times;
mod inspect;
mod lane;
mod member;
mod member_health;
mod membership;
mod queue;
mod release;
mod request;
mod select;
mod service_times;
#[cfg(feature = "serde")]
mod snapshot;
pub mod stats;

pub use config::{PoolConfig, PoolConfigError};
pub use member::Member;
pub use request::{
    AcquireError, Acquired, AddError, Eligibility, Estimate, Event, Grant, HealthChange, Labels,
    Outcome, ProbeResult, Release, Request, StaleLease, StaleMember, StaleProbe, StaleWaiter,
};

#[cfg(feature = "serde")]
pub use snapshot::{PoolSnapshot, RestoreError};

use crate::affinity::Affinity;
use crate::balance::{PeakEwma, pass};
use crate::health::OutlierDetector;
use crate::health::Permit;
use crate::health::{ProbeAnswer, ProbeNumber};
use crate::limit::{Booking, Cost, LimitSet};
use crate::time::{Tick, earliest};
use crate::util::heap::IndexedHeap;
use crate::util::slab::{Handle, Slab};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::num::NonZeroU32;
use hold_times::Batch;
use lane::{Kind, Lane, Opening};
use member::{Entry, State, Surroundings};
use queue::Waiters;
use release::{Ending, Phantom};
use service_times::ServiceTimes;
use stats::{Histogram, LeaseCounts, QueueStats};

/// Names a member of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(Handle);

/// Names a lease of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(Handle);

/// Names a request that waits in one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(Handle);

/// Names a group of members that share limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct GroupId(NonZeroU32);

impl GroupId {
    fn index(self) -> usize {
        (self.0.get() as usize).saturating_sub(1)
    }
}

/// Names a probe of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeId {
    member: Handle,
    probe: ProbeNumber,
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Lease {
    #[cfg_attr(feature = "serde", serde(skip, default = "Handle::nowhere"))]
    member: Handle,
    granted: Tick,
    class: u32,
    cost: Cost,
    stride: u64,
    booked: Bookings,
    permit: Option<Permit>,
}

/// Where a lease's cost is booked.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Bookings {
    member: Booking,
    group: Option<Booking>,
    pool: Option<Booking>,
}

#[derive(Clone, Debug)]
struct Group {
    limits: LimitSet,
    members: Vec<u32>,
    /// Whether one of its members may rest because of its limits.
    holds_back: bool,
}

/// Leases members to requests, in order of arrival and within every member's limits.
///
/// Every command costs O(log n) in members, leases and waiters for each lane that the member or waiter
/// is in, and as much more for each thing that became due since the last one. Above that:
/// - where the costs of requests in one lane differ, each change looks again at the members that had no
///   room for the last;
/// - a grant or release in a [group](Member::group) at its limit looks at the members of the group;
/// - where members share limits, every command looks at the lanes in which somebody waits;
/// - the first request of a kind, going in and out of panic, and a queued request that costs more than one
///   request and fits nobody look at all members.
///
/// Commands on members, leases and waiters that are gone are errors.
///
/// ```
/// use core::num::NonZeroU32;
/// use leasehold_core::balance::Policy;
/// use leasehold_core::pool::{Acquired, PoolConfig, Event, Member, Outcome, Pool, Request};
/// use leasehold_core::time::Tick;
///
/// let mut pool = Pool::new(PoolConfig::new(Policy::Fifo));
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
    config: PoolConfig,
    /// The latest time seen.
    now: Tick,
    /// Up to when what was due has been done; `now` but while catching up.
    as_of: Tick,
    closed: bool,
    members: Slab<Entry<T>>,
    groups: Vec<Group>,
    lanes: Vec<Option<Lane>>,
    kinds: BTreeMap<Kind, u32>,
    /// Lanes that aren't for a pinned request.
    general: Vec<u32>,
    /// Numbers of lanes that are no longer in use.
    vacant: Vec<u32>,
    /// The lanes of requests that are pinned to a member, by its slot; none is empty.
    pins: BTreeMap<u32, Vec<u32>>,
    /// Lanes in which somebody may be served.
    flagged: Vec<u32>,
    /// Lanes in which somebody waits.
    awaited: Vec<u32>,
    leases: Slab<Lease>,
    expiries: IndexedHeap<(Tick, u64)>,
    phantoms: Slab<Phantom>,
    phantom_ends: IndexedHeap<(Tick, u64)>,
    waiters: Waiters,
    timers: IndexedHeap<Tick>,
    outlier: Option<OutlierDetector>,
    affinity: Option<Affinity<Handle>>,
    /// Those over all members.
    limits: LimitSet,
    /// Members that could serve but for their health, and those of them that are healthy.
    enabled: u32,
    healthy: u32,
    panic: bool,
    service: ServiceTimes,
    /// The peaks of all members' successes.
    latency: Option<PeakEwma>,
    /// How many members ever were.
    added: u64,
    /// How often a lane was asked for anything.
    asked: u64,
    /// LeaseCounts grants, releases and arrivals; gives each its place in their order.
    sequence: u64,
    /// By tier, the pass of the member chosen last; where a new member begins. At most 256.
    levels: BTreeMap<u8, u64>,
    /// Leases held whose cost may turn out to be another.
    estimated: u32,
    events: VecDeque<Event<T>>,
    total: LeaseCounts,
    waiting: QueueStats,
    held: Histogram,
    waited: Histogram,
    /// How long leases were held, by member, that are yet to be entered there. A member's histogram is far
    /// from all else that a release looks at: one by one, each would be waited for; of many, the failure_counts of
    /// the cache overlap.
    spans: Vec<(Handle, Batch)>,
}

impl<T> Pool<T> {
    /// A pool without members.
    #[must_use]
    pub fn new(mut config: PoolConfig) -> Self {
        let half_life = config.policy.half_life();
        Self {
            affinity: config.affinity.take(),
            limits: core::mem::take(&mut config.limits),
            now: Tick::ZERO,
            as_of: Tick::ZERO,
            closed: false,
            members: Slab::new(),
            groups: Vec::new(),
            lanes: Vec::new(),
            kinds: BTreeMap::new(),
            general: Vec::new(),
            vacant: Vec::new(),
            pins: BTreeMap::new(),
            flagged: Vec::new(),
            awaited: Vec::new(),
            leases: Slab::new(),
            expiries: IndexedHeap::new(),
            phantoms: Slab::new(),
            phantom_ends: IndexedHeap::new(),
            waiters: Waiters::new(),
            timers: IndexedHeap::new(),
            outlier: config
                .outlier
                .as_ref()
                .map(|outlier| OutlierDetector::new(outlier, Tick::ZERO)),
            enabled: 0,
            healthy: 0,
            panic: false,
            service: ServiceTimes::default(),
            latency: half_life.map(|half_life| PeakEwma::new(half_life, Tick::ZERO)),
            added: 0,
            asked: 0,
            sequence: 0,
            levels: BTreeMap::new(),
            estimated: 0,
            events: VecDeque::new(),
            total: LeaseCounts::default(),
            waiting: QueueStats::default(),
            held: Histogram::default(),
            waited: Histogram::default(),
            spans: Vec::new(),
            config,
        }
    }

    /// Asks for a lease.
    ///
    /// # Errors
    /// Where the request is refused at once; [`explain`](Self::explain) then says why, member by member.
    pub fn acquire(&mut self, now: Tick, request: Request) -> Result<Acquired, AcquireError> {
        self.advance(now);
        let answer = self.grant_or_queue(request);
        if answer.is_err() {
            self.waiting.refused = self.waiting.refused.saturating_add(1);
        }
        self.serve();
        answer
    }

    /// Gives a lease back.
    ///
    /// # Errors
    /// Where it was released before or has expired; what it was on then counts as released long since.
    pub fn release(
        &mut self,
        now: Tick,
        lease: LeaseId,
        release: impl Into<Release>,
    ) -> Result<(), StaleLease> {
        self.advance(now);
        self.end(lease, Ending::Released(release.into()))?;
        self.serve();
        Ok(())
    }

    /// Puts off the end of a lease to a whole time to live from now, and answers when that is.
    ///
    /// # Errors
    /// Where it was released before or has expired.
    pub fn renew(&mut self, now: Tick, lease: LeaseId) -> Result<Option<Tick>, StaleLease> {
        self.advance(now);
        if self.leases.get(lease.0).is_none() {
            return Err(StaleLease);
        }
        Ok(self.set_expiry(lease.0))
    }

    /// Leaves the line.
    ///
    /// # Errors
    /// Where the request no longer waits; an event says what became of it.
    pub fn cancel(&mut self, now: Tick, waiter: WaiterId) -> Result<(), StaleWaiter> {
        self.advance(now);
        let left = self.waiters.remove(waiter.0).ok_or(StaleWaiter)?;
        self.waiting.cancelled = self.waiting.cancelled.saturating_add(1);
        self.left(left.lane);
        self.serve();
        Ok(())
    }

    /// Takes no more requests and sends those away that wait. Leases stay good until they are released.
    pub fn close(&mut self, now: Tick) {
        self.advance(now);
        self.closed = true;
        for (waiter, left) in self.waiters.drain() {
            self.waiting.cancelled = self.waiting.cancelled.saturating_add(1);
            self.events.push_back(Event::Closed {
                waiter: WaiterId(waiter),
            });
            self.left(left.lane);
        }
    }

    /// Takes the answer to a probe.
    ///
    /// # Errors
    /// Where the probe was answered, given up or overtaken by another, or its member removed.
    pub fn handle_probe(
        &mut self,
        now: Tick,
        probe: ProbeId,
        answer: ProbeResult,
    ) -> Result<(), StaleProbe> {
        self.advance(now);
        let entry = self.members.get_mut(probe.member).ok_or(StaleProbe)?;
        let watch = entry.details.watch.as_mut().ok_or(StaleProbe)?;
        if watch.probe != Some(probe.probe) {
            return Err(StaleProbe);
        }
        watch.probe = None;
        let answer = match answer {
            ProbeResult::Up { depth, latency } => {
                if let Some(depth) = depth {
                    entry.details.depth = Some(depth);
                    entry.details.unseen = entry.details.unseen_by_probe;
                }
                if let (Some(latency), Some(known)) = (latency, &mut entry.details.latency) {
                    known.observe(self.now, latency);
                }
                ProbeAnswer::Up
            }
            ProbeResult::Down => ProbeAnswer::Down,
        };
        if let (Some(health), Some(config)) = (&mut watch.health, &self.config.health) {
            let change = health.answer(config, self.now, probe.probe, answer);
            self.changed(probe.member, change);
        }
        self.look_after(probe.member);
        self.serve();
        Ok(())
    }

    /// Learns how many jobs a member has in line or at work, apart from any probe.
    ///
    /// # Errors
    /// Where it was removed.
    pub fn observe_depth(
        &mut self,
        now: Tick,
        member: MemberId,
        depth: u32,
    ) -> Result<(), StaleMember> {
        self.advance(now);
        let entry = self.member_mut(member)?;
        entry.details.depth = Some(depth);
        entry.details.unseen = 0;
        entry.details.unseen_by_probe = 0;
        self.place(member.0);
        self.serve();
        Ok(())
    }

    /// Does what is due: takes leases back, lets requests time out, opens windows and serves who waits.
    ///
    /// All of it in order of time: a request is served if a member became free before its deadline,
    /// and times out if that was at its deadline or later. Probes, slow starts and the comparison of
    /// members are as of now, however late that is.
    pub fn handle_timeout(&mut self, now: Tick) {
        self.advance(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is wanted next; `None` means never. O(lanes in which
    /// somebody waits).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        let expiry = self.expiries.peek().map(|((deadline, _), _)| deadline);
        let timer = self.timers.peek().map(|(tick, _)| tick);
        let sweep = self
            .outlier
            .as_ref()
            .and_then(OutlierDetector::poll_timeout);
        let openings = self.awaited.iter().map(|lane| self.opens(*lane));
        let phantom = self.phantom_ends.peek().map(|((end, _), _)| end);
        let phantom = phantom.filter(|end| !self.awaited.is_empty() && *end < Tick::MAX);
        openings.chain([phantom]).fold(
            earliest(
                earliest(expiry, self.waiters.next_deadline()),
                earliest(timer, sweep),
            ),
            earliest,
        )
    }

    /// What happened that no command asked for, oldest first.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event<T>> {
        self.events.pop_front()
    }

    /// Does what has become due since the last command. What concerns the members' health is as of now,
    /// since nobody can have probed them before. All else is done in order of time, so that a command that
    /// comes late costs nobody their turn; what is granted is granted now, whenever it could have been.
    fn advance(&mut self, now: Tick) {
        self.now = self.now.max(now);
        while let Some((due, slot)) = self.timers.peek()
            && due <= self.now
            && let Some(member) = self.members.handle_at(slot)
        {
            self.handle_timer(member);
        }
        self.sweep();
        self.serve();
        while let Some(due) = self.poll_timeout().filter(|due| *due <= self.now) {
            self.as_of = self.as_of.max(due);
            self.catch_up();
        }
        self.as_of = self.now;
        self.end_phantoms();
        self.serve();
    }

    /// Does what is due as of `as_of`.
    fn catch_up(&mut self) {
        self.end_phantoms();
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
        while let Some((waiter, left)) = self.waiters.pop_due(self.as_of) {
            self.waiting.timed_out = self.waiting.timed_out.saturating_add(1);
            self.events.push_back(Event::TimedOut {
                waiter: WaiterId(waiter),
            });
            self.left(left.lane);
        }
        for at in 0..self.awaited.len() {
            if let Some(lane) = self.awaited.get(at).copied()
                && self.opens(lane).is_some_and(|tick| tick <= self.as_of)
            {
                self.flag(lane);
            }
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
        if self.awaited.is_empty() && self.flagged.is_empty() {
            return;
        }
        self.recheck();
        while let Some((at, lane)) = self.next_flagged() {
            let Some((_, handle)) = self.waiters.next(lane) else {
                self.unflag(at);
                continue;
            };
            let Some(request) = self.waiters.waiter(handle).map(|waiter| waiter.request) else {
                self.unflag(at);
                continue;
            };
            let Ok(slot) = self.candidate(lane, &request) else {
                self.unflag(at);
                continue;
            };
            let Some((handle, waiter)) = self.waiters.pop(lane) else {
                self.unflag(at);
                continue;
            };
            if let Some(grant) = self.grant(lane, slot, &request, waiter.since) {
                self.events.push_back(Event::Granted {
                    waiter: WaiterId(handle),
                    grant,
                });
            }
            self.keep_pace(lane);
            self.left(lane);
            self.recheck();
        }
    }

    /// The flagged lane whose turn comes first. O(flagged lanes).
    fn next_flagged(&self) -> Option<(usize, u32)> {
        let lanes = self.flagged.iter().copied().enumerate();
        // A lane where nobody waits comes first, to be taken out.
        lanes.min_by_key(|(_, lane)| self.waiters.next(*lane).map(|(turn, _)| turn))
    }

    fn flag(&mut self, lane: u32) {
        if let Some(Some(known)) = self.lanes.get_mut(lane as usize)
            && !core::mem::replace(&mut known.flagged, true)
        {
            self.flagged.push(lane);
        }
    }

    fn unflag(&mut self, at: usize) {
        let lane = self.flagged.swap_remove(at);
        if let Some(Some(lane)) = self.lanes.get_mut(lane as usize) {
            lane.flagged = false;
        }
    }

    /// Notes that one who waited in a lane no longer does.
    fn left(&mut self, lane: u32) {
        if self.waiters.len_of(lane) > 0 {
            self.flag(lane);
            return;
        }
        self.awaited.retain(|other| *other != lane);
        if let Some(Some(known)) = self.lanes.get_mut(lane as usize) {
            known.gate = None;
            known.served = None;
        }
        self.drop_if_pinned(lane);
    }

    /// Measures how often a lane is served while somebody waits in it.
    fn keep_pace(&mut self, lane: u32) {
        let now = self.now;
        if let Some(Some(lane)) = self.lanes.get_mut(lane as usize)
            && let Some(served) = lane.served.replace(now)
        {
            let gap = now.since(served);
            lane.pace = Some(match lane.pace {
                Some(pace) => pace
                    .saturating_sub(pace.checked_div(8).unwrap_or_default())
                    .saturating_add(gap.checked_div(8).unwrap_or_default()),
                None => gap,
            });
        }
    }

    fn grant_or_queue(&mut self, request: Request) -> Result<Acquired, AcquireError> {
        if self.closed {
            return Err(AcquireError::Closed);
        }
        let lane = self.lane_of(&request)?;
        let answer = self.grant_or_queue_in(lane, request);
        self.drop_if_pinned(lane);
        answer
    }

    fn grant_or_queue_in(&mut self, lane: u32, request: Request) -> Result<Acquired, AcquireError> {
        let next = self.waiters.next(lane);
        let first = next.is_none_or(|(turn, _)| self.waiters.turn_of(&request) < turn);
        let mut opening = Opening::AnyTime;
        if first && self.leases.has_room() {
            match self.candidate(lane, &request) {
                Ok(slot) => {
                    if next.is_some() {
                        // Its flow has had its turn of this round.
                        self.waiters.push(lane, self.now, request);
                        self.waiters.pop(lane);
                    }
                    let grant = self.grant(lane, slot, &request, self.now);
                    return grant.map(Acquired::Granted).ok_or(AcquireError::QueueFull);
                }
                Err(other) => opening = other,
            }
            // The candidates were those for this request's cost.
            self.flag(lane);
        }
        if request.cost != Cost::REQUEST && !self.fits(&request) {
            return Err(AcquireError::NeverFits);
        }
        if let Some(deadline) = request.deadline {
            if deadline <= self.now {
                return Err(AcquireError::NothingFree);
            }
            if let Opening::At(at) = opening
                && at >= deadline
                && self.estimated == 0
            {
                return Err(AcquireError::DeadlineTooSoon { at });
            }
        }
        if self.waiters.len() >= self.config.max_waiters {
            return Err(AcquireError::QueueFull);
        }
        let waiter = self.waiters.push(lane, self.now, request);
        let waiter = waiter.ok_or(AcquireError::QueueFull)?;
        if next.is_none() {
            self.awaited.push(lane);
            if let Some(Some(lane)) = self.lanes.get_mut(lane as usize) {
                lane.served = None;
            }
        }
        Ok(Acquired::Waiting(WaiterId(waiter)))
    }

    /// Whether some member that the request could go to, and the pool's own limits, would ever admit it.
    /// Who finds no member at all may wait for one.
    fn fits(&self, request: &Request) -> bool {
        let (class, cost) = (request.class, request.cost);
        let kind = Kind::of(request);
        let could_go = |(handle, entry): &(Handle, &Entry<T>)| match kind.pin {
            Some(pin) => pin == *handle,
            None => entry.details.labels.contains(kind.labels),
        };
        let admits = |limits: &LimitSet| limits.fits(class, cost);
        let mut members = self.members.iter().filter(could_go).peekable();
        let nobody = members.peek().is_none();
        let fits = members.any(|(_, entry)| {
            let group = entry.group.and_then(|group| self.groups.get(group.index()));
            admits(&entry.limits) && group.is_none_or(|group| admits(&group.limits))
        });
        (nobody || fits) && admits(&self.limits)
    }

    /// Makes the lease on a candidate.
    fn grant(&mut self, lane: u32, slot: u32, request: &Request, since: Tick) -> Option<Grant> {
        let member = self.members.handle_at(slot)?;
        let stamp = self.next_stamp();
        let now = self.now;
        let (class, cost) = (request.class, request.cost);
        let entry = self.members.get_mut(member)?;
        let mut stride = 0;
        if self.config.policy.uses_pass() {
            stride = pass(entry.weight_at(&self.config, now));
            self.levels.insert(entry.tier, entry.details.pass);
            entry.details.pass = entry.details.pass.saturating_add(stride);
        }
        if self.config.policy.uses_work() {
            entry.details.unseen = entry.details.unseen.saturating_add(1);
            entry.details.unseen_by_probe = entry.details.unseen_by_probe.saturating_add(1);
        }
        entry.in_flight = entry.in_flight.saturating_add(1);
        entry.stamp = stamp;
        self.total.granted = self.total.granted.saturating_add(1);
        let group = entry
            .group
            .and_then(|group| self.groups.get_mut(group.index()));
        let pool = &mut self.limits;
        let booked = Bookings {
            member: entry.limits.charge(now, class, cost),
            group: group.map(|group| group.limits.charge(now, class, cost)),
            pool: (!pool.is_empty()).then(|| pool.charge(now, class, cost)),
        };
        let permit = match (&self.config.breaker, entry.watch_mut()) {
            (Some(config), Some(watch)) => watch.breaker.begin(config, now),
            (Some(_) | None, Some(_) | None) => None,
        };
        let tier = entry.tier;
        let lease = self.leases.insert(Lease {
            member,
            granted: now,
            class,
            cost,
            stride,
            booked,
            permit,
        })?;
        if cost != Cost::REQUEST {
            self.estimated = self.estimated.saturating_add(1);
        }
        // It has had its turn in every lane that it is in.
        for lane in &self.general {
            if let Some(Some(lane)) = self.lanes.get_mut(*lane as usize)
                && lane.contains(slot)
            {
                lane.chosen(slot, tier);
            }
        }
        self.stick(lane, request, member);
        self.settle_in(member);
        let waited = now.since(since);
        self.waiting.waited = self.waiting.waited.saturating_add(waited);
        self.waiting.longest = self.waiting.longest.max(waited);
        self.waited.record(waited);
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

    /// Looks again at all lanes in which somebody waits, if there are limits that members share: what one
    /// of them takes or gives back changes when others open.
    fn recheck(&mut self) {
        if self.limits.is_empty() && self.groups.is_empty() {
            return;
        }
        for at in 0..self.awaited.len() {
            if let Some(lane) = self.awaited.get(at).copied() {
                self.flag(lane);
            }
        }
    }

    fn next_stamp(&mut self) -> u64 {
        self.sequence = self.sequence.saturating_add(1);
        self.sequence
    }
}

/// What decides over a member besides itself.
fn surroundings<'a, T>(
    groups: &'a [Group],
    config: &'a PoolConfig,
    panic: bool,
    now: Tick,
    entry: &Entry<T>,
) -> Surroundings<'a> {
    let group = entry.group.and_then(|group| groups.get(group.index()));
    Surroundings {
        group: group.map(|group| &group.limits),
        breaker: config.breaker.as_ref(),
        now,
        panic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Policy;
    use crate::limit::{Anchor, SlidingLog};
    use core::time::Duration;

    fn tick(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    fn one_at_a_time(ttl: u64) -> Pool<()> {
        let config = PoolConfig::new(Policy::Fifo).lease_ttl(Duration::from_nanos(ttl));
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
        let mut pool = Pool::new(PoolConfig::new(Policy::Fifo));
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
