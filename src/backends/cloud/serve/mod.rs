//! The client of a `semrun serve`: a store of leases.

pub(super) mod requests;
pub(super) mod store;
