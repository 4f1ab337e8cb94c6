//! `leasehold gateway`: one address in front of many servers.

use crate::signals::{Given, Signals};
use crate::values::parse_whole;
use crate::{CliError, open_files, print_out, service_manager};
use clap::Args;
use core::net::{IpAddr, Ipv4Addr};
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_config::{
    AccessLog, AffinityKey, Backend, ComfyuiServers, Flags, Key, LogFormat, OtlpSettings,
    ServerUrl, Service, Settings,
};
use leasehold_core::balance::Policy;
use leasehold_core::limit::LimitSpecs;
use leasehold_core::time::parse_span;
use leasehold_gateway::{Gateway, OperatorLog, PassedSockets, SettingsSource, StartError};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use ureq::http::Uri;
use ureq::http::uri::PathAndQuery;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Read all settings from this TOML file; flags that are settings can't be given then.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the settings, and start nothing.
    #[arg(long)]
    check_config: bool,
    /// Print the settings that would be in force, without secrets, and start nothing.
    #[arg(long)]
    print_config: bool,
    /// Log each request as JSON, with the time of each phase.
    #[arg(long)]
    debug: bool,
    /// Send traces and metrics to the OpenTelemetry collector at this URL, by OTLP over HTTP.
    #[arg(long, value_name = "URL", value_parser = OtlpSettings::read_endpoint)]
    otlp: Option<Uri>,
    #[command(flatten)]
    flags: GivenFlags,
}

/// The settings of a gateway without a file.
#[derive(Debug, Args)]
#[group(id = "flags", multiple = true, conflicts_with = "config")]
struct GivenFlags {
    /// Listen at this address; one that is not loopback is open to the network.
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Listen at this port; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
    /// Choose backends by this policy, such as round_robin, weighted_round_robin, ip_hash or least_connections.
    #[arg(long, value_name = "POLICY", default_value_t = Policy::RoundRobin)]
    algorithm: Policy,
    /// A backend and its weight. Can be given many times. Without any: localhost:8001, 8002=2 and 8003.
    #[arg(long = "backend", value_name = "HOST:PORT[=WEIGHT]")]
    backends: Vec<Backend>,
    /// Serve the OpenAI-compatible service at this URL, in place of backends: callers share its keys.
    #[arg(
        long,
        value_name = "URL",
        conflicts_with = "backends",
        requires = "keys"
    )]
    openai: Option<Uri>,
    /// The service's keys, one a line, each perhaps with url=, group= and limit= of its own.
    #[arg(long, value_name = "FILE", requires = "openai")]
    keys: Option<PathBuf>,
    /// The limits of each key, such as `3/60s` or `500/min, 30000 tokens/min, 8 concurrent`.
    #[arg(long, value_name = "LIMITS", requires = "openai")]
    limit: Option<LimitSpecs>,
    /// Serve these ComfyUI servers as one, in place of backends: the primary first, then its backups.
    #[arg(
        long,
        value_name = "URL,URL,...",
        value_delimiter = ',',
        conflicts_with_all = ["backends", "openai", "algorithm", "session", "session_timeout"]
    )]
    comfyui: Vec<ServerUrl>,
    /// Give a ComfyUI server this long to answer a health check [default: 10s, or the interval if that is shorter].
    #[arg(long, value_name = "TIME", requires = "comfyui", value_parser = parse_time)]
    health_timeout: Option<Duration>,
    /// Leave a ComfyUI server out after this many failed health checks in a row [default: 3].
    #[arg(long, value_name = "N", requires = "comfyui", value_parser = parse_whole::<NonZeroU32>)]
    health_tries: Option<NonZeroU32>,
    /// Use the first ComfyUI server that is up, in the order given, whatever its queue.
    #[arg(long, requires = "comfyui")]
    no_queue_weight: bool,
    /// Use the first ComfyUI server alone.
    #[arg(long, requires = "comfyui")]
    no_failover: bool,
    /// Log a full report of the ComfyUI servers after each round of health checks.
    #[arg(long, requires = "comfyui")]
    verbose: bool,
    /// Check backends at this path, to be answered with 2xx or 3xx. Without it, any answer below 500 at /health will do.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["openai", "comfyui"])]
    health_path: Option<PathAndQuery>,
    /// Check the health of each backend or ComfyUI server this often.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_time)]
    health_interval: Duration,
    /// Give a backend or ComfyUI server this long to begin its answer.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_time)]
    request_timeout: Duration,
    /// Keep each client with its backend: by its `address`, or by a cookie of this name.
    #[arg(long, value_name = "address|COOKIE")]
    session: Option<String>,
    /// Forget a client that was away for this long.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_time)]
    session_timeout: Duration,
    /// Log no requests.
    #[arg(long)]
    no_access_log: bool,
}

/// Runs a gateway until it is told to end.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, CliError> {
    // First of all, while the process has one thread and has opened no file.
    let passed = PassedSockets::from_env().map_err(CliError::usage)?;
    let settings = settings(arguments)?;
    if arguments.print_config {
        print_out(settings.to_toml().trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.check_config {
        print_out("the settings are right");
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(CliError::system)?;
    let mut signals = {
        let _guard = runtime.enter();
        Signals::new().map_err(CliError::system)?
    };
    open_files::raise_limit();
    let (log, subscriber, _flush) = OperatorLog::new(&settings.log, io::stderr());
    tracing::dispatcher::set_global_default(subscriber).map_err(CliError::system)?;
    let gateway = start(passed, settings, arguments, log).map_err(|error| {
        // Sockets that don't fit the settings are there again after a restart.
        match matches!(error, StartError::Passed(_)) {
            true => CliError::usage(error),
            false => CliError::system(error),
        }
    })?;
    for address in gateway.addresses().iter().flatten() {
        print_out(format_args!("listening on http://{address}"));
    }
    if let Some(address) = gateway.admin_address() {
        print_out(format_args!(
            "admin interface on http://{address}/lb/dashboard"
        ));
    }
    service_manager::feed_watchdog(gateway.heartbeats())?;
    service_manager::ready();
    runtime.block_on(obey(&mut signals, &gateway));
    service_manager::stopping();
    gateway.begin_drain();
    tracing::info!(target: "leasehold::gateway", "draining; send the signal again to end at once");
    let draining = thread::spawn(move || gateway.drain());
    while !draining.is_finished() {
        let is_told_again = runtime.block_on(async {
            let wait = Duration::from_millis(20);
            tokio::time::timeout(wait, end(&mut signals)).await.is_ok()
        });
        if is_told_again {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(match draining.join() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(1..) | Err(_) => ExitCode::FAILURE,
    })
}

/// Starts a gateway that reads its file again when it is asked to.
fn start(
    passed: PassedSockets,
    settings: Settings,
    arguments: &Arguments,
    log: OperatorLog,
) -> Result<Gateway, StartError> {
    let (debug, collector) = (arguments.debug, arguments.otlp.clone());
    let source = arguments.config.clone().map(|path| -> SettingsSource {
        Box::new(move || {
            let settings = Settings::read(&path).map_err(|error| error.to_string())?;
            Ok(with_flags(settings, debug, collector.as_ref()))
        })
    });
    Gateway::start_on(passed, source, Some(log), settings)
}

fn settings(arguments: &Arguments) -> Result<Settings, CliError> {
    let settings = match &arguments.config {
        Some(path) => Settings::read(path).map_err(CliError::usage)?,
        None => Settings::from_flags(arguments.flags.to_flags()?).map_err(CliError::usage)?,
    };
    Ok(with_flags(
        settings,
        arguments.debug,
        arguments.otlp.as_ref(),
    ))
}

/// Adds what `--debug` and `--otlp` say, which a file may be given with.
fn with_flags(mut settings: Settings, debug: bool, collector: Option<&Uri>) -> Settings {
    if let Some(url) = collector {
        let new = || OtlpSettings::new(url.clone());
        settings.otlp.get_or_insert_with(new).endpoint = url.clone();
    }
    if debug {
        let format = Some(LogFormat::Json);
        settings.access_log = AccessLog {
            format,
            ..settings.access_log
        };
    }
    settings
}

impl GivenFlags {
    fn to_flags(&self) -> Result<Flags, CliError> {
        Ok(Flags {
            service: self.service()?,
            comfyui: self.comfyui(),
            host: self.host,
            port: self.port,
            algorithm: self.algorithm,
            backends: self.backends.clone(),
            health_path: self.health_path.clone(),
            health_interval: self.health_interval,
            request_timeout: self.request_timeout,
            access_log: !self.no_access_log,
            affinity: self.session.as_deref().map(|session| match session {
                "address" => AffinityKey::Address,
                cookie => AffinityKey::Cookie(cookie.to_owned()),
            }),
            session_timeout: self.session_timeout,
        })
    }

    fn comfyui(&self) -> Option<ComfyuiServers> {
        if self.comfyui.is_empty() {
            return None;
        }
        let default = ComfyuiServers::new(self.comfyui.clone());
        Some(ComfyuiServers {
            health_timeout: self.health_timeout,
            health_tries: self.health_tries.unwrap_or(default.health_tries),
            queue_weight: !self.no_queue_weight,
            failover: !self.no_failover,
            verbose: self.verbose,
            ..default
        })
    }

    fn service(&self) -> Result<Option<Service>, CliError> {
        let (Some(url), Some(file)) = (&self.openai, &self.keys) else {
            return Ok(None);
        };
        let keys = Key::of_file(file, "give a file with a key a line");
        Ok(Some(Service {
            url: url.clone(),
            keys: keys.map_err(CliError::usage)?,
            limits: self.limit.clone(),
        }))
    }
}

/// Reloads the settings on SIGHUP and reopens the log on SIGUSR1, until the gateway is told to end.
async fn obey(signals: &mut Signals, gateway: &Gateway) {
    loop {
        match signals.next().await {
            Given::End => return,
            Given::HangUp => {
                service_manager::reloading();
                service_manager::reloaded(gateway.read_again());
            }
            Given::User => gateway.reopen_log(),
        }
    }
}

/// Waits for the signal to end.
async fn end(signals: &mut Signals) {
    while signals.next().await != Given::End {}
}

fn parse_time(text: &str) -> Result<Duration, String> {
    parse_span(text).map_err(|error| error.to_string())
}
