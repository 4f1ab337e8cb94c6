//! Promises of jobs on ComfyUI servers.

use super::cases;
use leasehold_tests::comfyui::job;
use proptest::prelude::*;

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_job_ends_once_and_is_submitted_again_only_where_it_is_not(case: job::Case) {
        job::run(&case);
    }
}
