//! `leasehold demo`: the main job end to end, and what an independent judge saw of it.
//!
//! The least time that the limit allows: of `n` tasks over `k` keys at `r` calls a window `w`, no more
//! than `k * r` can arrive in each of the first `m = floor((n - 1) / (k * r))` windows, so that at least
//! `q = n - m * k * r` arrive no earlier than `m * w`; the last of those to be answered takes at least
//! the `q`-th shortest of the drawn latencies. So `optimum = m * w + (q-th shortest latency)`, whatever
//! the order of calls and the number of threads.

use crate::{CliError, print, tell, testbed};
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_batch::{Batch, Progress, Stop, Summary, read_items};
use leasehold_core::limit::Rate;
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
/// The share of the greatest possible speed that is promised.
const PROMISED_EFFICIENCY: f64 = 0.95;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What the batch says it did, and what the server says it saw.
struct Findings {
    summary: Summary,
    report: Report,
    lost: usize,
    optimum: Duration,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, CliError> {
    let keys = testbed::numbered(KEYS);
    let server = OpenAi::start(OpenAiConfig {
        keys: keys.clone(),
        limit: Some(RATE.limit),
        window: RATE.window,
        latency: LATENCY.0..=LATENCY.1,
        ..OpenAiConfig::default()
    })
    .map_err(CliError::system)?;
    if !arguments.json {
        tell(format_args!(
            "{ITEMS} items x {} models over {KEYS} keys at {RATE} each, calls of {} to {} ms",
            MODELS.len(),
            LATENCY.0.as_millis(),
            LATENCY.1.as_millis()
        ));
    }
    let folder = tempfile::tempdir().map_err(CliError::system)?;
    let (input, output) = (
        folder.path().join("items.jsonl"),
        folder.path().join("results.jsonl"),
    );
    write_items(&input).map_err(CliError::system)?;
    let endpoints = keys.iter().map(|key| {
        let key = ApiKey::new(key).map_err(CliError::system)?;
        Endpoint::new(&server.url(), key).map_err(CliError::system)
    });
    let endpoints = endpoints.collect::<Result<_, CliError>>()?;
    let models = MODELS.map(str::to_owned).to_vec();
    let mut batch = Batch::new(read_items(&input, None)?, models, endpoints);
    batch.rate = Some(RATE);
    let progress = if arguments.json {
        Progress::Silent
    } else {
        Progress::Shown
    };
    let summary = batch.run(&output, &Stop::default(), progress)?;
    let report = server.stop();
    let findings = Findings {
        lost: count_lost(&output, &summary)?,
        optimum: optimum(summary.tasks, &report),
        summary,
        report,
    };
    if arguments.json {
        print(format_args!("{}", findings.as_json()));
    } else {
        findings.print();
    }
    let broken = findings.broken_promises();
    for promise in &broken {
        tell(format_args!("broken: {promise}"));
    }
    Ok(ExitCode::from(u8::from(!broken.is_empty())))
}

fn write_items(path: &Path) -> std::io::Result<()> {
    let items = (1..=ITEMS).map(|id| json!({"id": id, "prompt": format!("question {id}")}));
    let lines: Vec<_> = items.map(|item| item.to_string()).collect();
    fs::write(path, lines.join("\n"))
}

/// Counts the tasks of which the output says neither an answer to their question nor a failure.
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

fn optimum(tasks: usize, report: &Report) -> Duration {
    let in_a_window = RATE.limit.get().saturating_mul(KEYS) as usize;
    let full = tasks
        .saturating_sub(1)
        .checked_div(in_a_window)
        .unwrap_or(0);
    let last = tasks.saturating_sub(full.saturating_mul(in_a_window));
    let mut latencies = report.latencies.clone();
    latencies.sort_unstable();
    let shortest = latencies.get(last.saturating_sub(1)).copied();
    let windows = RATE
        .window
        .saturating_mul(u32::try_from(full).unwrap_or(u32::MAX));
    windows.saturating_add(shortest.unwrap_or_default())
}

impl Findings {
    fn efficiency(&self) -> f64 {
        self.optimum.as_secs_f64() / self.summary.elapsed.as_secs_f64()
    }

    fn calls(&self) -> impl Iterator<Item = u64> {
        self.report.per_key.iter().map(|key| key.calls)
    }

    fn reused(&self) -> u64 {
        let Report {
            calls,
            connections_opened,
            ..
        } = self.report;
        calls.saturating_sub(connections_opened)
    }

    fn broken_promises(&self) -> Vec<String> {
        let limit = u64::from(RATE.limit.get());
        let spread = self
            .calls()
            .max()
            .unwrap_or(0)
            .abs_diff(self.calls().min().unwrap_or(0));
        let checks = [
            (
                self.summary.failed > 0,
                format!("{} tasks failed", self.summary.failed),
            ),
            (self.lost > 0, format!("{} tasks lost", self.lost)),
            (
                self.report.rejected_429 > 0,
                format!("{} calls refused", self.report.rejected_429),
            ),
            (
                self.report.max_in_window > limit,
                format!("{} calls in one window", self.report.max_in_window),
            ),
            (
                spread > 1,
                format!("one key made {spread} calls more than another"),
            ),
            (
                self.efficiency() < PROMISED_EFFICIENCY,
                format!(
                    "efficiency {:.3}, less than {PROMISED_EFFICIENCY}",
                    self.efficiency()
                ),
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
            "balance_score": self.summary.pool.balance_score(),
            "per_key": per_key,
            "connections_opened": self.report.connections_opened,
            "connections_reused": self.reused(),
        })
    }

    fn print(&self) {
        let Self {
            summary,
            report,
            lost,
            ..
        } = self;
        print(format_args!(
            "key      calls  most in any {}",
            leasehold_core::time::DisplaySpan(RATE.window)
        ));
        for key in &report.per_key {
            let bar = "#".repeat(usize::try_from(key.calls).unwrap_or(0));
            print(format_args!(
                "{:<8} {:>5}  {:>14}  {bar}",
                key.key, key.calls, key.max_in_window
            ));
        }
        print("");
        print(format_args!(
            "tasks          {} ({} ok, {} failed, {lost} lost)",
            summary.tasks, summary.ok, summary.failed
        ));
        print(format_args!(
            "time           {:.2} s; the limits allow {:.2} s",
            summary.elapsed.as_secs_f64(),
            self.optimum.as_secs_f64()
        ));
        print(format_args!(
            "efficiency     {:.1} %",
            self.efficiency() * 100.0
        ));
        print(format_args!(
            "balance score  {:.3} (variance {:.2})",
            summary.pool.balance_score(),
            summary.pool.variance()
        ));
        print(format_args!(
            "mean wait      {:.0} ms for a key",
            summary.pool.mean_wait().as_secs_f64() * 1e3
        ));
        print(format_args!(
            "connections    {} opened, reused {} times",
            report.connections_opened,
            self.reused()
        ));
        print(format_args!(
            "the server saw {} calls, refused {}, and at most {} of a key in any window (limit {})",
            report.calls, report.rejected_429, report.max_in_window, RATE.limit
        ));
    }
}
