//! Selection: which of the members that could serve a request does.
//!
//! Invariant: policies depend on members and parameters, the balancer on all policies, and nothing on the pool.

mod balancer;
mod consistent_hash;
mod fixed_log2;
mod hash;
mod hash_ring;
mod least_of;
mod maglev;
mod member;
mod parameters;
mod peak_ewma;
mod policy;
mod rendezvous;
mod round_robin;
mod sampler;
mod weight_queue;
mod weighted_round_robin;

pub use balancer::Balancer;
pub use hash::stable_hash;
pub use member::{Availability, MAX_WEIGHT, MemberLoad, pass};
pub use parameters::{HalfLife, LoadFactor, PolicyConfigError, TableSize};
pub use peak_ewma::PeakEwma;
pub use policy::{ParsePolicyError, Policy};
