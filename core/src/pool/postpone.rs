//! Requests that wait for a faster member although a slower one is ready, where work is weighed by time.
//!
//! A slow member that takes one of the last requests holds it back after all others have ended. So the chosen member is passed
//! over if the others are expected to do everything that waits for it before it would have done its next job. That is list
//! scheduling by earliest completion (Graham 1969), with times that are measured. The number of requests is what matters: where
//! enough of them wait, each member takes its next one.
//!
//! Invariant: a request waits only for members that have a job which is not late, and only to the tick that was set when it
//! first did. A wait is decided anew at `again_at` and after each command.

use super::drive::Pool;
use super::eligibility::Eligibility;
use super::lane::Postponement;
use super::member_state::Prospect;
use super::request::Request;
use crate::time::{Tick, earliest};
use crate::util::slab::Handle;
use alloc::vec::Vec;

/// The origin of a request that is to be placed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    /// It is queued, and at the head of its lane.
    Queue(Handle),
    /// It comes now; `may_wait` tells whether the queue would take it.
    Caller { may_wait: bool },
}

/// A member that could serve a request now, or at the end of a lease.
#[derive(Clone, Copy, Debug)]
struct Rival {
    slot: u32,
    tier: u8,
    last_used_seq: u64,
    is_ready: bool,
    is_idle: bool,
    /// `None` where it was never measured.
    prospect: Option<Prospect>,
}

/// The tick by which others must have served a request for the member to be passed over.
#[derive(Clone, Copy, Debug)]
enum Horizon {
    /// The member is idle and was never measured: it is never passed over.
    Never,
    /// Its end is not known, because its job is late or it was never measured.
    Open,
    /// Its expected end, which stays while its own jobs are to end first.
    Until { ends: Tick, is_fixed: bool },
}

impl Rival {
    fn horizon(&self, as_of: Tick) -> Horizon {
        match self.prospect {
            None if self.is_idle => Horizon::Never,
            None => Horizon::Open,
            Some(prospect) if prospect.is_late => Horizon::Open,
            Some(prospect) => Horizon::Until {
                ends: prospect.ends(),
                is_fixed: prospect.free > as_of,
            },
        }
    }

    /// Its place among the ready members: by expected end, those without one last.
    fn order(&self) -> (bool, Tick, u64) {
        let (is_open, ends) = match self.prospect {
            None if self.is_idle => (false, Tick::ZERO),
            Some(prospect) if !prospect.is_late => (false, prospect.ends()),
            Some(_) | None => (true, Tick::ZERO),
        };
        (is_open, ends, self.last_used_seq)
    }
}

/// What waits for a member, in nanoseconds of its time.
#[derive(Clone, Copy, Debug)]
struct Demand {
    /// One request of the lane's class.
    unit: u128,
    total: u128,
}

impl<T> Pool<T> {
    /// The member that serves a request of a lane: the one that the policy chose, or a ready one that is expected to be
    /// done sooner. An error where the request waits for one that is not ready.
    ///
    /// O(lanes in which requests wait), and O(members) where no more requests wait than the members could serve before
    /// the chosen one has served its next. Without [`weigh_by_time`](super::PoolConfigBuilder::weigh_by_time), O(1).
    pub(super) fn prefer_faster(
        &mut self,
        lane: u32,
        chosen: u32,
        request: &Request,
        origin: Origin,
    ) -> Result<u32, Postponement> {
        if !self.config.weighs_by_time() || request.pin.is_some() {
            return Ok(chosen);
        }
        let keeps_session = self
            .session_member(request)
            .is_some_and(|member| member.slot() == chosen);
        if keeps_session || self.is_surely_next(lane, chosen, origin) {
            return Ok(chosen);
        }
        let rivals = self.rivals(lane, chosen, request);
        if self.outpaced(lane, chosen, origin, &rivals).is_none() {
            return Ok(chosen);
        }
        let as_of = self.clock.as_of;
        let tier = self.members.at(chosen).map(|member| member.tier);
        let ready = rivals
            .iter()
            .filter(|it| it.is_ready && Some(it.tier) == tier);
        let best = ready.min_by_key(|rival| rival.order());
        let best = best.map_or(chosen, |rival| rival.slot);
        let Some(wait) = self.outpaced(lane, best, origin, &rivals) else {
            return Ok(best);
        };
        let known = match origin {
            Origin::Queue(waiter) => self.queue.waiter(waiter).and_then(|it| it.postponed_until),
            Origin::Caller { may_wait: true } => None,
            Origin::Caller { may_wait: false } => return Ok(best),
        };
        let until = known.unwrap_or(wait.until);
        // It is served in time although that takes longer.
        if until <= as_of || request.deadline.is_some_and(|deadline| until >= deadline) {
            return Ok(best);
        }
        Err(Postponement {
            again_at: wait.again_at.min(until),
            until,
        })
    }

    /// Whether more requests wait than all members could serve before a member has served its next; then it is not
    /// passed over. May be false where it is.
    fn is_surely_next(&self, lane: u32, slot: u32, origin: Origin) -> bool {
        let (Some(known), Some(member)) = (self.lanes.get(lane), self.members.at(slot)) else {
            return true;
        };
        let as_of = self.clock.as_of;
        let Some(prospect) = member.prospect(known.key.class, as_of) else {
            return false;
        };
        if prospect.is_late {
            return false;
        }
        let span = prospect.ends().nanos_since(as_of);
        let each = span.saturating_sub(1).checked_div(known.fastest());
        let most = u128::from(each.unwrap_or(u64::MAX)).saturating_mul(self.members.len().into());
        let demand = self.demand(lane, slot, origin);
        most.saturating_mul(demand.unit) < demand.total
    }

    /// The members that a request may wait for or be served by: those of a lane up to the tier of the chosen one that are
    /// ready or only lack a lease. O(members).
    fn rivals(&mut self, lane: u32, chosen: u32, request: &Request) -> Vec<Rival> {
        let as_of = self.clock.as_of;
        let ctx = self.context();
        let (Some(known), Some(top)) = (self.lanes.get(lane), self.members.at(chosen)) else {
            return Vec::new();
        };
        let class = known.key.class;
        let mut rivals = Vec::new();
        let mut fastest = u64::MAX;
        for (handle, member) in self.members.iter() {
            let slot = handle.slot();
            if !known.contains(slot) {
                continue;
            }
            let prospect = member.prospect(class, as_of);
            fastest = prospect.map_or(fastest, |prospect| fastest.min(prospect.mean));
            if member.tier > top.tier {
                continue;
            }
            let is_ready = member.eligibility(class, request.cost, &ctx) == Eligibility::Ready;
            if is_ready || member.is_only_full(class, request.cost, &ctx) {
                rivals.push(Rival {
                    slot,
                    tier: member.tier,
                    last_used_seq: member.last_used_seq,
                    is_ready,
                    is_idle: member.is_idle(),
                    prospect,
                });
            }
        }
        if let Some(known) = self.lanes.get_mut(lane) {
            known.set_fastest(fastest);
        }
        rivals
    }

    /// Whether the others do everything that waits for a member before it has done its next job; the wait for them.
    fn outpaced(
        &self,
        lane: u32,
        slot: u32,
        origin: Origin,
        rivals: &[Rival],
    ) -> Option<Postponement> {
        let member = rivals.iter().find(|rival| rival.slot == slot)?;
        let (ends, is_fixed) = match member.horizon(self.clock.as_of) {
            Horizon::Never => return None,
            Horizon::Open => (Tick::MAX, false),
            Horizon::Until { ends, is_fixed } => (ends, is_fixed),
        };
        let mut count = 0u128;
        let (mut again_at, mut until) = (None, Tick::ZERO);
        for rival in rivals.iter().filter(|rival| rival.slot != slot) {
            let Some(prospect) = rival.prospect.filter(|prospect| !prospect.is_late) else {
                continue;
            };
            if !rival.is_ready && prospect.late_at.is_none() {
                continue;
            }
            let room = ends.nanos_since(prospect.free).saturating_sub(1);
            let jobs = room.checked_div(prospect.mean).unwrap_or(0);
            if jobs == 0 {
                continue;
            }
            count = count.saturating_add(jobs.into());
            again_at = earliest(again_at, prospect.late_at);
            until = until.max(prospect.late_at.unwrap_or(Tick::ZERO));
            if is_fixed {
                // From then on there is time for one job less.
                let less = ends
                    .as_nanos()
                    .saturating_sub(jobs.saturating_mul(prospect.mean));
                again_at = earliest(again_at, Some(Tick::from_nanos(less)));
            }
        }
        let is_outpaced = match member.horizon(self.clock.as_of) {
            Horizon::Never => false,
            Horizon::Open => count > 0,
            Horizon::Until { .. } => {
                let demand = self.demand(lane, slot, origin);
                count.saturating_mul(demand.unit) >= demand.total
            }
        };
        is_outpaced.then_some(Postponement {
            again_at: again_at.unwrap_or(until),
            until,
        })
    }

    /// What waits for a member, the request of a lane included. O(lanes in which requests wait).
    fn demand(&self, lane: u32, slot: u32, origin: Origin) -> Demand {
        let Some(member) = self.members.at(slot) else {
            return Demand { unit: 1, total: 1 };
        };
        let unit = |class: u32| u128::from(member.service.estimate(class).unwrap_or(1));
        let awaited = self.lanes.awaited().iter().filter_map(|index| {
            let known = self.lanes.get(*index).filter(|one| one.contains(slot))?;
            let waiting = u128::from(self.queue.len_of(*index));
            Some(waiting.saturating_mul(unit(known.key.class)))
        });
        let queued = awaited.fold(0, u128::saturating_add);
        let own = unit(self.lanes.get(lane).map_or(0, |known| known.key.class));
        let total = match origin {
            Origin::Queue(_) => queued,
            Origin::Caller { .. } => queued.saturating_add(own),
        };
        Demand { unit: own, total }
    }

    /// Sets the ticks to which the heads of lanes wait that have begun to wait for a faster member.
    pub(super) fn note_postponed(&mut self) {
        for at in 0..self.lanes.awaited().len() {
            let Some(lane) = self.lanes.awaited().get(at).copied() else {
                continue;
            };
            let wait = self.lanes.get(lane).and_then(|known| known.postponement);
            if let (Some(wait), Some((_, head))) = (wait, self.queue.next(lane)) {
                self.queue.postpone(head, wait.until);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Policy;
    use crate::pool::{
        Acquired, Event, LeaseId, Member, MemberId, Outcome, PoolConfig, PoolConfigBuilder,
        Release, WaiterId,
    };
    use core::num::NonZeroU32;
    use core::time::Duration;

    const TWO: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

    fn tick(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    fn by_time() -> PoolConfigBuilder {
        PoolConfig::builder(Policy::LeastQueue).weigh_by_time()
    }

    /// A slow member of 400 ns a job and a fast one of 100 ns, both idle at 1,000, with two leases each.
    fn pool(config: PoolConfigBuilder) -> (Pool<u32>, [MemberId; 2]) {
        let mut pool = Pool::new(config.build().unwrap());
        let members = [400, 100].map(|nanos| {
            let member = Member::new(nanos).max_leases(TWO);
            let id = pool.add(tick(0), member).unwrap();
            let pinned = lease(&mut pool, 0, Request::new().pin(id));
            let took = Duration::from_nanos(nanos.into());
            let release = Release::from(Outcome::Ok).latency(took);
            pool.release(tick(0), pinned, release).unwrap();
            id
        });
        pool.handle_timeout(tick(1_000));
        (pool, members)
    }

    fn acquire(pool: &mut Pool<u32>, now: u64, request: Request) -> Acquired {
        pool.acquire(tick(now), request).unwrap()
    }

    fn lease(pool: &mut Pool<u32>, now: u64, request: Request) -> LeaseId {
        match acquire(pool, now, request) {
            Acquired::Granted(grant) => grant.lease,
            Acquired::Waiting(_) => panic!("a member is ready for it"),
        }
    }

    fn wait(pool: &mut Pool<u32>, now: u64, request: Request) -> WaiterId {
        match acquire(pool, now, request) {
            Acquired::Granted(grant) => panic!("{:?}", pool.payload(grant.member)),
            Acquired::Waiting(waiter) => waiter,
        }
    }

    /// The members on which leases were granted since.
    fn granted(pool: &mut Pool<u32>) -> Vec<u32> {
        let mut members = Vec::new();
        while let Some(event) = pool.poll_event() {
            if let Event::Granted { grant, .. } = event {
                members.extend(pool.payload(grant.member));
            }
        }
        members
    }

    /// The fast member with two jobs from 1,000 on, and a third request that waits for it.
    fn postponed(config: PoolConfigBuilder) -> (Pool<u32>, [MemberId; 2], [LeaseId; 2]) {
        let (mut pool, members) = pool(config);
        let leases = [(); 2].map(|()| lease(&mut pool, 1_000, Request::new()));
        for one in leases {
            assert_eq!(pool.leased(one), Some(members[1]));
        }
        wait(&mut pool, 1_000, Request::new());
        (pool, members, leases)
    }

    #[test]
    fn the_last_request_waits_for_the_fast_member() {
        let (mut pool, _, leases) = postponed(by_time());
        pool.release(tick(1_100), leases[0], Outcome::Ok).unwrap();
        assert_eq!(granted(&mut pool), [100]);
        assert_eq!(pool.poll_timeout(), None);
    }

    #[test]
    fn a_pool_that_does_not_weigh_by_time_keeps_no_request_from_a_ready_member() {
        let (mut pool, _) = pool(PoolConfig::builder(Policy::LeastQueue));
        for _ in 0..4 {
            lease(&mut pool, 1_000, Request::new());
        }
        assert_eq!(pool.poll_timeout(), None);
    }

    #[test]
    fn a_request_waits_until_the_fast_member_is_late_and_no_longer() {
        let (mut pool, ..) = postponed(by_time());
        assert_eq!(pool.poll_timeout(), Some(tick(1_200)));
        pool.handle_timeout(tick(1_199));
        assert_eq!(granted(&mut pool), []);
        pool.handle_timeout(tick(1_200));
        assert_eq!(granted(&mut pool), [400]);
    }

    #[test]
    fn a_request_does_not_wait_for_a_member_that_leaves_service() {
        type Leave = fn(&mut Pool<u32>, MemberId, LeaseId);
        let leave: [Leave; 4] = [
            |pool, member, _| pool.disable(tick(1_010), member).unwrap(),
            |pool, member, _| assert_eq!(pool.remove(tick(1_010), member), Ok(None)),
            |pool, member, _| pool.set_weight(tick(1_010), member, 0).unwrap(),
            |pool, _, lease| {
                let until = tick(9_000);
                let outcome = Outcome::Throttled { until };
                pool.release(tick(1_010), lease, outcome).unwrap();
            },
        ];
        for leave in leave {
            let (mut pool, members, leases) = postponed(by_time());
            leave(&mut pool, members[1], leases[0]);
            assert_eq!(granted(&mut pool), [400]);
        }
    }

    #[test]
    fn a_full_member_that_is_held_back_by_more_than_its_leases_is_not_waited_for() {
        let (mut pool, members, _) = postponed(by_time());
        let until = tick(9_000);
        pool.observe(
            tick(1_010),
            members[1],
            crate::limit::Unit::Requests,
            0,
            until,
        )
        .unwrap();
        assert_eq!(granted(&mut pool), [400]);
    }

    #[test]
    fn a_slow_member_takes_a_request_where_enough_wait() {
        let (mut pool, ..) = postponed(by_time());
        // The fast one does one more before 1,400, and ends a second one then.
        wait(&mut pool, 1_000, Request::new());
        assert_eq!(granted(&mut pool), [400]);
        // And three before 1,800, when the slow one would have done its next.
        for _ in 0..4 {
            assert_eq!(granted(&mut pool), []);
            wait(&mut pool, 1_000, Request::new());
        }
        wait(&mut pool, 1_000, Request::new());
        assert_eq!(granted(&mut pool), [400]);
    }

    #[test]
    fn a_request_that_cannot_wait_is_served_by_a_ready_member() {
        let (mut pool, ..) = postponed(by_time().max_waiters(2));
        let wait = wait(&mut pool, 1_000, Request::new());
        assert_eq!(granted(&mut pool), [400], "as it would end no later there");
        pool.cancel(tick(1_000), wait).unwrap();
        let (mut pool, members) = self::pool(by_time());
        for _ in 0..2 {
            lease(&mut pool, 1_000, Request::new());
        }
        for deadline in [1_000, 1_150, 1_200] {
            let request = Request::new().deadline(tick(deadline));
            let lease = lease(&mut pool, 1_000, request);
            assert_eq!(pool.leased(lease), Some(members[0]));
            pool.release(tick(1_000), lease, Outcome::NotSent).unwrap();
        }
        self::wait(&mut pool, 1_000, Request::new().deadline(tick(1_201)));
        let (mut pool, members) = self::pool(by_time().max_waiters(0));
        for member in [1, 1, 0, 0] {
            let lease = lease(&mut pool, 1_000, Request::new());
            assert_eq!(pool.leased(lease), Some(members[member]));
        }
    }

    #[test]
    fn a_request_that_others_overtake_waits_no_longer_than_it_was_to_at_first() {
        let (mut pool, _, leases) = postponed(by_time());
        let urgent = Request::new().priority(0);
        wait(&mut pool, 1_050, urgent);
        pool.release(tick(1_100), leases[0], Outcome::Ok).unwrap();
        assert_eq!(granted(&mut pool), [100]);
        wait(&mut pool, 1_150, urgent);
        // The first one would wait for the fast member again, had it not been to wait to 1,200 only.
        pool.release(tick(1_200), leases[1], Outcome::Ok).unwrap();
        assert_eq!(granted(&mut pool), [100, 400]);
        wait(&mut pool, 1_200, Request::new());
    }

    #[test]
    fn a_session_goes_to_its_member_as_soon_as_that_is_ready() {
        let (mut pool, members) = pool(by_time().affinity(TWO, Duration::from_secs(1)));
        for _ in 0..2 {
            lease(&mut pool, 1_000, Request::new());
        }
        let soon = Request::new().session(7).deadline(tick(1_001));
        let first = lease(&mut pool, 1_000, soon);
        assert_eq!(pool.leased(first), Some(members[0]));
        let second = lease(&mut pool, 1_000, Request::new().session(7));
        assert_eq!(pool.leased(second), Some(members[0]));
    }

    #[test]
    fn jobs_of_others_at_a_member_count_as_ahead() {
        let (mut pool, members) = pool(by_time());
        pool.observe_depth(tick(1_000), members[1], 4).unwrap();
        let lease = lease(&mut pool, 1_000, Request::new());
        assert_eq!(pool.leased(lease), Some(members[0]));
    }

    #[test]
    fn an_idle_member_that_was_never_measured_is_tried() {
        let (mut pool, ..) = postponed(by_time());
        pool.add(tick(1_000), Member::new(7)).unwrap();
        assert_eq!(granted(&mut pool), [7]);
    }

    #[test]
    fn a_member_whose_job_is_late_takes_nothing_ahead_of_time_from_one_that_is_not() {
        let (mut pool, members) = pool(by_time());
        let first = lease(&mut pool, 1_000, Request::new());
        assert_eq!(pool.leased(first), Some(members[1]));
        let next = lease(&mut pool, 1_199, Request::new());
        assert_eq!(pool.leased(next), Some(members[1]));
        pool.release(tick(1_199), next, Outcome::NotSent).unwrap();
        let next = lease(&mut pool, 1_200, Request::new());
        assert_eq!(pool.leased(next), Some(members[0]));
    }

    #[test]
    fn a_member_s_time_does_not_count_its_own_queue() {
        let (mut pool, members) = pool(by_time());
        let [first, second] = [(); 2].map(|()| lease(&mut pool, 1_000, Request::new()));
        pool.release(tick(1_100), first, Outcome::Ok).unwrap();
        pool.release(tick(1_200), second, Outcome::Ok).unwrap();
        let fast = pool.members.get(members[1].within(pool.config.id).unwrap());
        assert_eq!(fast.unwrap().service.mean(0), Some(100));
    }
}
