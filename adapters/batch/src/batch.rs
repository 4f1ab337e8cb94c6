//! The settings of a batch.

use crate::input::Item;
use core::num::{NonZeroU32, NonZeroUsize};
use core::time::Duration;
use leasehold_core::limit::{LimitSpecs, Unit};
use leasehold_core::time::Tick;
use leasehold_protocol::Endpoint;

/// Maximum number of tokens of an answer by default: 30,720.
const DEFAULT_MAX_TOKENS: u32 = 30 * 1024;

/// Returns `min(keys * 2, models * 10)`, at least one.
///
/// Two calls per key keep it busy while responses are in flight; more than ten per model only queue behind it.
#[must_use]
pub fn default_workers(keys: usize, models: usize) -> NonZeroUsize {
    let workers = keys.saturating_mul(2).min(models.saturating_mul(10));
    NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN)
}

/// A batch: one task for each item and model.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Batch {
    /// The items.
    pub items: Vec<Item>,
    /// Names of the models, each once.
    pub models: Vec<String>,
    /// The endpoints, each with its own key.
    pub endpoints: Vec<Endpoint>,
    /// Limits of each endpoint; none by default. Tokens are reserved before a call, as many as it may use at
    /// most, and settled at the tokens that the answer reports.
    pub limits: Option<LimitSpecs>,
    /// Number of threads that make calls: [`default_workers`] by default.
    pub workers: Option<NonZeroUsize>,
    /// Attempts per task: 3 by default. Rate-limited attempts are not counted.
    pub max_attempts: NonZeroU32,
    /// Maximum number of tokens of an answer.
    pub max_tokens: u32,
    /// Timeout of a call: 600 s by default.
    pub timeout: Duration,
    /// Seed of the backoff delays.
    pub seed: u64,
}

impl Batch {
    /// Creates a batch without limits.
    #[must_use]
    pub fn new(items: Vec<Item>, models: Vec<String>, endpoints: Vec<Endpoint>) -> Self {
        Self {
            items,
            models,
            endpoints,
            limits: None,
            workers: None,
            max_attempts: NonZeroU32::MIN.saturating_add(2),
            max_tokens: DEFAULT_MAX_TOKENS,
            timeout: Duration::from_secs(600),
            seed: 0,
        }
    }

    pub(crate) fn task_count(&self) -> usize {
        self.items.len().saturating_mul(self.models.len())
    }

    /// The most tokens that a call may reserve; `None` where no limit counts tokens.
    pub(crate) fn token_cap(&self) -> Option<u32> {
        let limits = self.limits.as_ref()?;
        let counts = limits.iter().any(|spec| spec.unit() == Unit::Tokens);
        counts.then(|| limits.limits().available(Tick::ZERO, 0).tokens)
    }
}
