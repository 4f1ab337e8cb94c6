//! The condition of a member: an operator's settings and its health, for people.
//!
//! Invariant: it is told from the state that decides, as of the pool's latest command.

use super::drive::Pool;
use super::ids::MemberId;
use super::member_state::{MemberState, Status};
use crate::health::BreakerState;
use crate::limit::{Cost, LimitSet};
use crate::time::Tick;

/// The condition of a member, and what its limits have left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberCondition {
    /// Whether an operator lets it serve.
    pub status: Status,
    /// Its weight; one of 0 serves nothing.
    pub weight: u16,
    /// Its tier.
    pub tier: u8,
    /// Whether its probes succeed, or it has none.
    pub is_up: bool,
    /// The end of its ejection, if it is ejected.
    pub ejected_until: Option<Tick>,
    /// The state of its breaker, if it has one.
    pub breaker: Option<BreakerState>,
    /// Leases held on it now.
    pub in_flight: u32,
    /// The most of each unit that its limits and those of its group admit now, to a request without a class; `u32::MAX`
    /// where there is no limit.
    pub available: Cost,
    /// The most that they ever admit at once.
    pub capacity: Cost,
}

impl MemberCondition {
    /// Whether it serves requests, limits and load aside; a half-open breaker lets it.
    #[must_use]
    pub const fn serves(&self) -> bool {
        matches!(self.status, Status::Enabled)
            && self.weight > 0
            && self.is_up
            && self.ejected_until.is_none()
            && !matches!(self.breaker, Some(BreakerState::Open { .. }))
    }
}

impl<T> Pool<T> {
    /// The members that were not removed, and the condition of each; by slot.
    pub fn conditions(&self) -> impl Iterator<Item = (MemberId, &T, MemberCondition)> {
        let members = self.members.iter();
        let current = members.filter(|(_, member)| !member.is_leaving());
        current.map(|(handle, member)| {
            let condition = self.condition(member);
            (self.members.id(handle), &member.payload, condition)
        })
    }

    fn condition(&self, member: &MemberState<T>) -> MemberCondition {
        let now = self.clock.now;
        let config = member.breaker_config(&self.config);
        let health = member.health.as_deref();
        MemberCondition {
            status: member.status,
            weight: member.weight,
            tier: member.tier,
            is_up: !member.is_down(),
            ejected_until: member.ejected(now),
            breaker: config.map(|config| match health {
                Some(health) => health.breaker.state(config, now),
                None => BreakerState::Closed,
            }),
            in_flight: member.in_flight,
            available: self.least(member, |limits| limits.available(now, 0)),
            capacity: self.least(member, LimitSet::capacity),
        }
    }

    /// The least of each unit over a member's own limits and those of its group.
    fn least(&self, member: &MemberState<T>, of: impl Fn(&LimitSet) -> Cost) -> Cost {
        let own = of(&member.limits);
        let group = member.group.and_then(|group| self.shared.group(group));
        group.map(of).map_or(own, |group| Cost {
            requests: own.requests.min(group.requests),
            tokens: own.tokens.min(group.tokens),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Policy;
    use crate::health::{BreakerConfig, ProbeConfig};
    use crate::limit::{FixedWindow, Unit};
    use crate::pool::{Event, Member, PoolConfig, ProbeResult, Request};
    use core::num::NonZeroU32;
    use core::time::Duration;

    const NOW: Tick = Tick::ZERO;

    fn pool() -> (Pool<()>, MemberId) {
        let second = Duration::from_secs(1);
        let probes = ProbeConfig::builder(second, second).fall(NonZeroU32::MIN);
        let config = PoolConfig::builder(Policy::RoundRobin)
            .breaker(BreakerConfig::builder(second, second).build().unwrap())
            .health(probes.build().unwrap());
        let mut pool = Pool::new(config.build().unwrap());
        let member = pool.add(NOW, Member::new(())).unwrap();
        (pool, member)
    }

    fn condition(pool: &Pool<()>) -> MemberCondition {
        pool.conditions().next().unwrap().2
    }

    #[test]
    fn each_reason_to_serve_nothing_is_told_apart() {
        let (mut pool, member) = pool();
        assert!(condition(&pool).serves());
        pool.disable(NOW, member).unwrap();
        assert_eq!(condition(&pool).status, Status::Disabled);
        assert!(!condition(&pool).serves());
        pool.enable(NOW, member).unwrap();
        pool.set_weight(NOW, member, 0).unwrap();
        assert!(!condition(&pool).serves());
        pool.set_weight(NOW, member, 1).unwrap();
        let until = Tick::from_nanos(5);
        pool.trip_breaker(NOW, member, until).unwrap();
        assert_eq!(condition(&pool).breaker, Some(BreakerState::Open { until }));
        assert!(!condition(&pool).serves());
        pool.handle_timeout(until);
        assert!(condition(&pool).serves(), "a half-open breaker lets it");
    }

    #[test]
    fn a_member_is_up_until_its_probe_fails() {
        let (mut pool, _) = pool();
        let late = Tick::from_nanos(2_000_000_000);
        pool.handle_timeout(late);
        let probe = core::iter::from_fn(|| pool.poll_event()).find_map(|event| {
            let Event::Probe { probe, .. } = event else {
                return None;
            };
            Some(probe)
        });
        assert!(condition(&pool).is_up);
        pool.handle_probe(late, probe.unwrap(), ProbeResult::Down)
            .unwrap();
        assert!(!condition(&pool).is_up);
        assert!(!condition(&pool).serves());
    }

    #[test]
    fn a_member_has_left_what_the_tighter_of_its_own_and_its_groups_limits_has() {
        let fixed = |most| {
            let most = NonZeroU32::new(most).unwrap();
            FixedWindow::new(most, Duration::from_secs(60)).unwrap()
        };
        let mut pool = Pool::new(PoolConfig::new(Policy::Fifo));
        let group = LimitSet::new().with(Unit::Requests, fixed(3));
        let group = pool.add_group(group.with(Unit::Tokens, fixed(1_000)));
        let own = LimitSet::new().with(Unit::Requests, fixed(5));
        let member = Member::new(()).limits(own).group(group);
        pool.add(NOW, member).unwrap();
        pool.add(NOW, Member::new(()).group(group)).unwrap();
        let request = Request::new().cost(Cost {
            requests: 1,
            tokens: 400,
        });
        pool.acquire(NOW, request).unwrap();
        let left = |requests, tokens| Cost { requests, tokens };
        for (_, (), told) in pool.conditions() {
            assert_eq!(told.available, left(2, 600));
            assert_eq!(told.capacity, left(3, 1_000));
        }
        let mut free = Pool::new(PoolConfig::new(Policy::Fifo));
        free.add(NOW, Member::new(())).unwrap();
        assert_eq!(condition(&free).available, left(u32::MAX, u32::MAX));
    }

    #[test]
    fn a_removed_member_has_no_condition() {
        let (mut pool, member) = pool();
        pool.acquire(NOW, Request::new()).unwrap();
        assert_eq!(condition(&pool).in_flight, 1);
        pool.remove(NOW, member).unwrap();
        assert_eq!(pool.conditions().count(), 0);
    }

    #[test]
    fn an_estimate_names_the_member_that_is_granted_next() {
        let (mut pool, _) = pool();
        pool.add(NOW, Member::new(())).unwrap();
        for _ in 0..4 {
            let foreseen = pool.estimate(NOW, &Request::new()).unwrap().member;
            let again = pool.estimate(NOW, &Request::new()).unwrap().member;
            assert_eq!(foreseen, again);
            let granted = pool.acquire(NOW, Request::new()).unwrap();
            let crate::pool::Acquired::Granted(grant) = granted else {
                panic!("a member is free");
            };
            assert_eq!(Some(grant.member), foreseen);
        }
    }
}
