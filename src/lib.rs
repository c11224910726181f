//! Permits of named counting semaphores, shared by processes, hosts and programs: as a library
//! ([`Semaphore`]), and as the program `semrun`, which runs a command while it holds a permit.
//! `commands/run.rs` tells the story of one run.

#![deny(missing_docs)]
#![cfg_attr(
    not(feature = "cli"),
    expect(dead_code, reason = "the program uses more of the backends than the library shows")
)]

#[cfg(test)]
mod architecture_tests;
mod backends;
#[cfg(feature = "cli")]
mod cli;
mod clock;
#[cfg(feature = "cli")]
mod commands;
#[cfg(feature = "cli")]
mod console;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod custom_store;
mod engine;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod entry_point;
#[cfg(feature = "cli")]
mod exit;
mod files;
#[cfg(all(test, feature = "cli", not(fuzzing)))]
mod fuzz;
#[cfg(fuzzing)]
pub mod fuzz;
mod mutants;
mod net;
mod permits;
mod printable;
mod proc;
mod request;
mod semaphore;
#[cfg(feature = "cli")]
mod serve;
#[cfg(feature = "cli")]
mod settings;
#[cfg(feature = "cli")]
mod supervise;
mod sys;
mod user;

pub use self::semaphore::{Client, Error, ErrorKind, Lost, Permit, Place, Semaphore, Snapshot};
