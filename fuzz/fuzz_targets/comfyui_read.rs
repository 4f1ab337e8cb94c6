//! Fuzz target of readers of what callers and servers of ComfyUI say.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| leasehold_tests::comfyui::read::run(bytes));
