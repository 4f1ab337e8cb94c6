//! Tables of callers and of prices.
//!
//! Invariant: a default that depends on nothing else is the one of the settings.

use super::{Name, Text};
use crate::callers::{CallerSettings, KeyHash, ModelPattern, ModelPrice, MoneyBudget};
use core::num::NonZeroU16;
use leasehold_core::limit::LimitSpecs;
use leasehold_protocol::{Price, Usd};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A caller of listeners of services, with a key of its own.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CallerTable {
    /// Its name in errors, logs and counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(crate) name: Option<Text<Name>>,
    /// The SHA-256 of its key; `leasehold key new` writes both.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(crate) key_sha256: Option<Text<KeyHash>>,
    /// Its limits, in each pool by itself; without them, those of the pool and its members are all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limits: Option<Text<LimitSpecs>>,
    /// The models that it may ask for; without them, all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) models: Vec<Text<ModelPattern>>,
    /// Its place in line: those of a lower number are served first, and while there are any, no others.
    #[serde(default = "priority")]
    pub(crate) priority: u8,
    /// Its share of the keys while it and others wait.
    #[serde(default = "weight")]
    pub(crate) weight: NonZeroU16,
    /// What it may spend, by the prices of `[price]`; a call that may cost more than is left is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) budget: Option<Text<MoneyBudget>>,
}

const fn priority() -> u8 {
    CallerSettings::PRIORITY
}

const fn weight() -> NonZeroU16 {
    NonZeroU16::MIN
}

impl CallerTable {
    /// Returns the settings; `None` without what the schema requires.
    pub(crate) fn build(self) -> Option<CallerSettings> {
        Some(CallerSettings {
            name: self.name?.0.0,
            key: self.key_sha256?.0,
            limits: self.limits.map(|limits| limits.0),
            models: self.models.into_iter().map(|model| model.0).collect(),
            priority: self.priority,
            weight: self.weight,
            budget: self.budget.map(|budget| budget.0),
        })
    }

    pub(crate) fn of(caller: &CallerSettings) -> Self {
        Self {
            name: Some(Text(Name(caller.name.clone()))),
            key_sha256: Some(Text(caller.key)),
            limits: caller.limits.clone().map(Text),
            models: caller.models.iter().cloned().map(Text).collect(),
            priority: caller.priority,
            weight: caller.weight,
            budget: caller.budget.map(Text),
        }
    }
}

/// What a million tokens of some models cost.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PriceTable {
    /// Tokens of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(crate) input: Option<Text<Usd>>,
    /// Those that the service had in its cache; by default as `input`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cached_input: Option<Text<Usd>>,
    /// Tokens of the answer, reasoning included; by default none, as for embeddings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) output: Option<Text<Usd>>,
}

impl PriceTable {
    pub(crate) fn build(self, models: ModelPattern) -> ModelPrice {
        // The schema requires the first.
        let input = self.input.map_or(Usd::ZERO, |price| price.0);
        let price = Price {
            input,
            cached_input: self.cached_input.map_or(input, |price| price.0),
            output: self.output.map_or(Usd::ZERO, |price| price.0),
        };
        ModelPrice { models, price }
    }

    pub(crate) fn of(price: Price) -> Self {
        Self {
            input: Some(Text(price.input)),
            cached_input: Some(Text(price.cached_input)),
            output: Some(Text(price.output)),
        }
    }
}
