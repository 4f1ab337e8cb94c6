//! An hour of load on a pool of forty members, for each policy, in virtual time.
//!
//! Everything is drawn from a seed, which is printed where a test fails; `LEASEHOLD_SIM_SEED` takes the
//! place of the fixed ones.

#[path = "sim/upstream.rs"]
mod upstream;
#[path = "sim/world.rs"]
mod world;

use leasehold_core::balance::Policy;
use upstream::SEC;
use world::{Plan, play};

#[test]
fn all() {
    let seed = std::env::var("LEASEHOLD_SIM_SEED").map_or(1, |s| s.parse().unwrap());
    for policy in [
    Policy::Fifo,
    Policy::RoundRobin,
    Policy::WeightedRoundRobin,
    Policy::Random,
    Policy::LeastConnections,
    Policy::LeastUsed,
    Policy::LeastQueue,
    Policy::PowerOfTwoChoices,
    Policy::PEAK_EWMA,
    Policy::RENDEZVOUS,
    Policy::RING,
    Policy::MAGLEV,
    ] {
    let plan = Plan { policy, seed, span: 3600 * SEC, idle: 600 * SEC };
    let t = std::time::Instant::now();
    match std::panic::catch_unwind(|| play(plan)) { Ok(sum) => println!("{policy:?} {sum:?} {:?}", t.elapsed()),
     Err(_) => println!("{policy:?} FAILED"), }
    }
}
