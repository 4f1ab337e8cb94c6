//! What outlives the process: charges of limits, changes by the admin, what callers have used, and what services keep.
//!
//! Invariant: a request is sent only once a charge that covers it is in the file, so that no crash of the process lets
//! more through than the limits; the file belongs to one process, and only its owner can read it.

mod file;
mod ledger;

pub use file::{StateFound, StateUser, examine_state, rewrite_state};

use crate::account::{Account, Spent, UsedByModel};
use crate::admin::AdminChanges;
use crate::backend_pool::BackendPool;
use crate::callers::Accounts;
use crate::clock::time_of_day;
use crate::lock;
use crate::resources::Resource;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use file::{Kept, Line, StateFile};
use leasehold_config::{AfterCrash, StateSettings};
use leasehold_core::pool::{Charge, close_log};
use leasehold_core::time::Tick;
use ledger::{Ledger, Log, shortened};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::SystemTime;

/// Why a state file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file can't be read or written.
    #[error("state file {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another process uses it.
    #[error(
        "state file {} is used by another gateway{}; two of them would send twice the limits",
        .path.display(), .process.map(|id| format!(", process {id}")).unwrap_or_default()
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// The process.
        process: Option<u32>,
    },
    /// The changes by the admin in the file can't be read.
    #[error(
        "state file {}: the changes by the admin can't be read: {source}; move the file away",
        .path.display()
    )]
    Changes {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        source: serde_json::Error,
    },
    /// The file holds something else.
    #[error(
        "state file {}, line {line}: this is no state of a gateway; move the file away, or name another",
        .path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
    },
}

/// The state file of a running gateway.
#[derive(Debug)]
pub(crate) struct State {
    ledger: Mutex<Ledger>,
    /// The charges of earlier processes, by pool.
    earlier: Mutex<HashMap<String, Log>>,
    /// All else that they have left.
    kept: Kept,
    path: PathBuf,
    /// The longest window of a limit in ns, for which charges are kept one by one.
    exact: AtomicU64,
    /// Whether limits must be taken as used up, because charges may be missing.
    pub(crate) must_close: bool,
}

impl State {
    /// Opens the file, for this process alone; `longest` is the longest window of a limit.
    pub(crate) fn open(settings: &StateSettings, longest: Duration) -> Result<Self, StateError> {
        let (file, found) = StateFile::open(&settings.path)?;
        let now = unix_tick();
        let exact = longest.max(longest_of_changes(&found.kept));
        let mut earlier = by_pool(found.charges);
        for log in earlier.values_mut() {
            close_log(log, now);
            *log = shortened(log, exact);
        }
        let ledger = Ledger::new(file, earlier.clone(), found.kept.clone(), found.may_lack)?;
        Ok(Self {
            ledger: Mutex::new(ledger),
            earlier: Mutex::new(earlier),
            kept: found.kept,
            path: settings.path.clone(),
            exact: AtomicU64::new(nanos(exact)),
            must_close: found.may_lack && settings.after_crash == AfterCrash::Closed,
        })
    }

    /// Keeps charges as they are for a window that is longer than those before, as other limits may have.
    pub(crate) fn keep_for(&self, window: Duration) {
        self.exact.fetch_max(nanos(window), Ordering::Relaxed);
    }

    /// Notes that all pools have taken over what earlier processes have left.
    pub(crate) fn settle(&self) -> Result<(), StateError> {
        lock(&self.ledger).settle(self.exact())
    }

    /// Returns the changes by the admin that earlier processes have left.
    ///
    /// # Errors
    /// The file has been written by another version, or changed by hand.
    pub(crate) fn changes(&self) -> Result<AdminChanges, StateError> {
        let changes = self.kept.changes.clone().map(serde_json::from_value);
        let changes = changes.transpose().map_err(|source| StateError::Changes {
            path: self.path.clone(),
            source,
        })?;
        Ok(changes.unwrap_or_default())
    }

    /// Returns the accounts of callers as earlier processes have left them.
    pub(crate) fn accounts(&self) -> Accounts {
        let mut spent = self.kept.spent.clone();
        let mut used = self.kept.used.clone();
        for caller in spent.keys() {
            used.entry(Some(caller.clone())).or_default();
        }
        let accounts = used.into_iter().map(|(caller, models)| {
            let spent = caller.as_deref().and_then(|caller| spent.remove(caller));
            (caller, Account::restored(models, spent))
        });
        Accounts::restored(accounts.collect())
    }

    /// Returns what services keep, the oldest first.
    pub(crate) fn resources(&self) -> &[Resource] {
        &self.kept.resources
    }

    /// Writes what a caller has spent of its budget.
    ///
    /// # Errors
    /// The file can't be written; nothing that costs money may be sent then.
    pub(crate) fn write_spent(&self, caller: &str, spent: Spent) -> Result<(), StateError> {
        let caller = caller.to_owned();
        self.append_lines(vec![Line::Spent { caller, spent }])
    }

    /// Writes what a caller has used in all.
    pub(crate) fn write_used(
        &self,
        caller: Option<String>,
        models: UsedByModel,
    ) -> Result<(), StateError> {
        self.append_lines(vec![Line::Used { caller, models }])
    }

    /// Writes what services keep by now.
    pub(crate) fn write_resources(
        &self,
        resources: impl IntoIterator<Item = Resource>,
    ) -> Result<(), StateError> {
        self.append_lines(resources.into_iter().map(Line::Kept).collect())
    }

    /// Writes all changes by the admin, in place of those before.
    pub(crate) fn write_changes(&self, changes: &AdminChanges) -> Result<(), StateError> {
        // They have texts for keys, and no number that JSON lacks.
        let changes = serde_json::to_value(changes).unwrap_or_default();
        self.append_lines(vec![Line::Changes(changes)])
    }

    /// Takes the charges that earlier processes have left of a pool.
    pub(crate) fn earlier(&self, pool: &str) -> Vec<Charge> {
        let log = lock(&self.earlier).remove(pool).unwrap_or_default();
        log.into_iter().map(|((), charge)| charge).collect()
    }

    /// Writes charges of a pool that are not of its own making.
    pub(crate) fn append(&self, pool: &str, charges: &[Charge]) -> Result<(), StateError> {
        let lines = charges.iter().map(|charge| Line::charge(pool, *charge));
        self.append_lines(lines.collect())
    }

    /// Writes what a pool has to write before the next request is sent.
    ///
    /// # Errors
    /// The file can't be written; nothing may be sent then.
    pub(crate) fn write_due(&self, pool: &BackendPool) -> Result<(), StateError> {
        // Another thread may have taken the charge of this request, and not have written it yet.
        let mut ledger = lock(&self.ledger);
        if !pool.pool().blocking().charges_due() && !ledger.is_behind() {
            return Ok(());
        }
        self.write(&mut ledger, pool)
    }

    /// Writes all charges of a pool.
    pub(crate) fn write_all(&self, pool: &BackendPool) -> Result<(), StateError> {
        self.write(&mut lock(&self.ledger), pool)
    }

    fn write(&self, ledger: &mut Ledger, pool: &BackendPool) -> Result<(), StateError> {
        let name = &pool.settings().name;
        let charges = pool.pool().blocking().take_charges();
        let lines = charges.iter().map(|charge| Line::charge(name, *charge));
        ledger.append(lines.collect(), self.exact())
    }

    fn append_lines(&self, lines: Vec<Line>) -> Result<(), StateError> {
        lock(&self.ledger).append(lines, self.exact())
    }

    fn exact(&self) -> Duration {
        Duration::from_nanos(self.exact.load(Ordering::Relaxed))
    }

    /// Writes that the process ends in order, after the last charges.
    pub(crate) fn end<'p>(
        &self,
        pools: impl IntoIterator<Item = &'p BackendPool>,
    ) -> Result<(), StateError> {
        let mut ledger = lock(&self.ledger);
        for pool in pools {
            self.write(&mut ledger, pool)?;
        }
        ledger.end()
    }
}

fn by_pool(charges: Vec<(String, Charge)>) -> HashMap<String, Log> {
    let mut by_pool: HashMap<String, Log> = HashMap::new();
    for (pool, charge) in charges {
        by_pool.entry(pool).or_default().push(((), charge));
    }
    by_pool
}

/// Returns the longest window of limits that an operator has set; zero for changes that can't be read, which are told later.
fn longest_of_changes(kept: &Kept) -> Duration {
    let changes = kept.changes.clone().map(serde_json::from_value);
    let changes: Option<AdminChanges> = changes.and_then(Result::ok);
    changes
        .map(|changes| changes.longest_window())
        .unwrap_or_default()
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the time since 1970, the clock of charges.
pub(crate) fn unix_tick() -> Tick {
    let since = time_of_day()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Tick::ZERO.saturating_add(since)
}

/// Returns the same in milliseconds, as people and pages are told it.
pub(crate) fn unix_millis() -> u64 {
    unix_tick().as_nanos() / 1_000_000
}
