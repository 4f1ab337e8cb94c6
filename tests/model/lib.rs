//! Operations and plain oracles for the machines of `leasehold-core` and the readers of `leasehold-protocol`, and files
//! of `leasehold-batch` and `leasehold-config`, and the headers, the state file and the admin interface of `leasehold-gateway`.
//!
//! Each module has one `Case` and one `run`, which property tests, fuzz targets and the replay of the
//! committed corpora share. `run` panics if machine and oracle differ.

pub mod admin;
pub mod affinity;
pub mod alert;
pub mod balance;
pub mod breaker;
pub mod budget;
pub mod charges;
pub mod comfyui;
pub mod config;
pub mod direct;
pub mod failure;
pub mod forecast;
pub mod forwarded;
pub mod gateway_state;
pub mod grammar;
pub mod journal;
pub mod limit_set;
pub mod limits;
pub mod outlier;
pub mod pool;
pub mod pool_snapshot;
pub mod prober;
pub mod protocol;
pub mod reports;
pub mod snapshot;

use arbitrary::{Arbitrary, Unstructured};

/// Decodes a case as a fuzz target does; `None` if there are too few bytes.
#[must_use]
pub fn decode<'a, C: Arbitrary<'a>>(bytes: &'a [u8]) -> Option<C> {
    C::arbitrary_take_rest(Unstructured::new(bytes)).ok()
}

/// Returns the time at `tick` on a clock that is ahead by `shift`, clamped to the range of ticks.
fn shifted(tick: u64, shift: i128) -> u64 {
    let shown = i128::from(tick) + shift;
    u64::try_from(shown.clamp(0, u64::MAX.into())).expect("clamped to the range")
}
