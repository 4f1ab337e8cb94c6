//! Properties of plans, held to a judge of their own: plain loops over the schedule, with no code of the pool.

use crate::{
    Call, CallTime, Capacity, Change, Fate, Figures, NarrowStart, Pace, PlanLimit, PlannedMember,
    Prediction, Schedule, Tokens, Workload, simulate,
};
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::balance::Policy;
use leasehold_core::time::Tick;
use proptest::prelude::*;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn workers(count: u32) -> Pace {
    Pace::Workers {
        count: NonZeroU32::new(count).unwrap(),
        start: None,
    }
}

fn keys(count: usize, limits: &str) -> Capacity {
    let members = (0..count).map(|number| {
        let mut member = PlannedMember::new(format!("key {number}"));
        member.limits = (!limits.is_empty()).then(|| limits.parse().unwrap());
        member
    });
    Capacity::new(Policy::Fifo, members.collect())
}

fn calls(count: u64, pace: Pace, time: core::ops::RangeInclusive<Duration>) -> Workload {
    let call = Call {
        tokens: Tokens {
            prompt: 60,
            completion: 40,
        },
        reserved: 130,
        ..Call::default()
    };
    let time = CallTime::Between(time);
    Workload::alike(vec!["a".to_owned()], count, call, pace, time).unwrap()
}

/// The member, start and end of each served call.
fn served(schedule: &Schedule) -> Vec<(u32, Tick, Tick)> {
    let fates = schedule.calls.iter().map(|call| call.fate);
    let served = fates.filter_map(|fate| match fate {
        Fate::Served {
            member,
            granted,
            ended,
        } => Some((member, granted, ended)),
        Fate::Refused | Fate::NeverFits | Fate::NeverServed => None,
    });
    served.collect()
}

/// The most ticks of one member within any span of this length, the end left out. O(n^2).
fn most_within(marks: &[(u32, Tick)], window: Duration) -> usize {
    let counts = marks.iter().map(|(member, from)| {
        let until = from.saturating_add(window);
        let same = marks.iter().filter(|(other, _)| other == member);
        same.filter(|(_, at)| at >= from && *at < until).count()
    });
    counts.max().unwrap_or(0)
}

/// The most calls at once, of one member or of all.
fn most_at_once(calls: &[(u32, Tick, Tick)], of_one: bool) -> usize {
    let counts = calls.iter().map(|(member, start, _)| {
        let same = calls
            .iter()
            .filter(|(other, ..)| !of_one || other == member);
        same.filter(|(_, from, to)| from <= start && start < to)
            .count()
    });
    counts.max().unwrap_or(0)
}

fn policies() -> impl Strategy<Value = Policy> {
    proptest::sample::select(Policy::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn no_limit_is_exceeded_and_no_call_is_lost(
        count in 1_u64..120,
        members in 1_usize..6,
        limit in 1_usize..5,
        concurrent in 1_usize..4,
        pool_size in 1_u32..12,
        longest in 1_u64..900,
        policy in policies(),
        seed: u64,
    ) {
        let mut capacity = keys(members, &format!("{limit}/500ms, {concurrent} concurrent"));
        capacity.policy = policy;
        let workload = calls(count, workers(pool_size), ms(1)..=ms(longest)).with_seed(seed);
        let schedule = simulate(&capacity, &workload).unwrap();
        let served = served(&schedule);
        prop_assert_eq!(served.len() as u64, count);
        let starts: Vec<_> = served.iter().map(|(member, from, _)| (*member, *from)).collect();
        let ends: Vec<_> = served.iter().map(|(member, _, to)| (*member, *to)).collect();
        prop_assert!(most_within(&starts, ms(500)) <= limit);
        prop_assert!(most_within(&ends, ms(500)) <= limit);
        prop_assert!(most_at_once(&served, true) <= concurrent);
        prop_assert!(most_at_once(&served, false) <= pool_size as usize);
        prop_assert_eq!(&schedule, &simulate(&capacity, &workload).unwrap());
    }

    #[test]
    fn more_keys_never_finish_later(
        count in 1_u64..100,
        members in 1_usize..5,
        more in 1_u32..4,
        limit in 1_u32..5,
        time in 1_u64..900,
        pool_size in 1_u32..12,
    ) {
        let capacity = keys(members, &format!("{limit}/500ms"));
        let workload = calls(count, workers(pool_size), ms(time)..=ms(time));
        let changes = vec![Change::MoreMembers(NonZeroU32::new(more).unwrap())];
        let prediction = Prediction::new(&capacity, &workload, changes, None).unwrap();
        let with_more = &prediction.changes[0].1;
        prop_assert!(with_more.finish <= prediction.figures.finish);
        prop_assert_eq!(with_more.served, count);
    }

    #[test]
    fn calls_that_come_by_themselves_are_served_or_refused_in_time(
        count in 1_u64..120,
        limit in 1_usize..5,
        span in 1_u64..3_000,
        max_wait in 1_u64..1_500,
        max_waiters in 1_u32..20,
    ) {
        let mut capacity = keys(2, &format!("{limit}/500ms from grant"));
        (capacity.max_wait, capacity.max_waiters) = (Some(ms(max_wait)), max_waiters);
        let workload = calls(count, workers(1), ms(20)..=ms(20)).spread_over(ms(span));
        let schedule = simulate(&capacity, &workload).unwrap();
        let figures = Figures::of(&schedule, &workload, &capacity, None);
        prop_assert_eq!(figures.served + figures.refused, count);
        prop_assert!(figures.waits.max <= ms(max_wait));
        let starts: Vec<_> = served(&schedule).iter().map(|(member, from, _)| (*member, *from)).collect();
        prop_assert!(most_within(&starts, ms(500)) <= limit);
    }
}

#[test]
fn tokens_are_reserved_before_a_call_and_settled_after_it() {
    // 130 are reserved, so that one call at a time fits; 100 are used.
    let capacity = keys(1, "200 tokens/1s");
    let workload = calls(5, workers(4), ms(10)..=ms(10));
    let schedule = simulate(&capacity, &workload).unwrap();
    assert_eq!(most_at_once(&served(&schedule), false), 1);
    let figures = Figures::of(
        &schedule,
        &workload,
        &capacity,
        Some("1,2".parse().unwrap()),
    );
    assert_eq!(figures.tokens.total(), 500);
    let cost = figures.cost.unwrap();
    assert!((cost - (300.0 + 2.0 * 200.0) / 1e6).abs() < 1e-12, "{cost}");
}

#[test]
fn the_limit_that_holds_a_plan_back_is_named() {
    let binding = |limits: &str, pace: Pace| {
        let workload = calls(40, pace, ms(100)..=ms(100));
        let prediction = Prediction::new(&keys(2, limits), &workload, Vec::new(), None).unwrap();
        prediction.binding().map(|(limit, _)| limit.to_string())
    };
    let name = |text: &str| Some(text.to_owned());
    let each = " of each key or server";
    assert_eq!(
        binding("3/10s, 100 concurrent", workers(20)),
        name(&format!("3/10s{each}"))
    );
    assert_eq!(
        binding("3000/10s, 1 concurrent", workers(20)),
        name(&format!("1 concurrent{each}"))
    );
    assert_eq!(
        binding("3000/10s", workers(1)),
        name("1 calls at once in all")
    );
    // Two that allow the same, so that neither is a gain without the other.
    let mut capacity = keys(2, "3/10s from grant");
    capacity.limits = Some("6/10s from grant".parse().unwrap());
    let workload = calls(40, workers(20), ms(100)..=ms(100));
    let prediction = Prediction::new(&capacity, &workload, Vec::new(), None).unwrap();
    assert_eq!(prediction.binding(), None);
    assert_eq!(prediction.held_back(), "no single limit");
}

#[test]
fn limits_of_a_model_hold_its_calls_alone() {
    let mut capacity = keys(1, "100/1s");
    capacity.model_limits = vec![("b".to_owned(), "1/1s from grant".parse().unwrap())];
    let models = vec!["a".to_owned(), "b".to_owned()];
    let time = CallTime::Between(ms(1)..=ms(1));
    let workload = Workload::alike(models, 8, Call::default(), workers(8), time).unwrap();
    let schedule = simulate(&capacity, &workload).unwrap();
    let starts = |model: usize| {
        let all = served(&schedule).into_iter().enumerate();
        let own = all.filter(move |(number, _)| number % 2 == model);
        own.map(|(_, (_, start, _))| start.since(Tick::ZERO))
            .collect::<Vec<_>>()
    };
    assert_eq!(starts(0), [ms(0); 4]);
    assert_eq!(starts(1), [0, 1_000, 2_000, 3_000].map(ms));
    let all = PlanLimit::all(&capacity, &workload);
    assert!(
        all.iter().any(|it| it.to_string() == "b=1/1s from grant"),
        "{all:?}"
    );
}

#[test]
fn keys_of_a_group_share_their_limits() {
    let mut capacity = keys(3, "2/1s from grant");
    for member in &mut capacity.members[..2] {
        member.group = Some("account".to_owned());
    }
    let workload = calls(8, workers(8), ms(1)..=ms(1));
    let schedule = simulate(&capacity, &workload).unwrap();
    let figures = Figures::of(&schedule, &workload, &capacity, None);
    // Two of the group and two of the third at once, and the same again after a second.
    assert_eq!(figures.finish, ms(1_001));
    assert_eq!(figures.per_member[2], 4);
}

#[test]
fn a_batch_begins_narrow() {
    let pace = Pace::Workers {
        count: NonZeroU32::new(8).unwrap(),
        start: Some(NarrowStart::BATCH),
    };
    let workload = calls(12, pace, ms(100)..=ms(100));
    let schedule = simulate(&keys(4, ""), &workload).unwrap();
    let at_start = served(&schedule)
        .iter()
        .filter(|(_, from, _)| *from == Tick::ZERO)
        .count();
    assert_eq!(at_start, 4);
    let last = served(&schedule).iter().map(|it| it.2).max();
    assert_eq!(last, Some(Tick::ZERO.saturating_add(ms(200))));
    // Slow first answers hold up the others for two seconds.
    let workload = calls(8, workload.pace().clone(), ms(5_000)..=ms(5_000));
    let schedule = simulate(&keys(4, ""), &workload).unwrap();
    let starts = served(&schedule)
        .into_iter()
        .map(|it| it.1.since(Tick::ZERO));
    assert_eq!(starts.filter(|start| *start == ms(2_000)).count(), 4);
}

#[test]
fn calls_that_can_never_be_served_are_told_and_not_waited_for() {
    let mut capacity = keys(1, "");
    capacity.members[0].models = vec!["other".to_owned()];
    let workload = calls(3, workers(1), ms(1)..=ms(1));
    let error = simulate(&capacity, &workload).unwrap_err().to_string();
    assert!(error.contains("no member serves the model a"), "{error}");
    capacity.members[0].models.clear();
    capacity.members[0].weight = 0;
    let schedule = simulate(&capacity, &workload).unwrap();
    let figures = Figures::of(&schedule, &workload, &capacity, None);
    assert_eq!((figures.served, figures.never_served), (0, 3));
}

#[test]
fn a_call_has_the_same_rank_on_every_member() {
    let calls = [0.0, 0.5, 1.0].map(|rank| Call {
        rank,
        ..Call::default()
    });
    let times = vec![
        [10, 20, 30].map(ms).to_vec(),
        [100, 200, 300].map(ms).to_vec(),
    ];
    let time = CallTime::Measured(times);
    let workload = Workload::new(vec![String::new()], calls.to_vec(), workers(1), time).unwrap();
    let capacity = Capacity {
        policy: Policy::RoundRobin,
        ..keys(2, "")
    };
    let schedule = simulate(&capacity, &workload).unwrap();
    let spans = served(&schedule)
        .into_iter()
        .map(|(_, from, to)| to.since(from));
    assert_eq!(spans.collect::<Vec<_>>(), [10, 200, 30].map(ms));
}

#[test]
fn a_prediction_is_told_in_words_and_as_json() {
    let capacity = keys(2, "3/60s");
    let workload = calls(20, workers(4), ms(100)..=ms(100));
    let changes = Change::parse_all("policy=least_used,peak_ewma").unwrap();
    let prediction = Prediction::new(&capacity, &workload, changes, None).unwrap();
    let text = prediction.to_string();
    for part in [
        "20 served",
        "held back by   3/1min of each",
        "policy peak_ewma",
        "as planned",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let json = prediction.to_json(&capacity);
    assert_eq!(json["served"], 20);
    assert_eq!(json["compare"][1]["change"], "policy peak_ewma");
    assert_eq!(json["held_back_by"], "3/1min of each key or server");
    assert_eq!(json["per_member"]["key 0"], 10);
}

#[test]
fn a_wrong_change_says_what_to_write() {
    for (text, part) in [
        ("policy", "write keys=+1"),
        ("policy=fastest", "unknown policy; expected one of fifo"),
        ("keys=0", "whole number from 1"),
        ("keys=-1", "whole number from 1"),
        ("limiter=leaky", "is no limiter"),
        ("limit=3", "a limit is written like"),
        ("cost=1", "there is no cost to compare"),
    ] {
        let error = Change::parse_all(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    let shown = |text: &str| Change::parse_all(text).unwrap()[0].to_string();
    assert_eq!(
        shown("limiter=bucketed 6 from grant"),
        "limiter bucketed 6 from grant"
    );
    assert_eq!(shown("limiter=exact"), "limiter exact");
    assert_eq!(shown("keys=+1"), "1 more key or server");
}
