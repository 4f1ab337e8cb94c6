//! The state file with what it holds, from which it is written anew when it has grown.
//!
//! Invariant: memory holds all that was given to the file, so that a rewrite loses none of it and needs no reading.

use super::file::{Kept, Line, StateFile};
use super::{StateError, unix_tick};
use crate::operator_log::target;
use core::num::NonZeroU64;
use core::time::Duration;
use leasehold_core::pool::{Charge, compact_log_by_age};
use std::collections::HashMap;

/// Shortest time that charges are kept: limits of a day hold for a member that had none before.
const MIN_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Charges of a pool that are kept one by one; beyond them, those of one span become one.
const MAX_EXACT: usize = 10_000;
/// The part of its age by which a charge may count for longer once it was joined to others: 1 / 32.
const SHARE: NonZeroU64 = NonZeroU64::new(32).unwrap();
/// Lines of a file before it is compacted, and again each time that it has doubled since.
const COMPACT_AT: usize = 20_000;

/// The charges of one pool, which need no tags.
pub(super) type Log = Vec<((), Charge)>;

/// An open state file, and what it holds.
#[derive(Debug)]
pub(super) struct Ledger {
    file: StateFile,
    charges: HashMap<String, Log>,
    kept: Kept,
    /// Whether charges may be missing until the pools have taken over what earlier processes have left.
    may_lack: bool,
    /// Whether a write has failed, so that the file lacks what is here.
    is_behind: bool,
    /// Lines of the file at which it is compacted next.
    compact_at: usize,
}

impl Ledger {
    /// Replaces what a file holds.
    pub(super) fn new(
        file: StateFile,
        charges: HashMap<String, Log>,
        kept: Kept,
        may_lack: bool,
    ) -> Result<Self, StateError> {
        let mut ledger = Self {
            file,
            charges,
            kept,
            may_lack,
            is_behind: false,
            compact_at: COMPACT_AT,
        };
        ledger.rewrite()?;
        Ok(ledger)
    }

    /// Appends lines by one write, and compacts the file if it has grown; charges that end are kept one by one for `exact`.
    pub(super) fn append(&mut self, lines: Vec<Line>, exact: Duration) -> Result<(), StateError> {
        for line in &lines {
            match line {
                Line::Charge { pool, charge } => match self.charges.get_mut(pool) {
                    Some(log) => log.push(((), *charge)),
                    None => {
                        self.charges.insert(pool.clone(), vec![((), *charge)]);
                    }
                },
                Line::Header { .. }
                | Line::Changes(_)
                | Line::Used { .. }
                | Line::Spent { .. }
                | Line::Kept(_)
                | Line::End => self.kept.note(line.clone()),
            }
        }
        if self.is_behind {
            return self.rewrite();
        }
        if let Err(error) = self.file.append(lines) {
            self.is_behind = true;
            return Err(error);
        }
        if self.file.lines() >= self.compact_at
            && let Err(error) = self.compact(exact)
        {
            // What was appended is there; another try waits until the file has doubled.
            tracing::warn!(target: target::STATE, "the state file grows: {error}");
            self.compact_at = self.file.lines().saturating_mul(2);
        }
        Ok(())
    }

    /// Whether the file lacks what was given to it, as a write has failed.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Writes that the process ends in order; the file stays as it is then.
    pub(super) fn end(&mut self) -> Result<(), StateError> {
        if self.is_behind {
            self.rewrite()?;
        }
        self.file.append([Line::End])
    }

    /// Notes that all pools have taken over what earlier processes have left.
    pub(super) fn settle(&mut self, exact: Duration) -> Result<(), StateError> {
        self.may_lack = false;
        self.compact(exact)
    }

    fn compact(&mut self, exact: Duration) -> Result<(), StateError> {
        for log in self.charges.values_mut() {
            *log = shortened(log, exact);
        }
        self.charges.retain(|_, log| !log.is_empty());
        self.kept.forget_surplus();
        self.rewrite()
    }

    fn rewrite(&mut self) -> Result<(), StateError> {
        let charges = self.charges.iter();
        let charges = charges
            .flat_map(|(pool, log)| log.iter().map(|(_, charge)| Line::charge(pool, *charge)));
        let lines = charges.chain(self.kept.clone().into_lines());
        self.file.rewrite(lines, self.may_lack)?;
        self.is_behind = false;
        self.compact_at = COMPACT_AT.max(self.file.lines_at_first().saturating_mul(2));
        Ok(())
    }
}

/// Shortens the log of a pool whose longest window is `exact`.
pub(super) fn shortened(log: &Log, exact: Duration) -> Log {
    let latest = log.iter().filter_map(|(_, charge)| charge.at()).max();
    // The clock of the system may have been set back since the start; that of the pool was not.
    let now = latest.unwrap_or_default().max(unix_tick());
    let kept = exact.max(MIN_KEPT);
    let short = compact_log_by_age(log, now, exact, kept, SHARE);
    if short.len() <= MAX_EXACT {
        return short;
    }
    compact_log_by_age(&short, now, Duration::ZERO, kept, SHARE)
}

#[cfg(test)]
mod tests {
    use super::super::{State, examine_state};
    use super::*;
    use leasehold_config::{AfterCrash, StateSettings};
    use leasehold_core::limit::Cost;
    use leasehold_core::time::Tick;
    use std::fs;
    use tempfile::TempDir;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings(folder: &TempDir) -> StateSettings {
        StateSettings {
            path: folder.path().join("state"),
            after_crash: AfterCrash::Closed,
        }
    }

    fn granted(lease: u64, at: Tick, expires: Option<Tick>) -> Charge {
        Charge::Granted {
            lease,
            member: 7,
            class: 0,
            flow: 0,
            cost: Cost::REQUEST,
            at,
            expires,
        }
    }

    fn call(lease: u64, at: Tick) -> [Charge; 2] {
        let cost = Cost::REQUEST;
        [granted(lease, at, None), Charge::Ended { lease, cost, at }]
    }

    /// Writes `count` calls at 20,000 per second from `first` on, in blocks of 200; returns the largest size of the file.
    fn load(state: &State, settings: &StateSettings, first: Tick, count: u64) -> u64 {
        let mut largest = 0;
        for block in (0..count).step_by(200) {
            let calls = block..block + 200;
            let charges = calls.flat_map(|number| call(number, tick_of(first, number)));
            let charges: Vec<_> = charges.collect();
            state.append("web", &charges).unwrap();
            largest = fs::metadata(&settings.path).unwrap().len().max(largest);
        }
        largest
    }

    fn tick_of(first: Tick, number: u64) -> Tick {
        first.saturating_add(Duration::from_micros(50 * number))
    }

    /// The requests that ended at `since` or later.
    fn ended_since(charges: &[Charge], since: Tick) -> u64 {
        let ended = charges.iter().map(|charge| match *charge {
            Charge::Ended { cost, at, .. } if at >= since => u64::from(cost.requests),
            Charge::Ended { .. }
            | Charge::Granted { .. }
            | Charge::Arrived { .. }
            | Charge::Renewed { .. }
            | Charge::Observed { .. }
            | Charge::Block { .. } => 0,
        });
        ended.sum()
    }

    #[test]
    fn a_file_is_bounded_under_load_and_a_kill_loses_no_charge_of_it() {
        let (folder, calls) = (tempfile::tempdir().unwrap(), 200_000);
        let settings = settings(&folder);
        let state = State::open(&settings, SECOND).unwrap();
        let block = Charge::Block {
            member: 7,
            cost: Cost {
                requests: 1_000_000,
                tokens: 0,
            },
        };
        // The last call is as old as the kill.
        let first = Tick::from_nanos(unix_tick().as_nanos() - 10_000_000_000);
        let lent = granted(u64::MAX, first, Some(first.saturating_add(60 * SECOND)));
        state.append("web", &[lent, block]).unwrap();
        let largest = load(&state, &settings, first, calls);
        assert!(largest < 12_000_000, "{largest} bytes");
        drop(state);

        let state = State::open(&settings, SECOND).unwrap();
        let after = fs::metadata(&settings.path).unwrap().len();
        assert!(after < 3_000_000, "{after} bytes");
        let charges = state.earlier("web");
        assert!(charges.contains(&lent), "it is still held");
        // What is left of the block has ended at the restart.
        let left = 1_000_000 - calls;
        for number in (0..calls).step_by(997) {
            let ended = ended_since(&charges, tick_of(first, number));
            assert!(ended >= left + calls - number, "{ended} since {number}");
        }
        assert_eq!(ended_since(&charges, Tick::ZERO), left + calls);
    }

    #[test]
    fn charges_within_the_longest_window_stay_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        let state = State::open(&settings, 60 * SECOND).unwrap();
        let first = Tick::from_nanos(unix_tick().as_nanos() - 20_000_000_000);
        let charges: Vec<_> = (0..2_000)
            .flat_map(|number| call(number, tick_of(first, number)))
            .collect();
        state.append("web", &charges).unwrap();
        state.settle().unwrap();
        drop(state);
        let state = State::open(&settings, 60 * SECOND).unwrap();
        assert_eq!(state.earlier("web"), charges);
    }

    #[test]
    fn a_rewrite_forgets_neither_what_callers_used_nor_that_charges_may_be_missing() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        fs::write(
            &settings.path,
            "{\"header\":{\"leasehold\":1,\"boot\":\"another\"}}\n",
        )
        .unwrap();
        let state = State::open(&settings, SECOND).unwrap();
        assert!(state.must_close);
        for caller in 0..50_000 {
            let caller = Some(format!("caller {}", caller % 3));
            state.write_used(caller, Default::default()).unwrap();
        }
        let lines = fs::read_to_string(&settings.path).unwrap().lines().count();
        assert!(lines < COMPACT_AT, "{lines}");
        drop(state);
        assert!(examine_state(&settings.path).unwrap().may_lack);
        let state = State::open(&settings, SECOND).unwrap();
        assert_eq!(state.kept.used.len(), 3);
        state.settle().unwrap();
        drop(state);
        assert!(!examine_state(&settings.path).unwrap().may_lack);
    }
}
