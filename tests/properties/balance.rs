//! What the selection policies promise.

use leasehold_tests::balance::{Case, run};
use proptest::prelude::*;

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn every_policy_chooses_as_its_statement_says(case: Case) {
        run(&case);
    }
}
