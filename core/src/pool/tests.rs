//! The promises of a pool that are easier to read here than in the model.

use super::*;
use crate::balance::Policy;
use crate::health::{BreakerConfig, ProbeConfig};
use crate::limit::{Anchor, Concurrency, Cost, LimitSet, SlidingLog, Unit};
use crate::time::Tick;
use alloc::vec::Vec;
use core::num::NonZeroU32;
use core::time::Duration;

fn tick(nanos: u64) -> Tick {
    Tick::from_nanos(nanos)
}

fn one_at_a_time(ttl: u64) -> Pool<()> {
    let config = PoolConfig::builder(Policy::Fifo).lease_ttl(Duration::from_nanos(ttl));
    let mut pool = Pool::new(config.build().unwrap());
    let member = Member::new(()).max_leases(NonZeroU32::MIN);
    pool.add(tick(0), member).unwrap();
    pool
}

#[test]
fn a_lease_is_gone_at_its_deadline_exactly() {
    for (now, is_held) in [(9, true), (10, false)] {
        let mut pool = one_at_a_time(10);
        let Ok(Acquired::Granted(grant)) = pool.acquire(tick(0), Request::new()) else {
            panic!("the member is free");
        };
        let released = pool.release(tick(now), grant.lease, Outcome::Ok);
        assert_eq!(released.is_ok(), is_held);
    }
}

#[test]
fn a_late_timeout_grants_what_was_ready_before_the_deadline() {
    for (deadline, is_granted) in [(10, false), (11, true), (20, true)] {
        let mut pool = one_at_a_time(10);
        pool.acquire(tick(0), Request::new()).unwrap();
        let request = Request::new().deadline(tick(deadline));
        pool.acquire(tick(1), request).unwrap();
        pool.handle_timeout(tick(25));
        let events = core::iter::from_fn(|| pool.poll_event());
        let granted = events.filter(|event| matches!(event, Event::Granted { .. }));
        assert_eq!(granted.count() == 1, is_granted, "{deadline}");
    }
}

#[test]
fn weights_make_a_difference_where_a_policy_says_so() {
    for policy in Policy::ALL {
        let mut pool = Pool::new(PoolConfig::new(policy));
        pool.add(tick(0), Member::new(()).weight(1)).unwrap();
        let heavy = pool.add(tick(0), Member::new(()).weight(9)).unwrap();
        for key in 0..100_u64 {
            let request = Request::new().key(key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            pool.acquire(tick(key), request).unwrap();
        }
        let share = pool.leases().filter(|held| held.member == heavy).count();
        assert_eq!(share > 70, policy.uses_weight(), "{policy}: {share}");
    }
}

#[test]
fn windows_that_passed_unseen_admit_no_more_than_one() {
    let mut pool = Pool::new(PoolConfig::new(Policy::Fifo));
    let log = SlidingLog::new(NonZeroU32::MIN, Duration::from_nanos(10), Anchor::Grant);
    pool.add(tick(0), Member::new(()).limit(log.unwrap()))
        .unwrap();
    for _ in 0..5 {
        pool.acquire(tick(0), Request::new()).unwrap();
    }
    pool.handle_timeout(tick(1_000));
    assert_eq!(pool.stats().total.granted, 2);
    assert_eq!(pool.poll_timeout(), Some(tick(1_010)));
}

/// A pool of one member that serves one call at a time.
fn numbered(id: u32) -> (Pool<()>, MemberId) {
    let config = PoolConfig::builder(Policy::Fifo).id(PoolId::new(id));
    let mut pool = Pool::new(config.build().unwrap());
    let member = Member::new(()).max_leases(NonZeroU32::MIN);
    let member = pool.add(tick(0), member).unwrap();
    (pool, member)
}

fn lease(pool: &mut Pool<()>, now: u64) -> LeaseId {
    match pool.acquire(tick(now), Request::new()) {
        Ok(Acquired::Granted(grant)) => grant.lease,
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn ids_of_another_pool_are_refused() {
    let ((mut a, member_of_a), (mut b, _)) = (numbered(1), numbered(2));
    let (lease_of_a, lease_of_b) = (lease(&mut a, 0), lease(&mut b, 0));
    assert_eq!(b.release(tick(1), lease_of_a, Outcome::Ok), Err(StaleLease));
    assert_eq!(b.disable(tick(1), member_of_a), Err(StaleMember));
    let group_of_a = a.add_group(LimitSet::new());
    b.add_group(LimitSet::new());
    let member = Member::new(()).group(group_of_a);
    assert_eq!(
        b.add(tick(1), member),
        Err(AddError::NoSuchGroup(group_of_a))
    );
    let pinned = Request::new().pin(member_of_a);
    assert_eq!(
        b.acquire(tick(1), pinned),
        Err(AcquireError::PinnedMemberRemoved)
    );
    assert_eq!(b.release(tick(1), lease_of_b, Outcome::Ok), Ok(()));
}

#[cfg(feature = "serde")]
#[test]
fn ids_from_before_a_snapshot_are_refused_under_the_old_identity_and_a_new_one() {
    let (mut saved, member) = numbered(1);
    let lease = lease(&mut saved, 0);
    for id in [1, 2] {
        let config = PoolConfig::builder(Policy::Fifo).id(PoolId::new(id));
        let config = config.build().unwrap();
        let restored = Pool::restore(config, saved.snapshot(), tick(0), tick(0));
        let mut pool = restored.unwrap();
        assert_eq!(pool.release(tick(0), lease, Outcome::Ok), Err(StaleLease));
        assert_eq!(pool.drain(tick(0), member), Err(StaleMember));
    }
}

/// The cause that a request which can't wait is refused for.
fn cause(pool: &mut Pool<()>, now: u64) -> Cause {
    let request = Request::new().deadline(tick(now));
    let refused = pool.acquire(tick(now), request);
    let refused = refused.expect_err("no member is ready");
    refused.cause().unwrap_or_else(|| panic!("{refused:?}"))
}

#[test]
fn a_refusal_names_its_dominant_cause() {
    let span = Duration::from_nanos(100);
    let log = SlidingLog::new(NonZeroU32::MIN, span, Anchor::Grant).unwrap();
    let mut at_limit = Pool::new(PoolConfig::new(Policy::Fifo));
    at_limit.add(tick(0), Member::new(()).limit(log)).unwrap();
    lease(&mut at_limit, 0);
    let at = Cause::AtLimit { until: tick(100) };
    assert_eq!(cause(&mut at_limit, 10), at);
    assert!(at.is_exhaustion());

    let breaker = BreakerConfig::builder(span, span).consecutive_failures(NonZeroU32::MIN);
    let config = PoolConfig::builder(Policy::Fifo).breaker(breaker.build().unwrap());
    let mut open = Pool::new(config.build().unwrap());
    open.add(tick(0), Member::new(())).unwrap();
    let failed = lease(&mut open, 0);
    open.release(tick(0), failed, Outcome::Failed).unwrap();
    let at = Cause::BreakerOpen { until: tick(100) };
    assert_eq!(cause(&mut open, 10), at);
    let soon = open.acquire(tick(10), Request::new().deadline(tick(20)));
    let expected = AcquireError::DeadlineTooSoon {
        at: tick(100),
        cause: at,
    };
    assert_eq!(soon, Err(expected));
    assert!(!at.is_exhaustion());

    let health = ProbeConfig::builder(span, span).initially_up(false);
    let config = PoolConfig::builder(Policy::Fifo).health(health.build().unwrap());
    let mut down = Pool::new(config.build().unwrap());
    assert_eq!(cause(&mut down, 0), Cause::NoMember);
    let member = down.add(tick(0), Member::new(())).unwrap();
    assert_eq!(cause(&mut down, 0), Cause::Unhealthy);
    down.disable(tick(0), member).unwrap();
    assert_eq!(cause(&mut down, 0), Cause::Disabled);
}

/// The cause of a request that is queued now and times out at the deadline, as a late timeout tells.
fn cause_of_timeout(pool: &mut Pool<()>, request: Request, deadline: u64) -> Cause {
    let asked = pool.acquire(tick(1), request.deadline(tick(deadline)));
    assert!(matches!(asked, Ok(Acquired::Waiting(_))), "{asked:?}");
    pool.handle_timeout(tick(deadline.saturating_add(50)));
    let mut causes = core::iter::from_fn(|| pool.poll_event()).filter_map(|event| match event {
        Event::TimedOut { cause, .. } => Some(cause),
        Event::Granted { .. }
        | Event::Closed { .. }
        | Event::PinnedMemberRemoved { .. }
        | Event::Expired { .. }
        | Event::Drained { .. }
        | Event::Removed { .. }
        | Event::Probe { .. }
        | Event::Changed { .. } => None,
    });
    causes.next().expect("the request times out")
}

#[test]
fn a_timeout_tells_what_its_request_waited_for_at_the_deadline() {
    for (ttl, expected) in [(11, Cause::Full), (10, Cause::BehindOthers)] {
        let mut pool = one_at_a_time(ttl);
        lease(&mut pool, 0);
        let cause = cause_of_timeout(&mut pool, Request::new(), 10);
        assert_eq!(cause, expected, "{ttl}");
    }
    let (mut pool, member) = numbered(1);
    lease(&mut pool, 0);
    pool.disable(tick(0), member).unwrap();
    let cause = cause_of_timeout(&mut pool, Request::new(), 10);
    assert_eq!(cause, Cause::Disabled);

    let mut pool = one_at_a_time(1_000);
    let alone = LimitSet::new().with(Unit::Requests, Concurrency::new(NonZeroU32::MIN));
    pool.set_flow(tick(0), 0, &FlowConfig::new().limits(alone));
    lease(&mut pool, 0);
    let cause = cause_of_timeout(&mut pool, Request::new(), 10);
    assert_eq!(cause, Cause::FlowAtLimit { until: None });
}

#[test]
fn a_timeout_tells_when_the_limit_opens_that_its_request_waited_for() {
    let tokens = |tokens| {
        let requests = 1;
        Request::new().cost(Cost { requests, tokens })
    };
    let ten = NonZeroU32::MIN.saturating_add(9);
    let log = SlidingLog::new(ten, Duration::from_nanos(100), Anchor::Grant).unwrap();
    let mut pool = Pool::new(PoolConfig::new(Policy::Fifo));
    pool.add(tick(0), Member::new(()).limit_of(Unit::Tokens, log))
        .unwrap();
    // Its cost is an estimate, so that no wait for it is certain.
    pool.acquire(tick(0), tokens(8)).unwrap();
    let cause = cause_of_timeout(&mut pool, tokens(3), 20);
    assert_eq!(cause, Cause::AtLimit { until: tick(100) });
    // It would fit, and is behind one that doesn't.
    pool.acquire(tick(70), tokens(3)).unwrap();
    pool.acquire(tick(70), tokens(1).deadline(tick(80)))
        .unwrap();
    pool.handle_timeout(tick(80));
    let cause = Cause::BehindOthers;
    let event = pool.poll_event();
    assert!(
        matches!(event, Some(Event::TimedOut { cause: told, .. }) if told == cause),
        "{event:?}"
    );
}

#[test]
fn a_request_without_a_deadline_waits_even_where_no_member_can_serve() {
    let mut pool: Pool<()> = Pool::new(PoolConfig::new(Policy::Fifo));
    let queued = pool.acquire(tick(0), Request::new());
    assert!(matches!(queued, Ok(Acquired::Waiting(_))));
    pool.add(tick(5), Member::new(())).unwrap();
    assert!(matches!(pool.poll_event(), Some(Event::Granted { .. })));
}

#[test]
fn an_unknown_outcome_keeps_its_cost_and_moves_no_breaker() {
    let span = Duration::from_nanos(100);
    let log = SlidingLog::new(NonZeroU32::MIN.saturating_add(3), span * 100, Anchor::Grant);
    let breaker = BreakerConfig::builder(span, span).consecutive_failures(NonZeroU32::MIN);
    let config = PoolConfig::builder(Policy::Fifo).breaker(breaker.build().unwrap());
    let mut pool = Pool::new(config.build().unwrap());
    let member = pool
        .add(tick(0), Member::new(()).limit(log.unwrap()))
        .unwrap();
    let changes = |pool: &mut Pool<()>| {
        let events = core::iter::from_fn(|| pool.poll_event());
        let mut changes = Vec::new();
        for event in events {
            if let Event::Changed { change, .. } = event {
                changes.push(change);
            }
        }
        changes
    };

    let abandoned = lease(&mut pool, 0);
    pool.release(tick(1), abandoned, Outcome::Unknown).unwrap();
    assert_eq!(changes(&mut pool), []);
    let failed = lease(&mut pool, 1);
    pool.release(tick(1), failed, Outcome::Failed).unwrap();
    assert_eq!(
        changes(&mut pool),
        [HealthChange::BreakerOpen { until: tick(101) }]
    );

    // Half-open: an abandoned call frees its place, and the breaker stays half-open for the next.
    pool.handle_timeout(tick(150));
    assert_eq!(changes(&mut pool), [HealthChange::BreakerHalfOpen]);
    for _ in 0..2 {
        let abandoned = lease(&mut pool, 150);
        assert_eq!(cause(&mut pool, 150), Cause::BreakerHalfOpen);
        pool.release(tick(150), abandoned, Outcome::Unknown)
            .unwrap();
        assert_eq!(changes(&mut pool), []);
    }
    assert_eq!(
        cause(&mut pool, 150),
        Cause::AtLimit {
            until: tick(10_000)
        }
    );
    let stats = pool.stats();
    assert_eq!((stats.total.unknown, stats.total.failed), (3, 1));
    assert_eq!(stats.members.first().map(|one| one.counts.unknown), Some(3));
    assert!(pool.payload(member).is_some());
}

#[test]
fn a_member_that_only_fails_is_tried_again_at_once() {
    let mut pool = Pool::new(PoolConfig::new(Policy::LeastConnections));
    let member = Member::new(()).max_leases(NonZeroU32::MIN);
    pool.add(tick(0), member).unwrap();
    for now in 0..3 {
        let failed = lease(&mut pool, now);
        pool.release(tick(now), failed, Outcome::Failed).unwrap();
    }
}

#[cfg(feature = "serde")]
#[test]
fn an_open_breaker_is_forgotten_where_the_restored_pool_has_none() {
    let span = Duration::from_nanos(100);
    let breaker = BreakerConfig::builder(span, span).consecutive_failures(NonZeroU32::MIN);
    let config = PoolConfig::builder(Policy::Fifo).breaker(breaker.build().unwrap());
    let mut saved = Pool::new(config.build().unwrap());
    saved.add(tick(0), Member::new(())).unwrap();
    let failed = lease(&mut saved, 0);
    saved.release(tick(0), failed, Outcome::Failed).unwrap();
    let config = PoolConfig::new(Policy::Fifo);
    let restored = Pool::restore(config, saved.snapshot(), tick(0), tick(0));
    let mut pool = restored.unwrap();
    assert_eq!(pool.poll_timeout(), None);
    pool.handle_timeout(tick(1_000));
    lease(&mut pool, 1_000);
}

#[test]
fn a_turn_in_one_lane_serves_the_next_head_of_another() {
    let tokens = |tokens| Cost {
        requests: 1,
        tokens,
    };
    let count = |count| NonZeroU32::new(count).unwrap();
    let log = SlidingLog::new(count(100), Duration::from_nanos(1_000), Anchor::Grant).unwrap();
    let mut pool: Pool<()> = Pool::new(PoolConfig::new(Policy::Fifo));
    let (a, b) = (pool.labels([1]).unwrap(), pool.labels([2]).unwrap());
    let limited = Member::new(()).labels(a).limit_of(Unit::Tokens, log);
    pool.add(tick(0), limited).unwrap();
    let busy = Member::new(()).labels(b).max_leases(NonZeroU32::MIN);
    pool.add(tick(0), busy).unwrap();
    let mut ask = |request: Request| pool.acquire(tick(0), request).unwrap();
    let Acquired::Granted(_) = ask(Request::new().labels(a).cost(tokens(50))) else {
        panic!("50 of 100 tokens are free");
    };
    let Acquired::Granted(held) = ask(Request::new().labels(b)) else {
        panic!("the member is free");
    };
    // Flow 1 waits in both lanes and heads both; flow 2 is behind it in the first, and would fit.
    for request in [
        Request::new().labels(a).flow(1).cost(tokens(100)),
        Request::new().labels(a).flow(2).cost(tokens(50)),
        Request::new().labels(b).flow(1),
    ] {
        assert!(matches!(ask(request), Acquired::Waiting(_)));
    }
    pool.release(tick(1), held.lease, Outcome::Ok).unwrap();
    let events = core::iter::from_fn(|| pool.poll_event());
    assert_eq!(events.count(), 2, "flow 1 by its turn, then flow 2");
}

#[test]
fn an_alternative_can_serve_and_is_the_least_loaded_of_its_tier() {
    let mut pool = Pool::new(PoolConfig::new(Policy::RoundRobin));
    let mut add = |member: Member<()>| pool.add(tick(0), member).unwrap();
    let disabled = add(Member::new(()).weight(9));
    let heavy = add(Member::new(()).weight(2));
    let light = add(Member::new(()));
    let far = add(Member::new(()).tier(1).weight(9));
    pool.disable(tick(0), disabled).unwrap();
    let expect = |pool: &Pool<()>, tried: &[MemberId], member| {
        assert_eq!(pool.alternative(&Request::new(), tried), member);
    };
    expect(&pool, &[], Some(heavy));
    pool.acquire(tick(0), Request::new().pin(heavy)).unwrap();
    pool.acquire(tick(0), Request::new().pin(heavy)).unwrap();
    expect(&pool, &[], Some(light));
    expect(&pool, &[light], Some(heavy));
    expect(&pool, &[heavy, light], Some(far));
    expect(&pool, &[heavy, light, far], None);
}
