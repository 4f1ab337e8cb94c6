//! Who serves a request: its lane, the member chosen there, and where members stand in each lane.

use super::lane::{Kind, Lane, Opening};
use super::member::State;
use super::{AcquireError, Eligibility, MemberId, Pool, Request, surroundings};
use crate::limit::Wait;
use crate::random::mix;
use crate::time::Tick;
use crate::util::slab::Handle;
use alloc::vec::Vec;

impl<T> Pool<T> {
    /// The lane of a request, made if there is none yet, in place of an idle one if there are as many as
    /// may be. O(members) then.
    pub(super) fn lane_of(&mut self, request: &Request) -> Result<u32, AcquireError> {
        let kind = Kind::of(request);
        self.asked = self.asked.saturating_add(1);
        let used = self.asked;
        let first = self.lanes.first_mut().and_then(Option::as_mut);
        if let Some(first) = first
            && first.kind == kind
        {
            first.used = used;
            return Ok(0);
        }
        if let Some(lane) = self.kinds.get(&kind) {
            if let Some(Some(lane)) = self.lanes.get_mut(*lane as usize) {
                lane.used = used;
            }
            return Ok(*lane);
        }
        if let Some(pin) = kind.pin
            && self.member(MemberId(pin)).is_none()
        {
            return Err(AcquireError::PinnedMemberRemoved);
        }
        if self.kinds.len() >= self.config.max_lanes as usize && !self.retire_lane() {
            return Err(AcquireError::TooManyLanes);
        }
        let index = match self.vacant.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.lanes.len());
                self.lanes.push(None);
                index.map_err(|_| AcquireError::TooManyLanes)?
            }
        };
        let alike = self.alike(kind);
        if let Some(place) = self.lanes.get_mut(index as usize) {
            let mut lane = alike.clone().unwrap_or_else(|| Lane::new(kind));
            lane.used = used;
            *place = Some(lane);
        }
        self.kinds.insert(kind, index);
        match kind.pin {
            Some(pin) => {
                self.pins.entry(pin.slot()).or_default().push(index);
                self.place_in(index, pin.slot());
            }
            None => {
                self.general.push(index);
                let slots: Vec<u32> = self.members.iter().map(|(one, _)| one.slot()).collect();
                for slot in slots {
                    if alike.is_some() {
                        self.place_in(index, slot);
                    } else {
                        self.enroll(index, slot);
                    }
                }
            }
        }
        Ok(index)
    }

    /// A new lane made after one with the same members, so that it goes on with whose turn it is.
    fn alike(&self, kind: Kind) -> Option<Lane> {
        let mut lanes = self.general.iter().filter_map(|lane| {
            let lane = self.lanes.get(*lane as usize)?.as_ref()?;
            (lane.kind.labels == kind.labels && kind.pin.is_none()).then_some(lane)
        });
        lanes.next().map(|lane| lane.for_class(kind.class))
    }

    /// Drops the lane that was asked for nothing the longest, if there is one in which nobody waits.
    fn retire_lane(&mut self) -> bool {
        let idle = self.general.iter().filter_map(|index| {
            let lane = self.lanes.get(*index as usize)?.as_ref()?;
            (self.waiters.len_of(*index) == 0).then_some((lane.used, *index))
        });
        match idle.min() {
            Some((_, index)) => {
                self.drop_lane(index);
                self.general.retain(|other| *other != index);
                true
            }
            None => false,
        }
    }

    /// Takes a lane away that was for one pinned request or a few, once none of them waits.
    pub(super) fn drop_if_pinned(&mut self, lane: u32) {
        let known = self.lanes.get(lane as usize).and_then(Option::as_ref);
        let pinned = known.is_some_and(|known| known.kind.pin.is_some());
        if pinned && self.waiters.len_of(lane) == 0 {
            self.drop_lane(lane);
        }
    }

    pub(super) fn drop_lane(&mut self, lane: u32) {
        let Some(gone) = self.lanes.get_mut(lane as usize).and_then(Option::take) else {
            return;
        };
        self.kinds.remove(&gone.kind);
        self.flagged.retain(|other| *other != lane);
        self.awaited.retain(|other| *other != lane);
        self.vacant.push(lane);
        if let Some(pin) = gone.kind.pin
            && let Some(lanes) = self.pins.get_mut(&pin.slot())
        {
            lanes.retain(|other| *other != lane);
            if lanes.is_empty() {
                self.pins.remove(&pin.slot());
            }
        }
    }

    /// Takes a member into a lane, if it can do what is asked for there.
    pub(super) fn enroll(&mut self, index: u32, slot: u32) {
        let (Some(entry), Some(Some(lane))) =
            (self.members.at(slot), self.lanes.get_mut(index as usize))
        else {
            return;
        };
        if entry.state == State::Removing || !entry.details.labels.contains(lane.kind.labels) {
            return;
        }
        let policy = self.config.policy;
        let seed = mix(self.config.seed ^ u64::from(index) << 8 ^ u64::from(entry.tier));
        let weight = entry.weight_at(&self.config, self.now);
        lane.insert(slot, entry.tier, entry.details.identity, weight, || {
            (policy, seed)
        });
        self.place_in(index, slot);
    }

    /// Takes a member that serves no more out of the lanes, so that another of its name can take its place.
    pub(super) fn leave_lanes(&mut self, member: Handle) {
        let Some(entry) = self.members.get(member) else {
            return;
        };
        let (slot, tier) = (member.slot(), entry.tier);
        for lane in &self.general {
            if let Some(Some(lane)) = self.lanes.get_mut(*lane as usize)
                && lane.contains(slot)
            {
                lane.remove(slot, tier);
            }
        }
    }

    /// A member that could serve the request now and whose turn it is; or when there will be one.
    pub(super) fn candidate(&mut self, lane: u32, request: &Request) -> Result<u32, Opening> {
        if let Some(Some(known)) = self.lanes.get_mut(lane as usize) {
            known.gate = None;
            if known.wanted != request.cost && known.aim(request.cost) {
                let mut again = Vec::new();
                while let Some(slot) = known.pop_deferred() {
                    again.push(slot);
                }
                for slot in again {
                    self.place_in(lane, slot);
                }
            }
        }
        loop {
            while let Some((opens, slot)) = self.next_opening(lane)
                && opens <= self.as_of
            {
                self.place_in(lane, slot);
            }
            while let Some(slot) = self.pick(lane, request) {
                if !self.is_certain(lane) && self.opening_of(lane, slot) != Opening::Now {
                    self.place_in(lane, slot);
                    continue;
                }
                let limits = &self.limits;
                let wait = limits.earliest(self.as_of, request.class, request.cost);
                let opening = match wait {
                    Wait::Until(at) if at <= self.as_of => return Ok(slot),
                    Wait::Until(at) => Opening::At(at),
                    Wait::ForSettlement => Opening::AnyTime,
                    Wait::Never => Opening::Unknown,
                };
                if let Some(Some(lane)) = self.lanes.get_mut(lane as usize) {
                    lane.gate = Some(wait);
                }
                return Err(opening);
            }
            // These may have been looked at for a lower cost, or before others took what they share.
            let known = self.lanes.get(lane as usize).and_then(Option::as_ref);
            let occupied = known.and_then(Lane::occupied);
            let next = known.and_then(Lane::next_opening);
            if let Some(slot) = occupied
                && !matches!(
                    self.opening_of(lane, slot),
                    Opening::AnyTime | Opening::Recovered
                )
            {
                self.place_in(lane, slot);
            } else if let Some((opens, slot)) = next
                && self.opening_of(lane, slot) != Opening::At(opens)
            {
                self.place_in(lane, slot);
            } else if occupied.is_some() {
                return Err(Opening::AnyTime);
            } else {
                return Err(next.map_or(Opening::Unknown, |(tick, _)| Opening::At(tick)));
            }
        }
    }

    /// The member of the request's session if it is ready, or else the one whose turn it is.
    fn pick(&mut self, lane: u32, request: &Request) -> Option<u32> {
        let sticky = self.sticky(request);
        let known = self.lanes.get_mut(lane as usize)?.as_mut()?;
        if let Some(member) = sticky
            && let Some(entry) = self.members.get(member)
            && known.may_choose(member.slot(), entry.tier)
        {
            return Some(member.slot());
        }
        let slot = known.choose(request.key)?;
        self.members.at(slot)?.preload();
        Some(slot)
    }

    /// Who served the request's session last.
    fn sticky(&self, request: &Request) -> Option<Handle> {
        let affinity = self.affinity.as_ref()?;
        affinity.holder(self.now, request.session?)
    }

    /// Remembers who serves a session. A member that could serve again soon keeps it.
    #[inline]
    pub(super) fn stick(&mut self, lane: u32, request: &Request, mut chosen: Handle) {
        let Some(session) = request.session.filter(|_| request.pin.is_none()) else {
            return;
        };
        if let Some(held) = self.sticky(request).filter(|held| *held != chosen)
            && let (Some(known), Some(new)) = (self.members.get(held), self.members.get(chosen))
            && known.tier <= new.tier
            && let Some(Some(lane)) = self.lanes.get(lane as usize)
            && lane.contains(held.slot())
        {
            let around = surroundings(&self.groups, &self.config, self.panic, self.now, known);
            match known.reason(self.as_of, request.class, request.cost, around) {
                Eligibility::Full
                | Eligibility::Throttled { .. }
                | Eligibility::AtLimit { .. }
                | Eligibility::InFlight
                | Eligibility::Probing
                | Eligibility::LowerTier
                | Eligibility::InLine
                | Eligibility::Ready => chosen = held,
                Eligibility::WrongLabels
                | Eligibility::NotPinned
                | Eligibility::Removed
                | Eligibility::Disabled
                | Eligibility::Draining
                | Eligibility::Unhealthy
                | Eligibility::Ejected { .. }
                | Eligibility::BreakerOpen { .. }
                | Eligibility::NeverFits => {}
            }
        }
        if let Some(affinity) = &mut self.affinity {
            affinity.assign(self.now, session, chosen);
        }
    }

    /// Whether every member that is ready in a lane could serve: none was looked at for a lower cost, or
    /// before others took what it shares with them.
    fn is_certain(&self, lane: u32) -> bool {
        let known = self.lanes.get(lane as usize).and_then(Option::as_ref);
        self.groups.is_empty() && known.is_some_and(|lane| lane.is_uniform)
    }

    /// When a member could serve what is wanted in a lane.
    fn opening_of(&self, lane: u32, slot: u32) -> Opening {
        let lane = self.lanes.get(lane as usize).and_then(Option::as_ref);
        let (Some(lane), Some(entry)) = (lane, self.members.at(slot)) else {
            return Opening::Unknown;
        };
        let around = surroundings(&self.groups, &self.config, self.panic, self.now, entry);
        entry
            .reason(self.as_of, lane.kind.class, lane.wanted, around)
            .opening()
    }

    fn next_opening(&self, lane: u32) -> Option<(Tick, u32)> {
        let lane = self.lanes.get(lane as usize)?.as_ref()?;
        lane.next_opening()
    }

    /// When somebody who waits in a lane could be served, as far as is known, if that isn't at once.
    pub(super) fn opens(&self, lane: u32) -> Option<Tick> {
        let known = self.lanes.get(lane as usize)?.as_ref()?;
        match known.gate {
            _ if known.flagged => None,
            Some(Wait::Until(tick)) => Some(tick),
            Some(Wait::ForSettlement | Wait::Never) => None,
            None => known.next_opening().map(|(tick, _)| tick),
        }
    }

    /// Enters a grant or release in the member's places, and in its timer where the breaker has one.
    #[inline]
    pub(super) fn settle_in(&mut self, member: Handle) {
        if self.config.breaker.is_some() {
            self.look_after(member);
        } else {
            self.place(member);
        }
    }

    /// Puts a member where it belongs now in all its lanes.
    pub(super) fn place(&mut self, member: Handle) {
        for at in 0..self.general.len() {
            if let Some(lane) = self.general.get(at).copied() {
                self.place_in(lane, member.slot());
            }
        }
        let mut at = 0;
        while let Some(lanes) = self.pins.get(&member.slot())
            && let Some(lane) = lanes.get(at).copied()
        {
            self.place_in(lane, member.slot());
            at = at.saturating_add(1);
        }
    }

    pub(super) fn place_all(&mut self) {
        let members: Vec<Handle> = self.members.iter().map(|(member, _)| member).collect();
        for member in members {
            self.place(member);
        }
    }

    /// Puts a member where it belongs now in one lane.
    fn place_in(&mut self, index: u32, slot: u32) {
        let (Some(entry), Some(Some(lane))) =
            (self.members.at(slot), self.lanes.get_mut(index as usize))
        else {
            return;
        };
        if !lane.contains(slot) {
            return;
        }
        let class = lane.kind.class;
        let around = surroundings(&self.groups, &self.config, self.panic, self.now, entry);
        let reason = entry.reason(self.as_of, class, lane.wanted, around);
        let opening = reason.opening();
        let by_limit = match reason {
            Eligibility::AtLimit { .. } | Eligibility::InFlight | Eligibility::NeverFits => true,
            Eligibility::Ready
            | Eligibility::LowerTier
            | Eligibility::InLine
            | Eligibility::WrongLabels
            | Eligibility::NotPinned
            | Eligibility::Removed
            | Eligibility::Disabled
            | Eligibility::Draining
            | Eligibility::Unhealthy
            | Eligibility::Ejected { .. }
            | Eligibility::BreakerOpen { .. }
            | Eligibility::Probing
            | Eligibility::Full
            | Eligibility::Throttled { .. } => false,
        };
        if by_limit {
            lane.defer(slot);
            if let Some(group) = entry
                .group
                .and_then(|group| self.groups.get_mut(group.index()))
            {
                group.holds_back = true;
            }
        }
        let member_load = entry.member_load(&self.config, class, self.now);
        lane.set(slot, entry.tier, &member_load, opening);
        if opening == Opening::Now && !lane.flagged && self.waiters.len_of(index) > 0 {
            lane.flagged = true;
            self.flagged.push(index);
        }
    }
}
