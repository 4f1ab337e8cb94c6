//! What callers have used: calls, tokens and money, by model; and the budgets that bound it.
//!
//! Invariant: a call's money is set aside before it is sent, and replaced by what was told of it once it has ended;
//! where nothing is told, it stays spent.

use crate::lock;
use crate::state::unix_tick;
use core::num::NonZeroU64;
use leasehold_config::MoneyBudget;
use leasehold_core::limit::{Budget, Reserved, Wait};
use leasehold_core::time::Tick;
use leasehold_protocol::{Price, Usage, Usd};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Models that are counted apart for a caller; the rest are counted together, because callers make names up.
const MAX_MODELS: usize = 200;
/// The name under which the rest is counted.
const OTHER_MODELS: &str = "(others)";

/// What was used of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Used {
    /// Calls that were sent, each repeat too.
    pub(crate) calls: u64,
    /// Those of them whose usage is not known.
    pub(crate) unknown: u64,
    pub(crate) prompt_tokens: u64,
    /// Of the prompts', those that services had in their caches.
    pub(crate) cached_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) cost: Usd,
}

impl Used {
    pub(crate) fn add(&mut self, other: &Self) {
        let fields = [
            (&mut self.calls, other.calls),
            (&mut self.unknown, other.unknown),
            (&mut self.prompt_tokens, other.prompt_tokens),
            (&mut self.cached_tokens, other.cached_tokens),
            (&mut self.completion_tokens, other.completion_tokens),
        ];
        for (field, more) in fields {
            *field = field.saturating_add(more);
        }
        self.cost = self.cost + other.cost;
    }

    fn of(usage: Option<&Usage>, cost: Usd) -> Self {
        let count = |field: fn(&Usage) -> Option<u64>| usage.and_then(field).unwrap_or(0);
        Self {
            calls: 1,
            unknown: usage.is_none().into(),
            prompt_tokens: count(|usage| usage.prompt_tokens),
            cached_tokens: count(|usage| usage.cached_tokens),
            completion_tokens: count(|usage| usage.completion_tokens),
            cost,
        }
    }
}

/// What a caller has used, by model.
pub(crate) type UsedByModel = BTreeMap<String, Used>;

/// What a caller had spent of its budget at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spent {
    pub(crate) at: Tick,
    pub(crate) amount: Usd,
}

/// What is known of a caller, over reloads and, with a state file, restarts.
#[derive(Debug, Default)]
pub(crate) struct Account(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    used: UsedByModel,
    /// Whether `used` has changed since it was last written.
    is_changed: bool,
    budget: Option<(MoneyBudget, Budget)>,
    /// What an earlier process has spent, until there is a budget.
    earlier: Option<Spent>,
}

/// A budget has no room for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverBudget {
    pub(crate) budget: MoneyBudget,
    pub(crate) spent: Usd,
    /// When there is room; `None` if there never is.
    pub(crate) opens: Option<Tick>,
}

impl Account {
    /// Goes on from what an earlier process has left.
    pub(crate) fn restored(used: UsedByModel, spent: Option<Spent>) -> Self {
        Self(Mutex::new(Inner {
            used,
            earlier: spent,
            ..Inner::default()
        }))
    }

    /// Sets the budget; what the present window has spent stays spent.
    pub(crate) fn set_budget(&self, settings: Option<MoneyBudget>) {
        let now = unix_tick();
        let mut inner = lock(&self.0);
        if inner.budget.as_ref().map(|(settings, _)| *settings) == settings {
            return;
        }
        let spent = inner.spent(now).or(inner.earlier.take());
        inner.budget = settings.and_then(|settings| {
            let amount = NonZeroU64::new(settings.amount.nanos())?;
            // The settings have no empty window.
            let mut budget = Budget::new(amount, settings.window).ok()?;
            if let Some(spent) = spent {
                budget.restore(now, spent.at, spent.amount.nanos());
            }
            Some((settings, budget))
        });
    }

    /// Sets money aside for a call; `None` where there is no budget.
    pub(crate) fn reserve(&self, most: Usd) -> Result<Option<Reserved>, OverBudget> {
        let now = unix_tick();
        let mut inner = lock(&self.0);
        let Some((settings, budget)) = &mut inner.budget else {
            return Ok(None);
        };
        let reserved = budget.reserve(now, most.nanos());
        reserved.map(Some).map_err(|wait| OverBudget {
            budget: *settings,
            spent: Usd::from_nanos(budget.spent(now)),
            opens: match wait {
                Wait::Until(at) => Some(at),
                Wait::ForSettlement | Wait::Never => None,
            },
        })
    }

    fn settle(&self, reserved: Reserved, spent: Usd) {
        if let Some((_, budget)) = &mut lock(&self.0).budget {
            budget.settle(unix_tick(), reserved, spent.nanos());
        }
    }

    fn count(&self, model: &str, used: &Used) {
        let mut inner = lock(&self.0);
        let is_new = !inner.used.contains_key(model);
        let name = match is_new && inner.used.len() >= MAX_MODELS {
            true => OTHER_MODELS,
            false => model,
        };
        inner.used.entry(name.to_owned()).or_default().add(used);
        inner.is_changed = true;
    }

    pub(crate) fn used(&self) -> UsedByModel {
        lock(&self.0).used.clone()
    }

    /// What was used, if that has changed since this was last asked.
    pub(crate) fn take_changed(&self) -> Option<UsedByModel> {
        let mut inner = lock(&self.0);
        core::mem::take(&mut inner.is_changed).then(|| inner.used.clone())
    }

    /// The budget, with what the present window has spent of it and when that ends.
    pub(crate) fn budget(&self) -> Option<(MoneyBudget, Usd, Option<Tick>)> {
        let now = unix_tick();
        let inner = lock(&self.0);
        let (settings, budget) = inner.budget.as_ref()?;
        let spent = Usd::from_nanos(budget.spent(now));
        Some((*settings, spent, budget.next_window(now)))
    }

    /// What the present window has spent; `None` without a budget.
    pub(crate) fn spent(&self) -> Option<Spent> {
        lock(&self.0).spent(unix_tick())
    }
}

impl Inner {
    fn spent(&self, at: Tick) -> Option<Spent> {
        let (_, budget) = self.budget.as_ref()?;
        let amount = Usd::from_nanos(budget.spent(at));
        Some(Spent { at, amount })
    }
}

/// What one call spends, over all its attempts.
#[derive(Debug)]
pub(crate) struct Spending {
    account: Arc<Account>,
    reserved: Option<Reserved>,
    spent: Mutex<Usd>,
}

impl Spending {
    /// Sets aside what a call may cost at most.
    pub(crate) fn new(account: &Arc<Account>, most: Usd) -> Result<Self, OverBudget> {
        Ok(Self {
            account: Arc::clone(account),
            reserved: account.reserve(most)?,
            spent: Mutex::default(),
        })
    }

    /// Begins an attempt, which may cost as much as `most`.
    pub(crate) fn attempt(
        self: &Arc<Self>,
        model: &str,
        price: Option<Price>,
        most: Usd,
    ) -> Attempt {
        Attempt {
            spending: Some(Arc::clone(self)),
            model: model.to_owned(),
            price,
            most,
        }
    }

    fn add(&self, model: &str, usage: Option<&Usage>, cost: Usd) {
        self.account.count(model, &Used::of(usage, cost));
        let mut spent = lock(&self.spent);
        *spent = *spent + cost;
    }
}

impl Drop for Spending {
    fn drop(&mut self) {
        if let Some(reserved) = self.reserved {
            self.account.settle(reserved, *lock(&self.spent));
        }
    }
}

/// An attempt of a call. One that is dropped has cost as much as it may.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// `None` once it is known what it has cost.
    spending: Option<Arc<Spending>>,
    model: String,
    price: Option<Price>,
    most: Usd,
}

impl Attempt {
    /// Counts what the service told.
    pub(crate) fn used(&mut self, usage: &Usage) {
        if let Some(spending) = self.spending.take() {
            let cost = self.price.map(|price| price.of(usage)).unwrap_or_default();
            spending.add(&self.model, Some(usage), cost);
        }
    }

    /// The service has taken nothing for it.
    pub(crate) fn unused(&mut self) {
        self.spending = None;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(spending) = self.spending.take() {
            spending.add(&self.model, None, self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;
    use proptest::prelude::*;
    use serde_json::json;

    fn budget(amount: &str) -> MoneyBudget {
        MoneyBudget {
            amount: amount.parse().unwrap(),
            window: Duration::from_secs(100 * 365 * 24 * 3_600),
        }
    }

    fn usd(nanos: u64) -> Usd {
        Usd::from_nanos(nanos)
    }

    #[test]
    fn a_call_that_may_cost_more_than_is_left_is_refused_until_others_have_ended() {
        let account = Arc::new(Account::default());
        account.set_budget(Some(budget("0.0000001 USD")));
        let first = Arc::new(Spending::new(&account, usd(70)).unwrap());
        let refused = Spending::new(&account, usd(40)).unwrap_err();
        assert_eq!((refused.spent, refused.opens.is_some()), (usd(70), true));
        let price = Price {
            input: usd(1_000_000),
            ..Price::default()
        };
        let usage = Usage::read(&json!({"prompt_tokens": 20, "completion_tokens": 5})).unwrap();
        first.attempt("m", Some(price), usd(70)).used(&usage);
        drop(first);
        assert_eq!(account.spent().unwrap().amount, usd(20));
        assert!(Spending::new(&account, usd(40)).is_ok());
        assert_eq!(Spending::new(&account, usd(101)).unwrap_err().opens, None);
        // A budget that changes keeps what was spent; so does a restart.
        let left = account.spent();
        account.set_budget(Some(budget("0.00000003 USD")));
        assert!(Spending::new(&account, usd(20)).is_err());
        let restored = Arc::new(Account::restored(account.used(), left));
        restored.set_budget(Some(budget("0.0000001 USD")));
        assert_eq!(restored.spent().unwrap().amount, usd(20));
    }

    #[test]
    fn models_beyond_the_bound_are_counted_together() {
        let account = Account::default();
        for number in 0..300 {
            account.count(
                &format!("m{number}"),
                &Used {
                    calls: 1,
                    ..Used::default()
                },
            );
        }
        let used = account.used();
        assert_eq!(
            (used.len(), used[OTHER_MODELS].calls),
            (MAX_MODELS + 1, 100)
        );
    }

    /// How an attempt of a test ends.
    #[derive(Clone, Copy, Debug)]
    enum Ending {
        Told(u16),
        Unused,
        Dropped,
    }

    fn ending() -> impl Strategy<Value = Ending> {
        prop_oneof![
            any::<u16>().prop_map(Ending::Told),
            Just(Ending::Unused),
            Just(Ending::Dropped),
        ]
    }

    proptest! {
        /// However the attempts of calls end, and in whatever order, the budget holds what they have cost.
        #[test]
        fn nothing_is_left_set_aside(
            calls in prop::collection::vec(prop::collection::vec(ending(), 0..4), 0..8),
        ) {
            let account = Arc::new(Account::default());
            account.set_budget(Some(budget("1 USD")));
            let price = Price { input: usd(1_000_000), ..Price::default() };
            let (mut open, mut cost) = (Vec::new(), 0);
            for endings in calls {
                let spending = Arc::new(Spending::new(&account, usd(1_000)).unwrap());
                for ending in endings {
                    open.push((spending.attempt("m", Some(price), usd(1_000)), ending));
                }
            }
            for (mut attempt, ending) in open {
                match ending {
                    Ending::Told(tokens) => {
                        let usage = json!({"prompt_tokens": tokens, "completion_tokens": 1});
                        attempt.used(&Usage::read(&usage).unwrap());
                        cost += u64::from(tokens);
                    }
                    Ending::Unused => attempt.unused(),
                    Ending::Dropped => cost += 1_000,
                }
            }
            prop_assert_eq!(account.spent().unwrap().amount, usd(cost));
            let counted: u64 = account.used().values().map(|used| used.cost.nanos()).sum();
            prop_assert_eq!(counted, cost);
        }
    }
}
