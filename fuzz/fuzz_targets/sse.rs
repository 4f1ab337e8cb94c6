//! Fuzz target of streams of events.
#![no_main]
libfuzzer_sys::fuzz_target!(|case: leasehold_tests::protocol::sse::Case| {
    leasehold_tests::protocol::sse::run(&case)
});
