#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| program::fuzz::run("records", bytes));
