//! Files that the gateway reads and writes: whether it can, and whether others can too.

use super::finding::Findings;
use core::cell::RefCell;
use leasehold_config::{Inputs, Process, Settings};
use leasehold_gateway::{StateFound, StateUser, examine_state};
use nix::unistd::{AccessFlags, access};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

const CHECK: &str = "rights";
/// Others may write; others may read; others or the group may do anything.
const OTHERS_WRITE: u32 = 0o002;
const OTHERS_READ: u32 = 0o004;
const NOT_OWNER: u32 = 0o077;
/// In such a folder, files of others can't be replaced.
const STICKY: u32 = 0o1000;

/// The inputs of this process, which notes the files that are read.
#[derive(Debug, Default)]
pub(super) struct Noted {
    /// Configuration files: their identities are asked for, so that none is read twice.
    configs: RefCell<Vec<PathBuf>>,
    /// All files.
    files: RefCell<Vec<PathBuf>>,
}

impl Inputs for Noted {
    fn variable(&self, name: &str) -> Result<Option<String>, String> {
        Process.variable(name)
    }

    fn file(&self, path: &Path) -> Result<String, String> {
        self.files.borrow_mut().push(path.to_owned());
        Process.file(path)
    }

    fn identity(&self, path: &Path) -> PathBuf {
        let identity = Process.identity(path);
        self.configs.borrow_mut().push(identity.clone());
        identity
    }

    fn matching(&self, pattern: &str) -> Result<Vec<PathBuf>, String> {
        Process.matching(pattern)
    }

    fn output(&self, command: &[&str]) -> Result<String, String> {
        Process.output(command)
    }
}

/// Looks at the rights of all files in the settings.
pub(super) fn check(settings: &Settings, noted: &Noted, findings: &mut Findings) {
    let configs = noted.configs.borrow();
    for path in noted.files.borrow().iter() {
        let is_config = configs.contains(&Process.identity(path));
        check_read(path, is_config, findings);
    }
    if let Some(state) = &settings.state {
        check_state(&state.path, findings);
    }
    if let Some(path) = &settings.access_log.path {
        let problem = match path.exists() {
            true => writable(path),
            false => writable_folder(path),
        };
        match problem {
            Ok(()) => findings.ok(
                CHECK,
                format_args!("access log {}: writable", path.display()),
            ),
            Err(problem) => findings.error(
                CHECK,
                format_args!("access log {}: {problem}", path.display()),
            ),
        }
    }
}

/// Looks at a file of settings or of secrets.
fn check_read(path: &Path, is_config: bool, findings: &mut Findings) {
    let shown = path.display();
    let Some(mode) = mode(path) else {
        let problem = "its rights can't be read, though it was read just before";
        return findings.error(
            CHECK,
            format_args!("{shown}: {problem}; look whether it is still there"),
        );
    };
    if mode & OTHERS_WRITE != 0 {
        let problem =
            format!("{shown}: every user of this machine can change it; chmod o-w {shown}");
        findings.error(CHECK, problem);
    } else if !is_config && mode & OTHERS_READ != 0 {
        let problem = "every user of this machine can read the secrets in it";
        findings.error(CHECK, format_args!("{shown}: {problem}; chmod 600 {shown}"));
    } else {
        let kind = if is_config { "settings" } else { "secrets" };
        findings.ok(CHECK, format_args!("{shown}: {kind}, mode {mode:03o}"));
    }
}

fn check_state(path: &Path, findings: &mut Findings) {
    let shown = path.display();
    if let Err(problem) = writable_folder(path) {
        findings.error(CHECK, format_args!("state file {shown}: {problem}"));
    }
    let found = match examine_state(path) {
        Ok(found) => found,
        Err(error) => return findings.error("state", error),
    };
    let StateFound {
        exists,
        user,
        may_lack,
    } = found;
    if !exists {
        return findings.ok("state", format_args!("{shown}: the first start makes it"));
    }
    match mode(path) {
        Some(mode) if mode & NOT_OWNER != 0 => {
            let problem = format!("its mode is {mode:03o}, so that others can use it");
            findings.error(
                CHECK,
                format_args!("state file {shown}: {problem}; chmod 600 {shown}"),
            );
        }
        Some(_) => findings.ok(CHECK, format_args!("state file {shown}: its owner's alone")),
        None => findings.error(
            CHECK,
            format_args!("state file {shown}: its rights can't be read"),
        ),
    }
    match user {
        StateUser::Process(process) => {
            findings.ok("state", format_args!("{shown}: in use by a gateway, process {process}"));
        }
        StateUser::Unknown => findings.ok("state", format_args!("{shown}: in use by a gateway")),
        StateUser::None if may_lack => findings.warning(
            "state",
            format_args!(
                "{shown}: calls may be missing in it after a crash of the machine; unless after_crash = \"trust\", the \
                 next start takes all limits as used up"
            ),
        ),
        StateUser::None => findings.ok("state", format_args!("{shown}: whole, and used by no gateway")),
    }
}

/// Whether this process can make and replace files beside a path, and strangers can't.
pub(super) fn writable_folder(path: &Path) -> Result<(), String> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let shown = folder.display();
    let mode = mode(folder).ok_or_else(|| format!("there is no folder {shown}; make it"))?;
    writable(folder)?;
    match mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
        true => Err(format!(
            "every user of this machine can replace files in {shown}; chmod o-w {shown}"
        )),
        false => Ok(()),
    }
}

fn writable(path: &Path) -> Result<(), String> {
    access(path, AccessFlags::W_OK).map_err(|error| {
        let shown = path.display();
        format!("{shown} can't be written: {}; run the doctor as the gateway's user, or give it to that", error.desc())
    })
}

fn mode(path: &Path) -> Option<u32> {
    let file = fs::metadata(path).ok()?;
    Some(file.permissions().mode() & 0o7777)
}
