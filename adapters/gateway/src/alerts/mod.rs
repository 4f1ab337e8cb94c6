//! Alerts: conditions of pools and callers that an operator is told of, by the log, events, webhooks and commands.
//!
//! ```text
//! pools, accounts, jobs ── looks ── rules ┬─ log, /lb/events, /lb/alerts, metrics
//!  (once a second)          (core: Alert) └─ outbox ── delivery ── webhook, command
//! ```
//! Invariant: when something is told is the decision of [`leasehold_core::health::Alert`]. Telling waits for no
//! receiver, and one that is slow or gone holds back no other.

mod command;
mod delivery;
mod looks;
mod message;
mod outbox;
mod rule;
mod webhook;

use crate::lock;
use crate::shared::{Shared, Table};
use core::time::Duration;
use looks::Looks;
pub(crate) use message::Message;
use rule::Rule;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// The pause between two looks.
const TICK: Duration = Duration::from_secs(1);
/// The wait for messages at the end of the process, at most.
const FLUSH: Duration = Duration::from_secs(2);

/// The alerts of the settings in force.
#[derive(Debug, Default)]
pub(crate) struct Alerts(Mutex<Vec<Rule>>);

/// The figures of one alert.
#[derive(Debug)]
pub(crate) struct AlertFigures {
    pub(crate) name: String,
    /// The pools, members or callers of which it is told.
    pub(crate) active: u64,
    /// Its ways to receivers: the kind, and messages that were taken and that were given up.
    pub(crate) ways: Vec<(&'static str, u64, u64)>,
}

impl Alerts {
    /// Looks at all that the alerts are of, and tells what has changed.
    fn look(&self, shared: &Shared, table: &Table) {
        let mut rules = lock(&self.0);
        follow(&mut rules, table);
        if rules.is_empty() {
            return;
        }
        let looks = Looks::new(shared, table);
        for rule in rules.iter_mut() {
            rule.look(shared, &looks);
        }
    }

    /// Returns them as the admin interface shows them.
    pub(crate) fn view(&self) -> Value {
        let rules = lock(&self.0);
        json!({"alerts": rules.iter().map(Rule::view).collect::<Vec<_>>()})
    }

    /// Returns what is told of now and is not over, for people; each with its time, in milliseconds since 1970.
    pub(crate) fn active(&self) -> Value {
        let rules = lock(&self.0);
        rules.iter().flat_map(Rule::active).collect()
    }

    pub(crate) fn figures(&self) -> Vec<AlertFigures> {
        lock(&self.0).iter().map(Rule::figures).collect()
    }

    /// Waits until all messages have been taken or given up, for a short time.
    pub(crate) async fn flush(&self) {
        let outboxes: Vec<_> = lock(&self.0).iter().flat_map(Rule::outboxes).collect();
        let empty = async {
            for outbox in outboxes {
                outbox.emptied().await;
            }
        };
        // What is not taken by then is lost; the log has it.
        let _ = timeout(FLUSH, empty).await;
    }
}

/// Makes rules of the alerts of a table; those that are there already stay as they are.
fn follow(rules: &mut Vec<Rule>, table: &Table) {
    let alerts = &table.settings.alerts;
    let is_same = |(rule, alert): (&Rule, _)| rule.settings() == alert;
    if rules.len() == alerts.len() && rules.iter().zip(alerts).all(is_same) {
        return;
    }
    let mut old = core::mem::take(rules);
    for alert in alerts {
        let known = old.iter().position(|rule| rule.settings() == alert);
        rules.push(match known {
            Some(known) => old.swap_remove(known),
            None => Rule::start(alert),
        });
    }
}

/// Looks once a second, for as long as the gateway runs.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.alerts().look(&shared, &shared.table());
    }
}
