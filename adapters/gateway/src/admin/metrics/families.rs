//! Families of figures, in whatever form they are told.
//!
//! Invariant: each form tells the same figures under the same names.

use core::fmt;
use core::time::Duration;
use leasehold_core::pool::stats::Histogram;
use prometheus_client::encoding::{
    CounterValueEncoder, DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue,
    GaugeValueEncoder, NativeHistogram, NativeHistogramBuckets, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use std::collections::BTreeMap;

/// Upper bounds of the buckets of times, in milliseconds.
pub(super) const BOUNDS: [u64; 16] = [
    1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 900_000,
];

/// The resolution of native histograms: eight buckets for each power of two.
const SCHEMA: i32 = 3;
const NO_BUCKETS: NativeHistogramBuckets<'_> = NativeHistogramBuckets {
    spans: &[],
    deltas: &[],
};

pub(super) type Labels = Vec<(&'static str, String)>;

/// The rows of a family of counts or levels.
pub(super) type Numbers = Vec<(Labels, Number)>;

/// The rows of a family of times.
pub(super) type Histograms<'h> = Vec<(Labels, &'h Histogram)>;

/// One figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Count(u64),
    Whole(i64),
    Real(f64),
}

impl From<u64> for Number {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<i64> for Number {
    fn from(number: i64) -> Self {
        Self::Whole(number)
    }
}

impl From<f64> for Number {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

/// A form in which families are told.
pub(super) trait Form {
    fn counters(&mut self, name: &str, help: &str, rows: Numbers) -> fmt::Result;
    fn gauges(&mut self, name: &str, help: &str, rows: Numbers) -> fmt::Result;
    fn histograms(&mut self, name: &str, help: &str, rows: Histograms<'_>) -> fmt::Result;
}

/// Tells figures that only grow.
pub(super) fn counters<V: Into<Number>>(
    to: &mut dyn Form,
    name: &str,
    help: &str,
    rows: impl IntoIterator<Item = (Labels, V)>,
) -> fmt::Result {
    to.counters(name, help, numbers(rows))
}

/// Tells figures that grow and shrink.
pub(super) fn gauges<V: Into<Number>>(
    to: &mut dyn Form,
    name: &str,
    help: &str,
    rows: impl IntoIterator<Item = (Labels, V)>,
) -> fmt::Result {
    to.gauges(name, help, numbers(rows))
}

fn numbers<V: Into<Number>>(rows: impl IntoIterator<Item = (Labels, V)>) -> Numbers {
    let rows = rows.into_iter();
    rows.map(|(labels, value)| (labels, value.into())).collect()
}

/// Prometheus' own text, OpenMetrics and Prometheus' protobuf.
impl Form for DescriptorEncoder<'_> {
    fn counters(&mut self, name: &str, help: &str, rows: Numbers) -> fmt::Result {
        let mut family = self.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in rows {
            let mut row = family.encode_family(&labels)?;
            row.encode_counter::<NoLabelSet, Number, u64>(&value, None)?;
        }
        Ok(())
    }

    fn gauges(&mut self, name: &str, help: &str, rows: Numbers) -> fmt::Result {
        let mut family = self.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in rows {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn histograms(&mut self, name: &str, help: &str, rows: Histograms<'_>) -> fmt::Result {
        let mut family = self.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, times) in rows {
            let mut row = family.encode_family(&labels)?;
            let (sum, count) = (times.sum().as_secs_f64(), times.count());
            let (zero_count, spans, deltas) = sparse(times);
            let native = NativeHistogram {
                schema: SCHEMA,
                zero_threshold: 0.0,
                zero_count,
                negative: NO_BUCKETS,
                positive: NativeHistogramBuckets {
                    spans: &spans,
                    deltas: &deltas,
                },
                created: None,
            };
            // Text formats carry only the classic buckets.
            let buckets = buckets(times);
            row.encode_histogram_with_native::<NoLabelSet>(sum, count, &buckets, None, native)?;
        }
        Ok(())
    }
}

impl EncodeCounterValue for Number {
    fn encode(&self, to: &mut CounterValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => EncodeCounterValue::encode(count, to),
            Self::Whole(number) => EncodeCounterValue::encode(&number.unsigned_abs(), to),
            Self::Real(number) => EncodeCounterValue::encode(number, to),
        }
    }
}

impl EncodeGaugeValue for Number {
    fn encode(&self, to: &mut GaugeValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => EncodeGaugeValue::encode(count, to),
            Self::Whole(number) => EncodeGaugeValue::encode(number, to),
            Self::Real(number) => EncodeGaugeValue::encode(number, to),
        }
    }
}

/// The counts of the buckets of a histogram, each without those below it.
pub(super) fn buckets(times: &Histogram) -> Vec<(f64, u64)> {
    let mut below = 0;
    let mut buckets = Vec::with_capacity(BOUNDS.len().saturating_add(1));
    for bound in BOUNDS {
        let bound = Duration::from_millis(bound);
        let at_most = times.at_most(bound);
        buckets.push((bound.as_secs_f64(), at_most.saturating_sub(below)));
        below = at_most;
    }
    buckets.push((f64::INFINITY, times.count().saturating_sub(below)));
    buckets
}

/// The buckets of a native histogram: how many times are zero, and the others as runs of buckets and differences.
///
/// A run begins after a gap from the one before; its length is that of its buckets, of each of which there is the
/// difference to the bucket before. A time is in a bucket whose bounds are off by 1/32 at most, as its own is.
fn sparse(times: &Histogram) -> (u64, Vec<(i32, u32)>, Vec<i64>) {
    let mut counts: BTreeMap<i32, i64> = BTreeMap::new();
    let mut zero_count = 0_u64;
    for (middle, count) in times.buckets() {
        if middle.is_zero() {
            zero_count = zero_count.saturating_add(count.into());
            continue;
        }
        let index = (middle.as_secs_f64().log2() * f64::from(1 << SCHEMA)).ceil() as i32;
        let bucket = counts.entry(index).or_default();
        *bucket = bucket.saturating_add(count.into());
    }
    let (mut spans, mut deltas) = (Vec::<(i32, u32)>::new(), Vec::new());
    if counts.is_empty() && zero_count == 0 {
        // An empty run tells an empty histogram from one without native buckets.
        spans.push((0, 0));
    }
    let (mut next, mut last) = (0, 0);
    for (index, count) in counts {
        match spans.last_mut() {
            Some((_, length)) if index == next => *length = length.saturating_add(1),
            Some(_) | None => spans.push((index.saturating_sub(next), 1)),
        }
        deltas.push(count.saturating_sub(last));
        (next, last) = (index.saturating_add(1), count);
    }
    (zero_count, spans, deltas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_buckets_hold_each_time_once() {
        let mut times = Histogram::new();
        assert_eq!(sparse(&times), (0, vec![(0, 0)], vec![]));
        // Powers of two are the upper bounds of their buckets; one second is that of bucket 0.
        let second = 1_000_000_000_u64;
        for percent in [0, 100, 100, 105, 110, 200, 400] {
            times.record(Duration::from_nanos(second / 100 * percent));
        }
        let (zero, spans, deltas) = sparse(&times);
        assert_eq!((zero, spans), (1, vec![(0, 3), (5, 1), (7, 1)]));
        assert_eq!(deltas, [2, -1, 0, 0, 0]);
    }

    #[test]
    fn buckets_hold_each_time_once() {
        let mut times = Histogram::new();
        for millis in [0, 1, 3, 60, 700, 2_000_000] {
            times.record(Duration::from_millis(millis));
        }
        let buckets = buckets(&times);
        let held = buckets.iter().filter(|(_, count)| *count > 0);
        let held: Vec<(f64, u64)> = held.copied().collect();
        let expected = [
            (0.001, 2),
            (0.005, 1),
            (0.1, 1),
            (1.0, 1),
            (f64::INFINITY, 1),
        ];
        assert_eq!(held, expected);
    }
}
