//! `leasehold plan`: what a workload comes to, before anything is spent.
//!
//! Invariant: nothing is sent, and nothing is written but the report.

mod arguments;

pub(crate) use arguments::Arguments;

use crate::batch::{KEYS_ADVICE, models};
use crate::limits::join_limits;
use crate::{CliError, print_err, print_out};
use arguments::{CapacityArguments, KeysArgument, WorkloadArguments};
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_batch::{Batch, Input, Items, Upstream, default_workers, is_standard};
use leasehold_config::{Key, PoolSettings, Settings};
use leasehold_core::balance::Policy;
use leasehold_core::time::DisplaySpan;
use leasehold_plan::{
    Call, CallTime, Capacity, Change, NarrowStart, Pace, PlanError, PlannedMember, Prediction,
    Tokens, Trace, TraceDefaults, Workload, WorkloadError,
};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

/// The time of a call that nothing tells.
const CALL_TIME: Duration = Duration::from_secs(1);

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, CliError> {
    let capacity = capacity(&arguments.capacity, &model_names(&arguments.workload)?)?;
    let workload = workload(&arguments.workload, &capacity)?;
    let changes = changes(arguments);
    let prediction = Prediction::new(&capacity, &workload, changes, arguments.results.price)?;
    if let Some(path) = &arguments.results.report {
        let page = prediction.to_html(&capacity, &about(arguments, &capacity));
        fs::write(path, page).map_err(|error| {
            let path = path.display();
            CliError::system(format!("--report: cannot write {path}: {error}"))
        })?;
    }
    if arguments.results.json {
        print_out(prediction.to_json(&capacity));
    } else {
        print_out(prediction.to_string().trim_end());
    }
    Ok(ExitCode::from(u8::from(!prediction.figures.is_complete())))
}

/// Says in words what is planned.
fn about(arguments: &Arguments, capacity: &Capacity) -> String {
    let workload = &arguments.workload;
    let calls = match (&workload.trace, &workload.input) {
        (Some(path), _) => format!("The requests of {}", path.display()),
        (None, Some(path)) => format!("The items of {}", path.display()),
        (None, None) => "Calls that are all alike".to_owned(),
    };
    let members = capacity.members.len();
    let nouns = match (&arguments.capacity.config, members) {
        (Some(_), 1) => "member",
        (Some(_), _) => "members",
        (None, 1) => "key",
        (None, _) => "keys",
    };
    format!(
        "{calls}, on {members} {nouns} under the policy {}.",
        capacity.policy
    )
}

/// Returns what to compare; one more key by default.
fn changes(arguments: &Arguments) -> Vec<Change> {
    let asked = arguments.results.compare.iter();
    let asked: Vec<_> = asked.flat_map(|changes| changes.0.clone()).collect();
    if asked.is_empty() {
        return vec![Change::MoreMembers(NonZeroU32::MIN)];
    }
    asked
}

fn model_names(arguments: &WorkloadArguments) -> Result<Vec<String>, CliError> {
    if !arguments.model.is_empty() {
        return models("--model", &arguments.model);
    }
    let count = arguments.models.get();
    let bound = 10_000;
    if count > bound {
        let problem = format!("--models: plan for at most {bound} models");
        return Err(CliError::usage(problem));
    }
    Ok((1..=count)
        .map(|number| format!("model-{number}"))
        .collect())
}

fn capacity(arguments: &CapacityArguments, models: &[String]) -> Result<Capacity, CliError> {
    if let Some(path) = &arguments.config {
        let settings = Settings::read(path).map_err(CliError::usage)?;
        let mut capacity = Capacity::of_pool(pool(&settings, arguments.pool.as_deref(), path)?);
        capacity.policy = arguments.policy.unwrap_or(capacity.policy);
        return Ok(capacity);
    }
    let limits = join_limits(&arguments.limit, models)?;
    let mut members = match &arguments.keys {
        Some(KeysArgument::Count(count)) => {
            let keys = 1..=count.get();
            keys.map(|number| PlannedMember::new(format!("key {number}")))
                .collect()
        }
        Some(KeysArgument::File(path)) => members_of(&Key::of_file(path, KEYS_ADVICE)?),
        None => {
            let problem = "say what the calls share: --keys COUNT, --keys FILE or --config FILE";
            return Err(CliError::usage(problem));
        }
    };
    for member in &mut members {
        member.limits = member.limits.take().or_else(|| limits.all.clone());
    }
    let mut capacity = Capacity::new(arguments.policy.unwrap_or(Policy::Fifo), members);
    capacity.model_limits = limits.by_model;
    Ok(capacity)
}

/// Returns the members of a file of keys; a key for several URLs is one of each.
fn members_of(keys: &[Key]) -> Vec<PlannedMember> {
    let members = keys.iter().map(|key| {
        let mut member = PlannedMember::new(key.key.to_string());
        member.limits.clone_from(&key.limits);
        // A service counts the keys of an account together.
        let url = key.url.as_deref().unwrap_or_default();
        member.group = key.group.as_ref().map(|group| format!("{group} {url}"));
        member
    });
    members.collect()
}

fn pool<'s>(
    settings: &'s Settings,
    name: Option<&str>,
    path: &Path,
) -> Result<&'s PoolSettings, CliError> {
    let names = || {
        let names = settings.pools.iter().map(|pool| pool.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let path = path.display();
    match (name, settings.pools.as_slice()) {
        (Some(name), pools) => pools.iter().find(|pool| pool.name == name).ok_or_else(|| {
            CliError::usage(format!(
                "--pool {name}: {path} has no such pool; it has {}",
                names()
            ))
        }),
        (None, [pool]) => Ok(pool),
        (None, _) => Err(CliError::usage(format!(
            "--pool: {path} has several pools; name one of {}",
            names()
        ))),
    }
}

fn workload(arguments: &WorkloadArguments, capacity: &Capacity) -> Result<Workload, CliError> {
    let models = model_names(arguments)?;
    let time = arguments.call_time.clone();
    let mut is_told = time.is_some();
    let time = CallTime::Between(time.unwrap_or(CALL_TIME..=CALL_TIME));
    let pace = Pace::Workers {
        count: workers(arguments, capacity, models.len()),
        start: Some(NarrowStart::BATCH).filter(|_| arguments.workers.is_none()),
    };
    let workload = if let Some(path) = &arguments.trace {
        let trace = read_trace(path)?;
        is_told |= trace.has_times;
        let mut defaults = TraceDefaults::new(models, time);
        defaults.tokens = arguments.tokens.unwrap_or_default();
        defaults.max_tokens = arguments.max_tokens;
        defaults.pace = arguments.workers.map(|_| pace);
        let members = capacity.members.iter().map(|member| member.name.clone());
        trace.workload(&members.collect::<Vec<_>>(), &defaults)?
    } else if let Some(path) = &arguments.input {
        let items = Items::read(Input::new(path))?;
        let mut batch = Batch::new(items, models, Vec::<Upstream>::new());
        if let Some(tokens) = arguments.max_tokens {
            let set = &mut batch.request.set;
            set.insert("max_tokens".to_owned(), tokens.into());
        }
        let calls = batch.calls(arguments.tokens.map(|tokens| tokens.completion))?;
        Workload::new(batch.models().to_vec(), calls, pace, time)?
    } else {
        let count = arguments.calls.map_or(0, u64::from);
        Workload::alike(models, count, call(arguments), pace, time)?
    };
    if !is_told {
        print_err(format_args!(
            "a call is taken to last {}; say otherwise by --call-time",
            DisplaySpan(CALL_TIME)
        ));
    }
    let workload = workload.with_seed(arguments.seed);
    Ok(match arguments.over {
        Some(span) => workload.spread_over(span),
        None => workload,
    })
}

/// Reads a log, and tells which of its lines are left out.
fn read_trace(path: &Path) -> Result<Trace, CliError> {
    let name = path.display();
    let mut bytes = Vec::new();
    let read = if is_standard(path) {
        io::stdin().lock().read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.map_err(|error| {
        CliError::usage(format!(
            "--trace: cannot read {name}: {error}; give a log, or - for standard input"
        ))
    })?;
    // A caller may send any bytes, and a line is not lost for them.
    let trace = Trace::read(&String::from_utf8_lossy(&bytes));
    if let Some((number, line)) = &trace.first_left_out {
        print_err(format_args!(
            "{name}: {} of {} lines are left out, because they tell of no request; the first, {name}:{number}: {line}",
            trace.left_out,
            trace.left_out.saturating_add(trace.read),
        ));
    }
    if trace.read == 0 {
        return Err(CliError::usage(format!(
            "--trace: {name} has no line that tells of a request; `leasehold plan --help` lists the forms"
        )));
    }
    Ok(trace)
}

/// Returns a call as the flags tell it.
fn call(arguments: &WorkloadArguments) -> Call {
    let tokens = arguments.tokens.unwrap_or_default();
    let mut call = Call::default();
    call.tokens = tokens;
    call.reserved = reserved(tokens, arguments.max_tokens);
    call
}

/// Returns the tokens that a call reserves.
fn reserved(tokens: Tokens, max_tokens: Option<u32>) -> u64 {
    let answer = max_tokens.map_or(tokens.completion, u64::from);
    tokens.prompt.saturating_add(answer)
}

/// Returns the number of workers; that of a batch by default.
fn workers(arguments: &WorkloadArguments, capacity: &Capacity, models: usize) -> NonZeroU32 {
    let default = || default_workers(capacity.members.len(), models);
    let count = |count: core::num::NonZeroUsize| u32::try_from(count.get()).unwrap_or(u32::MAX);
    let of_batch = || NonZeroU32::new(count(default())).unwrap_or(NonZeroU32::MIN);
    arguments.workers.unwrap_or_else(of_batch)
}

impl From<PlanError> for CliError {
    fn from(error: PlanError) -> Self {
        Self::usage(error)
    }
}

impl From<WorkloadError> for CliError {
    fn from(error: WorkloadError) -> Self {
        Self::usage(error)
    }
}
