//! Inspection: members, eligibility, estimates and figures.

use super::drive::Pool;
use super::eligibility::{Eligibility, Readiness};
use super::error::AcquireError;
use super::event::Estimate;
use super::ids::MemberId;
use super::lane::LaneKey;
use super::member::MemberState;
use super::request::Request;
use super::stats::{QueueStats, Stats};
use crate::limit::Wait;
use crate::time::Tick;
use crate::util::slab::Handle;
use core::time::Duration;

impl<T> Pool<T> {
    /// The payload of a member, as long as it or a lease on it is there.
    #[must_use]
    pub fn payload(&self, member: MemberId) -> Option<&T> {
        let handle = member.within(self.config.id)?;
        self.members.get(handle).map(|member| &member.payload)
    }

    /// The members, by slot.
    pub fn members(&self) -> impl Iterator<Item = (MemberId, &T)> {
        self.members
            .iter()
            .map(|(handle, member)| (self.members.id(handle), &member.payload))
    }

    /// Whether each member could serve the request as of the last command, and if not, why not; by slot.
    /// O(members).
    pub fn explain(&self, request: &Request) -> impl Iterator<Item = (MemberId, Eligibility)> {
        let key = self.lane_key(request);
        let is_foreign = request.pin.is_some() && key.pin.is_none();
        let blocked_by = self.blocked_by(request);
        let judge = move |handle: Handle, member: &MemberState<T>| {
            if is_foreign {
                return Eligibility::NotPinned;
            }
            let reason = self.judge(&key, request, handle, member);
            match blocked_by {
                Some(blocked_by) if reason == Eligibility::Ready => blocked_by,
                Some(_) | None => reason,
            }
        };
        let ready = self
            .members
            .iter()
            .filter(|(handle, member)| judge(*handle, member) == Eligibility::Ready);
        let lowest = ready.map(|(_, member)| member.tier).min();
        let head = self.lanes.find(&key);
        let head = head.and_then(|lane| self.queue.next(lane));
        let is_behind = head.is_some_and(|(turn, _)| turn < self.queue.turn_of(request));
        self.members.iter().map(move |(handle, member)| {
            let mut reason = judge(handle, member);
            if reason == Eligibility::Ready {
                if lowest.is_some_and(|tier| tier < member.tier) {
                    reason = Eligibility::LowerTier;
                } else if is_behind {
                    reason = Eligibility::BehindOthers;
                }
            }
            (self.members.id(handle), reason)
        })
    }

    /// Whether the pool's own limits hold a request back.
    fn blocked_by(&self, request: &Request) -> Option<Eligibility> {
        let now = self.clock.now;
        match self.shared.earliest(now, request.class, request.cost) {
            Wait::Until(until) if until <= now => None,
            Wait::Until(until) => Some(Eligibility::AtLimit { until }),
            Wait::ForSettlement => Some(Eligibility::AwaitingCompletion),
            Wait::Never => Some(Eligibility::NeverFits),
        }
    }

    fn judge(
        &self,
        key: &LaneKey,
        request: &Request,
        handle: Handle,
        member: &MemberState<T>,
    ) -> Eligibility {
        if member.matches(handle, key) {
            member.eligibility(request.class, request.cost, &self.context())
        } else if key.pin.is_some() {
            Eligibility::NotPinned
        } else {
            Eligibility::WrongLabels
        }
    }

    /// Estimates what a request would meet if it came now. The wait is a guess: the requests ahead, at the rate at
    /// which the lane was served of late.
    ///
    /// # Errors
    /// [`AcquireError::PinnedMemberRemoved`] and [`AcquireError::TooManyLanes`]. Other refusals are not foreseen.
    pub fn estimate(&mut self, now: Tick, request: &Request) -> Result<Estimate, AcquireError> {
        self.advance(now);
        let now = self.clock.now;
        let lane = self.lane_of(request)?;
        let ahead = self.queue.ahead_of(lane, request);
        let (readiness, cause) = if ahead > 0 {
            (Readiness::AnyTime, Some(self.cause_of_head(lane)))
        } else {
            match self.select(lane, request) {
                Ok(_) => (Readiness::Now, None),
                Err(readiness) => (readiness, Some(self.cause(lane, request))),
            }
        };
        let known = self.lanes.get(lane);
        let first = match readiness {
            Readiness::Now => Some(Duration::ZERO),
            Readiness::At(tick) => Some(tick.since(now)),
            Readiness::AnyTime
            | Readiness::AfterRecovery
            | Readiness::ForLess
            | Readiness::Unknown => {
                let ready_at = known.and_then(|lane| lane.ready_at());
                ready_at.map(|tick| tick.since(now))
            }
        };
        let mean_gap = known.and_then(|lane| lane.mean_gap());
        let queued = mean_gap.map(|gap| gap.saturating_mul(ahead.saturating_add(1)));
        let wait = match (readiness, first, queued) {
            (Readiness::Now | Readiness::At(_), Some(first), _) => Some(first),
            (_, Some(first), Some(queued)) => Some(first.max(queued)),
            (_, first, queued) => queued.or(first),
        };
        // The lane was judged for this request's cost, and goes back to that of its head.
        self.lanes.flag(lane);
        self.hand_over();
        self.lanes.remove_if_pinned_and_idle(lane);
        Ok(Estimate { ahead, wait, cause })
    }

    /// The figures so far. O(members).
    #[must_use]
    pub fn stats(&self) -> Stats {
        let members = self.members.iter();
        Stats {
            total: self.figures.total,
            waiting: QueueStats {
                waiting: self.queue.len(),
                ..self.figures.queue
            },
            held: self.figures.held.clone(),
            waited: self.figures.waited.clone(),
            members: members
                .map(|(handle, member)| {
                    let id = self.members.id(handle);
                    member.figures.stats(id, member.in_flight)
                })
                .collect(),
        }
    }
}
