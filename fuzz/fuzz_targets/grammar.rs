//! Fuzz target of the grammar of limits.
#![no_main]
libfuzzer_sys::fuzz_target!(|text: &str| leasehold_tests::grammar::run(text));
