//! The `leasehold` command.
//!
//! Invariant: output for programs goes to standard output, messages to standard error. The exit code is 0 if
//! everything was done, 1 if not, 2 if the arguments or the files they name are wrong.

mod backends;
mod batch;
mod comfyui;
mod completions;
mod demo;
mod demo_gateway;
mod doctor;
mod doubles;
mod gateway;
mod key;
mod lease;
mod limits;
mod man;
mod open_files;
mod plan;
mod pool;
mod service_manager;
mod signals;
mod testbed;
mod values;

use clap::{Parser, Subcommand};
use core::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Share rate-limited API keys and servers fairly, within their limits.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a batch against a local test server and check every promise (10 s).
    ///
    /// The server has 10 keys with a limit of 3 calls per 2 s each. The batch runs 50 items through 3 models.
    /// Nothing leaves this machine.
    ///
    /// Exit code: 0 if every promise was kept, 1 if not. The promises: no task fails or is lost, no call is
    /// rejected, no key exceeds its limit, no key makes over one call more than another, and the speed is at
    /// least 95 % of what the limits allow.
    Demo(demo::Arguments),
    /// Run every item of a file through every model, within the limits of your API keys.
    ///
    /// The input has one JSON object per line, each with an `id` (or `input_id`) and a `prompt` or
    /// `messages`. The output has one line per item: its fields, its answers under `output_pred`,
    /// and its errors under `output_error`, both by model. Lines of OpenAI's Batch API (`custom_id`,
    /// `url`, `body`) are answered in that form.
    ///
    /// To resume after a kill, an interrupt or failures, run the same command again. It keeps the
    /// answers in the output and runs only the rest. Limits hold over restarts, and outages are
    /// waited out.
    ///
    /// Exit code: 0 if every task was answered, 1 if not, 2 if the arguments or the input are wrong;
    /// then nothing was sent.
    #[command(verbatim_doc_comment)]
    Batch(Box<batch::Arguments>),
    /// Say what a workload will come to before it is run: when it ends, what it costs, which limit holds it back.
    ///
    /// It runs the same pool as the batch and the gateway, in virtual time: nothing is sent. The capacity is
    /// that of --keys and --limit, or of a pool in --config. The workload is --calls, a file of items or a log.
    ///
    /// Each limit is left out once, and each --compare is tried, with the same calls.
    ///
    /// Exit code: 0 if every call is served, 1 if not, 2 if the arguments or the files they name are wrong.
    #[command(verbatim_doc_comment)]
    Plan(Box<plan::Arguments>),
    /// Put one address in front of many servers: balanced, limited, health-checked.
    ///
    /// Without --config, --backend, --openai and --comfyui, it balances over the demo's backends, which
    /// `leasehold testbed backends --ports 8001,8002,8003` serves.
    ///
    /// SIGHUP reads the settings again, SIGUSR1 opens the access log anew, SIGTERM or Ctrl-C ends
    /// the gateway once the requests in flight have ended.
    ///
    /// A socket that systemd passes (LISTEN_FDS) is used by the listener of its address, so that a restart
    /// fails no request. `leasehold doctor` looks for what would keep a gateway from its work.
    ///
    /// Exit code: 0 after an orderly end, 1 if it was cut short, 2 if the settings are wrong.
    #[command(verbatim_doc_comment)]
    Gateway(gateway::Arguments),
    /// Look for what would keep a gateway from its work: settings, rights, addresses, clock, open files, members.
    ///
    /// Nothing is changed, and no call is made: a member is connected to, and asked for its health if its pool has health
    /// checks. Run it as the gateway's user. Without --config it looks at this machine alone.
    ///
    /// Exit code: 0 without an error, 1 with one, 2 if the settings are wrong.
    #[command(verbatim_doc_comment)]
    Doctor(doctor::Arguments),
    /// Run a command under a lease of a gateway's pool, for shell scripts and cron.
    ///
    /// The command gets LEASEHOLD_URL, LEASEHOLD_KEY (if the service tells it), LEASEHOLD_MEMBER and
    /// LEASEHOLD_FENCE. Its lease is renewed while it runs. Where the gateway can't be reached for so
    /// long that the lease expires, the command is ended by SIGTERM.
    ///
    /// The gateway hears how it ended: exit code 0 is a success, 75 means that the upstream refused it
    /// for a limit, any other a failure.
    ///
    /// Exit code: the command's own, 128 + the signal that ended it, 125 if there was no lease or it
    /// was lost, 126 or 127 if the command can't be run or is not there, 2 if the arguments are wrong.
    #[command(verbatim_doc_comment)]
    Lease(lease::Arguments),
    /// Make keys for the gateway's callers: their tables are `[[caller]]` in its configuration.
    #[command(subcommand)]
    Key(key::Command),
    /// Run a test server.
    #[command(subcommand)]
    Testbed(testbed::Command),
    /// Print the completions of a shell.
    ///
    /// bash: `leasehold completions bash > ~/.local/share/bash-completion/completions/leasehold`
    ///
    /// fish: `leasehold completions fish > ~/.config/fish/completions/leasehold.fish`
    ///
    /// zsh: write them to a file `_leasehold` in a folder of `$fpath`.
    Completions(completions::Arguments),
    /// Print the manual page, or write those of all commands into a folder.
    ///
    /// `leasehold man | man -l -` shows it.
    Man(man::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Batch(arguments) => batch::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Gateway(arguments) => gateway::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Lease(arguments) => lease::run(&arguments),
        Command::Key(command) => key::run(&command),
        Command::Testbed(command) => testbed::run(&command),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man(arguments) => man::run(&arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            print_err(format_args!("error: {}", error.message));
            ExitCode::from(error.code)
        }
    }
}

/// Prints a line to standard output. A closed one (`| head`) is ignored; `println!` would panic.
fn print_out(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Prints a line to standard error. A closed one is ignored.
fn print_err(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The reason that a command stopped, and its exit code.
#[derive(Debug)]
struct CliError {
    message: String,
    code: u8,
}

impl CliError {
    /// An error in the arguments or in the files they name.
    fn usage(message: impl ToString) -> Self {
        Self {
            message: message.to_string(),
            code: 2,
        }
    }

    /// An error of the machine, such as a full disk.
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

impl From<leasehold_config::KeysError> for CliError {
    fn from(error: leasehold_config::KeysError) -> Self {
        Self::usage(error)
    }
}

impl From<serde_json::Error> for CliError {
    fn from(error: serde_json::Error) -> Self {
        Self::system(error)
    }
}
