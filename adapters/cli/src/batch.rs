//! `leasehold batch`: every item of a file through every model.
//!
//! Invariant: the arguments and all input are checked before the first call is made.

use crate::pool::PoolArguments;
use crate::values::{
    Header, LimitArgument, PhaseTimeout, parse_field, parse_limit, parse_phase, parse_timeout,
    parse_whole,
};
use crate::{CliError, print_err, print_out};
use core::num::{NonZeroU32, NonZeroUsize};
use core::time::Duration;
use leasehold_batch::{
    Batch, BodyTemplate, Halt, Input, Items, OnChange, Prices, Progress, Reviews, Shard,
    StatusRequest, Stop, Summary, Template, Upstream, is_standard,
};
use leasehold_config::Key;
use leasehold_core::limit::LimitSpecs;
use leasehold_core::time::Tick;
use leasehold_http::{CaBundle, ClientConfig, Endpoint};
use leasehold_sync::Clock;
use serde_json::{Value, json};
use std::env;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::sync::Mutex;
use std::thread;
use tokio::signal::unix::{SignalKind, signal};

const EXAMPLE: &str = "\
Examples:
  leasehold batch -i items.jsonl -o results.jsonl --url https://api.openai.com/v1 \\
      --keys keys.txt --limit 3/60s --model gpt-4o-mini --model gpt-4o
  leasehold batch -i batch.jsonl -o answers.jsonl --url https://api.openai.com/v1 \\
      --keys keys.txt --limit \"500/min, 30000 tokens/min\"        # OpenAI Batch lines
  leasehold batch -i items.jsonl -o results-1.jsonl --shard 1/4 --model gpt-4o-mini \\
      --pool http://gateway:8090/v1/pools/keys --pool-token-file gateway.token";

const LIMITS: &str = "\
Limits of each key (or group) on each URL, separated by commas [default: none]
  3/60s                        calls in any 60 seconds; or 500/min, 10000/d
  40000 tokens/min             tokens, reserved before a call and settled after it
  2 concurrent                 calls at a time
  gpt-4o=500/min               for one model, besides the others; repeat the flag
A limit of calls is never exceeded as the service counts it, over restarts too.
Another algorithm or anchor, if you say so:
  100/60s bucketed 6           six buckets a window: less memory, up to 10 s more wait
  500/min token bucket burst 20, 500/min gcra burst 20, 60/min paced, 60/min fixed
  3/60s from grant             from the start of a call: the service may see more";

const TIMEOUTS: &str = "\
Timeouts of a call, repeatable [default: 600s, connect=10s]
  600s                         from the lookup of the name to the last byte
  connect=10s                  of the lookup, and again of the connection
  first-byte=60s               from the request to the head of the answer";

const KEYS: &str = "\
File with one API key per line. A line may say more:
  KEY url=URL                  the key is for this URL only
  KEY group=NAME               keys of one account: they share one set of limits
  KEY limit=\"3/60s, 2 concurrent\"   limits of its own, in place of --limit
Lines of .env files (NAME=KEY), quotes, commas and comments (#) are understood.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// Input: one JSON object per line; - is standard input
    #[arg(short, long, value_name = "FILE")]
    input: PathBuf,
    /// Output; results already in it are kept; - is standard output, written only at the end
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Model to call; repeatable; OpenAI Batch lines name their own
    #[arg(long)]
    model: Vec<String>,
    /// Every n-th item from the i-th on, such as 1/4: one of several processes on one input
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Leave lines out that are no items, and list them, instead of refusing the file
    #[arg(long)]
    skip_bad_lines: bool,

    #[command(flatten, next_help_heading = "Reviews")]
    reviews: ReviewArguments,
    #[command(flatten, next_help_heading = "Service and keys")]
    service: Service,
    #[command(flatten, next_help_heading = "Pool of a gateway, in place of keys")]
    pool: PoolArguments,
    #[command(flatten, next_help_heading = "Requests")]
    requests: Requests,
    #[command(flatten, next_help_heading = "Limits and patience")]
    pace: Pace,
    #[command(flatten, next_help_heading = "Results")]
    results: Results,
}

#[derive(Debug, clap::Args)]
struct ReviewArguments {
    /// What is asked for: answers of each --model, reviews of them, or both
    #[arg(long, value_enum, value_name = "check|review|check-and-review", default_value_t = Stage::Check, hide_possible_values = true)]
    stage: Stage,
    /// Model that reviews each answer; repeatable; under `output_review`, by reviewed model
    #[arg(long, value_name = "MODEL")]
    review_model: Vec<String>,
    /// File with the prompt of reviews: {{ answer }} is the text, {{ model }} its model, and all fields of the item
    #[arg(long, value_name = "FILE")]
    review_template: Option<PathBuf>,
    /// System message of the reviews
    #[arg(long, value_name = "TEXT")]
    review_system: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Stage {
    Check,
    Review,
    CheckAndReview,
}

#[derive(Debug, clap::Args)]
struct Service {
    /// Base URL, such as `https://api.openai.com/v1`; repeatable
    #[arg(long)]
    url: Vec<String>,
    /// File with one API key per line
    #[arg(long, value_name = "FILE", conflicts_with = "keys_env", long_help = KEYS)]
    keys: Option<PathBuf>,
    /// Environment variable with API keys
    #[arg(long, value_name = "NAME", default_value = "LEASEHOLD_KEYS")]
    keys_env: String,
    /// Header of every call; repeatable; the value is not shown
    #[arg(long, value_name = "NAME=VALUE")]
    header: Vec<Header>,
    /// Name of the header with the id of each call
    #[arg(long, value_name = "NAME", default_value = "x-trace-id")]
    trace_header: String,
    /// Trusted certificates, PEM [default: SSL_CERT_FILE, else Mozilla's]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Accept any certificate: anyone in between can read the keys
    #[arg(long, conflicts_with = "ca_file")]
    insecure_skip_verify: bool,
}

#[derive(Debug, clap::Args)]
struct Requests {
    /// File with the prompt; {{ field }} inserts a field of the item (Jinja)
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// System message of every request
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// JSON file with fields of every request; its texts may have {{ field }}
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Field of every request, JSON or text, such as temperature=0; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_field)]
    set: Vec<(String, Value)>,
    /// Same as --set max_tokens=TOKENS [default: not sent]
    #[arg(long, value_name = "TOKENS", value_parser = parse_whole::<u32>)]
    max_tokens: Option<u32>,
}

#[derive(Debug, clap::Args)]
struct Pace {
    /// Limits of each key, such as "3/60s, 2 concurrent"; repeatable
    #[arg(long, value_name = "[MODEL=]LIMITS", value_parser = parse_limit, long_help = LIMITS)]
    limit: Vec<LimitArgument>,
    /// Folder by which limits hold over restarts, or "none"
    #[arg(
        long,
        value_name = "DIR|none",
        long_help = "\
Folder that keeps what keys have used, so that limits hold over restarts and kills
[default: $XDG_STATE_HOME/leasehold, else ~/.local/state/leasehold].
Used only with limits. No key is in it. \"none\" keeps nothing."
    )]
    state: Option<PathBuf>,
    /// Threads that call: the most calls at once [default: 2 per key, at most 10 per model]
    #[arg(long, value_name = "THREADS", visible_alias = "max-concurrency", value_parser = parse_whole::<NonZeroUsize>)]
    workers: Option<NonZeroUsize>,
    /// Attempts per task, without rate limits and outages
    #[arg(long, value_name = "ATTEMPTS", default_value = "3", value_parser = parse_whole::<NonZeroU32>)]
    tries: NonZeroU32,
    /// Timeout of a call, 600s by default; connect=10s is that of its connection; repeatable
    #[arg(long, value_name = "[PHASE=]DURATION", value_parser = parse_phase, long_help = TIMEOUTS)]
    timeout: Vec<PhaseTimeout>,
    /// Longest outage of every service that is waited out
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = parse_timeout)]
    give_up_after: Duration,
    /// Begin no task after so many have failed, such as soon,fail=3%, soon,fail=10 or soon,success=1
    #[arg(long, value_name = "WHEN")]
    halt: Option<Halt>,
}

#[derive(Debug, clap::Args)]
struct Results {
    /// Earlier results that are joined to those of the output; repeatable
    #[arg(long, value_name = "FILE")]
    join: Vec<PathBuf>,
    /// Run only the tasks that have failed in an earlier run
    #[arg(long)]
    retry_failed: bool,
    /// Add lines to the output in the order of the input while the batch runs, not as items end
    #[arg(long)]
    keep_order: bool,
    /// Earlier answers whose request has changed
    #[arg(long, value_name = "keep|redo|fail", value_enum, default_value_t = OnChangeArgument::Fail, hide_possible_values = true)]
    on_change: OnChangeArgument,
    /// Usual fields of answers, or the whole body too
    #[arg(long, value_name = "usual|full", value_enum, default_value_t = Keep::Usual, hide_possible_values = true)]
    keep: Keep,
    /// Ask for streamed answers; results are the same, and progress counts tokens
    #[arg(long)]
    stream: bool,
    /// Prices of a million tokens in and out, for the cost in the summary
    #[arg(long, value_name = "IN,OUT")]
    price: Option<Prices>,
    /// File for a line of each call, in the columns of GNU parallel
    #[arg(long, value_name = "FILE")]
    joblog: Option<PathBuf>,
    /// File for a page with the figures of the run, in HTML
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print the status box each 30 s; SIGUSR1 prints it at any time
    #[arg(short, long)]
    verbose: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnChangeArgument {
    Keep,
    Redo,
    Fail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Keep {
    Usual,
    Full,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, CliError> {
    check_files(arguments)?;
    let requests = &arguments.requests;
    let template = requests.template.as_deref().map(Template::read);
    let template = template.transpose()?;
    let body = requests.body.as_deref().map(BodyTemplate::read);
    let body = body.transpose()?;
    let mut input = Input::new(&arguments.input);
    input.template = template;
    input.prompt_optional = arguments.reviews.stage == Stage::Review
        || body.as_ref().is_some_and(BodyTemplate::has_prompt);
    input.skip_bad_lines = arguments.skip_bad_lines;
    let mut items = Items::read(input)?;
    if let Some(shard) = arguments.shard {
        items = items.shard(shard);
    }
    print_bad_lines(&items);
    if items.are_calls() && !arguments.model.is_empty() {
        let problem = "--model: each line of the input names its own model; leave the flag out";
        return Err(CliError::usage(problem));
    }
    let pool = arguments.pool.place()?;
    let upstreams = match pool {
        Some(_) => Vec::new(),
        None => upstreams(arguments)?,
    };
    let mut batch = Batch::new(items, models("--model", &arguments.model)?, upstreams);
    set_reviews(&mut batch, &arguments.reviews)?;
    batch.pool = pool;
    set_limits(&mut batch, &arguments.pace.limit)?;
    batch.request.system.clone_from(&requests.system);
    batch.request.body = body;
    batch.request.set = fields(requests)?;
    batch.on_change = match arguments.results.on_change {
        OnChangeArgument::Keep => OnChange::Keep,
        OnChangeArgument::Redo => OnChange::Redo,
        OnChangeArgument::Fail => OnChange::Fail,
    };
    batch.join.clone_from(&arguments.results.join);
    batch.retry_failed = arguments.results.retry_failed;
    batch.keep_order = arguments.results.keep_order;
    batch.keep_full = arguments.results.keep == Keep::Full;
    batch.state = state_folder(arguments.pace.state.as_deref())?;
    batch.workers = arguments.pace.workers;
    batch.max_attempts = arguments.pace.tries;
    batch.give_up_after = arguments.pace.give_up_after;
    batch.halt = arguments.pace.halt;
    batch.stream = arguments.results.stream;
    batch.prices = arguments.results.price;
    batch.job_log.clone_from(&arguments.results.joblog);
    batch.report.clone_from(&arguments.results.report);
    batch.is_verbose = arguments.results.verbose;
    batch.client = client(arguments)?;
    batch.seed = process::id().into();
    let stop = stop_on_interrupt()?;
    show_status_on_signal(&batch.status)?;
    let progress = if arguments.results.quiet {
        Progress::Silent
    } else {
        Progress::Shown
    };
    let summary = batch.run(&arguments.output, &stop, progress)?;
    if arguments.results.json {
        print_out(as_json(&summary));
    }
    print_summary(arguments, &batch, &summary);
    let done = summary.failed == 0 && summary.unfinished == 0;
    Ok(ExitCode::from(u8::from(!done)))
}

/// Refuses an output that is the input, or that the summary would be mixed with.
fn check_files(arguments: &Arguments) -> Result<(), CliError> {
    let (input, output) = (&arguments.input, &arguments.output);
    if is_standard(output) {
        return if arguments.results.json {
            let problem =
                "--json: standard output is for the results (-o -); leave one of them out";
            Err(CliError::usage(problem))
        } else {
            Ok(())
        };
    }
    let same = match (input.canonicalize(), output.canonicalize()) {
        (Ok(input), Ok(output)) => input == output,
        (Ok(_) | Err(_), Ok(_) | Err(_)) => false,
    };
    if same && !is_standard(input) {
        let output = output.display();
        return Err(CliError::usage(format!(
            "--output: {output} is the input too; choose another output"
        )));
    }
    Ok(())
}

fn read_keys(service: &Service) -> Result<Vec<Key>, CliError> {
    match &service.keys {
        Some(path) => {
            let advice =
                "give a file with one key per line, or an environment variable with --keys-env";
            Ok(Key::of_file(path, advice)?)
        }
        None => Ok(Key::of_environment(&service.keys_env)?),
    }
}

/// Lists lines that were left out; all of them, since each is a task that the user wanted.
fn print_bad_lines(items: &Items) {
    let bad = items.bad_lines();
    for problem in bad {
        print_err(problem);
    }
    if !bad.is_empty() {
        let (lines, count) = (bad.len(), items.len());
        print_err(format_args!(
            "{lines} lines are left out; {count} items are read"
        ));
    }
}

/// Checks the models of a flag.
fn models(flag: &str, models: &[String]) -> Result<Vec<String>, CliError> {
    for (index, model) in models.iter().enumerate() {
        if model.trim().is_empty() {
            return Err(CliError::usage(format!("{flag}: the name is empty")));
        }
        if models[..index].contains(model) {
            return Err(CliError::usage(format!("{flag} {model} is given twice")));
        }
    }
    Ok(models.to_vec())
}

fn set_reviews(batch: &mut Batch, arguments: &ReviewArguments) -> Result<(), CliError> {
    let is_named = !arguments.review_model.is_empty();
    let (path, checks) = match (arguments.stage, &arguments.review_template) {
        (Stage::Check, _) if is_named => {
            let problem = "--review-model: add --stage review, or --stage check-and-review";
            return Err(CliError::usage(problem));
        }
        (Stage::Check, _) => return Ok(()),
        (Stage::Review | Stage::CheckAndReview, Some(path)) if is_named => {
            (path, arguments.stage == Stage::CheckAndReview)
        }
        (Stage::Review | Stage::CheckAndReview, _) => {
            let problem = "--stage: reviews need --review-model and --review-template";
            return Err(CliError::usage(problem));
        }
    };
    if batch.items.are_calls() {
        let problem = "--stage: lines of OpenAI's Batch API have no answers that can be reviewed";
        return Err(CliError::usage(problem));
    }
    batch.review(Reviews {
        models: models("--review-model", &arguments.review_model)?,
        template: Template::read(path)?,
        system: arguments.review_system.clone(),
        checks,
    });
    Ok(())
}

/// Pairs each key with its own URL, or with every URL of the arguments.
fn upstreams(arguments: &Arguments) -> Result<Vec<Upstream>, CliError> {
    let keys = read_keys(&arguments.service)?;
    let urls = &arguments.service.url;
    let is_free = |key: &&Key| key.url.is_none();
    if urls.is_empty() && keys.iter().any(|key| key.url.is_none()) {
        let place = keys.iter().find(is_free).map_or("", |key| &*key.place);
        return Err(CliError::usage(format!(
            "--url is missing, and {place} has no url=; give the base URL of the service, such as \
             https://api.openai.com/v1"
        )));
    }
    let mut upstreams = Vec::new();
    let pair = |url: &str, key: &Key, source: &str| {
        let endpoint = Endpoint::new(url, key.key.clone());
        let endpoint = endpoint.map_err(|error| CliError::usage(format!("{source}: {error}")))?;
        let mut upstream = Upstream::from(endpoint);
        upstream.group.clone_from(&key.group);
        upstream.limits.clone_from(&key.limits);
        Ok::<_, CliError>(upstream)
    };
    for key in keys.iter().filter(|key| key.url.is_some()) {
        let url = key.url.as_deref().unwrap_or_default();
        upstreams.push(pair(url, key, &format!("{}: url=", key.place))?);
    }
    for url in urls {
        for key in keys.iter().filter(is_free) {
            upstreams.push(pair(url, key, "--url")?);
        }
    }
    Ok(upstreams)
}

/// Joins the limits of all flags, by model.
fn set_limits(batch: &mut Batch, arguments: &[LimitArgument]) -> Result<(), CliError> {
    for (index, argument) in arguments.iter().enumerate() {
        let name = &argument.model;
        if let Some(model) = name.as_ref().filter(|it| !batch.models().contains(it)) {
            return Err(CliError::usage(format!(
                "--limit {model}=: the model is not called; it must be one of --model or --review-model"
            )));
        }
        if arguments[..index].iter().any(|it| it.model == *name) {
            continue;
        }
        let same = arguments.iter().filter(|it| it.model == *name);
        let specs = same.flat_map(|it| it.limits.iter().copied()).collect();
        let limits = LimitSpecs::new(specs);
        let limits = limits.map_err(|error| CliError::usage(format!("--limit: {error}")))?;
        match name {
            Some(model) => batch.model_limits.push((model.clone(), limits)),
            None => batch.limits = Some(limits),
        }
    }
    Ok(())
}

fn fields(requests: &Requests) -> Result<serde_json::Map<String, Value>, CliError> {
    let mut fields = serde_json::Map::new();
    let max_tokens = requests
        .max_tokens
        .map(|tokens| ("max_tokens".to_owned(), json!(tokens)));
    for (name, value) in max_tokens.into_iter().chain(requests.set.iter().cloned()) {
        if name == "model" {
            let problem = "--set model=: name models with --model";
            return Err(CliError::usage(problem));
        }
        if fields.insert(name.clone(), value).is_some() {
            return Err(CliError::usage(format!("--set {name}= is given twice")));
        }
    }
    Ok(fields)
}

/// Returns the folder of the state; `None` if nothing is to be kept.
fn state_folder(argument: Option<&Path>) -> Result<Option<PathBuf>, CliError> {
    if let Some(folder) = argument {
        return Ok((folder.as_os_str() != "none").then(|| folder.to_owned()));
    }
    let variable = |name: &str| {
        env::var_os(name)
            .filter(|it| !it.is_empty())
            .map(PathBuf::from)
    };
    // The specification says to ignore relative paths.
    let state = variable("XDG_STATE_HOME").filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(variable("HOME")?.join(".local/state")));
    let Some(state) = state else {
        return Err(CliError::usage(
            "--state: neither HOME nor XDG_STATE_HOME is set; give a folder, or none",
        ));
    };
    Ok(Some(state.join("leasehold")))
}

fn client(arguments: &Arguments) -> Result<ClientConfig, CliError> {
    let service = &arguments.service;
    let mut config = ClientConfig::default();
    for timeout in &arguments.pace.timeout {
        match timeout {
            PhaseTimeout::Total(time) => config.timeout = *time,
            PhaseTimeout::Connect(time) => config.connect_timeout = *time,
            PhaseTimeout::FirstByte(time) => config.first_byte_timeout = Some(*time),
        }
    }
    config.insecure_skip_verify = service.insecure_skip_verify;
    if service.insecure_skip_verify {
        print_err("warning: no certificate is checked; anyone in between can read your keys");
    } else {
        config.ca = match &service.ca_file {
            Some(path) => {
                let read = CaBundle::read(path);
                Some(read.map_err(|error| CliError::usage(format!("--ca-file: {error}")))?)
            }
            None => CaBundle::from_env()
                .map_err(|error| CliError::usage(format!("SSL_CERT_FILE: {error}")))?,
        };
    }
    let trace = service.trace_header.parse();
    config.trace_header = trace.map_err(|_| {
        let problem = "--trace-header: not the name of a header, such as M-TraceId";
        CliError::usage(problem)
    })?;
    for header in &service.header {
        let (name, value) = header.parts()?;
        let added = config.with_header(name, value);
        config = added.map_err(|error| CliError::usage(format!("--header: {error}")))?;
    }
    Ok(config)
}

/// A second signal within this time is taken for the first: GNU `timeout` signals a process and its group.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

/// Prints the status box at each SIGUSR1.
fn show_status_on_signal(status: &StatusRequest) -> Result<(), CliError> {
    let status = status.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::system)?;
    // Before the thread starts, so that no signal ends the process.
    let entered = runtime.enter();
    let signals = signal(SignalKind::user_defined1());
    drop(entered);
    let mut signals = signals.map_err(CliError::system)?;
    let watch = move || {
        runtime.block_on(async {
            while signals.recv().await.is_some() {
                status.ask();
            }
        });
    };
    let spawned = thread::Builder::new()
        .name("signals".to_owned())
        .spawn(watch);
    spawned.map(drop).map_err(CliError::system)
}

fn stop_on_interrupt() -> Result<Stop, CliError> {
    let stop = Stop::default();
    let handler_stop = stop.clone();
    let clock = Clock::start();
    let first: Mutex<Option<Tick>> = Mutex::new(None);
    ctrlc::set_handler(move || {
        let now = clock.now();
        let Ok(mut first) = first.lock() else {
            return;
        };
        if let Some(first) = *first {
            if now.since(first) > SAME_SIGNAL {
                process::exit(130);
            }
            return;
        }
        *first = Some(now);
        handler_stop.stop();
        print_err("stopping: waiting for calls in flight; interrupt again to quit now");
    })
    .map_err(CliError::system)?;
    Ok(stop)
}

fn print_summary(arguments: &Arguments, batch: &Batch, summary: &Summary) {
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
    let output = if is_standard(&arguments.output) {
        "on standard output".to_owned()
    } else {
        format!("in {}", arguments.output.display())
    };
    print_err(format_args!(
        "{} tasks in {:.1} s: {}; results are {output}",
        summary.tasks,
        summary.elapsed.as_secs_f64(),
        counts.join(", ")
    ));
    for reason in &summary.stopped {
        print_err(reason);
    }
    for key in summary.keys.iter().filter(|key| key.rejected) {
        print_err(format_args!(
            "the service rejects the key {}: remove or replace it",
            key.key
        ));
    }
    let is_wrong = summary.ok == 0 && !summary.stopped.is_empty();
    if let Some(task) = summary.first_failure.as_ref().filter(|_| !is_wrong) {
        print_err(format_args!(
            "first failure: item {}, model {}: {}",
            task.item, task.model, task.reason
        ));
        let failure_field = if batch.items.are_calls() {
            "error"
        } else {
            "output_error"
        };
        print_err(format_args!(
            "all failures are {output}, under `{failure_field}`"
        ));
    }
    if (summary.failed > 0 || summary.unfinished > 0) && !is_wrong {
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
        "stopped": summary.stopped,
        "elapsed_s": summary.elapsed.as_secs_f64(),
        "throttled": summary.pool.total.throttled,
        "mean_wait_s": summary.pool.mean_wait().as_secs_f64(),
        "mean_call_s": summary.client.mean_time().as_secs_f64(),
        "balance_score": summary.pool.balance_score(),
        "variance": summary.pool.variance(),
        "per_key": per_key,
    })
}
