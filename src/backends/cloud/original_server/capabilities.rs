//! What a client has to know of a server of the original kind before it registers there, and while
//! it waits.

use std::time::Duration;

use hyper::StatusCode;

use super::lease::{NodeRegistration, ObserveAnswer};
use crate::backends::cloud::http::{HttpConnection, unexpected};
use crate::backends::cloud::protocol::ABOUT;
use crate::backends::cloud::{CloudServer, OBSERVE};
use crate::permits::error::{MissingFeature, StoreError};
use crate::permits::{AcquireRequest, Name};

/// What is wanted and a server of the original kind lacks.
pub(in crate::backends::cloud) fn beyond_the_original(
    wanted: &AcquireRequest,
) -> Option<MissingFeature> {
    let lasting = wanted.who.detached.then_some(MissingFeature::Lasting);
    wanted.terms.beyond_the_original().or(lasting)
}

/// How the semaphore stands in a server of the original kind. One of ours is not asked that: it
/// would list every holder.
pub(in crate::backends::cloud) async fn look_if_original(
    server: &CloudServer,
    name: &Name,
    link: &mut HttpConnection,
) -> Result<Option<ObserveAnswer>, StoreError> {
    let dialler = &server.dialler;
    let answer = link.send(dialler.request(ABOUT, "")).await?;
    let ours = answer.ours;
    link.read(answer).await?;
    if ours {
        return Ok(None);
    }
    server.tell_apart(link).await?;
    let answer = link.send(dialler.request(OBSERVE, name.as_str())).await?;
    if answer.status != StatusCode::OK {
        return Err(unexpected(answer.status, OBSERVE));
    }
    ObserveAnswer::parse(&link.read(answer).await?).map(Some)
}

/// None: another client has the permit.
pub(in crate::backends::cloud) async fn granted_or_behind(
    server: &CloudServer,
    name: &Name,
    place: &mut NodeRegistration,
) -> Result<Option<HttpConnection>, StoreError> {
    let id = place.id.to_string();
    let behind = async {
        loop {
            let snapshot = server.look(name).await?;
            let waits = |permit: &Option<String>| permit.as_ref() == Some(&id);
            if snapshot.waiters.iter().any(|waiter| waits(&waiter.foreign)) {
                return Ok::<_, StoreError>(());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        biased;
        granted = place.granted() => granted.map(Some),
        behind = behind => behind.map(|()| None),
    }
}
