//! Known defects of other pools and balancers, as properties of this one.

use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::balance::{LoadFactor, Policy, TableSize};
use leasehold_core::health::{BreakerConfig, PanicThreshold, ProbeConfig, SlowStartConfig};
use leasehold_core::pool::{
    Acquired, Event, Grant, HealthChange, Member, MemberId, Outcome, Pool, PoolConfig,
    PoolConfigBuilder, ProbeId, ProbeResult, Request, WaiterId,
};
use leasehold_core::time::Tick;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn tick(nanos: u64) -> Tick {
    Tick::from_nanos(nanos)
}

fn nanos(count: u64) -> Duration {
    Duration::from_nanos(count)
}

fn count(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).expect("above zero")
}

/// A pool whose payloads are the numbers of its members, and a clock.
struct Harness {
    pool: Pool<usize>,
    members: Vec<MemberId>,
    now: u64,
}

impl Harness {
    fn new(config: PoolConfig, members: impl IntoIterator<Item = Member<()>>) -> Self {
        let mut harness = Self {
            pool: Pool::new(config),
            members: Vec::new(),
            now: 0,
        };
        for member in members {
            harness.add(member);
        }
        harness
    }

    fn add(&mut self, member: Member<()>) {
        let number = self.members.len();
        let added = self.pool.add(self.now(), member.map(|()| number));
        self.members.push(added.expect("there is room"));
    }

    fn now(&self) -> Tick {
        tick(self.now)
    }

    fn number(&self, grant: Grant) -> usize {
        *self
            .pool
            .payload(grant.member)
            .expect("the member is leased")
    }

    fn acquire(&mut self, request: Request) -> Acquired {
        let now = self.now();
        self.pool
            .acquire(now, request)
            .expect("the request may wait")
    }

    /// Acquires a lease that is granted at once.
    fn take(&mut self, request: Request) -> (Grant, usize) {
        match self.acquire(request) {
            Acquired::Granted(grant) => (grant, self.number(grant)),
            Acquired::Waiting(_) => panic!("no member is free"),
        }
    }

    fn wait(&mut self, request: Request) -> WaiterId {
        match self.acquire(request) {
            Acquired::Waiting(waiter) => waiter,
            Acquired::Granted(_) => panic!("a member is free"),
        }
    }

    fn release(&mut self, grant: Grant) {
        let now = self.now();
        let released = self.pool.release(now, grant.lease, Outcome::Ok);
        released.expect("the lease is held");
    }

    /// Acquires and releases a lease; returns the member's number.
    fn pick(&mut self, request: Request) -> usize {
        let (grant, number) = self.take(request);
        self.now += 1;
        self.release(grant);
        number
    }

    /// Returns the calls of each member out of `times`.
    fn picks(&mut self, times: usize) -> Vec<u64> {
        let mut calls = vec![0; self.members.len()];
        for _ in 0..times {
            calls[self.pick(Request::new())] += 1;
        }
        calls
    }

    fn set_weight(&mut self, number: usize, weight: u16) {
        let (now, member) = (self.now(), self.members[number]);
        self.pool
            .set_weight(now, member, weight)
            .expect("the member is in the pool");
    }

    fn set_enabled(&mut self, number: usize, enabled: bool) {
        let (now, member) = (self.now(), self.members[number]);
        let changed = if enabled {
            self.pool.enable(now, member)
        } else {
            self.pool.disable(now, member)
        };
        changed.expect("the member is in the pool");
    }

    /// Returns the next grant to a waiter among the events.
    fn granted(&mut self) -> Option<(WaiterId, Grant)> {
        loop {
            if let Event::Granted { waiter, grant } = self.pool.poll_event()? {
                return Some((waiter, grant));
            }
        }
    }
}

fn default_members(count: usize) -> impl Iterator<Item = Member<()>> {
    (0..count).map(|_| Member::new(()))
}

/// Maglev with a small table, which is quickly filled.
fn maglev() -> Policy {
    Policy::Maglev {
        table: TableSize::new(251).expect("251 is a prime"),
        bound: LoadFactor::DEFAULT,
    }
}

fn any_policy() -> impl Strategy<Value = Policy> {
    prop::sample::select(vec![
        Policy::Fifo,
        Policy::RoundRobin,
        Policy::WeightedRoundRobin,
        Policy::Random,
        Policy::LeastConnections,
        Policy::LeastUsed,
        Policy::LeastQueue,
        Policy::PowerOfTwoChoices,
        Policy::PEAK_EWMA,
        Policy::RENDEZVOUS,
        Policy::RING,
        maglev(),
    ])
}

/// How a member becomes unavailable for a while.
#[derive(Clone, Copy, Debug)]
enum Absence {
    Disabled,
    Weightless,
    Removed,
    Throttled,
}

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn a_flapping_member_leaves_the_others_even_shares(
        members in 3_usize..10,
        every in 1_usize..31,
        weighted: bool,
        absence in prop::sample::select(vec![
            Absence::Disabled, Absence::Weightless, Absence::Removed, Absence::Throttled,
        ]),
    ) {
        let policy = if weighted { Policy::WeightedRoundRobin } else { Policy::RoundRobin };
        let mut harness = Harness::new(PoolConfig::new(policy), default_members(members));
        let mut calls = vec![0_u64; members];
        let mut available = true;
        for turn in 0..60 * members {
            if turn.is_multiple_of(every) {
                let (now, flapping) = (harness.now(), harness.members[0]);
                match absence {
                    Absence::Disabled => harness.set_enabled(0, !available),
                    Absence::Weightless => harness.set_weight(0, u16::from(!available)),
                    Absence::Removed if available => {
                        let gone = harness.pool.remove(now, flapping);
                        prop_assert_eq!(gone, Ok(Some(0)));
                    }
                    Absence::Removed => {
                        let added = harness.pool.add(now, Member::new(0));
                        harness.members[0] = added.expect("there is room");
                    }
                    Absence::Throttled if available => {
                        let (grant, _) = harness.take(Request::new().pin(flapping));
                        let until = tick(harness.now + every as u64);
                        let outcome = Outcome::Throttled { until };
                        let released = harness.pool.release(now, grant.lease, outcome);
                        prop_assert_eq!(released, Ok(()));
                    }
                    // The throttle has expired by now.
                    Absence::Throttled => {}
                }
                available = !available;
            }
            calls[harness.pick(Request::new())] += 1;
        }
        let (least, most) = (calls[1..].iter().min(), calls[1..].iter().max());
        let (least, most) = (*least.expect("there are others"), *most.expect("there are others"));
        prop_assert!(10 * most <= 11 * least, "{:?}", calls);
    }

    #[test]
    fn a_slow_start_starves_neither_the_new_member_nor_the_others(
        weights in prop::collection::vec(1_u16..6, 1..8),
        newcomer in 1_u16..6,
        steps in 1_u32..12,
    ) {
        let ramp = 10_000;
        let config = SlowStartConfig::new(nanos(ramp), count(steps)).expect("the duration is above zero");
        let config = built(PoolConfig::builder(Policy::WeightedRoundRobin).slow_start(config));
        let members = weights.iter().map(|weight| Member::new(()).weight(*weight));
        let mut harness = Harness::new(config, members);
        harness.now = ramp;
        harness.pool.handle_timeout(tick(ramp));
        harness.add(Member::new(()).weight(newcomer));
        let mut idle = vec![0_u64; harness.members.len()];
        // Twice a full turn at the lowest step, because weights change meanwhile.
        let total = u64::from(weights.iter().sum::<u16>() + newcomer);
        let bound = 2 * (total * u64::from(steps) + 1);
        for _ in 0..ramp {
            let chosen = harness.pick(Request::new());
            for (number, idle) in idle.iter_mut().enumerate() {
                *idle = if number == chosen { 0 } else { *idle + 1 };
                prop_assert!(*idle <= bound, "{} of {:?}", number, weights);
            }
        }
    }

    #[test]
    fn a_member_of_weight_zero_gets_no_new_leases(policy in any_policy(), members in 2_usize..8, seed: u64) {
        let mut harness = Harness::new(built(PoolConfig::builder(policy).seed(seed)), default_members(members));
        let held: Vec<_> = (0..4 * members).map(|_| harness.take(Request::new())).collect();
        harness.set_weight(0, 0);
        for (key, (grant, _)) in (0..).zip(held) {
            harness.now += 1;
            harness.release(grant);
            prop_assert_ne!(harness.pick(Request::new().key(key)), 0);
        }
        let stats = harness.pool.stats();
        prop_assert!(stats.members.iter().all(|member| member.in_flight == 0));
        for other in 1..members {
            harness.set_enabled(other, false);
        }
        let waiter = harness.wait(Request::new());
        harness.set_weight(0, 1);
        let granted = harness.granted().map(|(waiter, grant)| (waiter, harness.number(grant)));
        prop_assert_eq!(granted, Some((waiter, 0)));
    }

    #[test]
    fn health_is_ignored_below_the_panic_threshold(
        members in 1_usize..12, down in 0_usize..12, permille in 0_u16..1_001,
    ) {
        let down = down.min(members);
        let health = ProbeConfig::builder(nanos(100), nanos(50)).fall(count(1)).rise(count(1));
        let health = health.build().expect("in range");
        let threshold = PanicThreshold::new(permille).expect("in range");
        let config = built(PoolConfig::builder(Policy::Fifo).health(health).panic_threshold(threshold));
        let mut harness = Harness::new(config, default_members(members));
        let mut probed = vec![false; members];
        while probed.iter().any(|probed| !probed) {
            let due = harness.pool.poll_timeout().expect("probes are due");
            harness.now = due.as_nanos();
            harness.pool.handle_timeout(due);
            while let Some((number, probe)) = next_probe(&mut harness) {
                probed[number] = true;
                let up = ProbeResult::Up { depth: None, latency: None };
                let answer = if number < down { ProbeResult::Down } else { up };
                prop_assert_eq!(harness.pool.handle_probe(due, probe, answer), Ok(()));
            }
        }
        let healthy = members - down;
        let panics = healthy * 1_000 < members * usize::from(permille);
        if healthy == 0 && !panics {
            harness.wait(Request::new());
        } else {
            let calls = harness.picks(members);
            let expected = |number: usize| panics || number >= down;
            for (number, calls) in calls.iter().enumerate() {
                prop_assert_eq!(*calls > 0, expected(number), "{} of {}", number, members);
            }
        }
    }

    #[test]
    fn a_farther_tier_serves_only_what_the_nearer_tier_cannot(
        policy in any_policy(), near in 1_usize..5, far in 1_usize..5, seed: u64,
    ) {
        let member = |number: usize| {
            Member::new(()).max_leases(count(1)).tier(u8::from(number >= near))
        };
        let members = (0..near + far).map(member);
        let mut harness = Harness::new(built(PoolConfig::builder(policy).seed(seed)), members);
        let mut held = Vec::new();
        for turn in 0..near + far {
            let (grant, number) = harness.take(Request::new().key(turn as u64));
            prop_assert_eq!(number >= near, turn >= near);
            held.push((grant, number));
        }
        // The nearer tier serves again once it is free, and the farther one once it is disabled.
        let farther = held.split_off(near);
        for (grant, _) in held.into_iter().chain(farther) {
            harness.release(grant);
        }
        for key in 0..20 {
            prop_assert!(harness.pick(Request::new().key(key)) < near);
        }
        for number in 0..near {
            harness.set_enabled(number, false);
        }
        for key in 0..20 {
            prop_assert!(harness.pick(Request::new().key(key)) >= near);
        }
        harness.set_enabled(0, true);
        for key in 0..20 {
            prop_assert_eq!(harness.pick(Request::new().key(key)), 0);
        }
    }

    #[test]
    fn a_session_moves_only_when_its_member_is_gone_or_a_nearer_tier_is_back(
        policy in any_policy(), near in 1_usize..5, session: u64, seed: u64,
    ) {
        let config = built(PoolConfig::builder(policy).seed(seed).affinity(count(4), nanos(1_000_000)));
        let members = (0..near + 2).map(|number| Member::new(()).tier(u8::from(number >= near)));
        let mut harness = Harness::new(config, members);
        let request = Request::new().session(session);
        let mut at = harness.pick(request);
        // As members of its tier are disabled one by one, the session moves and then stays.
        let mut gone = Vec::new();
        while at < near {
            for _ in 0..9 {
                prop_assert_eq!(harness.pick(request), at);
                harness.pick(Request::new());
            }
            harness.set_enabled(at, false);
            gone.push(at);
            let next = harness.pick(request);
            prop_assert!(!gone.contains(&next));
            at = next;
        }
        prop_assert_eq!(gone.len(), near);
        prop_assert_eq!(harness.pick(request), at);
        let back = gone[0];
        harness.set_enabled(back, true);
        for _ in 0..9 {
            prop_assert_eq!(harness.pick(request), back);
        }
    }

    #[test]
    fn keys_map_to_the_same_members_whatever_the_order_of_adding(
        policy in prop::sample::select(vec![
            Policy::RENDEZVOUS, Policy::RING, maglev(),
        ]),
        order in Just((0..9_usize).collect::<Vec<_>>()).prop_shuffle(),
        weights in prop::collection::vec(1_u16..4, 9),
        keys in prop::collection::vec(any::<u64>(), 1..20),
        seed: u64,
    ) {
        same_members(policy, &order, &weights, &keys, seed);
    }

    #[test]
    fn requests_between_two_polls_fill_the_shortest_queues_evenly(
        depths in prop::collection::vec(0_u32..40, 1..12), requests in 0_usize..150,
    ) {
        let mut harness = Harness::new(PoolConfig::new(Policy::LeastQueue), default_members(depths.len()));
        for (number, depth) in depths.iter().enumerate() {
            let (now, member) = (harness.now(), harness.members[number]);
            harness.pool.observe_depth(now, member, *depth).expect("the member is in the pool");
        }
        let mut queues = depths.clone();
        for _ in 0..requests {
            let (_, number) = harness.take(Request::new());
            let shortest = queues.iter().min();
            prop_assert_eq!(Some(&queues[number]), shortest);
            queues[number] += 1;
        }
    }

    #[test]
    fn higher_priorities_go_first_and_flows_take_turns(
        lines in prop::collection::vec((0_u8..3, 0_u64..4), 1..60),
    ) {
        let one = Member::new(()).max_leases(count(1));
        let mut harness = Harness::new(PoolConfig::new(Policy::Fifo), [one]);
        let (mut held, _) = harness.take(Request::new());
        let mut waiting = BTreeMap::new();
        let mut left: BTreeMap<(u8, u64), u32> = BTreeMap::new();
        for (priority, flow) in lines {
            let waiter = harness.wait(Request::new().priority(priority).flow(flow));
            waiting.insert(waiter, (priority, flow));
            *left.entry((priority, flow)).or_default() += 1;
        }
        let mut served: BTreeMap<(u8, u64), u32> = BTreeMap::new();
        while !left.is_empty() {
            harness.release(held);
            let (waiter, grant) = harness.granted().expect("a request waits");
            held = grant;
            let (priority, flow) = waiting[&waiter];
            prop_assert_eq!(left.first_key_value().map(|((first, _), _)| *first), Some(priority));
            *served.entry((priority, flow)).or_default() += 1;
            let of_flow = left.get_mut(&(priority, flow)).expect("the request waited");
            *of_flow -= 1;
            if *of_flow == 0 {
                left.remove(&(priority, flow));
            }
            // Every flow that still waits at this priority has had at most one turn less.
            let turns = served[&(priority, flow)];
            for other in left.range((priority, 0)..=(priority, u64::MAX)) {
                let turns_of_other = served.get(other.0).copied().unwrap_or(0);
                prop_assert!(turns <= turns_of_other + 1);
            }
        }
    }

    #[test]
    fn round_robin_and_fifo_keep_members_within_one_call_of_each_other(
        longest_idle: bool, members in 1_usize..20, picks in 1_usize..200,
        others in prop::collection::vec(any::<bool>(), 200),
    ) {
        let policy = if longest_idle { Policy::Fifo } else { Policy::RoundRobin };
        let mut harness = Harness::new(PoolConfig::new(policy), default_members(members));
        let mut calls = vec![0_u64; members];
        for second_class in others.into_iter().take(picks) {
            // Two lanes, so that each sees the leases of the other.
            let class = u32::from(second_class && longest_idle);
            calls[harness.pick(Request::new().class(class))] += 1;
            let (least, most) = (calls.iter().min(), calls.iter().max());
            prop_assert!(most <= least.map(|least| least + 1).as_ref(), "{:?}", calls);
        }
    }

    #[test]
    fn weighted_round_robin_stays_within_one_call_of_the_exact_share(
        weights in prop::collection::vec(1_u16..30, 1..12), picks in 1_u64..300,
    ) {
        let members = weights.iter().map(|weight| Member::new(()).weight(*weight));
        let mut harness = Harness::new(PoolConfig::new(Policy::WeightedRoundRobin), members);
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut calls = vec![0_u64; weights.len()];
        for prefix in 1..=picks {
            calls[harness.pick(Request::new())] += 1;
            for (calls, weight) in calls.iter().zip(&weights) {
                let deviation = (calls * total).abs_diff(prefix * u64::from(*weight));
                prop_assert!(deviation < total, "{} of {} at {}", calls, weight, prefix);
            }
        }
    }
}

fn next_probe(harness: &mut Harness) -> Option<(usize, ProbeId)> {
    loop {
        if let Event::Probe { member, probe } = harness.pool.poll_event()? {
            let number = harness.members.iter().position(|one| *one == member);
            return Some((number.expect("the member was added"), probe));
        }
    }
}

/// Asserts that two pools whose members were added in different orders serve keys alike.
fn same_members(policy: Policy, order: &[usize], weights: &[u16], keys: &[u64], seed: u64) {
    let build = |order: &[usize], seed: u64| {
        let mut pool = Pool::new(built(PoolConfig::builder(policy).seed(seed)));
        for number in order {
            let name = format!("http://10.0.0.{number}:8000");
            let member = Member::new(*number).name(&name).weight(weights[*number]);
            pool.add(Tick::ZERO, member).expect("there is room");
        }
        pool
    };
    let in_order: Vec<usize> = (0..order.len()).collect();
    let (mut one, mut other) = (build(&in_order, 0), build(order, seed));
    for key in keys {
        let mut chosen = Vec::new();
        for pool in [&mut one, &mut other] {
            let Ok(Acquired::Granted(grant)) = pool.acquire(Tick::ZERO, Request::new().key(*key))
            else {
                panic!("all members are free");
            };
            chosen.push(*pool.payload(grant.member).expect("the member is leased"));
            pool.release(Tick::ZERO, grant.lease, Outcome::Ok)
                .expect("the lease is held");
        }
        assert_eq!(chosen[0], chosen[1], "{key}");
    }
}

#[test]
fn a_flow_of_ten_thousand_requests_does_not_starve_a_flow_of_ten() {
    let members = (0..3).map(|_| Member::new(()).max_leases(count(1)));
    let mut harness = Harness::new(PoolConfig::new(Policy::Fifo), members);
    let mut held: Vec<_> = (0..3)
        .map(|_| harness.take(Request::new().flow(1)).0)
        .collect();
    for _ in 0..10_000 {
        harness.wait(Request::new().flow(1));
    }
    let small: Vec<_> = (0..10)
        .map(|_| harness.wait(Request::new().flow(2)))
        .collect();
    let mut served = 0;
    for grants in 1..=20 {
        harness.now += 1;
        harness.release(held.remove(0));
        let (waiter, grant) = harness.granted().expect("a request waits");
        served += usize::from(small.contains(&waiter));
        held.push(grant);
        assert!(2 * served + 1 >= grants, "{served} of {grants}");
    }
    assert_eq!(served, 10);
}

#[test]
fn a_breaker_opened_by_a_probe_timeout_is_reported() {
    let breaker = BreakerConfig::builder(nanos(10), nanos(100))
        .consecutive_failures(count(1))
        .probe_timeout(nanos(5));
    let breaker = breaker.build().expect("in range");
    let config = built(PoolConfig::builder(Policy::Fifo).breaker(breaker));
    let mut harness = Harness::new(config, default_members(1));
    let reported = |harness: &mut Harness| match harness.pool.poll_event() {
        Some(Event::Changed { change, .. }) => Some(change),
        _ => None,
    };
    let (grant, _) = harness.take(Request::new());
    let failed = harness.pool.release(tick(0), grant.lease, Outcome::Failed);
    assert_eq!(failed, Ok(()));
    let until = tick(10);
    assert_eq!(
        reported(&mut harness),
        Some(HealthChange::BreakerOpen { until })
    );
    harness.now = 10;
    harness.take(Request::new());
    assert_eq!(reported(&mut harness), Some(HealthChange::BreakerHalfOpen));
    harness.pool.handle_timeout(tick(15));
    let until = tick(35);
    assert_eq!(
        reported(&mut harness),
        Some(HealthChange::BreakerOpen { until })
    );
}

fn built(builder: PoolConfigBuilder) -> PoolConfig {
    builder.build().expect("the settings are in range")
}
