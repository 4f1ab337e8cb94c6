#![no_main]
libfuzzer_sys::fuzz_target!(
    |case: leasehold_tests::quota::Case| leasehold_tests::quota::run(&case)
);
