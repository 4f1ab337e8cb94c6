//! `leasehold batch`: every item of a file through every model.
//!
//! Invariant: the arguments and all input are checked before the first call is made.

mod arguments;
mod signals;
mod summary;

pub(crate) use arguments::{Arguments, KEYS, LIMITS};

use crate::limits::join_limits;
use crate::values::PhaseTimeout;
use crate::{CliError, print_err, print_out};
use arguments::{
    Keep, OnChangeArgument, Requests, Results, ReviewArguments, Service, Stage, WorkersArgument,
};
use core::ops::RangeInclusive;
use core::time::Duration;
use leasehold_batch::{
    Batch, BodyTemplate, Input, Items, OnChange, Progress, Reviews, Template, Upstream, is_standard,
};
use leasehold_config::Key;
use leasehold_http::{CaBundle, ClientConfig, Endpoint};
use leasehold_plan::{CallTime, Prediction};
use serde_json::{Value, json};
use std::env;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

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
    if items.are_calls() && requests.template.is_some() {
        let problem = "--template: each line of the input has its own body; leave the flag out";
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
    let limits = join_limits(&arguments.pace.limit, batch.models())?;
    (batch.limits, batch.model_limits) = (limits.all, limits.by_model);
    batch.request.system.clone_from(&requests.system);
    batch.request.body = body;
    batch.request.set = fields(requests)?;
    set_results(&mut batch, &arguments.results);
    batch.state = state_folder(arguments.pace.state.as_deref())?;
    if let Some(workers) = &arguments.pace.workers {
        batch.worker_count.set(match workers {
            WorkersArgument::Count(count) => *count,
            WorkersArgument::File(path) => signals::read_workers(path)?,
        });
    }
    batch.max_attempts = arguments.pace.tries;
    batch.give_up_after = arguments.pace.give_up_after;
    batch.halt = arguments.pace.halt;
    batch.client = client(arguments)?;
    batch.seed = process::id().into();
    if let Some(time) = &arguments.dry_run {
        return dry_run(&batch, arguments, time.clone());
    }
    let stop = signals::listen(&batch, arguments.pace.workers.as_ref())?;
    let progress = if arguments.results.quiet {
        Progress::Silent
    } else {
        Progress::Shown
    };
    let summary = batch.run(&arguments.output, &stop, progress)?;
    if arguments.results.json {
        print_out(summary::as_json(&summary));
    }
    summary::print_summary(arguments, &batch, &summary);
    let done = summary.failed == 0 && summary.unfinished == 0 && summary.left_out == 0;
    Ok(ExitCode::from(u8::from(!done)))
}

/// Tells what the run would come to.
fn dry_run(
    batch: &Batch,
    arguments: &Arguments,
    time: RangeInclusive<Duration>,
) -> Result<ExitCode, CliError> {
    let planned = batch.dry_run(&arguments.output, CallTime::Between(time))?;
    if batch.state.is_some() {
        print_err("calls of earlier runs are not counted: the limits are taken as unused");
    }
    match &planned.prediction {
        None => print_err("nothing to do: every task has an answer"),
        Some(prediction) if arguments.results.json => {
            print_out(prediction.to_json(&planned.capacity));
        }
        Some(prediction) => print_out(prediction.to_string().trim_end()),
    }
    let served = |prediction: &Prediction| prediction.figures.is_complete();
    let done = planned.prediction.as_ref().is_none_or(served);
    Ok(ExitCode::from(u8::from(!done)))
}

/// Sets what becomes of answers, and what is told of them.
fn set_results(batch: &mut Batch, results: &Results) {
    batch.on_change = match results.on_change {
        OnChangeArgument::Keep => OnChange::Keep,
        OnChangeArgument::Redo => OnChange::Redo,
        OnChangeArgument::Fail => OnChange::Fail,
    };
    batch.join.clone_from(&results.join);
    batch.retry_failed = results.retry_failed;
    batch.keep_order = results.keep_order;
    batch.keep_full = results.keep == Keep::Full;
    batch.stream = results.stream;
    batch.prices = results.price;
    batch.job_log.clone_from(&results.joblog);
    batch.report.clone_from(&results.report);
    batch.is_verbose = results.verbose;
}

/// Refuses an output that is another file of the command too, or that the summary would be mixed with.
fn check_files(arguments: &Arguments) -> Result<(), CliError> {
    if is_standard(&arguments.output) && arguments.results.json {
        let problem = "--json: standard output is for the results (-o -); leave one of them out";
        return Err(CliError::usage(problem));
    }
    let (results, requests) = (&arguments.results, &arguments.requests);
    let review_template = arguments.reviews.review_template.as_ref();
    let read = [
        ("--input", Some(&arguments.input)),
        ("--keys", arguments.service.keys.as_ref()),
        ("--template", requests.template.as_ref()),
        ("--body", requests.body.as_ref()),
        ("--review-template", review_template),
    ];
    let joined = results.join.iter().map(|path| ("--join", Some(path)));
    let mut journal = arguments.output.clone().into_os_string();
    journal.push(".journal");
    let journal = PathBuf::from(journal);
    let written = [
        ("--output", Some(&arguments.output)),
        ("the journal of --output", Some(&journal)),
        ("--joblog", results.joblog.as_ref()),
        ("--report", results.report.as_ref()),
    ];
    let files = read.into_iter().chain(joined).chain(written);
    let mut known: Vec<(&str, &Path)> = Vec::new();
    for (flag, path) in files {
        let Some(path) = path else {
            continue;
        };
        if is_standard(path) && !["--input", "--output"].contains(&flag) {
            return Err(CliError::usage(format!("{flag}: - is no file; name one")));
        }
        if is_standard(path) {
            continue;
        }
        let is_written = written.iter().any(|(other, _)| *other == flag);
        // Results that are joined to themselves stay the same.
        let mut others = known
            .iter()
            .filter(|(other, _)| (*other, flag) != ("--join", "--output"));
        if let Some((other, _)) = others.find(|(_, other)| is_written && is_same(path, other)) {
            let path = path.display();
            return Err(CliError::usage(format!(
                "{flag}: {path} is that of {other} too; choose another file"
            )));
        }
        known.push((flag, path));
    }
    Ok(())
}

/// Whether two paths are of one file, which need not be there.
fn is_same(path: &Path, other: &Path) -> bool {
    let whole = |path: &Path| {
        let folder = path.parent().filter(|path| !path.as_os_str().is_empty());
        let in_folder = || {
            let folder = folder.unwrap_or(Path::new(".")).canonicalize().ok()?;
            Some(folder.join(path.file_name()?))
        };
        path.canonicalize().ok().or_else(in_folder)
    };
    let whole = whole(path).zip(whole(other));
    whole.is_some_and(|(path, other)| path == other)
}

/// What to do about a file of keys that can't be read.
pub(crate) const KEYS_ADVICE: &str =
    "give a file with one key per line, or an environment variable with --keys-env";

fn read_keys(service: &Service) -> Result<Vec<Key>, CliError> {
    match &service.keys {
        Some(path) => Ok(Key::of_file(path, KEYS_ADVICE)?),
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
pub(crate) fn models(flag: &str, models: &[String]) -> Result<Vec<String>, CliError> {
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
