//! What all requests to one Redis share: where it is, the connection, and how errors name it.

use redis::{Cmd, Value, cmd};

use super::client::{RedisClient, optional};
use super::config::RedisConfig;
use super::diagnose::Info;
use super::script::SemaphoreKeys;
use crate::engine::retry::RetryBudget;
use crate::permits::{Attempt, BackendError, Name, SemaphoreSnapshot, StoreError};

/// A Redis as its users here see it.
pub(super) struct ServerHandle {
    pub(super) config: RedisConfig,
    pub(super) shown: String,
    pub(super) connection: RedisClient,
}

impl ServerHandle {
    pub(super) fn error(&self, attempt: Attempt, error: StoreError) -> BackendError {
        error.while_doing(&self.shown, attempt)
    }

    /// The question to a server before a permit of it is used; none: any answer would do.
    pub(super) fn condition(&self) -> Option<Cmd> {
        let mut question = cmd("INFO");
        question.arg("memory");
        (!self.config.allow_eviction).then_some(question)
    }

    /// A server that evicts keys loses permits.
    pub(super) fn check_eviction(info: Value) -> Result<(), StoreError> {
        // If INFO is refused, the script finds the same, and the user is told once.
        let info = optional(info).map(Info::new);
        let Some(policy) = info.as_ref().and_then(Info::evicts) else { return Ok(()) };
        Err(StoreError::Evicts { policy: policy.into() })
    }

    pub(super) async fn snapshot(&self, name: &Name) -> Result<SemaphoreSnapshot, StoreError> {
        let keys = SemaphoreKeys::new(&self.config.prefix, name);
        self.connection.look(&keys, name, &self.config).await
    }

    /// The same of one among many. The server answers, so an error concerns this one alone, and
    /// must not hide the others.
    pub(super) async fn snapshot_or_note(
        &self,
        name: &Name,
        patience: &mut RetryBudget,
    ) -> Result<SemaphoreSnapshot, BackendError> {
        let looked = patience.with(|| async {
            match self.snapshot(name).await {
                Err(error) if !error.is_unreachable() => Ok(SemaphoreSnapshot::odd(name, error)),
                looked => looked,
            }
        });
        looked.await.map_err(|error| self.error(Attempt::Look(name.clone()), error))
    }

    /// The same in one round trip.
    pub(super) async fn snapshots(
        &self,
        names: &[Name],
    ) -> Result<Vec<SemaphoreSnapshot>, StoreError> {
        let keys: Vec<_> =
            names.iter().map(|name| SemaphoreKeys::new(&self.config.prefix, name)).collect();
        self.connection.look_at_each(&keys, names, &self.config).await
    }
}
