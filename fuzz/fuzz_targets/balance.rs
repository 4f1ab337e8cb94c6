//! Fuzz target of the selection policies.
#![no_main]
libfuzzer_sys::fuzz_target!(
    |case: leasehold_tests::balance::Case| leasehold_tests::balance::run(&case)
);
