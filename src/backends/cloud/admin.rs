//! What is asked of a cloud-semaphore server beside permits of our own: which limit is in force, and
//! that a permit of another client is revoked.

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::http::request;
use uuid::Uuid;

use super::http::unexpected;
use super::protocol::ID_HEADER;
use super::{CloudServer, SIGNAL};
use crate::permits::error::{MissingFeature, StoreError};
use crate::permits::{Name, Revocation, SemaphoreSnapshot};

impl CloudServer {
    /// Revokes a permit in a server of the original kind. False: it is not held.
    pub(super) async fn revoke_in_original(
        &self,
        name: &Name,
        id: Uuid,
        how: Revocation,
    ) -> Result<bool, StoreError> {
        match how {
            // Such a server cannot tell the holder, so the permit stays as it is.
            Revocation::Graceful => Ok(self.look(name).await?.holder(id).is_some()),
            Revocation::Forced => {
                let request = self.dialler.request(SIGNAL, name.as_str());
                let (status, _) = self.exchange(request.header(ID_HEADER, id.to_string())).await?;
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

    /// What a server of ours answers; none from one of the original kind.
    pub(super) async fn ask_ours(
        &self,
        request: request::Builder,
        path: &'static str,
    ) -> Result<Option<Bytes>, StoreError> {
        match self.exchange_with(request, Bytes::new()).await? {
            (_, false, _) => Ok(None),
            (StatusCode::OK, true, body) => Ok(Some(body)),
            (status, true, _) => Err(unexpected(status, path)),
        }
    }
}
