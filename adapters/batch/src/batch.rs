//! The settings of a batch.

use crate::account::Account;
use crate::error::BatchError;
use crate::input::Item;
use crate::request::RequestSettings;
use core::num::{NonZeroU32, NonZeroUsize};
use core::time::Duration;
use leasehold_core::limit::LimitSpecs;
use leasehold_http::{ClientConfig, Place};
use leasehold_protocol::Endpoint;
use std::path::PathBuf;

/// Returns `min(keys * 2, models * 10)`, at least one.
///
/// Two calls per key keep it busy while responses are in flight; more than ten per model only queue behind it.
#[must_use]
pub fn default_workers(keys: usize, models: usize) -> NonZeroUsize {
    let workers = keys.saturating_mul(2).min(models.saturating_mul(10));
    NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN)
}

/// An endpoint with its key, and what is known of the key's limits.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Upstream {
    /// The URL and the key.
    pub endpoint: Endpoint,
    /// The account of the key: keys of one group and URL share one set of limits.
    pub group: Option<String>,
    /// Limits of the key, or of its group, in place of those of the batch.
    pub limits: Option<LimitSpecs>,
}

impl From<Endpoint> for Upstream {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            group: None,
            limits: None,
        }
    }
}

/// What happens to an earlier answer whose request has changed since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnChange {
    /// The batch does not start.
    #[default]
    Fail,
    /// The earlier answer is kept.
    Keep,
    /// The task runs again, and its answer replaces the earlier one.
    Redo,
}

/// A batch: one task for each item and model.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Batch {
    /// The items.
    pub items: Vec<Item>,
    /// Names of the models, each once.
    pub models: Vec<String>,
    /// The endpoints, each with its own key; not used with a [`pool`](Self::pool).
    pub upstreams: Vec<Upstream>,
    /// The pool of a gateway that keys are leased of, with its limits; `None` by default: the endpoints are a pool of this
    /// run.
    pub pool: Option<Place>,
    /// Limits of each key or group on each URL; none by default. Tokens are reserved before a call, as many as it
    /// may use at most, and settled at the tokens that the answer reports.
    pub limits: Option<LimitSpecs>,
    /// Further limits of each key or group for calls of one model.
    pub model_limits: Vec<(String, LimitSpecs)>,
    /// What requests hold besides their item.
    pub request: RequestSettings,
    /// What happens to answers whose request has changed.
    pub on_change: OnChange,
    /// Whether the whole body of each answer is kept, under `raw`.
    pub keep_full: bool,
    /// Folder in which charges are kept, so that limits hold across runs; `None` by default: they don't.
    pub state: Option<PathBuf>,
    /// Number of threads that make calls: [`default_workers`] by default.
    pub workers: Option<NonZeroUsize>,
    /// Attempts per task: 3 by default. Rate-limited attempts and outages are not counted.
    pub max_attempts: NonZeroU32,
    /// Longest outage of all services that is waited out: 30 min by default.
    pub give_up_after: Duration,
    /// Settings of the client: timeouts, headers, certificates.
    pub client: ClientConfig,
    /// Seed of the backoff delays.
    pub seed: u64,
}

impl Batch {
    /// Creates a batch without limits. Models that the items name themselves are added.
    #[must_use]
    pub fn new(
        items: Vec<Item>,
        mut models: Vec<String>,
        upstreams: impl IntoIterator<Item: Into<Upstream>>,
    ) -> Self {
        let mut known: std::collections::HashSet<String> = models.iter().cloned().collect();
        for model in items.iter().filter_map(Item::own_model) {
            if known.insert(model.to_owned()) {
                models.push(model.to_owned());
            }
        }
        Self {
            items,
            models,
            upstreams: upstreams.into_iter().map(Into::into).collect(),
            pool: None,
            limits: None,
            model_limits: Vec::new(),
            request: RequestSettings::default(),
            on_change: OnChange::default(),
            keep_full: false,
            state: None,
            workers: None,
            max_attempts: NonZeroU32::MIN.saturating_add(2),
            give_up_after: Duration::from_secs(30 * 60),
            client: ClientConfig::default(),
            seed: 0,
        }
    }

    /// Returns the tasks as indices of items and models.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let models = self.models.iter().enumerate();
        let models: std::collections::HashMap<&str, usize> =
            models.map(|(index, name)| (&**name, index)).collect();
        self.items.iter().enumerate().flat_map(move |(item, it)| {
            let own = it.own_model().and_then(|name| models.get(name)).copied();
            let all = if it.own_model().is_some() {
                0..0
            } else {
                0..self.models.len()
            };
            own.into_iter().chain(all).map(move |model| (item, model))
        })
    }

    /// Returns the keys in groups that share their limits.
    pub(crate) fn accounts(&self) -> Result<Vec<Account>, BatchError> {
        Account::all(&self.upstreams, self.limits.as_ref())
    }

    /// Whether any limit holds.
    pub(crate) fn has_limits(&self) -> bool {
        self.limits.is_some()
            || !self.model_limits.is_empty()
            || self.upstreams.iter().any(|it| it.limits.is_some())
    }
}
