//! What callers have used, as people see it.
//!
//! Invariant: the figures of a caller are the sums of those of its models.

use super::answer::millis;
use crate::account::{Account, Used};
use crate::callers::Accounts;
use crate::state::unix_tick;
use leasehold_core::time::DisplaySpan;
use serde_json::{Value, json};

/// Returns what all callers have used; those without a key of their own are one without a name.
pub(crate) fn view(accounts: &Accounts) -> Value {
    let callers = accounts.all();
    let callers = callers
        .iter()
        .map(|(name, account)| of_caller(name.as_deref(), account));
    json!({"callers": callers.collect::<Vec<_>>()})
}

fn of_caller(name: Option<&str>, account: &Account) -> Value {
    let by_model = account.used();
    let mut all = Used::default();
    by_model.values().for_each(|used| all.add(used));
    let mut view = of_used(&all);
    let models = by_model
        .iter()
        .map(|(model, used)| (model.clone(), of_used(used)));
    view["name"] = name.into();
    view["budget"] = budget(account);
    view["models"] = Value::Object(models.collect());
    view
}

fn of_used(used: &Used) -> Value {
    json!({
        "calls": used.calls,
        "calls_without_usage": used.unknown,
        "prompt_tokens": used.prompt_tokens,
        "cached_tokens": used.cached_tokens,
        "completion_tokens": used.completion_tokens,
        "cost_usd": used.cost.dollars(),
    })
}

fn budget(account: &Account) -> Value {
    let Some((budget, spent, end)) = account.budget() else {
        return Value::Null;
    };
    json!({
        "amount_usd": budget.amount.dollars(),
        "window": DisplaySpan(budget.window).to_string(),
        "spent_usd": spent.dollars(),
        "ends_in_ms": end.map(|end| millis(end.since(unix_tick()))),
    })
}
