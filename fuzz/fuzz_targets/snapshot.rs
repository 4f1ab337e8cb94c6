//! Fuzz target of restoring limits from damaged snapshots.
#![no_main]
libfuzzer_sys::fuzz_target!(
    |case: leasehold_tests::snapshot::Case| leasehold_tests::snapshot::run(&case)
);
