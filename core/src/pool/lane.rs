//! A lane: the members for requests of one class with the same labels, by when they can serve.
//!
//! Invariant: a member that can serve the `wanted` cost now is in its tier's balancer as ready. A ready one
//! may yet refuse, because limits that it shares were used up since, or because it was last judged for a
//! lower cost; it is then judged again and moved. Members not ready for the wanted cost that might be for
//! a lower one are in `deferred`.

use super::eligibility::Readiness;
use super::labels::LabelSet;
use crate::balance::{Balancer, MemberLoad, Policy};
use crate::limit::{Cost, Wait};
use crate::time::{Tick, earliest};
use crate::util::bits::BitSet;
use crate::util::heap::IndexedHeap;
use crate::util::slab::Handle;
use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

/// The kind of request that a lane is for. The class is 0 where the pool does not tell classes apart, and the labels
/// are none where the lane is for pinned requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LaneKey {
    pub(super) class: u32,
    pub(super) labels: LabelSet,
    /// The only member, for pinned requests.
    pub(super) pin: Option<Handle>,
}

#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub(super) key: LaneKey,
    members: LaneMembers,
    pub(super) wanted: Cost,
    /// Whether no other cost was ever wanted.
    pub(super) is_uniform: bool,
    deferred: BitSet,
    /// The wait that the pool's own limits impose on a request that a member could have served.
    pub(super) blocked_by: Option<Wait>,
    /// The wait of its head for a member that is expected to serve it sooner than a ready one.
    pub(super) postponement: Option<Postponement>,
    /// A lower bound on its members' mean times, where work is weighed by time.
    fastest: u64,
    /// Whether it is in the list of lanes that may be served.
    pub(super) is_flagged: bool,
    /// Whether requests wait in it.
    pub(super) is_awaited: bool,
    /// The number of its last use, among uses of all lanes.
    pub(super) last_used: u64,
    rate: ServeRate,
}

#[derive(Clone, Debug)]
enum LaneMembers {
    /// The member of pinned requests.
    One { slot: u32, readiness: Readiness },
    Many {
        /// Balancers by tier, the lowest first; at most 256.
        tiers: Vec<(u8, Balancer)>,
        /// Positions by slot.
        positions: Vec<Position>,
        /// The ticks at which sleeping members are ready.
        sleeping: IndexedHeap<Tick>,
        busy: BitSet,
        down: BitSet,
    },
}

/// A wait for a faster member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Postponement {
    /// The tick at which it is decided anew, unless something happens before.
    pub(super) again_at: Tick,
    /// The tick from which the request no longer waits.
    pub(super) until: Tick,
}

/// Where a member stands in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// Not in this lane.
    Absent,
    /// In its tier's balancer as ready.
    Ready,
    /// In `sleeping`.
    Sleeping,
    /// In `busy`: ready when a lease or probe ends.
    Busy,
    /// In `down`: ready when its probes succeed.
    Down,
    /// In the lane, and not ready before something else changes.
    Out,
}

/// The rate at which a lane is served while requests wait in it.
#[derive(Clone, Copy, Debug, Default)]
struct ServeRate {
    last: Option<Tick>,
    /// A moving average of the time between grants: each new one counts for an eighth.
    mean_gap: Option<Duration>,
}

impl Lane {
    pub(super) fn new(key: LaneKey) -> Self {
        let members = match key.pin {
            Some(pin) => LaneMembers::One {
                slot: pin.slot(),
                readiness: Readiness::Unknown,
            },
            None => LaneMembers::Many {
                tiers: Vec::new(),
                positions: Vec::new(),
                sleeping: IndexedHeap::new(),
                busy: BitSet::new(),
                down: BitSet::new(),
            },
        };
        Self {
            key,
            members,
            wanted: Cost::REQUEST,
            is_uniform: true,
            deferred: BitSet::new(),
            blocked_by: None,
            postponement: None,
            fastest: u64::MAX,
            is_flagged: false,
            is_awaited: false,
            last_used: 0,
            rate: ServeRate::default(),
        }
    }

    /// An idle lane for another class whose policies go on from the state of this one's.
    pub(super) fn for_class(&self, class: u32) -> Self {
        Self {
            members: self.members.clone(),
            ..Self::new(LaneKey { class, ..self.key })
        }
    }

    /// Adds a member. `new` gives the policy and seed of a tier's balancer.
    pub(super) fn insert(
        &mut self,
        slot: u32,
        tier: u8,
        identity: u64,
        weight: u32,
        new: impl FnOnce() -> (Policy, u64),
    ) {
        let LaneMembers::Many {
            tiers, positions, ..
        } = &mut self.members
        else {
            return;
        };
        let slots = (slot as usize).saturating_add(1);
        if positions.len() < slots {
            positions.resize(slots, Position::Absent);
        }
        if let Some(position) = positions.get_mut(slot as usize) {
            *position = Position::Out;
        }
        let at = match tiers.binary_search_by_key(&tier, |(tier, _)| *tier) {
            Ok(at) => at,
            Err(at) => {
                let (policy, seed) = new();
                tiers.insert(at, (tier, Balancer::new(policy, seed)));
                at
            }
        };
        if let Some((_, balancer)) = tiers.get_mut(at) {
            balancer.insert(slot, identity, weight);
        }
    }

    pub(super) fn remove(&mut self, slot: u32, tier: u8) {
        self.set(slot, tier, &MemberLoad::default(), Readiness::Unknown);
        self.deferred.remove(slot);
        if let LaneMembers::Many {
            tiers, positions, ..
        } = &mut self.members
        {
            if let Some(position) = positions.get_mut(slot as usize) {
                *position = Position::Absent;
            }
            if let Some(balancer) = tier_mut(tiers, tier) {
                balancer.remove(slot);
            }
        }
    }

    #[inline]
    pub(super) fn contains(&self, slot: u32) -> bool {
        match &self.members {
            LaneMembers::One { slot: one, .. } => *one == slot,
            LaneMembers::Many { positions, .. } => positions
                .get(slot as usize)
                .is_some_and(|position| *position != Position::Absent),
        }
    }

    pub(super) fn set_weight(&mut self, slot: u32, tier: u8, weight: u32) {
        if let LaneMembers::Many { tiers, .. } = &mut self.members
            && let Some(balancer) = tier_mut(tiers, tier)
        {
            balancer.set_weight(slot, weight);
        }
    }

    /// Moves a member to the position that its readiness gives.
    pub(super) fn set(&mut self, slot: u32, tier: u8, load: &MemberLoad, readiness: Readiness) {
        let LaneMembers::Many {
            tiers,
            positions,
            sleeping,
            busy,
            down,
        } = &mut self.members
        else {
            if let LaneMembers::One { readiness: one, .. } = &mut self.members {
                *one = readiness;
            }
            return;
        };
        let Some(position) = positions.get_mut(slot as usize) else {
            return;
        };
        let new = match readiness {
            Readiness::Now => Position::Ready,
            Readiness::At(_) => Position::Sleeping,
            Readiness::AnyTime => Position::Busy,
            Readiness::AfterRecovery => Position::Down,
            Readiness::ForLess | Readiness::Unknown => Position::Out,
        };
        let old = mem::replace(position, new);
        if let Some(balancer) = tier_mut(tiers, tier) {
            balancer.update(slot, load, readiness.availability());
        }
        if let Readiness::At(tick) = readiness {
            sleeping.set(slot, tick);
        }
        if old == new {
            return;
        }
        match old {
            Position::Sleeping => drop(sleeping.remove(slot)),
            Position::Busy => busy.remove(slot),
            Position::Down => down.remove(slot),
            Position::Absent | Position::Ready | Position::Out => {}
        }
        match new {
            Position::Busy => busy.insert(slot),
            Position::Down => down.insert(slot),
            Position::Absent | Position::Ready | Position::Sleeping | Position::Out => {}
        }
    }

    /// Whether a member is ready, or asleep until a tick that has come.
    pub(super) fn may_serve(&self, as_of: Tick) -> bool {
        let is_awake = match &self.members {
            LaneMembers::One { readiness, .. } => *readiness == Readiness::Now,
            LaneMembers::Many { tiers, .. } => {
                tiers.iter().any(|(_, balancer)| balancer.ready() > 0)
            }
        };
        is_awake || self.first_sleeping().is_some_and(|(tick, _)| tick <= as_of)
    }

    /// The member that the policy selects among the ready ones of the lowest tier that has any.
    #[inline]
    pub(super) fn choose(&mut self, key: Option<u64>) -> Option<u32> {
        match &mut self.members {
            LaneMembers::One { slot, readiness } => (*readiness == Readiness::Now).then_some(*slot),
            LaneMembers::Many { tiers, .. } => tiers
                .iter_mut()
                .find_map(|(_, balancer)| balancer.choose(key)),
        }
    }

    /// Whether a member is ready and no lower tier has a ready one.
    pub(super) fn may_choose(&self, slot: u32, tier: u8) -> bool {
        match &self.members {
            LaneMembers::One { .. } => false,
            LaneMembers::Many {
                tiers, positions, ..
            } => {
                let position = positions.get(slot as usize);
                let lower = || tiers.iter().take_while(|(other, _)| *other < tier);
                position == Some(&Position::Ready)
                    && lower().all(|(_, balancer)| balancer.ready() == 0)
            }
        }
    }

    /// Tells the policy that a member was leased.
    #[inline]
    pub(super) fn chosen(&mut self, slot: u32, tier: u8) {
        if let LaneMembers::Many { tiers, .. } = &mut self.members
            && let Some(balancer) = tier_mut(tiers, tier)
        {
            balancer.chosen(slot);
        }
    }

    /// The sleeping member that is ready first, and when.
    #[inline]
    pub(super) fn first_sleeping(&self) -> Option<(Tick, u32)> {
        match &self.members {
            LaneMembers::One { slot, readiness } => match readiness {
                Readiness::At(tick) => Some((*tick, *slot)),
                Readiness::Now
                | Readiness::AnyTime
                | Readiness::AfterRecovery
                | Readiness::ForLess
                | Readiness::Unknown => None,
            },
            LaneMembers::Many { sleeping, .. } => sleeping.peek(),
        }
    }

    /// A member that may be ready when a lease or probe ends.
    #[inline]
    pub(super) fn first_busy(&self) -> Option<u32> {
        match &self.members {
            LaneMembers::One { slot, readiness } => {
                (*readiness == Readiness::AnyTime).then_some(*slot)
            }
            LaneMembers::Many { busy, .. } => busy.first(),
        }
    }

    /// A member that is ready when its probes succeed.
    #[inline]
    pub(super) fn first_down(&self) -> Option<u32> {
        match &self.members {
            LaneMembers::One { slot, readiness } => {
                (*readiness == Readiness::AfterRecovery).then_some(*slot)
            }
            LaneMembers::Many { down, .. } => down.first(),
        }
    }

    /// The tick at which a request in it may be served; `None` where that is now or not known.
    pub(super) fn ready_at(&self) -> Option<Tick> {
        match self.blocked_by {
            _ if self.is_flagged => None,
            Some(Wait::Until(tick)) => Some(tick),
            Some(Wait::ForSettlement | Wait::Never) => None,
            None => earliest(
                self.first_sleeping().map(|(tick, _)| tick),
                self.postponement.map(|wait| wait.again_at),
            ),
        }
    }

    /// Enters the mean time of one of its members.
    #[inline]
    pub(super) fn note_mean(&mut self, nanos: u64) {
        self.fastest = self.fastest.min(nanos);
    }

    /// Enters the least mean time of all its members.
    pub(super) fn set_fastest(&mut self, nanos: u64) {
        self.fastest = nanos;
    }

    /// No member's mean time is below this.
    pub(super) fn fastest(&self) -> u64 {
        self.fastest
    }

    /// Notes that a member isn't ready for the wanted cost and might be for another.
    pub(super) fn defer(&mut self, slot: u32) {
        self.deferred.insert(slot);
    }

    /// Changes the wanted cost; the members that are to be judged again for it.
    #[inline]
    pub(super) fn set_wanted(&mut self, cost: Cost) -> Vec<u32> {
        let old = mem::replace(&mut self.wanted, cost);
        if old == cost {
            return Vec::new();
        }
        self.is_uniform = false;
        let mut again = Vec::new();
        if !cost.covers(old) {
            while let Some(slot) = self.deferred.first() {
                self.deferred.remove(slot);
                again.push(slot);
            }
        }
        again
    }

    /// Begins or ends the time in which requests wait.
    pub(super) fn set_awaited(&mut self, is_awaited: bool) {
        self.is_awaited = is_awaited;
        self.rate.last = None;
        self.postponement = None;
        if !is_awaited {
            self.blocked_by = None;
        }
    }

    /// Measures a grant to a queued request.
    pub(super) fn record_served(&mut self, now: Tick) {
        let Some(last) = self.rate.last.replace(now) else {
            return;
        };
        let gap = now.since(last);
        let eighth = |span: Duration| span.checked_div(8).unwrap_or_default();
        self.rate.mean_gap = Some(match self.rate.mean_gap {
            Some(mean) => mean
                .saturating_sub(eighth(mean))
                .saturating_add(eighth(gap)),
            None => gap,
        });
    }

    /// Mean time between grants to queued requests; `None` before the second.
    pub(super) fn mean_gap(&self) -> Option<Duration> {
        self.rate.mean_gap
    }
}

fn tier_mut(tiers: &mut [(u8, Balancer)], tier: u8) -> Option<&mut Balancer> {
    let at = tiers.binary_search_by_key(&tier, |(tier, _)| *tier).ok()?;
    tiers.get_mut(at).map(|(_, balancer)| balancer)
}
