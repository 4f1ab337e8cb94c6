//! The `leasehold` command.
//!
//! Invariant: what a program reads is on standard output, what a person reads on standard error, and
//! the exit code tells what became of it: 0 all done, 1 not all, 2 asked for wrongly.

mod batch;
mod demo;
mod keys;
mod latency;
mod testbed;

use clap::{Parser, Subcommand};
use core::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

/// Leases scarce upstream capacity fairly, and never over its limits.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the main job end to end in about ten seconds, on this machine alone.
    ///
    /// Starts an OpenAI-compatible server with 10 keys at 3 calls per 2 s, puts 50 items to 3 models
    /// through them, and prints what was done and what the server saw. Exit code 1 if a promise was
    /// broken: a task failed or lost, a call refused, a limit exceeded, keys used unevenly by more than
    /// one call, or less than 95 % of the speed that the limits allow.
    Demo(demo::Arguments),
    /// Puts every item of a file to every model, within the limits of the keys.
    ///
    /// Items are JSON objects, one a line, with an `id` (or `input_id`) and a `prompt`. Each becomes one
    /// line of the output, with all its fields and its answers under `output_pred` by model. Answers that
    /// the output has already are not asked for again, so the same command, run again, goes on where it
    /// was stopped or killed and tries again what failed.
    ///
    /// Exit code 0: every task was answered. 1: some were not. 2: nothing was asked, because the
    /// arguments or the input are wrong.
    Batch(batch::Arguments),
    /// Runs upstreams to test against.
    #[command(subcommand)]
    Testbed(testbed::Command),
}

fn main() -> ExitCode {
    let ended = match Arguments::parse().command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Batch(arguments) => batch::run(&arguments),
        Command::Testbed(command) => testbed::run(&command),
    };
    match ended {
        Ok(code) => code,
        Err(failure) => {
            tell(format_args!("error: {}", failure.message));
            ExitCode::from(failure.code)
        }
    }
}

/// Prints a line for programs to read.
fn print(line: impl Display) {
    // Whoever doesn't read on has no use for the rest, and results are not lost with it.
    let _ = writeln!(io::stdout(), "{line}");
}

/// Tells a person something.
fn tell(line: impl Display) {
    // As for `print`; a macro would panic.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Why a command could not do what it was asked for.
#[derive(Debug)]
struct CliError {
    message: String,
    code: u8,
}

impl CliError {
    /// The arguments or what they name are wrong.
    fn usage(message: impl ToString) -> Self {
        Self {
            message: message.to_string(),
            code: 2,
        }
    }

    /// The machine is at fault.
    fn system(message: impl ToString) -> Self {
        Self {
            message: message.to_string(),
            code: 1,
        }
    }
}

impl From<leasehold_batch::BatchError> for CliError {
    fn from(error: leasehold_batch::BatchError) -> Self {
        if error.is_usage() {
            Self::usage(error)
        } else {
            Self::system(error)
        }
    }
}

impl From<serde_json::Error> for CliError {
    fn from(error: serde_json::Error) -> Self {
        Self::system(error)
    }
}
