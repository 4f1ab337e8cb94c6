//! The machine that the gateway runs on: its clock and its limit of open files.

use super::finding::Findings;
use core::time::Duration;
use leasehold_config::{Inputs as _, ListenerBounds, Process, Settings};
use nix::sys::resource::{Resource, getrlimit};
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

const CLOCK: &str = "clock";
/// Seconds from 1970 to 2025: an earlier time is that of a machine whose clock was never set.
const THE_PAST: Duration = Duration::from_secs(1_735_689_600);
/// The most that the wall clock may leave the monotonic one by, while the doctor looks.
const MAX_STEP: Duration = Duration::from_millis(500);
/// The most that an upstream's clock may differ; dates of HTTP have whole seconds.
const MAX_SKEW: Duration = Duration::from_secs(5);
/// Open files beside those of connections.
const OTHER_FILES: u64 = 256;

/// Both clocks of the machine, at one time.
#[derive(Debug)]
pub(super) struct Clocks {
    monotonic: Instant,
    wall: SystemTime,
}

impl Clocks {
    #[expect(
        clippy::disallowed_methods,
        reason = "both clocks are what is looked at"
    )]
    pub(super) fn start() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// Looks whether both clocks have run alike since then.
    pub(super) fn check_pace(&self, findings: &mut Findings) {
        let now = Self::start();
        let took = now.monotonic.saturating_duration_since(self.monotonic);
        let moved = apart(self.wall.checked_add(took).unwrap_or(now.wall), now.wall);
        match moved > MAX_STEP {
            true => findings.warning(
                CLOCK,
                format_args!(
                    "the time of day was moved by {moved:.1?} while it was looked at; have it slewed, not stepped: budgets \
                     and limits in the state file follow it"
                ),
            ),
            false => findings.ok(CLOCK, "the time of day and the monotonic clock run alike"),
        }
    }
}

/// Returns how far two times are apart.
fn apart(one: SystemTime, other: SystemTime) -> Duration {
    let later = one.duration_since(other);
    later.unwrap_or_else(|error| error.duration())
}

/// Looks whether the time of day was set, and is kept right.
pub(super) fn check_time(findings: &mut Findings) {
    let now = Clocks::start().wall;
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if since < THE_PAST {
        let problem =
            "the time of day is before 2025; set it: certificates and budgets depend on it";
        return findings.error(CLOCK, problem);
    }
    match is_synchronized() {
        Some(true) => findings.ok(CLOCK, "synchronized by NTP"),
        Some(false) => findings.warning(
            CLOCK,
            "not synchronized by NTP; timedatectl set-ntp true turns it on",
        ),
        None => findings.ok(
            CLOCK,
            "set; whether NTP keeps it can't be told without systemd",
        ),
    }
}

/// Whether NTP keeps the clock right, as systemd knows it.
fn is_synchronized() -> Option<bool> {
    if Path::new("/run/systemd/timesync/synchronized").exists() {
        return Some(true);
    }
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let asked = [
        "timedatectl",
        "show",
        "--property=NTPSynchronized",
        "--value",
    ];
    match Process.output(&asked).ok()?.trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// Compares this machine's clock with those of upstreams that told theirs.
pub(super) fn check_skew(dates: &[(String, SystemTime, SystemTime)], findings: &mut Findings) {
    let mut agree = 0_usize;
    for (upstream, theirs, ours) in dates {
        let skew = apart(*theirs, *ours);
        if skew > MAX_SKEW {
            let skew = skew.as_secs();
            findings.warning(
                CLOCK,
                format_args!("the clock of {upstream} differs from this machine's by {skew} s; set the wrong one"),
            );
        } else {
            agree = agree.saturating_add(1);
        }
    }
    if agree > 0 {
        let most = MAX_SKEW.as_secs();
        findings.ok(
            CLOCK,
            format_args!("agrees with {agree} upstreams, to {most} s"),
        );
    }
}

/// Compares the limit of open files with the connections that the listeners admit.
pub(super) fn check_open_files(settings: Option<&Settings>, findings: &mut Findings) {
    let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return findings.warning("files", "the limit of open files can't be read");
    };
    let Some(settings) = settings else {
        return findings.ok("files", format_args!("up to {most} may be open"));
    };
    let bounds = settings.listeners.iter().map(|listener| listener.bounds);
    let admin = settings
        .admin
        .listen
        .iter()
        .map(|_| ListenerBounds::default());
    let connections = bounds
        .chain(admin)
        .map(|bounds| u64::from(bounds.max_connections.get()));
    let connections: u64 = connections.fold(0, u64::saturating_add);
    // Each may have one to a backend.
    let needed = connections.saturating_mul(2).saturating_add(OTHER_FILES);
    match most < needed {
        true => findings.warning(
            "files",
            format_args!(
                "up to {most} may be open, and {connections} connections with their backends take {needed}; connections \
                 beyond that wait: set LimitNOFILE={needed} in the unit or ulimit -Hn, or lower bounds.max_connections"
            ),
        ),
        false => findings.ok(
            "files",
            format_args!("up to {most} may be open, {needed} are needed for {connections} connections"),
        ),
    }
}
