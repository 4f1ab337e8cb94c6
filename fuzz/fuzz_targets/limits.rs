//! Fuzz target of the limit algorithms.
#![no_main]
libfuzzer_sys::fuzz_target!(
    |case: leasehold_tests::limits::Case| leasehold_tests::limits::run(&case)
);
