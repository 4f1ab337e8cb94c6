//! Limits: how much may be admitted, and when more may be.
//!
//! Invariant: no algorithm admits more in any span than its [`Limit::worst_case`] states for that length. Spans are
//! half open: an admission at `t` and one at `t + window` are never in one window. Time that runs backwards is
//! clamped to the latest admission or settlement.

mod admission;
mod booking;
mod bucketed_window;
mod budget;
mod concurrency;
mod cost;
mod fixed_window;
mod gcra;
mod gcra_word;
mod limiter;
mod pacing;
mod quota;
mod rate;
mod rate_ratio;
mod refill;
mod refund_cutoff;
mod reported_quota;
mod set;
mod sliding_counter;
mod sliding_log;
mod spec;
mod token_bucket;

#[cfg(feature = "serde")]
pub use admission::SnapshotError;
pub use admission::{Anchor, Limit, LimitConfigError, Wait};
pub use booking::Booking;
pub use bucketed_window::BucketedWindow;
pub use budget::{Budget, Reserved};
pub use concurrency::Concurrency;
pub use cost::{Cost, Unit};
pub use fixed_window::FixedWindow;
pub use gcra::Gcra;
pub use gcra_word::GcraWord;
pub use limiter::Limiter;
pub use pacing::Pacing;
pub use quota::{Allowance, Quota};
pub use rate::Rate;
pub use set::LimitSet;
pub use sliding_counter::SlidingCounter;
pub use sliding_log::SlidingLog;
pub use spec::{
    Algorithm, LimitSpec, LimitSpecs, LimitSpecsError, ParseLimitError, ParseLimitErrorKind,
};
pub use token_bucket::TokenBucket;
