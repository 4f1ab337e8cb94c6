//! What a configuration reads besides its own text: variables, files and the output of commands.
//!
//! Invariant: nothing that is read is longer than [`MAX_BYTES`], and no command runs longer than 20 s.

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;
use std::env::VarError;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::{env, fs, thread};

/// The longest file and the longest output of a command, in bytes.
pub const MAX_BYTES: u64 = 4 * 1_024 * 1_024;

/// The time that a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// What a configuration reads besides its own text. With [`Given`], reading it has no effects.
pub trait Inputs: fmt::Debug {
    /// Returns a variable of the environment; `None` if it is not set.
    ///
    /// # Errors
    /// If the variable is no text.
    fn variable(&self, name: &str) -> Result<Option<String>, String>;

    /// Returns the text of a file.
    ///
    /// # Errors
    /// If it can't be read, is too long or is not UTF-8.
    fn file(&self, path: &Path) -> Result<String, String>;

    /// Returns a path that is the same for two names of one file.
    fn identity(&self, path: &Path) -> PathBuf;

    /// Returns the files whose paths match a pattern, in order.
    ///
    /// # Errors
    /// If the pattern is malformed, or a folder can't be read.
    fn matching(&self, pattern: &str) -> Result<Vec<PathBuf>, String>;

    /// Runs a program with its arguments, and returns what it writes to standard output.
    ///
    /// # Errors
    /// If it can't be started, fails, takes too long, or writes too much or no UTF-8.
    fn output(&self, command: &[&str]) -> Result<String, String>;
}

/// The environment, files and programs of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process;

impl Inputs for Process {
    fn variable(&self, name: &str) -> Result<Option<String>, String> {
        match env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(_)) => {
                Err(format!("the environment variable {name} is not UTF-8"))
            }
        }
    }

    fn file(&self, path: &Path) -> Result<String, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        if file.metadata().is_ok_and(|file| file.is_dir()) {
            return Err("it is a folder".to_owned());
        }
        bounded(file)
    }

    fn identity(&self, path: &Path) -> PathBuf {
        fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
    }

    fn matching(&self, pattern: &str) -> Result<Vec<PathBuf>, String> {
        let paths = glob::glob(pattern).map_err(|error| error.to_string())?;
        paths
            .map(|path| path.map_err(|error| error.to_string()))
            .collect()
    }

    fn output(&self, command: &[&str]) -> Result<String, String> {
        let (program, arguments) = command.split_first().ok_or("there is no program")?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("it can't be started: {error}"))?;
        let (sender, receiver) = mpsc::channel();
        if let Some(output) = child.stdout.take() {
            // A pipe has no timeout; the thread ends with the pipe.
            thread::spawn(move || sender.send(bounded(output)));
        }
        let output = receiver.recv_timeout(COMMAND_TIMEOUT);
        let status = match output {
            Ok(Ok(_)) => ended(&mut child),
            Ok(Err(_)) | Err(_) => None,
        };
        if status.is_none() {
            // Both fail only for a child that has ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        let late = || format!("it took longer than {} s", COMMAND_TIMEOUT.as_secs());
        let output = output.map_err(|_| late())??;
        let status = status.ok_or_else(late)?;
        if status.success() {
            Ok(output)
        } else {
            Err(format!("it failed: {status}"))
        }
    }
}

/// Waits for a process that has closed its output; `None` if it takes too long.
fn ended(child: &mut Child) -> Option<ExitStatus> {
    let pause = Duration::from_millis(10);
    let pauses = COMMAND_TIMEOUT.as_millis() / pause.as_millis();
    for _ in 0..pauses {
        if let Some(status) = child.try_wait().ok()? {
            return Some(status);
        }
        thread::sleep(pause);
    }
    None
}

fn bounded(reader: impl Read) -> Result<String, String> {
    let mut text = String::new();
    let mut reader = reader.take(MAX_BYTES.saturating_add(1));
    reader.read_to_string(&mut text).map_err(|error| {
        if error.kind() == io::ErrorKind::InvalidData {
            "not UTF-8; save it as a plain text file".to_owned()
        } else {
            error.to_string()
        }
    })?;
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("longer than {MAX_BYTES} bytes"));
    }
    Ok(text)
}

/// Variables and files that are given; no command runs.
#[derive(Clone, Debug, Default)]
pub struct Given {
    variables: BTreeMap<String, String>,
    files: BTreeMap<PathBuf, String>,
}

impl Given {
    /// Creates inputs without variables and files.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a variable.
    #[must_use]
    pub fn with_variable(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Adds a file.
    #[must_use]
    pub fn with_file(mut self, path: impl AsRef<Path>, text: impl Into<String>) -> Self {
        self.files.insert(normal(path.as_ref()), text.into());
        self
    }
}

impl Inputs for Given {
    fn variable(&self, name: &str) -> Result<Option<String>, String> {
        Ok(self.variables.get(name).cloned())
    }

    fn file(&self, path: &Path) -> Result<String, String> {
        let text = self.files.get(&normal(path)).cloned();
        text.ok_or_else(|| "there is no such file".to_owned())
    }

    fn identity(&self, path: &Path) -> PathBuf {
        normal(path)
    }

    fn matching(&self, pattern: &str) -> Result<Vec<PathBuf>, String> {
        let pattern = glob::Pattern::new(pattern).map_err(|error| error.to_string())?;
        let paths = self.files.keys().filter(|path| pattern.matches_path(path));
        Ok(paths.cloned().collect())
    }

    fn output(&self, _: &[&str]) -> Result<String, String> {
        Err("no command runs here".to_owned())
    }
}

/// Returns a path without `.`, and without `..` where that is after a name.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        let is_name = |path: &Path| {
            path.components()
                .next_back()
                .is_some_and(|last| matches!(last, Component::Normal(_)))
        };
        match component {
            Component::CurDir => {}
            Component::ParentDir if is_name(&normal) => {
                normal.pop();
            }
            Component::ParentDir
            | Component::Normal(_)
            | Component::RootDir
            | Component::Prefix(_) => normal.push(component),
        }
    }
    normal
}
