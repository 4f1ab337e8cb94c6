//! What the windows promise.

use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::limit::{Anchor, BucketedWindow, Limit, Limiter, SlidingLog, Wait};
use leasehold_core::time::Tick;
use leasehold_tests::limits::{Case, Kind, Setup, run};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn tick(nanos: u64) -> Tick {
    Tick::from_nanos(nanos)
}

/// The most units that any schedule gets admitted between `start` and `end`, found by trying them all:
/// every cost at every tick, from the beginning of time.
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
fn the_worst_case_is_what_the_worst_schedule_reaches_and_no_more() {
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
                // Where a span begins matters for what is aligned, and what came before for the rest.
                let starts = window..2 * window + 2;
                let worst =
                    starts.map(|start| worst_of_all_schedules(&machine, start, start + span));
                let stated = machine.worst_case(Duration::from_nanos(span));
                assert_eq!(worst.max(), Some(stated), "{span} ticks of {setup:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn a_limit_agrees_with_its_oracle_and_keeps_its_promise(case: Case) {
        run(&case);
    }

    #[test]
    fn buckets_make_nobody_wait_a_bucket_longer_than_the_log(
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
