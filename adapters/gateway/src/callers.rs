//! The callers of a table's listeners, by their keys.
//!
//! Invariant: each pool of keys knows each caller's weight and limits, and no other caller's.

use crate::account::Account;
use crate::backend_pool::{BackendPool, rates};
use crate::lock;
use core::time::Duration;
use leasehold_config::{CallerSettings, KeyHash, Kind, ModelPrice, Settings};
use leasehold_core::balance::stable_hash;
use leasehold_core::limit::{LimitSpecs, Unit};
use leasehold_core::pool::FlowConfig;
use leasehold_protocol::Price;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

/// The accounts of all callers that there ever were, by their names; `None` is for those without a name.
#[derive(Debug, Default)]
pub(crate) struct Accounts(Mutex<BTreeMap<Option<String>, Arc<Account>>>);

impl Accounts {
    /// Goes on from what an earlier process has left.
    pub(crate) fn restored(accounts: BTreeMap<Option<String>, Account>) -> Self {
        let accounts = accounts.into_iter();
        Self(Mutex::new(
            accounts.map(|(name, one)| (name, Arc::new(one))).collect(),
        ))
    }

    /// Returns a caller's account, which is opened by its first use.
    pub(crate) fn of(&self, name: Option<&str>) -> Arc<Account> {
        Arc::clone(lock(&self.0).entry(name.map(str::to_owned)).or_default())
    }

    /// Returns all of them.
    pub(crate) fn all(&self) -> Vec<(Option<String>, Arc<Account>)> {
        let accounts = lock(&self.0);
        let all = accounts
            .iter()
            .map(|(name, one)| (name.clone(), Arc::clone(one)));
        all.collect()
    }
}

/// A caller that a table has.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) settings: CallerSettings,
    /// The number by which pools know it; the same after a restart.
    pub(crate) flow: u64,
    pub(crate) account: Arc<Account>,
}

impl Caller {
    /// Whether it may ask for a model.
    pub(crate) fn may_ask(&self, model: &str) -> bool {
        let models = &self.settings.models;
        models.is_empty() || models.iter().any(|pattern| pattern.fits(model))
    }

    /// The most tokens that a call of its may reserve; `None` where no limit of its counts tokens.
    pub(crate) fn token_cap(&self) -> Option<u32> {
        rates(self.settings.limits.iter(), Unit::Tokens).min()
    }

    fn flow_config(&self) -> FlowConfig {
        let limits = self.settings.limits.as_ref().map(LimitSpecs::limits);
        FlowConfig::new()
            .weight(self.settings.weight)
            .limits(limits.unwrap_or_default())
    }
}

/// The callers and prices of a table.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    by_key: HashMap<KeyHash, Arc<Caller>>,
    prices: Vec<ModelPrice>,
}

impl Callers {
    pub(crate) fn new(settings: &Settings, accounts: &Accounts) -> Self {
        let callers = settings.callers.iter().map(|settings| {
            let caller = Caller {
                flow: stable_hash(format!("caller {}", settings.name).as_bytes()),
                settings: settings.clone(),
                account: accounts.of(Some(&settings.name)),
            };
            (settings.key, Arc::new(caller))
        });
        Self {
            by_key: callers.collect(),
            prices: settings.prices.clone(),
        }
    }

    /// Puts the callers' budgets in force.
    pub(crate) fn set_budgets(&self) {
        for caller in self.by_key.values() {
            caller.account.set_budget(caller.settings.budget);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Returns the caller with a key. Hashes of keys are compared, so that no time tells how much of a key is right.
    pub(crate) fn find(&self, key: &[u8]) -> Option<&Arc<Caller>> {
        if self.by_key.is_empty() {
            return None;
        }
        self.by_key.get(&KeyHash::of(key))
    }

    /// Returns the name of the caller whose requests are of a flow.
    pub(crate) fn of_flow(&self, flow: u64) -> Option<&str> {
        let found = self.by_key.values().find(|caller| caller.flow == flow);
        found.map(|caller| caller.settings.name.as_str())
    }

    /// Returns the price of a model, if it has one.
    pub(crate) fn price(&self, model: &str) -> Option<Price> {
        // The most special one comes first.
        let found = self.prices.iter().find(|price| price.models.fits(model));
        found.map(|found| found.price)
    }

    /// The longest window of a caller's limits; zero if there are none.
    pub(crate) fn longest_window(&self) -> Duration {
        let limits = self
            .by_key
            .values()
            .filter_map(|caller| caller.settings.limits.as_ref());
        limits
            .map(LimitSpecs::longest_window)
            .max()
            .unwrap_or_default()
    }

    /// Tells a pool of keys its callers, in place of those before.
    pub(crate) fn tell(&self, pool: &BackendPool, before: &Self) {
        if pool.settings().kind != Kind::Openai {
            return;
        }
        let sync = pool.pool().blocking();
        for old in before.by_key.values() {
            if !self.by_key.values().any(|caller| caller.flow == old.flow) {
                sync.reset_flow(old.flow);
            }
        }
        for caller in self.by_key.values() {
            let is_same = |old: &Arc<Caller>| {
                let (old, new) = (&old.settings, &caller.settings);
                old.name == new.name && old.weight == new.weight && old.limits == new.limits
            };
            if !before.by_key.values().any(is_same) {
                sync.set_flow(caller.flow, &caller.flow_config());
            }
        }
    }
}
