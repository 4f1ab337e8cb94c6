//! A prediction as one JSON object, for programs.

use crate::capacity::Capacity;
use crate::figures::{Figures, Quantiles};
use crate::prediction::Prediction;
use core::time::Duration;
use serde_json::{Map, Value, json};

impl Prediction {
    /// Returns the figures as JSON: times in seconds, rates a minute.
    #[must_use]
    pub fn to_json(&self, capacity: &Capacity) -> Value {
        let mut whole = of_figures(&self.figures);
        let members = capacity.members.iter().zip(&self.figures.per_member);
        let members: Map<_, _> = members
            .map(|(member, calls)| (member.name.clone(), (*calls).into()))
            .collect();
        whole.insert("per_member".to_owned(), members.into());
        let bound_by = self.binding().map(|(limit, _)| limit.to_string());
        whole.insert("held_back_by".to_owned(), bound_by.into());
        let limits = self.limits.iter();
        let limits = limits.map(|(limit, figures)| named("limit", limit.to_string(), figures));
        whole.insert("without".to_owned(), limits.collect());
        let changes = self.changes.iter();
        let changes = changes.map(|(change, figures)| named("change", change.to_string(), figures));
        whole.insert("compare".to_owned(), changes.collect());
        whole.into()
    }
}

fn named(name: &str, value: String, figures: &Figures) -> Value {
    let mut whole = Map::new();
    whole.insert(name.to_owned(), value.into());
    whole.extend(of_figures(figures));
    whole.into()
}

fn of_figures(figures: &Figures) -> Map<String, Value> {
    let whole = json!({
        "calls": figures.calls,
        "served": figures.served,
        "refused": figures.refused,
        "never_fit": figures.never_fit,
        "never_served": figures.never_served,
        "finish_s": seconds(figures.finish),
        "calls_per_minute": figures.calls_per_minute(),
        "tokens_per_minute": figures.tokens_per_minute(),
        "prompt_tokens": figures.tokens.prompt,
        "completion_tokens": figures.tokens.completion,
        "cost": figures.cost,
        "wait_s": of_quantiles(&figures.waits),
        "call_s": of_quantiles(&figures.times),
        "total_s": of_quantiles(&figures.totals),
        "balance_score": figures.balance_score(),
    });
    match whole {
        Value::Object(whole) => whole,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Map::new()
        }
    }
}

fn of_quantiles(quantiles: &Quantiles) -> Value {
    json!({
        "mean": seconds(quantiles.mean),
        "p50": seconds(quantiles.p50),
        "p90": seconds(quantiles.p90),
        "p99": seconds(quantiles.p99),
        "max": seconds(quantiles.max),
    })
}

fn seconds(span: Duration) -> f64 {
    span.as_secs_f64()
}
