//! `leasehold testbed comfyui`: doubles of ComfyUI servers, one a port.

use crate::doubles::{self, Common, OfPort, cannot_listen, print_row};
use crate::testbed::{Interrupt, parse_duration};
use crate::values::{parse_latency, parse_whole};
use crate::{CliError, open_files, print_out};
use core::num::NonZeroU32;
use core::time::Duration;
use leasehold_testbed::{
    Comfy, ComfyAge, ComfyConfig, ComfyError, ComfyGuard, ComfyJobTime, ComfyReport,
};
use serde_json::json;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Ports to listen on, one a server; 0 picks a free one
    #[arg(
        long,
        value_name = "PORT,..",
        value_delimiter = ',',
        default_value = "8188,8189",
        value_parser = parse_whole::<u16>
    )]
    ports: Vec<u16>,
    #[command(flatten)]
    common: Common,
    /// Version of the interface: 2025, or 2026 with the jobs interface
    #[arg(long, value_name = "YEAR", default_value_t = ComfyAge::Y2026)]
    age: ComfyAge,
    /// Origin that pages may come from, or "*", as --enable-cors-header [default: its own]
    #[arg(long, value_name = "ORIGIN")]
    cors: Option<String>,

    #[command(flatten, next_help_heading = "Jobs")]
    jobs: Jobs,
    #[command(flatten, next_help_heading = "Files and nodes")]
    assets: Assets,
}

#[derive(Debug, clap::Args)]
struct Jobs {
    /// Time of a job, a range of times, or exp:3s for a mean; repeatable [default: 2s..5s]
    #[arg(long, value_name = "[PORT=]TIME", value_parser = parse_job_time)]
    job_time: Vec<OfPort<ComfyJobTime>>,
    /// Speed of each server, in the order of the ports, or one for all; 2 halves every time
    #[arg(
        long,
        value_name = "FACTOR,..",
        value_delimiter = ',',
        default_value = "1",
        value_parser = parse_speed
    )]
    speed: Vec<f64>,
    /// Progress steps of a job
    #[arg(long, value_name = "N", default_value_t = NonZeroU32::MIN.saturating_add(19), value_parser = parse_whole::<NonZeroU32>)]
    progress_steps: NonZeroU32,
    /// Previews of a job
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = parse_whole::<u32>)]
    previews: u32,
    /// Size of a preview
    #[arg(long, value_name = "BYTES", default_value_t = 4_096, value_parser = parse_whole::<usize>)]
    preview_bytes: usize,
    /// Do not run nodes again that are the same as in the job before
    #[arg(long)]
    caching: bool,
    /// Pause before each answer of /object_info
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = parse_duration)]
    object_info_delay: Duration,
}

#[derive(Debug, clap::Args)]
struct Assets {
    /// Classes of nodes that a server has; repeatable [default: all below]
    #[arg(long, value_name = "[PORT=]CLASS,..", value_parser = parse_names)]
    nodes: Vec<OfPort<Names>>,
    /// Further classes, which take an `input` and pass it on; repeatable
    #[arg(long, value_name = "[PORT=]CLASS,..", value_parser = parse_names)]
    custom_nodes: Vec<OfPort<Names>>,
    /// Checkpoints that a server has; repeatable [default: two usual ones]
    #[arg(long, value_name = "[PORT=]FILE,..", value_parser = parse_names)]
    checkpoints: Vec<OfPort<Names>>,
}

/// Names that one flag lists.
#[derive(Clone, Debug)]
pub(crate) struct Names(Vec<String>);

const HELP: &str = "\
Paths, each but the last three also under /api:
  GET and POST /prompt, /queue, /history; POST /interrupt, /free; GET /history/{id}
  /upload/image, /upload/mask, /view, /view_metadata/{folder}
  /system_stats, /object_info, /object_info/{class}, /models, /models/{folder}, /embeddings,
  /extensions, /features, /users, /userdata, /settings
  /ws?clientId=ID          events and previews
  /api/jobs, /api/jobs/{id}, /api/jobs/{id}/cancel, /api/jobs/cancel (2026)
  /                        a page that queues a prompt and shows its progress
  /testbed/report          what the server saw, as JSON
  POST /testbed/set?silent=true&stalled=true&worker=dead&object_info_delay=50ms&fault=NAME&count=1
                           silent: no websocket frames; stalled: no answer at all; worker=dead:
                           nothing runs; fault: for the next count prompts

Faults: accept-reset, accept-silence, accept-error (queued, and the answer is lost or 500);
reset, error (not queued); delay=50ms; none ends all.

Classes of nodes:
";

pub(crate) fn help() -> String {
    let classes = ComfyConfig::NODES.join("\n  ");
    format!(
        "{HELP}  {classes}\n\nTestbedSleep takes the time of its input `seconds`, divided by the speed. TestbedFail raises."
    )
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, CliError> {
    check(arguments)?;
    open_files::raise_limit();
    let interrupt = Interrupt::catch()?;
    let ports = arguments.ports.iter().zip(0..);
    let servers = ports
        .map(|(port, index)| Comfy::start(config(arguments, *port, index)).map_err(start_error))
        .collect::<Result<Vec<_>, _>>()?;
    for server in &servers {
        print_out(format_args!("listening on {}", server.url()));
    }
    interrupt.wait();
    let reports: Vec<_> = servers.into_iter().map(Comfy::stop).collect();
    if arguments.common.json {
        print_out(json!({ "servers": reports }));
    } else {
        print_table(&reports);
    }
    Ok(ExitCode::SUCCESS)
}

fn check(arguments: &Arguments) -> Result<(), CliError> {
    let (speeds, ports) = (arguments.jobs.speed.len(), arguments.ports.len());
    if speeds != 1 && speeds != ports {
        return Err(CliError::usage(format!(
            "--speed: {speeds} speeds for {ports} --ports; write one, or one for each"
        )));
    }
    let Assets {
        nodes,
        custom_nodes,
        checkpoints,
    } = &arguments.assets;
    let named = arguments.jobs.job_time.iter();
    let named = named.map(|of| ("--job-time", of.port));
    let named = named.chain(nodes.iter().map(|of| ("--nodes", of.port)));
    let named = named.chain(custom_nodes.iter().map(|of| ("--custom-nodes", of.port)));
    let named = named.chain(checkpoints.iter().map(|of| ("--checkpoints", of.port)));
    doubles::check_ports(&arguments.ports, named)
}

fn config(arguments: &Arguments, port: u16, index: usize) -> ComfyConfig {
    let Arguments { jobs, assets, .. } = arguments;
    let names = |flags: &[OfPort<Names>]| {
        let of_port = flags.iter().filter(|flag| flag.applies_to(port));
        of_port
            .flat_map(|flag| flag.value.0.iter().cloned())
            .collect::<Vec<_>>()
    };
    let mut config = ComfyConfig::default();
    (config.listen, config.seed) = arguments.common.at(port, index as u64);
    config.age = arguments.age;
    if let Some(origin) = &arguments.cors {
        config.guard = ComfyGuard::Cors(origin.clone());
    }
    let mut times = jobs.job_time.iter().filter(|time| time.applies_to(port));
    let default = ComfyJobTime::Uniform(Duration::from_secs(2), Duration::from_secs(5));
    config.job_time = times.next_back().map_or(default, |time| time.value);
    let speed = jobs.speed.get(index).or(jobs.speed.first());
    config.speed = speed.copied().unwrap_or(1.0);
    config.progress_steps = jobs.progress_steps.get();
    config.previews = jobs.previews;
    config.preview_bytes = jobs.preview_bytes;
    config.is_caching = jobs.caching;
    config.object_info_delay = jobs.object_info_delay;
    config.custom_nodes = names(&assets.custom_nodes);
    for (flags, list) in [
        (&assets.nodes, &mut config.nodes),
        (&assets.checkpoints, &mut config.checkpoints),
    ] {
        let named = names(flags);
        if !named.is_empty() {
            *list = named;
        }
    }
    config
}

fn print_table(reports: &[ComfyReport]) {
    print_row([
        &"server",
        &"posted",
        &"refused",
        &"started",
        &"finished",
        &"failed",
        &"stopped",
        &"at once",
        &"frames",
    ]);
    for report in reports {
        print_row([
            &report.id,
            &report.posted,
            &report.refused,
            &report.started,
            &report.finished,
            &report.failed,
            &(report.interrupted + report.dequeued),
            &report.max_queued,
            &report.frames,
        ]);
    }
}

/// Parses a time, a range of times, or `exp:` with the mean of an exponential distribution.
fn parse_job_time(text: &str) -> Result<OfPort<ComfyJobTime>, String> {
    OfPort::parse(text, |text| {
        if let Some(mean) = text.strip_prefix("exp:") {
            return parse_duration(mean).map(ComfyJobTime::Exponential);
        }
        let (least, most) = parse_latency(text)?.into_inner();
        Ok(match least == most {
            true => ComfyJobTime::Constant(least),
            false => ComfyJobTime::Uniform(least, most),
        })
    })
}

fn parse_speed(text: &str) -> Result<f64, String> {
    let speed: Option<f64> = text.parse().ok();
    let speed = speed.filter(|speed| speed.is_finite() && *speed > 0.0);
    speed.ok_or_else(|| "must be a number above 0, such as 2 or 0.5".to_owned())
}

fn parse_names(text: &str) -> Result<OfPort<Names>, String> {
    OfPort::parse(text, |text| {
        let names = text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty());
        let names: Vec<_> = names.map(ToOwned::to_owned).collect();
        match names.is_empty() {
            true => Err("must be a name, or some with commas between".to_owned()),
            false => Ok(Names(names)),
        }
    })
}

fn start_error(error: ComfyError) -> CliError {
    if let ComfyError::Listen { addr, source } = error {
        return cannot_listen(addr, &source);
    }
    CliError::usage(error)
}
