//! Promises of the histogram.

use core::time::Duration;
use leasehold_core::pool::stats::Histogram;
use proptest::prelude::*;

/// Durations in ns: of every magnitude, close together, and next to powers of two.
fn durations() -> impl Strategy<Value = Vec<u64>> {
    let any_size = (any::<u64>(), 0_u32..64).prop_map(|(nanos, shift)| nanos >> shift);
    let close = (1_000_000_u64..1_200_000).boxed();
    let edge = (0_u32..64, -1_i64..=1).prop_map(|(bit, by)| (1_u64 << bit).wrapping_add_signed(by));
    prop::collection::vec(prop_oneof![any_size, close, edge], 1..200)
}

fn histogram(durations: &[u64]) -> Histogram {
    let mut histogram = Histogram::new();
    for nanos in durations {
        histogram.record(Duration::from_nanos(*nanos));
    }
    histogram
}

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn every_quantile_is_within_a_thirty_second_of_the_true_one(mut durations in durations()) {
        let histogram = histogram(&durations);
        durations.sort_unstable();
        for permille in 0..=1_000 {
            let rank = (durations.len() * permille).div_ceil(1_000).max(1);
            let exact = durations[rank - 1];
            let quantile = histogram.quantile(permille as u32).expect("there are values").as_nanos() as u64;
            prop_assert!(quantile.abs_diff(exact) <= exact / 32, "{} for {}", quantile, exact);
            prop_assert!(durations[0] <= quantile && quantile <= durations[durations.len() - 1]);
        }
    }

    #[test]
    fn count_mean_minimum_and_maximum_are_exact(durations in durations()) {
        let histogram = histogram(&durations);
        let sum: u128 = durations.iter().map(|nanos| u128::from(*nanos)).sum();
        let mean = (sum / durations.len() as u128) as u64;
        let nanos = |nanos: Option<&u64>| nanos.copied().map(Duration::from_nanos);
        prop_assert_eq!(histogram.count(), durations.len() as u64);
        prop_assert_eq!(histogram.mean(), nanos(Some(&mean)));
        prop_assert_eq!(histogram.min(), nanos(durations.iter().min()));
        prop_assert_eq!(histogram.max(), nanos(durations.iter().max()));
    }

    #[test]
    fn what_was_recorded_since_is_told_within_a_thirty_second(durations in durations(), at: prop::sample::Index) {
        let (first, mut second) = {
            let (first, second) = durations.split_at(at.index(durations.len()));
            (first, second.to_vec())
        };
        let since = histogram(&durations).since(&histogram(first));
        let exact = histogram(&second);
        prop_assert_eq!(since.count(), exact.count());
        prop_assert_eq!(since.sum(), exact.sum());
        second.sort_unstable();
        for permille in [0, 1, 500, 990, 1_000] {
            let rank = (second.len() * permille).div_ceil(1_000).max(1);
            let told = since.quantile(permille as u32).expect("there are values").as_nanos() as u64;
            let exact = second[rank - 1];
            prop_assert!(told.abs_diff(exact) <= exact / 32, "{} for {}", told, exact);
        }
    }

    #[test]
    fn merged_parts_equal_the_whole_through_a_snapshot(durations in durations(), at: prop::sample::Index) {
        let (first, second) = durations.split_at(at.index(durations.len()));
        let mut merged = histogram(first);
        merged.merge(&histogram(second));
        prop_assert_eq!(&merged, &histogram(&durations));
        merged.merge(&Histogram::new());
        let saved = serde_json::to_string(&merged).expect("it can be saved");
        prop_assert_eq!(merged, serde_json::from_str::<Histogram>(&saved).expect("it can be restored"));
    }

    #[test]
    fn a_snapshot_is_restored_only_if_it_is_consistent(
        first in 0_u64..70, octaves in 0_usize..70, odd in 0_usize..2, count: u64, min: u64, max: u64,
    ) {
        let counts = vec![u32::MAX; octaves * 16 + odd];
        let saved = serde_json::json!({
            "count": count, "sum": u64::MAX, "min": min, "max": max, "first": first, "counts": counts,
        });
        let read = serde_json::from_value::<Histogram>(saved);
        let sound = count > 0 && min <= max && octaves > 0 && odd == 0 && first + octaves as u64 <= 61;
        prop_assert_eq!(read.is_ok(), sound);
        if let Ok(mut histogram) = read {
            histogram.record(Duration::from_nanos(min));
            histogram.merge(&histogram.clone());
            for permille in [0, 1, 500, 1_000] {
                prop_assert!(histogram.quantile(permille).is_some());
            }
        }
    }
}
