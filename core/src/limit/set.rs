//! Limit sets: several limits of one owner, such as a key, taken all or none.
//!
//! Invariant: either every limit is booked at one tick or none is, and a class's counters decide as if they had
//! existed from the start.

use super::admission::{Limit, Wait, later};
use super::booking::Booking;
use super::cost::{Cost, Unit};
use super::limiter::Limiter;
use super::reported_quota::ReportedQuota;
use crate::time::{ClockOffset, Tick, earliest};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::ops::Bound;

/// Several limits of one owner, taken all or none: shared by all classes, or counted for each class.
///
/// [Reports](Self::observe) of an upstream tighten the limits until their resets and never loosen them.
///
/// A settlement has the precision of each algorithm's [`settle`](Limit::settle): windows are corrected exactly; token
/// bucket, GCRA and pacing take all of a larger cost, but credit a smaller one only if nothing was booked in between.
///
/// An operation costs what its algorithms cost, and O(log n) in the n counters of classes. A class has counters only
/// from its first use until it is found idle: each operation sweeps twice as many as it can create, so that their
/// number stays at most twice that of the counters recently in use.
///
/// ```
/// use core::num::NonZeroU32;
/// use core::time::Duration;
/// use leasehold_core::limit::{Anchor, Cost, LimitSet, SlidingLog, TokenBucket, Unit, Wait};
/// use leasehold_core::time::Tick;
///
/// let minute = Duration::from_secs(60);
/// let count = |count| NonZeroU32::new(count).unwrap();
/// let mut limits = LimitSet::new()
///     .with(Unit::Requests, SlidingLog::new(count(3), minute, Anchor::Completion)?)
///     .with_each_class(Unit::Tokens, TokenBucket::new(count(40_000), minute, count(40_000))?);
/// let (start, model) = (Tick::ZERO, 7);
/// let cost = Cost { requests: 1, tokens: 30_000 };
/// let first = limits.try_acquire(start, model, cost).unwrap();
/// assert_eq!(limits.try_acquire(start, model, cost), Err(Wait::Until(Tick::from_nanos(30_000_000_000))));
/// assert!(limits.try_acquire(start, model + 1, cost).is_ok());
/// limits.settle(start, first, cost, Cost { requests: 1, tokens: 500 });
/// # Ok::<(), leasehold_core::limit::LimitConfigError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(from = "Wire", into = "Wire"))]
pub struct LimitSet {
    /// The first limit, if it counts requests of all classes. Most owners have no other.
    first: Option<Limiter>,
    /// Tick of the latest admission, settlement or report.
    latest: Tick,
    /// Allocated on first use.
    extra: Option<Box<ExtraLimits>>,
}

/// The state beyond one limit of requests shared by all classes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ExtraLimits {
    /// The limits after `first`, or all if there is no `first`.
    limits: Vec<ScopedLimit>,
    /// Counters of classes.
    classes: BTreeMap<CounterKey, Limiter>,
    /// Reports by unit.
    quotas: [ReportedQuota; 2],
    /// Number of reports so far.
    reports: u64,
    /// The counter swept last.
    swept: CounterKey,
}

static NO_EXTRA: ExtraLimits = ExtraLimits {
    limits: Vec::new(),
    classes: BTreeMap::new(),
    quotas: [ReportedQuota::NONE, ReportedQuota::NONE],
    reports: 0,
    swept: (0, 0),
};

/// Class, and index of the limit in the set.
type CounterKey = (u32, u32);

#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct ScopedLimit {
    unit: Unit,
    each_class: bool,
    /// The counter shared by all classes, or a new class's initial counter.
    limit: Limiter,
}

impl LimitSet {
    /// The most reports kept apart for each unit.
    pub const REPORTS: usize = ReportedQuota::MAX;

    /// Creates a set without limits, which admits everything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a limit of `unit` shared by all classes.
    #[must_use]
    pub fn with(self, unit: Unit, limit: impl Into<Limiter>) -> Self {
        self.push(unit, false, limit.into())
    }

    /// Adds a limit of `unit` that is counted for each class.
    #[must_use]
    pub fn with_each_class(self, unit: Unit, limit: impl Into<Limiter>) -> Self {
        self.push(unit, true, limit.into())
    }

    pub(super) fn push(mut self, unit: Unit, each_class: bool, limit: Limiter) -> Self {
        if self.is_empty() && unit == Unit::Requests && !each_class {
            self.first = Some(limit);
        } else {
            self.extra_mut().limits.push(ScopedLimit {
                unit,
                each_class,
                limit,
            });
        }
        self
    }

    /// Admits a cost under every limit, or changes nothing and answers when to ask again.
    ///
    /// # Errors
    /// The [`Wait`] that [`earliest`](Self::earliest) answers.
    #[inline]
    pub fn try_acquire(&mut self, now: Tick, class: u32, cost: Cost) -> Result<Booking, Wait> {
        let now = now.max(self.latest);
        match self.only() {
            Some(only) => {
                only.try_acquire(now, cost.requests)?;
                self.latest = now;
                Ok(self.booking(class))
            }
            None => self.acquire_all(now, class, cost),
        }
    }

    /// The first limit, if nothing else decides.
    #[inline]
    fn only(&mut self) -> Option<&mut Limiter> {
        self.first.as_mut().filter(|_| self.extra.is_none())
    }

    fn acquire_all(&mut self, now: Tick, class: u32, cost: Cost) -> Result<Booking, Wait> {
        match self.earliest(now, class, cost) {
            Wait::Until(at) if at <= now => Ok(self.charge(now, class, cost)),
            wait @ (Wait::Until(_) | Wait::ForSettlement | Wait::Never) => Err(wait),
        }
    }

    /// Whether the set has no limits, so that only reports can refuse.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_none() && self.extra().limits.is_empty()
    }

    /// Whether a limit is counted for each class.
    #[must_use]
    pub fn counts_classes(&self) -> bool {
        self.extra().limits.iter().any(|scoped| scoped.each_class)
    }

    /// Whether the set decides like a new one from `now` on: nothing in flight, nothing still counted or reported.
    /// O(limits and classes).
    #[must_use]
    pub fn is_idle(&self, now: Tick) -> bool {
        let now = now.max(self.latest);
        let extra = self.extra();
        let shared = extra.limits.iter().filter(|scoped| !scoped.each_class);
        let mut limits = self.first.iter().chain(shared.map(|scoped| &scoped.limit));
        let mut quotas = extra.quotas.iter();
        limits.all(|limit| limit.is_idle(now))
            && extra.classes.values().all(|limit| limit.is_idle(now))
            && quotas.all(|quota| quota.next_change(now).is_none())
    }

    /// Whether a cost can ever be admitted.
    #[must_use]
    pub fn fits(&self, class: u32, cost: Cost) -> bool {
        self.earliest(self.latest, class, cost) != Wait::Never
    }

    /// When a cost can be admitted by all limits: `Until(now)` if at once.
    ///
    /// Exact, provided that nothing is admitted, settled or observed until then.
    #[must_use]
    pub fn earliest(&self, now: Tick, class: u32, cost: Cost) -> Wait {
        let asked = now;
        let now = now.max(self.latest);
        let mut wait = Wait::Until(now);
        match (&self.first, &self.extra) {
            (Some(only), None) => wait = later(wait, only.earliest(now, cost.requests)),
            (None, None) => {}
            (_, Some(extra)) => {
                for (quota, unit) in extra.quotas.iter().zip(Unit::ALL) {
                    if let Some(reset) = quota.earliest(now, cost.of(unit)) {
                        wait = later(wait, Wait::Until(reset));
                    }
                }
                for (unit, limit) in self.limiters(class) {
                    wait = later(wait, limit.earliest(now, cost.of(unit)));
                }
            }
        }
        match wait {
            // A clock that ran backwards asks at a tick before `now`, which is clamped.
            Wait::Until(at) if at <= now => Wait::Until(asked),
            Wait::Until(_) | Wait::ForSettlement | Wait::Never => wait,
        }
    }

    /// Books a cost, whether it fits or not.
    pub fn charge(&mut self, now: Tick, class: u32, cost: Cost) -> Booking {
        self.latest = self.latest.max(now);
        let latest = self.latest;
        if let Some(only) = self.only() {
            only.charge(latest, cost.requests);
        } else if self.extra.is_some() {
            self.charge_limits(class, cost);
            for (quota, unit) in self.extra_mut().quotas.iter_mut().zip(Unit::ALL) {
                quota.remove_expired(latest);
                quota.take(cost.of(unit));
            }
        }
        self.booking(class)
    }

    fn charge_limits(&mut self, class: u32, cost: Cost) {
        let Self {
            first,
            latest,
            extra,
        } = self;
        let ExtraLimits {
            limits, classes, ..
        } = &mut **extra.get_or_insert_default();
        for (index, (unit, each_class, limit)) in (0u32..).zip(all(first, limits)) {
            let limit = if each_class {
                let fresh = || limit.clone();
                classes.entry((class, index)).or_insert_with(fresh)
            } else {
                limit
            };
            limit.charge(*latest, cost.of(unit));
        }
        self.sweep();
    }

    /// Starts the windows of a booking's requests, because its call has arrived at the upstream. Tokens and concurrency
    /// stay booked until the settlement. A second arrival of one booking changes nothing.
    pub fn arrive(&mut self, now: Tick, booking: &mut Booking, reserved: Cost) {
        if !booking.note_arrival() {
            return;
        }
        self.latest = self.latest.max(now);
        let latest = self.latest;
        if let Some(only) = self.only() {
            only.arrive(latest, reserved.requests);
        } else if self.extra.is_some() {
            self.arrive_all(*booking, reserved);
        }
    }

    fn arrive_all(&mut self, booking: Booking, reserved: Cost) {
        let Self {
            first,
            latest,
            extra,
        } = self;
        let ExtraLimits {
            limits, classes, ..
        } = &mut **extra.get_or_insert_default();
        for (index, (unit, each_class, limit)) in (0u32..).zip(all(first, limits)) {
            // A counter that was swept holds nothing of this booking.
            let limit = match each_class {
                true => classes.get_mut(&(booking.class(), index)),
                false => Some(limit),
            };
            if let (Unit::Requests, Some(limit)) = (unit, limit) {
                limit.arrive(*latest, reserved.requests);
            }
        }
        self.sweep();
    }

    /// Ends the use of a booking: the `reserved` cost becomes the `actual` one, which may be larger.
    ///
    /// Of a booking whose call has [arrived](Self::arrive), windows that count arrivals credit no requests.
    pub fn settle(&mut self, now: Tick, booking: Booking, reserved: Cost, actual: Cost) {
        self.latest = self.latest.max(now);
        let latest = self.latest;
        if let Some(only) = self.only() {
            booking.settle(only, latest, Unit::Requests, reserved, actual);
        } else if self.extra.is_some() {
            self.settle_limits(booking, reserved, actual);
            for (quota, unit) in self.extra_mut().quotas.iter_mut().zip(Unit::ALL) {
                quota.settle(booking.reports(), reserved.of(unit), actual.of(unit));
            }
        }
    }

    fn settle_limits(&mut self, booking: Booking, reserved: Cost, actual: Cost) {
        let Self {
            first,
            latest,
            extra,
        } = self;
        let ExtraLimits {
            limits, classes, ..
        } = &mut **extra.get_or_insert_default();
        for (index, (unit, each_class, limit)) in (0u32..).zip(all(first, limits)) {
            let limit = if each_class {
                let key = (booking.class(), index);
                // A counter that was swept held nothing of this booking; only units above it are new.
                if actual.of(unit) > reserved.of(unit) {
                    let fresh = || limit.clone();
                    Some(classes.entry(key).or_insert_with(fresh))
                } else {
                    classes.get_mut(&key)
                }
            } else {
                Some(limit)
            };
            if let Some(limit) = limit {
                booking.settle(limit, *latest, unit, reserved, actual);
            }
        }
        self.sweep();
    }

    /// Returns a booking that was not used.
    pub fn refund(&mut self, now: Tick, booking: Booking, reserved: Cost) {
        self.settle(now, booking, reserved, Cost::default());
    }

    /// Records that an upstream will serve `remaining` more of a unit until `reset`, besides those in flight.
    ///
    /// Each report holds by itself until its own reset. Beyond [`REPORTS`](Self::REPORTS), the two with the nearest
    /// resets are merged into one as strict as both. Of the bookings in flight, only units settled above their
    /// reservation count, because the upstream may not have known of them.
    pub fn observe(&mut self, now: Tick, unit: Unit, remaining: u32, reset: Tick) {
        self.latest = self.latest.max(now);
        let latest = self.latest;
        let extra = self.extra_mut();
        extra.reports = extra.reports.saturating_add(1);
        let quota = unit.of_mut(&mut extra.quotas);
        quota.observe(latest, remaining, reset, extra.reports);
    }

    /// Books a call in flight of an earlier set, which this one [takes over](Self::take_over) next. Reports count nothing: they
    /// know of it.
    pub(crate) fn book_again(&mut self, now: Tick, earlier: Booking, reserved: Cost) -> Booking {
        self.latest = self.latest.max(now);
        let latest = self.latest;
        if let Some(only) = self.only() {
            only.charge(latest, reserved.requests);
        } else if self.extra.is_some() {
            self.charge_limits(earlier.class(), reserved);
        }
        let mut booking = Booking::new(self.latest, earlier.reports(), earlier.class());
        if earlier.has_arrived() {
            self.arrive(now, &mut booking, reserved);
        }
        booking
    }

    /// Takes the place of an earlier set, once its calls in flight are booked here: what it counts besides them counts as if it
    /// had ended now. Its reports go on. O(limits and classes).
    ///
    /// Each limit then counts at least the most that a limit of its unit has counted, as far as its own capacity goes.
    pub fn take_over(&mut self, now: Tick, earlier: &Self) {
        self.latest = self.latest.max(earlier.latest).max(now);
        let latest = self.latest;
        let before = earlier.extra();
        if before.reports > 0 {
            let extra = self.extra_mut();
            extra.quotas.clone_from(&before.quotas);
            extra.reports = before.reports;
        }
        let Self { first, extra, .. } = self;
        let mut none = (Vec::new(), BTreeMap::new());
        let (limits, counters) = match extra {
            Some(extra) => (&mut extra.limits, &mut extra.classes),
            None => (&mut none.0, &mut none.1),
        };
        let classes: BTreeSet<u32> = before
            .classes
            .keys()
            .chain(counters.keys())
            .map(|key| key.0)
            .collect();
        for (index, (unit, each_class, limit)) in (0_u32..).zip(all(first, limits)) {
            if !each_class {
                use_up(limit, latest, earlier.used(unit, latest));
                continue;
            }
            for class in &classes {
                let own = counters
                    .entry((*class, index))
                    .or_insert_with(|| limit.clone());
                use_up(own, latest, earlier.used_in(*class, unit, latest));
            }
            // A class that comes later may have used what is not told apart by classes.
            use_up(limit, latest, earlier.used_in_any(unit, latest));
        }
    }

    /// The most that a limit has counted of a unit, in all classes together.
    fn used(&self, unit: Unit, now: Tick) -> u32 {
        let first = self.first.iter().len() as u32;
        let extra = self.extra();
        let others = (first..)
            .zip(&extra.limits)
            .filter(|(_, scoped)| scoped.unit == unit);
        let others = others.map(|(index, scoped)| {
            // What was taken over before is in the counters of all classes.
            let before = used(&scoped.limit, now);
            let own = extra.classes.iter().filter(|((_, of), _)| *of == index);
            own.fold(before, |sum, (_, limit)| {
                sum.saturating_add(used(limit, now).saturating_sub(before))
            })
        });
        let first = self.first.iter().filter(|_| unit == Unit::Requests);
        let most = first.map(|limit| used(limit, now)).chain(others).max();
        most.unwrap_or(0)
    }

    /// The most that a limit has counted of a unit for a class: one for each class, if there is any.
    fn used_in(&self, class: u32, unit: Unit, now: Tick) -> u32 {
        if !self.counts_by_class(unit) {
            return self.used(unit, now);
        }
        let limits = self.limiters(class).zip(self.scopes());
        let own = limits.filter(|((counted, _), each_class)| *counted == unit && *each_class);
        own.map(|((_, limit), _)| used(limit, now))
            .max()
            .unwrap_or(0)
    }

    /// The most that a class may have used of a unit of which nothing is known by its class.
    fn used_in_any(&self, unit: Unit, now: Tick) -> u32 {
        if !self.counts_by_class(unit) {
            return self.used(unit, now);
        }
        let limits = self.extra().limits.iter();
        let own = limits.filter(|scoped| scoped.each_class && scoped.unit == unit);
        own.map(|scoped| used(&scoped.limit, now))
            .max()
            .unwrap_or(0)
    }

    fn counts_by_class(&self, unit: Unit) -> bool {
        let mut limits = self.extra().limits.iter();
        limits.any(|scoped| scoped.each_class && scoped.unit == unit)
    }

    /// For each limit, whether it is counted for each class.
    fn scopes(&self) -> impl Iterator<Item = bool> {
        let others = self.extra().limits.iter().map(|scoped| scoped.each_class);
        self.first.iter().map(|_| false).chain(others)
    }

    /// The largest cost of each unit that is ever admitted; `u32::MAX` where there is no limit.
    #[must_use]
    pub fn capacity(&self) -> Cost {
        let of = |unit| {
            let limits = self.limiters(0).filter(|(counted, _)| *counted == unit);
            let least = limits.map(|(_, limit)| limit.capacity()).min();
            least.unwrap_or(u32::MAX)
        };
        Cost {
            requests: of(Unit::Requests),
            tokens: of(Unit::Tokens),
        }
    }

    /// The largest admissible cost of each unit, the other being zero.
    #[must_use]
    pub fn available(&self, now: Tick, class: u32) -> Cost {
        let now = now.max(self.latest);
        let of = |unit: Unit, quota: &ReportedQuota| {
            let limits = self.limiters(class).filter(|(counted, _)| *counted == unit);
            let least = limits.map(|(_, limit)| limit.available(now)).min();
            least.unwrap_or(u32::MAX).min(quota.left(now))
        };
        let [requests, tokens] = &self.extra().quotas;
        Cost {
            requests: of(Unit::Requests, requests),
            tokens: of(Unit::Tokens, tokens),
        }
    }

    /// The first tick after `now` at which one of the limits admits more, if nothing happens until then.
    #[must_use]
    pub fn next_change(&self, now: Tick, class: u32) -> Option<Tick> {
        let now = now.max(self.latest);
        let limits = self
            .limiters(class)
            .map(|(_, limit)| limit.next_change(now));
        let quotas = self.extra().quotas.iter();
        let quotas = quotas.map(|quota| quota.next_change(now));
        limits.chain(quotas).fold(None, earliest)
    }

    /// The limits that decide over a class, in the order in which they were added, with the unit that each counts.
    ///
    /// Reports are not among them.
    pub fn limiters(&self, class: u32) -> impl Iterator<Item = (Unit, &Limiter)> {
        let extra = self.extra();
        let first = self.first.iter().map(|limit| (Unit::Requests, limit));
        let index = self.first.iter().len() as u32;
        let others = (index..).zip(&extra.limits).map(move |(index, scoped)| {
            let own = match scoped.each_class {
                true => extra.classes.get(&(class, index)),
                false => None,
            };
            (scoped.unit, own.unwrap_or(&scoped.limit))
        });
        first.chain(others)
    }

    /// Translates the state to another clock, as [`Limit::rebase`] does. O(counters).
    ///
    /// Its callers must [rebase](Booking::rebased) the bookings they hold by the same ticks.
    pub fn rebase(&mut self, from: Tick, to: Tick) {
        // One tick for all, so that the windows of a class counted later are aligned with the others.
        self.latest = self.latest.max(from);
        let (from, to) = (self.latest, to.saturating_add(self.latest.since(from)));
        let offset = ClockOffset { from, to };
        if let Some(first) = &mut self.first {
            first.rebase(from, to);
        }
        if let Some(extra) = &mut self.extra {
            let shared = extra.limits.iter_mut().map(|scoped| &mut scoped.limit);
            for limit in shared.chain(extra.classes.values_mut()) {
                limit.rebase(from, to);
            }
            for quota in &mut extra.quotas {
                quota.rebase(offset);
            }
        }
        self.latest = to;
    }

    fn booking(&self, class: u32) -> Booking {
        Booking::new(self.latest, self.extra().reports, class)
    }

    #[inline]
    fn extra(&self) -> &ExtraLimits {
        self.extra.as_deref().unwrap_or(&NO_EXTRA)
    }

    fn extra_mut(&mut self) -> &mut ExtraLimits {
        self.extra.get_or_insert_default()
    }

    /// Removes the idle counters among the next few: two for each that an operation can create.
    fn sweep(&mut self) {
        let extra = self.extra.as_mut();
        let Some(extra) = extra.filter(|extra| !extra.classes.is_empty()) else {
            return;
        };
        for _ in 0..extra.limits.len().saturating_add(1).saturating_mul(2) {
            let after = (Bound::Excluded(extra.swept), Bound::Unbounded);
            let next = extra.classes.range(after).next();
            let next = next.or_else(|| extra.classes.first_key_value());
            let Some((key, limit)) = next else {
                return;
            };
            extra.swept = *key;
            if limit.is_idle(self.latest) {
                extra.classes.remove(&extra.swept);
            }
        }
    }
}

/// The units that a limit counts now.
fn used(limit: &Limiter, now: Tick) -> u32 {
    let left = limit.available(now);
    match limit {
        // It admits all or nothing, and does not know how much it has admitted.
        Limiter::Pacing(_) => u32::from(left < limit.capacity()),
        Limiter::SlidingLog(_)
        | Limiter::BucketedWindow(_)
        | Limiter::SlidingCounter(_)
        | Limiter::FixedWindow(_)
        | Limiter::TokenBucket(_)
        | Limiter::Gcra(_)
        | Limiter::Concurrency(_) => limit.capacity().saturating_sub(left),
    }
}

/// Books units that have just been used, besides those that a limit counts already, as far as they fit.
fn use_up(limit: &mut Limiter, now: Tick, units: u32) {
    let units = units
        .saturating_sub(used(limit, now))
        .min(limit.available(now));
    if units > 0 {
        let booked = limit.charge(now, units);
        limit.settle(now, booked, units, units);
    }
}

/// Each limit's unit, whether it is counted for each class, and its counter.
fn all<'a>(
    first: &'a mut Option<Limiter>,
    limits: &'a mut [ScopedLimit],
) -> impl Iterator<Item = (Unit, bool, &'a mut Limiter)> {
    let first = first.iter_mut().map(|limit| (Unit::Requests, false, limit));
    first.chain(
        limits
            .iter_mut()
            .map(|scoped| (scoped.unit, scoped.each_class, &mut scoped.limit)),
    )
}

impl PartialEq for LimitSet {
    fn eq(&self, other: &Self) -> bool {
        let alike = self.first == other.first && self.latest == other.latest;
        alike && self.extra() == other.extra()
    }
}

impl Eq for LimitSet {}

/// The serialized form: not every format has maps with keys that are pairs.
#[cfg(feature = "serde")]
#[derive(serde::Serialize, serde::Deserialize)]
struct Wire {
    limits: Vec<ScopedLimit>,
    classes: Vec<(CounterKey, Limiter)>,
    latest: Tick,
    quotas: [ReportedQuota; 2],
    reports: u64,
    swept: CounterKey,
}

#[cfg(feature = "serde")]
impl From<LimitSet> for Wire {
    fn from(set: LimitSet) -> Self {
        let extra = set.extra.map(|extra| *extra).unwrap_or_default();
        let first = set.first.map(|limit| ScopedLimit {
            unit: Unit::Requests,
            each_class: false,
            limit,
        });
        Self {
            limits: first.into_iter().chain(extra.limits).collect(),
            classes: extra.classes.into_iter().collect(),
            latest: set.latest,
            quotas: extra.quotas,
            reports: extra.reports,
            swept: extra.swept,
        }
    }
}

#[cfg(feature = "serde")]
impl From<Wire> for LimitSet {
    fn from(wire: Wire) -> Self {
        let extra = ExtraLimits {
            limits: Vec::new(),
            classes: wire.classes.into_iter().collect(),
            quotas: wire.quotas,
            reports: wire.reports,
            swept: wire.swept,
        };
        let set = Self {
            first: None,
            latest: wire.latest,
            extra: (extra != NO_EXTRA).then(|| Box::new(extra)),
        };
        let limits = wire.limits.into_iter();
        limits.fold(set, |set, scoped| {
            set.push(scoped.unit, scoped.each_class, scoped.limit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{Anchor, SlidingLog};
    use core::num::NonZeroU32;
    use core::time::Duration;

    #[test]
    fn idle_classes_take_no_memory() {
        let log = SlidingLog::new(NonZeroU32::MIN, Duration::from_nanos(100), Anchor::Grant);
        let mut set = LimitSet::new().with_each_class(Unit::Requests, log.unwrap());
        let one = Cost {
            requests: 1,
            tokens: 0,
        };
        for class in 0..1_000_000 {
            let now = Tick::from_nanos(class.into());
            set.try_acquire(now, class, one).unwrap();
            assert!(set.extra().classes.len() <= 202);
        }
    }
}
