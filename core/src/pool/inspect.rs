//! What a pool tells of its members, of a request that might come, and of what it has done.

use super::lane::{Kind, Opening};
use super::member::Entry;
use super::{AcquireError, Eligibility, Estimate, MemberId, Pool, Request, surroundings};
use crate::limit::Wait;
use crate::pool::stats::{MemberStats, QueueStats, Stats};
use crate::time::Tick;
use crate::util::slab::Handle;
use core::time::Duration;

impl<T> Pool<T> {
    /// What a member carries, as long as it or a lease on it is there.
    #[must_use]
    pub fn payload(&self, member: MemberId) -> Option<&T> {
        self.members
            .get(member.0)
            .map(|entry| &entry.details.payload)
    }

    /// The members there are, in the order of their slots.
    pub fn members(&self) -> impl Iterator<Item = (MemberId, &T)> {
        self.members
            .iter()
            .map(|(handle, entry)| (MemberId(handle), &entry.details.payload))
    }

    /// Whether each member could serve the request as of the last command, and if not, why not; in the
    /// order of their slots. O(members).
    pub fn explain(&self, request: &Request) -> impl Iterator<Item = (MemberId, Eligibility)> {
        let kind = Kind::of(request);
        let (class, cost) = (request.class, request.cost);
        let held_back = match self.limits.earliest(self.now, class, cost) {
            Wait::Until(until) if until <= self.now => None,
            Wait::Until(until) => Some(Eligibility::AtLimit { until }),
            Wait::ForSettlement => Some(Eligibility::InFlight),
            Wait::Never => Some(Eligibility::NeverFits),
        };
        let reason = move |handle: Handle, entry: &Entry<T>| {
            if kind.pin.is_some_and(|pin| pin != handle) {
                Eligibility::NotPinned
            } else if !entry.details.labels.contains(kind.labels) {
                Eligibility::WrongLabels
            } else {
                let own = entry.reason(
                    self.now,
                    class,
                    cost,
                    surroundings(&self.groups, &self.config, self.panic, self.now, entry),
                );
                match (own, held_back) {
                    (Eligibility::Ready, Some(reason)) => reason,
                    (own, _) => own,
                }
            }
        };
        let ready = self
            .members
            .iter()
            .filter(|(handle, entry)| reason(*handle, entry) == Eligibility::Ready);
        let nearest = ready.map(|(_, entry)| entry.tier).min();
        let lane = self.kinds.get(&kind);
        let next = lane.and_then(|lane| self.waiters.next(*lane));
        let in_line = next.is_some_and(|(turn, _)| turn < self.waiters.turn_of(request));
        self.members.iter().map(move |(handle, entry)| {
            let mut reason = reason(handle, entry);
            if reason == Eligibility::Ready {
                if nearest.is_some_and(|tier| tier < entry.tier) {
                    reason = Eligibility::LowerTier;
                } else if in_line {
                    reason = Eligibility::InLine;
                }
            }
            (MemberId(handle), reason)
        })
    }

    /// What a request would meet if it came now. The wait is a guess: those ahead, at the pace at which
    /// the lane was served of late.
    ///
    /// # Errors
    /// Where the request would be refused whatever its deadline.
    pub fn estimate(&mut self, now: Tick, request: &Request) -> Result<Estimate, AcquireError> {
        self.advance(now);
        let lane = self.lane_of(request)?;
        let ahead = self.waiters.ahead_of(lane, request);
        let opening = if ahead > 0 {
            Opening::AnyTime
        } else {
            match self.candidate(lane, request) {
                Ok(_) => Opening::Now,
                Err(opening) => opening,
            }
        };
        let first = match opening {
            Opening::Now => Some(Duration::ZERO),
            Opening::At(tick) => Some(tick.since(self.now)),
            Opening::AnyTime | Opening::Recovered | Opening::ForLess | Opening::Unknown => {
                self.opens(lane).map(|tick| tick.since(self.now))
            }
        };
        let pace = self.lanes.get(lane as usize).and_then(Option::as_ref);
        let paced = pace
            .and_then(|lane| lane.pace)
            .map(|pace| pace.saturating_mul(ahead.saturating_add(1)));
        let wait = match (opening, first, paced) {
            (Opening::Now | Opening::At(_), Some(first), _) => Some(first),
            (_, Some(first), Some(paced)) => Some(first.max(paced)),
            (_, first, paced) => paced.or(first),
        };
        // The candidates were those for this request's cost.
        self.flag(lane);
        self.serve();
        self.drop_if_pinned(lane);
        Ok(Estimate { ahead, wait })
    }

    /// The figures so far. O(members).
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            total: self.total,
            waiting: QueueStats {
                waiting: self.waiters.len(),
                ..self.waiting
            },
            held: self.held.clone(),
            waited: self.waited.clone(),
            members: self
                .members
                .iter()
                .zip(self.spans_held())
                .map(|((handle, entry), (_, held))| MemberStats {
                    member: MemberId(handle),
                    counts: entry.counts(&held),
                    in_flight: entry.in_flight,
                    held: held.sum(),
                    histogram: held,
                })
                .collect(),
        }
    }
}
