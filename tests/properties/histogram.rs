//! What a histogram promises.

use core::time::Duration;
use leasehold_core::pool::stats::Histogram;
use proptest::prelude::*;

/// Spans of every order of magnitude, and such as lie together.
fn spans() -> impl Strategy<Value = Vec<u64>> {
    let any_size = (any::<u64>(), 0_u32..64).prop_map(|(nanos, shift)| nanos >> shift);
    let close = (1_000_000_u64..1_200_000).boxed();
    let edge = (0_u32..64, -1_i64..=1).prop_map(|(bit, by)| (1_u64 << bit).wrapping_add_signed(by));
    prop::collection::vec(prop_oneof![any_size, close, edge], 1..200)
}

fn histogram(spans: &[u64]) -> Histogram {
    let mut histogram = Histogram::new();
    for nanos in spans {
        histogram.record(Duration::from_nanos(*nanos));
    }
    histogram
}

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn every_quantile_is_within_a_thirty_second_of_the_true_one(mut spans in spans()) {
        let histogram = histogram(&spans);
        spans.sort_unstable();
        for permille in 0..=1_000 {
            let rank = (spans.len() * permille).div_ceil(1_000).max(1);
            let exact = spans[rank - 1];
            let told = histogram.quantile(permille as u32).expect("it has values").as_nanos() as u64;
            prop_assert!(told.abs_diff(exact) <= exact / 32, "{} for {}", told, exact);
            prop_assert!(spans[0] <= told && told <= spans[spans.len() - 1]);
        }
    }

    #[test]
    fn count_sum_least_and_greatest_are_exact(spans in spans()) {
        let histogram = histogram(&spans);
        let sum: u128 = spans.iter().map(|nanos| u128::from(*nanos)).sum();
        let mean = (sum / spans.len() as u128) as u64;
        let nanos = |nanos: Option<&u64>| nanos.copied().map(Duration::from_nanos);
        prop_assert_eq!(histogram.count(), spans.len() as u64);
        prop_assert_eq!(histogram.mean(), nanos(Some(&mean)));
        prop_assert_eq!(histogram.min(), nanos(spans.iter().min()));
        prop_assert_eq!(histogram.max(), nanos(spans.iter().max()));
    }

    #[test]
    fn parts_that_are_merged_are_the_whole(spans in spans(), at: prop::sample::Index) {
        let (first, second) = spans.split_at(at.index(spans.len()));
        let mut merged = histogram(first);
        merged.merge(&histogram(second));
        prop_assert_eq!(&merged, &histogram(&spans));
        merged.merge(&Histogram::new());
        let saved = serde_json::to_string(&merged).expect("it can be saved");
        prop_assert_eq!(merged, serde_json::from_str::<Histogram>(&saved).expect("it can be restored"));
    }

    #[test]
    fn a_snapshot_is_refused_unless_a_histogram_can_be_so(
        first in 0_u64..70, octaves in 0_usize..70, odd in 0_usize..2, count: u64, min: u64, max: u64,
    ) {
        let counts = vec![u32::MAX; octaves * 16 + odd];
        let told = serde_json::json!({
            "count": count, "sum": u64::MAX, "min": min, "max": max, "first": first, "counts": counts,
        });
        let read = serde_json::from_value::<Histogram>(told);
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
