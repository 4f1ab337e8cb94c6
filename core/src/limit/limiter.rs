//! Any of the algorithms, chosen at run time.

use super::admission::{Limit, Wait};
use super::bucketed_window::BucketedWindow;
use super::concurrency::Concurrency;
use super::fixed_window::FixedWindow;
use super::gcra::Gcra;
use super::pacing::Pacing;
use super::sliding_counter::SlidingCounter;
use super::sliding_log::SlidingLog;
use super::token_bucket::TokenBucket;
use crate::time::Tick;
use core::time::Duration;

/// Makes the enum over all algorithms, and forwards every call.
macro_rules! limiter {
    ($($algorithm:ident),*) => {
        /// A limiter of any algorithm, chosen at run time.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub enum Limiter {
            $(#[doc = concat!("See [`", stringify!($algorithm), "`].")] $algorithm($algorithm),)*
        }

        $(impl From<$algorithm> for Limiter {
            fn from(limit: $algorithm) -> Self {
                Self::$algorithm(limit)
            }
        })*

        impl Limit for Limiter {
            #[inline]
            fn try_acquire(&mut self, now: Tick, cost: u32) -> Result<Tick, Wait> {
                match self { $(Self::$algorithm(limit) => limit.try_acquire(now, cost),)* }
            }

            #[inline]
            fn earliest(&self, now: Tick, cost: u32) -> Wait {
                match self { $(Self::$algorithm(limit) => limit.earliest(now, cost),)* }
            }

            fn charge(&mut self, now: Tick, cost: u32) -> Tick {
                match self { $(Self::$algorithm(limit) => limit.charge(now, cost),)* }
            }

            #[inline]
            fn settle(&mut self, now: Tick, booked: Tick, reserved: u32, actual: u32) {
                match self { $(Self::$algorithm(limit) => limit.settle(now, booked, reserved, actual),)* }
            }

            fn counts_arrivals(&self) -> bool {
                match self { $(Self::$algorithm(limit) => limit.counts_arrivals(),)* }
            }

            fn capacity(&self) -> u32 {
                match self { $(Self::$algorithm(limit) => limit.capacity(),)* }
            }

            fn available(&self, now: Tick) -> u32 {
                match self { $(Self::$algorithm(limit) => limit.available(now),)* }
            }

            fn is_idle(&self, now: Tick) -> bool {
                match self { $(Self::$algorithm(limit) => limit.is_idle(now),)* }
            }

            fn rebase(&mut self, from: Tick, to: Tick) {
                match self { $(Self::$algorithm(limit) => limit.rebase(from, to),)* }
            }

            fn worst_case(&self, span: Duration) -> u64 {
                match self { $(Self::$algorithm(limit) => limit.worst_case(span),)* }
            }
        }
    };
}

limiter!(
    SlidingLog,
    BucketedWindow,
    SlidingCounter,
    FixedWindow,
    TokenBucket,
    Gcra,
    Pacing,
    Concurrency
);
