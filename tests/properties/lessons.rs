//! What others' pools have got wrong, as properties of the whole one.

use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::balance::{LoadFactor, Policy, TableSize};
use leasehold_core::health::BreakerConfig;
use leasehold_core::health::{HealthConfig, PanicThreshold, SlowStartConfig};
use leasehold_core::pool::{
    Acquired, Event, Grant, HealthChange, Member, MemberId, Outcome, Pool, PoolConfig, ProbeId,
    ProbeResult, Request, WaiterId,
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
    NonZeroU32::new(count).expect("it is above zero")
}

/// A pool whose members carry their number, and what is asked of it at one time after another.
struct Bench {
    pool: Pool<usize>,
    members: Vec<MemberId>,
    now: u64,
}

impl Bench {
    fn new(config: PoolConfig, members: impl IntoIterator<Item = Member<()>>) -> Self {
        let mut bench = Self {
            pool: Pool::new(config),
            members: Vec::new(),
            now: 0,
        };
        for member in members {
            bench.add(member);
        }
        bench
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
        *self.pool.payload(grant.member).expect("it is leased")
    }

    fn ask(&mut self, request: Request) -> Acquired {
        let now = self.now();
        self.pool.acquire(now, request).expect("it may wait")
    }

    /// A lease at once, which a member has for it.
    fn take(&mut self, request: Request) -> (Grant, usize) {
        match self.ask(request) {
            Acquired::Granted(grant) => (grant, self.number(grant)),
            Acquired::Waiting(_) => panic!("nobody is free"),
        }
    }

    fn wait(&mut self, request: Request) -> WaiterId {
        match self.ask(request) {
            Acquired::Waiting(waiter) => waiter,
            Acquired::Granted(_) => panic!("somebody is free"),
        }
    }

    fn give_back(&mut self, grant: Grant) {
        let now = self.now();
        let released = self.pool.release(now, grant.lease, Outcome::Ok);
        released.expect("it is held");
    }

    /// Takes a lease and gives it back.
    fn pick(&mut self, request: Request) -> usize {
        let (grant, number) = self.take(request);
        self.now += 1;
        self.give_back(grant);
        number
    }

    fn picks(&mut self, times: usize) -> Vec<u64> {
        let mut calls = vec![0; self.members.len()];
        for _ in 0..times {
            calls[self.pick(Request::new())] += 1;
        }
        calls
    }

    fn set_weight(&mut self, number: usize, weight: u16) {
        let (now, member) = (self.now(), self.members[number]);
        self.pool.set_weight(now, member, weight).expect("it is in");
    }

    fn serve(&mut self, number: usize, serves: bool) {
        let (now, member) = (self.now(), self.members[number]);
        let changed = if serves {
            self.pool.enable(now, member)
        } else {
            self.pool.disable(now, member)
        };
        changed.expect("it is in");
    }

    fn granted(&mut self) -> Option<(WaiterId, Grant)> {
        loop {
            if let Event::Granted { waiter, grant } = self.pool.poll_event()? {
                return Some((waiter, grant));
            }
        }
    }
}

fn some(members: usize) -> impl Iterator<Item = Member<()>> {
    (0..members).map(|_| Member::new(()))
}

/// Maglev with a table that is quickly filled.
fn maglev() -> Policy {
    Policy::Maglev {
        table: TableSize::new(251).expect("it is a prime"),
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

/// How a member goes away for a while.
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
    fn who_flaps_leaves_the_others_their_even_shares(
        members in 3_usize..10,
        every in 1_usize..31,
        weighted: bool,
        absence in prop::sample::select(vec![
            Absence::Disabled, Absence::Weightless, Absence::Removed, Absence::Throttled,
        ]),
    ) {
        let policy = if weighted { Policy::WeightedRoundRobin } else { Policy::RoundRobin };
        let mut bench = Bench::new(PoolConfig::new(policy), some(members));
        let mut calls = vec![0_u64; members];
        let mut there = true;
        for turn in 0..60 * members {
            if turn.is_multiple_of(every) {
                let (now, flapping) = (bench.now(), bench.members[0]);
                match absence {
                    Absence::Disabled => bench.serve(0, !there),
                    Absence::Weightless => bench.set_weight(0, u16::from(!there)),
                    Absence::Removed if there => {
                        let gone = bench.pool.remove(now, flapping);
                        prop_assert_eq!(gone, Ok(Some(0)));
                    }
                    Absence::Removed => {
                        let added = bench.pool.add(now, Member::new(0));
                        bench.members[0] = added.expect("there is room");
                    }
                    Absence::Throttled if there => {
                        let (grant, _) = bench.take(Request::new().pin(flapping));
                        let until = tick(bench.now + every as u64);
                        let outcome = Outcome::Throttled { until };
                        let released = bench.pool.release(now, grant.lease, outcome);
                        prop_assert_eq!(released, Ok(()));
                    }
                    // It is back by itself.
                    Absence::Throttled => {}
                }
                there = !there;
            }
            calls[bench.pick(Request::new())] += 1;
        }
        let (least, most) = (calls[1..].iter().min(), calls[1..].iter().max());
        let (least, most) = (*least.expect("there are others"), *most.expect("there are others"));
        prop_assert!(10 * most <= 11 * least, "{:?}", calls);
    }

    #[test]
    fn a_slow_start_starves_neither_who_starts_nor_the_others(
        weights in prop::collection::vec(1_u16..6, 1..8),
        newcomer in 1_u16..6,
        steps in 1_u32..12,
    ) {
        let ramp = 10_000;
        let config = SlowStartConfig::new(nanos(ramp), count(steps)).expect("it has a length");
        let config = PoolConfig::builder(Policy::WeightedRoundRobin).slow_start(config).build().unwrap();
        let members = weights.iter().map(|weight| Member::new(()).weight(*weight));
        let mut bench = Bench::new(config, members);
        bench.now = ramp;
        bench.pool.handle_timeout(tick(ramp));
        bench.add(Member::new(()).weight(newcomer));
        let mut idle = vec![0_u64; bench.members.len()];
        // Twice as long as it takes in turn at the lowest step, as weights change under way.
        let total = u64::from(weights.iter().sum::<u16>() + newcomer);
        let bound = 2 * (total * u64::from(steps) + 1);
        for _ in 0..ramp {
            let chosen = bench.pick(Request::new());
            for (number, idle) in idle.iter_mut().enumerate() {
                *idle = if number == chosen { 0 } else { *idle + 1 };
                prop_assert!(*idle <= bound, "{} of {:?}", number, weights);
            }
        }
    }

    #[test]
    fn a_member_without_weight_drains(policy in any_policy(), members in 2_usize..8, seed: u64) {
        let mut bench = Bench::new(seeded(policy, seed), some(members));
        let held: Vec<_> = (0..4 * members).map(|_| bench.take(Request::new())).collect();
        bench.set_weight(0, 0);
        for (key, (grant, _)) in (0..).zip(held) {
            bench.now += 1;
            bench.give_back(grant);
            prop_assert_ne!(bench.pick(Request::new().key(key)), 0);
        }
        let stats = bench.pool.stats();
        prop_assert!(stats.members.iter().all(|member| member.in_flight == 0));
        for other in 1..members {
            bench.serve(other, false);
        }
        let waiter = bench.wait(Request::new());
        bench.set_weight(0, 1);
        let granted = bench.granted().map(|(waiter, grant)| (waiter, bench.number(grant)));
        prop_assert_eq!(granted, Some((waiter, 0)));
    }

    #[test]
    fn health_counts_until_too_few_are_healthy(
        members in 1_usize..12, down in 0_usize..12, permille in 0_u16..1_001,
    ) {
        let down = down.min(members);
        let health = HealthConfig::new(nanos(100), nanos(50)).expect("it is in range");
        let health = health.fall(count(1)).rise(count(1));
        let threshold = PanicThreshold::new(permille).expect("it is in range");
        let config = PoolConfig::builder(Policy::Fifo).health(health).panic_threshold(threshold).build().unwrap();
        let mut bench = Bench::new(config, some(members));
        let mut told = vec![false; members];
        while told.iter().any(|told| !told) {
            let due = bench.pool.poll_timeout().expect("probes are due");
            bench.now = due.as_nanos();
            bench.pool.handle_timeout(due);
            while let Some((number, probe)) = next_probe(&mut bench) {
                told[number] = true;
                let up = ProbeResult::Up { depth: None, latency: None };
                let answer = if number < down { ProbeResult::Down } else { up };
                prop_assert_eq!(bench.pool.handle_probe(due, probe, answer), Ok(()));
            }
        }
        let healthy = members - down;
        let panics = healthy * 1_000 < members * usize::from(permille);
        if healthy == 0 && !panics {
            bench.wait(Request::new());
        } else {
            let calls = bench.picks(members);
            let expected = |number: usize| panics || number >= down;
            for (number, calls) in calls.iter().enumerate() {
                prop_assert_eq!(*calls > 0, expected(number), "{} of {}", number, members);
            }
        }
    }

    #[test]
    fn a_farther_tier_serves_what_the_nearer_cant_and_no_more(
        policy in any_policy(), near in 1_usize..5, far in 1_usize..5, seed: u64,
    ) {
        let member = |number: usize| {
            Member::new(()).max_leases(count(1)).tier(u8::from(number >= near))
        };
        let members = (0..near + far).map(member);
        let mut bench = Bench::new(seeded(policy, seed), members);
        let mut held = Vec::new();
        for turn in 0..near + far {
            let (grant, number) = bench.take(Request::new().key(turn as u64));
            prop_assert_eq!(number >= near, turn >= near);
            held.push((grant, number));
        }
        // Those nearer are free again, and serve; then they are stopped, and the others do.
        let farther = held.split_off(near);
        for (grant, _) in held.into_iter().chain(farther) {
            bench.give_back(grant);
        }
        for key in 0..20 {
            prop_assert!(bench.pick(Request::new().key(key)) < near);
        }
        for number in 0..near {
            bench.serve(number, false);
        }
        for key in 0..20 {
            prop_assert!(bench.pick(Request::new().key(key)) >= near);
        }
        bench.serve(0, true);
        for key in 0..20 {
            prop_assert_eq!(bench.pick(Request::new().key(key)), 0);
        }
    }

    #[test]
    fn a_session_stays_and_moves_when_its_member_goes_and_back_to_the_nearer_tier(
        policy in any_policy(), near in 1_usize..5, session: u64, seed: u64,
    ) {
        let config = PoolConfig::builder(policy).seed(seed).affinity(count(4), nanos(1_000_000)).build();
        let members = (0..near + 2).map(|number| Member::new(()).tier(u8::from(number >= near)));
        let mut bench = Bench::new(config.expect("it has a time to live"), members);
        let request = Request::new().session(session);
        let mut at = bench.pick(request);
        // As those of its tier go, one after the other, it moves and then stays.
        let mut gone = Vec::new();
        while at < near {
            for _ in 0..9 {
                prop_assert_eq!(bench.pick(request), at);
                bench.pick(Request::new());
            }
            bench.serve(at, false);
            gone.push(at);
            let next = bench.pick(request);
            prop_assert!(!gone.contains(&next));
            at = next;
        }
        prop_assert_eq!(gone.len(), near);
        prop_assert_eq!(bench.pick(request), at);
        let back = gone[0];
        bench.serve(back, true);
        for _ in 0..9 {
            prop_assert_eq!(bench.pick(request), back);
        }
    }

    #[test]
    fn keys_keep_their_members_in_whatever_order_these_were_added(
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
        let mut bench = Bench::new(PoolConfig::new(Policy::LeastQueue), some(depths.len()));
        for (number, depth) in depths.iter().enumerate() {
            let (now, member) = (bench.now(), bench.members[number]);
            bench.pool.observe_depth(now, member, *depth).expect("it is in");
        }
        let mut queues = depths.clone();
        for _ in 0..requests {
            let (_, number) = bench.take(Request::new());
            let shortest = queues.iter().min();
            prop_assert_eq!(Some(&queues[number]), shortest);
            queues[number] += 1;
        }
    }

    #[test]
    fn urgent_requests_go_first_and_flows_take_turns(
        lines in prop::collection::vec((0_u8..3, 0_u64..4), 1..60),
    ) {
        let one = Member::new(()).max_leases(count(1));
        let mut bench = Bench::new(PoolConfig::new(Policy::Fifo), [one]);
        let (mut held, _) = bench.take(Request::new());
        let mut waiting = BTreeMap::new();
        let mut left: BTreeMap<(u8, u64), u32> = BTreeMap::new();
        for (priority, flow) in lines {
            let waiter = bench.wait(Request::new().priority(priority).flow(flow));
            waiting.insert(waiter, (priority, flow));
            *left.entry((priority, flow)).or_default() += 1;
        }
        let mut served: BTreeMap<(u8, u64), u32> = BTreeMap::new();
        while !left.is_empty() {
            bench.give_back(held);
            let (waiter, grant) = bench.granted().expect("somebody waits");
            held = grant;
            let (priority, flow) = waiting[&waiter];
            prop_assert_eq!(left.first_key_value().map(|((first, _), _)| *first), Some(priority));
            *served.entry((priority, flow)).or_default() += 1;
            let of_flow = left.get_mut(&(priority, flow)).expect("it waits");
            *of_flow -= 1;
            if *of_flow == 0 {
                left.remove(&(priority, flow));
            }
            // All that came at the same time and wait still have had as many turns, or one less.
            let turns = served[&(priority, flow)];
            for other in left.range((priority, 0)..=(priority, u64::MAX)) {
                let turns_of_other = served.get(other.0).copied().unwrap_or(0);
                prop_assert!(turns <= turns_of_other + 1);
            }
        }
    }

    #[test]
    fn whoever_takes_turns_is_never_two_calls_ahead(
        longest_idle: bool, members in 1_usize..20, picks in 1_usize..200,
        others in prop::collection::vec(any::<bool>(), 200),
    ) {
        let policy = if longest_idle { Policy::Fifo } else { Policy::RoundRobin };
        let mut bench = Bench::new(PoolConfig::new(policy), some(members));
        let mut calls = vec![0_u64; members];
        for second_class in others.into_iter().take(picks) {
            // Requests of one lane and of one more, so that either sees what the other has taken.
            let class = u32::from(second_class && longest_idle);
            calls[bench.pick(Request::new().class(class))] += 1;
            let (least, most) = (calls.iter().min(), calls.iter().max());
            prop_assert!(most <= least.map(|least| least + 1).as_ref(), "{:?}", calls);
        }
    }

    #[test]
    fn weighted_turns_stay_within_one_of_the_exact_share(
        weights in prop::collection::vec(1_u16..30, 1..12), picks in 1_u64..300,
    ) {
        let members = weights.iter().map(|weight| Member::new(()).weight(*weight));
        let mut bench = Bench::new(PoolConfig::new(Policy::WeightedRoundRobin), members);
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut calls = vec![0_u64; weights.len()];
        for prefix in 1..=picks {
            calls[bench.pick(Request::new())] += 1;
            for (calls, weight) in calls.iter().zip(&weights) {
                let strays = (calls * total).abs_diff(prefix * u64::from(*weight));
                prop_assert!(strays < total, "{} of {} at {}", calls, weight, prefix);
            }
        }
    }
}

fn next_probe(bench: &mut Bench) -> Option<(usize, ProbeId)> {
    loop {
        if let Event::Probe { member, probe } = bench.pool.poll_event()? {
            let number = bench.members.iter().position(|one| *one == member);
            return Some((number.expect("it was added"), probe));
        }
    }
}

/// Holds two pools against each other whose members were added in order and in another.
fn same_members(policy: Policy, order: &[usize], weights: &[u16], keys: &[u64], seed: u64) {
    let build = |order: &[usize], seed: u64| {
        let mut pool = Pool::new(seeded(policy, seed));
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
                panic!("all are free");
            };
            chosen.push(*pool.payload(grant.member).expect("it is leased"));
            pool.release(Tick::ZERO, grant.lease, Outcome::Ok)
                .expect("it is held");
        }
        assert_eq!(chosen[0], chosen[1], "{key}");
    }
}

#[test]
fn a_job_of_ten_thousand_tasks_doesnt_starve_one_of_ten() {
    let members = (0..3).map(|_| Member::new(()).max_leases(count(1)));
    let mut bench = Bench::new(PoolConfig::new(Policy::Fifo), members);
    let mut held: Vec<_> = (0..3)
        .map(|_| bench.take(Request::new().flow(1)).0)
        .collect();
    for _ in 0..10_000 {
        bench.wait(Request::new().flow(1));
    }
    let small: Vec<_> = (0..10)
        .map(|_| bench.wait(Request::new().flow(2)))
        .collect();
    let mut served = 0;
    for grants in 1..=20 {
        bench.now += 1;
        bench.give_back(held.remove(0));
        let (waiter, grant) = bench.granted().expect("somebody waits");
        served += usize::from(small.contains(&waiter));
        held.push(grant);
        assert!(2 * served + 1 >= grants, "{served} of {grants}");
    }
    assert_eq!(served, 10);
}

#[test]
fn a_breaker_that_a_silent_probe_opens_is_told_of() {
    let breaker = BreakerConfig::new(nanos(10), nanos(100)).expect("it is in range");
    let breaker = breaker.consecutive_failures(count(1));
    let breaker = breaker.probe_timeout(nanos(5)).expect("it is above zero");
    let config = PoolConfig::builder(Policy::Fifo)
        .breaker(breaker)
        .build()
        .unwrap();
    let mut bench = Bench::new(config, some(1));
    let told = |bench: &mut Bench| match bench.pool.poll_event() {
        Some(Event::Changed { change, .. }) => Some(change),
        _ => None,
    };
    let (grant, _) = bench.take(Request::new());
    let failed = bench.pool.release(tick(0), grant.lease, Outcome::Failed);
    assert_eq!(failed, Ok(()));
    let until = tick(10);
    assert_eq!(told(&mut bench), Some(HealthChange::BreakerOpen { until }));
    bench.now = 10;
    bench.take(Request::new());
    bench.pool.handle_timeout(tick(15));
    let until = tick(35);
    assert_eq!(told(&mut bench), Some(HealthChange::BreakerOpen { until }));
}

fn seeded(policy: Policy, seed: u64) -> PoolConfig {
    let builder = PoolConfig::builder(policy).seed(seed);
    builder.build().expect("a seed is never wrong")
}
