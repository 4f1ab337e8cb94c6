//! How long leases were held, on the way into their members' histograms.

use super::Pool;
use crate::pool::stats::Histogram;
use crate::time::saturating_nanos;
use crate::util::slab::Handle;
use alloc::vec::Vec;
use core::hint::black_box;
use core::iter;
use core::time::Duration;

/// Bytes for the latest spans of one owner.
const ROOM: usize = 15;
/// What a byte holds besides 7 bits of a number: that the number goes on.
const MORE: u8 = 1 << 7;
/// Batches are entered as soon as there are so many.
const MAX_BATCHES: usize = 64;

/// The latest spans of one owner, in a quarter of a cache line, beside whatever else is in use of the owner:
/// its histogram is wanted once for many of them. The shorter the leases, the more what they cost matters,
/// and the more of their spans there is room for: each takes a byte for every 7 bits of its nanoseconds,
/// the least first, the last without the highest bit (LEB128).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recent {
    kept: [u8; ROOM],
    used: u8,
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
    /// Keeps a span, or lets it leave with all others where there is no room for it.
    #[inline]
    fn push(&mut self, span: Duration) -> Option<Batch> {
        let nanos = saturating_nanos(span);
        let mut rest = nanos;
        let mut used = self.used;
        while let Some(byte) = self.kept.get_mut(usize::from(used)) {
            used = used.wrapping_add(1);
            let low = rest as u8 & !MORE;
            rest >>= 7;
            if rest == 0 {
                *byte = low;
                self.used = used;
                return None;
            }
            *byte = low | MORE;
        }
        Some(Batch {
            earlier: core::mem::take(self),
            last: nanos,
        })
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> u8 {
        self.used
    }

    /// Those that are kept.
    pub(super) fn kept(&self) -> impl Iterator<Item = u64> {
        let mut bytes = self.kept.iter().take(self.used.into());
        iter::from_fn(move || {
            let mut nanos = 0;
            for (byte, shift) in bytes.by_ref().zip((0..).step_by(7)) {
                nanos |= u64::from(byte & !MORE) << shift;
                if byte & MORE == 0 {
                    return Some(nanos);
                }
            }
            None
        })
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
        let mut spans: Vec<u64> = (0..=ROOM as u64).collect();
        for bits in 0..=64 {
            let power = 1u128 << bits;
            let around = [power - 1, power, power + 1];
            spans.extend(around.map(|nanos| u64::try_from(nanos).unwrap_or(u64::MAX)));
        }
        let mut recent = Recent::default();
        let mut left = Vec::new();
        for span in &spans {
            if let Some(batch) = recent.push(Duration::from_nanos(*span)) {
                left.extend(batch.nanos());
                assert_eq!(recent.kept().count(), 0);
            }
        }
        left.extend(recent.kept());
        assert_eq!(left, spans);
    }

    #[test]
    fn of_short_spans_more_find_room() {
        let kept = |span: u64| {
            let mut recent = Recent::default();
            let fits = |_: &u32| recent.push(Duration::from_nanos(span)).is_none();
            (0..100).take_while(fits).count()
        };
        let spans = [
            0,
            127,
            128,
            2_000_000,
            250_000_000,
            30_000_000_000,
            u64::MAX,
        ];
        assert_eq!(spans.map(kept), [15, 15, 7, 5, 3, 3, 1]);
    }
}
