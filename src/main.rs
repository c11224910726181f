//! `semrun` runs a command while it holds a permit of a named counting semaphore. This file
//! starts it and ends it; `commands/run.rs` tells the story in between.

#![cfg_attr(not(any(test, fuzzing)), no_main)]
#![cfg_attr(fuzzing, expect(dead_code, reason = "only what is fuzzed is used"))]

mod account;
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
mod kernel;
mod mutants;
mod report;
mod serve;
mod settings;
mod supervise;
mod terminal;

use std::ffi::OsString;

use terminal::{Console, Loudness};

/// From the command line to the exit code. `kernel.rs` calls it.
fn run(line: &[OsString]) -> u8 {
    // A defect of ours is still one of the documented codes; what it was has been printed.
    let Ok(done) = std::panic::catch_unwind(|| commands::dispatch(line)) else {
        return exit::Failure::Internal.code();
    };
    match done {
        Ok(exit) => exit.finish(),
        Err(error) => {
            Console::new(Loudness::Quiet).say(Loudness::Quiet, report::Failed(&error));
            commands::class(&error).code()
        }
    }
}
