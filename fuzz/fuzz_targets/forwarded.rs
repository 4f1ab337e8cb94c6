//! Fuzz target of headers that the gateway passes on.
#![no_main]
libfuzzer_sys::fuzz_target!(|case: leasehold_tests::forwarded::Case| {
    leasehold_tests::forwarded::run(&case)
});
