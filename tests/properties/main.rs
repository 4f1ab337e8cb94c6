//! Properties of the core, each held against the plain oracle of its model, and the replay of what the
//! fuzzer has collected.

mod balance;
mod corpus;
mod failure;
mod grammar;
mod histogram;
mod lessons;
mod limit_set;
mod limits;
mod pool;
mod shared;

use proptest::test_runner::Config;

/// How thoroughly each property is tried: 4,000 cases, or `PROPTEST_CASES` if that is more. A failure is
/// printed in full, so that none is kept on disk.
fn cases() -> Config {
    let default = Config::default();
    Config {
        cases: default.cases.max(4_000),
        failure_persistence: None,
        ..default
    }
}
