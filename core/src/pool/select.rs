//! Selecting the member for a request: its lane, its session, the policy, and why no member is ready.

use super::drive::Pool;
use super::eligibility::{Cause, Readiness};
use super::error::AcquireError;
use super::labels::LabelSet;
use super::lane::{LaneKey, Postponement};
use super::postpone::Origin;
use super::request::Request;
use crate::limit::Wait;
use crate::util::slab::Handle;

impl<T> Pool<T> {
    /// The key of the request's lane; an error where an id in it is of another pool.
    pub(super) fn lane_key(&self, request: &Request) -> Result<LaneKey, AcquireError> {
        let pin = request.pin.map(|pin| pin.within(self.config.id));
        let labels = request.labels.within(self.config.id);
        Ok(LaneKey {
            class: if self.by_class { request.class } else { 0 },
            labels: match pin {
                Some(_) => LabelSet::NONE,
                None => labels.ok_or(AcquireError::ForeignLabels)?,
            },
            pin: match pin {
                Some(pin) => Some(pin.ok_or(AcquireError::PinnedMemberRemoved)?),
                None => None,
            },
        })
    }

    /// Returns the request's lane, creating it if needed and evicting the least recently used idle lane at
    /// the limit. Creation is O(members).
    pub(super) fn lane_of(&mut self, request: &Request) -> Result<u32, AcquireError> {
        let key = self.lane_key(request)?;
        if let Some(lane) = self.lanes.touch(&key) {
            return Ok(lane);
        }
        if let Some(pin) = request.pin
            && self.members.current(pin).is_none()
        {
            return Err(AcquireError::PinnedMemberRemoved);
        }
        if !self.lanes.make_room(self.config.max_lanes) {
            return Err(AcquireError::TooManyLanes);
        }
        self.insert_lane(key).ok_or(AcquireError::TooManyLanes)
    }

    /// Creates the lane of a key. O(members).
    pub(super) fn insert_lane(&mut self, key: LaneKey) -> Option<u32> {
        let (lanes, members, ctx) = self.indexing();
        let matching = members
            .iter()
            .filter(|(handle, member)| member.matches(*handle, &key, ctx.label_sets))
            .map(|(handle, member)| (handle.slot(), member));
        let (lane, held_back) = lanes.insert(key, matching, &ctx)?;
        for group in held_back {
            self.shared.hold_back(group);
        }
        Some(lane)
    }

    /// The member that serves a request of a lane now, or when one will be ready.
    pub(super) fn select(
        &mut self,
        lane: u32,
        request: &Request,
        origin: Origin,
    ) -> Result<u32, Readiness> {
        self.set_wanted(lane, request);
        loop {
            self.wake_sleeping(lane);
            let mut is_postponed = false;
            while let Some(slot) = self.choose(lane, request) {
                if !self.is_exact(lane) && self.readiness(lane, slot) != Readiness::Now {
                    self.reindex_in(lane, slot);
                    continue;
                }
                let slot = self.admit(lane, slot, request)?;
                match self.prefer_faster(lane, slot, request, origin) {
                    Ok(slot) => return Ok(slot),
                    Err(wait) => {
                        is_postponed = true;
                        self.note_wait(lane, wait);
                        break;
                    }
                }
            }
            // The first of these may have been judged for a lower cost, or before shared limits changed.
            let known = self.lanes.get(lane).ok_or(Readiness::Unknown)?;
            let waiting = match is_postponed {
                true => None,
                false => known.first_busy().or_else(|| known.first_down()),
            };
            let sleeping = known.first_sleeping();
            if let Some(slot) = waiting
                && !matches!(
                    self.readiness(lane, slot),
                    Readiness::AnyTime | Readiness::AfterRecovery
                )
            {
                self.reindex_in(lane, slot);
            } else if let Some((tick, slot)) = sleeping
                && self.readiness(lane, slot) != Readiness::At(tick)
            {
                self.reindex_in(lane, slot);
            } else if waiting.is_some() || is_postponed {
                return Err(Readiness::AnyTime);
            } else {
                return Err(sleeping.map_or(Readiness::Unknown, |(tick, _)| Readiness::At(tick)));
            }
        }
    }

    /// Enters that the request waits for a faster member. The ticks of the others wake it too, so they must be current.
    fn note_wait(&mut self, lane: u32, wait: Postponement) {
        if !self.is_exact(lane) {
            for slot in self.members.slots() {
                self.reindex_in(lane, slot);
            }
        }
        if let Some(known) = self.lanes.get_mut(lane) {
            known.postponement = Some(wait);
        }
    }

    /// Makes a lane judge its members for the request's cost.
    fn set_wanted(&mut self, lane: u32, request: &Request) {
        let Some(known) = self.lanes.get_mut(lane) else {
            return;
        };
        known.blocked_by = None;
        known.postponement = None;
        for slot in known.set_wanted(request.cost) {
            self.reindex_in(lane, slot);
        }
    }

    /// Judges the sleeping members again whose tick has come.
    fn wake_sleeping(&mut self, lane: u32) {
        while let Some(known) = self.lanes.get(lane)
            && let Some((tick, slot)) = known.first_sleeping()
            && tick <= self.clock.as_of
        {
            self.reindex_in(lane, slot);
        }
    }

    /// The member of the request's session if it is ready, or else the one that the policy chooses.
    fn choose(&mut self, lane: u32, request: &Request) -> Option<u32> {
        let session = self.session_member(request);
        let lane = self.lanes.get_mut(lane)?;
        if let Some(handle) = session
            && let Some(member) = self.members.get(handle)
            && lane.may_choose(handle.slot(), member.tier)
        {
            return Some(handle.slot());
        }
        lane.choose(request.key)
    }

    /// Whether every ready position of a lane is current. One may be out of date if the member was judged for a
    /// lower cost, or before others used up a limit that it shares with them.
    pub(super) fn is_exact(&self, lane: u32) -> bool {
        let lane = self.lanes.get(lane);
        !self.shared.has_groups() && lane.is_some_and(|lane| lane.is_uniform)
    }

    /// When a member can serve the wanted cost of a lane.
    fn readiness(&self, lane: u32, slot: u32) -> Readiness {
        let (Some(lane), Some(member)) = (self.lanes.get(lane), self.members.at(slot)) else {
            return Readiness::Unknown;
        };
        let eligibility = member.eligibility(lane.key.class, lane.wanted, &self.context());
        eligibility.row().readiness
    }

    /// The member, unless the pool's own limits forbid the request.
    fn admit(&mut self, lane: u32, slot: u32, request: &Request) -> Result<u32, Readiness> {
        let as_of = self.clock.as_of;
        let wait = self.shared.earliest(as_of, request.class, request.cost);
        let readiness = match wait {
            Wait::Until(at) if at <= as_of => return Ok(slot),
            Wait::Until(at) => Readiness::At(at),
            Wait::ForSettlement => Readiness::AnyTime,
            Wait::Never => Readiness::Unknown,
        };
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.blocked_by = Some(wait);
        }
        Err(readiness)
    }

    /// The member that served the request's session last.
    pub(super) fn session_member(&self, request: &Request) -> Option<Handle> {
        let sessions = self.sessions.as_ref()?;
        sessions.peek(self.clock.now, request.session?)
    }

    /// Assigns the request's session to a member. A member that can serve again soon keeps its session.
    pub(super) fn assign_session(&mut self, lane: u32, request: &Request, mut chosen: Handle) {
        let Some(session) = request.session.filter(|_| request.pin.is_none()) else {
            return;
        };
        if let Some(holder) = self.session_member(request).filter(|one| *one != chosen)
            && let (Some(known), Some(new)) = (self.members.get(holder), self.members.get(chosen))
            && known.tier <= new.tier
            && let Some(lane) = self.lanes.get(lane)
            && lane.contains(holder.slot())
        {
            let reason = known.eligibility(request.class, request.cost, &self.context());
            if reason.row().keeps_session {
                chosen = holder;
            }
        }
        if let Some(sessions) = &mut self.sessions {
            sessions.assign(self.clock.now, session, chosen);
        }
    }

    /// The cause for which [`select`](Self::select) has just found no member. O(1), but O(members) where none of
    /// them is to be ready by itself.
    pub(super) fn cause(&self, lane: u32, request: &Request) -> Cause {
        let Some(known) = self.lanes.get(lane) else {
            return Cause::NoMember;
        };
        match known.blocked_by {
            Some(Wait::Until(until)) => return Cause::AtLimit { until },
            Some(Wait::ForSettlement) => return Cause::AwaitingCompletion,
            Some(Wait::Never) => return Cause::NeverFits,
            None => {}
        }
        let sleeping = known.first_sleeping().map(|(_, slot)| slot);
        let first = known
            .first_busy()
            .or(sleeping)
            .or_else(|| known.first_down());
        let ctx = self.context();
        let cause = |slot: u32| {
            let member = self.members.at(slot)?;
            let reason = member.eligibility(request.class, request.cost, &ctx);
            reason.row().cause
        };
        if let Some(slot) = first {
            return cause(slot).unwrap_or(Cause::BehindOthers);
        }
        let key = known.key;
        let mut matching = self.members.iter().filter(|(handle, member)| {
            member.matches(*handle, &key, ctx.label_sets) && !member.is_leaving()
        });
        let first = matching.next().and_then(|(handle, _)| cause(handle.slot()));
        first.unwrap_or(Cause::NoMember)
    }

    /// The cause for which a request that has just left the queue of a lane was not served in time. Costs what
    /// [`cause`](Self::cause) does.
    pub(super) fn cause_of_wait(&self, lane: u32, request: &Request) -> Cause {
        // A lease may have expired at the deadline, so that the next request gets the member.
        let is_ready = self
            .lanes
            .get(lane)
            .is_some_and(|known| known.blocked_by.is_none() && known.may_serve(self.clock.as_of));
        let held_back = self.held_back_by_flow(request);
        match held_back.and_then(|reason| reason.row().cause) {
            Some(cause) => cause,
            None if is_ready => Cause::BehindOthers,
            None => self.cause(lane, request),
        }
    }

    /// The cause for which the head of a lane has no member.
    pub(super) fn cause_of_head(&self, lane: u32) -> Cause {
        let head = self.queue.next(lane);
        let head = head.and_then(|(_, waiter)| self.queue.waiter(waiter));
        head.map_or(Cause::BehindOthers, |waiter| {
            self.cause(lane, &waiter.request)
        })
    }
}
