//! Fuzz target of limits across a crash, by the log of charges.
#![no_main]
libfuzzer_sys::fuzz_target!(|case: leasehold_tests::charges::Case| {
    leasehold_tests::charges::run(&case)
});
