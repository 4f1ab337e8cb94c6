//! Limit sets against their oracle, and limits restored from damaged snapshots.

use leasehold_tests::{limit_set, snapshot};
use proptest::prelude::*;

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn a_set_of_limits_agrees_with_each_of_them(case: limit_set::Case) {
        limit_set::run(&case);
    }

    #[test]
    fn a_limit_that_was_restored_keeps_its_own_promise(case: snapshot::Case) {
        snapshot::run(&case);
    }
}
