//! How long leases were held, on the way into their members' histograms.

use super::Pool;
use crate::slab::Handle;
use crate::stats::Histogram;
use crate::time::saturating_nanos;
use alloc::vec::Vec;
use core::hint::black_box;
use core::time::Duration;

/// Spans that leave together, or fewer with a long one.
const BATCH: usize = 4;
/// Batches are entered as soon as there are so many.
const MAX_BATCHES: usize = 64;

/// The latest spans of one owner. They take a quarter of a cache line, beside whatever else is in use of
/// the owner, and its histogram is wanted once for every four of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recent {
    kept: [Short; BATCH - 1],
    len: u8,
}

/// Nanoseconds of less than 18 minutes.
#[derive(Clone, Copy, Debug, Default)]
struct Short([u8; 5]);

impl Short {
    fn new(nanos: u64) -> Option<Self> {
        match nanos.to_le_bytes() {
            [a, b, c, d, e, 0, 0, 0] => Some(Self([a, b, c, d, e])),
            _ => None,
        }
    }

    fn nanos(self) -> u64 {
        let Self([a, b, c, d, e]) = self;
        u64::from_le_bytes([a, b, c, d, e, 0, 0, 0])
    }
}

/// Spans of one owner on their way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    earlier: Recent,
    last: u64,
}

impl Batch {
    fn nanos(&self) -> impl Iterator<Item = u64> {
        self.earlier.kept().chain([self.last])
    }
}

impl Recent {
    /// Keeps a span. One that is long or for which there is no room leaves, and all others with it.
    fn push(&mut self, span: Duration) -> Option<Batch> {
        let nanos = saturating_nanos(span);
        if let Some(short) = Short::new(nanos)
            && let Some(free) = self.kept.get_mut(usize::from(self.len))
        {
            *free = short;
            self.len = self.len.saturating_add(1);
            return None;
        }
        Some(Batch {
            earlier: core::mem::take(self),
            last: nanos,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.len.into()
    }

    /// Those that are kept.
    pub(super) fn kept(&self) -> impl Iterator<Item = u64> {
        let kept = self.kept.iter().take(self.len.into());
        kept.map(|short| short.nanos())
    }
}

/// Enters spans in a histogram.
fn enter(spans: impl Iterator<Item = u64>, histogram: &mut Histogram) {
    for nanos in spans {
        histogram.record(Duration::from_nanos(nanos));
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
                enter(spans.nanos(), histogram);
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
        let alike = self.spans.iter().map(|(member, spans)| {
            let entry = self.members.get(*member);
            entry.map_or(0, |entry| {
                entry.details.held.like(Duration::from_nanos(spans.last))
            })
        });
        black_box(alike.fold(0, u32::wrapping_add));
        for (member, spans) in self.spans.drain(..) {
            if let Some(entry) = self.members.get_mut(member) {
                enter(spans.nanos(), &mut entry.details.held);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_span_leaves_once_in_its_turn_and_as_it_was() {
        let short = (1 << 40) - 1;
        let spans = [0, short, 1, 2, short + 1, u64::MAX, 3, 4, short + 1, 5];
        let mut recent = Recent::default();
        let mut left = Vec::new();
        for span in spans {
            if let Some(batch) = recent.push(Duration::from_nanos(span)) {
                left.extend(batch.nanos());
                assert_eq!(recent.len(), 0);
            }
        }
        left.extend(recent.kept());
        assert_eq!(left, spans);
        assert_eq!(recent.len(), 1);
    }
}
