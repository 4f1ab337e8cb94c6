//! Spans of time, counted by size.
//!
//! Invariant: the buckets cover whole octaves from the least to the greatest seen, and the counts in them
//! are those of the values recorded, until one saturates.

use crate::time::saturating_nanos;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

/// Buckets an octave.
const SUB: usize = 16;
/// The first holds 0 to 15 nanoseconds, each other the values of one binary order of magnitude.
#[cfg(any(feature = "serde", test))]
const OCTAVES: usize = 61;

/// A histogram of spans whose quantiles are within 1/32 of the true ones.
///
/// Each octave is cut into 16 buckets of equal width, so that a bucket is at most a sixteenth as wide as
/// its least value, and its middle at most a thirty-second away from any value in it. Below 32
/// nanoseconds the values are exact. Source of the layout: G. Tene's HdrHistogram.
///
/// [`record`](Self::record) costs O(1). Memory is 8 bytes while it is empty; then 88 or so, and 64 for
/// each octave from the least to the greatest span seen: 4 kB at most. A bucket counts up to
/// 4,294,967,295 values, and quantiles are exact to the bound up to there.
///
/// ```
/// use core::time::Duration;
/// use leasehold_core::stats::Histogram;
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
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct Histogram(Option<Box<Seen>>);

/// What has been recorded; at least one value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "Snapshot"))]
struct Seen {
    count: u64,
    sum: u128,
    min: u64,
    max: u64,
    /// The octave that `counts` begins with.
    first: usize,
    counts: Vec<u32>,
}

impl Histogram {
    /// One without values.
    #[must_use]
    pub const fn new() -> Self {
        Self(None)
    }

    /// Counts a span; one over 584 years counts as 584 years.
    pub fn record(&mut self, span: Duration) {
        let nanos = saturating_nanos(span);
        let (octave, sub) = place(nanos);
        let seen = self.0.get_or_insert_with(|| Box::new(Seen::new(octave)));
        seen.cover(octave);
        seen.count = seen.count.saturating_add(1);
        seen.sum = seen.sum.saturating_add(nanos.into());
        seen.min = seen.min.min(nanos);
        seen.max = seen.max.max(nanos);
        let at = index(octave.saturating_sub(seen.first), sub);
        if let Some(count) = seen.counts.get_mut(at) {
            *count = count.saturating_add(1);
        }
    }

    /// The least span that at least `permille` in a thousand are not above (the nearest rank), to
    /// within 1/32 of it; `None` where there are none. 0 and less is the least span and 1,000 and more the
    /// greatest, both exact. O(buckets).
    #[must_use]
    pub fn quantile(&self, permille: u32) -> Option<Duration> {
        let seen = self.0.as_deref()?;
        let counts = || seen.counts.iter().map(|count| u128::from(*count));
        let total = counts().fold(0, u128::saturating_add);
        let rank = total
            .saturating_mul(permille.min(1_000).into())
            .div_ceil(1_000);
        let nanos = if rank <= 1 {
            seen.min
        } else if rank >= total {
            seen.max
        } else {
            let mut below = 0u128;
            let at = counts().position(|count| {
                below = below.saturating_add(count);
                below >= rank
            })?;
            let middle = middle(index(seen.first, at));
            middle.clamp(seen.min, seen.max)
        };
        Some(Duration::from_nanos(nanos))
    }

    /// How many spans were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.as_deref().map_or(0, |seen| seen.count)
    }

    /// The mean, from their exact sum and rounded down to a nanosecond.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let seen = self.0.as_deref()?;
        let mean = seen.sum.checked_div(seen.count.into())?;
        u64::try_from(mean).ok().map(Duration::from_nanos)
    }

    /// The least span.
    #[must_use]
    pub fn min(&self) -> Option<Duration> {
        self.0.as_deref().map(|seen| Duration::from_nanos(seen.min))
    }

    /// The greatest span.
    #[must_use]
    pub fn max(&self) -> Option<Duration> {
        self.0.as_deref().map(|seen| Duration::from_nanos(seen.max))
    }

    /// Counts what another has counted too. O(buckets).
    pub fn merge(&mut self, other: &Self) {
        let Some(theirs) = other.0.as_deref() else {
            return;
        };
        let Some(ours) = self.0.as_deref_mut() else {
            *self = other.clone();
            return;
        };
        ours.cover(theirs.first);
        ours.cover(theirs.last());
        ours.count = ours.count.saturating_add(theirs.count);
        ours.sum = ours.sum.saturating_add(theirs.sum);
        ours.min = ours.min.min(theirs.min);
        ours.max = ours.max.max(theirs.max);
        let from = index(theirs.first.saturating_sub(ours.first), 0);
        for (count, more) in ours.counts.iter_mut().skip(from).zip(&theirs.counts) {
            *count = count.saturating_add(*more);
        }
    }
}

impl Seen {
    fn new(octave: usize) -> Self {
        Self {
            count: 0,
            sum: 0,
            min: u64::MAX,
            max: 0,
            first: octave,
            counts: vec![0; SUB],
        }
    }

    /// The last octave covered.
    fn last(&self) -> usize {
        let octaves = self.counts.len() / SUB;
        self.first.saturating_add(octaves).saturating_sub(1)
    }

    /// Makes room for the values of an octave.
    fn cover(&mut self, octave: usize) {
        let more = index(self.first.saturating_sub(octave), 0);
        if more > 0 {
            self.counts.splice(..0, core::iter::repeat_n(0, more));
            self.first = octave;
        }
        let more = octave.saturating_sub(self.last());
        if more > 0 {
            let wanted = index(more, self.counts.len());
            self.counts.reserve_exact(index(more, 0));
            self.counts.resize(wanted, 0);
        }
    }
}

/// The octave of a value and its bucket in it.
fn place(nanos: u64) -> (usize, usize) {
    let octave = (60u32).saturating_sub(nanos.leading_zeros());
    let bits = octave.saturating_sub(1);
    let top = nanos.checked_shr(bits).unwrap_or(0) as usize;
    (octave as usize, top % SUB)
}

/// The place in a vector of buckets that begins at octave 0.
fn index(octave: usize, sub: usize) -> usize {
    octave.saturating_mul(SUB).saturating_add(sub)
}

/// The middle of a bucket.
fn middle(index: usize) -> u64 {
    let (octave, sub) = (index / SUB, (index % SUB) as u64);
    let Some(bits) = octave.checked_sub(1) else {
        return sub;
    };
    let width = 1u64.checked_shl(bits as u32).unwrap_or(0);
    let least = sub.saturating_add(SUB as u64).saturating_mul(width);
    least.saturating_add(width.saturating_sub(1) / 2)
}

/// What a snapshot says, before it is believed.
#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
struct Snapshot {
    count: u64,
    sum: u128,
    min: u64,
    max: u64,
    first: usize,
    counts: Vec<u32>,
}

#[cfg(feature = "serde")]
impl TryFrom<Snapshot> for Seen {
    type Error = crate::limit::SnapshotError;

    fn try_from(read: Snapshot) -> Result<Self, Self::Error> {
        let octaves = read.counts.len() / SUB;
        let whole = octaves > 0 && read.counts.len().is_multiple_of(SUB);
        let within = read.first < OCTAVES && octaves <= OCTAVES.saturating_sub(read.first);
        if read.count == 0 || read.min > read.max || !whole || !within {
            return Err(crate::limit::SnapshotError::Contradiction);
        }
        Ok(Self {
            count: read.count,
            sum: read.sum,
            min: read.min,
            max: read.max,
            first: read.first,
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
            assert_eq!(place(least), (bucket / SUB, bucket % SUB), "{least}");
            let (mut within, mut beyond) = (least, u64::MAX);
            while within + 1 < beyond {
                let between = within.midpoint(beyond);
                if place(between) == place(least) {
                    within = between;
                } else {
                    beyond = between;
                }
            }
            let greatest = if place(beyond) == place(least) {
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
    fn an_empty_one_is_as_small_as_a_pointer_and_says_nothing() {
        let histogram = Histogram::new();
        assert_eq!(size_of_val(&histogram), 8);
        assert_eq!(histogram.count(), 0);
        assert_eq!((histogram.min(), histogram.max()), (None, None));
        assert_eq!((histogram.mean(), histogram.quantile(500)), (None, None));
    }

    #[test]
    fn the_widest_range_takes_as_many_buckets_as_there_are() {
        let mut histogram = Histogram::new();
        for span in [
            Duration::from_secs(1),
            Duration::ZERO,
            Duration::MAX,
            Duration::from_secs(1),
        ] {
            histogram.record(span);
        }
        let seen = histogram.0.as_ref().unwrap();
        assert_eq!(
            (seen.counts.len(), seen.counts.capacity()),
            (OCTAVES * SUB, OCTAVES * SUB)
        );
        assert_eq!(histogram.quantile(0), Some(Duration::ZERO));
        assert_eq!(
            histogram.quantile(1_000),
            Some(Duration::from_nanos(u64::MAX))
        );
    }

    #[test]
    fn the_nearest_rank_is_taken() {
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
