//! Figures as OTLP has them.
//!
//! Invariant: the counts are those since the start of the gateway, as in Prometheus' text.

use super::families::{Form, Histograms, Labels, Number, Numbers, buckets};
use core::fmt;
use leasehold_core::pool::stats::Histogram;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram as Times, HistogramDataPoint, Metric, NumberDataPoint,
    Sum,
};
use std::time::{SystemTime, UNIX_EPOCH};

/// The figures of one time.
pub(super) struct Metrics {
    pub(super) all: Vec<Metric>,
    began: u64,
    at: u64,
}

impl Metrics {
    pub(super) fn new(began: SystemTime, at: SystemTime) -> Self {
        Self {
            all: Vec::new(),
            began: nanos(began),
            at: nanos(at),
        }
    }

    fn add(&mut self, name: &str, help: &str, data: Data) {
        let unit = if name.ends_with("_seconds") { "s" } else { "" };
        self.all.push(Metric {
            name: name.to_owned(),
            description: help.to_owned(),
            unit: unit.to_owned(),
            data: Some(data),
            ..Metric::default()
        });
    }

    fn points(&self, rows: Numbers) -> Vec<NumberDataPoint> {
        let point = |(labels, number)| NumberDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: self.began,
            time_unix_nano: self.at,
            value: Some(match number {
                Number::Count(count) => Value::AsInt(i64::try_from(count).unwrap_or(i64::MAX)),
                Number::Whole(number) => Value::AsInt(number),
                Number::Real(number) => Value::AsDouble(number),
            }),
            ..NumberDataPoint::default()
        };
        rows.into_iter().map(point).collect()
    }
}

impl Form for Metrics {
    fn counters(&mut self, name: &str, help: &str, rows: Numbers) -> fmt::Result {
        let sum = Sum {
            data_points: self.points(rows),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
            is_monotonic: true,
        };
        self.add(name, help, Data::Sum(sum));
        Ok(())
    }

    fn gauges(&mut self, name: &str, help: &str, rows: Numbers) -> fmt::Result {
        let data_points = self.points(rows);
        self.add(name, help, Data::Gauge(Gauge { data_points }));
        Ok(())
    }

    fn histograms(&mut self, name: &str, help: &str, rows: Histograms<'_>) -> fmt::Result {
        let point = |(labels, times): (Labels, &Histogram)| {
            let (bounds, counts): (Vec<f64>, Vec<u64>) = buckets(times).into_iter().unzip();
            HistogramDataPoint {
                attributes: attributes(labels),
                start_time_unix_nano: self.began,
                time_unix_nano: self.at,
                count: times.count(),
                sum: Some(times.sum().as_secs_f64()),
                bucket_counts: counts,
                // The last bucket has no bound.
                explicit_bounds: bounds
                    .into_iter()
                    .filter(|bound| bound.is_finite())
                    .collect(),
                ..HistogramDataPoint::default()
            }
        };
        let times = Times {
            data_points: rows.into_iter().map(point).collect(),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
        };
        self.add(name, help, Data::Histogram(times));
        Ok(())
    }
}

fn attributes(labels: Labels) -> Vec<KeyValue> {
    let attribute = |(name, value): (&str, String)| KeyValue {
        // OpenTelemetry's own names have dots, which Prometheus does not know.
        key: name.replace("gen_ai_token_type", "gen_ai.token.type"),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value)),
        }),
        ..KeyValue::default()
    };
    labels.into_iter().map(attribute).collect()
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
