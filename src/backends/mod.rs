//! Where permits live: each backend in its folder, and which one a URL names. Backends know nothing of
//! processes, exit codes or the words that people read.

pub(crate) mod cloud;
pub(crate) mod ledger;
pub(crate) mod local;
pub(crate) mod redis;
mod take_cell;
pub(crate) mod tls;
pub(crate) mod url;

// The backend that all others are compared with.
#[cfg(test)]
pub(crate) mod memory;

pub(crate) use crate::permits::*;
