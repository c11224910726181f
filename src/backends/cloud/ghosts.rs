//! Places in the queue of a server of the original kind that we lost sight of, because a connection
//! broke silently.

use std::convert::Infallible;
use std::time::Duration;

use uuid::Uuid;

use super::node::{self, Observed, Whose};
use super::{LEAVING, OBSERVE, Shared};
use crate::backends::Name;
use crate::backends::StoreError;
use crate::backends::retry::{CONNECTING, within};

/// How often a waiter that had to start over checks whether one of its earlier places was granted.
const LOOKING_FOR_GHOSTS: Duration = Duration::from_secs(2);

/// A server of the original kind does not notice that a connection is dead, and grants permits to
/// clients that are gone with it; to us too, if we lost sight of a place in its queue. Until such a
/// permit is given back, no other waiter gets it.
pub(super) async fn lay(shared: &Shared, name: &Name, ghosts: &[Uuid]) -> Infallible {
    if ghosts.is_empty() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(LOOKING_FOR_GHOSTS).await;
        // A look that fails is repeated next time.
        let _ = within(CONNECTING, lay_one(shared, name, ghosts)).await;
    }
}

pub(super) async fn lay_one(
    shared: &Shared,
    name: &Name,
    ghosts: &[Uuid],
) -> Result<(), StoreError> {
    let (_, body) = shared.exchange(shared.dialler.request(OBSERVE, name.as_str())).await?;
    match Observed::parse(&body)?.held_by(ghosts) {
        Some(ghost) => node::signal(shared, name, ghost, LEAVING, Whose::Anybodys).await,
        None => Ok(()),
    }
}
