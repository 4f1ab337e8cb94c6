//! Members: whether they can be reached, without a call.

use super::finding::Findings;
use super::machine::check_skew;
use crate::CliError;
use core::time::Duration;
use leasehold_config::Settings;
use leasehold_gateway::{Reach, reach_members};

const CHECK: &str = "reach";
/// Members whose names are shown of each place.
const SHOWN: usize = 3;

/// Looks at all members, side by side.
pub(super) fn check(
    settings: &Settings,
    longest: Duration,
    findings: &mut Findings,
) -> Result<(), CliError> {
    let all = reach_members(settings, longest).map_err(CliError::system)?;
    let mut dates = Vec::new();
    for reach in &all {
        let place = place(reach);
        match &reach.result {
            Ok(reached) => {
                let took = reached.took.as_millis();
                match &reached.health {
                    Some(path) => {
                        findings.ok(CHECK, format_args!("{place}: {path} answered in {took} ms"));
                    }
                    None => findings.ok(CHECK, format_args!("{place}: connected in {took} ms")),
                }
                if let Some((theirs, ours)) = reached.dates {
                    dates.push((reach.url.clone(), theirs, ours));
                }
            }
            Err(problem) => {
                let mut pool = all.iter().filter(|other| other.pool == reach.pool);
                match pool.any(|other| other.result.is_ok()) {
                    true => findings.warning(CHECK, format_args!("{place}: {problem}")),
                    false => findings.error(
                        CHECK,
                        format_args!("{place}: {problem}; no member of the pool can be reached"),
                    ),
                }
            }
        }
    }
    check_skew(&dates, findings);
    Ok(())
}

fn place(reach: &Reach) -> String {
    let names = reach.members.iter().take(SHOWN).map(String::as_str);
    let names = names.collect::<Vec<_>>().join(", ");
    let more = match reach.members.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("pool {}: {} ({names}{more})", reach.pool, reach.url)
}
