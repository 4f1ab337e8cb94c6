//! `leasehold key`: keys of the gateway's callers.

use crate::{CliError, print_err, print_out};
use clap::{Args, Subcommand};
use core::fmt::Write as _;
use leasehold_config::{CallerSettings, KeyHash};
use std::io::{self, Read};
use std::process::ExitCode;

/// What a key begins with, so that people and scanners of secrets know it.
const PREFIX: &str = "lh-";
/// Random bytes of a key.
const BYTES: usize = 24;
/// The shortest key that is taken: no list of words has one of this length.
const MIN_LEN: usize = 20;
/// Bytes of standard input that are read.
const MAX_LEN: u64 = 4_096;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a key: it is shown once, on standard error; the table for the configuration is written to standard output.
    ///
    /// `leasehold key new --name alice >> leasehold.toml`
    New(Name),
    /// Write the table of a key that you have, which is read from standard input.
    ///
    /// `pass show gateway/alice | leasehold key hash --name alice >> leasehold.toml`
    Hash(Name),
}

#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The caller's name in errors, logs and counts.
    #[arg(long, value_name = "NAME")]
    name: String,
}

/// Writes a caller's table.
pub(crate) fn run(command: &Command) -> Result<ExitCode, CliError> {
    match command {
        Command::New(Name { name }) => {
            let key = new_key()?;
            print_out(table(name, &key)?);
            print_err(format_args!(
                "the key of {name}, which is kept nowhere: {key}"
            ));
        }
        Command::Hash(Name { name }) => print_out(table(name, &given_key()?)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn new_key() -> Result<String, CliError> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(CliError::system)?;
    let mut key = PREFIX.to_owned();
    for byte in bytes {
        // Writing to a string can't fail.
        let _ = write!(key, "{byte:02x}");
    }
    Ok(key)
}

/// Reads a key from standard input.
fn given_key() -> Result<String, CliError> {
    let mut text = String::new();
    let read = io::stdin().take(MAX_LEN).read_to_string(&mut text);
    read.map_err(|error| CliError::usage(format_args!("cannot read the key: {error}")))?;
    let key = text.trim();
    if key.len() < MIN_LEN || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(CliError::usage(format_args!(
            "a key has at least {MIN_LEN} visible ASCII characters and no spaces; make one with: leasehold key new"
        )));
    }
    Ok(key.to_owned())
}

/// Returns the table of a caller.
fn table(name: &str, key: &str) -> Result<String, CliError> {
    let caller = CallerSettings::new(name, KeyHash::of(key.as_bytes()));
    let table = caller.map_err(CliError::usage)?.to_toml();
    // The file that it is added to may lack the end of its last line.
    Ok(format!("\n{}", table.trim_end()))
}
