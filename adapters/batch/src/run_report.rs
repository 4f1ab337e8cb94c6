//! The page of a run, made of its figures.

use crate::batch::Batch;
use crate::error::BatchError;
use crate::figures::Totals;
use crate::page::{self, data};
use crate::report::{KeySummary, Summary};
use leasehold_core::limit::{LimitSpec, Unit};
use leasehold_page::DurationFigures;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

/// Checks that the page can be written, before any call is made.
pub(crate) fn check(path: &Path) -> Result<(), BatchError> {
    let opened = fs::File::options().create(true).append(true).open(path);
    opened.map(drop).map_err(|source| BatchError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Writes the page of a run.
pub(crate) fn write(
    path: &Path,
    batch: &Batch,
    output: &Path,
    summary: &Summary,
    totals: &Totals,
) -> Result<(), BatchError> {
    let page = page::page(&figures(batch, output, summary, totals));
    fs::write(path, page).map_err(|source| BatchError::Write {
        path: path.to_owned(),
        source,
    })
}

fn figures(batch: &Batch, output: &Path, summary: &Summary, totals: &Totals) -> data::PageReport {
    let count = |count: usize| count as u64;
    let waits = &summary.waits;
    let has_tokens = totals.tokens.total() > 0;
    data::PageReport {
        date: httpdate::fmt_http_date(now()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        input: batch.items.name(),
        output: output.display().to_string(),
        models: batch.models.clone(),
        limits: batch.limits_in_words(),
        stopped: summary.stopped.clone(),
        tasks: data::TaskCounts {
            total: count(summary.tasks),
            earlier: count(summary.earlier),
            ok: count(summary.ok),
            failed: count(summary.failed),
            unfinished: count(summary.unfinished),
        },
        elapsed: summary.elapsed,
        attempts: summary.client.calls,
        retries: summary.retries,
        tokens: has_tokens.then_some(totals.tokens),
        cost: summary.cost,
        keys: summary.keys.iter().map(figures_of_key).collect(),
        waits: DurationFigures::from(&waits.times),
        latencies: DurationFigures::from(&totals.latency),
        leases: waits.clone(),
        clients: data::ClientFigures {
            created: summary.client.agents_created,
            reused: summary.client.agents_reused,
        },
        timeline: totals.timeline.clone(),
        admitted: calls_per_second(batch),
        causes: summary.causes.clone(),
        first_failures: totals.failures.clone(),
    }
}

#[expect(clippy::disallowed_methods, reason = "the date is for people")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn figures_of_key(key: &KeySummary) -> data::KeyFigures {
    let times = &key.latency;
    let latency = times.min().zip(times.mean()).zip(times.max());
    data::KeyFigures {
        name: key.key.clone(),
        calls: key.calls,
        ok: key.ok,
        failed: key.failed(),
        throttled: key.throttled,
        rejected: key.rejected,
        latency: latency.map(|((min, mean), max)| data::LatencyFigures {
            min,
            mean,
            p95: times.quantile(950).unwrap_or(max),
            max,
        }),
    }
}

/// The calls that the limits of all keys admit in a second on average; `None` where some key has no limit of calls, or a
/// gateway has the keys.
fn calls_per_second(batch: &Batch) -> Option<f64> {
    if !batch.model_limits.is_empty() {
        return None;
    }
    let accounts = batch.accounts().ok()?;
    let rates = accounts.iter().map(|account| {
        let rates = account.limits.iter().flat_map(|limits| limits.iter());
        let rates = rates.filter_map(|limit| match limit {
            LimitSpec::Rate { unit, rate, .. } if *unit == Unit::Requests => {
                Some(f64::from(rate.limit.get()) / rate.window.as_secs_f64())
            }
            LimitSpec::Rate { .. } | LimitSpec::Concurrent(_) => None,
        });
        rates.reduce(f64::min)
    });
    rates.sum()
}
