//! The settings of a batch.

use crate::account::Account;
use crate::columns::Column;
use crate::error::BatchError;
use crate::halt::Halt;
use crate::input::Template;
use crate::items::Items;
use crate::request::RequestSettings;
use crate::status::StatusRequest;
use crate::worker_count::WorkerCount;
use core::num::{NonZeroU32, NonZeroUsize};
use core::time::Duration;
use leasehold_core::limit::LimitSpecs;
use leasehold_http::{ClientConfig, Place};
use leasehold_plan::Prices;
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

/// Reviews of answers by other models.
#[derive(Clone, Debug)]
pub struct Reviews {
    /// Names of the models that review, each once.
    pub models: Vec<String>,
    /// The prompt of a review: besides the fields of the item, `answer` is the text to review, `model` the model that gave
    /// it, and `check` all that was recorded of it.
    pub template: Template,
    /// A system message of the reviews.
    pub system: Option<String>,
    /// Whether the answers are asked for first.
    pub checks: bool,
}

/// A batch: one task for each item and model, and for each review.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Batch {
    /// The items.
    pub items: Items,
    /// Names of all models that are called or reviewed, each once.
    pub(crate) models: Vec<String>,
    /// The answers that each item gets.
    pub(crate) columns: Vec<Column>,
    /// The models that the items name themselves, as indices of `models`.
    pub(crate) own_models: Vec<usize>,
    pub(crate) reviews: Option<Reviews>,
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
    /// Files of earlier results: what the output does not have of an item is taken from them, the first one first.
    pub join: Vec<PathBuf>,
    /// Whether only tasks run that have failed in an earlier run.
    pub retry_failed: bool,
    /// Whether the whole body of each answer is kept, under `raw`.
    pub keep_full: bool,
    /// Whether lines are added to the output in the order of the input while the batch runs; the order in which items end
    /// by default. At the end, a file has the order of the input in either case.
    pub keep_order: bool,
    /// Folder in which charges are kept, so that limits hold across runs; `None` by default: they don't.
    pub state: Option<PathBuf>,
    /// The number of threads that make calls, which may change during the run: [`default_workers`] by default.
    pub worker_count: WorkerCount,
    /// Attempts per task: 3 by default. Rate-limited attempts and outages are not counted.
    pub max_attempts: NonZeroU32,
    /// Longest outage of all services that is waited out: 30 min by default.
    pub give_up_after: Duration,
    /// Whether answers are streamed. What is recorded of them is the same.
    pub stream: bool,
    /// When the run ends early because enough tasks have failed, succeeded or ended.
    pub halt: Option<Halt>,
    /// A file with a line for each call, in the columns of GNU parallel's `--joblog`.
    pub job_log: Option<PathBuf>,
    /// What a million tokens cost.
    pub prices: Option<Prices>,
    /// A file for a page with the figures of the run, in HTML.
    pub report: Option<PathBuf>,
    /// Asks for the status box while the batch runs.
    pub status: StatusRequest,
    /// Whether the status box is printed each 30 s.
    pub is_verbose: bool,
    /// Settings of the client: timeouts, headers, certificates.
    pub client: ClientConfig,
    /// Seed of the backoff delays.
    pub seed: u64,
}

impl Batch {
    /// Creates a batch without limits. Models that the items name themselves are added.
    #[must_use]
    pub fn new(
        items: Items,
        mut models: Vec<String>,
        upstreams: impl IntoIterator<Item: Into<Upstream>>,
    ) -> Self {
        let columns = match items.are_calls() {
            true => vec![Column::of_model(None)],
            false => (0..models.len()).map(Some).map(Column::of_model).collect(),
        };
        let own = items.own_models().iter();
        let own_models = own.map(|model| index_in(&mut models, model)).collect();
        Self {
            items,
            models,
            columns,
            own_models,
            reviews: None,
            upstreams: upstreams.into_iter().map(Into::into).collect(),
            pool: None,
            limits: None,
            model_limits: Vec::new(),
            request: RequestSettings::default(),
            on_change: OnChange::default(),
            join: Vec::new(),
            retry_failed: false,
            keep_full: false,
            keep_order: false,
            state: None,
            worker_count: WorkerCount::default(),
            max_attempts: NonZeroU32::MIN.saturating_add(2),
            give_up_after: Duration::from_secs(30 * 60),
            stream: false,
            halt: None,
            job_log: None,
            prices: None,
            report: None,
            status: StatusRequest::default(),
            is_verbose: false,
            client: ClientConfig::default(),
            seed: 0,
        }
    }

    /// Lets models review each answer. Its own models are only those whose answers are reviewed, if `checks` is false:
    /// their answers are then read from the items or from earlier results.
    ///
    /// Not for lines of OpenAI's Batch API, which have no answers to review.
    pub fn review(&mut self, reviews: Reviews) {
        let checked = self.columns.len();
        for column in &mut self.columns {
            column.is_asked = reviews.checks;
        }
        for reviewed in 0..checked {
            for reviewer in &reviews.models {
                let model = Some(index_in(&mut self.models, reviewer));
                self.columns.push(Column {
                    reviewed: Some(reviewed),
                    ..Column::of_model(model)
                });
            }
        }
        self.reviews = Some(reviews);
    }

    /// The names of all models that are called or reviewed, each once.
    #[must_use]
    pub fn models(&self) -> &[String] {
        &self.models
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

/// Returns the index of a name in a list, to which it is added if it is not there.
fn index_in(names: &mut Vec<String>, name: &str) -> usize {
    names
        .iter()
        .position(|known| known == name)
        .unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len().saturating_sub(1)
        })
}
