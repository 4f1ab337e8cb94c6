//! Alerts: whether their receivers could be sent a message, without one.

use super::finding::Findings;
use crate::CliError;
use core::time::Duration;
use leasehold_config::Settings;
use leasehold_gateway::reach_receivers;

const CHECK: &str = "alert";

/// Looks at the receivers of all alerts, side by side.
pub(super) fn check(
    settings: &Settings,
    longest: Duration,
    findings: &mut Findings,
) -> Result<(), CliError> {
    for reach in reach_receivers(settings, longest).map_err(CliError::system)? {
        let (alert, receiver) = (reach.alert, reach.receiver);
        match reach.result {
            Ok(found) => findings.ok(CHECK, format_args!("{alert}: {receiver}: {found}")),
            Err(problem) => findings.error(CHECK, format_args!("{alert}: {receiver}: {problem}")),
        }
    }
    Ok(())
}
