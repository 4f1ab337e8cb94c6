//! `leasehold completions`: scripts by which shells complete the command's arguments.

use crate::CliError;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use std::io::{self, Write as _};
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The shell.
    shell: Shell,
}

/// Prints the completions of a shell.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, CliError> {
    let mut text = Vec::new();
    let mut command = crate::Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "leasehold", &mut text);
    io::stdout().write_all(&text).map_err(CliError::system)?;
    Ok(ExitCode::SUCCESS)
}
