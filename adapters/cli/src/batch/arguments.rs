//! The arguments of `leasehold batch`.

use crate::pool::PoolArguments;
use crate::values::{
    Header, LimitArgument, PhaseTimeout, parse_field, parse_latency, parse_limit, parse_phase,
    parse_timeout, parse_whole,
};
use core::num::{NonZeroU32, NonZeroUsize};
use core::ops::RangeInclusive;
use core::str::FromStr;
use core::time::Duration;
use leasehold_batch::{Halt, Prices, Shard};
use serde_json::Value;
use std::path::PathBuf;

const EXAMPLE: &str = "\
Examples:
  leasehold batch -i items.jsonl -o results.jsonl --url https://api.openai.com/v1 \\
      --keys keys.txt --limit 3/60s --model gpt-4o-mini --model gpt-4o
  leasehold batch -i batch.jsonl -o answers.jsonl --url https://api.openai.com/v1 \\
      --keys keys.txt --limit \"500/min, 30000 tokens/min\"        # OpenAI Batch lines
  leasehold batch -i items.jsonl -o results-1.jsonl --shard 1/4 --model gpt-4o-mini \\
      --pool http://gateway:8090/v1/pools/keys --pool-token-file gateway.token";

pub(crate) const LIMITS: &str = "\
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

pub(crate) const KEYS: &str = "\
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
    pub(super) input: PathBuf,
    /// Output; results already in it are kept; - is standard output; lines come as items end
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: PathBuf,
    /// Model to call; repeatable; OpenAI Batch lines name their own
    #[arg(long)]
    pub(super) model: Vec<String>,
    /// Every n-th item from the i-th on, such as 1/4: one of several processes on one input
    #[arg(long, value_name = "I/N")]
    pub(super) shard: Option<Shard>,
    /// Send nothing: say what the run would come to, if a call takes this long [default: 1s]
    #[arg(long, value_name = "DURATION[..DURATION]", value_parser = parse_latency, num_args = 0..=1, require_equals = true, default_missing_value = "1s", conflicts_with = "pool")]
    pub(super) dry_run: Option<RangeInclusive<Duration>>,
    /// Leave lines out that are no items, and list them, instead of refusing the file
    #[arg(long)]
    pub(super) skip_bad_lines: bool,

    #[command(flatten, next_help_heading = "Reviews")]
    pub(super) reviews: ReviewArguments,
    #[command(flatten, next_help_heading = "Service and keys")]
    pub(super) service: Service,
    #[command(flatten, next_help_heading = "Pool of a gateway, in place of keys")]
    pub(super) pool: PoolArguments,
    #[command(flatten, next_help_heading = "Requests")]
    pub(super) requests: Requests,
    #[command(flatten, next_help_heading = "Limits and patience")]
    pub(super) pace: Pace,
    #[command(flatten, next_help_heading = "Results")]
    pub(super) results: Results,
}

#[derive(Debug, clap::Args)]
pub(super) struct ReviewArguments {
    /// What is asked for: answers of each --model, reviews of them, or both
    #[arg(long, value_enum, value_name = "check|review|check-and-review", default_value_t = Stage::Check, hide_possible_values = true)]
    pub(super) stage: Stage,
    /// Model that reviews each answer; repeatable; under `output_review`, by reviewed model
    #[arg(long, value_name = "MODEL")]
    pub(super) review_model: Vec<String>,
    /// File with the prompt of reviews: {{ answer }} is the text, {{ model }} its model, and all fields of the item
    #[arg(long, value_name = "FILE")]
    pub(super) review_template: Option<PathBuf>,
    /// System message of the reviews
    #[arg(long, value_name = "TEXT")]
    pub(super) review_system: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Stage {
    Check,
    Review,
    CheckAndReview,
}

#[derive(Debug, clap::Args)]
pub(super) struct Service {
    /// Base URL, such as `https://api.openai.com/v1`; repeatable
    #[arg(long)]
    pub(super) url: Vec<String>,
    /// File with one API key per line
    #[arg(long, value_name = "FILE", conflicts_with = "keys_env", long_help = KEYS)]
    pub(super) keys: Option<PathBuf>,
    /// Environment variable with API keys
    #[arg(long, value_name = "NAME", default_value = "LEASEHOLD_KEYS")]
    pub(super) keys_env: String,
    /// Header of every call; repeatable; the value is not shown
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) header: Vec<Header>,
    /// Name of the header with the id of each call
    #[arg(long, value_name = "NAME", default_value = "x-trace-id")]
    pub(super) trace_header: String,
    /// Trusted certificates, PEM [default: SSL_CERT_FILE, else Mozilla's]
    #[arg(long, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// Accept any certificate: anyone in between can read the keys
    #[arg(long, conflicts_with = "ca_file")]
    pub(super) insecure_skip_verify: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Requests {
    /// File with the prompt; {{ field }} inserts a field of the item (Jinja)
    #[arg(long, value_name = "FILE")]
    pub(super) template: Option<PathBuf>,
    /// System message of every request
    #[arg(long, value_name = "TEXT")]
    pub(super) system: Option<String>,
    /// JSON file with fields of every request; its texts may have {{ field }}
    #[arg(long, value_name = "FILE")]
    pub(super) body: Option<PathBuf>,
    /// Field of every request, JSON or text, such as temperature=0; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_field)]
    pub(super) set: Vec<(String, Value)>,
    /// Same as --set max_tokens=TOKENS [default: not sent]
    #[arg(long, value_name = "TOKENS", value_parser = parse_whole::<u32>)]
    pub(super) max_tokens: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Pace {
    /// Limits of each key, such as "3/60s, 2 concurrent"; repeatable
    #[arg(long, value_name = "[MODEL=]LIMITS", value_parser = parse_limit, long_help = LIMITS)]
    pub(super) limit: Vec<LimitArgument>,
    /// Folder by which limits hold over restarts, or "none"
    #[arg(
        long,
        value_name = "DIR|none",
        long_help = "\
Folder that keeps what keys have used, so that limits hold over restarts and kills
[default: $XDG_STATE_HOME/leasehold, else ~/.local/state/leasehold].
Used only with limits. No key is in it. \"none\" keeps nothing."
    )]
    pub(super) state: Option<PathBuf>,
    /// The most calls at once, or a file with it, read again at SIGHUP [default: 2 per key, at most 10 per model]
    #[arg(long, value_name = "CALLS|FILE", visible_alias = "max-concurrency")]
    pub(super) workers: Option<WorkersArgument>,
    /// Attempts per task, without rate limits and outages
    #[arg(long, value_name = "ATTEMPTS", default_value = "3", value_parser = parse_whole::<NonZeroU32>)]
    pub(super) tries: NonZeroU32,
    /// Timeout of a call, 600s by default; connect=10s is that of its connection; repeatable
    #[arg(long, value_name = "[PHASE=]DURATION", value_parser = parse_phase, long_help = TIMEOUTS)]
    pub(super) timeout: Vec<PhaseTimeout>,
    /// Longest outage of every service that is waited out
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = parse_timeout)]
    pub(super) give_up_after: Duration,
    /// Begin no task once this is reached, such as soon,fail=3%, soon,fail=10 or soon,success=1
    #[arg(long, value_name = "WHEN")]
    pub(super) halt: Option<Halt>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Results {
    /// Earlier results, for what the output does not have of an item; repeatable
    #[arg(long, value_name = "FILE")]
    pub(super) join: Vec<PathBuf>,
    /// Run only tasks that have failed in an earlier run
    #[arg(long)]
    pub(super) retry_failed: bool,
    /// Add lines to the output in the order of the input while the batch runs, not as items end
    #[arg(long)]
    pub(super) keep_order: bool,
    /// Earlier answers whose request has changed
    #[arg(long, value_name = "keep|redo|fail", value_enum, default_value_t = OnChangeArgument::Fail, hide_possible_values = true)]
    pub(super) on_change: OnChangeArgument,
    /// Usual fields of answers, or the whole body too
    #[arg(long, value_name = "usual|full", value_enum, default_value_t = Keep::Usual, hide_possible_values = true)]
    pub(super) keep: Keep,
    /// Ask for streamed answers; results are the same, and progress counts tokens
    #[arg(long)]
    pub(super) stream: bool,
    /// Prices of a million tokens in and out, for the cost in the summary
    #[arg(long, value_name = "IN,OUT")]
    pub(super) price: Option<Prices>,
    /// File to which a line of each call is added, in the columns of GNU parallel
    #[arg(long, value_name = "FILE")]
    pub(super) joblog: Option<PathBuf>,
    /// File for a page with the figures of the run, in HTML
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
    /// Print the status box each 30 s; SIGUSR1 prints it at any time
    #[arg(short, long)]
    pub(super) verbose: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Show no progress
    #[arg(short, long)]
    pub(super) quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OnChangeArgument {
    Keep,
    Redo,
    Fail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Keep {
    Usual,
    Full,
}

/// A number of workers, or a file that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WorkersArgument {
    Count(NonZeroUsize),
    /// Read again at each SIGHUP.
    File(PathBuf),
}

impl FromStr for WorkersArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_number = text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b"+-.".contains(&byte));
        match is_number {
            true => parse_whole(text).map(Self::Count),
            false => Ok(Self::File(text.into())),
        }
    }
}
