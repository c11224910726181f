//! Permits of named counting semaphores, shared by processes, hosts and programs: as a library
//! ([`Semaphore`]), and as the program `semrun`, which runs a command while it holds a permit.
//! `commands/run.rs` tells the story of one run.

#![deny(missing_docs)]
#![cfg_attr(
    not(feature = "cli"),
    expect(dead_code, reason = "the program uses more of the backends than the library shows")
)]

mod backends;
#[cfg(feature = "cli")]
mod cli;
mod clock;
#[cfg(feature = "cli")]
mod commands;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod engine;
#[cfg(feature = "cli")]
mod exit;
mod files;
#[cfg(all(test, feature = "cli", not(fuzzing)))]
mod fuzz;
#[cfg(fuzzing)]
pub mod fuzz;
#[cfg(test)]
mod house_tests;
mod mutants;
mod net;
mod permits;
mod printable;
mod proc;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod program;
mod request;
mod semaphore;
#[cfg(feature = "cli")]
mod serve;
#[cfg(feature = "cli")]
mod settings;
pub mod store;
#[cfg(feature = "cli")]
mod supervise;
mod sys;
#[cfg(feature = "cli")]
mod terminal;
mod user;

pub use self::semaphore::{Client, Error, ErrorKind, Lost, Permit, Place, Semaphore, Snapshot};
