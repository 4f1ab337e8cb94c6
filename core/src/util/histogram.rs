//! Histogram of durations with logarithmic buckets.
//!
//! Invariant: the buckets cover whole octaves from the least to the greatest value recorded, and each
//! count is exact until it saturates.

use crate::time::saturating_nanos;
use alloc::boxed::Box;
use alloc::vec;
use core::time::Duration;

/// Buckets of an octave.
const SUB: usize = 16;
/// Number of octaves. The first holds 0 to 15 ns, each other the values of one power of two.
#[cfg(any(feature = "serde", test))]
const OCTAVES: usize = 61;

/// Histogram of durations whose quantiles are within 1/32 of the true ones.
///
/// Each octave has 16 buckets of equal width (the layout of G. Tene's HdrHistogram). A bucket is at most
/// 1/16 as wide as its least value, so its middle is within 1/32 of every value in it. Values below 32 ns
/// are exact.
///
/// [`record`](Self::record) costs O(1) and touches two cache lines. Memory is 64 bytes, plus 64 bytes for
/// each octave from the least to the greatest value: at most 4 kB. A bucket counts up to `u32::MAX`
/// values; the bound on quantiles holds until one is full.
///
/// ```
/// use core::time::Duration;
/// use leasehold_core::pool::stats::Histogram;
///
/// let mut histogram = Histogram::new();
/// for millis in 1..=100 {
///     histogram.record(Duration::from_millis(millis));
/// }
/// let p99 = histogram.quantile(990).unwrap();
/// assert!(p99.abs_diff(Duration::from_millis(99)) <= Duration::from_millis(99) / 32);
/// assert_eq!(histogram.mean(), Some(Duration::from_micros(50_500)));
/// assert_eq!(histogram.max(), Some(Duration::from_millis(100)));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[repr(align(64))]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "serde",
    serde(from = "Option<Saved>", into = "Option<Saved>")
)]
pub struct Histogram {
    count: u64,
    sum: u128,
    min: u64,
    max: u64,
    /// Octaves covered; empty while there is no value.
    octaves: Box<[Octave]>,
    /// Number of the first octave covered.
    first: u8,
}

/// Counts of one octave's buckets: one cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(align(64))]
struct Octave([u32; SUB]);

impl Histogram {
    /// Creates a histogram without values.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a value; durations above 584 years count as 584 years.
    pub fn record(&mut self, span: Duration) {
        self.record_nanos(saturating_nanos(span));
    }

    /// Counts a value in nanoseconds.
    pub(crate) fn record_nanos(&mut self, nanos: u64) {
        self.record_times(nanos, 1);
    }

    /// Counts a value in nanoseconds a number of times above zero.
    fn record_times(&mut self, nanos: u64, times: u32) {
        let (octave, sub) = bucket_of(nanos);
        if self.count == 0 {
            self.min = nanos;
        }
        self.count = self.count.saturating_add(times.into());
        let all = u128::from(nanos).saturating_mul(times.into());
        self.sum = self.sum.saturating_add(all);
        self.min = self.min.min(nanos);
        self.max = self.max.max(nanos);
        if self.row(octave) >= self.octaves.len() {
            self.cover(octave, octave);
        }
        let row = self.row(octave);
        let row = self.octaves.get_mut(row);
        if let Some(count) = row.and_then(|Octave(counts)| counts.get_mut(sub)) {
            *count = count.saturating_add(times);
        }
    }

    /// Returns the quantile at `permille` by nearest rank, to within 1/32; `None` without values.
    ///
    /// 0 gives the least value and 1,000 or more the greatest, both exact. O(buckets).
    #[must_use]
    pub fn quantile(&self, permille: u32) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        let counts = || self.counts().map(u128::from);
        let total = counts().fold(0, u128::saturating_add);
        let rank = total
            .saturating_mul(permille.min(1_000).into())
            .div_ceil(1_000);
        let nanos = if rank <= 1 {
            self.min
        } else if rank >= total {
            self.max
        } else {
            let mut below = 0u128;
            let at = counts().position(|count| {
                below = below.saturating_add(count);
                below >= rank
            })?;
            let before = usize::from(self.first).saturating_mul(SUB);
            let middle = middle(before.saturating_add(at));
            middle.clamp(self.min, self.max)
        };
        Some(Duration::from_nanos(nanos))
    }

    /// Returns the number of values that are at most `span`, which may count values within 1/32 of it either way. O(buckets).
    ///
    /// ```
    /// use core::time::Duration;
    /// use leasehold_core::pool::stats::Histogram;
    ///
    /// let mut histogram = Histogram::new();
    /// [10, 20, 30].map(|millis| histogram.record(Duration::from_millis(millis)));
    /// assert_eq!(histogram.at_most(Duration::from_millis(25)), 2);
    /// assert_eq!(histogram.at_most(Duration::from_millis(30)), 3);
    /// ```
    #[must_use]
    pub fn at_most(&self, span: Duration) -> u64 {
        let nanos = saturating_nanos(span);
        if nanos >= self.max {
            return self.count;
        }
        let before = usize::from(self.first).saturating_mul(SUB);
        let counts = self.counts().enumerate();
        let counts = counts.filter(|(index, _)| middle(before.saturating_add(*index)) <= nanos);
        counts.fold(0, |sum, (_, count)| sum.saturating_add(count.into()))
    }

    /// Returns the number of values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the exact sum of the values, at most [`Duration::MAX`].
    #[must_use]
    pub fn sum(&self) -> Duration {
        const SECOND: u128 = 1_000_000_000;
        let seconds = self.sum.checked_div(SECOND).map(u64::try_from);
        match seconds {
            Some(Ok(seconds)) => Duration::new(seconds, (self.sum % SECOND) as u32),
            Some(Err(_)) | None => Duration::MAX,
        }
    }

    /// Returns the mean, from the exact sum and rounded down to 1 ns; `None` without values.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let mean = self.sum.checked_div(self.count.into())?;
        u64::try_from(mean).ok().map(Duration::from_nanos)
    }

    /// Returns the least value; `None` without values.
    #[must_use]
    pub fn min(&self) -> Option<Duration> {
        (self.count > 0).then_some(Duration::from_nanos(self.min))
    }

    /// Returns the greatest value; `None` without values.
    #[must_use]
    pub fn max(&self) -> Option<Duration> {
        (self.count > 0).then_some(Duration::from_nanos(self.max))
    }

    /// Adds the values of another histogram. O(buckets).
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = other.clone();
            return;
        }
        self.cover(other.first.into(), other.last());
        self.count = self.count.saturating_add(other.count);
        self.sum = self.sum.saturating_add(other.sum);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        let from = self.row(other.first.into());
        for (row, more) in self.octaves.iter_mut().skip(from).zip(&other.octaves) {
            for (count, more) in row.0.iter_mut().zip(more.0) {
                *count = count.saturating_add(more);
            }
        }
    }

    /// Returns the values that were recorded since an earlier state of this histogram. O(buckets).
    ///
    /// Count and sum are exact; the least and the greatest value are within 1/32.
    ///
    /// ```
    /// use core::time::Duration;
    /// use leasehold_core::pool::stats::Histogram;
    ///
    /// let mut histogram = Histogram::new();
    /// histogram.record(Duration::from_secs(9));
    /// let earlier = histogram.clone();
    /// histogram.record(Duration::from_secs(2));
    /// let since = histogram.since(&earlier);
    /// assert_eq!((since.count(), since.mean()), (1, Some(Duration::from_secs(2))));
    /// ```
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = usize::from(self.first).saturating_mul(SUB);
        let skipped = usize::from(earlier.first).saturating_mul(SUB);
        let known: Box<[u32]> = earlier.counts().collect();
        let mut since = Self::new();
        for (index, count) in self.counts().enumerate() {
            let index = before.saturating_add(index);
            let known = index.checked_sub(skipped).and_then(|at| known.get(at));
            let more = count.saturating_sub(known.copied().unwrap_or(0));
            if more > 0 {
                since.record_times(middle(index).clamp(self.min, self.max), more);
            }
        }
        if since.count > 0 {
            since.sum = self.sum.saturating_sub(earlier.sum);
        }
        since
    }

    /// Returns the buckets that hold values, least first: the middle of each, and how many it holds. O(buckets).
    ///
    /// ```
    /// use core::time::Duration;
    /// use leasehold_core::pool::stats::Histogram;
    ///
    /// let mut histogram = Histogram::new();
    /// for nanos in [3, 20, 20] {
    ///     histogram.record(Duration::from_nanos(nanos));
    /// }
    /// let expected = [(Duration::from_nanos(3), 1), (Duration::from_nanos(20), 2)];
    /// assert!(histogram.buckets().eq(expected));
    /// ```
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u32)> {
        let before = usize::from(self.first).saturating_mul(SUB);
        let counts = self.counts().enumerate().filter(|(_, count)| *count > 0);
        counts.map(move |(at, count)| {
            let middle = middle(before.saturating_add(at));
            (Duration::from_nanos(middle), count)
        })
    }

    /// Returns the counts of all buckets covered, in ascending order of value.
    fn counts(&self) -> impl Iterator<Item = u32> {
        self.octaves.iter().flat_map(|Octave(counts)| *counts)
    }

    /// Returns the index of an octave in `octaves`; beyond its end if the octave is not covered.
    fn row(&self, octave: usize) -> usize {
        octave.wrapping_sub(self.first.into())
    }

    /// Returns the number of the last octave covered.
    fn last(&self) -> usize {
        usize::from(self.first)
            .saturating_add(self.octaves.len())
            .saturating_sub(1)
    }

    /// Extends the octaves covered to include `from ..= to`.
    #[cold]
    fn cover(&mut self, from: usize, to: usize) {
        let (first, last) = match self.octaves.is_empty() {
            true => (from, to),
            false => (from.min(self.first.into()), to.max(self.last())),
        };
        let wanted = last.saturating_sub(first).saturating_add(1);
        let mut octaves = vec![Octave::default(); wanted].into_boxed_slice();
        let before = usize::from(self.first).saturating_sub(first);
        for (row, known) in octaves.iter_mut().skip(before).zip(&self.octaves) {
            *row = *known;
        }
        self.octaves = octaves;
        self.first = u8::try_from(first).unwrap_or(u8::MAX);
    }
}

/// Returns the octave of a value and its bucket in the octave.
fn bucket_of(nanos: u64) -> (usize, usize) {
    let octave = (60u32).saturating_sub(nanos.leading_zeros());
    let bits = octave.saturating_sub(1);
    let top = nanos.checked_shr(bits).unwrap_or(0) as usize;
    (octave as usize, top % SUB)
}

/// Returns the middle value of a bucket, numbered over all octaves.
fn middle(index: usize) -> u64 {
    let (octave, sub) = (index / SUB, (index % SUB) as u64);
    let Some(bits) = octave.checked_sub(1) else {
        return sub;
    };
    let width = 1u64.checked_shl(bits as u32).unwrap_or(0);
    let least = sub.saturating_add(SUB as u64).saturating_mul(width);
    least.saturating_add(width.saturating_sub(1) / 2)
}

/// Serialized form of a histogram with at least one value.
#[cfg(feature = "serde")]
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(try_from = "UncheckedSaved")]
struct Saved {
    count: u64,
    sum: u128,
    min: u64,
    max: u64,
    first: u8,
    counts: Box<[u32]>,
}

#[cfg(feature = "serde")]
impl From<Histogram> for Option<Saved> {
    fn from(known: Histogram) -> Self {
        (known.count > 0).then_some(Saved {
            count: known.count,
            sum: known.sum,
            min: known.min,
            max: known.max,
            first: known.first,
            counts: known.counts().collect(),
        })
    }
}

#[cfg(feature = "serde")]
impl From<Option<Saved>> for Histogram {
    fn from(read: Option<Saved>) -> Self {
        read.map_or_else(Self::default, |saved| Self {
            count: saved.count,
            sum: saved.sum,
            min: saved.min,
            max: saved.max,
            first: saved.first,
            octaves: saved
                .counts
                .as_chunks()
                .0
                .iter()
                .copied()
                .map(Octave)
                .collect(),
        })
    }
}

/// Serialized form before it is checked.
#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
struct UncheckedSaved {
    count: u64,
    sum: u128,
    min: u64,
    max: u64,
    first: usize,
    counts: Box<[u32]>,
}

#[cfg(feature = "serde")]
impl TryFrom<UncheckedSaved> for Saved {
    type Error = crate::limit::SnapshotError;

    fn try_from(read: UncheckedSaved) -> Result<Self, Self::Error> {
        let octaves = read.counts.len() / SUB;
        let whole = octaves > 0 && read.counts.len().is_multiple_of(SUB);
        let within = read.first < OCTAVES && octaves <= OCTAVES.saturating_sub(read.first);
        let first = u8::try_from(read.first).ok().filter(|_| whole && within);
        let first = first.filter(|_| read.count > 0 && read.min <= read.max);
        Ok(Self {
            count: read.count,
            sum: read.sum,
            min: read.min,
            max: read.max,
            first: first.ok_or(crate::limit::SnapshotError::Contradiction)?,
            counts: read.counts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_is_at_most_a_sixteenth_as_wide_as_its_least_value() {
        let mut expected = 0;
        for bucket in 0..OCTAVES * SUB {
            let least = expected;
            assert_eq!(bucket_of(least), (bucket / SUB, bucket % SUB), "{least}");
            let (mut within, mut beyond) = (least, u64::MAX);
            while within + 1 < beyond {
                let between = within.midpoint(beyond);
                if bucket_of(between) == bucket_of(least) {
                    within = between;
                } else {
                    beyond = between;
                }
            }
            let greatest = if bucket_of(beyond) == bucket_of(least) {
                beyond
            } else {
                within
            };
            let middle = middle(bucket);
            assert!(least <= middle && middle <= greatest);
            assert!((greatest - middle).max(middle - least) <= least / 32);
            expected = greatest.wrapping_add(1);
        }
        assert_eq!(expected, 0, "the buckets cover every value");
    }

    #[test]
    fn an_empty_histogram_is_one_cache_line_and_has_no_quantiles() {
        let histogram = Histogram::new();
        assert_eq!(
            (size_of_val(&histogram), align_of_val(&histogram)),
            (64, 64)
        );
        assert_eq!((size_of::<Octave>(), align_of::<Octave>()), (64, 64));
        assert_eq!(histogram.count(), 0);
        assert_eq!((histogram.min(), histogram.max()), (None, None));
        assert_eq!((histogram.mean(), histogram.quantile(500)), (None, None));
    }

    #[test]
    fn the_widest_range_covers_all_octaves() {
        let mut histogram = Histogram::new();
        for span in [
            Duration::from_secs(1),
            Duration::ZERO,
            Duration::MAX,
            Duration::from_secs(1),
        ] {
            histogram.record(span);
        }
        assert_eq!(histogram.octaves.len(), OCTAVES);
        assert_eq!(histogram.quantile(0), Some(Duration::ZERO));
        assert_eq!(
            histogram.quantile(1_000),
            Some(Duration::from_nanos(u64::MAX))
        );
    }

    #[test]
    fn a_quantile_is_the_value_of_the_nearest_rank() {
        let mut histogram = Histogram::new();
        for nanos in 1..=10 {
            histogram.record(Duration::from_nanos(nanos));
        }
        for (permille, nanos) in [
            (0, 1),
            (100, 1),
            (101, 2),
            (500, 5),
            (501, 6),
            (999, 10),
            (5_000, 10),
        ] {
            assert_eq!(
                histogram.quantile(permille),
                Some(Duration::from_nanos(nanos))
            );
        }
    }
}
