//! Fuzz target of configuration files.
#![no_main]
libfuzzer_sys::fuzz_target!(|text: &str| leasehold_tests::config::run(text));
