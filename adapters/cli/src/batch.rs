//! `leasehold batch`: every item of a file through every model.
//!
//! Invariant: the arguments and all input are checked before the first call is made.

use crate::values::{parse_timeout, parse_whole};
use crate::{CliError, keys, print_err, print_out};
use core::num::{NonZeroU32, NonZeroUsize};
use core::time::Duration;
use leasehold_batch::{Batch, Progress, Stop, Summary, Template, read_items};
use leasehold_core::limit::LimitSpecs;
use leasehold_http::{ApiKey, Endpoint};
use serde_json::json;
use std::path::PathBuf;
use std::process::{self, ExitCode};

const EXAMPLE: &str = "\
Example:
  leasehold batch -i items.jsonl -o results.jsonl --url https://api.openai.com/v1 \\
      --keys keys.txt --limit 3/60s --model gpt-4o-mini --model gpt-4o";

const LIMITS: &str = "\
Limits of each key on each URL, separated by commas [default: none]
  3/60s                        calls in any 60 seconds; or 500/min, 10000/d
  40000 tokens/min             tokens, reserved before a call and settled after it
  2 concurrent                 calls at a time
A limit of calls is never exceeded as the service counts it. Another algorithm or anchor, if you say so:
  100/60s bucketed 6           six buckets a window: less memory, up to 10 s more wait
  500/min token bucket burst 20, 500/min gcra burst 20, 60/min paced, 60/min fixed, 60/min sliding counter
  3/60s from grant             counts from the start of a call: faster, but the service may see more";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// Input file: one JSON object per line
    #[arg(short, long, value_name = "FILE")]
    input: PathBuf,
    /// Output file; results already in it are kept
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Base URL of an OpenAI-compatible service; repeat it to call every service with every key
    #[arg(long, required = true)]
    url: Vec<String>,
    /// Model to call; repeat it for more models
    #[arg(long, required = true)]
    model: Vec<String>,
    /// File with one API key per line
    #[arg(long, value_name = "FILE", conflicts_with = "keys_env")]
    keys: Option<PathBuf>,
    /// Environment variable with API keys, separated by commas or spaces
    #[arg(long, value_name = "NAME", default_value = "LEASEHOLD_KEYS")]
    keys_env: String,
    /// Limits of each key on each URL, such as "3/60s, 40000 tokens/min, 2 concurrent" [default: none]
    #[arg(long, value_name = "LIMITS", long_help = LIMITS)]
    limit: Option<LimitSpecs>,
    /// File with the text of the prompt; {{ field }} inserts a field of the item (Jinja syntax)
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// Threads that make calls [default: 2 per key and URL, at most 10 per model]
    #[arg(long, value_name = "THREADS", value_parser = parse_whole::<NonZeroUsize>)]
    workers: Option<NonZeroUsize>,
    /// Attempts per task; rate-limited attempts are not counted
    #[arg(long, value_name = "ATTEMPTS", default_value = "3", value_parser = parse_whole::<NonZeroU32>)]
    tries: NonZeroU32,
    /// Timeout of a call
    #[arg(long, value_name = "DURATION", default_value = "600s", value_parser = parse_timeout)]
    timeout: Duration,
    /// Maximum number of tokens of an answer
    #[arg(long, value_name = "TOKENS", default_value_t = 30 * 1024, value_parser = parse_whole::<u32>)]
    max_tokens: u32,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, CliError> {
    let template = arguments
        .template
        .as_deref()
        .map(Template::read)
        .transpose()?;
    let items = read_items(&arguments.input, template.as_ref())?;
    let keys = read_keys(arguments)?;
    let mut batch = Batch::new(items, models(arguments)?, endpoints(arguments, &keys)?);
    batch.limits.clone_from(&arguments.limit);
    batch.workers = arguments.workers;
    batch.max_attempts = arguments.tries;
    batch.timeout = arguments.timeout;
    batch.max_tokens = arguments.max_tokens;
    batch.seed = process::id().into();
    let stop = stop_on_interrupt()?;
    let progress = if arguments.quiet {
        Progress::Silent
    } else {
        Progress::Shown
    };
    let summary = batch.run(&arguments.output, &stop, progress)?;
    if arguments.json {
        print_out(as_json(&summary));
    }
    print_summary(arguments, &summary);
    let done = summary.failed == 0 && summary.unfinished == 0;
    Ok(ExitCode::from(u8::from(!done)))
}

fn read_keys(arguments: &Arguments) -> Result<Vec<ApiKey>, CliError> {
    match &arguments.keys {
        Some(path) => {
            let advice =
                "give a file with one key per line, or an environment variable with --keys-env";
            keys::from_file(path, advice)
        }
        None => keys::from_environment(&arguments.keys_env),
    }
}

fn models(arguments: &Arguments) -> Result<Vec<String>, CliError> {
    let models = &arguments.model;
    for (index, model) in models.iter().enumerate() {
        if model.trim().is_empty() {
            return Err(CliError::usage("--model: the name is empty"));
        }
        if models[..index].contains(model) {
            return Err(CliError::usage(format!("--model {model} is given twice")));
        }
    }
    Ok(models.clone())
}

fn endpoints(arguments: &Arguments, keys: &[ApiKey]) -> Result<Vec<Endpoint>, CliError> {
    let mut endpoints = Vec::new();
    for url in &arguments.url {
        for key in keys {
            let endpoint = Endpoint::new(url, key.clone());
            let endpoint = endpoint.map_err(|error| CliError::usage(format!("--url: {error}")))?;
            endpoints.push(endpoint);
        }
    }
    Ok(endpoints)
}

fn stop_on_interrupt() -> Result<Stop, CliError> {
    let stop = Stop::default();
    let handler_stop = stop.clone();
    ctrlc::set_handler(move || {
        if handler_stop.is_requested() {
            process::exit(130);
        }
        handler_stop.stop();
        print_err("stopping: waiting for calls in flight; interrupt again to quit now");
    })
    .map_err(CliError::system)?;
    Ok(stop)
}

fn print_summary(arguments: &Arguments, summary: &Summary) {
    let counts = [
        (summary.ok, "answered"),
        (summary.earlier, "answered before"),
        (summary.failed, "failed"),
        (summary.unfinished, "not done"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<_> = counts
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    let output = arguments.output.display();
    print_err(format_args!(
        "{} tasks in {:.1} s: {}; results are in {output}",
        summary.tasks,
        summary.elapsed.as_secs_f64(),
        counts.join(", ")
    ));
    for key in summary.keys.iter().filter(|key| key.rejected) {
        print_err(format_args!(
            "the service rejects the key {}: remove or replace it",
            key.key
        ));
    }
    if let Some(task) = &summary.first_failure {
        print_err(format_args!(
            "first failure: item {}, model {}: {}",
            task.item, task.model, task.reason
        ));
        print_err(format_args!(
            "all failures are in {output} under `output_error`"
        ));
    }
    if summary.failed > 0 || summary.unfinished > 0 {
        print_err("run the same command again to continue");
    }
}

fn as_json(summary: &Summary) -> serde_json::Value {
    let keys = summary.keys.iter();
    let per_key: Vec<_> = keys
        .map(|key| json!({"key": key.key, "calls": key.calls, "refused": key.rejected}))
        .collect();
    json!({
        "tasks": summary.tasks,
        "earlier": summary.earlier,
        "ok": summary.ok,
        "failed": summary.failed,
        "unfinished": summary.unfinished,
        "elapsed_s": summary.elapsed.as_secs_f64(),
        "throttled": summary.pool.total.throttled,
        "mean_wait_s": summary.pool.mean_wait().as_secs_f64(),
        "mean_call_s": summary.client.mean_time().as_secs_f64(),
        "balance_score": summary.pool.balance_score(),
        "variance": summary.pool.variance(),
        "per_key": per_key,
    })
}
