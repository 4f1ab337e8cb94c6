//! `leasehold doctor`: looks for what would keep a gateway from its work, before it is started or while it runs.
//!
//! Invariant: nothing is changed, no member gets a call, no key is printed, and every look has a bound in time.

mod alerts;
mod finding;
mod holders;
mod live;
mod machine;
mod members;
mod ports;
mod rights;

use crate::CliError;
use crate::values::parse_timeout;
use clap::Args;
use core::time::Duration;
use finding::Findings;
use leasehold_config::Settings;
use rights::Noted;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Look at the settings in this file too, at the files and addresses in them, and at the members.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only ask the running gateway whether it answers, by its admin listener or else its first one; for health checks.
    #[arg(long)]
    live: bool,
    /// Give each member, or the running gateway, this long to answer.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_timeout)]
    timeout: Duration,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

/// Looks at everything, and prints a line for each finding.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, CliError> {
    let mut findings = Findings::new(arguments.json);
    let noted = Noted::default();
    let settings = match &arguments.config {
        None => None,
        Some(path) => match Settings::read_from(path, &noted) {
            Ok(settings) => Some(settings),
            Err(error) => {
                findings.error("config", error);
                findings.end()?;
                return Ok(ExitCode::from(2));
            }
        },
    };
    if arguments.live {
        live::check(settings.as_ref(), arguments.timeout, &mut findings);
        return findings.end();
    }
    let clock = machine::Clocks::start();
    machine::check_time(&mut findings);
    if let (Some(settings), Some(path)) = (&settings, &arguments.config) {
        let members: usize = settings.pools.iter().map(|pool| pool.members.len()).sum();
        let (pools, listeners) = (settings.pools.len(), settings.listeners.len());
        let path = path.display();
        let counts = format!("{path}: pools {pools}, members {members}, listeners {listeners}");
        findings.ok("config", counts);
        rights::check(settings, &noted, &mut findings);
        ports::check(settings, &mut findings);
    }
    machine::check_open_files(settings.as_ref(), &mut findings);
    if let Some(settings) = &settings {
        members::check(settings, arguments.timeout, &mut findings)?;
        alerts::check(settings, arguments.timeout, &mut findings)?;
    }
    clock.check_pace(&mut findings);
    findings.end()
}
