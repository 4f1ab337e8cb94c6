//! Messages on the standard input of a program.
//!
//! Invariant: a program that does not end in its time is killed.

use super::delivery::Untaken;
use core::fmt;
use core::pin::pin;
use core::time::Duration;
use leasehold_protocol::sanitize;
use std::io;
use std::process::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::process::{self, ChildStderr, ChildStdin};
use tokio::time::timeout;

/// The time that a program may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The time for the rest of standard error of a program that has ended.
const REST: Duration = Duration::from_millis(100);
/// Bytes of standard error that are kept.
const MAX_ERROR: u64 = 4_096;

/// A program with its arguments.
#[derive(Debug)]
pub(super) struct Command {
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

    /// Runs it with a body on its standard input; the environment names the alert.
    pub(super) async fn run(&self, alert: &str, body: String) -> Result<(), Untaken> {
        let later = |why: String| Untaken::Later(why, None);
        let ran = timeout(TIMEOUT, self.exchange(alert, body)).await;
        match ran {
            Ok(Ok((true, _))) => Ok(()),
            Ok(Ok((false, why))) => Err(later(why)),
            Ok(Err(error)) => Err(later(format!("it can't be run: {error}"))),
            Err(_) => {
                let why = format!(
                    "it took longer than {} s, and was killed",
                    TIMEOUT.as_secs()
                );
                Err(later(why))
            }
        }
    }

    /// Returns whether it has succeeded, and how it has ended.
    async fn exchange(&self, alert: &str, body: String) -> io::Result<(bool, String)> {
        let mut child = process::Command::new(&self.program)
            .args(&self.arguments)
            .env("LEASEHOLD_ALERT", alert)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (input, errors) = (child.stdin.take(), child.stderr.take());
        let mut told = Vec::new();
        let status = {
            let mut streams = pin!(async {
                tokio::join!(write(input, body), read(errors, &mut told));
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
        let told = String::from_utf8_lossy(&told);
        let last = told.trim_end().lines().next_back().unwrap_or_default();
        let last = sanitize(last, None);
        let mut how = format!("it failed: {status}");
        if !last.is_empty() {
            how = format!("{how}: {last}");
        }
        Ok((status.success(), how))
    }
}

async fn write(input: Option<ChildStdin>, body: String) {
    if let Some(mut input) = input {
        // A program may end without having read all of it.
        let _ = input.write_all(body.as_bytes()).await;
    }
}

/// Reads standard error to its end, and keeps the first of it.
async fn read(errors: Option<ChildStderr>, told: &mut Vec<u8>) {
    if let Some(mut errors) = errors {
        let _ = (&mut errors).take(MAX_ERROR).read_to_end(told).await;
        // The rest is read too, or the program would wait for a reader.
        let _ = copy(&mut errors, &mut sink()).await;
    }
}
