//! `leasehold batch`: a file of items through models, within the limits of the keys.

use crate::{CliError, keys, print, tell};
use core::num::{NonZeroU32, NonZeroUsize};
use core::time::Duration;
use leasehold_batch::{Batch, Progress, Stop, Summary, Template, read_items};
use leasehold_core::limit::{Anchor, Rate};
use leasehold_core::time::parse_span;
use leasehold_http::{ApiKey, Endpoint};
use serde_json::json;
use std::path::PathBuf;
use std::process::{self, ExitCode};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Items, a JSON object a line
    #[arg(short, long, value_name = "FILE")]
    input: PathBuf,
    /// Where results go; those that are there already are kept
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Base URL of an OpenAI-compatible service, such as `https://api.openai.com/v1`; repeated, every
    /// service is called with every key
    #[arg(long, required = true)]
    url: Vec<String>,
    /// File of API keys, one a line
    #[arg(long, value_name = "FILE", conflicts_with = "keys_env")]
    keys: Option<PathBuf>,
    /// Environment variable that holds the keys, separated by commas or white space
    #[arg(long, value_name = "NAME", default_value = "LEASEHOLD_KEYS")]
    keys_env: String,
    /// Calls each key may make of each URL in how long, such as 3/60s [default: no limit]
    #[arg(long, value_name = "CALLS/WINDOW")]
    limit: Option<Rate>,
    /// Calls each key may have in flight at once [default: any number]
    #[arg(long, value_name = "CALLS")]
    concurrency: Option<NonZeroU32>,
    /// When the limit's window counts from: a service counts arrivals, which only a count from
    /// completion can't exceed
    #[arg(long, value_enum, default_value_t = AnchorName::Completion)]
    anchor: AnchorName,
    /// A model to put every item to; may be repeated
    #[arg(long, required = true)]
    model: Vec<String>,
    /// File with the prompt's text, into which an item's fields are put as {{ field }} (Jinja's syntax)
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// Threads that make calls [default: the lesser of 2 a key and 10 a model]
    #[arg(long, value_name = "THREADS")]
    workers: Option<NonZeroUsize>,
    /// How often a task is tried that fails; to be turned away for the limit is no try
    #[arg(long, default_value = "3")]
    tries: NonZeroU32,
    /// The longest that a call may take
    #[arg(long, value_name = "SPAN", default_value = "600s", value_parser = parse_timeout)]
    timeout: Duration,
    /// The longest answer, in tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 30 * 1024)]
    max_tokens: u32,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum AnchorName {
    Completion,
    Grant,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, CliError> {
    let template = arguments
        .template
        .as_deref()
        .map(Template::read)
        .transpose()?;
    let items = read_items(&arguments.input, template.as_ref())?;
    let keys = match &arguments.keys {
        Some(path) => keys::from_file(path)?,
        None => keys::from_environment(&arguments.keys_env)?,
    };
    let mut batch = Batch::new(items, models(arguments)?, endpoints(arguments, &keys)?);
    batch.rate = arguments.limit;
    batch.concurrency = arguments.concurrency;
    batch.anchor = match arguments.anchor {
        AnchorName::Completion => Anchor::Completion,
        AnchorName::Grant => Anchor::Grant,
    };
    batch.workers = arguments.workers;
    batch.tries = arguments.tries;
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
        print(format_args!("{}", as_json(&summary)));
    }
    report(arguments, &summary);
    let done = summary.failed == 0 && summary.unfinished == 0;
    Ok(ExitCode::from(u8::from(!done)))
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_span(text) {
        Ok(Duration::ZERO) => Err("no call could end in that time".to_owned()),
        Ok(timeout) => Ok(timeout),
        Err(error) => Err(error.to_string()),
    }
}

fn models(arguments: &Arguments) -> Result<Vec<String>, CliError> {
    let models = &arguments.model;
    for (place, model) in models.iter().enumerate() {
        if model.trim().is_empty() {
            return Err(CliError::usage("--model: a model needs a name"));
        }
        if models[..place].contains(model) {
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

/// Ends the batch in good order at the first interrupt, and the process at the second.
fn stop_on_interrupt() -> Result<Stop, CliError> {
    let stop = Stop::default();
    let theirs = stop.clone();
    ctrlc::set_handler(move || {
        if theirs.is_requested() {
            process::exit(130);
        }
        theirs.stop();
        tell("stopping: waiting for the calls under way; interrupt again to quit at once");
    })
    .map_err(CliError::system)?;
    Ok(stop)
}

fn report(arguments: &Arguments, summary: &Summary) {
    let Summary {
        tasks,
        earlier,
        ok,
        failed,
        unfinished,
        ..
    } = summary;
    let output = arguments.output.display();
    tell(format_args!(
        "{tasks} tasks: {ok} ok, {failed} failed, {earlier} done before, {unfinished} not done, in \
         {:.1} s; results are in {output}",
        summary.elapsed.as_secs_f64()
    ));
    for key in summary.keys.iter().filter(|key| key.rejected) {
        tell(format_args!(
            "the service refuses the key {}; remove or renew it",
            key.key
        ));
    }
    if *failed > 0 {
        tell(format_args!(
            "why tasks failed is in {output} under `output_error`; run the same command again to try \
             them again"
        ));
    }
    if *unfinished > 0 {
        tell(format_args!("run the same command again to go on"));
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
