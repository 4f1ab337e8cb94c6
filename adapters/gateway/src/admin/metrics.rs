//! Figures for Prometheus, in its own text, in OpenMetrics or in protobuf, and for a collector by OTLP.
//!
//! Invariant: labels are names of pools, members and callers from the settings, never keys; callers beyond a bound are
//! counted together. All is read from figures that are kept anyway, so that a request costs nothing more.

mod families;
mod otlp;

use crate::account::Used;
use crate::alerts::AlertFigures;
use crate::backend_pool::BackendPool;
use crate::clock::time_of_day;
use crate::comfyui::Jobs;
use crate::operator_log::OperatorLog;
use crate::proxy::AnswerBody;
use crate::shared::{Counts, Shared, Table};
use core::fmt;
use core::sync::atomic::Ordering;
use families::{Form, Labels, counters, gauges};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response};
use leasehold_core::health::BreakerState;
use leasehold_core::pool::stats::Histogram;
use leasehold_sync::{LeaseCounts, MemberCondition, QueueStats};
use opentelemetry_proto::tonic::metrics::v1::Metric;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_protobuf, prometheus_text, text};
use prometheus_client::registry::Registry;
use std::collections::HashMap;
use std::time::UNIX_EPOCH;

/// Callers with figures of their own; the others have theirs together.
const MAX_CALLERS: usize = 100;
/// The name of the others, which no caller can have.
const OTHERS: &str = "(others)";

/// Answers `GET /metrics` in the form that its caller likes best, or else in Prometheus' own text.
pub(crate) fn metrics(shared: &Shared, table: &Table, headers: &HeaderMap) -> Response<AnswerBody> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Figures::of(shared, table)));
    let exposition = Exposition::of(headers);
    // Texts and bytes grow as they have to; nothing else can fail.
    let written = exposition.write(&registry);
    debug_assert!(written.is_some(), "figures can be written");
    let mut response = Response::new(AnswerBody::text(written.unwrap_or_default()));
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static(exposition.media_type()),
    );
    response
}

/// A form in which figures are exposed to Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exposition {
    Text,
    OpenMetrics,
    Protobuf,
}

impl Exposition {
    /// Returns the one that a caller accepts most; of equals, the one that tells most.
    fn of(headers: &HeaderMap) -> Self {
        let accepts = headers.get_all(ACCEPT).iter();
        let values = accepts.filter_map(|value| value.to_str().ok());
        let ranges = values.flat_map(|value| value.split(','));
        let mut best = (0, Self::Text);
        for range in ranges {
            let mut parts = range.split(';').map(str::trim);
            let exposition = match parts.next().unwrap_or_default() {
                "application/vnd.google.protobuf" => Self::Protobuf,
                "application/openmetrics-text" => Self::OpenMetrics,
                "text/plain" => Self::Text,
                _ => continue,
            };
            let quality = parts.find_map(|part| part.strip_prefix("q=")).map(permille);
            let choice = (quality.unwrap_or(1_000), exposition);
            if choice.0 > 0 && (choice.0, exposition as u8) > (best.0, best.1 as u8) {
                best = choice;
            }
        }
        best.1
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    fn write(self, registry: &Registry) -> Option<Vec<u8>> {
        let mut text = String::new();
        match self {
            Self::Text => prometheus_text::encode(&mut text, registry).ok()?,
            Self::OpenMetrics => text::encode(&mut text, registry).ok()?,
            Self::Protobuf => return prometheus_protobuf::encode_to_vec(registry).ok(),
        }
        Some(text.into_bytes())
    }
}

/// Reads a quality such as `0.5`; one that is none counts as nothing.
fn permille(quality: &str) -> u32 {
    let quality: f64 = quality.parse().unwrap_or(0.0);
    // Beyond the numbers of u32, it is at its end.
    (quality * 1e3) as u32
}

/// Returns the figures as OTLP has them.
pub(crate) fn otlp_metrics(shared: &Shared) -> Vec<Metric> {
    let mut metrics = otlp::Metrics::new(shared.began(), time_of_day());
    // This form takes all there is.
    let _ = Figures::of(shared, &shared.table()).tell(&mut metrics);
    metrics.all
}

/// All figures at one time.
#[derive(Debug)]
struct Figures {
    counts: Counts,
    connections: u64,
    log_dropped: u64,
    /// Lines for the operator that were dropped; `None` where their log is not the gateway's own.
    lines_dropped: Option<u64>,
    began: f64,
    is_reloaded: Option<bool>,
    pools: Vec<Pool>,
    members: Vec<Member>,
    callers: Vec<(String, Used)>,
    alerts: Vec<AlertFigures>,
}

#[derive(Debug)]
struct Pool {
    labels: Labels,
    held: Histogram,
    waited: Histogram,
    queue: QueueStats,
    repeats: u64,
    unrepeated: u64,
    /// Those of a pool of ComfyUI servers.
    jobs: Option<Jobs>,
}

#[derive(Debug)]
struct Member {
    labels: Labels,
    counts: LeaseCounts,
    condition: MemberCondition,
}

impl Figures {
    fn of(shared: &Shared, table: &Table) -> Self {
        let began = shared.began().duration_since(UNIX_EPOCH);
        let mut figures = Self {
            counts: shared.totals().counts(),
            connections: shared.open_connections(),
            log_dropped: shared.log().map_or(0, |log| log.dropped()),
            lines_dropped: shared.operator_log().map(OperatorLog::dropped),
            began: began.unwrap_or_default().as_secs_f64(),
            is_reloaded: shared.reloads().view()["successful"].as_bool(),
            pools: Vec::new(),
            members: Vec::new(),
            callers: Vec::new(),
            alerts: shared.alerts().figures(),
        };
        for pool in table.pools() {
            figures.add_pool(shared, pool);
        }
        figures.add_callers(shared, table);
        figures
    }

    fn add_pool(&mut self, shared: &Shared, pool: &BackendPool) {
        let name = &pool.settings().name;
        let sync = pool.pool().blocking();
        let (stats, conditions) = (sync.stats(), pool.conditions());
        let counts = stats.members.iter().map(|one| (one.member, one.counts));
        let counts: HashMap<_, _> = counts.collect();
        for (member, backend, condition) in conditions {
            self.members.push(Member {
                labels: vec![
                    ("pool", name.clone()),
                    ("member", backend.name().to_owned()),
                ],
                counts: counts.get(&member).copied().unwrap_or_default(),
                condition,
            });
        }
        let repeats = pool.repeats();
        self.pools.push(Pool {
            labels: vec![("pool", name.clone())],
            held: stats.held,
            waited: stats.waited,
            queue: stats.waiting,
            repeats: repeats.made.load(Ordering::Relaxed),
            unrepeated: repeats.refused.load(Ordering::Relaxed),
            jobs: shared.hubs().get(name).map(|hub| hub.jobs()),
        });
    }

    fn add_callers(&mut self, shared: &Shared, table: &Table) {
        // Those of the settings in their order, so that a figure changes its place by a reload alone.
        let callers = table.settings.callers.iter().take(MAX_CALLERS);
        let own: Vec<&str> = callers.map(|caller| caller.name.as_str()).collect();
        let mut others = Used::default();
        for (name, account) in shared.accounts().all() {
            let mut all = Used::default();
            account.used().values().for_each(|used| all.add(used));
            match name {
                Some(name) if own.contains(&&*name) => self.callers.push((name, all)),
                Some(_) | None => others.add(&all),
            }
        }
        self.callers.push((OTHERS.to_owned(), others));
    }

    fn tell(&self, to: &mut dyn Form) -> fmt::Result {
        self.of_gateway(to)?;
        self.of_pools(to)?;
        self.of_members(to)?;
        self.of_callers(to)?;
        self.of_alerts(to)
    }

    fn of_gateway(&self, to: &mut dyn Form) -> fmt::Result {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let build = vec![("version", version)];
        gauges(
            to,
            "leasehold_build_info",
            "The version that runs.",
            [(build, 1_i64)],
        )?;
        let help = "When the gateway began, in seconds since 1970.";
        gauges(to, "process_start_time_seconds", help, alone(self.began))?;
        let counts = &self.counts;
        let ended = [
            ("ok", counts.ok),
            ("failed", counts.failed),
            ("refused", counts.refused),
        ];
        let help = "Requests of callers that have ended, by how.";
        counters(to, "leasehold_requests", help, by("outcome", ended))?;
        let limited = [("admitted", counts.admitted), ("refused", counts.limited)];
        let help = "Requests that the listeners' limits have admitted or refused.";
        counters(
            to,
            "leasehold_limited_requests",
            help,
            by("outcome", limited),
        )?;
        let help = "Connections of callers that are open.";
        gauges(
            to,
            "leasehold_connections",
            help,
            alone(as_gauge(self.connections)),
        )?;
        let help = "Connections that were closed at once, because there were too many.";
        let turned_away = alone(counts.turned_away);
        counters(to, "leasehold_connections_turned_away", help, turned_away)?;
        let help = "Requests that could be read in two ways.";
        counters(
            to,
            "leasehold_ambiguous_requests",
            help,
            alone(counts.ambiguous),
        )?;
        let help = "Parts of the access log that were dropped because the disk was too slow.";
        counters(
            to,
            "leasehold_access_log_dropped",
            help,
            alone(self.log_dropped),
        )?;
        if let Some(dropped) = self.lines_dropped {
            let help =
                "Lines for the operator that were dropped because their output was too slow.";
            counters(to, "leasehold_log_lines_dropped", help, alone(dropped))?;
        }
        let help = "Whether the settings that were read last are in force.";
        let reloaded = alone(i64::from(self.is_reloaded.unwrap_or(true)));
        gauges(
            to,
            "leasehold_config_last_reload_successful",
            help,
            reloaded,
        )
    }

    fn of_pools(&self, to: &mut dyn Form) -> fmt::Result {
        let rows = || self.pools.iter().map(|pool| (pool.labels.clone(), pool));
        let help = "How long requests had a member, to the end of the answer.";
        let held = rows().map(|(labels, pool)| (labels, &pool.held));
        to.histograms("leasehold_request_duration_seconds", help, held.collect())?;
        let help = "How long requests waited for a member.";
        let waited = rows().map(|(labels, pool)| (labels, &pool.waited));
        to.histograms("leasehold_lease_wait_seconds", help, waited.collect())?;
        let depth = rows().map(|(labels, pool)| (labels, i64::from(pool.queue.waiting)));
        gauges(
            to,
            "leasehold_queue_depth",
            "Requests that wait for a member.",
            depth,
        )?;
        let left = rows().flat_map(|(labels, pool)| {
            let queue = pool.queue;
            let ways = [
                ("granted_at_once", queue.granted_at_once),
                ("granted", queue.granted_queued),
                ("refused", queue.refused),
                ("timed_out", queue.timed_out),
                ("cancelled", queue.cancelled),
            ];
            ways.map(|(way, count)| (with(&labels, "result", way), count))
        });
        let help = "Requests for a member, by what became of them.";
        counters(to, "leasehold_lease_requests", help, left)?;
        let repeats = rows().map(|(labels, pool)| (labels, pool.repeats));
        counters(
            to,
            "leasehold_retries",
            "Requests that were sent once more.",
            repeats,
        )?;
        let unrepeated = rows().map(|(labels, pool)| (labels, pool.unrepeated));
        let help = "Requests that failed because they could not be sent once more.";
        counters(to, "leasehold_retries_refused", help, unrepeated)?;
        let jobs = rows().filter_map(|(labels, pool)| Some((labels, pool.jobs?)));
        let jobs = jobs.flat_map(|(labels, jobs)| {
            let states = [("running", jobs.running), ("waiting", jobs.waiting)];
            states.map(|(state, count)| (with(&labels, "state", state), as_gauge(count)))
        });
        gauges(
            to,
            "leasehold_jobs",
            "Jobs for ComfyUI servers that have not ended.",
            jobs,
        )
    }

    fn of_members(&self, to: &mut dyn Form) -> fmt::Result {
        let rows = || self.members.iter().map(|one| (one.labels.clone(), one));
        let ends = rows().flat_map(|(labels, one)| {
            let counts = one.counts;
            let ends = [
                ("ok", counts.ok),
                ("failed", counts.failed),
                ("throttled", counts.throttled),
                ("unknown", counts.unknown),
                ("not_sent", counts.not_sent),
                ("expired", counts.expired),
            ];
            ends.map(|(outcome, count)| (with(&labels, "outcome", outcome), count))
        });
        let help = "Leases of a member that have ended, by how.";
        counters(to, "leasehold_member_leases", help, ends)?;
        let inflight = rows().map(|(labels, one)| (labels, i64::from(one.condition.in_flight)));
        gauges(
            to,
            "leasehold_inflight",
            "Requests that a member has now.",
            inflight,
        )?;
        let up = rows().map(|(labels, one)| (labels, i64::from(one.condition.serves())));
        let help = "Whether a member is sent requests, limits and load aside.";
        gauges(to, "leasehold_member_up", help, up)?;
        let weights = rows().map(|(labels, one)| (labels, i64::from(one.condition.weight)));
        gauges(
            to,
            "leasehold_member_weight",
            "The weight of a member.",
            weights,
        )?;
        let open = rows().filter_map(|(labels, one)| {
            let breaker = one.condition.breaker?;
            let is_open = matches!(breaker, BreakerState::Open { .. });
            Some((labels, i64::from(is_open)))
        });
        let help = "Whether the breaker of a member is open.";
        gauges(to, "leasehold_breaker_open", help, open)?;
        let left = rows().flat_map(|(labels, one)| limits(&labels, &one.condition, |one| one.0));
        let help = "The most that the limits of a member admit now.";
        gauges(to, "leasehold_limit_remaining", help, left)?;
        let most = rows().flat_map(|(labels, one)| limits(&labels, &one.condition, |one| one.1));
        let help = "The most that the limits of a member ever admit at once.";
        gauges(to, "leasehold_limit_capacity", help, most)
    }

    fn of_callers(&self, to: &mut dyn Form) -> fmt::Result {
        let rows = || {
            let callers = self.callers.iter();
            callers.map(|(name, used)| (vec![("caller", name.clone())], used))
        };
        let calls = rows().map(|(labels, used)| (labels, used.calls));
        let help = "Calls of services that were sent for a caller.";
        counters(to, "leasehold_caller_calls", help, calls)?;
        let tokens = rows().flat_map(|(labels, used)| {
            let kinds = [
                ("input", used.prompt_tokens),
                ("output", used.completion_tokens),
            ];
            kinds.map(|(kind, count)| (with(&labels, "gen_ai_token_type", kind), count))
        });
        let help = "Tokens that a caller's calls have used.";
        counters(to, "leasehold_caller_tokens", help, tokens)?;
        let cost = rows().map(|(labels, used)| (labels, used.cost.dollars()));
        let help = "Dollars that a caller's calls have cost.";
        counters(to, "leasehold_caller_cost_usd", help, cost)
    }

    fn of_alerts(&self, to: &mut dyn Form) -> fmt::Result {
        let rows = || {
            let alerts = self.alerts.iter();
            alerts.map(|alert| (vec![("alert", alert.name.clone())], alert))
        };
        let active = rows().map(|(labels, alert)| (labels, as_gauge(alert.active)));
        let help = "Pools, members and callers that an alert is active for.";
        gauges(to, "leasehold_alerts", help, active)?;
        let messages = rows().flat_map(|(labels, alert)| {
            let receivers = alert.receivers.iter();
            let rows = receivers.flat_map(|receiver| {
                let labels = with(&labels, "receiver", receiver.kind);
                [
                    ("delivered", receiver.delivered),
                    ("dropped", receiver.dropped),
                ]
                .map(|(outcome, count)| (with(&labels, "outcome", outcome), count))
            });
            rows.collect::<Vec<_>>()
        });
        let help = "Messages of an alert, by what became of them.";
        counters(to, "leasehold_alert_messages", help, messages)?;
        let waiting = rows().flat_map(|(labels, alert)| {
            let receivers = alert.receivers.iter();
            let rows = receivers.map(|receiver| {
                let labels = with(&labels, "receiver", receiver.kind);
                (labels, as_gauge(receiver.waiting))
            });
            rows.collect::<Vec<_>>()
        });
        let help = "Messages of an alert that its receiver has not taken yet.";
        gauges(to, "leasehold_alert_messages_waiting", help, waiting)
    }
}

impl Collector for Figures {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        self.tell(&mut to)
    }
}

/// The figures of a member's limits by unit; none of a unit without a limit.
fn limits(
    labels: &Labels,
    condition: &MemberCondition,
    of: impl Fn((u32, u32)) -> u32,
) -> Vec<(Labels, i64)> {
    let (left, most) = (condition.available, condition.capacity);
    let units = [
        ("requests", (left.requests, most.requests)),
        ("tokens", (left.tokens, most.tokens)),
    ];
    let limited = units.into_iter().filter(|(_, (_, most))| *most < u32::MAX);
    let rows = limited.map(|(unit, both)| (with(labels, "unit", unit), i64::from(of(both))));
    rows.collect()
}

fn alone<V>(value: V) -> [(Labels, V); 1] {
    [(Labels::new(), value)]
}

fn with(labels: &Labels, name: &'static str, value: &str) -> Labels {
    let mut labels = labels.clone();
    labels.push((name, value.to_owned()));
    labels
}

fn by<const N: usize>(
    label: &'static str,
    counts: [(&'static str, u64); N],
) -> impl Iterator<Item = (Labels, u64)> {
    let counts = counts.into_iter();
    counts.map(move |(value, count)| (with(&Labels::new(), label, value), count))
}

fn as_gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_the_one_that_is_accepted_most() {
        let of = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            Exposition::of(&headers)
        };
        let native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
            encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,text/plain;q=0.5";
        assert_eq!(of(native), Exposition::Protobuf);
        let open =
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(of(open), Exposition::OpenMetrics);
        for text in [
            "",
            "*/*",
            "text/html, text/plain;q=0.3",
            "application/openmetrics-text;q=0.1,text/plain;q=0.2",
            "*/*,application/vnd.google.protobuf;q=0",
            "application/openmetrics-text;q=much",
        ] {
            assert_eq!(of(text), Exposition::Text, "{text}");
        }
        assert_eq!(Exposition::of(&HeaderMap::new()), Exposition::Text);
    }
}
