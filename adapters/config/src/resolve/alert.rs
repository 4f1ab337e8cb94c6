//! Joins the tables of alerts to settings.
//!
//! Invariant: no two alerts have one name, and each is of pools that are there and of something that can happen.

use super::Resolver;
use crate::alert::{AlertSettings, AlertWhen, Webhook};
use crate::error::{Mistake, Problem};
use crate::file::{AlertTable, Label, Value};
use crate::settings::{Kind, PoolSettings, Settings};
use crate::source::{At, Source};

impl Resolver<'_> {
    /// Adds the alerts of a file.
    pub(super) fn alerts(
        &mut self,
        source: &Source,
        tables: Vec<AlertTable>,
        alerts: &mut Vec<AlertSettings>,
    ) {
        let at = At::Root.key("alert");
        for (index, mut table) in tables.into_iter().enumerate() {
            let at = at.item(index);
            let (webhook_file, has_span) = (table.webhook_file.take(), table.over.is_some());
            let Some(mut alert) = table.build() else {
                continue;
            };
            if let Some((_, first)) = self.alerts.iter().find(|(name, _)| *name == alert.name) {
                let problem = Problem::Duplicate(first.clone(), "name it otherwise");
                self.wrong(source, &at.key("name"), problem);
            }
            self.alerts.push((alert.name.clone(), source.place_at(&at)));
            self.check_alert(source, &at, &alert, has_span);
            if let Some(path) = webhook_file {
                let (name, text) = self.file(source, &path.0);
                let webhook = match text {
                    Ok(text) => Webhook::of_file(&text, source.folder.join(&path.0.0))
                        .map_err(|problem| Problem::Invalid(format!("{name}: {problem}"))),
                    Err(error) => Err(Problem::Unreadable(format!("cannot read {name}: {error}"))),
                };
                match webhook {
                    Ok(webhook) => alert.webhook = Some(webhook),
                    Err(problem) => self.wrong(source, &at.key("webhook_file"), problem),
                }
            }
            alerts.push(alert);
        }
    }

    fn check_alert(&mut self, source: &Source, at: &At<'_>, alert: &AlertSettings, has_span: bool) {
        let when = alert.when;
        let invalid = |problem: &str| Problem::Invalid(problem.to_owned());
        if has_span && !when.has_span() {
            let problem = format!("{when} counts nothing over a time; write for = \"5min\"");
            self.wrong(source, &at.key("over"), Problem::Invalid(problem));
        }
        if alert.name.contains(char::is_control) {
            self.wrong(source, &at.key("name"), invalid("must be on one line"));
        }
        if alert.command.iter().any(|word| word.contains('\0')) {
            let problem = "no program can be given a NUL; remove it";
            self.wrong(source, &at.key("command"), invalid(problem));
        }
        for label in alert.labels.keys() {
            if let Err(misread) = Label::read(label) {
                let problem = Problem::Invalid(misread.problem);
                self.wrong(source, &at.key("labels").key(label), problem);
            }
        }
        let at = at.key("pools");
        if !alert.pools.is_empty() && !when.is_of_pools() {
            self.wrong(
                source,
                &at,
                invalid("money is counted over all pools; remove this"),
            );
            return;
        }
        for (index, name) in alert.pools.iter().enumerate() {
            if !self.pools.iter().any(|pool| pool.name == *name) {
                let problem = self.no_such_pool(name);
                self.wrong(source, &at.item(index), Problem::Invalid(problem));
            }
        }
    }

    /// Refuses conditions that can never hold.
    pub(super) fn check_alerts(&mut self, settings: &Settings) {
        for (alert, (_, place)) in settings.alerts.iter().zip(&self.alerts) {
            if let Some(problem) = never_holds(alert, settings) {
                self.report.add(Mistake {
                    place: place.clone(),
                    key: "alert.when".to_owned(),
                    problem: Problem::Invalid(problem.to_owned()),
                });
            }
        }
    }
}

/// Returns why the condition of an alert can never hold; `None` if it can.
fn never_holds(alert: &AlertSettings, settings: &Settings) -> Option<&'static str> {
    let is_watched =
        |pool: &&PoolSettings| alert.pools.is_empty() || alert.pools.contains(&pool.name);
    let mut pools = settings.pools.iter().filter(is_watched);
    match alert.when {
        AlertWhen::JobsLost => pools
            .all(|pool| pool.kind != Kind::Comfyui)
            .then_some("no pool that it watches is of kind comfyui, and only these have jobs"),
        AlertWhen::BreakerOpen => pools
            .all(|pool| pool.breaker.is_none())
            .then_some("no pool that it watches has a breaker; add breaker = { failures = 5 }"),
        AlertWhen::Spend(_) | AlertWhen::CallerSpend(_) => settings
            .prices
            .is_empty()
            .then_some("there is no price, so nothing would be counted; add [price.\"MODEL\"]"),
        AlertWhen::MemberDown
        | AlertWhen::PoolDown
        | AlertWhen::LimitExhausted
        | AlertWhen::Queue(_)
        | AlertWhen::Wait { .. }
        | AlertWhen::Errors(_) => None,
    }
}
