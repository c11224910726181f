//! `semrun` runs a command while it holds a permit of a named counting semaphore. This file
//! starts it and ends it; `commands/run.rs` tells the story in between.

#![cfg_attr(not(any(test, fuzzing)), no_main)]
#![cfg_attr(fuzzing, expect(dead_code, reason = "only what is fuzzed is used"))]

mod backends;
mod cli;
mod clock;
mod commands;
mod exit;
mod files;
#[cfg(all(test, not(fuzzing)))]
mod fuzz;
#[cfg(fuzzing)]
pub mod fuzz;
mod mutants;
mod printable;
mod serve;
mod settings;
mod supervise;
mod sys;
mod terminal;
mod user;

use std::ffi::{OsString, c_char, c_int};

use supervise::signals;
use terminal::{Console, Loudness};

/// Where the program starts. Rust's own start, before a `main` of its own, takes a twentieth of the
/// time of a run for what semrun does not need: a message when the stack overflows.
#[expect(unsafe_code, reason = "nothing else makes it the start of the program")]
// SAFETY: no other function has this name; the C library calls it once.
#[cfg_attr(not(any(test, fuzzing)), unsafe(no_mangle))]
extern "C" fn main(count: c_int, words: *const *const c_char) -> c_int {
    if !signals::record() {
        return exit::Failure::Internal.code().into();
    }
    // SAFETY: these are what the C library hands to a `main`.
    run(&unsafe { sys::arguments(count, words) }).into()
}

/// From the command line to the exit code.
fn run(line: &[OsString]) -> u8 {
    // A panic still ends with a documented code; its message is printed already.
    let Ok(done) = std::panic::catch_unwind(|| commands::dispatch(line)) else {
        return exit::Failure::Internal.code();
    };
    match done {
        Ok(exit) => exit.finish(),
        Err(error) => {
            Console::new(Loudness::Quiet).say(Loudness::Quiet, cli::messages::FatalError(&error));
            commands::class(&error).code()
        }
    }
}
