//! Properties of the core, each checked against the oracle of its model, and the replay of fuzz corpora.

mod balance;
mod comfyui;
mod config;
mod corpus;
mod failure;
mod forecast;
mod grammar;
mod histogram;
mod lessons;
mod limit_set;
mod limits;
mod pool;
mod protocol;
mod shared;
mod spending;

use proptest::test_runner::Config;

/// Cases of each property: 4,000, or `PROPTEST_CASES` if that is more.
///
/// A failing case is printed in full and not kept on disk.
fn cases() -> Config {
    let default = Config::default();
    Config {
        cases: default.cases.max(4_000),
        failure_persistence: None,
        ..default
    }
}
