//! A histogram of durations, with marks at its quantiles.

use crate::chart::{Chart, Label, Series};
use crate::text::{Escaped, counted, duration, grouped, short_duration};
use core::fmt::{self, Formatter};
use core::time::Duration;
use leasehold_core::pool::stats::Histogram;

/// Fewest buckets shown, where there are any.
const LEAST_BUCKETS: usize = 8;
/// Buckets of a histogram of times, from 1 ms to 1,000 s, at 1, 2 and 5 of each power of ten.
const BUCKETS: usize = 19;
/// Most labels below a histogram, so that they have room on a phone.
const MAX_LABELS: usize = 5;

/// Durations by logarithmic buckets, with quantiles.
#[derive(Clone, Debug, Default)]
pub struct DurationFigures {
    /// Upper bound and count of each bucket, in rising order of bounds.
    pub buckets: Vec<(Duration, u64)>,
    /// The median.
    pub p50: Duration,
    /// The 90th percentile.
    pub p90: Duration,
    /// The 99th percentile.
    pub p99: Duration,
}

impl From<&Histogram> for DurationFigures {
    fn from(times: &Histogram) -> Self {
        let quantile = |permille| times.quantile(permille).unwrap_or_default();
        let bounds = (0..BUCKETS).map(|index| {
            let factor = [1, 2, 5][index % 3];
            let power = 10_u64.saturating_pow(u32::try_from(index / 3).unwrap_or(0));
            Duration::from_millis(power.saturating_mul(factor))
        });
        let mut below = 0;
        let mut bucket = |bound: Duration| {
            let before = core::mem::replace(&mut below, times.at_most(bound));
            (bound, below.saturating_sub(before))
        };
        let mut buckets: Vec<_> = bounds.map(&mut bucket).collect();
        let last = buckets.last().map(|(bound, _)| *bound);
        // Longer ones are in a bucket of their own.
        buckets.extend(times.max().filter(|max| Some(*max) > last).map(bucket));
        Self {
            buckets,
            p50: quantile(500),
            p90: quantile(900),
            p99: quantile(990),
        }
    }
}

/// Writes the histogram of durations under its name; `one` and `many` are the nouns of those counted.
///
/// # Errors
/// If the formatter fails.
pub fn write_histogram(
    f: &mut Formatter<'_>,
    name: &str,
    (one, many): (&str, &str),
    figures: &DurationFigures,
) -> fmt::Result {
    let counts = figures.buckets.iter().map(|(_, count)| *count);
    let count = counts.fold(0, u64::saturating_add);
    writeln!(f, "<figure><figcaption>{name}</figcaption>")?;
    if count == 0 {
        return writeln!(f, r#"<p class="none">No {many}.</p></figure>"#);
    }
    let quantiles = [
        ("p50", figures.p50),
        ("p90", figures.p90),
        ("p99", figures.p99),
    ];
    let [p50, p90, p99] = quantiles.map(|(_, span)| duration(span));
    let shown = Shown::new(&figures.buckets);
    let mark = |(name, span): (&str, Duration)| Label {
        at: shown.place(span),
        text: name.to_owned(),
    };
    let mut marks = quantiles.map(mark);
    marks.reverse();
    let chart = Chart {
        label: format!(
            "{name}: {}. Half are at most {p50}, 90 % at most {p90}, 99 % at most {p99}.",
            counted(count, one, many),
        ),
        height: 120,
        max_column: 60,
        gap: 0.1,
        series: vec![Series {
            class: "plain",
            counts: shown.buckets.iter().map(|(_, count)| *count).collect(),
        }],
        marks: marks.into(),
        labels: shown.labels(),
        tips: shown.tips(),
        ..Chart::default()
    };
    writeln!(
        f,
        r#"<p class="quantiles"><span>p50 <b>{p50}</b></span> <span>p90 <b>{p90}</b></span> <span>p99 <b>{p99}</b></span></p>"#
    )?;
    writeln!(f, "{chart}")?;
    writeln!(
        f,
        r#"<p class="note">{}. The time axis is logarithmic.</p></figure>"#,
        Escaped(&counted(count, one, many)),
    )
}

/// The buckets of a histogram that are shown.
#[derive(Clone, Copy, Debug)]
struct Shown<'a> {
    buckets: &'a [(Duration, u64)],
    /// Lower bound of the first bucket.
    low: Duration,
}

impl<'a> Shown<'a> {
    /// Leaves out empty buckets at both ends while at least [`LEAST_BUCKETS`] are left.
    fn new(all: &'a [(Duration, u64)]) -> Self {
        let is_used = |(_, count): &(Duration, u64)| *count > 0;
        let mut first = all.iter().position(is_used).unwrap_or_default();
        let mut end = all
            .iter()
            .rposition(is_used)
            .map_or(all.len(), |last| last + 1);
        while end - first < LEAST_BUCKETS && end - first < all.len() {
            // One at each side in turn, as far as there are any.
            let grows_left = first > 0 && ((end - first).is_multiple_of(2) || end == all.len());
            if grows_left {
                first -= 1;
            } else {
                end += 1;
            }
        }
        let before = first.checked_sub(1).and_then(|before| all.get(before));
        Self {
            buckets: all.get(first..end).unwrap_or_default(),
            low: before.map_or(Duration::ZERO, |(bound, _)| *bound),
        }
    }

    fn lower(&self, bucket: usize) -> Duration {
        let before = bucket
            .checked_sub(1)
            .and_then(|before| self.buckets.get(before));
        before.map_or(self.low, |(bound, _)| *bound)
    }

    /// Returns where a duration is on the axis, from 0 to 1.
    fn place(&self, span: Duration) -> f64 {
        let count = self.buckets.len().max(1) as f64;
        let Some(bucket) = self.buckets.iter().position(|(bound, _)| *bound >= span) else {
            return 1.0;
        };
        let upper = self
            .buckets
            .get(bucket)
            .map_or(span, |(bound, _)| *bound)
            .as_secs_f64();
        let (lower, span) = (self.lower(bucket).as_secs_f64(), span.as_secs_f64());
        let within = if lower > 0.0 {
            (span / lower).ln() / (upper / lower).ln()
        } else {
            span / upper
        };
        let within = if within.is_finite() {
            within.clamp(0.0, 1.0)
        } else {
            0.0
        };
        (bucket as f64 + within) / count
    }

    /// Returns labels at bounds of buckets, evenly spaced.
    fn labels(&self) -> Vec<Label> {
        let count = self.buckets.len();
        let every = (count + 1).div_ceil(MAX_LABELS).max(1);
        let bounds = (0..=count).step_by(every);
        let label = |bound: usize| Label {
            at: bound as f64 / count.max(1) as f64,
            text: short_duration(self.lower(bound)),
        };
        bounds.map(label).collect()
    }

    fn tips(&self) -> Vec<String> {
        let buckets = self.buckets.iter().enumerate();
        let tip = |(bucket, (upper, count)): (usize, &(Duration, u64))| {
            format!(
                "{} to {}: {}",
                duration(self.lower(bucket)),
                duration(*upper),
                grouped(*count)
            )
        };
        buckets.map(tip).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(counts: &[u64]) -> Vec<(Duration, u64)> {
        let bound = |at: usize| Duration::from_millis(1 << at);
        let bucket = |(at, &count)| (bound(at), count);
        counts.iter().enumerate().map(bucket).collect()
    }

    #[test]
    fn empty_ends_are_left_out() {
        let all = buckets(&[0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0]);
        let shown = Shown::new(&all);
        assert_eq!(shown.buckets, &all[4..13]);
        assert_eq!(shown.low, Duration::from_millis(8));
        let all = buckets(&[0, 5, 0]);
        assert_eq!(Shown::new(&all).buckets, all);
        let all = buckets(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(Shown::new(&all).buckets, &all[2..]);
    }

    #[test]
    fn quantiles_are_placed_by_their_logarithm() {
        let all = buckets(&[1, 1, 1, 1]);
        let shown = Shown::new(&all);
        assert_eq!(shown.place(Duration::ZERO), 0.0);
        assert_eq!(shown.place(Duration::from_millis(2)), 0.5);
        assert_eq!(shown.place(Duration::from_secs(1)), 1.0);
        let middle = shown.place(Duration::from_secs_f64(0.001 * 2f64.sqrt()));
        assert!((middle - 0.375).abs() < 1e-6, "{middle}");
    }
}
