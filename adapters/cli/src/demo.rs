//! `leasehold demo`: a batch against a test server, checked by what the server saw.
//!
//! Efficiency is `optimum / elapsed`, with the least time that the limits allow as `optimum`. Of `n` tasks over
//! `k` keys with `r` calls per window `w`, at most `k * r` can arrive in each of the first
//! `m = floor((n - 1) / (k * r))` windows. So at least `q = n - m * k * r` tasks arrive at `m * w` or later, and
//! the last of them takes at least the `q`-th shortest latency. Hence `optimum = m * w + (q-th shortest latency)`,
//! for any order of calls and any number of threads.

use crate::{CliError, demo_gateway, print_err, print_out, testbed};
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_batch::{Batch, Input, Items, Progress, Stop, Summary};
use leasehold_core::limit::{Algorithm, LimitSpec, LimitSpecs, Rate, Unit};
use leasehold_core::time::DisplaySpan;
use leasehold_http::{ApiKey, Endpoint};
use leasehold_testbed::{OpenAi, OpenAiConfig, Report};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

const KEYS: u32 = 10;
const ITEMS: usize = 50;
const MODELS: [&str; 3] = ["model-a", "model-b", "model-c"];
const RATE: Rate = Rate {
    limit: NonZeroU32::MIN.saturating_add(2),
    window: Duration::from_secs(2),
};
const LATENCY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(40));
const PROMISED_EFFICIENCY: f64 = 0.95;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What to show.
    #[arg(value_enum, default_value_t = What::Batch)]
    what: What,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum What {
    /// A batch through 10 rate-limited keys, checked promise by promise (10 s).
    Batch,
    /// A gateway over three backends, of which one dies under load and comes back (20 s).
    Gateway,
}

struct Findings {
    summary: Summary,
    report: Report,
    lost: usize,
    optimum: Duration,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, CliError> {
    if let What::Gateway = arguments.what {
        return demo_gateway::run(arguments.json);
    }
    let findings = run_batch(arguments)?;
    let broken = findings.broken_promises();
    if arguments.json {
        print_out(findings.as_json());
    } else {
        findings.print_table();
        if broken.is_empty() {
            print_out("result         every promise kept");
        }
    }
    for promise in &broken {
        print_err(format_args!("broken promise: {promise}"));
    }
    Ok(ExitCode::from(u8::from(!broken.is_empty())))
}

fn run_batch(arguments: &Arguments) -> Result<Findings, CliError> {
    let keys = testbed::numbered_keys(KEYS);
    let mut config = OpenAiConfig::default();
    config.keys.clone_from(&keys);
    config.limit = Some(RATE.limit);
    config.window = RATE.window;
    config.latency = LATENCY.0..=LATENCY.1;
    let server = OpenAi::start(config).map_err(CliError::system)?;

    let folder = tempfile::tempdir().map_err(CliError::system)?;
    let input = folder.path().join("items.jsonl");
    let output = folder.path().join("results.jsonl");
    write_items(&input).map_err(CliError::system)?;
    let endpoints = keys.iter().map(|key| {
        let key = ApiKey::new(key).map_err(CliError::system)?;
        Endpoint::new(&server.url(), key).map_err(CliError::system)
    });
    let endpoints = endpoints.collect::<Result<Vec<_>, CliError>>()?;
    let models = MODELS.map(str::to_owned).to_vec();
    let mut batch = Batch::new(Items::read(Input::new(&input))?, models, endpoints);
    let limit = LimitSpec::Rate {
        unit: Unit::Requests,
        rate: RATE,
        algorithm: Algorithm::default(),
    };
    batch.limits = Some(LimitSpecs::new(vec![limit]).map_err(CliError::system)?);

    let progress = if arguments.json {
        Progress::Silent
    } else {
        print_err(format_args!(
            "{ITEMS} items x {} models over {KEYS} keys, each limited to {RATE}; a call takes {} to {} ms",
            MODELS.len(),
            LATENCY.0.as_millis(),
            LATENCY.1.as_millis()
        ));
        Progress::Shown
    };
    let summary = batch.run(&output, &Stop::default(), progress)?;
    let report = server.stop();
    Ok(Findings {
        lost: count_lost(&output, &summary)?,
        optimum: optimum(summary.tasks, &report),
        summary,
        report,
    })
}

fn write_items(path: &Path) -> std::io::Result<()> {
    let items = (1..=ITEMS).map(|id| json!({"id": id, "prompt": format!("question {id}")}));
    let lines: Vec<_> = items.map(|item| item.to_string()).collect();
    fs::write(path, lines.join("\n"))
}

/// Counts the tasks with neither an answer to their own prompt nor a failure.
fn count_lost(output: &Path, summary: &Summary) -> Result<usize, CliError> {
    let text = fs::read_to_string(output).map_err(CliError::system)?;
    let mut found = summary.failed;
    for line in text.lines() {
        let item: Value = serde_json::from_str(line)?;
        let Some(prompt) = item["prompt"].as_str() else {
            continue;
        };
        let answers = MODELS.iter().filter(|model| {
            let answer = &item["output_pred"][**model];
            let content = answer["content"].as_str().unwrap_or_default();
            content.ends_with(prompt) && answer["model"] == ***model
        });
        found = found.saturating_add(answers.count());
    }
    Ok(summary.tasks.saturating_sub(found))
}

/// Returns the least time that the limits allow, as derived above.
fn optimum(tasks: usize, report: &Report) -> Duration {
    let per_window = RATE.limit.get().saturating_mul(KEYS) as usize;
    let full_windows = tasks.saturating_sub(1).checked_div(per_window).unwrap_or(0);
    let rest = tasks.saturating_sub(full_windows.saturating_mul(per_window));
    let mut latencies = report.latencies.clone();
    latencies.sort_unstable();
    let latency = latencies.get(rest.saturating_sub(1)).copied();
    let windows = RATE
        .window
        .saturating_mul(u32::try_from(full_windows).unwrap_or(u32::MAX));
    windows.saturating_add(latency.unwrap_or_default())
}

impl Findings {
    fn efficiency(&self) -> f64 {
        self.optimum.as_secs_f64() / self.summary.elapsed.as_secs_f64()
    }

    fn spread(&self) -> u64 {
        let calls = || self.report.per_key.iter().map(|key| key.calls);
        let (most, least) = (calls().max(), calls().min());
        most.unwrap_or(0).abs_diff(least.unwrap_or(0))
    }

    fn connections_reused(&self) -> u64 {
        let report = &self.report;
        report.calls.saturating_sub(report.connections_opened)
    }

    fn broken_promises(&self) -> Vec<String> {
        let Self {
            summary,
            report,
            lost,
            ..
        } = self;
        let (spread, efficiency) = (self.spread(), self.efficiency());
        let checks = [
            (
                summary.failed > 0,
                format!("{} tasks failed", summary.failed),
            ),
            (*lost > 0, format!("{lost} tasks were lost")),
            (
                report.rejected_429 > 0,
                format!("the server rejected {} calls", report.rejected_429),
            ),
            (
                report.max_in_window > u64::from(RATE.limit.get()),
                format!(
                    "a key made {} calls in one window, with a limit of {}",
                    report.max_in_window, RATE.limit
                ),
            ),
            (
                spread > 1,
                format!("one key made {spread} calls more than another"),
            ),
            (
                efficiency < PROMISED_EFFICIENCY,
                format!("efficiency {efficiency:.3} is below {PROMISED_EFFICIENCY}"),
            ),
        ];
        let broken = checks.into_iter().filter(|(broken, _)| *broken);
        broken.map(|(_, promise)| promise).collect()
    }

    fn as_json(&self) -> Value {
        let per_key: Map<_, _> = self
            .report
            .per_key
            .iter()
            .map(|key| (key.key.clone(), key.calls.into()))
            .collect();
        json!({
            "tasks": self.summary.tasks,
            "ok": self.summary.ok,
            "failed": self.summary.failed,
            "lost": self.lost,
            "rejected_429": self.report.rejected_429,
            "max_in_window": self.report.max_in_window,
            "limit": RATE.limit,
            "elapsed_s": self.summary.elapsed.as_secs_f64(),
            "optimum_s": self.optimum.as_secs_f64(),
            "efficiency": self.efficiency(),
            "balance_score": self.summary.balance_score(),
            "per_key": per_key,
            "connections_opened": self.report.connections_opened,
            "connections_reused": self.connections_reused(),
        })
    }

    fn print_table(&self) {
        let Self {
            summary,
            report,
            lost,
            optimum,
        } = self;
        let window = DisplaySpan(RATE.window);
        let heading = format!("most in any {window}");
        print_out(format_args!("key      calls  {heading}"));
        for key in &report.per_key {
            let bar = "#".repeat(usize::try_from(key.calls).unwrap_or(0));
            print_out(format_args!(
                "{:<8} {:>5}  {:>width$}  {bar}",
                key.key,
                key.calls,
                key.max_in_window,
                width = heading.len()
            ));
        }
        print_out("");
        print_out(format_args!(
            "tasks          {}: {} answered, {} failed, {lost} lost",
            summary.tasks, summary.ok, summary.failed
        ));
        print_out(format_args!(
            "server saw     {} calls, {} rejected; at most {} of a key in any {window} (limit {})",
            report.calls, report.rejected_429, report.max_in_window, RATE.limit
        ));
        print_out(format_args!(
            "time           {:.2} s, {:.1} % efficient (the limits allow {:.2} s)",
            summary.elapsed.as_secs_f64(),
            self.efficiency() * 100.0,
            optimum.as_secs_f64()
        ));
        print_out(format_args!(
            "balance        {:.3} (fewest calls of a key / most), variance {:.2}",
            summary.balance_score(),
            summary.variance()
        ));
        print_out(format_args!(
            "mean wait      {:.0} ms for a key",
            summary.pool.mean_wait().as_secs_f64() * 1e3
        ));
        print_out(format_args!(
            "connections    {} opened, reused for {} calls",
            report.connections_opened,
            self.connections_reused()
        ));
    }
}
