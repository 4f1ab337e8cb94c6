//! Compaction of a log of charges: what the next run has to know of it.
//!
//! Invariant: no call gets through that the service would refuse: charges are dropped once no limit can hold them, and
//! those joined to one count from the last of them.

use core::time::Duration;
use leasehold_core::limit::Cost;
use leasehold_core::pool::Charge;
use leasehold_core::time::Tick;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Shortest time that charges are kept: limits of a day hold for a key that had none before.
const MIN_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
const MINUTE: u64 = 60_000_000_000;

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
    let mut open: BTreeMap<u64, (u64, String, Cost)> = BTreeMap::new();
    let mut renumbered = Vec::new();
    for Line { model, charge } in lines {
        let mut charge = not_ahead(charge, now);
        match &mut charge {
            Charge::Granted { lease, cost, .. } => {
                *fences = fences.saturating_add(1);
                open.insert(*lease, (*fences, model.clone(), *cost));
                *lease = *fences;
            }
            Charge::Arrived { lease, .. } => match open.get(lease) {
                Some((number, ..)) => *lease = *number,
                None => continue,
            },
            Charge::Ended { lease, .. } => match open.remove(lease) {
                Some((number, ..)) => *lease = number,
                None => continue,
            },
            Charge::Observed { .. } => {}
            // This program writes no blocks.
            Charge::Block { .. } => continue,
        }
        renumbered.push(Line { model, charge });
    }
    for (lease, model, cost) in open.into_values() {
        let charge = Charge::Ended {
            lease,
            cost,
            at: now,
        };
        renumbered.push(Line { model, charge });
    }
    dated(renumbered, now, exact)
}

/// Takes a charge of a clock that was ahead as one of `now`: a replay counts all times from the latest charge.
fn not_ahead(mut charge: Charge, now: Tick) -> Charge {
    match &mut charge {
        Charge::Granted { at, .. } | Charge::Arrived { at, .. } | Charge::Ended { at, .. } => {
            *at = now.min(*at);
        }
        Charge::Observed { at, reset, .. } => {
            let span = reset.since(*at).min(MIN_KEPT);
            *at = now.min(*at);
            *reset = at.saturating_add(span);
        }
        Charge::Block { .. } => {}
    }
    charge
}

/// Drops charges that no limit can hold any more, and joins those beyond `exact` to one a minute.
pub(crate) fn dated(lines: Vec<Line>, now: Tick, exact: Duration) -> Vec<Line> {
    let age = |at: Tick| now.since(at);
    let kept = exact.max(MIN_KEPT);
    let mut ends: HashMap<u64, (Tick, Cost)> = HashMap::new();
    for line in &lines {
        if let Charge::Ended { lease, cost, at } = line.charge {
            ends.insert(lease, (at, cost));
        }
    }
    // By minute and model: the first lease of the minute, the cost of all, the tick of the last.
    let mut minutes: BTreeMap<(u64, String), (u64, Cost, Tick)> = BTreeMap::new();
    let mut recent = Vec::new();
    for line in lines {
        let lease = match line.charge {
            Charge::Observed { reset, .. } => {
                if reset > now {
                    recent.push(line);
                }
                continue;
            }
            Charge::Granted { lease, .. }
            | Charge::Arrived { lease, .. }
            | Charge::Ended { lease, .. } => lease,
            Charge::Block { .. } => continue,
        };
        match ends.get(&lease).copied() {
            Some((at, _)) if age(at) > kept => {}
            Some((at, cost)) if age(at) > exact => {
                if !matches!(line.charge, Charge::Granted { .. }) {
                    continue;
                }
                let minute = (at.as_nanos() / MINUTE, line.model);
                let (_, sum, last) = minutes
                    .entry(minute)
                    .or_insert((lease, Cost::default(), at));
                sum.requests = sum.requests.saturating_add(cost.requests);
                sum.tokens = sum.tokens.saturating_add(cost.tokens);
                *last = at.max(*last);
            }
            Some(_) | None => recent.push(line),
        }
    }
    let mut all = Vec::new();
    for ((_, model), (lease, cost, at)) in minutes {
        let granted = Charge::Granted {
            lease,
            member: 0,
            class: 0,
            flow: 0,
            cost,
            at,
            expires: None,
        };
        for charge in [granted, Charge::Ended { lease, cost, at }] {
            let model = model.clone();
            all.push(Line { model, charge });
        }
    }
    all.extend(recent);
    all
}
