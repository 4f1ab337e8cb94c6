//! What the pool promises.

use leasehold_tests::pool::{Case, run};
use proptest::prelude::*;

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn the_pool_agrees_with_its_oracle_and_keeps_its_promises(case: Case) {
        run(&case);
    }
}
