//! Fuzz target of verdicts over answers.
#![no_main]
libfuzzer_sys::fuzz_target!(|case: leasehold_tests::protocol::verdict::Case| {
    leasehold_tests::protocol::verdict::run(&case)
});
