//! Interventions in a cloud-semaphore server: permits are given back or revoked, and limits pinned.

use std::rc::Rc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::http::request;
use hyper::{Method, StatusCode};
use uuid::Uuid;

use super::http::unexpected;
use super::protocol::{
    HOW, HOW_HEADER, ID_HEADER, LIMIT, LIMIT_HEADER, RENEW, RETURN, REVOKE, RegisterOutcome,
    RegisterReply, ReleaseReply, RevokeReply,
};
use super::serve_lease::ServeLease;
use super::{CloudServer, SIGNAL, parse_body};
use crate::backends::error::{MissingFeature, StoreError};
use crate::backends::lease::RenewingLease;
use crate::backends::{Lease, Name, Permit, ReleaseOutcome, Revocation, Snapshot, Validity};
use crate::clock;

impl CloudServer {
    /// One attempt to take up a detached permit.
    pub(super) async fn attach(
        self: &Rc<Self>,
        name: &Name,
        id: Uuid,
    ) -> Result<Option<Box<dyn Lease>>, StoreError> {
        let (ours, snapshot) = self.look_at(name).await?;
        if !ours {
            return Err(StoreError::Original(MissingFeature::Lasting));
        }
        if !has_detached(&snapshot, id) {
            return Ok(None);
        }
        let since = clock::now();
        let told = match self.ask_ours(self.about_permit(RENEW, name, id), RENEW).await? {
            Some(body) => parse_body::<RegisterReply>(&body)?.validated()?,
            None => return Err(StoreError::Replaced),
        };
        if told.outcome != RegisterOutcome::Holding {
            return Ok(None);
        }
        let validity = Validity { since, ttl: Duration::from_millis(told.ttl_ms), error: None };
        let permit = Permit { id, name: name.clone(), token: Some(told.token) };
        let granted_by = told.server;
        let lease = ServeLease { server: Rc::clone(self), name: name.clone(), id, granted_by };
        Ok(Some(Box::new(RenewingLease::new(permit, validity, lease))))
    }

    pub(super) async fn give_back(
        &self,
        name: &Name,
        id: Uuid,
    ) -> Result<ReleaseOutcome, StoreError> {
        match self.ask_ours(self.about_permit(RETURN, name, id), RETURN).await? {
            Some(body) => Ok(parse_body::<ReleaseReply>(&body)?.outcome),
            None => Err(StoreError::Original(MissingFeature::Lasting)),
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
            (Some(body), _) => Ok(parse_body::<RevokeReply>(&body)?.held),
            // Such a server cannot tell the holder, so the permit stays as it is.
            (None, Revocation::Graceful) => Ok(self.look(name).await?.holder(id).is_some()),
            (None, Revocation::Forced) => {
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
            (false, _) => Err(StoreError::Original(MissingFeature::Limits)),
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
            None => Err(StoreError::Original(MissingFeature::Limits)),
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
