//! Fuzz target of requests to the gateway's admin interface.
#![no_main]
libfuzzer_sys::fuzz_target!(|case: leasehold_tests::admin::Case| {
    leasehold_tests::admin::run(&case)
});
