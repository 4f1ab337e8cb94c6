//! Fuzz target of the gateway's state file.
#![no_main]
libfuzzer_sys::fuzz_target!(|case: leasehold_tests::gateway_state::Case| {
    leasehold_tests::gateway_state::run(&case)
});
