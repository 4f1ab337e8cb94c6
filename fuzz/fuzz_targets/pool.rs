//! Fuzz target of the pool.
#![no_main]
libfuzzer_sys::fuzz_target!(|case: leasehold_tests::pool::Case| leasehold_tests::pool::run(&case));
