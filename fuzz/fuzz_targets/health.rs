//! Fuzz target of the machines that handle failure.
#![no_main]
libfuzzer_sys::fuzz_target!(
    |case: leasehold_tests::failure::Case| leasehold_tests::failure::run(&case)
);
