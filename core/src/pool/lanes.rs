//! All lanes of a pool.
//!
//! Invariant: `by_key` names each lane once; `general` and `pinned` hold each lane once, by whether it is for
//! pinned requests; `awaited` holds exactly the lanes marked so, and `flagged` and `candidates` together those marked as
//! flagged.

use super::ids::GroupIndex;
use super::lane::{Lane, LaneKey};
use super::member_state::{EligibilityContext, MemberState, Status};
use super::queue::Turn;
use crate::random::mix;
use alloc::collections::{BTreeMap, BinaryHeap};
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::mem;

/// The bound on lanes in which no request waits.
const MAX_IDLE_LANES: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct Lanes {
    lanes: Vec<Option<Lane>>,
    by_key: BTreeMap<LaneKey, u32>,
    /// Lanes of requests that aren't pinned.
    general: Vec<u32>,
    /// Lanes of pinned requests, by the slot of the member; none is empty.
    pinned: BTreeMap<u32, Vec<u32>>,
    /// Indexes of lanes that are not in use.
    free: Vec<u32>,
    /// Lanes whose head may be served now, apart from the candidates.
    flagged: Vec<u32>,
    /// Flagged lanes by the turn of their head, the first on top. Empty between commands.
    candidates: BinaryHeap<Reverse<(Turn, u32)>>,
    /// Lanes in which requests wait.
    awaited: Vec<u32>,
    /// Uses of any lane so far.
    uses: u64,
}

impl Lanes {
    pub(super) fn new() -> Self {
        Self {
            lanes: Vec::new(),
            by_key: BTreeMap::new(),
            general: Vec::new(),
            pinned: BTreeMap::new(),
            free: Vec::new(),
            flagged: Vec::new(),
            candidates: BinaryHeap::new(),
            awaited: Vec::new(),
            uses: 0,
        }
    }

    #[inline]
    pub(super) fn get(&self, lane: u32) -> Option<&Lane> {
        self.lanes.get(lane as usize)?.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, lane: u32) -> Option<&mut Lane> {
        self.lanes.get_mut(lane as usize)?.as_mut()
    }

    /// The lane of a key, without using it.
    pub(super) fn find(&self, key: &LaneKey) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// The lane of a key, if there is one; a use of it.
    #[inline]
    pub(super) fn touch(&mut self, key: &LaneKey) -> Option<u32> {
        self.uses = self.uses.saturating_add(1);
        let uses = self.uses;
        if let Some(first) = self.get_mut(0)
            && first.key == *key
        {
            first.last_used = uses;
            return Some(0);
        }
        let lane = self.find(key)?;
        if let Some(known) = self.get_mut(lane) {
            known.last_used = uses;
        }
        Some(lane)
    }

    /// Makes room for one more lane; returns whether there is. O(lanes).
    pub(super) fn make_room(&mut self, max: u32) -> bool {
        let idle = self.by_key.len().saturating_sub(self.awaited.len());
        if idle > MAX_IDLE_LANES {
            self.evict_idle();
        }
        self.by_key.len() < max as usize || self.evict_idle()
    }

    /// Evicts the least recently used lane in which no request waits; returns whether there was one.
    fn evict_idle(&mut self) -> bool {
        let idle = self.general.iter().filter_map(|index| {
            let lane = self.get(*index).filter(|lane| !lane.is_awaited)?;
            Some((lane.last_used, *index))
        });
        let Some((_, lane)) = idle.min() else {
            return false;
        };
        self.remove(lane);
        true
    }

    /// Adds the lane of a key that has none, with the members that match it. Returns the lane, and the groups
    /// whose limits may hold a member back in it. O(members).
    pub(super) fn insert<'a, T: 'a>(
        &mut self,
        key: LaneKey,
        members: impl Iterator<Item = (u32, &'a MemberState<T>)>,
        ctx: &EligibilityContext<'_>,
    ) -> Option<(u32, Vec<GroupIndex>)> {
        let index = self.free.pop().or_else(|| {
            self.lanes.push(None);
            u32::try_from(self.lanes.len().saturating_sub(1)).ok()
        })?;
        // A lane with the same members goes on from the state of their policies.
        let alike = self.general.iter().find_map(|lane| {
            let lane = self.get(*lane)?;
            (key.pin.is_none() && lane.key.labels == key.labels).then_some(lane)
        });
        let has_members = alike.is_some();
        let mut lane = alike.map_or_else(|| Lane::new(key), |lane| lane.for_class(key.class));
        lane.last_used = self.uses;
        *self.lanes.get_mut(index as usize)? = Some(lane);
        self.by_key.insert(key, index);
        match key.pin {
            Some(pin) => self.pinned.entry(pin.slot()).or_default().push(index),
            None => self.general.push(index),
        }
        let mut held_back = Vec::new();
        for (slot, member) in members {
            if !has_members && key.pin.is_none() {
                self.enroll_in(index, slot, member, ctx);
            }
            if self.reindex_in(index, slot, member, ctx) {
                held_back.extend(member.group);
            }
        }
        Some((index, held_back))
    }

    /// Removes a lane for pinned requests once none waits in it.
    pub(super) fn remove_if_pinned_and_idle(&mut self, lane: u32) {
        if self
            .get(lane)
            .is_some_and(|lane| lane.key.pin.is_some() && !lane.is_awaited)
        {
            self.remove(lane);
        }
    }

    pub(super) fn remove(&mut self, lane: u32) {
        let Some(gone) = self.lanes.get_mut(lane as usize).and_then(Option::take) else {
            return;
        };
        self.by_key.remove(&gone.key);
        for list in [&mut self.flagged, &mut self.awaited, &mut self.general] {
            list.retain(|other| *other != lane);
        }
        self.free.push(lane);
        if let Some(pin) = gone.key.pin
            && let Some(lanes) = self.pinned.get_mut(&pin.slot())
        {
            lanes.retain(|other| *other != lane);
            if lanes.is_empty() {
                self.pinned.remove(&pin.slot());
            }
        }
    }

    /// The lanes of requests that are pinned to a member.
    pub(super) fn pinned_to(&self, slot: u32) -> Vec<u32> {
        self.pinned.get(&slot).cloned().unwrap_or_default()
    }

    /// Adds a member to the lanes that it matches.
    pub(super) fn enroll<T>(
        &mut self,
        slot: u32,
        member: &MemberState<T>,
        ctx: &EligibilityContext<'_>,
    ) {
        for at in 0..self.general.len() {
            if let Some(lane) = self.general.get(at).copied() {
                self.enroll_in(lane, slot, member, ctx);
            }
        }
    }

    fn enroll_in<T>(
        &mut self,
        index: u32,
        slot: u32,
        member: &MemberState<T>,
        ctx: &EligibilityContext<'_>,
    ) {
        let Some(lane) = self.get_mut(index) else {
            return;
        };
        let key = lane.key.labels;
        if member.status == Status::Removing || !ctx.label_sets.contains(member.labels, key) {
            return;
        }
        let config = ctx.config;
        let seed = mix(config.seed ^ u64::from(index) << 8 ^ u64::from(member.tier));
        let weight = member.weight_at(config, ctx.now);
        lane.insert(slot, member.tier, member.identity, weight, || {
            (config.policy, seed)
        });
    }

    /// Removes a member from the lanes of requests that aren't pinned.
    pub(super) fn withdraw<T>(&mut self, slot: u32, member: &MemberState<T>) {
        self.for_each_with(slot, |lane| lane.remove(slot, member.tier));
    }

    /// Tells the policies that a member was leased, in all lanes that it is in.
    #[inline]
    pub(super) fn chosen(&mut self, slot: u32, tier: u8) {
        self.for_each_with(slot, |lane| lane.chosen(slot, tier));
    }

    pub(super) fn set_weight(&mut self, slot: u32, tier: u8, weight: u32) {
        self.for_each_with(slot, |lane| lane.set_weight(slot, tier, weight));
    }

    fn for_each_with(&mut self, slot: u32, mut change: impl FnMut(&mut Lane)) {
        for lane in &self.general {
            if let Some(Some(lane)) = self.lanes.get_mut(*lane as usize)
                && lane.contains(slot)
            {
                change(lane);
            }
        }
    }

    /// Judges a member again in all its lanes; returns whether a limit holds it back in one.
    pub(super) fn reindex<T>(
        &mut self,
        slot: u32,
        member: &MemberState<T>,
        ctx: &EligibilityContext<'_>,
    ) -> bool {
        let mut at_limit = false;
        for at in 0..self.general.len() {
            if let Some(lane) = self.general.get(at).copied() {
                at_limit |= self.reindex_in(lane, slot, member, ctx);
            }
        }
        let mut at = 0;
        while let Some(lane) = self
            .pinned
            .get(&slot)
            .and_then(|lanes| lanes.get(at).copied())
        {
            at_limit |= self.reindex_in(lane, slot, member, ctx);
            at = at.saturating_add(1);
        }
        at_limit
    }

    /// Judges a member again in one lane; returns whether a limit holds it back there.
    pub(super) fn reindex_in<T>(
        &mut self,
        index: u32,
        slot: u32,
        member: &MemberState<T>,
        ctx: &EligibilityContext<'_>,
    ) -> bool {
        let Some(lane) = self.get_mut(index).filter(|lane| lane.contains(slot)) else {
            return false;
        };
        let class = lane.key.class;
        let row = member.eligibility(class, lane.wanted, ctx).row();
        if row.is_limit {
            lane.defer(slot);
        }
        if ctx.config.weighs_by_time()
            && let Some(mean) = member.service.estimate(class)
        {
            lane.note_mean(mean);
        }
        let load = member.member_load(ctx.config, class, ctx.now);
        lane.set(slot, member.tier, &load, row.readiness);
        if row.is_ready() && lane.is_awaited {
            self.flag(index);
        }
        row.is_limit
    }

    /// Marks a lane as one whose head may be served.
    pub(super) fn flag(&mut self, index: u32) {
        if let Some(lane) = self.get_mut(index)
            && !mem::replace(&mut lane.is_flagged, true)
        {
            self.flagged.push(index);
        }
    }

    /// Flags all lanes in which requests wait.
    #[inline]
    pub(super) fn flag_awaited(&mut self) {
        for at in 0..self.awaited.len() {
            if let Some(lane) = self.awaited.get(at).copied() {
                self.flag(lane);
            }
        }
    }

    /// Flags the lanes whose head waits for a faster member.
    pub(super) fn flag_postponed(&mut self) {
        for at in 0..self.awaited.len() {
            if let Some(lane) = self.awaited.get(at).copied()
                && self.get(lane).is_some_and(|one| one.postponement.is_some())
            {
                self.flag(lane);
            }
        }
    }

    /// Takes the flag from a lane that is no candidate any more.
    pub(super) fn unflag(&mut self, lane: u32) {
        if let Some(lane) = self.get_mut(lane) {
            lane.is_flagged = false;
        }
    }

    /// A flagged lane that is not yet a candidate.
    #[inline]
    pub(super) fn pop_flagged(&mut self) -> Option<u32> {
        self.flagged.pop()
    }

    pub(super) fn has_flagged(&self) -> bool {
        !self.flagged.is_empty()
    }

    /// Makes a flagged lane a candidate, at the turn of its head.
    #[inline]
    pub(super) fn push_candidate(&mut self, turn: Turn, lane: u32) {
        self.candidates.push(Reverse((turn, lane)));
    }

    /// All candidates, in no order.
    pub(super) fn take_candidates(&mut self) -> Vec<u32> {
        let candidates = self.candidates.drain();
        candidates.map(|Reverse((_, lane))| lane).collect()
    }

    /// The candidate whose head is served first.
    #[inline]
    pub(super) fn pop_candidate(&mut self) -> Option<(Turn, u32)> {
        self.candidates.pop().map(|Reverse(first)| first)
    }

    #[inline]
    pub(super) fn awaited(&self) -> &[u32] {
        &self.awaited
    }

    /// Enters whether requests wait in a lane.
    pub(super) fn set_awaited(&mut self, index: u32, is_awaited: bool) {
        let Some(lane) = self.get_mut(index) else {
            return;
        };
        let was_awaited = lane.is_awaited;
        lane.set_awaited(is_awaited);
        match (was_awaited, is_awaited) {
            (false, true) => self.awaited.push(index),
            (true, false) => self.awaited.retain(|other| *other != index),
            (true, true) | (false, false) => {}
        }
    }
}
