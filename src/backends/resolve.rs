//! Names of hosts, and what is said where there is no such one: the same for every client.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

/// How long a name server has; less than an attempt, so that it is named.
const LOOKING_UP: Duration = Duration::from_millis(1500);

/// Where a host is. The error is a whole sentence.
pub(super) async fn addresses(
    host: &str,
    port: u16,
) -> Result<impl Iterator<Item = SocketAddr> + use<>, String> {
    let hint = "check the URL, and the name server";
    let sentence = |why: &str| format!("cannot find the host '{host}' ({why}); {hint}");
    match timeout(LOOKING_UP, lookup_host((host, port))).await {
        Err(_elapsed) => Err(sentence("no name server answers")),
        // What the library says in front of that says the same.
        Ok(Err(error)) => {
            let why = error.to_string();
            Err(sentence(why.rsplit(": ").next().unwrap_or_default()))
        }
        Ok(Ok(found)) => {
            let found: Vec<_> = found.collect();
            if found.is_empty() {
                Err(sentence("it has no address"))
            } else {
                Ok(found.into_iter())
            }
        }
    }
}
