//! Fuzz target of headers that tell limits and waits.
#![no_main]
libfuzzer_sys::fuzz_target!(|case: leasehold_tests::protocol::rate_headers::Case| {
    leasehold_tests::protocol::rate_headers::run(&case)
});
