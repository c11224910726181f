//! The client of a server of the original kind, whose permit is a connection that the command's whole
//! tree inherits.

pub(super) mod acquire;
mod capabilities;
pub(super) mod lease;
mod orphans;
