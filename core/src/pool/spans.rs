//! How long leases were held, on the way into their members' histograms.

use super::Pool;
use crate::slab::Handle;
use crate::stats::Histogram;
use crate::time::saturating_nanos;
use alloc::vec::Vec;
use core::hint::black_box;
use core::time::Duration;

/// Spans that leave together.
const BATCH: usize = 4;
/// Batches are entered as soon as there are so many.
const MAX_BATCHES: usize = 64;

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
    fn push(&mut self, span: Duration) -> Option<Batch> {
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
fn enter(spans: &[u64], histogram: &mut Histogram) {
    for nanos in spans {
        histogram.record(Duration::from_nanos(*nanos));
    }
}

impl<T> Pool<T> {
    /// How long leases were held on each member, in the order of their slots.
    pub(super) fn spans_held(&self) -> Vec<(Handle, Histogram)> {
        let kept = self.members.iter().map(|(one, entry)| {
            let mut held = entry.details.held.clone();
            enter(entry.recent.kept(), &mut held);
            (one, held)
        });
        let mut held: Vec<_> = kept.collect();
        for (member, spans) in &self.spans {
            let at = held.binary_search_by_key(member, |(one, _)| *one);
            if let Some((_, histogram)) = at.ok().and_then(|at| held.get_mut(at)) {
                enter(spans, histogram);
            }
        }
        held
    }

    /// Notes how long a lease on a member was held.
    #[inline]
    pub(super) fn keep_span(&mut self, member: Handle, span: Duration) {
        let entry = self.members.get_mut(member);
        if let Some(batch) = entry.and_then(|entry| entry.recent.push(span)) {
            self.spans.push((member, batch));
            if self.spans.len() >= MAX_BATCHES {
                self.enter_spans();
            }
        }
    }

    fn enter_spans(&mut self) {
        // These reads don't wait for each other, and the writes no longer for memory.
        let alike = self.spans.iter().map(|(member, [first, ..])| {
            let entry = self.members.get(*member);
            entry.map_or(0, |entry| {
                entry.details.held.like(Duration::from_nanos(*first))
            })
        });
        black_box(alike.fold(0, u32::wrapping_add));
        for (member, spans) in self.spans.drain(..) {
            if let Some(entry) = self.members.get_mut(member) {
                enter(&spans, &mut entry.details.held);
            }
        }
    }
}
