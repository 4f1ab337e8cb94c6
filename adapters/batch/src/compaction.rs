//! Compaction of a log of charges: what the next run has to know of it.
//!
//! Invariant: no call gets through that the service would refuse: charges are dropped once no limit can hold them, and
//! those joined to one count from the last of them.

use core::time::Duration;
use leasehold_core::pool::{Charge, close_log, compact_log};
use leasehold_core::time::Tick;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Shortest time that charges are kept: limits of a day hold for a key that had none before.
const MIN_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// One line of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// The model of the call; empty if unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) model: String,
    #[serde(flatten)]
    pub(crate) charge: Charge,
}

/// Ends leases without an end at `now`, gives all of them new numbers from `fences` on, and drops what is old.
///
/// A replay of the log would end them too, but the end must be on disk for the runs after this one. Numbers of
/// several logs may be the same, and leases go by them.
pub(crate) fn compacted(
    lines: Vec<Line>,
    now: Tick,
    exact: Duration,
    fences: &mut u64,
) -> Vec<Line> {
    let mut log: Vec<_> = lines
        .into_iter()
        .map(|line| (line.model, line.charge))
        .collect();
    close_log(&mut log, now);
    let mut numbers = HashMap::new();
    log.retain_mut(|(_, charge)| match charge {
        Charge::Granted { lease, .. } => {
            *fences = fences.saturating_add(1);
            numbers.insert(*lease, *fences);
            *lease = *fences;
            true
        }
        Charge::Arrived { lease, .. }
        | Charge::Renewed { lease, .. }
        | Charge::Ended { lease, .. } => match numbers.get(lease) {
            Some(number) => {
                *lease = *number;
                true
            }
            None => false,
        },
        Charge::Observed { .. } | Charge::Block { .. } => true,
    });
    shortened(&log, now, exact)
}

/// Drops charges that no limit can hold any more, and joins those beyond `exact` to one a minute.
pub(crate) fn dated(lines: Vec<Line>, now: Tick, exact: Duration) -> Vec<Line> {
    let log: Vec<_> = lines
        .into_iter()
        .map(|line| (line.model, line.charge))
        .collect();
    shortened(&log, now, exact)
}

fn shortened(log: &[(String, Charge)], now: Tick, exact: Duration) -> Vec<Line> {
    let short = compact_log(log, now, exact, exact.max(MIN_KEPT)).into_iter();
    short
        .map(|(model, charge)| Line { model, charge })
        .collect()
}
