//! `leasehold testbed`: test servers.

use crate::values::{
    parse_error_status, parse_host, parse_latency, parse_range, parse_whole, split_model,
};
use crate::{CliError, backends, comfyui, print_out};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::num::{NonZeroU32, NonZeroU64};
use core::ops::RangeInclusive;
use core::time::Duration;
use leasehold_config::Key;
use leasehold_core::time::parse_span;
use leasehold_testbed::{
    Fault, FaultRule, FaultRuleError, Limit, LimitError, LimitUnit, ModelRule, Occurrence, OpenAi,
    OpenAiConfig, Outage, StartError,
};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Serve an OpenAI-compatible API with a rate limit for each key.
    ///
    /// Routes:
    ///   POST /v1/chat/completions, /v1/responses, /v1/messages (Anthropic): also streamed, with tools
    ///   POST /v1/embeddings, /v1/messages/count_tokens
    ///   POST /v1/files, /v1/batches, /v1/conversations; GET each and /v1/responses by id
    ///   GET /v1/models, and GET /testbed/report (what the server saw)
    ///
    /// An answer is an echo of the last user message; a word is a token. The server enforces the
    /// limits by its own count, and answers 429 as the real service does. Files, batches, responses
    /// and conversations exist only for the key that made them.
    ///
    /// The first line of standard output is the address. Stop the server with an interrupt (Ctrl-C);
    /// it then prints its report as JSON.
    #[command(name = "openai", verbatim_doc_comment, after_long_help = fault_help())]
    OpenAi(OpenAiArguments),
    /// Serve HTTP backends for a proxy to stand before, one a port.
    ///
    /// Every answer names its backend: in the header x-backend, and in `server_info.id` of its
    /// JSON. The paths are below; `/` and all others say what arrived.
    ///
    /// The first lines of standard output are the addresses. Stop the backends with an interrupt
    /// (Ctrl-C); they then print what they saw.
    #[command(verbatim_doc_comment, after_long_help = backends::help())]
    Backends(backends::Arguments),
    /// Serve doubles of ComfyUI servers, one a port, with a page for a browser.
    ///
    /// They have the routes, events and errors of the real ones; a job only takes its time. Each
    /// runs one prompt at once and queues the rest. Pictures carry the server's name and the
    /// prompt's id. The paths are below.
    ///
    /// The first lines of standard output are the addresses. Stop the servers with an interrupt
    /// (Ctrl-C); they then print what they saw.
    #[command(name = "comfyui", verbatim_doc_comment, after_long_help = comfyui::help())]
    ComfyUi(comfyui::Arguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct OpenAiArguments {
    /// Port to listen on; 0 picks a free one
    #[arg(long, default_value_t = 0, value_parser = parse_whole::<u16>)]
    port: u16,
    /// IP address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_parser = parse_host)]
    host: IpAddr,
    /// File with one key per line, or a number of keys from sk-testbed-0001 on [default: any key]
    #[arg(long, value_name = "FILE|N")]
    keys: Option<String>,
    /// Known model; others get 404; repeatable [default: any model]
    #[arg(long, value_name = "NAME")]
    model: Vec<String>,
    /// Seed of all that is drawn: latencies, faults, pauses, lengths
    #[arg(long, default_value_t = 0, value_parser = parse_whole::<u64>)]
    seed: u64,

    #[command(flatten, next_help_heading = "Limits")]
    limits: Limits,
    #[command(flatten, next_help_heading = "Answers")]
    answers: Answers,
    #[command(flatten, next_help_heading = "Faults")]
    faults: Faults,
}

#[derive(Debug, clap::Args)]
struct Limits {
    /// Limits of each key, such as "3/60s, 40000 tokens/min" or gpt-4o=500/min; repeatable
    #[arg(long, value_name = "[MODEL=]LIMIT,..", value_parser = parse_limits)]
    limit: Vec<LimitList>,
    /// Calls in flight of each key [default: no limit]
    #[arg(long, value_name = "CALLS", value_parser = parse_whole::<NonZeroU32>)]
    concurrency: Option<NonZeroU32>,
}

#[derive(Debug, clap::Args)]
struct Answers {
    /// Duration of a call, such as 50ms, or a range to draw it from, such as 20ms..80ms
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = parse_latency)]
    latency: RangeInclusive<Duration>,
    /// Least tokens of an answer, such as 200, or a range to draw them from, such as 50..400
    #[arg(long, value_name = "TOKENS", default_value = "0", value_parser = parse_tokens)]
    answer_tokens: RangeInclusive<u64>,
    /// Pieces of a streamed answer's text [default: one a word]
    #[arg(long, value_name = "N", value_parser = parse_whole::<NonZeroU32>)]
    chunks: Option<NonZeroU32>,
    /// Pause before each event of a stream but the first, or a range to draw it from
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = parse_latency)]
    chunk_delay: RangeInclusive<Duration>,
    /// Model that refuses max_tokens, or all; repeatable
    #[arg(long, value_name = "MODEL|all")]
    refuse_max_tokens: Vec<String>,
    /// Most completion tokens that a call may ask for, such as 16384 or gpt-4o=16384; repeatable
    #[arg(long, value_name = "[MODEL=]TOKENS", value_parser = parse_max_output)]
    max_output: Vec<ModelRule>,
}

#[derive(Debug, clap::Args)]
struct Faults {
    /// Fault from the table below for some calls; repeatable; "list" prints the table
    #[arg(long, value_name = "NAME[=SHARE][@key=TAIL][@model=NAME]", value_parser = parse_fault)]
    fault: Vec<FaultArgument>,
    #[command(flatten)]
    times: FaultTimes,
    /// Span in which every call fails, in seconds from the first call; repeatable
    #[arg(long, value_name = "FROM..TO[=FAULT]")]
    outage: Vec<Outage>,
    /// Fail one call in every N [default: never]
    #[arg(long, value_name = "N", value_parser = parse_whole::<NonZeroU32>)]
    fail_every: Option<NonZeroU32>,
    /// Status of a failed call, 400 to 599
    #[arg(
        long,
        value_name = "STATUS",
        default_value_t = 500,
        requires = "fail_every",
        value_parser = parse_error_status
    )]
    fail_with: u16,
}

#[derive(Debug, clap::Args)]
pub(crate) struct FaultTimes {
    /// Wait that refusals tell and slow answers take
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    pub(crate) fault_wait: Duration,
    /// Silence of a stall
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    pub(crate) stall: Duration,
    /// Pause before each byte of a trickle
    #[arg(long, value_name = "DURATION", default_value = "2ms", value_parser = parse_duration)]
    pub(crate) trickle: Duration,
}

/// The limits of one flag.
#[derive(Clone, Debug)]
pub(crate) struct LimitList(pub(crate) Vec<Limit>);

#[derive(Clone, Debug)]
enum FaultArgument {
    /// Prints the table of all faults.
    List,
    Rule(FaultRule),
}

pub(crate) fn run(command: &Command) -> Result<ExitCode, CliError> {
    match command {
        Command::OpenAi(arguments) => run_openai(arguments),
        Command::Backends(arguments) => backends::run(arguments),
        Command::ComfyUi(arguments) => comfyui::run(arguments),
    }
}

fn run_openai(arguments: &OpenAiArguments) -> Result<ExitCode, CliError> {
    let asks_for_list = |fault: &FaultArgument| matches!(fault, FaultArgument::List);
    if arguments.faults.fault.iter().any(asks_for_list) {
        print_out(fault_help());
        return Ok(ExitCode::SUCCESS);
    }
    let config = config(arguments)?;
    let interrupt = Interrupt::catch()?;
    let server = OpenAi::start(config).map_err(|error| start_error(&error))?;
    print_out(format_args!("listening on {}", server.url()));
    interrupt.wait();
    print_out(serde_json::to_string(&server.stop())?);
    Ok(ExitCode::SUCCESS)
}

/// The interrupt that ends a test server.
#[derive(Debug)]
pub(crate) struct Interrupt(mpsc::Receiver<()>);

impl Interrupt {
    /// Begins to catch interrupts, before the server starts.
    pub(crate) fn catch() -> Result<Self, CliError> {
        let (interrupt, interrupted) = mpsc::channel();
        ctrlc::set_handler(move || {
            // After the first interrupt the receiver may be gone.
            let _ = interrupt.send(());
        })
        .map_err(CliError::system)?;
        Ok(Self(interrupted))
    }

    pub(crate) fn wait(&self) {
        // An error means that no interrupt can arrive any more; the server stops then too.
        let _ = self.0.recv();
    }
}

/// How faults are written; the table of all faults follows.
const FAULT_HELP: &str = "Faults, for --fault NAME[=SHARE][@key=TAIL][@model=NAME]:
  NAME is a fault, a group of them (each as likely as the others), or any.
  SHARE is 0.2 or 20% of the calls, or first:3, after:3, every:3 [default: all].
  @key picks the calls whose key ends with TAIL, @model those for a model.
";

fn fault_help() -> String {
    format!("{FAULT_HELP}\n{}", Fault::table().trim_end())
}

fn config(arguments: &OpenAiArguments) -> Result<OpenAiConfig, CliError> {
    let OpenAiArguments {
        limits,
        answers,
        faults,
        ..
    } = arguments;
    let mut config = OpenAiConfig::default();
    config.keys = test_keys(arguments.keys.as_deref())?;
    config.models.clone_from(&arguments.model);
    config.seed = arguments.seed;
    config.listen = SocketAddr::new(arguments.host, arguments.port);
    config.max_concurrent = limits.concurrency.map(NonZeroU32::get);
    for limit in limits.limit.iter().flat_map(|list| &list.0) {
        add_limit(&mut config, limit);
    }
    config.latency = answers.latency.clone();
    config.answer_tokens = answers.answer_tokens.clone();
    config.chunks = answers.chunks;
    config.chunk_delay = answers.chunk_delay.clone();
    config.model_rules.clone_from(&answers.max_output);
    for model in &answers.refuse_max_tokens {
        let mut rule = ModelRule::new();
        rule.model = (model != "all").then(|| model.clone());
        rule.refuses_max_tokens = true;
        config.model_rules.push(rule);
    }
    config.fault_wait = faults.times.fault_wait;
    config.stall = faults.times.stall;
    config.trickle = faults.times.trickle;
    config.outages.clone_from(&faults.outage);
    for fault in &faults.fault {
        if let FaultArgument::Rule(rule) = fault {
            config.faults.push(rule.clone());
        }
    }
    if let Some(every) = faults.fail_every {
        let rule = FaultRule::new(Fault::Status(faults.fail_with));
        config.faults.push(rule.occurring(Occurrence::Every(every)));
    }
    Ok(config)
}

/// Adds a limit. The first on all requests is the one that the report counts its windows by.
fn add_limit(config: &mut OpenAiConfig, limit: &Limit) {
    let requests = limit.unit == LimitUnit::Requests && limit.model.is_none();
    match NonZeroU32::try_from(limit.amount) {
        Ok(amount) if requests && config.limit.is_none() => {
            config.limit = Some(amount);
            config.window = limit.window;
        }
        Ok(_) | Err(_) => config.limits.push(limit.clone()),
    }
}

pub(crate) fn parse_limits(text: &str) -> Result<LimitList, LimitError> {
    Limit::parse_list(text).map(LimitList)
}

fn parse_fault(text: &str) -> Result<FaultArgument, FaultRuleError> {
    if text == "list" {
        return Ok(FaultArgument::List);
    }
    text.parse().map(FaultArgument::Rule)
}

pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    parse_span(text).map_err(|error| error.to_string())
}

/// Parses a number (`200`), or a range of numbers (`50..400`).
fn parse_tokens(text: &str) -> Result<RangeInclusive<u64>, String> {
    let advice = "write the smaller number first, such as 50..400";
    parse_range(text, parse_whole, advice)
}

fn parse_max_output(text: &str) -> Result<ModelRule, String> {
    let (model, most) = split_model(text)?;
    let mut rule = ModelRule::new();
    rule.model = model;
    rule.max_output = Some(parse_whole::<NonZeroU64>(most)?);
    Ok(rule)
}

fn start_error(error: &StartError) -> CliError {
    if let StartError::Listen { addr, source } = error {
        return CliError::usage(format!(
            "cannot listen on {addr}: {source}; choose another --host or --port"
        ));
    }
    CliError::usage(error)
}

fn test_keys(source: Option<&str>) -> Result<Vec<String>, CliError> {
    let Some(source) = source else {
        return Ok(Vec::new());
    };
    match source.parse::<u32>() {
        Ok(count @ 1..=9_999) => Ok(numbered_keys(count)),
        Ok(_) => Err(CliError::usage("--keys: the number must be 1 to 9999")),
        Err(_) => {
            let advice = "give a file with one key per line, or a number of keys";
            let keys = Key::of_file(Path::new(source), advice)?;
            let keys = keys.iter().map(|key| key.key.expose().to_owned());
            Ok(keys.collect())
        }
    }
}

pub(crate) fn numbered_keys(count: u32) -> Vec<String> {
    (1..=count)
        .map(|number| format!("sk-testbed-{number:04}"))
        .collect()
}
