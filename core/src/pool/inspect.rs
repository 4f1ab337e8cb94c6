//! Inspection: members, eligibility, estimates and figures.

use super::config::PoolConfig;
use super::drive::Pool;
use super::eligibility::{Eligibility, Readiness};
use super::error::AcquireError;
use super::event::{Estimate, HeldLease};
use super::flows::FlowStats;
use super::ids::{LeaseId, MemberId};
use super::labels::Labels;
use super::lane::LaneKey;
use super::member_state::MemberState;
use super::postpone::Origin;
use super::request::Request;
use super::stats::{QueueStats, Stats};
use crate::limit::Wait;
use crate::time::Tick;
use crate::util::slab::Handle;
use core::time::Duration;

impl<T> Pool<T> {
    /// The configuration that it was made with.
    #[must_use]
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

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

    /// The leases that are held, by slot. O(leases).
    pub fn leases(&self) -> impl Iterator<Item = HeldLease> {
        self.leases
            .iter()
            .map(|(handle, lease, expires)| HeldLease {
                lease: LeaseId::new(self.config.id, handle),
                member: self.members.id(lease.member),
                fence: lease.fence,
                expires,
            })
    }

    /// The member of a lease; `None` if that has ended.
    #[must_use]
    pub fn leased(&self, lease: LeaseId) -> Option<MemberId> {
        let lease = self.leases.get(lease.within(self.config.id)?)?;
        Some(self.members.id(lease.member))
    }

    /// Whether each member could serve the request as of the last command, and if not, why not; by slot.
    /// O(members).
    pub fn explain(&self, request: &Request) -> impl Iterator<Item = (MemberId, Eligibility)> {
        let key = self.lane_key(request).ok();
        let blocked_by = self.blocked_by(request);
        let judge = move |handle: Handle, member: &MemberState<T>| {
            let Some(key) = key else {
                return match request.pin {
                    Some(_) => Eligibility::NotPinned,
                    None => Eligibility::WrongLabels,
                };
            };
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
        let lane = key.and_then(|key| self.lanes.find(&key));
        let is_behind = lane.is_some_and(|lane| {
            let turn = self.queue.turn_of(lane, request, self.flow_weight(request));
            let head = self.queue.next(lane).map(|(head, _)| head);
            turn.is_none_or(|turn| head.is_some_and(|head| head < turn))
        });
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

    /// Returns the member to repeat a request on after others failed it: ready as of the last command, none of
    /// `tried`, of the first tier that has one, with the least load for its weight. O(members + tried).
    ///
    /// ```
    /// use leasehold_core::balance::Policy;
    /// use leasehold_core::pool::{Member, Pool, PoolConfig, Request};
    /// use leasehold_core::time::Tick;
    ///
    /// let mut pool = Pool::new(PoolConfig::new(Policy::RENDEZVOUS));
    /// let first = pool.add(Tick::ZERO, Member::new("a"))?;
    /// let second = pool.add(Tick::ZERO, Member::new("b"))?;
    /// assert_eq!(pool.alternative(&Request::new(), &[first]), Some(second));
    /// assert_eq!(pool.alternative(&Request::new(), &[first, second]), None);
    /// # Ok::<(), leasehold_core::pool::AddError>(())
    /// ```
    #[must_use]
    pub fn alternative(&self, request: &Request, tried: &[MemberId]) -> Option<MemberId> {
        let can_serve = self.explain(request).filter(|(member, reason)| {
            matches!(reason, Eligibility::Ready | Eligibility::LowerTier) && !tried.contains(member)
        });
        let ranked = can_serve.filter_map(|(id, _)| {
            let member = self.members.get(id.within(self.config.id)?)?;
            Some((id, member))
        });
        let best = ranked.min_by(|(_, one), (_, other)| {
            let work = |its: &MemberState<T>, weight: u16| {
                u64::from(its.load())
                    .saturating_add(1)
                    .saturating_mul(weight.into())
            };
            let by_load = || work(one, other.weight).cmp(&work(other, one.weight));
            one.tier.cmp(&other.tier).then_with(by_load)
        });
        best.map(|(id, _)| id)
    }

    /// Whether the limits of its flow, or the pool's own, hold a request back.
    fn blocked_by(&self, request: &Request) -> Option<Eligibility> {
        if let Some(reason) = self.held_back_by_flow(request) {
            return Some(reason);
        }
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
        if member.matches(handle, key, &self.label_sets) {
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
    /// [`AcquireError::PinnedMemberRemoved`], [`AcquireError::ForeignLabels`] and
    /// [`AcquireError::TooManyLanes`]. Other refusals are not foreseen.
    pub fn estimate(&mut self, now: Tick, request: &Request) -> Result<Estimate, AcquireError> {
        self.advance(now);
        let now = self.clock.now;
        let lane = self.lane_of(request)?;
        let ahead = self
            .queue
            .ahead_of(lane, request, self.flow_weight(request));
        let mut chosen = None;
        let (readiness, cause) = if let Some(reason) = self.held_back_by_flow(request) {
            let row = reason.row();
            (row.readiness, row.cause)
        } else if ahead > 0 {
            (Readiness::AnyTime, Some(self.cause_of_head(lane)))
        } else {
            match self.select(lane, request, Origin::Caller { may_wait: true }) {
                Ok(slot) => {
                    chosen = self.members.handle_at(slot);
                    (Readiness::Now, None)
                }
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
        Ok(Estimate {
            ahead,
            wait,
            cause,
            member: chosen.map(|handle| self.members.id(handle)),
        })
    }

    /// The figures so far. O(members).
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats_since(0)
    }

    /// The figures so far, with those members only on which a lease was granted or has ended since the
    /// [`sequence`](Stats::sequence) of other figures, or which were added since. Costs a look at each member, and the
    /// copy of what has changed.
    #[must_use]
    pub fn stats_since(&self, sequence: u64) -> Stats {
        let members = self.members.iter();
        let members = members.filter(|(_, member)| member.last_used_seq > sequence);
        let now = self.clock.now;
        Stats {
            sequence: self.clock.sequence,
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
                    let (held, max) = (member.in_flight, member.max_leases);
                    member.figures.stats(id, now, held, max)
                })
                .collect(),
            flows: self.flow_stats().collect(),
        }
    }

    /// The figures of the flows that have settings.
    pub fn flow_stats(&self) -> impl Iterator<Item = FlowStats> {
        self.flows.stats().map(|flow| FlowStats {
            waiting: self.queue.len_of_flow(flow.flow),
            ..flow
        })
    }

    /// The labels in a set, sorted; `None` where it is of another pool.
    #[must_use]
    pub fn labels_in(&self, labels: Labels) -> Option<&[u32]> {
        self.label_sets.get(labels.within(self.config.id)?)
    }
}
