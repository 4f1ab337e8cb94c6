//! Several limits taken as one.
//!
//! Invariant: a reservation is booked with every rule that applies to it or with none; and each rule's
//! state is what it would be if every settled reservation had been admitted at its real cost in the
//! first place.

use super::ceiling::Ceiling;
use super::{Limit, Limiter, Unit, Wait, later};
use crate::heap::IndexedHeap;
use crate::slab::{Handle, Slab};
use crate::time::Tick;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
#[cfg(feature = "serde")]
use core::num::NonZeroU32;
use core::ops::Bound;
use core::time::Duration;

/// What a request costs, or turned out to have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Cost {
    /// Requests, as a rule 1.
    pub requests: u32,
    /// Tokens.
    pub tokens: u32,
}

impl Cost {
    /// One request, and nothing else.
    pub const REQUEST: Self = Self {
        requests: 1,
        tokens: 0,
    };

    /// Whether it is at least the other in every unit.
    pub(crate) fn covers(self, other: Self) -> bool {
        self.requests >= other.requests && self.tokens >= other.tokens
    }

    pub(super) fn of(self, unit: Unit) -> u32 {
        match unit {
            Unit::Requests => self.requests,
            Unit::Tokens => self.tokens,
        }
    }
}

/// Who asks and for what. The numbers are the caller's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The member it goes to, such as a key.
    pub member: u32,
    /// The group that its member belongs to, such as the account of the key.
    pub group: u32,
    /// Its class, such as a model.
    pub class: u32,
    /// What it costs.
    pub cost: Cost,
}

/// For whom a limit is counted anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Scope {
    /// For nobody: all share it.
    Pool,
    /// For each group.
    Group,
    /// For each member.
    Member,
}

/// A limit, in which unit it counts, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Rule {
    scope: Scope,
    each_class: bool,
    unit: Unit,
    limit: Limiter,
}

impl Rule {
    /// Counts `unit` by `limit`, anew for each that `scope` names.
    pub fn new(scope: Scope, unit: Unit, limit: impl Into<Limiter>) -> Self {
        Self {
            scope,
            each_class: false,
            unit,
            limit: limit.into(),
        }
    }

    /// Counts each class by itself.
    #[must_use]
    pub fn each_class(mut self) -> Self {
        self.each_class = true;
        self
    }
}

/// Names one count: of which rule, for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Place {
    rule: usize,
    owner: u32,
    class: u32,
}

/// Names a reservation of one quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReservationId(Handle);

/// A reservation that has been settled or has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reservation has been settled or has expired")]
pub struct StaleReservation;

/// Why a quota could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    /// Reservations would have expired as they were made.
    #[error("a reservation needs a time to live above zero")]
    EmptyReservation,
}

#[derive(Clone, Debug)]
struct Reservation {
    member: u32,
    #[cfg(feature = "serde")]
    at: Tick,
    cost: Cost,
    /// How many reports there had been.
    reports: u64,
    booked: Vec<Booked>,
}

#[derive(Clone, Copy, Debug)]
struct Booked {
    count: Handle,
    at: Tick,
    units: u32,
    /// Where it stands in the history of a limit that keeps one.
    entry: Option<u64>,
}

/// What was learnt of a member.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Learnt {
    ceilings: [Ceiling; 2],
    paused: Tick,
}

/// Takes several limits all or none, at a cost that may be known only afterwards.
///
/// A reservation is made at the expected cost and settled at the real one; then everything is as if the
/// real one had been admitted at the time of the reservation. One that is never settled expires, and
/// counts as it was reserved. Limits also learn from the upstream: a [`Ceiling`](Self::observe) or a
/// [pause](Self::throttle) tightens them for a time and never loosens them.
///
/// A decision costs O(log n) in counts for each rule, and what each rule's algorithm does. For a token
/// bucket, GCRA or pacing, a settlement at a different cost decides anew all that was reserved there since
/// the oldest reservation that is open: O(what was reserved within one time to live), at the most.
/// Memory is that of the reservations of one time to live, and of the counts and reports that still make a
/// difference, and no more than as much again: each reservation looks at some of them and drops those
/// that don't.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_core::limit::{Anchor, Claim, Cost, Quota, Rule, Scope, SlidingLog, TokenBucket, Unit};
/// use leasehold_core::time::Tick;
///
/// let minute = Duration::from_secs(60);
/// let count = |count| NonZeroU32::new(count).unwrap();
/// let requests = SlidingLog::new(count(3), minute, Anchor::Completion)?;
/// let tokens = TokenBucket::new(count(40_000), minute, count(40_000))?;
/// let mut quota = Quota::new(
///     [
///         Rule::new(Scope::Member, Unit::Requests, requests),
///         Rule::new(Scope::Group, Unit::Tokens, tokens).each_class(),
///     ],
///     Duration::from_secs(600),
/// )?;
/// let cost = Cost { requests: 1, tokens: 30_000 };
/// let claim = Claim { member: 7, group: 1, class: 0, cost };
/// let first = quota.try_acquire(Tick::ZERO, claim).unwrap();
/// assert!(quota.try_acquire(Tick::ZERO, claim).is_err());
/// quota.settle(Tick::ZERO, first, Cost { requests: 1, tokens: 500 })?;
/// assert!(quota.try_acquire(Tick::ZERO, claim).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Quota {
    rules: Vec<Rule>,
    ttl: Duration,
    /// When something was last reserved, settled or observed.
    latest: Tick,
    counts: Slab<Count>,
    places: BTreeMap<Place, Handle>,
    reservations: Slab<Reservation>,
    deadlines: IndexedHeap<(Tick, u64)>,
    /// Counts reservations, so that those with one deadline expire in their order.
    sequence: u64,
    learnt: BTreeMap<u32, Learnt>,
    /// Counts reports.
    reports: u64,
    /// The count and the member that were looked at last.
    swept: (u32, u32),
}

impl Quota {
    /// How many reports on a unit of a member are kept apart. Where more hold at a time, the two with
    /// the nearest resets become one that is as strict as both.
    pub const REPORTS: usize = Ceiling::MAX;

    /// A quota of these rules, whose reservations expire after `ttl`. Under a completion anchor the
    /// request counts as completed then: choose a `ttl` above the longest time that one can take.
    ///
    /// # Errors
    /// Where `ttl` is zero.
    pub fn new(rules: impl IntoIterator<Item = Rule>, ttl: Duration) -> Result<Self, QuotaError> {
        if ttl.is_zero() {
            return Err(QuotaError::EmptyReservation);
        }
        Ok(Self {
            rules: rules.into_iter().collect(),
            ttl,
            latest: Tick::ZERO,
            counts: Slab::new(),
            places: BTreeMap::new(),
            reservations: Slab::new(),
            deadlines: IndexedHeap::new(),
            sequence: 0,
            learnt: BTreeMap::new(),
            reports: 0,
            swept: (0, 0),
        })
    }

    /// Reserves what is claimed with every rule, or with none and says when to ask again.
    ///
    /// # Errors
    /// The [`Wait`] that [`earliest`](Self::earliest) would answer.
    pub fn try_acquire(&mut self, now: Tick, claim: Claim) -> Result<ReservationId, Wait> {
        let wait = self.earliest(now, claim);
        let now = now.max(self.latest);
        match wait {
            Wait::Until(at) if at <= now => {}
            wait @ (Wait::Until(_) | Wait::ForSettlement | Wait::Never) => return Err(wait),
        }
        if !self.reservations.has_room() {
            return Err(Wait::ForSettlement);
        }
        self.latest = now;
        // All have their counts before any is booked.
        let mut booked = Vec::with_capacity(self.rules.len());
        for (rule, place) in places(&self.rules, claim) {
            let count = match self.places.get(&place) {
                Some(count) => *count,
                None => {
                    let count = Count::new(place, rule.limit.clone());
                    let count = self.counts.insert(count).ok_or(Wait::ForSettlement)?;
                    self.places.insert(place, count);
                    count
                }
            };
            booked.push(Booked {
                count,
                at: now,
                units: claim.cost.of(rule.unit),
                entry: None,
            });
        }
        for booked in &mut booked {
            if let Some(count) = self.counts.get_mut(booked.count) {
                count.book(booked);
            }
        }
        if let Some(learnt) = self.learnt.get_mut(&claim.member) {
            for (ceiling, unit) in learnt.ceilings.iter_mut().zip(Unit::ALL) {
                ceiling.take(claim.cost.of(unit));
            }
        }
        let reservation = Reservation {
            member: claim.member,
            #[cfg(feature = "serde")]
            at: now,
            cost: claim.cost,
            reports: self.reports,
            booked,
        };
        let handle = self.reservations.insert(reservation);
        let handle = handle.ok_or(Wait::ForSettlement)?;
        self.sweep();
        self.expire_at(handle, now.saturating_add(self.ttl));
        Ok(ReservationId(handle))
    }

    /// When the claim could be met by all rules: exact, provided that nothing is reserved, settled,
    /// expired or observed until then. What is due expires first, as with every command.
    #[must_use]
    pub fn earliest(&mut self, now: Tick, claim: Claim) -> Wait {
        self.handle_timeout(now);
        let now = now.max(self.latest);
        let mut wait = Wait::Until(now);
        if let Some(learnt) = self.learnt.get(&claim.member) {
            wait = Wait::Until(now.max(learnt.paused));
            for (ceiling, unit) in learnt.ceilings.iter().zip(Unit::ALL) {
                if let Some(opens) = ceiling.opens(now, claim.cost.of(unit)) {
                    wait = later(wait, Wait::Until(opens));
                }
            }
        }
        for (rule, place) in places(&self.rules, claim) {
            let handle = self.places.get(&place);
            let count = handle.and_then(|handle| self.counts.get(*handle));
            let limit = count.map_or(&rule.limit, |count| &count.limit);
            wait = later(wait, limit.earliest(now, claim.cost.of(rule.unit)));
        }
        wait
    }

    /// Ends a reservation at its real cost, zero for what was never used.
    ///
    /// # Errors
    /// Where it has been settled or has expired.
    pub fn settle(
        &mut self,
        now: Tick,
        reservation: ReservationId,
        actual: Cost,
    ) -> Result<(), StaleReservation> {
        self.handle_timeout(now);
        self.end(now, reservation.0, Some(actual))
    }

    /// Takes back a reservation that was never used.
    ///
    /// # Errors
    /// Where it has been settled or has expired.
    pub fn refund(
        &mut self,
        now: Tick,
        reservation: ReservationId,
    ) -> Result<(), StaleReservation> {
        self.settle(now, reservation, Cost::default())
    }

    /// Learns that an upstream will serve a member only `remaining` more of a unit until `reset`, besides
    /// what is in flight now. Each report holds by itself until its own reset. Of what is in flight,
    /// only what is settled above its reservation counts in it, as the upstream may not have known.
    pub fn observe(&mut self, now: Tick, member: u32, unit: Unit, remaining: u32, reset: Tick) {
        self.handle_timeout(now);
        let now = now.max(self.latest);
        self.latest = now;
        if reset > now {
            self.reports = self.reports.saturating_add(1);
            let learnt = self.learnt.entry(member).or_default();
            let ceiling = unit.of_mut(&mut learnt.ceilings);
            ceiling.observe(now, remaining, reset, self.reports);
        }
    }

    /// Admits nothing for a member until `until`; a pause that is longer already stays.
    pub fn throttle(&mut self, member: u32, until: Tick) {
        let learnt = self.learnt.entry(member).or_default();
        learnt.paused = until.max(learnt.paused);
    }

    /// Forgets all that is known of a member, for one that is gone for good. What is in flight can
    /// still be settled, and then counts for its group and the pool alone.
    pub fn forget_member(&mut self, member: u32) {
        self.learnt.remove(&member);
        let (rules, counts) = (&self.rules, &mut self.counts);
        self.places.retain(|place, handle| {
            let rule = rules.get(place.rule);
            let is_its = rule.is_some_and(|rule| rule.scope == Scope::Member);
            let stays = place.owner != member || !is_its;
            if !stays {
                counts.remove(*handle);
            }
            stays
        });
    }

    /// Lets reservations expire that are due, each at its own deadline however late this is called.
    pub fn handle_timeout(&mut self, now: Tick) {
        while let Some(((deadline, _), slot)) = self.deadlines.peek()
            && deadline <= now
            && let Some(handle) = self.reservations.handle_at(slot)
        {
            if self.end(deadline, handle, None).is_err() {
                return;
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is wanted next; `None` means never. O(1).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.deadlines.peek().map(|((deadline, _), _)| deadline)
    }

    /// Looks at two counts for each that a reservation can make, and at two members, and drops what makes
    /// no difference any more.
    fn sweep(&mut self) {
        for _ in 0..self.rules.len().saturating_mul(2) {
            let handle = self.counts.handle_at(self.swept.0);
            self.swept.0 = match self.swept.0.checked_add(1) {
                Some(next) if next < self.counts.slots() => next,
                Some(_) | None => 0,
            };
            let count = handle.and_then(|handle| self.counts.get(handle));
            if let (Some(handle), Some(count)) = (handle, count)
                && count.open == 0
                && count.limit.is_idle(self.latest)
            {
                self.places.remove(&count.place);
                self.counts.remove(handle);
            }
        }
        for _ in 0..2 {
            let after = (Bound::Excluded(self.swept.1), Bound::Unbounded);
            let next = self.learnt.range(after).next().map(|(member, _)| *member);
            let first = || self.learnt.first_key_value().map(|(member, _)| *member);
            let Some(member) = next.or_else(first) else {
                return;
            };
            self.swept.1 = member;
            if let Some(learnt) = self.learnt.get_mut(&member) {
                for ceiling in &mut learnt.ceilings {
                    ceiling.forget(self.latest);
                }
                if learnt.paused <= self.latest && learnt.ceilings.iter().all(Ceiling::is_empty) {
                    self.learnt.remove(&member);
                }
            }
        }
    }

    fn expire_at(&mut self, reservation: Handle, deadline: Tick) {
        self.sequence = self.sequence.saturating_add(1);
        self.deadlines
            .set(reservation.slot(), (deadline, self.sequence));
    }

    /// Ends a reservation at its real cost, or at the reserved one where that isn't known.
    fn end(
        &mut self,
        now: Tick,
        handle: Handle,
        actual: Option<Cost>,
    ) -> Result<(), StaleReservation> {
        let ended = self.reservations.remove(handle).ok_or(StaleReservation)?;
        self.deadlines.remove(handle.slot());
        let now = now.max(self.latest);
        self.latest = now;
        for booked in ended.booked {
            // A count that has been forgotten is nobody else's.
            let Some(count) = self.counts.get_mut(booked.count) else {
                continue;
            };
            let rule = self.rules.get(count.place.rule);
            let used = match (actual, rule) {
                (Some(actual), Some(rule)) => actual.of(rule.unit),
                (None, _) | (_, None) => booked.units,
            };
            count.settle(now, booked, used);
        }
        if let Some(learnt) = self.learnt.get_mut(&ended.member) {
            let actual = actual.unwrap_or(ended.cost);
            for (ceiling, unit) in learnt.ceilings.iter_mut().zip(Unit::ALL) {
                ceiling.settle(ended.reports, ended.cost.of(unit), actual.of(unit));
            }
        }
        Ok(())
    }
}

/// The rules and the counts that a claim is held to.
fn places(rules: &[Rule], claim: Claim) -> impl Iterator<Item = (&Rule, Place)> {
    rules.iter().enumerate().map(move |(index, rule)| {
        let place = Place {
            rule: index,
            owner: match rule.scope {
                Scope::Pool => 0,
                Scope::Group => claim.group,
                Scope::Member => claim.member,
            },
            class: if rule.each_class { claim.class } else { 0 },
        };
        (rule, place)
    })
}

/// One limit's state.
#[derive(Clone, Debug)]
struct Count {
    place: Place,
    /// Reservations that can still be settled.
    open: u32,
    limit: Limiter,
    /// For algorithms whose state is a level, which forgets what made it.
    history: Option<History>,
}

/// What was booked since the oldest reservation that is open, on top of what was before.
#[derive(Clone, Debug)]
struct History {
    before: Limiter,
    entries: VecDeque<Entry>,
    /// Entries that have been folded into `before`.
    folded: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Tick,
    units: u32,
    open: bool,
}

impl Count {
    fn new(place: Place, limit: Limiter) -> Self {
        let history = match &limit {
            Limiter::TokenBucket(_) | Limiter::Gcra(_) | Limiter::Pacing(_) => Some(History {
                before: limit.clone(),
                entries: VecDeque::new(),
                folded: 0,
            }),
            Limiter::SlidingLog(_)
            | Limiter::BucketedWindow(_)
            | Limiter::SlidingCounter(_)
            | Limiter::FixedWindow(_)
            | Limiter::Concurrency(_) => None,
        };
        Self {
            place,
            open: 0,
            limit,
            history,
        }
    }

    fn book(&mut self, booked: &mut Booked) {
        let (at, units) = (booked.at, booked.units);
        self.open = self.open.saturating_add(1);
        self.limit.charge(at, units);
        if let Some(history) = &mut self.history {
            let index = history.entries.len() as u64;
            booked.entry = Some(history.folded.saturating_add(index));
            history.entries.push_back(Entry {
                at,
                units,
                open: true,
            });
        }
    }

    fn settle(&mut self, now: Tick, booked: Booked, used: u32) {
        self.open = self.open.saturating_sub(1);
        let Some(history) = &mut self.history else {
            self.limit.settle(now, booked.at, booked.units, used);
            return;
        };
        let index = booked
            .entry
            .and_then(|entry| entry.checked_sub(history.folded));
        let index = index.and_then(|index| usize::try_from(index).ok());
        let Some(entry) = index.and_then(|index| history.entries.get_mut(index)) else {
            return;
        };
        entry.open = false;
        if entry.units != used {
            entry.units = used;
            self.limit = history.replayed();
        }
        history.fold();
    }
}

impl History {
    /// What the limit is if everything had been admitted at the cost that is known now.
    fn replayed(&self) -> Limiter {
        let mut limit = self.before.clone();
        for entry in &self.entries {
            limit.charge(entry.at, entry.units);
        }
        limit
    }

    /// Forgets what can't change any more.
    fn fold(&mut self) {
        while let Some(entry) = self.entries.front().copied().filter(|entry| !entry.open) {
            self.before.charge(entry.at, entry.units);
            self.entries.pop_front();
            self.folded = self.folded.saturating_add(1);
        }
    }
}

/// Where so many units were booked and when.
#[cfg(feature = "serde")]
type BookedAt = (Place, Tick, u32);

/// A quota at rest, to be kept across a restart.
#[cfg(feature = "serde")]
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct QuotaSnapshot {
    rules: Vec<Rule>,
    ttl: Duration,
    latest: Tick,
    counts: Vec<(Place, Limiter)>,
    /// When each was made that is in flight, and what was booked of it where.
    open: Vec<(Tick, Vec<BookedAt>)>,
    learnt: Vec<(u32, Learnt)>,
    reports: u64,
    /// Above that of each reservation so far.
    generation: NonZeroU32,
}

#[cfg(feature = "serde")]
impl Quota {
    /// What a restart must not forget.
    #[must_use]
    pub fn snapshot(&self) -> QuotaSnapshot {
        let counts = self.counts.iter();
        let booked = |booked: &Booked| {
            let count = self.counts.get(booked.count)?;
            Some((count.place, booked.at, booked.units))
        };
        let reservations = self.reservations.iter();
        let learnt = self.learnt.iter();
        QuotaSnapshot {
            rules: self.rules.clone(),
            ttl: self.ttl,
            latest: self.latest,
            counts: counts
                .map(|(_, count)| (count.place, count.limit.clone()))
                .collect(),
            open: reservations
                .map(|(_, one)| (one.at, one.booked.iter().filter_map(booked).collect()))
                .collect(),
            learnt: learnt
                .map(|(member, learnt)| (*member, learnt.clone()))
                .collect(),
            reports: self.reports,
            generation: self.reservations.next_generation(),
        }
    }

    /// A quota as it was. Nobody can settle the reservations that were open: they count as reserved,
    /// and as in flight until they expire. What named one before the snapshot names none of this quota.
    ///
    /// # Errors
    /// Where the snapshot's time to live is zero.
    pub fn restore(snapshot: QuotaSnapshot) -> Result<Self, QuotaError> {
        let mut quota = Self::new(snapshot.rules, snapshot.ttl)?;
        quota.latest = snapshot.latest;
        quota.reservations = Slab::since(snapshot.generation);
        for (place, limit) in snapshot.counts {
            if let Some(handle) = quota.counts.insert(Count::new(place, limit)) {
                quota.places.insert(place, handle);
            }
        }
        for (at, booked) in snapshot.open {
            let booked = booked.into_iter().filter_map(|(place, at, units)| {
                let count = *quota.places.get(&place)?;
                let open = &mut quota.counts.get_mut(count)?.open;
                *open = open.saturating_add(1);
                Some(Booked {
                    count,
                    at,
                    units,
                    entry: None,
                })
            });
            let reservation = Reservation {
                member: 0,
                at,
                // Nothing is given back to anybody when it expires.
                cost: Cost::default(),
                reports: 0,
                booked: booked.collect(),
            };
            if let Some(handle) = quota.reservations.insert(reservation) {
                quota.expire_at(handle, at.saturating_add(quota.ttl));
            }
        }
        quota.learnt = snapshot.learnt.into_iter().collect();
        quota.reports = snapshot.reports;
        Ok(quota)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{Anchor, SlidingLog};
    use core::num::NonZeroU32;

    #[test]
    fn a_million_members_and_classes_take_no_more_memory_than_those_in_use() {
        let window = Duration::from_nanos(100);
        let log = SlidingLog::new(NonZeroU32::MIN, window, Anchor::Completion).unwrap();
        let rule = Rule::new(Scope::Member, Unit::Requests, log).each_class();
        let mut quota = Quota::new([rule], window).unwrap();
        for member in 0..1_000_000 {
            let now = Tick::from_nanos(member.into());
            let soon = now.saturating_add(window);
            quota.throttle(member, soon);
            quota.observe(now, member, Unit::Tokens, 1, soon);
            let cost = Cost {
                requests: 1,
                tokens: 0,
            };
            let claim = Claim {
                member,
                group: 0,
                class: member,
                cost,
            };
            assert_eq!(quota.earliest(now, claim), Wait::Until(soon));
            let other = Claim {
                member: u32::MAX,
                ..claim
            };
            quota.try_acquire(now, other).unwrap();
            assert!(quota.counts.len() <= 402 && quota.learnt.len() <= 202);
        }
    }
}
