//! Fuzz target of a job in a world of ComfyUI servers.
#![no_main]
libfuzzer_sys::fuzz_target!(|case: leasehold_tests::comfyui::job::Case| {
    leasehold_tests::comfyui::job::run(&case)
});
