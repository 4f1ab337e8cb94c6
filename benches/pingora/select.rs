//! What a pick and a change of members cost, ours beside pingora's in the same run.
//!
//! `pick/<policy>/<whose>/<members>`: pingora's is `LoadBalancer::select`, which finds a healthy backend and
//! holds nothing; ours is `choose`, `chosen` and twice `place`, as a lease that is granted and given back
//! has it. `member/<what>`: one of 1,000 is removed and added again, and pingora's ring made anew, which
//! it does for each of the two.

use core::hint::black_box;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use leasehold_core::balance::{Balancer, Policy, Standing, stable_hash};
use pingora_load_balancing::selection::consistent::KetamaHashing;
use pingora_load_balancing::selection::{
    BackendIter, BackendSelection, Consistent, RoundRobin, weighted::Weighted,
};
use pingora_load_balancing::{Backend, LoadBalancer};
use std::collections::BTreeSet;

type WeightedRandom = Weighted<pingora_load_balancing::selection::algorithms::Random>;

fn address(member: u32) -> String {
    format!("10.0.{}.{}:80", member / 250, member % 250 + 1)
}

/// Weights from 1 to `heaviest`.
fn weight(member: u32, heaviest: u32) -> u32 {
    1 + member % heaviest
}

fn theirs<S>(members: u32, heaviest: u32) -> LoadBalancer<S>
where
    S: BackendSelection<Config = ()> + 'static,
    S::Iter: BackendIter,
{
    unimplemented!("{members} {heaviest}")
}
fn benches_(_c: &mut Criterion) {}
criterion_group!(benches, benches_);
criterion_main!(benches);
