//! Charges on disk: what was called with each key, so that limits hold across runs and kills.
//!
//! Invariant: a call is sent only once its charge was written, and a key is charged by one process at a time. No file
//! holds a key or names one.

use crate::account::AccountCharge;
use crate::compaction::{Line, compacted, dated};
use crate::error::BatchError;
use crate::{lines, state_folder};
use core::time::Duration;
use leasehold_core::pool::Charge;
use leasehold_core::time::Tick;
use leasehold_protocol::Endpoint;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Shortest time that charges are kept one by one; older ones become one a minute.
const MIN_EXACT: Duration = Duration::from_secs(60 * 60);
/// Lines of a file before it is compacted, and again each time that it has doubled since.
const COMPACT_AT: usize = 20_000;

/// The charges of all keys of a run.
#[derive(Debug)]
pub(crate) struct Charges {
    logs: Vec<KeyLog>,
    /// The log and the model of each open lease.
    open: HashMap<u64, (usize, String)>,
    exact: Duration,
    /// The reason that nothing can be written any more: charges were lost, perhaps those of other threads.
    broken: Option<String>,
}

/// The charges of one key.
#[derive(Debug)]
struct KeyLog {
    path: PathBuf,
    /// Held for as long as the run lasts.
    _lock: File,
    lines: usize,
    compact_at: usize,
}

impl Charges {
    /// Opens the files of the keys in `folder`; the run has these keys for itself from now on.
    ///
    /// Each endpoint comes with its account; `longest` is the longest window of a limit.
    pub(crate) fn open(
        folder: &Path,
        endpoints: &[(&Endpoint, usize)],
        longest: Duration,
        now: Tick,
    ) -> Result<(Self, Vec<AccountCharge>), BatchError> {
        let write = |path: &Path| {
            let path = path.to_owned();
            move |source| BatchError::State {
                problem: format!("cannot write {}: {source}", path.display()),
            }
        };
        state_folder::create(folder).map_err(write(folder))?;
        let exact = longest.max(MIN_EXACT);
        let (mut logs, mut earlier) = (Vec::new(), Vec::new());
        let mut fences = 0;
        for (endpoint, account) in endpoints {
            let name = file_name(endpoint);
            let lock_path = folder.join(format!("{name}.lock"));
            let lock = state_folder::lock(&lock_path).map_err(write(&lock_path))?;
            let lock = lock.map_err(|pid| BatchError::KeyInUse {
                key: endpoint.key().to_string(),
                url: endpoint.url().to_owned(),
                process: pid,
            })?;
            let path = folder.join(format!("{name}.jsonl"));
            let lines = read_lines(&path).map_err(write(&path))?;
            let lines = compacted(lines, now, exact, &mut fences);
            rewrite(&path, &lines).map_err(write(&path))?;
            logs.push(KeyLog {
                path,
                _lock: lock,
                lines: lines.len(),
                compact_at: COMPACT_AT.max(lines.len().saturating_mul(2)),
            });
            earlier.extend(lines.into_iter().map(|line| AccountCharge {
                account: *account,
                model: line.model,
                charge: line.charge,
            }));
        }
        // Sorting is stable, so that the charges of a lease stay in order.
        earlier.sort_by_key(|it| it.charge.at());
        let charges = Self {
            logs,
            open: HashMap::new(),
            exact,
            broken: None,
        };
        Ok((charges, earlier))
    }

    /// Writes charges. `place` tells the log of a member and the name of a class.
    ///
    /// # Errors
    /// If a file can't be written, or could not be written before.
    pub(crate) fn write(
        &mut self,
        charges: Vec<Charge>,
        place: impl Fn(&Charge) -> Option<(usize, String)>,
    ) -> Result<(), BatchError> {
        if let Some(problem) = self.broken.clone() {
            return Err(BatchError::State { problem });
        }
        let mut texts: BTreeMap<usize, (Vec<u8>, usize)> = BTreeMap::new();
        let mut latest = Tick::ZERO;
        for charge in charges {
            latest = charge.at().map_or(latest, |at| latest.max(at));
            let found = match &charge {
                Charge::Granted { lease, .. } => place(&charge).inspect(|found| {
                    self.open.insert(*lease, found.clone());
                }),
                Charge::Arrived { lease, .. } | Charge::Renewed { lease, .. } => {
                    self.open.get(lease).cloned()
                }
                Charge::Ended { lease, .. } => self.open.remove(lease),
                Charge::Observed { .. } | Charge::Block { .. } => place(&charge),
            };
            let Some((log, model)) = found else {
                continue;
            };
            let (text, count) = texts.entry(log).or_default();
            // Writing JSON to memory can't fail.
            let _ = serde_json::to_writer(&mut *text, &Line { model, charge });
            text.push(b'\n');
            *count = count.saturating_add(1);
        }
        for (log, (text, count)) in texts {
            let Some(log) = self.logs.get_mut(log) else {
                continue;
            };
            let written = log.append(&text, count, latest, self.exact);
            if let Err(source) = written {
                let problem = format!("cannot write {}: {source}", log.path.display());
                self.broken = Some(problem.clone());
                return Err(BatchError::State { problem });
            }
        }
        Ok(())
    }
}

impl KeyLog {
    fn append(&mut self, text: &[u8], count: usize, now: Tick, exact: Duration) -> io::Result<()> {
        // Opened anew, so that a thousand keys take a thousand files at most, and not two thousand.
        state_folder::append(&self.path, text)?;
        self.lines = self.lines.saturating_add(count);
        if self.lines < self.compact_at {
            return Ok(());
        }
        // Leases keep their numbers, because open ones are still to be ended.
        let lines = dated(read_lines(&self.path)?, now, exact);
        rewrite(&self.path, &lines)?;
        self.lines = lines.len();
        self.compact_at = COMPACT_AT.max(lines.len().saturating_mul(2));
        Ok(())
    }
}

/// Returns the name of a key's files: a hash from which neither key nor URL can be told.
fn file_name(endpoint: &Endpoint) -> String {
    let mut hash = Sha256::new();
    hash.update(endpoint.root().as_bytes());
    hash.update(b"\n");
    hash.update(endpoint.key().expose().as_bytes());
    let digest = hash.finalize();
    let bytes = digest.iter().take(16);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// Reads all lines that are whole; a torn or foreign one is skipped.
fn read_lines(path: &Path) -> io::Result<Vec<Line>> {
    match fs::read(path) {
        Ok(bytes) => Ok(lines::parse(&bytes).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Replaces a file as a whole.
fn rewrite(path: &Path, values: &[Line]) -> io::Result<()> {
    lines::write_beside(path, state_folder::permissions(), values)?.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use leasehold_core::limit::Cost;
    use leasehold_protocol::ApiKey;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::process;

    const SECOND: u64 = 1_000_000_000;

    fn at(second: u64) -> Tick {
        Tick::from_nanos(1_800_000_000 * SECOND + second * SECOND)
    }

    fn granted(lease: u64, second: u64) -> Charge {
        Charge::Granted {
            lease,
            member: 7,
            class: 1,
            flow: 0,
            cost: Cost::REQUEST,
            at: at(second),
            expires: None,
        }
    }

    fn ended(lease: u64, second: u64) -> Charge {
        Charge::Ended {
            lease,
            cost: Cost::REQUEST,
            at: at(second),
        }
    }

    fn endpoint() -> Endpoint {
        let key = ApiKey::new("sk-secret-1234").unwrap();
        Endpoint::new("http://127.0.0.1:1", key).unwrap()
    }

    fn open(folder: &Path, second: u64) -> (Charges, Vec<Charge>) {
        let endpoint = endpoint();
        let opened = Charges::open(folder, &[(&endpoint, 0)], Duration::ZERO, at(second));
        let (charges, earlier) = opened.unwrap();
        (charges, earlier.into_iter().map(|it| it.charge).collect())
    }

    fn place(_: &Charge) -> Option<(usize, String)> {
        Some((0, "m".to_owned()))
    }

    #[test]
    fn charges_come_back_and_a_call_without_an_end_ends_at_the_restart() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("state");
        let (mut charges, _) = open(&folder, 0);
        let first = vec![granted(5, 1), granted(6, 2), ended(5, 3)];
        charges.write(first, place).unwrap();
        let path = charges.logs[0].path.clone();
        drop(charges);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"g\":{\"l\":9").unwrap();

        let (mut charges, earlier) = open(&folder, 10);
        assert_eq!(earlier.len(), 4);
        let ends = earlier
            .iter()
            .filter(|it| matches!(it, Charge::Ended { .. }));
        assert_eq!(
            ends.filter_map(Charge::at).collect::<Vec<_>>(),
            [at(3), at(10)]
        );
        // A number that an earlier run has used is no trouble.
        charges.write(vec![granted(5, 11)], place).unwrap();
        drop(charges);
        assert_eq!(open(&folder, 12).1.len(), 6);
    }

    #[test]
    fn the_files_are_private_and_name_no_key() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("state");
        let (mut charges, _) = open(&folder, 0);
        charges.write(vec![granted(1, 1)], place).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            let text = fs::read_to_string(&path).unwrap() + &path.display().to_string();
            assert!(!text.contains("1234") && !text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn a_second_run_on_a_key_is_refused_with_the_id_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let _first = open(folder.path(), 0);
        let endpoint = endpoint();
        let second = Charges::open(folder.path(), &[(&endpoint, 0)], Duration::ZERO, at(1));
        let message = second.unwrap_err().to_string();
        let pid = format!("process {}", process::id());
        assert!(
            message.contains(&pid) && message.contains("…1234"),
            "{message}"
        );
        assert!(message.contains("leasehold gateway"), "{message}");
    }

    #[test]
    fn nothing_is_charged_after_charges_were_lost() {
        let folder = tempfile::tempdir().unwrap();
        let (mut charges, _) = open(folder.path(), 0);
        let path = charges.logs[0].path.clone();
        fs::remove_file(&path).unwrap();
        let lost = charges.write(vec![granted(1, 1)], place);
        assert!(matches!(lost, Err(BatchError::State { .. })), "{lost:?}");
        fs::write(&path, "").unwrap();
        // Another thread's charge may have been among the lost ones, so that no call may be sent any more.
        let next = charges.write(Vec::new(), place);
        assert!(matches!(next, Err(BatchError::State { .. })), "{next:?}");
    }

    #[test]
    fn a_clock_that_was_ahead_hides_no_later_charge() {
        let folder = tempfile::tempdir().unwrap();
        let year = 365 * 24 * 3_600;
        let (mut charges, _) = open(folder.path(), year);
        let ahead = vec![granted(1, year), ended(1, year)];
        charges.write(ahead, place).unwrap();
        drop(charges);
        let (mut charges, _) = open(folder.path(), 0);
        charges
            .write(vec![granted(2, 1), ended(2, 1)], place)
            .unwrap();
        drop(charges);
        let (_, earlier) = open(folder.path(), 2);
        let ticks: Vec<_> = earlier.iter().filter_map(Charge::at).collect();
        assert_eq!(ticks, [at(0), at(0), at(1), at(1)]);
    }

    #[test]
    fn old_charges_are_joined_by_minute_and_then_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let (mut charges, _) = open(folder.path(), 0);
        for call in 0..100 {
            let pair = vec![granted(call, call), ended(call, call)];
            charges.write(pair, place).unwrap();
        }
        drop(charges);
        let hours = |hours: u64| 100 + hours * 3_600;
        let (_, earlier) = open(folder.path(), hours(2));
        assert_eq!(earlier.len(), 4, "one call for each of two minutes");
        let cost = |charge: &Charge| match charge {
            Charge::Granted { cost, .. } => cost.requests,
            Charge::Arrived { .. }
            | Charge::Renewed { .. }
            | Charge::Ended { .. }
            | Charge::Observed { .. }
            | Charge::Block { .. } => 0,
        };
        assert_eq!(earlier.iter().map(cost).sum::<u32>(), 100);
        assert_eq!(open(folder.path(), hours(26)).1.len(), 0);
    }

    #[test]
    fn a_large_file_is_compacted_while_it_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let (mut charges, _) = open(folder.path(), 0);
        charges.logs[0].compact_at = 10;
        let mut all: Vec<_> = (0..6)
            .flat_map(|call| [granted(call, 0), ended(call, 0)])
            .collect();
        all.push(granted(99, 200_000));
        charges.write(all, place).unwrap();
        assert_eq!(charges.logs[0].lines, 1);
        charges.write(vec![ended(99, 200_001)], place).unwrap();
        drop(charges);
        assert_eq!(open(folder.path(), 200_002).1.len(), 2);
    }
}
