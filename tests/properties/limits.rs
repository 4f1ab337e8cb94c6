//! What the windows promise.

use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_core::limit::{Anchor, BucketedWindow, Limit, SlidingLog, Wait};
use leasehold_core::time::Tick;
use leasehold_tests::limits::{Case, run};
use proptest::prelude::*;

fn tick(nanos: u64) -> Tick {
    Tick::from_nanos(nanos)
}

/// Takes all that is admitted as soon as it is, from `start` to `end`, and tells when.
fn greedy(limit: &mut impl Limit, start: u64, end: u64) -> Vec<u64> {
    let mut admitted = Vec::new();
    let mut now = start;
    while now < end {
        match limit.try_acquire(tick(now), 1) {
            Ok(_) => admitted.push(now),
            Err(Wait::Until(later)) => now = later.as_nanos(),
            Err(wait @ (Wait::ForSettlement | Wait::Never)) => panic!("{wait:?}"),
        }
    }
    admitted
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_limit_agrees_with_its_oracle_and_keeps_its_promise(case: Case) {
        run(&case);
    }

    #[test]
    fn the_worst_case_of_the_log_is_reached(
        limit in 1u32..6, window in 1u64..20, span in 1u64..100,
    ) {
        let limit = NonZeroU32::new(limit).unwrap();
        let mut log = SlidingLog::new(limit, Duration::from_nanos(window), Anchor::Grant).unwrap();
        let worst = log.worst_case(Duration::from_nanos(span));
        prop_assert_eq!(greedy(&mut log, 0, span).len() as u64, worst);
    }

    #[test]
    fn the_worst_case_of_the_buckets_is_reached(
        limit in 1u32..6, width in 1u64..10, buckets in 1u32..7, span in 1u64..200,
    ) {
        let (limit, buckets) = (NonZeroU32::new(limit).unwrap(), NonZeroU32::new(buckets).unwrap());
        let window = Duration::from_nanos(width * u64::from(buckets.get()));
        let mut counted = BucketedWindow::new(limit, window, buckets, Anchor::Grant).unwrap();
        let worst = counted.worst_case(Duration::from_nanos(span));
        let start = width - 1;
        prop_assert_eq!(greedy(&mut counted, start, start + span).len() as u64, worst);
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
