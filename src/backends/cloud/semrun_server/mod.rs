//! The client of a `semrun serve`: a store of leases.

pub(super) mod remote_store;
pub(super) mod request_batching;
