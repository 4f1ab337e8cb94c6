//! `leasehold demo gateway`: a backend dies under load and comes back, told second by second.

use crate::{CliError, open_files, print_err, print_out};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use leasehold_config::{Flags, Settings};
use leasehold_core::balance::Policy;
use leasehold_gateway::Gateway;
use leasehold_testbed::{Backend, BackendConfig};
use serde_json::json;
use std::process::ExitCode;
use std::thread;

const BACKENDS: usize = 3;
const CALLERS: usize = 8;
const SECONDS: u32 = 20;
/// The seconds after which the second backend dies and comes back.
const KILLED: u32 = 6;
const RESTARTED: u32 = 12;

/// Requests that the callers have seen answered.
#[derive(Default)]
struct Counts {
    ok: AtomicU64,
    failed: AtomicU64,
}

/// Runs the demo; the exit code is 1 if a request failed or the backend did not come back.
pub(crate) fn run(is_json: bool) -> Result<ExitCode, CliError> {
    open_files::raise_limit();
    let mut backends = Vec::new();
    for _ in 0..BACKENDS {
        backends.push(Backend::start(BackendConfig::default()).map_err(CliError::system)?);
    }
    let gateway = start(&backends)?;
    let address = gateway.addresses().first().copied().flatten();
    let url = address
        .map(|address| format!("http://{address}/"))
        .unwrap_or_default();
    if !is_json {
        print_out(format_args!(
            "{url} in front of {BACKENDS} backends, {CALLERS} callers"
        ));
        print_out("second  answers  failed  backend 1  backend 2  backend 3");
    }
    let (counts, stop) = (Counts::default(), AtomicBool::new(false));
    let mut after = 0;
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| call(&url, &counts, &stop));
        }
        let result = watch(&mut backends, &counts, is_json);
        stop.store(true, Ordering::Relaxed);
        after = result?;
        Ok::<_, CliError>(())
    })?;
    gateway.drain();
    let (ok, failed) = (counts.ok.into_inner(), counts.failed.into_inner());
    let is_kept = failed == 0 && after > 0;
    if is_json {
        print_out(json!({"ok": ok, "failed": failed, "after_restart": after}));
    } else {
        print_out(format_args!(
            "{ok} requests were answered, {failed} failed; backend 2 has served {after} since it came back"
        ));
    }
    if !is_kept {
        print_err("broken promise: no request fails, and a backend that comes back serves again");
    }
    Ok(ExitCode::from(u8::from(!is_kept)))
}

fn start(backends: &[Backend]) -> Result<Gateway, CliError> {
    let backends = backends
        .iter()
        .map(|backend| backend.address().to_string().parse());
    let flags = Flags {
        port: 0,
        algorithm: Policy::RoundRobin,
        backends: backends
            .collect::<Result<_, _>>()
            .map_err(CliError::system)?,
        health_interval: Duration::from_millis(500),
        access_log: false,
        ..Flags::default()
    };
    let settings = Settings::from_flags(flags).map_err(CliError::system)?;
    Gateway::start(settings).map_err(CliError::system)
}

/// Sends one request after the other.
fn call(url: &str, counts: &Counts, stop: &AtomicBool) {
    let agent = ureq::Agent::new_with_defaults();
    while !stop.load(Ordering::Relaxed) {
        let answer = agent
            .get(url)
            .call()
            .and_then(|mut answer| answer.body_mut().read_to_vec());
        let count = if answer.is_ok() {
            &counts.ok
        } else {
            &counts.failed
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Tells each second what was answered; returns what the second backend has served since its restart.
fn watch(backends: &mut [Backend], counts: &Counts, is_json: bool) -> Result<u64, CliError> {
    let served = |backends: &[Backend]| -> Vec<u64> {
        backends
            .iter()
            .map(|backend| backend.report().requests)
            .collect()
    };
    let mut before = (0, served(backends));
    let mut at_restart = 0;
    for second in 1..=SECONDS {
        thread::sleep(Duration::from_secs(1));
        let event = match (second, backends.get_mut(1)) {
            (KILLED, Some(backend)) => {
                backend.kill().map_err(CliError::system)?;
                "  <- backend 2 is killed"
            }
            (RESTARTED, Some(backend)) => {
                at_restart = backend.report().requests;
                backend.restart().map_err(CliError::system)?;
                "  <- backend 2 is started again"
            }
            _ => "",
        };
        let now = (counts.ok.load(Ordering::Relaxed), served(backends));
        if !is_json {
            let rates: Vec<_> = now
                .1
                .iter()
                .zip(&before.1)
                .map(|(now, before)| now.saturating_sub(*before))
                .collect();
            let [one, two, three] =
                [0, 1, 2].map(|index| rates.get(index).copied().unwrap_or_default());
            let answers = now.0.saturating_sub(before.0);
            let failed = counts.failed.load(Ordering::Relaxed);
            print_out(format_args!(
                "{second:>6}  {answers:>7}  {failed:>6}  {one:>9}  {two:>9}  {three:>9}{event}"
            ));
        }
        before = now;
    }
    let last = before.1.get(1).copied().unwrap_or_default();
    Ok(last.saturating_sub(at_restart))
}
