//! `leasehold testbed`: upstreams to test against.

use crate::latency::parse_latency;
use crate::{CliError, keys, print};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::num::NonZeroU32;
use core::ops::RangeInclusive;
use core::time::Duration;
use leasehold_core::limit::Rate;
use leasehold_http::ApiKey;
use leasehold_testbed::{Fault, FaultKind, OpenAi, OpenAiConfig};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Serves `POST /v1/chat/completions` and `GET /v1/models`, with a limit for each key.
    ///
    /// Enforces the limit by its own count, answers 429 as the real service does, and tells at
    /// `GET /testbed/report` what it saw. Prints its address on the first line of standard output and,
    /// once interrupted, its report as JSON on the last.
    #[command(name = "openai")]
    OpenAi(OpenAiArguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct OpenAiArguments {
    /// Port to listen on; 0 for any free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// File with a key a line, or a number N for the keys sk-testbed-0001 to N [default: any key]
    #[arg(long, value_name = "FILE|N")]
    keys: Option<String>,
    /// Calls a key may make in how long, such as 3/60s [default: no limit]
    #[arg(long, value_name = "CALLS/WINDOW")]
    limit: Option<Rate>,
    /// How long a call takes, such as 50ms, or drawn from a range such as 20ms..80ms
    #[arg(long, value_name = "SPAN", default_value = "0ms", value_parser = parse_latency)]
    latency: RangeInclusive<Duration>,
    /// Calls a key may have in flight at once [default: any number]
    #[arg(long, value_name = "CALLS")]
    concurrency: Option<NonZeroU32>,
    /// Every how many calls one fails [default: none]
    #[arg(long, value_name = "CALLS")]
    fail_every: Option<NonZeroU32>,
    /// The status that it fails with, 400 to 599
    #[arg(
        long,
        value_name = "STATUS",
        default_value_t = 500,
        requires = "fail_every"
    )]
    fail_with: u16,
    /// What latencies are drawn from
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub(crate) fn run(command: &Command) -> Result<ExitCode, CliError> {
    let Command::OpenAi(arguments) = command;
    let mut config = OpenAiConfig {
        keys: test_keys(arguments.keys.as_deref())?,
        latency: arguments.latency.clone(),
        max_concurrent: arguments.concurrency.map(NonZeroU32::get),
        fault: arguments.fail_every.map(|every| Fault {
            every,
            kind: FaultKind::Status(arguments.fail_with),
        }),
        seed: arguments.seed,
        listen: SocketAddr::new(arguments.host, arguments.port),
        ..OpenAiConfig::default()
    };
    if let Some(rate) = arguments.limit {
        config.limit = Some(rate.limit);
        config.window = rate.window;
    }
    let (interrupt, interrupted) = mpsc::channel();
    ctrlc::set_handler(move || {
        // Nobody listens once the first has come.
        let _ = interrupt.send(());
    })
    .map_err(CliError::system)?;
    let server = OpenAi::start(config).map_err(|error| {
        let cause = core::error::Error::source(&error).map(|cause| format!(": {cause}"));
        CliError::usage(format!("{error}{}", cause.unwrap_or_default()))
    })?;
    print(format_args!("listening on {}", server.url()));
    // It is asked to stop, or can't be any more.
    let _ = interrupted.recv();
    print(format_args!("{}", serde_json::to_string(&server.stop())?));
    Ok(ExitCode::SUCCESS)
}

fn test_keys(source: Option<&str>) -> Result<Vec<String>, CliError> {
    let Some(source) = source else {
        return Ok(Vec::new());
    };
    match source.parse::<u32>() {
        Ok(0) => Err(CliError::usage("--keys 0: there is no key")),
        Ok(count) if count > 9_999 => Err(CliError::usage("--keys: at most 9999 keys can be made")),
        Ok(count) => Ok(numbered(count)),
        Err(_) => {
            let keys = keys::from_file(&PathBuf::from(source))?;
            Ok(keys
                .iter()
                .map(|key| ApiKey::expose(key).to_owned())
                .collect())
        }
    }
}

/// `sk-testbed-0001` and so on.
pub(crate) fn numbered(count: u32) -> Vec<String> {
    (1..=count)
        .map(|number| format!("sk-testbed-{number:04}"))
        .collect()
}
