//! Fuzz target of sets of limits.
#![no_main]
libfuzzer_sys::fuzz_target!(|case: leasehold_tests::limit_set::Case| {
    leasehold_tests::limit_set::run(&case)
});
