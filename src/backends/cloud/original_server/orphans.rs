//! Places in the queue of a server of the original kind that we lost sight of, because a connection
//! broke silently.

use std::convert::Infallible;
use std::time::Duration;

use uuid::Uuid;

use super::lease::{self, ObserveAnswer};
use crate::backends::cloud::{CloudServer, LEAVING, OBSERVE};
use crate::engine::retry::{ATTEMPT_TIMEOUT, with_timeout};
use crate::permits::Name;
use crate::permits::StoreError;

/// How often a waiter that had to start over checks whether one of its earlier places was granted.
const CHECKING_ORPHANS: Duration = Duration::from_secs(2);

/// A server of the original kind does not notice that a connection is dead, and grants permits to
/// clients that are gone with it; to us too, if we lost sight of a place in its queue. Until such a
/// permit is given back, no other waiter gets it.
pub(in crate::backends::cloud) async fn unregister(
    server: &CloudServer,
    name: &Name,
    orphans: &[Uuid],
) -> Infallible {
    if orphans.is_empty() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(CHECKING_ORPHANS).await;
        // A look that fails is repeated next time.
        let _ = with_timeout(ATTEMPT_TIMEOUT, unregister_one(server, name, orphans)).await;
    }
}

pub(in crate::backends::cloud) async fn unregister_one(
    server: &CloudServer,
    name: &Name,
    orphans: &[Uuid],
) -> Result<(), StoreError> {
    let (_, body) = server.exchange(server.dialler.request(OBSERVE, name.as_str())).await?;
    match ObserveAnswer::parse(&body)?.held_by(orphans) {
        Some(orphan) => lease::signal(server, name, orphan, LEAVING).await,
        None => Ok(()),
    }
}
