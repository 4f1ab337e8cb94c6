//! Properties of the limiters: oracle, worst case, exactness and delay.

use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::limit::{
    Anchor, BucketedWindow, Cost, FixedWindow, Gcra, Limit, LimitSet, Limiter, Pacing,
    SlidingCounter, SlidingLog, TokenBucket, Unit, Wait,
};
use leasehold_core::time::Tick;
use leasehold_tests::limits::{Case, Kind, Setup, run};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn tick(nanos: u64) -> Tick {
    Tick::from_nanos(nanos)
}

/// The most units that any schedule gets admitted between `start` and `end`.
///
/// Found by brute force: every admissible cost at every tick, from tick 0.
fn worst_of_all_schedules(limit: &Limiter, start: u64, end: u64) -> u64 {
    let mut states = BTreeMap::from([(format!("{limit:?}"), (limit.clone(), 0))]);
    for now in 0..end {
        for (before, total) in core::mem::take(&mut states).into_values() {
            for cost in 0..=before.available(tick(now)) {
                let mut after = before.clone();
                after.try_acquire(tick(now), cost).expect("it is available");
                let total = total + if now < start { 0 } else { u64::from(cost) };
                let (_, best) = states.entry(format!("{after:?}")).or_insert((after, total));
                *best = total.max(*best);
            }
        }
    }
    states
        .into_values()
        .map(|(_, total)| total)
        .max()
        .unwrap_or(0)
}

#[test]
fn the_stated_worst_case_is_reached_by_some_schedule_and_exceeded_by_none() {
    let kinds = [
        Kind::Log,
        Kind::Buckets,
        Kind::Counter,
        Kind::Fixed,
        Kind::Tokens,
        Kind::Gcra,
        Kind::Pacing,
    ];
    for kind in kinds {
        for (limit, width, buckets) in [
            (1, 1, 1),
            (1, 3, 2),
            (2, 1, 3),
            (2, 2, 2),
            (2, 3, 1),
            (3, 2, 1),
        ] {
            let setup = Setup {
                kind,
                limit,
                width,
                buckets,
                completion: false,
            };
            let (machine, window) = (setup.machine(), setup.window().as_nanos() as u64);
            for span in 1..=2 * window + 2 {
                // The start matters to aligned windows, and the units before it to all.
                let starts = window..2 * window + 2;
                let worst =
                    starts.map(|start| worst_of_all_schedules(&machine, start, start + span));
                let stated = machine.worst_case(Duration::from_nanos(span));
                assert_eq!(worst.max(), Some(stated), "{span} ticks of {setup:?}");
            }
        }
    }
}

const GOOD: &str = "the configuration is good";

/// The windows, at `limit` units in `window`.
fn windows(limit: u32, window: Duration) -> Vec<Limiter> {
    let limit = NonZeroU32::new(limit).expect(GOOD);
    let ten = NonZeroU32::MIN.saturating_add(9);
    vec![
        SlidingLog::new(limit, window, Anchor::Grant)
            .expect(GOOD)
            .into(),
        BucketedWindow::new(limit, window, ten, Anchor::Grant)
            .expect(GOOD)
            .into(),
        SlidingCounter::new(limit, window).expect(GOOD).into(),
        FixedWindow::new(limit, window).expect(GOOD).into(),
    ]
}

/// The algorithms whose state is a level, at `limit` units in `window`.
fn levels(limit: u32, window: Duration, burst: u32) -> Vec<Limiter> {
    let limit = NonZeroU32::new(limit).expect(GOOD);
    let burst = NonZeroU32::new(burst).expect(GOOD);
    vec![
        TokenBucket::new(limit, window, burst).expect(GOOD).into(),
        Gcra::new(limit, window, burst).expect(GOOD).into(),
        Pacing::new(limit, window).expect(GOOD).into(),
    ]
}

/// Changes rate and burst of a level.
fn set_level(limit: &mut Limiter, now: Tick, units: u32, window: Duration, burst: u32) {
    let units = NonZeroU32::new(units).expect(GOOD);
    let burst = NonZeroU32::new(burst).expect(GOOD);
    match limit {
        Limiter::TokenBucket(level) => level.set_limit(now, units, window, burst).expect(GOOD),
        Limiter::Gcra(level) => level.set_limit(now, units, window, burst).expect(GOOD),
        Limiter::Pacing(level) => level.set_limit(units, window).expect(GOOD),
        Limiter::SlidingLog(_)
        | Limiter::BucketedWindow(_)
        | Limiter::SlidingCounter(_)
        | Limiter::FixedWindow(_)
        | Limiter::Concurrency(_) => panic!("{limit:?} is no level"),
    }
}

#[test]
fn frequent_polling_does_not_make_a_limit_drift() {
    let minute = Duration::from_secs(60);
    let all = windows(1, minute).into_iter().chain(levels(1, minute, 1));
    // The coarser algorithms may delay a caller by a bucket or a window.
    for (mut limit, fewest) in all.zip([10, 9, 5, 10, 10, 10, 10]) {
        let admitted: Vec<_> = (0..600_000_000u64)
            .step_by(119)
            .map(|micros| tick(micros * 1_000))
            .filter(|now| limit.try_acquire(*now, 1).is_ok())
            .collect();
        assert!(
            (fewest..=10).contains(&admitted.len()),
            "{} by {limit:?}",
            admitted.len()
        );
    }
}

#[test]
fn a_cost_settled_at_a_tenth_is_charged_at_a_tenth() {
    let second = Duration::from_secs(1);
    for limit in windows(40, second)
        .into_iter()
        .chain(levels(40, second, 40))
    {
        let mut limits = LimitSet::new().with(Unit::Tokens, limit.clone());
        let cost = |tokens| Cost {
            requests: 0,
            tokens,
        };
        for call in 0..1_000 {
            let booked = limits
                .try_acquire(tick(call * 50_000_000), 0, cost(10))
                .unwrap_or_else(|wait| panic!("call {call}: {wait:?} by {limit:?}"));
            limits.settle(tick((call + 1) * 50_000_000), booked, cost(10), cost(1));
        }
    }
}

#[test]
fn an_inline_window_is_restored_only_with_its_own_number_of_buckets() {
    let limit = NonZeroU32::MIN;
    let window = BucketedWindow::<[u32; 4]>::inline(limit, Duration::from_nanos(9), Anchor::Grant);
    let mut window = window.expect(GOOD);
    window.try_acquire(tick(4), 1).expect("it is empty");
    let saved = serde_json::to_string(&window).expect("it can be saved");
    assert_eq!(serde_json::from_str(&saved).ok(), Some(window));
    assert!(serde_json::from_str::<BucketedWindow<[u32; 5]>>(&saved).is_err());
}

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn a_limit_agrees_with_its_oracle_and_keeps_its_promise(case: Case) {
        run(&case);
    }

    #[test]
    fn a_level_that_alternates_between_two_configurations_keeps_the_promise_of_one_of_them(
        // Bursts of one are left out: they lose fractions of a nanosecond, except while they owe.
        first in (1u32..6, 5u64..20, 2u32..6), second in (1u32..6, 5u64..20, 2u32..6),
        ops in prop::collection::vec((0u64..8, 1u32..5, prop::bool::weighted(0.2)), 1..60),
    ) {
        let of = |(limit, window, burst)| levels(limit, Duration::from_nanos(window), burst);
        for ((mut limit, one), other) in of(first).into_iter().zip(of(first)).zip(of(second)) {
            let (mut now, mut next, mut last) = (0, second, first);
            let mut admitted = Vec::new();
            for (pause, cost, change) in &ops {
                now += pause;
                if *change {
                    let (units, window, burst) = next;
                    set_level(&mut limit, tick(now), units, Duration::from_nanos(window), burst);
                    core::mem::swap(&mut next, &mut last);
                }
                if limit.try_acquire(tick(now), *cost).is_ok() {
                    admitted.push((now, u64::from(*cost)));
                }
            }
            for (index, (from, _)) in admitted.iter().enumerate() {
                let mut units = 0;
                for (to, cost) in &admitted[index..] {
                    units += cost;
                    let span = Duration::from_nanos(to - from + 1);
                    let stated = one.worst_case(span).max(other.worst_case(span));
                    prop_assert!(units <= stated, "{} of {} from {} to {} by {:?}", units, stated, from, to, limit);
                }
            }
        }
    }

    #[test]
    fn buckets_delay_a_caller_by_at_most_one_bucket(
        limit in 1u32..6, width in 1u64..10, buckets in 1u32..7,
        gaps in prop::collection::vec(0u64..40, 1..60),
    ) {
        let (limit, buckets) = (NonZeroU32::new(limit).unwrap(), NonZeroU32::new(buckets).unwrap());
        let window = Duration::from_nanos(width * u64::from(buckets.get()));
        let mut counted = BucketedWindow::new(limit, window, buckets, Anchor::Grant).unwrap();
        let mut exact = SlidingLog::new(limit, window, Anchor::Grant).unwrap();
        let mut now = 0;
        for gap in gaps {
            now += gap;
            let at = tick(now);
            let (Wait::Until(coarse), Wait::Until(fine)) = (counted.earliest(at, 1), exact.earliest(at, 1))
            else {
                panic!("a grant anchor always has a next tick");
            };
            prop_assert!(coarse >= fine && coarse.since(fine).as_nanos() <= u128::from(width));
            if counted.try_acquire(at, 1).is_ok() {
                prop_assert!(exact.try_acquire(at, 1).is_ok());
            }
        }
    }
}
