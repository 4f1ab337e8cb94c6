//! `leasehold testbed`: test servers.

use crate::values::{parse_error_status, parse_host, parse_latency, parse_whole};
use crate::{CliError, keys, print_out};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::num::NonZeroU32;
use core::ops::RangeInclusive;
use core::time::Duration;
use leasehold_core::limit::Rate;
use leasehold_http::ApiKey;
use leasehold_testbed::{Fault, FaultKind, OpenAi, OpenAiConfig, StartError};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Serve an OpenAI-compatible API with a rate limit for each key.
    ///
    /// Routes: `POST /v1/chat/completions` (an echo), `GET /v1/models`, and `GET /testbed/report` (what the server
    /// saw). The server enforces the limits by its own count, and answers 429 as the real service does.
    ///
    /// The first line of standard output is the address. Stop the server with an interrupt (Ctrl-C); it then
    /// prints its report as JSON.
    #[command(name = "openai")]
    OpenAi(OpenAiArguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct OpenAiArguments {
    /// Port to listen on; 0 picks a free one
    #[arg(long, default_value_t = 0, value_parser = parse_whole::<u16>)]
    port: u16,
    /// IP address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_parser = parse_host)]
    host: IpAddr,
    /// File with one key per line, or the number N of keys sk-testbed-0001 to N [default: any key]
    #[arg(long, value_name = "FILE|N")]
    keys: Option<String>,
    /// Calls per window of each key, such as 3/60s [default: no limit]
    #[arg(long, value_name = "CALLS/WINDOW")]
    limit: Option<Rate>,
    /// Duration of a call, such as 50ms, or a range to draw it from, such as 20ms..80ms
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = parse_latency)]
    latency: RangeInclusive<Duration>,
    /// Calls in flight of each key [default: no limit]
    #[arg(long, value_name = "CALLS", value_parser = parse_whole::<NonZeroU32>)]
    concurrency: Option<NonZeroU32>,
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
    /// Seed of the drawn latencies
    #[arg(long, default_value_t = 0, value_parser = parse_whole::<u64>)]
    seed: u64,
}

pub(crate) fn run(command: &Command) -> Result<ExitCode, CliError> {
    let Command::OpenAi(arguments) = command;
    let config = config(arguments)?;
    let (interrupt, interrupted) = mpsc::channel();
    ctrlc::set_handler(move || {
        // After the first interrupt the receiver may be gone.
        let _ = interrupt.send(());
    })
    .map_err(CliError::system)?;
    let server = OpenAi::start(config).map_err(|error| start_error(&error))?;
    print_out(format_args!("listening on {}", server.url()));
    // An error means that no interrupt can arrive any more; the server stops then too.
    let _ = interrupted.recv();
    print_out(serde_json::to_string(&server.stop())?);
    Ok(ExitCode::SUCCESS)
}

fn config(arguments: &OpenAiArguments) -> Result<OpenAiConfig, CliError> {
    let mut config = OpenAiConfig::default();
    config.keys = test_keys(arguments.keys.as_deref())?;
    config.latency = arguments.latency.clone();
    config.max_concurrent = arguments.concurrency.map(NonZeroU32::get);
    config.fault = arguments.fail_every.map(|every| Fault {
        every,
        kind: FaultKind::Status(arguments.fail_with),
    });
    config.seed = arguments.seed;
    config.listen = SocketAddr::new(arguments.host, arguments.port);
    if let Some(rate) = arguments.limit {
        config.limit = Some(rate.limit);
        config.window = rate.window;
    }
    Ok(config)
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
            let keys = keys::from_file(Path::new(source), advice)?;
            let keys = keys.iter().map(|key| ApiKey::expose(key).to_owned());
            Ok(keys.collect())
        }
    }
}

pub(crate) fn numbered_keys(count: u32) -> Vec<String> {
    (1..=count)
        .map(|number| format!("sk-testbed-{number:04}"))
        .collect()
}
