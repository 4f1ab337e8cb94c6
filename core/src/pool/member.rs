//! What a member is, what a pool knows of it, and whether it could serve.

use super::hold_times::Recent;
use super::lane::Opening;
use super::service_times::ServiceTimes;
use super::{Eligibility, GroupId, Labels, PoolConfig};
use crate::balance::{MemberLoad, PeakEwma, stable_hash};
use crate::health::OutcomeWindow;
use crate::health::{self, Health, SlowStart};
use crate::health::{Breaker, BreakerConfig, BreakerState};
use crate::limit::{Cost, LimitSet, Limiter, Unit, Wait};
use crate::pool::stats::{Histogram, LeaseCounts};
use crate::time::{Tick, earliest};
use alloc::boxed::Box;
use core::hint::black_box;
use core::num::NonZeroU32;

/// What comes after every time that is known.
const UNKNOWN: u64 = 1 << 63;

/// A member to be added: a payload and what it can serve.
#[derive(Clone, Debug)]
pub struct Member<T> {
    pub(super) payload: T,
    pub(super) identity: Option<u64>,
    pub(super) weight: u16,
    pub(super) max_leases: u32,
    pub(super) tier: u8,
    pub(super) labels: Labels,
    pub(super) group: Option<GroupId>,
    pub(super) limits: LimitSet,
}

impl<T> Member<T> {
    /// A member of weight 1 in tier 0, without labels, that any number of leases can be held on at once.
    pub fn new(payload: T) -> Self {
        Self {
            payload,
            identity: None,
            weight: 1,
            max_leases: u32::MAX,
            tier: 0,
            labels: Labels::NONE,
            group: None,
            limits: LimitSet::default(),
        }
    }

    /// The same member with another payload.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Member<U> {
        Member {
            payload: change(self.payload),
            identity: self.identity,
            weight: self.weight,
            max_leases: self.max_leases,
            tier: self.tier,
            labels: self.labels,
            group: self.group,
            limits: self.limits,
        }
    }

    /// Holds at most `max` leases on it at once.
    #[must_use]
    pub fn max_leases(mut self, max: NonZeroU32) -> Self {
        self.max_leases = max.get();
        self
    }

    /// Grants leases on it only as the limit allows, by the number of requests, besides the limits it
    /// has already.
    #[must_use]
    pub fn limit(self, limit: impl Into<Limiter>) -> Self {
        self.limit_of(Unit::Requests, limit)
    }

    /// Grants leases on it only as the limit allows, by what they cost in this unit.
    #[must_use]
    pub fn limit_of(mut self, unit: Unit, limit: impl Into<Limiter>) -> Self {
        self.limits = self.limits.with(unit, limit);
        self
    }

    /// Grants leases on it only as these limits allow, and not as any given before.
    #[must_use]
    pub fn limits(mut self, limits: LimitSet) -> Self {
        self.limits = limits;
        self
    }

    /// The name by which policies that hash know it, so that a key reaches the same member wherever and
    /// whenever the pool is built. Without one they go by its slot.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.identity = Some(stable_hash(name.as_bytes()));
        self
    }

    /// Its share of the calls under policies that weigh. 0 drains it.
    #[must_use]
    pub fn weight(mut self, weight: u16) -> Self {
        self.weight = weight;
        self
    }

    /// How near it is: members of a higher tier serve only what those of the lower can't.
    #[must_use]
    pub fn tier(mut self, tier: u8) -> Self {
        self.tier = tier;
        self
    }

    /// What it can do.
    #[must_use]
    pub fn labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// The group whose limits it shares, such as the account of a key.
    #[must_use]
    pub fn group(mut self, group: GroupId) -> Self {
        self.group = Some(group);
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) enum State {
    Enabled,
    Disabled,
    Draining,
    Removing,
}

/// What a grant and a release look at: three cache lines, each of them a miss where a member comes up by
/// chance.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Entry<T> {
    pub(super) state: State,
    pub(super) tier: u8,
    pub(super) weight: u16,
    pub(super) max_leases: u32,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) in_flight: u32,
    /// Failures that were quicker than a success, each counted as a lease until it no longer is.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) phantoms: u32,
    pub(super) stamp: u64,
    pub(super) group: Option<GroupId>,
    /// Whether it counts as one that could serve but for its health, and as healthy.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) counted: Option<bool>,
    /// Whether the details have a watch.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) is_watched: bool,
    pub(super) details: Box<Details<T>>,
    pub(super) limits: LimitSet,
    /// How long leases were held, but for what was entered in the histogram or the pool is about to.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) recent: Recent,
}

/// What most grants and releases don't look at.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Details<T> {
    pub(super) held: Histogram,
    pub(super) failure_counts: FailureCounts,
    /// At once where the pool watches anything, or else once there is anything to remember. Who has one is
    /// marked as watched.
    pub(super) watch: Option<Box<Watch>>,
    pub(super) slow_start: SlowStart,
    /// Only where the policy goes by it.
    pub(super) pass: u64,
    /// The jobs it said it had, if it ever did.
    pub(super) depth: Option<u32>,
    /// Leases granted since it told its depth, and since the probe under way began; only where the policy
    /// goes by work.
    pub(super) unseen: u32,
    pub(super) unseen_by_probe: u32,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) latency: Option<PeakEwma>,
    /// Only where work is weighed by time.
    pub(super) service: ServiceTimes,
    pub(super) labels: Labels,
    pub(super) identity: u64,
    pub(super) payload: T,
}

/// What is watched of a member.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Watch {
    /// Until when it was told to rest.
    pub(super) rests_until: Tick,
    pub(super) health: Option<Health>,
    /// The probe under way.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) probe: Option<health::ProbeId>,
    pub(super) outcomes: OutcomeWindow,
    pub(super) breaker: Breaker,
    /// Until when it was told that the breaker is open.
    pub(super) told_open: Option<Tick>,
}

impl Watch {
    /// Makes one where the pool watches anything.
    pub(super) fn new(config: &PoolConfig, now: Tick, seed: u64) -> Option<Box<Self>> {
        let watches =
            config.health.is_some() || config.outlier.is_some() || config.breaker.is_some();
        watches.then(|| {
            let health = config.health.as_ref();
            Box::new(Self {
                health: health.map(|config| Health::new(config, now, seed)),
                ..Self::default()
            })
        })
    }
}

/// Leases that ended other than well.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct FailureCounts {
    pub(super) failed: u64,
    pub(super) throttled: u64,
    pub(super) not_sent: u64,
    pub(super) expired: u64,
}

/// What decides over a member besides itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) group: Option<&'a LimitSet>,
    pub(super) breaker: Option<&'a BreakerConfig>,
    /// Health is as of now, even while catching up.
    pub(super) now: Tick,
    pub(super) panic: bool,
}

impl<T> Entry<T> {
    /// Whether it could serve as of `at`, and if not, why not. Where several things stand against it,
    /// the one that does so for longest.
    pub(super) fn reason(
        &self,
        at: Tick,
        class: u32,
        cost: Cost,
        around: Surroundings<'_>,
    ) -> Eligibility {
        match self.state {
            State::Removing => return Eligibility::Removed,
            State::Disabled => return Eligibility::Disabled,
            State::Draining => return Eligibility::Draining,
            State::Enabled if self.weight == 0 => return Eligibility::Draining,
            State::Enabled => {}
        }
        if !around.panic && self.is_down() {
            return Eligibility::Unhealthy;
        }
        if self.in_flight.saturating_add(self.phantoms) >= self.max_leases {
            return Eligibility::Full;
        }
        let mut latest = at;
        let mut reason = Eligibility::Ready;
        let mut hold = |until: Tick, why: Eligibility| {
            if until > latest {
                latest = until;
                reason = why;
            }
        };
        if let Some(until) = self.ejected(around.now).filter(|_| !around.panic) {
            hold(until, Eligibility::Ejected { until });
        }
        if let Some(watch) = self.watch() {
            let until = watch.rests_until;
            hold(until, Eligibility::Throttled { until });
        }
        if let (Some(config), Some(watch)) = (around.breaker, self.watch()) {
            match watch.breaker.state(config, around.now) {
                BreakerState::Closed => {}
                BreakerState::Open { until } => hold(until, Eligibility::BreakerOpen { until }),
                BreakerState::HalfOpen { .. } => {
                    if watch.breaker.earliest(config, around.now) == Wait::ForSettlement {
                        return Eligibility::Probing;
                    }
                }
            }
        }
        let limits = [Some(&self.limits), around.group];
        for limits in limits.into_iter().flatten() {
            match limits.earliest(at, class, cost) {
                Wait::Until(until) => hold(until, Eligibility::AtLimit { until }),
                Wait::ForSettlement => return Eligibility::InFlight,
                Wait::Never => return Eligibility::NeverFits,
            }
        }
        reason
    }

    /// What is watched of it, without a look at the details where nothing is.
    pub(super) fn watch(&self) -> Option<&Watch> {
        if self.is_watched {
            self.details.watch.as_deref()
        } else {
            None
        }
    }

    pub(super) fn watch_mut(&mut self) -> Option<&mut Watch> {
        if self.is_watched {
            self.details.watch.as_deref_mut()
        } else {
            None
        }
    }

    pub(super) fn set_watch(&mut self, watch: Option<Box<Watch>>) {
        self.is_watched = watch.is_some();
        self.details.watch = watch;
    }

    /// Lets it rest until then, if it doesn't for longer.
    pub(super) fn rest(&mut self, until: Tick) {
        self.is_watched = true;
        let watch = self.details.watch.get_or_insert_default();
        watch.rests_until = watch.rests_until.max(until);
    }

    /// Asks the memory for what a grant and a release will look at, in lines of the cache that are then
    /// waited for together and not one after the other.
    pub(super) fn preload(&self) {
        black_box((self.stamp, self.recent.used()));
        self.limits.preload();
    }

    /// Whether its probes fail.
    pub(super) fn is_down(&self) -> bool {
        let health = self.watch().and_then(|watch| watch.health.as_ref());
        health.is_some_and(|health| !health.is_up())
    }

    /// Until when it is ejected.
    fn ejected(&self, now: Tick) -> Option<Tick> {
        self.watch()?.outcomes.ejected(now)
    }

    /// Whether it would be healthy, if it were to count at all.
    pub(super) fn is_healthy(&self, now: Tick) -> Option<bool> {
        let counts = self.state == State::Enabled && self.weight > 0;
        counts.then(|| !self.is_down() && self.ejected(now).is_none())
    }

    /// The weight that policies see. Hashes keep to the full one, so that no keys move.
    pub(super) fn weight_at(&self, config: &PoolConfig, now: Tick) -> u32 {
        let full = u32::from(self.weight);
        match &config.slow_start {
            _ if config.policy.uses_key() => full,
            Some(ramp) => self.details.slow_start.weight_at(ramp, now, full),
            None => full.saturating_mul(SlowStart::SCALE),
        }
    }

    /// How it stands for calls of a class.
    pub(super) fn member_load(&self, config: &PoolConfig, class: u32, now: Tick) -> MemberLoad {
        MemberLoad {
            load: self.in_flight.saturating_add(self.phantoms),
            last_used_seq: self.stamp,
            // What the policy doesn't go by is further away, and its memory need not be waited for.
            pass: if config.policy.uses_pass() {
                self.details.pass
            } else {
                0
            },
            work: if config.policy.uses_work() {
                self.work(config, class, now)
            } else {
                0
            },
            latency: match config.policy.half_life() {
                Some(_) => self.details.latency.as_ref().and_then(PeakEwma::key),
                None => None,
            },
        }
    }

    /// The jobs ahead of the next one, by weight; or the time until that would be done, where it is known
    /// how long one takes. Who has never been measured comes first while idle and last while at work.
    fn work(&self, config: &PoolConfig, class: u32, now: Tick) -> u64 {
        let jobs = match self.details.depth {
            // A failure since the report is among both.
            Some(depth) => {
                u64::from(depth).saturating_add(self.details.unseen.max(self.phantoms).into())
            }
            None => u64::from(self.in_flight.saturating_add(self.phantoms)),
        };
        if !config.weigh_by_time {
            let scaled = jobs.saturating_mul(1 << 20);
            let weight = u64::from(self.weight_at(config, now));
            return scaled.checked_div(weight).unwrap_or(scaled);
        }
        match self.details.service.mean(class) {
            Some(nanos) => {
                let known = jobs.saturating_add(1).saturating_mul(nanos);
                known.clamp(1, UNKNOWN.saturating_sub(1))
            }
            None if jobs == 0 => 0,
            None => UNKNOWN.saturating_add(jobs),
        }
    }

    /// When the pool has to look after it next.
    pub(super) fn next_timer(&self, config: &PoolConfig, now: Tick) -> Option<Tick> {
        let ramp = config.slow_start.as_ref();
        let ramp = ramp.and_then(|ramp| self.details.slow_start.next_change(ramp, now));
        let Some(watch) = self.watch() else {
            return ramp;
        };
        let health = watch.health.as_ref().and_then(Health::poll_timeout);
        earliest(
            earliest(health, watch.breaker.poll_timeout()),
            earliest(ramp, watch.outcomes.ejected(now)),
        )
    }

    /// Its leases by how they ended. Each that has ended is in `held`.
    pub(super) fn counts(&self, held: &Histogram) -> LeaseCounts {
        let FailureCounts {
            failed,
            throttled,
            not_sent,
            expired,
        } = self.details.failure_counts;
        let missed = failed.saturating_add(throttled).saturating_add(not_sent);
        let ended = held.count();
        LeaseCounts {
            granted: ended.saturating_add(self.in_flight.into()),
            ok: ended.saturating_sub(missed.saturating_add(expired)),
            failed,
            throttled,
            not_sent,
            expired,
        }
    }
}

impl Eligibility {
    /// When a member that is held back so opens.
    pub(super) fn opening(self) -> Opening {
        match self {
            Self::Ready | Self::LowerTier | Self::InLine => Opening::Now,
            Self::Ejected { until }
            | Self::BreakerOpen { until }
            | Self::Throttled { until }
            | Self::AtLimit { until } => Opening::At(until),
            Self::Full | Self::Probing | Self::InFlight => Opening::AnyTime,
            Self::Unhealthy => Opening::Recovered,
            Self::WrongLabels
            | Self::NotPinned
            | Self::Removed
            | Self::Disabled
            | Self::Draining => Opening::Unknown,
            Self::NeverFits => Opening::ForLess,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn what_a_lease_looks_at_takes_three_cache_lines_whatever_the_payload() {
        assert_eq!(size_of::<Option<Entry<()>>>(), 192);
        assert_eq!(size_of::<Option<Entry<[u64; 100]>>>(), 192);
    }
}
