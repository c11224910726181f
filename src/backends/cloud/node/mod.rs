//! The client of a server of the original kind, whose permit is a connection that the command's whole
//! tree inherits.

pub(super) mod acquire;
pub(super) mod lease;
mod original;
mod orphans;
