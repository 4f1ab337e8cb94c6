//! A bounded list of recent changes or refusals.
//!
//! Invariant: it takes a bounded place, and a flood of refusals costs a count each.

use crate::lock;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Mutex;

/// Entries that are kept.
const KEPT: usize = 200;
/// Entries of one second that are kept; a flood of the same would drive out all others.
const EACH_SECOND: u32 = 20;

/// A bounded list of entries.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    entries: VecDeque<Value>,
    /// Entries that there were in all.
    count: u64,
    second: u64,
    in_second: u32,
}

impl Recent {
    /// Adds an entry of a time, in milliseconds since 1970, unless that second has enough of them.
    pub(crate) fn add(&self, at: u64, entry: impl FnOnce() -> Value) {
        let mut list = lock(&self.0);
        let second = at / 1_000;
        if list.second != second {
            (list.second, list.in_second) = (second, 0);
        }
        list.in_second = list.in_second.saturating_add(1);
        if list.in_second > EACH_SECOND {
            return;
        }
        let mut entry = entry();
        (entry["at"], entry["n"]) = (at.into(), list.count.into());
        if list.entries.len() == KEPT {
            list.entries.pop_front();
        }
        list.entries.push_back(entry);
        list.count = list.count.saturating_add(1);
    }

    /// Returns the entries after the first `seen` of all, and how many there were in all.
    pub(super) fn since(&self, seen: u64) -> (Vec<Value>, u64) {
        let list = lock(&self.0);
        let new = usize::try_from(list.count.saturating_sub(seen)).unwrap_or(usize::MAX);
        let skipped = list.entries.len().saturating_sub(new);
        let entries = list.entries.iter().skip(skipped).cloned();
        (entries.collect(), list.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_are_kept_and_told_once() {
        let recent = Recent::default();
        for second in 0..300 {
            recent.add(second * 1_000, || json!({"number": second}));
        }
        let (all, seen) = recent.since(0);
        assert_eq!((all.len(), seen), (KEPT, 300));
        assert_eq!(all[0], json!({"number": 100, "at": 100_000, "n": 100}));
        recent.add(300_000, || json!({"number": 300}));
        let (new, seen) = recent.since(seen);
        assert_eq!(new, [json!({"number": 300, "at": 300_000, "n": 300})]);
        assert_eq!(recent.since(seen), (vec![], 301));
    }

    #[test]
    fn a_flood_drives_out_nothing_older() {
        let recent = Recent::default();
        recent.add(0, || json!({"first": true}));
        for _ in 0..10_000 {
            recent.add(1_000, || json!({}));
        }
        let (all, _) = recent.since(0);
        assert_eq!(all.len(), 1 + EACH_SECOND as usize);
        assert_eq!(all[0]["first"], true);
    }
}
