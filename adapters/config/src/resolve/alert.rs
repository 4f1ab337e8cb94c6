//! Joins the tables of alerts to settings.
//!
//! Invariant: no two alerts have one name, and each names only pools that are there.

use super::Resolver;
use crate::alert::{AlertSettings, Webhook};
use crate::error::Problem;
use crate::file::AlertTable;
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
        if has_span && !when.has_span() {
            let problem = format!("{when} counts nothing over a time; write for = \"5min\"");
            self.wrong(source, &at.key("over"), Problem::Invalid(problem));
        }
        let at = at.key("pools");
        if !alert.pools.is_empty() && !when.is_of_pools() {
            let problem = "money is counted over all pools; remove this";
            self.wrong(source, &at, Problem::Invalid(problem.to_owned()));
            return;
        }
        for (index, name) in alert.pools.iter().enumerate() {
            if !self.pools.iter().any(|pool| pool.name == *name) {
                let problem = self.no_such_pool(name);
                self.wrong(source, &at.item(index), Problem::Invalid(problem));
            }
        }
    }
}
