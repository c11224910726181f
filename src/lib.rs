//! Permits of named counting semaphores, shared by processes, hosts and programs: as a library
//! ([`Semaphore`]), and as the program `semrun`, which runs a command while it holds a permit.
//! `commands/run.rs` tells the story of one run.

#![cfg_attr(fuzzing, expect(dead_code, reason = "only what is fuzzed is used"))]

mod backends;
mod cli;
mod clock;
mod commands;
mod engine;
mod exit;
mod files;
#[cfg(all(test, not(fuzzing)))]
mod fuzz;
#[cfg(fuzzing)]
pub mod fuzz;
mod mutants;
mod printable;
#[doc(hidden)]
pub mod program;
mod request;
mod semaphore;
mod serve;
mod settings;
mod supervise;
mod sys;
mod terminal;
mod user;

pub use self::semaphore::{Client, Error, ErrorKind, Lost, Permit, Semaphore, Snapshot};
