//! Starts the program; `entry_point.rs` is what it does.

#![cfg_attr(not(test), no_main)]

#[cfg(not(test))]
use std::ffi::{c_char, c_int};

/// Where the program starts. Rust's own start, before a `main` of its own, takes a twentieth of the
/// time of a run for what semrun does not need: a message when the stack overflows.
#[cfg(not(test))]
#[expect(unsafe_code, reason = "nothing else makes it the start of the program")]
// SAFETY: no other function has this name; the C library calls it once.
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, words: *const *const c_char) -> c_int {
    // SAFETY: these are what the C library hands to a `main`, and nothing ran before.
    unsafe { semrun::entry_point::main(count, words) }
}
