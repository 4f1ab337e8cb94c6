//! The summary of `leasehold batch`.

use super::Arguments;
use crate::print_err;
use core::time::Duration;
use leasehold_batch::{Batch, Summary, is_standard};
use serde_json::json;

/// Tells what has become of the tasks, on standard error.
pub(super) fn print_summary(arguments: &Arguments, batch: &Batch, summary: &Summary) {
    let counts = [
        (summary.ok, "answered"),
        (summary.earlier, "answered before"),
        (summary.failed, "failed"),
        (summary.unfinished, "not done"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<_> = counts
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    let output = if is_standard(&arguments.output) {
        "on standard output".to_owned()
    } else {
        format!("in {}", arguments.output.display())
    };
    print_err(format_args!(
        "{} tasks in {:.1} s: {}; results are {output}",
        summary.tasks,
        summary.elapsed.as_secs_f64(),
        if counts.is_empty() {
            "nothing to do".to_owned()
        } else {
            counts.join(", ")
        }
    ));
    print_figures(summary);
    if summary.left_out > 0 {
        print_err(format_args!(
            "{} reviews are left out: the answers to review are not there",
            summary.left_out
        ));
    }
    for reason in &summary.stopped {
        print_err(reason);
    }
    for key in summary.keys.iter().filter(|key| key.rejected) {
        print_err(format_args!(
            "the service rejects the key {}: remove or replace it",
            key.key
        ));
    }
    let is_wrong = summary.ok == 0 && !summary.stopped.is_empty();
    if let Some(task) = summary.first_failure.as_ref().filter(|_| !is_wrong) {
        print_err(format_args!(
            "first failure: item {}, model {}: {}",
            task.item, task.model, task.reason
        ));
        let failure_field = if batch.items.are_calls() {
            "error"
        } else {
            "output_error"
        };
        print_err(format_args!(
            "all failures are {output}, under `{failure_field}`"
        ));
    }
    if (summary.failed > 0 || summary.unfinished > 0) && !is_wrong {
        print_err("run the same command again to continue");
    }
}

/// Tells how the calls went: spread over keys, times, waits, tokens, connections.
fn print_figures(summary: &Summary) {
    let calls = || summary.keys.iter().map(|key| key.calls);
    let all: u64 = calls().sum();
    let (Some(least), Some(most), true) = (calls().min(), calls().max(), all > 0) else {
        return;
    };
    let mean = all as f64 / summary.keys.len() as f64;
    print_err(format_args!(
        "calls        {all}; a key {least} at least, {mean:.1} on average, {most} at most; {} retries",
        summary.retries
    ));
    let waits = &summary.waits;
    print_err(format_args!(
        "leases       {} at once, {} after a wait of {:.1} s on average, {} refused",
        waits.at_once,
        waits.after_waiting,
        waits.times.mean().unwrap_or_default().as_secs_f64(),
        waits.refused
    ));
    print_err(format_args!(
        "clients      {} created, {} reused; a call took {:.3} s on average",
        summary.client.agents_created,
        summary.client.agents_reused,
        summary.client.mean_time().as_secs_f64()
    ));
    if summary.tokens.total() > 0 {
        let cost = summary.cost.map(|cost| format!("; cost {cost:.6}"));
        print_err(format_args!(
            "tokens       {} in, {} out{}",
            summary.tokens.prompt,
            summary.tokens.completion,
            cost.unwrap_or_default()
        ));
    }
    let causes = summary.causes.iter();
    let causes: Vec<_> = causes
        .map(|(cause, count)| format!("{count} {cause}"))
        .collect();
    if !causes.is_empty() {
        print_err(format_args!("failures     {}", causes.join(", ")));
    }
}

/// The summary, for programs.
pub(super) fn as_json(summary: &Summary) -> serde_json::Value {
    let keys = summary.keys.iter();
    let per_key: Vec<_> = keys
        .map(|key| {
            let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
            json!({
                "key": key.key,
                "calls": key.calls,
                "ok": key.ok,
                "throttled": key.throttled,
                "failed": key.failed(),
                "refused": key.rejected,
                "min_call_s": seconds(key.latency.min()),
                "mean_call_s": seconds(key.latency.mean()),
                "max_call_s": seconds(key.latency.max()),
            })
        })
        .collect();
    let causes = summary.causes.iter();
    let causes: serde_json::Map<_, _> = causes
        .map(|(cause, count)| (cause.clone(), json!(count)))
        .collect();
    let waits = &summary.waits;
    json!({
        "tasks": summary.tasks,
        "earlier": summary.earlier,
        "ok": summary.ok,
        "failed": summary.failed,
        "left_out": summary.left_out,
        "unfinished": summary.unfinished,
        "stopped": summary.stopped,
        "elapsed_s": summary.elapsed.as_secs_f64(),
        "throttled": summary.keys.iter().map(|key| key.throttled).sum::<u64>(),
        "retries": summary.retries,
        "failures": causes,
        "tokens": {"prompt": summary.tokens.prompt, "completion": summary.tokens.completion},
        "cost": summary.cost,
        "clients": {"created": summary.client.agents_created, "reused": summary.client.agents_reused},
        "leases": {
            "at_once": waits.at_once,
            "after_waiting": waits.after_waiting,
            "refused": waits.refused,
        },
        "mean_wait_s": waits.times.mean().unwrap_or_default().as_secs_f64(),
        "mean_call_s": summary.client.mean_time().as_secs_f64(),
        "balance_score": summary.balance_score(),
        "variance": summary.variance(),
        "per_key": per_key,
    })
}
