//! The arguments of `leasehold plan`.

use crate::batch::{KEYS, LIMITS};
use crate::values::{LimitArgument, parse_latency, parse_limit, parse_timeout, parse_whole};
use core::num::{NonZeroU32, NonZeroU64};
use core::ops::RangeInclusive;
use core::str::FromStr;
use core::time::Duration;
use leasehold_core::balance::Policy;
use leasehold_plan::{Change, Prices, Tokens};
use std::path::PathBuf;

const EXAMPLE: &str = "\
Examples:
  leasehold plan --keys 10 --limit 3/60s --calls 20000 --tokens 1200,300 --models 2 --call-time 4s
  leasehold plan --keys keys.txt --limit \"500/min, 30000 tokens/min\" -i items.jsonl --model gpt-4o-mini \\
      --price 0.15,0.60 --compare keys=+1,+5 --compare \"limiter=fixed,token bucket burst 20\"
  leasehold plan --config leasehold.toml --pool web --trace access.log --compare policy=least_connections,peak_ewma \\
      --report plan.html";

const TRACE: &str = "\
Log with the times of the calls; - is standard input. Each line may be
  of the gateway's access log       common, combined or json
  of nginx, Apache and others       Common Log Format, combined; a time in seconds after it counts
  of HAProxy                        its HTTP log
  a JSON object                     at (seconds) or time, and call_ms, model, caller, prompt_tokens,
                                    completion_tokens where it has them
Other lines are left out, and told.";

const COMPARE: &str = "\
What to compare with the plan; repeatable
  keys=+1,+5                        more keys or servers, like the last one
  policy=least_used,peak_ewma       how a key or server is chosen
  limiter=fixed,bucketed 6          the algorithm of every rate limit
  limit=5/60s, 2 concurrent         other limits of each key
  workers=20,40                     calls at once";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    #[command(flatten, next_help_heading = "Capacity")]
    pub(super) capacity: CapacityArguments,
    #[command(flatten, next_help_heading = "Workload")]
    pub(super) workload: WorkloadArguments,
    #[command(flatten, next_help_heading = "Results")]
    pub(super) results: Results,
}

#[derive(Debug, clap::Args)]
pub(super) struct CapacityArguments {
    /// Plan for a pool of a gateway's configuration file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["keys", "limit"])]
    pub(super) config: Option<PathBuf>,
    /// Name of the pool in the file [default: the only one]
    #[arg(long, value_name = "NAME", requires = "config")]
    pub(super) pool: Option<String>,
    /// Number of API keys, or a file with one per line
    #[arg(long, value_name = "COUNT|FILE", long_help = format!("Number of API keys, or a file of them.\n{KEYS}"))]
    pub(super) keys: Option<KeysArgument>,
    /// Limits of each key, such as "3/60s, 2 concurrent"; repeatable
    #[arg(long, value_name = "[MODEL=]LIMITS", value_parser = parse_limit, long_help = LIMITS)]
    pub(super) limit: Vec<LimitArgument>,
    /// Rule by which a key or server is chosen [default: that of the file, else fifo]
    #[arg(long)]
    pub(super) policy: Option<Policy>,
}

#[derive(Debug, clap::Args)]
pub(super) struct WorkloadArguments {
    /// Number of calls
    #[arg(long, value_name = "COUNT", value_parser = parse_whole::<NonZeroU64>, conflicts_with_all = ["input", "trace"], required_unless_present_any = ["input", "trace"])]
    pub(super) calls: Option<NonZeroU64>,
    /// Items as `leasehold batch` reads them, each for every model
    #[arg(short, long, value_name = "FILE", conflicts_with = "trace")]
    pub(super) input: Option<PathBuf>,
    /// Log with the times of the calls
    #[arg(long, value_name = "FILE", long_help = TRACE)]
    pub(super) trace: Option<PathBuf>,
    /// Tokens of a call in and out, where the calls don't tell
    #[arg(long, value_name = "IN,OUT")]
    pub(super) tokens: Option<Tokens>,
    /// The most tokens of an answer, reserved before a call [default: those that it uses]
    #[arg(long, value_name = "TOKENS", value_parser = parse_whole::<u32>)]
    pub(super) max_tokens: Option<u32>,
    /// Number of models, which the calls go through in turn
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = parse_whole::<NonZeroU32>, conflicts_with = "model")]
    pub(super) models: NonZeroU32,
    /// Model to call; repeatable
    #[arg(long)]
    pub(super) model: Vec<String>,
    /// Time of a call where the trace doesn't tell, such as 4s or 2s..8s [default: 1s]
    #[arg(long, value_name = "DURATION[..DURATION]", value_parser = parse_latency)]
    pub(super) call_time: Option<RangeInclusive<Duration>>,
    /// The most calls at once [default: as a batch has; a trace has its own times]
    #[arg(long, value_name = "CALLS", value_parser = parse_whole::<NonZeroU32>)]
    pub(super) workers: Option<NonZeroU32>,
    /// Let the calls come by themselves, evenly over this time
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout, conflicts_with_all = ["workers", "trace"])]
    pub(super) over: Option<Duration>,
    /// Seed of call times, and of policies that draw lots
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(super) seed: u64,
}

#[derive(Debug, clap::Args)]
pub(super) struct Results {
    /// Changes to compare with the plan, such as keys=+1 or policy=least_used,peak_ewma; repeatable [default: keys=+1]
    #[arg(long, value_name = "WHAT=VALUES", value_parser = parse_changes, long_help = COMPARE)]
    pub(super) compare: Vec<Changes>,
    /// Prices of a million tokens in and out, for the cost
    #[arg(long, value_name = "IN,OUT")]
    pub(super) price: Option<Prices>,
    /// File for a page with charts, in HTML
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
    /// Print the figures as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// The changes of one `--compare`.
#[derive(Clone, Debug)]
pub(super) struct Changes(pub(super) Vec<Change>);

fn parse_changes(text: &str) -> Result<Changes, String> {
    let changes = Change::parse_all(text);
    changes.map(Changes).map_err(|error| error.to_string())
}

/// A number of keys, or a file that holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeysArgument {
    Count(NonZeroU32),
    File(PathBuf),
}

/// The most keys of a plan.
const MAX_KEYS: u32 = 1_000_000;

impl FromStr for KeysArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_number = !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || b"+-.".contains(&byte));
        if !is_number {
            return Ok(Self::File(text.into()));
        }
        let count: NonZeroU32 = parse_whole(text)?;
        match count.get() {
            ..=MAX_KEYS => Ok(Self::Count(count)),
            _ => Err(format!("plan for at most {MAX_KEYS} keys")),
        }
    }
}
