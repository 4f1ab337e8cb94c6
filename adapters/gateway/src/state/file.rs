//! The state file: a line of JSON for each charge, for the latest changes by the admin, and for what callers have used.
//!
//! Invariant: a line is appended as a whole, and the file is replaced as a whole; a line that is not whole tells that
//! the one before the crash may be lost.

use super::StateError;
use crate::account::{Spent, UsedByModel};
use crate::resources::{MAX_RESOURCES, Resource};
use leasehold_core::pool::Charge;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
const PRIVATE: u32 = 0o600;
/// Where Linux tells which boot of the machine this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The boot of a file that lacks charges.
const NO_BOOT: &str = "unknown";

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// The first line.
    Header {
        leasehold: u32,
        boot: String,
    },
    Charge {
        pool: String,
        charge: Charge,
    },
    /// All changes by the admin that are in force.
    Changes(Value),
    /// All that a caller has used.
    Used {
        caller: Option<String>,
        models: UsedByModel,
    },
    /// What a caller has spent of its budget, with what is set aside for its calls.
    Spent {
        caller: String,
        spent: Spent,
    },
    /// Something that a service keeps for one key.
    Kept(Resource),
    /// The process has ended in order.
    End,
}

impl Line {
    pub(super) fn charge(pool: &str, charge: Charge) -> Self {
        Self::Charge {
            pool: pool.to_owned(),
            charge,
        }
    }
}

/// What a file holds.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    pub(super) charges: Vec<(String, Charge)>,
    pub(super) kept: Kept,
    /// Whether charges may be missing: after a reboot, or a line that is not whole.
    pub(super) may_lack: bool,
}

/// Everything but charges. Of each kind and name the last line holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Kept {
    pub(super) changes: Option<Value>,
    pub(super) used: BTreeMap<Option<String>, UsedByModel>,
    pub(super) spent: BTreeMap<String, Spent>,
    /// The oldest first.
    pub(super) resources: Vec<Resource>,
}

impl Kept {
    /// Enters a line; one of another kind changes nothing.
    pub(super) fn note(&mut self, line: Line) {
        match line {
            Line::Changes(changes) => self.changes = Some(changes),
            Line::Used { caller, models } => {
                self.used.insert(caller, models);
            }
            Line::Spent { caller, spent } => {
                self.spent.insert(caller, spent);
            }
            Line::Kept(resource) => self.resources.push(resource),
            Line::Header { .. } | Line::Charge { .. } | Line::End => {}
        }
    }

    /// Forgets the oldest resources: what is forgotten in memory is not kept here either.
    pub(super) fn forget_surplus(&mut self) {
        let most = MAX_RESOURCES.get() as usize;
        let surplus = self.resources.len().saturating_sub(most);
        self.resources.drain(..surplus);
    }

    pub(super) fn into_lines(mut self) -> impl Iterator<Item = Line> {
        self.forget_surplus();
        let used = self.used.into_iter();
        let used = used.map(|(caller, models)| Line::Used { caller, models });
        let spent = self.spent.into_iter();
        let spent = spent.map(|(caller, spent)| Line::Spent { caller, spent });
        let resources = self.resources.into_iter().map(Line::Kept);
        let changes = self.changes.into_iter().map(Line::Changes);
        changes.chain(used).chain(spent).chain(resources)
    }
}

/// An open state file.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    file: File,
    /// Held as long as the process lives.
    _lock: File,
    lines: usize,
    lines_at_first: usize,
}

impl StateFile {
    /// Opens a file for this process alone, and reads it.
    pub(super) fn open(path: &Path) -> Result<(Self, Found), StateError> {
        let io = io_error(path);
        let lock = take_lock(path)?;
        let file = private().append(true).open(path).map_err(io)?;
        file.set_permissions(Permissions::from_mode(PRIVATE))
            .map_err(io)?;
        let opened = Self {
            path: path.to_owned(),
            file,
            _lock: lock,
            lines: 0,
            lines_at_first: 0,
        };
        let found = opened.read()?;
        Ok((opened, found))
    }

    /// Reads the file.
    fn read(&self) -> Result<Found, StateError> {
        let text = fs::read(&self.path).map_err(io_error(&self.path))?;
        parse(&text, &boot_id()).map_err(|line| StateError::Foreign {
            path: self.path.clone(),
            line,
        })
    }

    /// Appends lines by one write.
    pub(super) fn append(
        &mut self,
        lines: impl IntoIterator<Item = Line>,
    ) -> Result<(), StateError> {
        let (text, count) = text_of(lines);
        self.file.write_all(&text).map_err(io_error(&self.path))?;
        self.lines = self.lines.saturating_add(count);
        Ok(())
    }

    /// Replaces all lines. One that lacks charges is read as such until it is replaced again.
    pub(super) fn rewrite(
        &mut self,
        lines: impl IntoIterator<Item = Line>,
        may_lack: bool,
    ) -> Result<(), StateError> {
        let io = io_error(&self.path);
        let boot = if may_lack {
            NO_BOOT.to_owned()
        } else {
            boot_id()
        };
        let header = Line::Header {
            leasehold: VERSION,
            boot,
        };
        let (text, count) = text_of(core::iter::once(header).chain(lines));
        let folder = self
            .path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let mut new = tempfile::Builder::new()
            .prefix(".leasehold-")
            .tempfile_in(folder.unwrap_or(Path::new(".")))
            .map_err(io)?;
        new.write_all(&text).map_err(io)?;
        new.persist(&self.path).map_err(|error| io(error.error))?;
        self.file = OpenOptions::new()
            .append(true)
            .open(&self.path)
            .map_err(io)?;
        (self.lines, self.lines_at_first) = (count, count);
        Ok(())
    }

    pub(super) fn lines(&self) -> usize {
        self.lines
    }

    /// The lines after it was last replaced.
    pub(super) fn lines_at_first(&self) -> usize {
        self.lines_at_first
    }
}

/// Reads lines; `Err` with the number of the first one that no gateway has written.
pub(super) fn parse(text: &[u8], boot: &str) -> Result<Found, usize> {
    let mut found = Found::default();
    let mut has_ended = false;
    let mut same_boot = true;
    let Some(whole) = text.iter().rposition(|byte| *byte == b'\n') else {
        // Nothing, or a header that was cut.
        found.may_lack = !text.is_empty();
        return Ok(found);
    };
    found.may_lack = whole.saturating_add(1) < text.len();
    for (number, line) in (1..).zip(text[..whole].split(|byte| *byte == b'\n')) {
        match (number, serde_json::from_slice::<Line>(line)) {
            (
                1,
                Ok(Line::Header {
                    leasehold: VERSION,
                    boot: written,
                }),
            ) => same_boot = written == boot,
            (1, _) => return Err(1),
            (_, Ok(Line::Charge { pool, charge })) => found.charges.push((pool, charge)),
            (_, Ok(Line::End)) => has_ended = true,
            (_, Ok(Line::Header { .. })) => return Err(number),
            (
                _,
                Ok(
                    line @ (Line::Changes(_)
                    | Line::Used { .. }
                    | Line::Spent { .. }
                    | Line::Kept(_)),
                ),
            ) => found.kept.note(line),
            (_, Err(_)) => found.may_lack = true,
        }
    }
    // Without a reboot the system has kept what was written.
    found.may_lack |= !same_boot && !has_ended;
    Ok(found)
}

/// A state file as it is, looked at by a process that does not use it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateFound {
    /// Whether there is one.
    pub exists: bool,
    /// Whether a process uses it.
    pub user: StateUser,
    /// Whether charges may be missing, so that `after_crash` decides on the limits at the next start.
    pub may_lack: bool,
}

/// The process that uses a state file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StateUser {
    /// There is none.
    #[default]
    None,
    /// One that did not write its id.
    Unknown,
    /// The one of this id.
    Process(u32),
}

/// Reads a state file without changing it.
///
/// Its lock is tried for some microseconds if it exists; a gateway that starts just then takes the file for used.
///
/// # Errors
/// The file can't be read, or is none of a gateway.
pub fn examine_state(path: &Path) -> Result<StateFound, StateError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(StateFound::default()),
        Err(error) => return Err(io_error(path)(error)),
    };
    let user = match File::open(lock_path(path)) {
        Ok(mut lock) => match lock.try_lock_shared() {
            Ok(()) => StateUser::None,
            Err(TryLockError::WouldBlock) => {
                process_of(&mut lock).map_or(StateUser::Unknown, StateUser::Process)
            }
            Err(TryLockError::Error(error)) => return Err(io_error(path)(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => StateUser::None,
        Err(error) => return Err(io_error(path)(error)),
    };
    let found = parse(&text, &boot_id()).map_err(|line| StateError::Foreign {
        path: path.to_owned(),
        line,
    })?;
    Ok(StateFound {
        exists: true,
        may_lack: found.may_lack && user == StateUser::None,
        user,
    })
}

/// Returns what a gateway of this boot writes of what it has read, for the fuzzer.
///
/// # Errors
/// The number of the first line that no gateway has written.
pub fn rewrite_state(text: &[u8], boot: &str) -> Result<Vec<u8>, usize> {
    let found = parse(text, boot)?;
    let header = Line::Header {
        leasehold: VERSION,
        boot: boot.to_owned(),
    };
    let charges = found.charges.into_iter();
    let lines = core::iter::once(header)
        .chain(charges.map(|(pool, charge)| Line::Charge { pool, charge }))
        .chain(found.kept.into_lines());
    Ok(text_of(lines).0)
}

fn text_of(lines: impl IntoIterator<Item = Line>) -> (Vec<u8>, usize) {
    let (mut text, mut count) = (Vec::new(), 0_usize);
    for line in lines {
        // Writing JSON to memory can't fail.
        let _ = serde_json::to_writer(&mut text, &line);
        text.push(b'\n');
        count = count.saturating_add(1);
    }
    (text, count)
}

/// Takes the lock beside a file, and leaves this process's id in it.
fn take_lock(path: &Path) -> Result<File, StateError> {
    let lock_path = lock_path(path);
    let io = io_error(&lock_path);
    let mut lock = private()
        .read(true)
        .write(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(io)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(StateError::InUse {
                path: path.to_owned(),
                process: process_of(&mut lock),
            });
        }
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    lock.set_len(0).map_err(io)?;
    writeln!(lock, "{}", std::process::id()).map_err(io)?;
    Ok(lock)
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Returns the id that a process has left in its lock.
fn process_of(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    // The id only serves a message.
    let _ = lock.read_to_string(&mut text);
    text.trim().parse().ok()
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).mode(PRIVATE);
    options
}

fn boot_id() -> String {
    // A system without it is taken as never rebooted.
    fs::read_to_string(BOOT_ID)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> StateError + Copy + '_ {
    move |source| StateError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leasehold_core::limit::Cost;
    use leasehold_core::time::Tick;
    use proptest::prelude::*;

    fn charge() -> Line {
        Line::charge(
            "web",
            Charge::Ended {
                lease: 1,
                cost: Cost::REQUEST,
                at: Tick::ZERO,
            },
        )
    }

    fn header(boot: &str) -> Line {
        Line::Header {
            leasehold: VERSION,
            boot: boot.to_owned(),
        }
    }

    fn found(lines: Vec<Line>, boot: &str) -> Result<Found, usize> {
        parse(&text_of(lines).0, boot)
    }

    #[test]
    fn charges_may_be_missing_after_a_reboot_unless_the_process_has_ended_in_order() {
        for (lines, may_lack) in [
            (vec![header("a"), charge()], false),
            (vec![header("b"), charge()], true),
            (vec![header("b"), charge(), Line::End], false),
        ] {
            assert_eq!(
                found(lines.clone(), "a").unwrap().may_lack,
                may_lack,
                "{lines:?}"
            );
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_read_up_to_there() {
        let (text, _) = text_of([header("a"), charge(), charge()]);
        let ends: Vec<_> = (0..=text.len())
            .filter(|end| *end == 0 || text[end - 1] == b'\n')
            .collect();
        for end in 0..=text.len() {
            let found = parse(&text[..end], "a").unwrap();
            let whole = ends.iter().filter(|one| **one <= end).count();
            assert_eq!(found.charges.len(), whole.saturating_sub(2));
            assert_eq!(found.may_lack, !ends.contains(&end), "{end}");
        }
    }

    #[test]
    fn another_program_s_file_is_refused() {
        assert_eq!(parse(b"key = value\n", "a"), Err(1));
        assert_eq!(found(vec![charge()], "a"), Err(1));
        assert_eq!(found(vec![header("a"), charge(), header("a")], "a"), Err(3));
    }

    #[test]
    fn a_second_process_is_refused_and_told_which_is_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let (mut first, _) = StateFile::open(&path).unwrap();
        first.rewrite([charge()], false).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, PRIVATE);
        assert_eq!(
            examine_state(&path).unwrap().user,
            StateUser::Process(std::process::id())
        );
        let second = StateFile::open(&path).unwrap_err().to_string();
        assert!(
            second.contains(&format!("process {}", std::process::id())),
            "{second}"
        );
        first.rewrite([charge()], true).unwrap();
        drop(first);
        let left = examine_state(&path).unwrap();
        assert_eq!(
            (left.exists, left.user, left.may_lack),
            (true, StateUser::None, true)
        );
        let (_, found) = StateFile::open(&path).unwrap();
        assert_eq!((found.charges.len(), found.may_lack), (1, true));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(&bytes, "a");
        }
    }
}
