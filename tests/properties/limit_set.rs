//! Properties of limit sets, and of limits restored from damaged snapshots.

use leasehold_tests::{limit_set, snapshot};
use proptest::prelude::*;

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn a_limit_set_agrees_with_its_oracle(case: limit_set::Case) {
        limit_set::run(&case);
    }

    #[test]
    fn a_restored_limit_keeps_its_own_promise(case: snapshot::Case) {
        snapshot::run(&case);
    }
}
