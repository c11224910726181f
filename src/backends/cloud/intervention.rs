//! Interventions in a cloud-semaphore server: permits are given back or revoked, and limits pinned.

use std::rc::Rc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::http::request;
use hyper::{Method, StatusCode};
use uuid::Uuid;

use super::link::unexpected;
use super::ours::Grip;
use super::wire::{
    HOW, HOW_HEADER, ID_HEADER, LIMIT, LIMIT_HEADER, Outcome, RENEW, RETURN, REVOKE, Returned,
    Revoked, Told,
};
use super::{SIGNAL, Shared, understood};
use crate::backends::error::{Lack, StoreError};
use crate::backends::leased::Leased;
use crate::backends::{GivenBack, Lease, Name, Permit, Revocation, Snapshot, Tenure};
use crate::clock;

impl Shared {
    /// One attempt to take up a detached permit.
    pub(super) async fn attach(
        self: &Rc<Self>,
        name: &Name,
        id: Uuid,
    ) -> Result<Option<Box<dyn Lease>>, StoreError> {
        let (ours, snapshot) = self.look_at(name).await?;
        if !ours {
            return Err(StoreError::Original(Lack::Lasting));
        }
        if !has_detached(&snapshot, id) {
            return Ok(None);
        }
        let since = clock::now();
        let told = match self.ask_ours(self.about_permit(RENEW, name, id), RENEW).await? {
            Some(body) => understood::<Told>(&body)?.believed()?,
            None => return Err(StoreError::Replaced),
        };
        if told.outcome != Outcome::Holding {
            return Ok(None);
        }
        let tenure = Tenure { since, ttl: Duration::from_millis(told.ttl_ms), trouble: None };
        let permit = Permit { id, name: name.clone(), token: Some(told.token) };
        let server = told.server;
        let grip = Grip { shared: Rc::clone(self), name: name.clone(), id, server };
        Ok(Some(Box::new(Leased::new(permit, tenure, grip))))
    }

    pub(super) async fn give_back(&self, name: &Name, id: Uuid) -> Result<GivenBack, StoreError> {
        match self.ask_ours(self.about_permit(RETURN, name, id), RETURN).await? {
            Some(body) => Ok(understood::<Returned>(&body)?.outcome),
            None => Err(StoreError::Original(Lack::Lasting)),
        }
    }

    pub(super) async fn revoke(
        &self,
        name: &Name,
        id: Uuid,
        how: Revocation,
    ) -> Result<bool, StoreError> {
        let word = HOW.iter().find(|(_, one)| *one == how).map_or("", |(word, _)| word);
        let request = self.about_permit(REVOKE, name, id).header(HOW_HEADER, word);
        match (self.ask_ours(request, REVOKE).await?, how) {
            (Some(body), _) => Ok(understood::<Revoked>(&body)?.held),
            // Such a server cannot tell the holder, so the permit stays as it is.
            (None, Revocation::Gently) => Ok(self.look(name).await?.holder(id).is_some()),
            (None, Revocation::Now) => {
                let (status, _) = self.exchange(self.about_permit(SIGNAL, name, id)).await?;
                match status {
                    StatusCode::OK => Ok(true),
                    StatusCode::UNPROCESSABLE_ENTITY | StatusCode::NOT_FOUND => Ok(false),
                    status => Err(unexpected(status, SIGNAL)),
                }
            }
        }
    }

    pub(super) async fn limit(&self, name: &Name) -> Result<Snapshot, StoreError> {
        match self.look_at(name).await? {
            (true, snapshot) => Ok(snapshot),
            (false, _) => Err(StoreError::Original(Lack::Limits)),
        }
    }

    pub(super) async fn set_limit(
        &self,
        name: &Name,
        limit: Option<u32>,
    ) -> Result<(), StoreError> {
        let request = match limit {
            Some(limit) => {
                self.dialler.request(LIMIT, name.as_str()).header(LIMIT_HEADER, limit.to_string())
            }
            None => self.dialler.request_by(Method::DELETE, LIMIT, name.as_str()),
        };
        match self.ask_ours(request, LIMIT).await? {
            Some(_) => Ok(()),
            None => Err(StoreError::Original(Lack::Limits)),
        }
    }

    /// What a server of ours answers; none from one of the original kind.
    pub(super) async fn ask_ours(
        &self,
        request: request::Builder,
        path: &'static str,
    ) -> Result<Option<Bytes>, StoreError> {
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
