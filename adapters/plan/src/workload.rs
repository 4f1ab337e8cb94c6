//! Calls that are asked for: when they come, and how long each takes.
//!
//! Invariant: calls are in the order in which they come, and there are at most [`Workload::MAX_CALLS`].

use crate::cost::Tokens;
use core::num::NonZeroU32;
use core::ops::RangeInclusive;
use core::time::Duration;

/// One call of a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Call {
    /// When it comes, from the start; ignored where [workers](Pace::Workers) take calls one after another.
    pub at: Duration,
    /// The index of its model.
    pub model: u32,
    /// The key that hash policies go by.
    pub key: Option<u64>,
    /// The tokens that it uses.
    pub tokens: Tokens,
    /// The tokens that are reserved for it.
    pub reserved: u64,
    /// The time that it took, if that is known.
    pub time: Option<Duration>,
    /// Its place among the measured times, from 0 (the shortest) to 1.
    pub rank: f32,
}

/// When calls are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pace {
    /// A number of workers, each of which takes the next call once its own has ended.
    Workers {
        /// Calls at once, those that wait included.
        count: NonZeroU32,
        /// Its start; with all workers by default.
        start: Option<NarrowStart>,
    },
    /// Each call comes at its own time, whatever became of those before it.
    Arrivals,
}

/// A start with few workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NarrowStart {
    /// Calls at once until the first has ended.
    pub calls: NonZeroU32,
    /// Time after which all workers begin, even if no call has ended.
    pub patience: Duration,
}

impl NarrowStart {
    /// The start of a batch.
    pub const BATCH: Self = Self {
        calls: NonZeroU32::MIN.saturating_add(3),
        patience: Duration::from_secs(2),
    };
}

/// The time of a call that does not tell it itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallTime {
    /// Any time of this range alike, drawn from the seed.
    Between(RangeInclusive<Duration>),
    /// As measured on each member, by its index, in rising order. A call has the same [rank](Call::rank) among the times of
    /// every member; where a member has none, the call takes as long as it did.
    Measured(Vec<Vec<Duration>>),
}

/// Calls and their pace.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    pub(crate) models: Vec<String>,
    pub(crate) calls: Vec<Call>,
    pub(crate) pace: Pace,
    pub(crate) time: CallTime,
    pub(crate) seed: u64,
}

/// Why calls make no workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// There are no calls.
    #[error("there are no calls to plan; give at least one")]
    Empty,
    /// There are too many.
    #[error("there are {0} calls; plan at most 5,000,000 at once")]
    TooMany(u64),
}

impl Workload {
    /// The most calls of a workload.
    pub const MAX_CALLS: u64 = 5_000_000;

    /// Makes a workload of calls, which are put in the order of their times.
    ///
    /// # Errors
    /// If there are no calls or too many.
    pub fn new(
        models: Vec<String>,
        mut calls: Vec<Call>,
        pace: Pace,
        time: CallTime,
    ) -> Result<Self, WorkloadError> {
        match calls.len() as u64 {
            0 => return Err(WorkloadError::Empty),
            1..=Self::MAX_CALLS => {}
            count => return Err(WorkloadError::TooMany(count)),
        }
        if pace == Pace::Arrivals {
            calls.sort_by_key(|call| call.at);
        }
        Ok(Self {
            models,
            calls,
            pace,
            time,
            seed: 0,
        })
    }

    /// Makes `count` calls of the same tokens, which go through the models in turn.
    ///
    /// # Errors
    /// If there are no calls or too many.
    pub fn alike(
        models: Vec<String>,
        count: u64,
        call: Call,
        pace: Pace,
        time: CallTime,
    ) -> Result<Self, WorkloadError> {
        if count > Self::MAX_CALLS {
            return Err(WorkloadError::TooMany(count));
        }
        let turns = u64::try_from(models.len()).unwrap_or(1).max(1);
        let calls = (0..count).map(|number| Call {
            model: u32::try_from(number % turns).unwrap_or(0),
            ..call
        });
        Self::new(models, calls.collect(), pace, time)
    }

    /// Spreads the calls evenly over a span, in which each comes whatever became of those before it.
    #[must_use]
    pub fn spread_over(mut self, span: Duration) -> Self {
        let count = self.calls.len() as u128;
        for (number, call) in (0u128..).zip(&mut self.calls) {
            let nanos = span.as_nanos().saturating_mul(number) / count.max(1);
            call.at = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        }
        self.pace = Pace::Arrivals;
        self
    }

    /// Sets the seed of times that are drawn, and of policies that draw.
    #[must_use]
    pub const fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The models, by the index that calls give.
    #[must_use]
    pub fn models(&self) -> &[String] {
        &self.models
    }

    /// The calls, in their order.
    #[must_use]
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// When calls are asked for.
    #[must_use]
    pub const fn pace(&self) -> &Pace {
        &self.pace
    }

    /// The time of a call on a member.
    pub(crate) fn time_of(&self, index: usize, member: u32) -> Duration {
        let call = self.calls.get(index).copied().unwrap_or_default();
        match &self.time {
            CallTime::Measured(members) => {
                let times = members.get(member as usize);
                let measured = times.filter(|times| !times.is_empty());
                let at_rank = measured.and_then(|times| {
                    let place = f64::from(call.rank) * times.len() as f64;
                    // Saturating: a rank of 1 is the longest time.
                    let place = (place as usize).min(times.len().saturating_sub(1));
                    times.get(place).copied()
                });
                at_rank.or(call.time).unwrap_or_default()
            }
            CallTime::Between(range) => call.time.unwrap_or_else(|| {
                // The time of a call is the same on every member and under every policy, so that these can be compared.
                let seed = self.seed.rotate_left(32) ^ index as u64;
                let (low, high) = (nanos(*range.start()), nanos(*range.end()));
                Duration::from_nanos(fastrand::Rng::with_seed(seed).u64(low..=high.max(low)))
            }),
        }
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
