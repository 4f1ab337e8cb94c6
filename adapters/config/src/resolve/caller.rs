//! Joins the tables of callers and prices to settings.
//!
//! Invariant: no two callers have one name or one key, and a caller with a budget has a price for what it may ask.

use super::{CallerName, Resolver};
use crate::callers::{CallerSettings, ModelPattern, ModelPrice};
use crate::error::{Mistake, Problem};
use crate::file::{CallerTable, PriceTable};
use crate::settings::{Serve, Settings};
use crate::source::{At, Source};
use core::cmp::Reverse;
use std::collections::BTreeMap;

impl Resolver<'_> {
    /// Adds the callers of a file.
    pub(super) fn callers(
        &mut self,
        source: &Source,
        tables: Vec<CallerTable>,
        callers: &mut Vec<CallerSettings>,
    ) {
        let at = At::Root.key("caller");
        for (index, table) in tables.into_iter().enumerate() {
            let at = at.item(index);
            let Some(caller) = table.build() else {
                continue;
            };
            let first = self.callers.iter().find_map(|known| {
                let key = match (known.name == caller.name, known.key == caller.key) {
                    (true, _) => ("name", "name it otherwise"),
                    (false, true) => ("key_sha256", "make another with: leasehold key new"),
                    (false, false) => return None,
                };
                Some((known.place.clone(), key))
            });
            if let Some((first, (key, advice))) = first {
                self.wrong(source, &at.key(key), Problem::Duplicate(first, advice));
            }
            self.callers.push(CallerName {
                name: caller.name.clone(),
                key: caller.key,
                place: source.place_at(&at),
            });
            callers.push(caller);
        }
    }

    /// Adds the prices of a file.
    pub(super) fn prices(
        &mut self,
        source: &Source,
        tables: BTreeMap<String, PriceTable>,
        prices: &mut Vec<ModelPrice>,
    ) {
        let at = At::Root.key("price");
        for (models, table) in tables {
            let at = at.key(&models);
            let models: ModelPattern = match models.parse() {
                Ok(models) => models,
                Err(error) => {
                    let problem = format!("the name of the table {error}");
                    self.wrong(source, &at, Problem::Invalid(problem));
                    continue;
                }
            };
            if prices.iter().any(|price| price.models == models) {
                let problem = "another file has a price for these models; remove one";
                self.wrong(source, &at, Problem::Invalid(problem.to_owned()));
            }
            prices.push(table.build(models));
        }
    }

    /// Checks what callers need of the rest, and puts the most special price first.
    pub(super) fn check_callers(&mut self, settings: &mut Settings) {
        settings
            .prices
            .sort_by_key(|price| Reverse(price.models.as_str().len()));
        let takes_calls = |serve| matches!(serve, Serve::Openai | Serve::Leases);
        let has_listener = settings.listeners.iter().any(|one| takes_calls(one.serve));
        let wrongs: Vec<(usize, &str, &str)> = settings
            .callers
            .iter()
            .enumerate()
            .filter_map(|(index, caller)| {
                if !has_listener {
                    let problem =
                        "only listeners of openai and leases have callers with keys, and there is none";
                    return Some((index, "name", problem));
                }
                let problem =
                    "there is no price, so nothing would be counted; add [price.\"MODEL\"]";
                let is_free = caller.budget.is_some() && settings.prices.is_empty();
                is_free.then_some((index, "budget", problem))
            })
            .collect();
        for (index, key, problem) in wrongs {
            self.report.add(Mistake {
                place: self.callers[index].place.clone(),
                key: format!("caller.{key}"),
                problem: Problem::Invalid(problem.to_owned()),
            });
        }
    }
}
