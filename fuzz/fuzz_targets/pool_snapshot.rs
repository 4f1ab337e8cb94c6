//! Fuzz target of restoring pools from damaged snapshots.
#![no_main]
libfuzzer_sys::fuzz_target!(|case: leasehold_tests::pool_snapshot::Case| {
    leasehold_tests::pool_snapshot::run(&case)
});
