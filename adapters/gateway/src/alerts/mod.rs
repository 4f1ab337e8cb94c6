//! Alerts: conditions of pools and callers that an operator is told of, by the log, events, webhooks and commands.
//!
//! ```text
//! pools, accounts, jobs ── snapshot ── rules ┬─ log, /lb/events, /lb/alerts, metrics
//!    (once a second)                (core)   └─ outbox ── receiver ── webhook, command
//! ```
//! Invariant: [`leasehold_core::health::Alert`] decides when an alert begins and ends. No exchange waits for a receiver,
//! and one that is slow or gone holds back no other.

mod command;
mod message;
mod outbox;
mod receiver;
mod rule;
mod snapshot;
mod webhook;

use crate::lock;
use crate::shared::{Shared, Table};
use core::time::Duration;
pub(crate) use message::Message;
use message::instance;
use outbox::Outbox;
pub(crate) use receiver::Receiver;
use rule::Rule;
use serde_json::{Value, json};
use snapshot::Snapshot;
use std::sync::{Arc, Mutex};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// The pause between two looks.
const TICK: Duration = Duration::from_secs(1);
/// The wait for receivers at the end of the process, at most.
const FLUSH: Duration = Duration::from_secs(2);

/// The alerts of the settings in force.
#[derive(Debug, Default)]
pub(crate) struct Alerts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    /// Outboxes of rules that a reload has removed, until they are empty.
    closing: Vec<Arc<Outbox>>,
}

/// The figures of one alert.
#[derive(Debug)]
pub(crate) struct AlertFigures {
    pub(crate) name: String,
    /// The number of pools, members and callers that it is active for.
    pub(crate) active: u64,
    pub(crate) receivers: Vec<ReceiverFigures>,
}

/// The messages of one alert to one receiver.
#[derive(Debug)]
pub(crate) struct ReceiverFigures {
    pub(crate) kind: &'static str,
    pub(crate) waiting: u64,
    pub(crate) delivered: u64,
    pub(crate) dropped: u64,
}

impl Alerts {
    /// Observes all conditions, and tells what has changed.
    fn look(&self, shared: &Shared, table: &Table) {
        let mut state = lock(&self.0);
        state.follow(shared, table);
        if state.rules.is_empty() {
            return;
        }
        let snapshot = Snapshot::new(shared, table);
        for rule in &mut state.rules {
            rule.look(shared, &snapshot);
        }
    }

    /// Returns all alerts as the admin interface shows them.
    pub(crate) fn view(&self) -> Value {
        let state = lock(&self.0);
        json!({"alerts": state.rules.iter().map(Rule::view).collect::<Vec<_>>()})
    }

    /// Returns what is active now, in the order of the settings.
    pub(crate) fn active(&self) -> Value {
        lock(&self.0).rules.iter().flat_map(Rule::active).collect()
    }

    pub(crate) fn figures(&self) -> Vec<AlertFigures> {
        lock(&self.0).rules.iter().map(Rule::figures).collect()
    }

    /// Sends the receivers of an alert a message that says it is a test; `None` if there is no such alert.
    pub(crate) fn test(&self, name: &str) -> Option<usize> {
        let state = lock(&self.0);
        let rule = state
            .rules
            .iter()
            .find(|rule| rule.settings().name == name)?;
        Some(rule.test())
    }

    /// Lets each receiver have one more try, and waits for them for a short time.
    pub(crate) async fn flush(&self) {
        let outboxes = lock(&self.0).outboxes();
        let empty = async {
            for outbox in &outboxes {
                outbox.hurry();
            }
            for outbox in &outboxes {
                outbox.emptied().await;
            }
        };
        let _ = timeout(FLUSH, empty).await;
        for outbox in outboxes {
            outbox.give_up("its receiver", "the gateway ends");
        }
    }
}

impl State {
    fn outboxes(&self) -> Vec<Arc<Outbox>> {
        let of_rules = self.rules.iter().flat_map(Rule::outboxes);
        of_rules.chain(self.closing.iter().cloned()).collect()
    }

    /// Makes the rules of a table; those of the same name go on.
    fn follow(&mut self, shared: &Shared, table: &Table) {
        self.closing.retain(|outbox| outbox.waiting() > 0);
        let alerts = &table.settings.alerts;
        let is_same = |(rule, alert): (&Rule, _)| rule.settings() == alert;
        if self.rules.len() == alerts.len() && self.rules.iter().zip(alerts).all(is_same) {
            return;
        }
        let mut old = core::mem::take(&mut self.rules);
        for alert in alerts {
            let known = old.iter().position(|rule| rule.is_continued_by(alert));
            let (rule, closing) = match known {
                Some(known) => old.swap_remove(known).continued(alert),
                None => (Rule::new(alert, &instance(&table.settings)), Vec::new()),
            };
            self.rules.push(rule);
            self.closing.extend(closing);
        }
        for rule in old {
            self.closing.extend(rule.end(shared));
        }
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
