//! Spans of time on their way into a histogram.

use crate::stats::Histogram;
use crate::time::saturating_nanos;
use core::time::Duration;

/// Spans that leave together.
const BATCH: usize = 4;

/// Nanoseconds.
pub(super) type Batch = [u64; BATCH];

/// The latest spans of one owner. They take half a cache line, beside whatever else is in use of the
/// owner, and its histogram is wanted once for every four of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recent {
    nanos: [u64; BATCH - 1],
    len: u8,
}

impl Recent {
    /// Keeps a span; where there is no more room, it leaves at once and all others with it.
    pub(super) fn push(&mut self, span: Duration) -> Option<Batch> {
        let nanos = saturating_nanos(span);
        if let Some(free) = self.nanos.get_mut(usize::from(self.len)) {
            *free = nanos;
            self.len = self.len.saturating_add(1);
            return None;
        }
        self.len = 0;
        let [first, second, third] = self.nanos;
        Some([first, second, third, nanos])
    }

    /// Those that are kept.
    pub(super) fn kept(&self) -> &[u64] {
        let len = usize::from(self.len);
        self.nanos.get(..len).unwrap_or(&self.nanos)
    }
}

/// Enters spans in a histogram.
pub(super) fn enter(spans: &[u64], histogram: &mut Histogram) {
    for nanos in spans {
        histogram.record(Duration::from_nanos(*nanos));
    }
}
