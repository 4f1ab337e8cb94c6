//! `leasehold man`: manual pages of the command and of all its subcommands.

use crate::{CliError, print_err};
use clap::{Args, CommandFactory as _};
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Write the pages of all commands into this folder, which is made if it is missing.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Prints the page of the command, or writes all pages.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, CliError> {
    let command = crate::Arguments::command();
    let Some(folder) = &arguments.out else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(command).render(&mut page);
        let printed = rendered.and_then(|()| io::stdout().write_all(&page));
        printed.map_err(CliError::system)?;
        return Ok(ExitCode::SUCCESS);
    };
    let written = fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(command.disable_help_subcommand(true), folder));
    written.map_err(|error| {
        let folder = folder.display();
        CliError::system(format!("cannot write the pages into {folder}: {error}"))
    })?;
    print_err(format_args!("the pages are in {}", folder.display()));
    Ok(ExitCode::SUCCESS)
}
