//! Messages on the standard input of a program.
//!
//! Invariant: a program that does not end in its time is killed, with all that it has started in its process group.

use super::receiver::DeliveryError;
use core::fmt;
use core::pin::pin;
use core::time::Duration;
use leasehold_protocol::sanitize;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{AccessFlags, Pid, access};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::{env, io};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{self, Child, ChildStderr, ChildStdin};
use tokio::time::timeout;

/// The time that a program may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The time for the rest of standard error of a program that has ended.
const REST: Duration = Duration::from_millis(100);
/// Bytes of standard error that are kept: the last ones.
const MAX_ERROR: usize = 4_096;
/// Variables that the service manager has set for the gateway alone.
const OWN: [&str; 7] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "INVOCATION_ID",
];

/// A program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    program: String,
    arguments: Vec<String>,
}

/// The program alone: an argument may hold a secret.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the command {:?}", self.program)
    }
}

impl Command {
    /// Makes it of a program and its arguments; `None` without a program.
    pub(super) fn new(words: &[String]) -> Option<Self> {
        let (program, arguments) = words.split_first()?;
        Some(Self {
            program: program.clone(),
            arguments: arguments.to_vec(),
        })
    }

    /// Finds the file of the program as the system does when it is run, or tells why there is none.
    pub(super) fn find(&self) -> Result<PathBuf, &'static str> {
        let may_run = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
        if self.program.contains('/') {
            let path = PathBuf::from(&self.program);
            return match may_run(&path) {
                true => Ok(path),
                false if path.exists() => Err("it is no file that may be run here; chmod +x it"),
                false => Err("there is no such file"),
            };
        }
        let folders = env::var_os("PATH").unwrap_or_default();
        let mut files = env::split_paths(&folders).map(|folder| folder.join(&self.program));
        files
            .find(|path| may_run(path))
            .ok_or("no folder of PATH has it; write its path in full")
    }

    /// Runs it with a body on its standard input; the environment names the alert.
    pub(super) async fn run(&self, alert: &str, body: String) -> Result<(), DeliveryError> {
        let later = |why: String| DeliveryError::Later(why, None);
        let child = self.start(alert);
        let mut child = child.map_err(|error| later(format!("it can't be run: {error}")))?;
        let group = Group::of(&child);
        let Ok(ended) = timeout(TIMEOUT, end(&mut child, &body)).await else {
            let seconds = TIMEOUT.as_secs();
            return Err(later(format!(
                "it took longer than {seconds} s, and was killed"
            )));
        };
        group.leave();
        match ended.map_err(|error| later(error.to_string()))? {
            (status, _) if status.success() => Ok(()),
            (status, errors) => {
                let last = errors.trim_end().lines().next_back().unwrap_or_default();
                let why = format!("it failed: {status}: {}", sanitize(last, None));
                Err(later(why.trim_end_matches([':', ' ']).to_owned()))
            }
        }
    }

    fn start(&self, alert: &str) -> io::Result<Child> {
        let mut command = process::Command::new(&self.program);
        for variable in OWN {
            command.env_remove(variable);
        }
        command
            .args(&self.arguments)
            .env("LEASEHOLD_ALERT", alert)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }
}

/// The process group of a program, which is killed when it is dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.map(Pid::from_raw))
    }

    /// Leaves what is left of the group alone.
    fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // An error only means that it has just ended.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Waits for the end of a program, and returns it with the end of its standard error.
async fn end(child: &mut Child, body: &str) -> io::Result<(ExitStatus, String)> {
    let (input, errors) = (child.stdin.take(), child.stderr.take());
    let mut kept = Vec::new();
    let status = {
        let mut streams = pin!(async {
            tokio::join!(write(input, body), read(errors, &mut kept));
        });
        tokio::select! {
            status = child.wait() => {
                // What it has started and left behind may hold standard error open.
                let _ = timeout(REST, streams.as_mut()).await;
                status?
            }
            () = streams.as_mut() => child.wait().await?,
        }
    };
    Ok((status, String::from_utf8_lossy(&kept).into_owned()))
}

async fn write(input: Option<ChildStdin>, body: &str) {
    if let Some(mut input) = input {
        // A program may end without having read all of it.
        let _ = input.write_all(body.as_bytes()).await;
    }
}

/// Reads standard error to its end, and keeps the last of it.
async fn read(errors: Option<ChildStderr>, kept: &mut Vec<u8>) {
    let Some(mut errors) = errors else {
        return;
    };
    while let Ok(1..) = errors.read_buf(kept).await {
        let excess = kept.len().saturating_sub(MAX_ERROR);
        kept.drain(..excess);
    }
}
