//! Union of the machines that handle failure, for one fuzz target.

use crate::{affinity, alert, breaker, budget, outlier, prober};
use arbitrary::Arbitrary;

/// A case of one machine.
#[derive(Clone, Debug, Arbitrary)]
pub enum Case {
    /// See [`breaker`].
    Breaker(breaker::Case),
    /// See [`prober`].
    Prober(prober::Case),
    /// See [`outlier`].
    Outlier(outlier::Case),
    /// See [`affinity`].
    Affinity(affinity::Case),
    /// See [`budget`].
    Budget(budget::Case),
    /// See [`alert`].
    Alert(alert::Case),
}

/// Runs a case.
///
/// # Panics
/// If machine and oracle differ.
pub fn run(case: &Case) {
    match case {
        Case::Breaker(case) => breaker::run(case),
        Case::Prober(case) => prober::run(case),
        Case::Outlier(case) => outlier::run(case),
        Case::Affinity(case) => affinity::run(case),
        Case::Budget(case) => budget::run(case),
        Case::Alert(case) => alert::run(case),
    }
}
