//! Fuzz target of a batch's files: journal, output and charges.
#![no_main]
libfuzzer_sys::fuzz_target!(|case: leasehold_tests::journal::Case| {
    leasehold_tests::journal::run(&case)
});
