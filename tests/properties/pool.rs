//! Promises of the pool.

use leasehold_tests::{charges, pool, pool_snapshot};
use proptest::prelude::*;

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn the_pool_agrees_with_its_oracle_and_keeps_its_promises(case: pool::Case) {
        pool::run(&case);
    }

    #[test]
    fn the_lease_service_agrees_with_the_pool_s_oracle(case: pool::service::Case) {
        pool::service::run(&case);
    }

    #[test]
    fn limits_hold_across_a_crash_at_any_point(case: charges::Case) {
        charges::run(&case);
    }

    #[test]
    fn a_restored_pool_behaves_like_the_original(case: pool_snapshot::Case) {
        pool_snapshot::run(&case);
    }
}

#[test]
fn limits_hold_across_every_crash_of_small_pools() {
    charges::run_all(4);
}
