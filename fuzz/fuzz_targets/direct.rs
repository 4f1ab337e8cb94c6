//! Fuzz target of requests and answers that the gateway passes on without a parser of bodies.
#![no_main]
libfuzzer_sys::fuzz_target!(|case: leasehold_tests::direct::Case| {
    leasehold_tests::direct::run(&case)
});
