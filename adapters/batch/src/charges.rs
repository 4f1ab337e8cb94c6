//! Charges on disk: what was called with each key, so that limits hold across runs and kills.
//!
//! Invariant: a call is sent only once its charge was written, and a key is charged by one process at a time. No file
//! holds a key or names one.

use crate::account::{AccountCharge, tick_of};
use crate::error::BatchError;
use core::time::Duration;
use leasehold_core::limit::Cost;
use leasehold_core::pool::Charge;
use leasehold_core::time::Tick;
use leasehold_protocol::Endpoint;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process;

/// Shortest time that charges are kept: limits of a day hold for a key that had none before.
const MIN_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Shortest time that charges are kept one by one; older ones become one a minute.
const MIN_EXACT: Duration = Duration::from_secs(60 * 60);
/// Lines of a file before it is compacted, and again each time that it has doubled since.
const COMPACT_AT: usize = 20_000;
const MINUTE: u64 = 60_000_000_000;

/// One line of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    /// The model of the call; empty if unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    model: String,
    #[serde(flatten)]
    charge: Charge,
}

/// The charges of all keys of a run.
#[derive(Debug)]
pub(crate) struct Charges {
    logs: Vec<KeyLog>,
    /// The log and the model of each open lease.
    open: HashMap<u64, (usize, String)>,
    exact: Duration,
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
    /// `accounts` tells the account of each endpoint, and `longest` the longest window of a limit.
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
        create_folder(folder).map_err(write(folder))?;
        let exact = longest.max(MIN_EXACT);
        let (mut logs, mut earlier) = (Vec::new(), Vec::new());
        let mut fences = 0;
        for (endpoint, account) in endpoints {
            let name = file_name(endpoint);
            let lock_path = folder.join(format!("{name}.lock"));
            let lock = lock(&lock_path).map_err(write(&lock_path))?;
            let lock = lock.map_err(|pid| BatchError::KeyInUse {
                key: endpoint.key().to_string(),
                url: endpoint.url().to_owned(),
                process: pid,
            })?;
            let path = folder.join(format!("{name}.jsonl"));
            let lines = read_lines(&path).map_err(write(&path))?;
            let lines = compacted(lines, now, exact, Some(now), &mut fences);
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
        earlier.sort_by_key(|it| tick_of(&it.charge));
        let open = HashMap::new();
        Ok((Self { logs, open, exact }, earlier))
    }

    /// Writes charges. `place` tells the log of a member and the name of a class.
    pub(crate) fn write(
        &mut self,
        charges: Vec<Charge>,
        place: impl Fn(&Charge) -> Option<(usize, String)>,
    ) -> Result<(), BatchError> {
        let mut texts: BTreeMap<usize, (Vec<u8>, usize)> = BTreeMap::new();
        let mut latest = Tick::ZERO;
        for charge in charges {
            latest = latest.max(tick_of(&charge));
            let found = match &charge {
                Charge::Granted { lease, .. } => place(&charge).inspect(|found| {
                    self.open.insert(*lease, found.clone());
                }),
                Charge::Arrived { lease, .. } => self.open.get(lease).cloned(),
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
            written.map_err(|source| BatchError::State {
                problem: format!("cannot write {}: {source}", log.path.display()),
            })?;
        }
        Ok(())
    }
}

impl KeyLog {
    fn append(&mut self, text: &[u8], count: usize, now: Tick, exact: Duration) -> io::Result<()> {
        // Opened anew, so that a thousand keys take a thousand files at most, and not two thousand.
        private_file()
            .append(true)
            .open(&self.path)?
            .write_all(text)?;
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

/// Ends leases without an end at `now`, gives all of them new numbers, and drops what is old.
fn compacted(
    lines: Vec<Line>,
    now: Tick,
    exact: Duration,
    end: Option<Tick>,
    fences: &mut u64,
) -> Vec<Line> {
    let mut open: BTreeMap<u64, (u64, String, Cost)> = BTreeMap::new();
    let mut renumbered = Vec::new();
    for Line { model, mut charge } in lines {
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
    if let Some(at) = end {
        for (lease, model, cost) in open.into_values() {
            let charge = Charge::Ended { lease, cost, at };
            renumbered.push(Line { model, charge });
        }
    }
    dated(renumbered, now, exact)
}

/// Drops charges that no limit can hold any more, and joins those beyond `exact` to one a minute.
fn dated(lines: Vec<Line>, now: Tick, exact: Duration) -> Vec<Line> {
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

/// Reads all lines that are whole; a torn or foreign one is skipped.
fn read_lines(path: &Path) -> io::Result<Vec<Line>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(mut file) => file.read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let lines = bytes.split(|byte| *byte == b'\n');
    Ok(lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}

/// Replaces a file as a whole.
fn rewrite(path: &Path, lines: &[Line]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(folder)?;
    let mut writer = BufWriter::new(file.as_file_mut());
    for line in lines {
        serde_json::to_writer(&mut writer, line)?;
        writer.write_all(b"\n")?;
    }
    writer.flush()?;
    drop(writer);
    file.persist(path)?;
    Ok(())
}

/// Takes a lock and leaves this process's id in it; `Err` with that of the process that has it.
fn lock(path: &Path) -> io::Result<Result<File, Option<u32>>> {
    let mut file = private_file()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // The id only serves the message.
            let _ = file.read_to_string(&mut text);
            return Ok(Err(text.trim().parse().ok()));
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    file.set_len(0)?;
    writeln!(file, "{}", process::id())?;
    Ok(Ok(file))
}

#[cfg(unix)]
fn create_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(not(unix))]
fn create_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).create(folder)
}

#[cfg(unix)]
fn private_file() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

#[cfg(not(unix))]
fn private_file() -> OpenOptions {
    OpenOptions::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use leasehold_protocol::ApiKey;

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
        assert_eq!(ends.map(tick_of).collect::<Vec<_>>(), [at(3), at(10)]);
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
