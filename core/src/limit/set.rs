//! The limits of one owner, taken as one.
//!
//! Invariant: all of them are booked at one tick or none is; and each class's count is what it would be
//! if it had been there from the beginning.

use super::reported_quota::ReportedQuota;
use super::{Cost, Limit, Limiter, Unit, Wait, later};
use crate::time::{ClockOffset, Tick, earliest};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::hint::black_box;
use core::ops::Bound;

/// Several limits all or none, for one owner, such as a key: some shared by all classes, some counted for
/// each class by itself. Its [`ReportedQuota`](Self::observe)s tighten them for a time and never loosen them.
///
/// What is admitted is settled as each algorithm's own [`settle`](Limit::settle) says: by windows exactly,
/// by levels (token bucket, GCRA, pacing) in full where more was used, and where less was used only if
/// nothing came in between.
///
/// Each operation costs O(limits) of what their algorithms do, and where classes are counted O(log n) in
/// the counts. A class takes memory only from its first use until it has been idle for a while: there are
/// never more counts than twice those that are in use and those made by one operation.
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
#[cfg_attr(feature = "serde", serde(from = "Snapshot", into = "Snapshot"))]
pub struct LimitSet {
    /// Of requests and shared by all classes. Most owners have one such limit, and then nothing else is
    /// looked at.
    first: Option<Limiter>,
    /// When something was last admitted, settled or observed.
    latest: Tick,
    /// Made when it is needed.
    extra: Option<Box<ExtraLimits>>,
}

/// What a set needs beyond one limit of requests that all classes share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ExtraLimits {
    /// Those after `first`, if that is there, or else all.
    limits: Vec<ScopedLimit>,
    /// Each class's own counts, by class and rule.
    classes: BTreeMap<CountKey, Limiter>,
    quotas: [ReportedQuota; 2],
    /// Counts reports.
    reports: u64,
    /// The count that was looked at last.
    swept: CountKey,
}

static NO_EXTRA: ExtraLimits = ExtraLimits {
    limits: Vec::new(),
    classes: BTreeMap::new(),
    quotas: [ReportedQuota::NONE, ReportedQuota::NONE],
    reports: 0,
    swept: (0, 0),
};

type CountKey = (u32, u32);

#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct ScopedLimit {
    unit: Unit,
    each_class: bool,
    /// What all classes share, or what each begins with.
    limit: Limiter,
}

/// What was admitted by a [`LimitSet`], and when. It is small, and names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Booking {
    at: Tick,
    /// How many reports there had been.
    reports: u64,
    class: u32,
}

impl Booking {
    /// When it was booked.
    #[must_use]
    pub fn at(self) -> Tick {
        self.at
    }

    /// The same as another clock shows it, for one that is held while its limits are
    /// [rebased](LimitSet::rebase).
    #[must_use]
    pub fn rebased(mut self, from: Tick, to: Tick) -> Self {
        self.at = ClockOffset { from, to }.tick(self.at);
        self
    }
}

impl LimitSet {
    /// The most reports of an upstream that are kept apart for each unit.
    pub const REPORTS: usize = ReportedQuota::MAX;

    /// No limits yet: everything is admitted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts `unit` by `limit` as well, all classes together.
    #[must_use]
    pub fn with(self, unit: Unit, limit: impl Into<Limiter>) -> Self {
        self.push(unit, false, limit.into())
    }

    /// Counts `unit` by `limit` as well, each class by itself.
    #[must_use]
    pub fn with_each_class(self, unit: Unit, limit: impl Into<Limiter>) -> Self {
        self.push(unit, true, limit.into())
    }

    fn push(mut self, unit: Unit, each_class: bool, limit: Limiter) -> Self {
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

    /// Admits a cost by every limit, or changes nothing and says when to ask again.
    ///
    /// # Errors
    /// The [`Wait`] that [`earliest`](Self::earliest) would answer.
    #[inline]
    pub fn try_acquire(&mut self, now: Tick, class: u32, cost: Cost) -> Result<Booking, Wait> {
        let now = now.max(self.latest);
        match self.only() {
            Some(only) => {
                only.try_acquire(now, cost.requests)?;
                self.latest = now;
                Ok(self.booking(class))
            }
            None => self.acquire_of_all(now, class, cost),
        }
    }

    /// The first limit where there is nothing else.
    #[inline]
    fn only(&mut self) -> Option<&mut Limiter> {
        self.first.as_mut().filter(|_| self.extra.is_none())
    }

    fn acquire_of_all(&mut self, now: Tick, class: u32, cost: Cost) -> Result<Booking, Wait> {
        match self.earliest(now, class, cost) {
            Wait::Until(at) if at <= now => Ok(self.charge(now, class, cost)),
            wait @ (Wait::Until(_) | Wait::ForSettlement | Wait::Never) => Err(wait),
        }
    }

    /// Whether it holds no limits, so that everything is admitted that no report forbids.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_none() && self.extra().limits.is_empty()
    }

    /// Whether a cost could ever be admitted.
    #[must_use]
    pub fn fits(&self, class: u32, cost: Cost) -> bool {
        self.earliest(self.latest, class, cost) != Wait::Never
    }

    /// When a cost could be admitted by all limits, `now` itself if at once: exact, provided that nothing is admitted, settled
    /// or observed until then.
    #[must_use]
    pub fn earliest(&self, now: Tick, class: u32, cost: Cost) -> Wait {
        let asked = now;
        let now = now.max(self.latest);
        let mut wait = Wait::Until(now);
        match (&self.first, &self.extra) {
            (Some(only), None) => wait = later(wait, only.earliest(now, cost.requests)),
            (None, None) => {}
            (_, Some(rest)) => {
                for (quota, unit) in rest.quotas.iter().zip(Unit::ALL) {
                    if let Some(opens) = quota.opens(now, cost.of(unit)) {
                        wait = later(wait, Wait::Until(opens));
                    }
                }
                for (unit, limit) in self.limits(class) {
                    wait = later(wait, limit.earliest(now, cost.of(unit)));
                }
            }
        }
        match wait {
            // It would be admitted at once.
            Wait::Until(at) if at <= now => Wait::Until(asked),
            Wait::Until(_) | Wait::ForSettlement | Wait::Never => wait,
        }
    }

    /// Books a cost whether it fits or not.
    pub fn charge(&mut self, now: Tick, class: u32, cost: Cost) -> Booking {
        self.latest = self.latest.max(now);
        let latest = self.latest;
        if let Some(only) = self.only() {
            only.charge(latest, cost.requests);
        } else if self.extra.is_some() {
            self.charge_all(class, cost);
        }
        self.booking(class)
    }

    fn charge_all(&mut self, class: u32, cost: Cost) {
        let Self {
            first,
            latest,
            extra,
        } = self;
        let ExtraLimits {
            limits,
            classes,
            quotas,
            ..
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
        for (quota, unit) in quotas.iter_mut().zip(Unit::ALL) {
            quota.forget(*latest);
            quota.take(cost.of(unit));
        }
        self.sweep();
    }

    /// Ends the use of what was booked: the `reserved` cost becomes the `actual` one, which may be more.
    pub fn settle(&mut self, now: Tick, booking: Booking, reserved: Cost, actual: Cost) {
        self.latest = self.latest.max(now);
        let latest = self.latest;
        if let Some(only) = self.only() {
            only.settle(latest, booking.at, reserved.requests, actual.requests);
        } else if self.extra.is_some() {
            self.settle_all(booking, reserved, actual);
        }
    }

    fn settle_all(&mut self, booking: Booking, reserved: Cost, actual: Cost) {
        let Self {
            first,
            latest,
            extra,
        } = self;
        let ExtraLimits {
            limits,
            classes,
            quotas,
            ..
        } = &mut **extra.get_or_insert_default();
        for (index, (unit, each_class, limit)) in (0u32..).zip(all(first, limits)) {
            let (reserved, actual) = (reserved.of(unit), actual.of(unit));
            let limit = if each_class {
                let place = (booking.class, index);
                // One that is no more held nothing of this, and only what was used above it is new.
                if actual > reserved {
                    let fresh = || limit.clone();
                    Some(classes.entry(place).or_insert_with(fresh))
                } else {
                    classes.get_mut(&place)
                }
            } else {
                Some(limit)
            };
            if let Some(limit) = limit {
                limit.settle(*latest, booking.at, reserved, actual);
            }
        }
        for (quota, unit) in quotas.iter_mut().zip(Unit::ALL) {
            quota.settle(booking.reports, reserved.of(unit), actual.of(unit));
        }
        self.sweep();
    }

    /// Takes back what was booked and not used.
    pub fn refund(&mut self, now: Tick, booking: Booking, reserved: Cost) {
        self.settle(now, booking, reserved, Cost::default());
    }

    /// Learns that an upstream will serve only `remaining` more of a unit until `reset`, besides what is
    /// in flight now. Each report holds by itself until its own reset; where more than eight hold at a
    /// time, the two with the nearest resets become one that is as strict as both. Of what is in
    /// flight, only what is settled above its reservation counts in it, as the upstream may not have
    /// known.
    pub fn observe(&mut self, now: Tick, unit: Unit, remaining: u32, reset: Tick) {
        self.latest = self.latest.max(now);
        let latest = self.latest;
        let rest = self.extra_mut();
        rest.reports = rest.reports.saturating_add(1);
        let quota = unit.of_mut(&mut rest.quotas);
        quota.observe(latest, remaining, reset, rest.reports);
    }

    /// The largest cost of each unit by itself that would be admitted.
    #[must_use]
    pub fn available(&self, now: Tick, class: u32) -> Cost {
        let now = now.max(self.latest);
        let of = |unit: Unit, quota: &ReportedQuota| {
            let limits = self.limits(class).filter(|(counts, _)| *counts == unit);
            let least = limits.map(|(_, limit)| limit.available(now)).min();
            least.unwrap_or(u32::MAX).min(quota.left(now))
        };
        let [requests, tokens] = &self.extra().quotas;
        Cost {
            requests: of(Unit::Requests, requests),
            tokens: of(Unit::Tokens, tokens),
        }
    }

    /// The first tick after `now` at which one of the limits may leave more if nothing happens until then.
    #[must_use]
    pub fn next_change(&self, now: Tick, class: u32) -> Option<Tick> {
        let now = now.max(self.latest);
        let limits = self.limits(class).map(|(_, limit)| limit.next_change(now));
        let quotas = self.extra().quotas.iter();
        let quotas = quotas.map(|one| one.next_change(now));
        limits.chain(quotas).fold(None, earliest)
    }

    /// Moves what is remembered to another clock, as [`Limit::rebase`] does. Bookings that are held are
    /// to be [rebased](Booking::rebased) by the same ticks. O(counts).
    pub fn rebase(&mut self, from: Tick, to: Tick) {
        // All go on from the same tick, so that the windows of classes that come later begin with those
        // of the others.
        self.latest = self.latest.max(from);
        let (from, to) = (self.latest, to.saturating_add(self.latest.since(from)));
        let shift = ClockOffset { from, to };
        if let Some(first) = &mut self.first {
            first.rebase(from, to);
        }
        if let Some(rest) = &mut self.extra {
            let shared = rest.limits.iter_mut().map(|rule| &mut rule.limit);
            for limit in shared.chain(rest.classes.values_mut()) {
                limit.rebase(from, to);
            }
            for quota in &mut rest.quotas {
                quota.rebase(shift);
            }
        }
        self.latest = to;
    }

    /// Asks the memory for all that the first limit by itself needs. An exact log has its ends farther in.
    pub(crate) fn preload(&self) {
        black_box((self.first.is_some(), self.latest));
        if let Some(Limiter::SlidingLog(log)) = &self.first {
            log.preload();
        }
    }

    fn booking(&self, class: u32) -> Booking {
        Booking {
            at: self.latest,
            reports: self.extra().reports,
            class,
        }
    }

    #[inline]
    fn extra(&self) -> &ExtraLimits {
        self.extra.as_deref().unwrap_or(&NO_EXTRA)
    }

    fn extra_mut(&mut self) -> &mut ExtraLimits {
        self.extra.get_or_insert_default()
    }

    /// What a class is held to, and in which unit.
    fn limits(&self, class: u32) -> impl Iterator<Item = (Unit, &Limiter)> {
        let rest = self.extra();
        let first = self.first.iter().map(|limit| (Unit::Requests, limit));
        let index = self.first.iter().len() as u32;
        let others = (index..).zip(&rest.limits).map(move |(index, rule)| {
            let own = match rule.each_class {
                true => rest.classes.get(&(class, index)),
                false => None,
            };
            (rule.unit, own.unwrap_or(&rule.limit))
        });
        first.chain(others)
    }

    /// Looks at two counts for each that an operation can make, and drops them where they are idle.
    fn sweep(&mut self) {
        let Some(rest) = self.extra.as_mut().filter(|rest| !rest.classes.is_empty()) else {
            return;
        };
        for _ in 0..rest.limits.len().saturating_add(1).saturating_mul(2) {
            let after = (Bound::Excluded(rest.swept), Bound::Unbounded);
            let next = rest.classes.range(after).next();
            let next = next.or_else(|| rest.classes.first_key_value());
            let Some((place, limit)) = next else {
                return;
            };
            rest.swept = *place;
            if limit.is_idle(self.latest) {
                rest.classes.remove(&rest.swept);
            }
        }
    }
}

/// Each rule's unit, whether it counts each class by itself, and its limit.
fn all<'a>(
    first: &'a mut Option<Limiter>,
    limits: &'a mut [ScopedLimit],
) -> impl Iterator<Item = (Unit, bool, &'a mut Limiter)> {
    let first = first.iter_mut().map(|limit| (Unit::Requests, false, limit));
    first.chain(
        limits
            .iter_mut()
            .map(|rule| (rule.unit, rule.each_class, &mut rule.limit)),
    )
}

impl PartialEq for LimitSet {
    fn eq(&self, other: &Self) -> bool {
        let alike = self.first == other.first && self.latest == other.latest;
        alike && self.extra() == other.extra()
    }
}

impl Eq for LimitSet {}

/// A set at extra: not every format has maps of such keys.
#[cfg(feature = "serde")]
#[derive(serde::Serialize, serde::Deserialize)]
struct Snapshot {
    limits: Vec<ScopedLimit>,
    classes: Vec<(CountKey, Limiter)>,
    latest: Tick,
    quotas: [ReportedQuota; 2],
    reports: u64,
    swept: CountKey,
}

#[cfg(feature = "serde")]
impl From<LimitSet> for Snapshot {
    fn from(set: LimitSet) -> Self {
        let rest = set.extra.map(|extra| *extra).unwrap_or_default();
        let first = set.first.map(|limit| ScopedLimit {
            unit: Unit::Requests,
            each_class: false,
            limit,
        });
        Self {
            limits: first.into_iter().chain(rest.limits).collect(),
            classes: rest.classes.into_iter().collect(),
            latest: set.latest,
            quotas: rest.quotas,
            reports: rest.reports,
            swept: rest.swept,
        }
    }
}

#[cfg(feature = "serde")]
impl From<Snapshot> for LimitSet {
    fn from(read: Snapshot) -> Self {
        let rest = ExtraLimits {
            limits: Vec::new(),
            classes: read.classes.into_iter().collect(),
            quotas: read.quotas,
            reports: read.reports,
            swept: read.swept,
        };
        let set = Self {
            first: None,
            latest: read.latest,
            extra: (rest != NO_EXTRA).then(|| Box::new(rest)),
        };
        let limits = read.limits.into_iter();
        limits.fold(set, |set, rule| {
            set.push(rule.unit, rule.each_class, rule.limit)
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
    fn a_million_classes_take_no_more_memory_than_those_in_use() {
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
