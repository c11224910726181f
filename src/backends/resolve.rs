//! Resolving names of hosts, for every client.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use super::error::{HostNotFound, StoreError};

/// How long a name server has; less than an attempt, so that it is named.
const LOOKING_UP: Duration = Duration::from_millis(1500);

/// The addresses of a host.
pub(super) async fn addresses(
    host: &str,
    port: u16,
) -> Result<impl Iterator<Item = SocketAddr> + use<>, StoreError> {
    let not_found = |why| StoreError::HostNotFound { host: host.into(), why };
    match timeout(LOOKING_UP, lookup_host((host, port))).await {
        Err(_elapsed) => Err(not_found(HostNotFound::NameServerSilent)),
        // The library's text in front of that says the same.
        Ok(Err(error)) => {
            let why = error.to_string();
            let why = why.rsplit(": ").next().unwrap_or_default();
            Err(not_found(HostNotFound::Said(why.into())))
        }
        Ok(Ok(found)) => {
            let found: Vec<_> = found.collect();
            if found.is_empty() {
                Err(not_found(HostNotFound::NoAddress))
            } else {
                Ok(found.into_iter())
            }
        }
    }
}
