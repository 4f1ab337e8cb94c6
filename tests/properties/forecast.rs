//! Promises of forecasts.

use leasehold_tests::forecast::{Case, Uniform, run, run_uniform};
use proptest::prelude::*;

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn a_forecast_is_the_tick_at_which_a_real_run_ends(case: Case) {
        run(&case);
    }

    #[test]
    fn an_extrapolation_is_within_a_tenth(case: Uniform) {
        run_uniform(&case);
    }
}
