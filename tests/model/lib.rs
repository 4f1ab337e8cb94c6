//! Operations and plain oracles for the machines of `leasehold-core`.
//!
//! Each module has one `Case` and one `run`: property tests, fuzz targets and the replay of committed
//! corpora all call the same. `run` panics where machine and oracle differ.

pub mod affinity;
pub mod balance;
pub mod breaker;
pub mod budget;
pub mod failure;
pub mod grammar;
pub mod health;
pub mod limit_set;
pub mod limits;
pub mod outlier;
pub mod pool;
pub mod pool_snapshot;
pub mod reports;
pub mod snapshot;

use arbitrary::{Arbitrary, Unstructured};

/// Reads a case as a fuzz target does; `None` where the bytes are too few to make one.
#[must_use]
pub fn decode<'a, C: Arbitrary<'a>>(bytes: &'a [u8]) -> Option<C> {
    C::arbitrary_take_rest(Unstructured::new(bytes)).ok()
}

/// What a clock shows at `tick` that is ahead by `shift`, or the nearest that it can.
fn shifted(tick: u64, shift: i128) -> u64 {
    let shown = i128::from(tick) + shift;
    u64::try_from(shown.clamp(0, u64::MAX.into())).expect("it is in range")
}
