//! `leasehold testbed backends`: HTTP backends for a proxy to stand before.

use crate::doubles::{self, Common, OfPort, cannot_listen, print_row};
use crate::testbed::{FaultTimes, Interrupt, LimitList, parse_duration, parse_limits};
use crate::values::parse_whole;
use crate::{CliError, open_files, print_out};
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_testbed::{
    Backend, BackendConfig, BackendError, BackendFault, BackendFaultError, BackendFaultRule,
    BackendReport,
};
use serde_json::json;
use std::process::ExitCode;
use std::thread;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Ports to listen on, one a backend; 0 picks a free one
    #[arg(
        long,
        value_name = "PORT,..",
        value_delimiter = ',',
        default_value = "8001,8002,8003",
        value_parser = parse_whole::<u16>
    )]
    ports: Vec<u16>,
    #[command(flatten)]
    common: Common,
    /// Keep the last N requests of each, heads and bodies, for the report as JSON
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_whole::<usize>)]
    record: usize,

    #[command(flatten, next_help_heading = "Limits")]
    limits: Limits,
    #[command(flatten, next_help_heading = "Faults")]
    faults: Faults,
}

#[derive(Debug, clap::Args)]
struct Limits {
    /// Pause before each answer, except that of /health, such as 50ms; repeatable
    #[arg(long, value_name = "[PORT=]DURATION", value_parser = parse_delay)]
    delay: Vec<OfPort<Duration>>,
    /// Requests in any window, such as 100/s; more get 429; repeatable
    #[arg(long, value_name = "[PORT=]LIMIT,..", value_parser = parse_limit)]
    limit: Vec<OfPort<LimitList>>,
    /// Requests at once; more get 503; repeatable [default: no limit]
    #[arg(long, value_name = "[PORT=]N", value_parser = parse_concurrency)]
    concurrency: Vec<OfPort<NonZeroU32>>,
}

#[derive(Debug, clap::Args)]
struct Faults {
    /// Fault from the table below for some requests; repeatable; "list" prints the table
    #[arg(long, value_name = "[PORT=]NAME[=SHARE][@PATH]", value_parser = parse_fault)]
    fault: Vec<OfPort<FaultArgument>>,
    #[command(flatten)]
    times: FaultTimes,
}

#[derive(Clone, Debug)]
enum FaultArgument {
    /// Prints the table of all faults.
    List,
    Rule(BackendFaultRule),
}

const HELP: &str = "\
Paths:
  /  and any other         what arrived: method, path, headers, length of the body
  /health                  200, or 503 after set?healthy=false; not counted as a request
  /slow?ms=1000            the same as /, after a pause
  /bytes?n=1024            this many bytes
  /stream?chunks=10&ms=100&bytes=16&trailers
                           chunks with pauses; trailers if the caller takes some
  /echo                    the body as it arrives
  /status/503              this status
  /early-hints?count=1&ms=0
                           103 that often, a pause, 200
  /continue?ms=0&refuse=417
                           100 after a pause, if expected; or this status, the body unread
  /ws?protocol=NAME&close_after=N
                           a websocket that echoes, and may close after some messages
  /close?when=before&reset&unread
                           the connection closes before the answer, inside the head, after the
                           headers, inside the body, or after it
  /stall?when=before&ms=600000
                           silence before the answer, after the headers, or inside the body
  /redirect?to=/&status=302
  /cookie?name=session&value=ID
  /testbed/report          what the backend saw, as JSON
  POST /testbed/set?healthy=false&delay=50ms&fault=RULE
                           changes these settings; fault=none ends all faults

Faults, for --fault [PORT=]NAME[=SHARE][@PATH], for the query ?fault=NAME and for the header
x-testbed-fault: NAME:
  SHARE is 0.2 or 20% of the requests, or first:3, after:3, every:3 [default: all].
  @PATH picks the requests whose path begins with it.
";

pub(crate) fn help() -> String {
    format!("{HELP}\n{}", BackendFault::table().trim_end())
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, CliError> {
    let faults = arguments.faults.fault.iter();
    let mut faults = faults.map(|fault| &fault.value);
    if faults.any(|fault| matches!(fault, FaultArgument::List)) {
        print_out(BackendFault::table().trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    check_ports(arguments)?;
    open_files::raise_limit();
    let interrupt = Interrupt::catch()?;
    let ports = arguments.ports.iter().zip(0..);
    let backends = ports
        .map(|(port, index)| Backend::start(config(arguments, *port, index)).map_err(start_error))
        .collect::<Result<Vec<_>, _>>()?;
    for backend in &backends {
        print_out(format_args!("listening on {}", backend.url()));
    }
    interrupt.wait();
    let reports = stop_all(backends);
    if arguments.common.json {
        print_out(json!({ "backends": reports }));
    } else {
        print_table(&reports);
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses a port that is there twice, and a flag for one that is not there.
fn check_ports(arguments: &Arguments) -> Result<(), CliError> {
    let Limits {
        delay,
        limit,
        concurrency,
    } = &arguments.limits;
    let faults = &arguments.faults.fault;
    let named = delay.iter().map(|of| ("--delay", of.port));
    let named = named.chain(limit.iter().map(|of| ("--limit", of.port)));
    let named = named.chain(concurrency.iter().map(|of| ("--concurrency", of.port)));
    let named = named.chain(faults.iter().map(|of| ("--fault", of.port)));
    doubles::check_ports(&arguments.ports, named)
}

fn config(arguments: &Arguments, port: u16, index: u64) -> BackendConfig {
    fn of<T>(flags: &[OfPort<T>], port: u16) -> impl Iterator<Item = &T> {
        let flags = flags.iter().filter(move |flag| flag.applies_to(port));
        flags.map(|flag| &flag.value)
    }
    let Arguments { limits, faults, .. } = arguments;
    let mut config = BackendConfig::default();
    (config.listen, config.seed) = arguments.common.at(port, index);
    config.recorded_requests = arguments.record;
    config.delay = of(&limits.delay, port).last().copied().unwrap_or_default();
    let lists = of(&limits.limit, port);
    config.limits = lists.flat_map(|list| list.0.iter().cloned()).collect();
    config.max_concurrent = of(&limits.concurrency, port).last().map(|most| most.get());
    config.fault_wait = faults.times.fault_wait;
    config.stall = faults.times.stall;
    config.trickle = faults.times.trickle;
    for fault in of(&faults.fault, port) {
        if let FaultArgument::Rule(rule) = fault {
            config.faults.push(rule.clone());
        }
    }
    config
}

/// Stops the backends at once, as each may wait for requests in flight.
fn stop_all(backends: Vec<Backend>) -> Vec<BackendReport> {
    let stops: Vec<_> = backends
        .into_iter()
        .map(|backend| thread::spawn(|| backend.stop()))
        .collect();
    // A stop that panicked has said so.
    stops
        .into_iter()
        .filter_map(|stop| stop.join().ok())
        .collect()
}

fn print_table(reports: &[BackendReport]) {
    print_row([
        &"backend",
        &"requests",
        &"answered",
        &"429",
        &"503",
        &"faults",
        &"cut off",
        &"at once",
        &"probes",
    ]);
    for report in reports {
        print_row([
            &report.id,
            &report.requests,
            &report.answered,
            &report.refused_429,
            &report.refused_503,
            &report.faults,
            &(report.hung_up + report.killed),
            &report.max_in_flight,
            &report.probes,
        ]);
    }
}

fn parse_delay(text: &str) -> Result<OfPort<Duration>, String> {
    OfPort::parse(text, parse_duration)
}

fn parse_limit(text: &str) -> Result<OfPort<LimitList>, String> {
    OfPort::parse(text, |text| {
        parse_limits(text).map_err(|error| error.to_string())
    })
}

fn parse_concurrency(text: &str) -> Result<OfPort<NonZeroU32>, String> {
    OfPort::parse(text, parse_whole::<NonZeroU32>)
}

fn parse_fault(text: &str) -> Result<OfPort<FaultArgument>, BackendFaultError> {
    OfPort::parse(text, |text| {
        if text == "list" {
            return Ok(FaultArgument::List);
        }
        text.parse().map(FaultArgument::Rule)
    })
}

fn start_error(error: BackendError) -> CliError {
    if let BackendError::Listen { addr, source } = error {
        return cannot_listen(addr, &source);
    }
    CliError::usage(error)
}
