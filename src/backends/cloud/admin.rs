//! Interventions in a cloud-semaphore server: permits are given back or revoked, and limits pinned.

use hyper::body::Bytes;
use hyper::http::request;
use hyper::{Method, StatusCode};
use uuid::Uuid;

use super::http::unexpected;
use super::protocol::{
    HOW, HOW_HEADER, ID_HEADER, LIMIT, LIMIT_HEADER, RETURN, REVOKE, ReleaseReply, RevokeReply,
};
use super::{CloudServer, SIGNAL, parse_body};
use crate::backends::error::{MissingFeature, StoreError};
use crate::backends::{Name, Record, ReleaseOutcome, Revocation, SemaphoreSnapshot};

impl CloudServer {
    /// The record of a detached permit that is held.
    pub(super) async fn detached(
        &self,
        name: &Name,
        id: Uuid,
    ) -> Result<Option<Record>, StoreError> {
        let (ours, snapshot) = self.look_at(name).await?;
        if !ours {
            return Err(StoreError::Original(MissingFeature::Lasting));
        }
        let record = snapshot.holder(id).and_then(|holder| holder.record());
        let detached = record.filter(|record| record.who.detached);
        Ok(detached.cloned().filter(|_| snapshot.held(id).is_some()))
    }

    /// What a server of ours answers about one permit; none from one of the original kind.
    pub(super) async fn ask_ours_about(
        &self,
        path: &'static str,
        name: &Name,
        id: Uuid,
    ) -> Result<Option<Bytes>, StoreError> {
        self.ask_ours(self.about_permit(path, name, id), path).await
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

    pub(super) async fn limit(&self, name: &Name) -> Result<SemaphoreSnapshot, StoreError> {
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
