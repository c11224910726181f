//! What is done to permits and semaphores by those who did not ask for them in this process.

use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::http::request;
use uuid::Uuid;

use super::link::unexpected;
use super::ours::Grip;
use super::wire::{
    EVICT, Evicted, HOW, HOW_HEADER, ID_HEADER, LIMIT, LIMIT_HEADER, NO_LIMIT, Outcome, RENEW,
    RETURN, Returned, Told,
};
use super::{SIGNAL, Shared, of_the_original, understood};
use crate::backends::leased::Leased;
use crate::backends::trouble::Trouble;
use crate::backends::{Eviction, GivenBack, Lease, Name, Permit, Snapshot, Tenure};
use crate::clock;

const NOTHING_OUTLIVES: &str = "has no permits that outlive a connection";
const ONE_PERMIT: &str = "has one permit a name, and no other limit";

impl Shared {
    /// One attempt to take up a detached permit.
    pub(super) async fn attach(
        self: &Rc<Self>,
        name: &Name,
        id: Uuid,
    ) -> Result<Option<Box<dyn Lease>>, Trouble> {
        let (ours, snapshot) = self.look_at(name).await?;
        if !ours {
            return Err(of_the_original(NOTHING_OUTLIVES));
        }
        if !has_detached(&snapshot, id) {
            return Ok(None);
        }
        let since = clock::now();
        let told = match self.ask_ours(self.about_permit(RENEW, name, id), RENEW).await? {
            Some(body) => understood::<Told>(&body)?.believed()?,
            None => return Err(Trouble::other_server()),
        };
        if told.outcome != Outcome::Held {
            return Ok(None);
        }
        let tenure = Tenure { since, ttl: Duration::from_millis(told.ttl_ms), trouble: None };
        let permit = Permit { id, name: name.clone(), token: Some(told.token) };
        let server = told.server;
        let grip = Grip { shared: Rc::clone(self), name: name.clone(), id, server };
        Ok(Some(Box::new(Leased::new(permit, tenure, grip))))
    }

    pub(super) async fn give_back(&self, name: &Name, id: Uuid) -> Result<GivenBack, Trouble> {
        match self.ask_ours(self.about_permit(RETURN, name, id), RETURN).await? {
            Some(body) => Ok(understood::<Returned>(&body)?.outcome),
            None => Err(of_the_original(NOTHING_OUTLIVES)),
        }
    }

    pub(super) async fn evict(
        &self,
        name: &Name,
        id: Uuid,
        how: Eviction,
    ) -> Result<bool, Trouble> {
        let word = HOW.iter().find(|(_, one)| *one == how).map_or("", |(word, _)| word);
        let request = self.about_permit(EVICT, name, id).header(HOW_HEADER, word);
        match (self.ask_ours(request, EVICT).await?, how) {
            (Some(body), _) => Ok(understood::<Evicted>(&body)?.held),
            // Nobody there could be told, so it is left alone.
            (None, Eviction::Gently) => Ok(self.look(name).await?.holder(id).is_some()),
            (None, Eviction::Now) => {
                let (status, _) = self.exchange(self.about_permit(SIGNAL, name, id)).await?;
                match status {
                    StatusCode::OK => Ok(true),
                    StatusCode::UNPROCESSABLE_ENTITY | StatusCode::NOT_FOUND => Ok(false),
                    status => Err(unexpected(status, SIGNAL)),
                }
            }
        }
    }

    pub(super) async fn limit(&self, name: &Name) -> Result<Snapshot, Trouble> {
        match self.look_at(name).await? {
            (true, snapshot) => Ok(snapshot),
            (false, _) => Err(of_the_original(ONE_PERMIT)),
        }
    }

    pub(super) async fn set_limit(&self, name: &Name, limit: Option<u32>) -> Result<(), Trouble> {
        let limit = limit.map_or_else(|| NO_LIMIT.into(), |limit| limit.to_string());
        let request = self.dialler.request(LIMIT, name.as_str()).header(LIMIT_HEADER, limit);
        match self.ask_ours(request, LIMIT).await? {
            Some(_) => Ok(()),
            None => Err(of_the_original(ONE_PERMIT)),
        }
    }

    /// What a server of ours answers; none from one of the original kind.
    pub(super) async fn ask_ours(
        &self,
        request: request::Builder,
        path: &str,
    ) -> Result<Option<Bytes>, Trouble> {
        match self.exchange_with(request).await? {
            (_, false, _) => Ok(None),
            (StatusCode::OK, true, body) => Ok(Some(body)),
            (status, true, _) => Err(unexpected(status, path)),
        }
    }

    fn about_permit(&self, path: &str, name: &Name, id: Uuid) -> request::Builder {
        self.dialler.request(path, name.as_str()).header(ID_HEADER, id.to_string())
    }
}

fn has_detached(snapshot: &Snapshot, id: Uuid) -> bool {
    let record = snapshot.holder(id).and_then(|holder| holder.record());
    snapshot.held(id).is_some() && record.is_some_and(|record| record.who.detached)
}
