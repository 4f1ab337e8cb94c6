//! A member as its caller describes it, and changes of it.

use super::ids::GroupId;
use super::labels::Labels;
use crate::balance::stable_hash;
use crate::health::{BreakerConfig, ProbeConfig};
use crate::limit::{LimitSet, Limiter, Unit};
use alloc::boxed::Box;
use core::num::NonZeroU32;

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
    pub(super) settings: Settings,
}

/// A setting of a member: the pool's, one of its own, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberSetting<C> {
    /// As the pool's configuration says.
    #[default]
    Pool,
    /// Its own, in place of the pool's.
    Own(C),
    /// None, whatever the pool's configuration says.
    Off,
}

impl<C> From<C> for MemberSetting<C> {
    fn from(own: C) -> Self {
        Self::Own(own)
    }
}

impl<C> MemberSetting<C> {
    pub(super) fn or<'a>(&'a self, pool: &'a Option<C>) -> Option<&'a C> {
        match self {
            Self::Pool => pool.as_ref(),
            Self::Own(own) => Some(own),
            Self::Off => None,
        }
    }
}

/// The settings of a member that go before the pool's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) breaker: MemberSetting<BreakerConfig>,
    pub(super) probes: MemberSetting<ProbeConfig>,
}

impl Settings {
    /// The settings, unless all are the pool's.
    pub(super) fn into_box(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

impl<T> Member<T> {
    /// A member of weight 1 in tier 0, without labels or limits, with any number of leases at once.
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
            settings: Settings::default(),
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
            settings: self.settings,
        }
    }

    /// The bound on leases held on it at once.
    #[must_use]
    pub fn max_leases(mut self, max: NonZeroU32) -> Self {
        self.max_leases = max.get();
        self
    }

    /// Adds a limit on requests.
    #[must_use]
    pub fn limit(self, limit: impl Into<Limiter>) -> Self {
        self.limit_of(Unit::Requests, limit)
    }

    /// Adds a limit on the cost in this unit.
    #[must_use]
    pub fn limit_of(mut self, unit: Unit, limit: impl Into<Limiter>) -> Self {
        self.limits = self.limits.with(unit, limit);
        self
    }

    /// Replaces its limits.
    #[must_use]
    pub fn limits(mut self, limits: LimitSet) -> Self {
        self.limits = limits;
        self
    }

    /// The name by which hash policies know it. A key then maps to the same member in every pool and at every
    /// time. Without a name they use its slot.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.identity = Some(stable_hash(name.as_bytes()));
        self
    }

    /// Its share of the calls under weighted policies. A weight of 0 drains it.
    #[must_use]
    pub fn weight(mut self, weight: u16) -> Self {
        self.weight = weight;
        self
    }

    /// Its tier. Members of a higher tier serve only what those of lower tiers can't.
    #[must_use]
    pub fn tier(mut self, tier: u8) -> Self {
        self.tier = tier;
        self
    }

    /// Its labels: what it can do.
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

    /// Its breaker: its own configuration, or none, in place of the pool's.
    #[must_use]
    pub fn breaker(mut self, breaker: impl Into<MemberSetting<BreakerConfig>>) -> Self {
        self.settings.breaker = breaker.into();
        self
    }

    /// Its probes: their own configuration, or none, in place of the pool's.
    #[must_use]
    pub fn probes(mut self, probes: impl Into<MemberSetting<ProbeConfig>>) -> Self {
        self.settings.probes = probes.into();
        self
    }
}

/// A change of a member, in full or in part, for [`Pool::update`](super::Pool::update).
#[derive(Clone, Debug)]
#[must_use = "an update changes nothing before it is given to the pool"]
pub struct MemberUpdate<T> {
    pub(super) payload: Option<T>,
    pub(super) weight: Option<u16>,
    pub(super) max_leases: Option<u32>,
    pub(super) tier: Option<u8>,
    pub(super) labels: Option<Labels>,
    pub(super) group: Option<Option<GroupId>>,
    pub(super) limits: Option<LimitSet>,
    pub(super) breaker: Option<MemberSetting<BreakerConfig>>,
    pub(super) probes: Option<MemberSetting<ProbeConfig>>,
}

impl<T> Default for MemberUpdate<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> MemberUpdate<T> {
    /// An update that changes nothing.
    pub const fn new() -> Self {
        Self {
            payload: None,
            weight: None,
            max_leases: None,
            tier: None,
            labels: None,
            group: None,
            limits: None,
            breaker: None,
            probes: None,
        }
    }

    /// The same update with another payload.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> MemberUpdate<U> {
        MemberUpdate {
            payload: self.payload.map(change),
            weight: self.weight,
            max_leases: self.max_leases,
            tier: self.tier,
            labels: self.labels,
            group: self.group,
            limits: self.limits,
            breaker: self.breaker,
            probes: self.probes,
        }
    }

    /// Replaces the payload. Leases that are held keep what they were granted with.
    pub fn payload(mut self, payload: T) -> Self {
        self.payload = Some(payload);
        self
    }

    /// Changes its share of the calls; a weight of 0 drains it, without an event.
    pub fn weight(mut self, weight: u16) -> Self {
        self.weight = Some(weight);
        self
    }

    /// Changes the bound on leases held on it at once; `None` for any number. Leases above a lower bound stay.
    pub fn max_leases(mut self, max: impl Into<Option<NonZeroU32>>) -> Self {
        self.max_leases = Some(max.into().map_or(u32::MAX, NonZeroU32::get));
        self
    }

    /// Moves it to a tier, behind the members there in the order of policies that take turns.
    pub fn tier(mut self, tier: u8) -> Self {
        self.tier = Some(tier);
        self
    }

    /// Replaces its labels. Policies that take turns put it behind the other members.
    pub fn labels(mut self, labels: Labels) -> Self {
        self.labels = Some(labels);
        self
    }

    /// Moves it to a group, or out of any. Leases held on it count as completed in the old group, and as granted
    /// now in the new one. O(leases).
    pub fn group(mut self, group: impl Into<Option<GroupId>>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Replaces its limits, as [`Pool::set_limits`](super::Pool::set_limits) does. O(leases).
    pub fn limits(mut self, limits: LimitSet) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Changes the configuration of its breaker, whose state stays; without one it forgets its state.
    pub fn breaker(mut self, breaker: impl Into<MemberSetting<BreakerConfig>>) -> Self {
        self.breaker = Some(breaker.into());
        self
    }

    /// Changes the configuration of its probes from the next one on; without any it counts as up.
    pub fn probes(mut self, probes: impl Into<MemberSetting<ProbeConfig>>) -> Self {
        self.probes = Some(probes.into());
        self
    }
}
