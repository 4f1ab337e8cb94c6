//! `leasehold lease`: a command under a lease of a gateway's pool.
//!
//! Invariant: the command runs only while its lease may be counted on, and the gateway hears how it ended.

use crate::pool::{TOKEN, place_of};
use crate::values::{parse_timeout, parse_whole};
use crate::{CliError, print_err};
use core::time::Duration;
use leasehold_http::RemotePool;
use leasehold_protocol::lease::{GrantedLease, LeaseCost, LeaseFailure, LeaseRequest};
use leasehold_sync::{Lease, Outcome};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

/// The exit code of a command that says that the upstream has refused it for a limit: EX_TEMPFAIL of sysexits.h.
const THROTTLED: i32 = 75;
/// The exit codes of `timeout` and `env` for what is not the command's own.
const NO_LEASE: u8 = 125;
const NOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;
/// How long the gateway may take to hear how the lease has ended; one that has expired matters less.
const LAST_WORDS: Duration = Duration::from_secs(10);
const LATE_WORDS: Duration = Duration::from_millis(500);

const EXAMPLE: &str = "\
Examples:
  leasehold lease --pool http://127.0.0.1:8090/v1/pools/keys -- \\
      sh -c 'curl -sS \"$LEASEHOLD_URL/models\" -H \"Authorization: Bearer $LEASEHOLD_KEY\"'
  leasehold lease --pool http://127.0.0.1:8090/v1/pools/gpu --wait 1h -- python train.py
  leasehold lease --pool http://127.0.0.1:8090 --key-env OPENAI_API_KEY --url-env OPENAI_BASE_URL -- ./job";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// The gateway's lease service: http://HOST:PORT, with /v1/pools/NAME if it has several pools
    #[arg(long, value_name = "URL")]
    pool: String,
    /// File with the service's token, or a caller's key [default: $LEASEHOLD_TOKEN, else none]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Longest wait for the lease [default: without end]
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    wait: Option<Duration>,
    /// Kind of the call, such as its model
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// Label that the member must have; repeatable
    #[arg(long, value_name = "NAME")]
    label: Vec<String>,
    /// Tokens that the command may use, of limits that count tokens
    #[arg(long, value_name = "TOKENS", default_value = "0", value_parser = parse_whole::<u32>)]
    tokens: u32,
    /// Further variable that gets the key; repeatable
    #[arg(long, value_name = "NAME")]
    key_env: Vec<String>,
    /// Further variable that gets the URL; repeatable
    #[arg(long, value_name = "NAME")]
    url_env: Vec<String>,
    /// The command and its arguments
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

/// Runs the command; its exit code is the command's own.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, CliError> {
    let file = arguments.token_file.as_deref();
    let place = place_of(&arguments.pool, file, "--token-file")?;
    let pool = RemotePool::new(place, GrantedLease::clone).map_err(CliError::system)?;
    let request = LeaseRequest {
        class: arguments.class.clone(),
        labels: arguments.label.clone(),
        cost: Some(LeaseCost {
            requests: 1,
            tokens: arguments.tokens,
        }),
        ..LeaseRequest::default()
    };
    let lease = pool
        .acquire(request, arguments.wait)
        .map_err(|failure| no_lease(&arguments.pool, &failure))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::system)?;
    let ran = runtime.block_on(under_lease(arguments, &lease));
    let (outcome, code) = match ran {
        Ok(Ended::Command(status)) => (outcome_of(status), code_of(status)),
        Ok(Ended::LeaseLost) => {
            print_err(
                "error: the lease has expired, because the gateway could not be reached in time; the command was ended",
            );
            (Some(Outcome::Unknown), NO_LEASE)
        }
        Err(error) => {
            let name = arguments.command[0].to_string_lossy();
            print_err(format_args!("error: {name}: {error}"));
            let is_missing = error.kind() == io::ErrorKind::NotFound;
            (
                Some(Outcome::NotSent),
                if is_missing { NOT_FOUND } else { NOT_RUN },
            )
        }
    };
    let _ = match outcome {
        Some(outcome) => lease.release(outcome),
        // For how long is not known here.
        None => lease.release_throttled(Duration::ZERO),
    };
    let patience = match outcome {
        Some(Outcome::Unknown) => LATE_WORDS,
        Some(_) | None => LAST_WORDS,
    };
    if !pool.flush(patience) {
        print_err(
            "warning: the gateway has not heard that the command has ended; its lease will expire",
        );
    }
    Ok(ExitCode::from(code))
}

fn no_lease(pool: &str, failure: &LeaseFailure) -> CliError {
    let is_asked_wrongly = match failure {
        LeaseFailure::Refused(problem) => (400..429).contains(&problem.status),
        LeaseFailure::Unreachable(_) => false,
    };
    CliError {
        message: format!("{pool}: {failure}"),
        code: if is_asked_wrongly { 2 } else { NO_LEASE },
    }
}

/// How a run under a lease has ended.
enum Ended {
    Command(ExitStatus),
    /// The lease can't be counted on any more; the command was ended for it.
    LeaseLost,
}

/// Runs the command to its end, or to that of its lease.
async fn under_lease(arguments: &Arguments, lease: &Lease<GrantedLease>) -> io::Result<Ended> {
    // Ctrl-C reaches the command too, which decides what becomes of it; a signal to this process alone is passed on.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut child = start(arguments, lease)?;
    loop {
        let left = match lease.renew() {
            Ok(left) => left.unwrap_or(LAST_WORDS),
            Err(_) => {
                end(&child);
                return child.wait().await.map(|_| Ended::LeaseLost);
            }
        };
        tokio::select! {
            status = child.wait() => return status.map(Ended::Command),
            _ = terminate.recv() => end(&child),
            _ = interrupt.recv() => {}
            () = sleep(left) => {}
        }
    }
}

fn start(arguments: &Arguments, lease: &GrantedLease) -> io::Result<Child> {
    let (program, rest) = arguments
        .command
        .split_first()
        .ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command
        .args(rest)
        .env_remove(TOKEN)
        .env("LEASEHOLD_URL", &lease.url)
        .env("LEASEHOLD_MEMBER", &lease.member)
        .env("LEASEHOLD_FENCE", lease.fence.to_string());
    for name in &arguments.url_env {
        command.env(name, &lease.url);
    }
    if let Some(secret) = &lease.secret {
        let names = arguments.key_env.iter().map(String::as_str);
        for name in names.chain(["LEASEHOLD_KEY"]) {
            command.env(name, secret.expose());
        }
    }
    command.spawn()
}

/// Asks the command to end.
fn end(child: &Child) {
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(id) = id {
        // It may have ended already.
        let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
    }
}

/// Returns how the call has ended; `None` if the upstream has refused it for a limit.
fn outcome_of(status: ExitStatus) -> Option<Outcome> {
    match status.code() {
        Some(0) => Some(Outcome::Ok),
        Some(THROTTLED) => None,
        Some(_) => Some(Outcome::Failed),
        None => Some(Outcome::Unknown),
    }
}

fn code_of(status: ExitStatus) -> u8 {
    let of_signal = || status.signal().map(|signal| signal.saturating_add(128));
    let code = status.code().or_else(of_signal);
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(NO_LEASE)
}
